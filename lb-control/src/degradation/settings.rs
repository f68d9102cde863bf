//! What a vip does on the lower rungs of its ladder: settings only.

use serde::{Deserialize, Serialize};

/// What is done when nobody of a vip's pool and backups can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LadderSettings {
    /// Whether clients are refused at once while nobody serves: TCP by a reset, UDP by ICMP. Else their packets are
    /// dropped.
    pub fail_fast: bool,
}

impl LadderSettings {
    /// What a new vip has: a client that knows at once can tell its user, or go elsewhere.
    pub const DEFAULT: Self = Self { fail_fast: true };

    /// What vips of older logs mean.
    pub const fn of_old() -> Self {
        Self { fail_fast: false }
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
}

impl LadderWish {
    /// The settings that result from this wish over `base`.
    pub fn over(&self, base: &LadderSettings) -> LadderSettings {
        LadderSettings { fail_fast: self.fail_fast.unwrap_or(base.fail_fast) }
    }

    /// The wish that turns `from` into `to`: what differs.
    pub fn between(to: &LadderSettings, from: &LadderSettings) -> Self {
        Self { fail_fast: (to.fail_fast != from.fail_fast).then_some(to.fail_fast) }
    }
}
