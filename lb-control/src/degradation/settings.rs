//! What a vip does on the lower rungs of its ladder: settings only.

use serde::{Deserialize, Serialize};

/// What is done when nobody of a vip's pool and backups can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LadderSettings {
    /// Whether clients are refused at once while nobody serves: TCP by a reset, UDP by ICMP. Else their packets are
    /// dropped.
    pub fail_fast: bool,
    /// Whether the last set of backends that worked serves when all have failed their probes.
    pub last_known_good: bool,
    /// Name of the vip whose pool serves when nobody of this one's pool and backups can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

impl LadderSettings {
    /// What a new vip has. Probes that all fail at once may be what is broken; and a client that knows at once that nobody
    /// serves can tell its user, or go elsewhere.
    pub const DEFAULT: Self = Self { fail_fast: true, last_known_good: true, fallback: None };

    /// What vips of older logs mean.
    pub const fn of_old() -> Self {
        Self { fail_fast: false, last_known_good: false, fallback: None }
    }
    /// Whether it is what vips of older logs mean, which is not written down.
    pub fn is_of_old(&self) -> bool {
        *self == Self::of_old()
    }
}

/// A wish about the ladder: what is absent keeps its value, or its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LadderWish {
    /// As [`LadderSettings::fail_fast`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_fast: Option<bool>,
    /// As [`LadderSettings::last_known_good`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_known_good: Option<bool>,
    /// As [`LadderSettings::fallback`]; an empty name: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

impl LadderWish {
    /// The settings that result from this wish over `base`.
    pub fn over(&self, base: &LadderSettings) -> LadderSettings {
        LadderSettings {
            fail_fast: self.fail_fast.unwrap_or(base.fail_fast),
            last_known_good: self.last_known_good.unwrap_or(base.last_known_good),
            fallback: match &self.fallback {
                None => base.fallback.clone(),
                Some(name) => Some(name.clone()).filter(|name| !name.is_empty()),
            },
        }
    }

    /// The wish that turns `from` into `to`: what differs.
    pub fn between(to: &LadderSettings, from: &LadderSettings) -> Self {
        let differs = |to: bool, from: bool| (to != from).then_some(to);
        Self {
            fail_fast: differs(to.fail_fast, from.fail_fast),
            last_known_good: differs(to.last_known_good, from.last_known_good),
            fallback: (to.fallback != from.fallback).then(|| to.fallback.clone().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_between_two_is_what_differs_and_an_empty_name_ends_the_fallback() {
        let to = LadderSettings { fallback: Some("spare".to_owned()), ..LadderSettings::DEFAULT };
        let wish = LadderWish::between(&to, &LadderSettings::of_old());
        assert_eq!(wish.over(&LadderSettings::of_old()), to);
        let back = LadderWish::between(&LadderSettings::DEFAULT, &to);
        assert_eq!(back, LadderWish { fallback: Some(String::new()), ..LadderWish::default() });
        assert_eq!(back.over(&to), LadderSettings::DEFAULT);
        assert_eq!(LadderWish::default().over(&to), to);
    }
}
