//! When a breaker opens, how long it stays so, and how gently it closes: settings only, with their ranges.

use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// How the breakers of a vip's backends work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerSettings {
    /// Failures in a row that open it; 0: they do not.
    pub consecutive: u16,
    /// Share of failures within the window that opens it, percent; 0: it does not.
    pub ratio_percent: u8,
    /// Outcomes that the window must hold before their share counts.
    pub volume: u16,
    /// The sliding window, seconds; it slides by tenths.
    pub window_s: u16,
    /// The first backoff, milliseconds. Each opening doubles it; up to a fifth of it is taken off by chance.
    pub backoff_ms: u32,
    /// The longest backoff, milliseconds.
    pub backoff_max_ms: u32,
    /// How long it must have been closed for one doubling to be forgotten, seconds.
    pub calm_s: u16,
    /// New connections per second that a backend on trial is given.
    pub trial_cps: u16,
    /// Successes in a row that end a trial well.
    pub trial_successes: u8,
    /// From a trial that ended well to the whole share of new flows, seconds; 0: at once.
    pub slow_start_s: u16,
    /// The share of its slots that a backend on trial has, and that its slow start begins with, percent.
    pub floor_percent: u8,
    /// Largest share of the pool's enabled backends that breakers keep out at once, percent. Backends whose probes fail
    /// are out in any case and do not count.
    pub ejection_max_percent: u8,
}

/// A breaker that never opens by itself: what vips of older logs mean, and `off`.
const OFF: BreakerSettings = BreakerSettings { consecutive: 0, ratio_percent: 0, ..BreakerSettings::DEFAULT };

const WINDOW_S: RangeInclusive<u16> = 1..=3_600;
const BACKOFF_MS: RangeInclusive<u32> = 100..=3_600_000;

impl BreakerSettings {
    /// What a new vip has. A second is about what a process needs to start again; ten connections a second hurt nobody
    /// and show within a second whether they are served; half of a pool can carry the load for a while, a tenth not.
    pub const DEFAULT: Self = Self {
        consecutive: 5,
        ratio_percent: 50,
        volume: 10,
        window_s: 10,
        backoff_ms: 1_000,
        backoff_max_ms: 60_000,
        calm_s: 60,
        trial_cps: 10,
        trial_successes: 3,
        slow_start_s: 10,
        floor_percent: 10,
        ejection_max_percent: 50,
    };
    /// One that never opens by itself.
    pub const fn off() -> Self {
        OFF
    }
    /// Whether it ever opens by itself.
    pub const fn is_on(&self) -> bool {
        self.consecutive > 0 || self.ratio_percent > 0
    }
    /// Whether it is what vips of older logs mean, which is not written down.
    pub fn is_as_of_old(&self) -> bool {
        *self == OFF
    }
    /// The sliding window, milliseconds.
    pub const fn window_ms(&self) -> u64 {
        self.window_s as u64 * 1_000
    }
    /// What is wrong with it: the field, and a sentence.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let range = |field, value: u32, least: u32, most: u32| {
            let fault = || (field, format!("{field} is {value}, but must be from {least} to {most}"));
            (!(least..=most).contains(&value)).then(fault)
        };
        let contradictions = [
            (self.backoff_max_ms < self.backoff_ms).then(|| {
                let (least, most) = (self.backoff_ms, self.backoff_max_ms);
                ("backoff_max_ms", format!("backoff_max_ms is {most}, less than backoff_ms, {least}"))
            }),
            (self.ratio_percent > 0 && self.volume == 0).then(|| {
                let text = "a share of failures needs a volume: of one outcome, one failure is all";
                ("volume", text.to_string())
            }),
        ];
        let ranges = [
            range("ratio_percent", self.ratio_percent.into(), 0, 100),
            range("window_s", self.window_s.into(), (*WINDOW_S.start()).into(), (*WINDOW_S.end()).into()),
            range("backoff_ms", self.backoff_ms, *BACKOFF_MS.start(), *BACKOFF_MS.end()),
            range("backoff_max_ms", self.backoff_max_ms, *BACKOFF_MS.start(), *BACKOFF_MS.end()),
            range("calm_s", self.calm_s.into(), 1, u16::MAX.into()),
            range("trial_cps", self.trial_cps.into(), 1, u16::MAX.into()),
            range("trial_successes", self.trial_successes.into(), 1, 100),
            range("slow_start_s", self.slow_start_s.into(), 0, 3_600),
            range("floor_percent", self.floor_percent.into(), 1, 100),
            range("ejection_max_percent", self.ejection_max_percent.into(), 0, 100),
        ];
        ranges.into_iter().chain(contradictions).flatten().collect()
    }
}

/// A wish about the breaker: what is absent keeps its value, or its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerWish {
    /// As [`BreakerSettings::consecutive`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive: Option<u16>,
    /// As [`BreakerSettings::ratio_percent`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_percent: Option<u8>,
    /// As [`BreakerSettings::volume`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<u16>,
    /// As [`BreakerSettings::window_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u16>,
    /// As [`BreakerSettings::backoff_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u32>,
    /// As [`BreakerSettings::backoff_max_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_max_ms: Option<u32>,
    /// As [`BreakerSettings::calm_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calm_s: Option<u16>,
    /// As [`BreakerSettings::trial_cps`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial_cps: Option<u16>,
    /// As [`BreakerSettings::trial_successes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial_successes: Option<u8>,
    /// As [`BreakerSettings::slow_start_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_s: Option<u16>,
    /// As [`BreakerSettings::floor_percent`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_percent: Option<u8>,
    /// As [`BreakerSettings::ejection_max_percent`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection_max_percent: Option<u8>,
}

impl BreakerWish {
    /// The settings that result from this wish over `base`.
    pub fn over(&self, base: BreakerSettings) -> BreakerSettings {
        BreakerSettings {
            consecutive: self.consecutive.unwrap_or(base.consecutive),
            ratio_percent: self.ratio_percent.unwrap_or(base.ratio_percent),
            volume: self.volume.unwrap_or(base.volume),
            window_s: self.window_s.unwrap_or(base.window_s),
            backoff_ms: self.backoff_ms.unwrap_or(base.backoff_ms),
            backoff_max_ms: self.backoff_max_ms.unwrap_or(base.backoff_max_ms),
            calm_s: self.calm_s.unwrap_or(base.calm_s),
            trial_cps: self.trial_cps.unwrap_or(base.trial_cps),
            trial_successes: self.trial_successes.unwrap_or(base.trial_successes),
            slow_start_s: self.slow_start_s.unwrap_or(base.slow_start_s),
            floor_percent: self.floor_percent.unwrap_or(base.floor_percent),
            ejection_max_percent: self.ejection_max_percent.unwrap_or(base.ejection_max_percent),
        }
    }

    /// The wish that turns `from` into `to`: what differs.
    pub fn between(to: &BreakerSettings, from: &BreakerSettings) -> Self {
        fn differs<T: PartialEq>(to: T, from: T) -> Option<T> {
            (to != from).then_some(to)
        }
        Self {
            consecutive: differs(to.consecutive, from.consecutive),
            ratio_percent: differs(to.ratio_percent, from.ratio_percent),
            volume: differs(to.volume, from.volume),
            window_s: differs(to.window_s, from.window_s),
            backoff_ms: differs(to.backoff_ms, from.backoff_ms),
            backoff_max_ms: differs(to.backoff_max_ms, from.backoff_max_ms),
            calm_s: differs(to.calm_s, from.calm_s),
            trial_cps: differs(to.trial_cps, from.trial_cps),
            trial_successes: differs(to.trial_successes, from.trial_successes),
            slow_start_s: differs(to.slow_start_s, from.slow_start_s),
            floor_percent: differs(to.floor_percent, from.floor_percent),
            ejection_max_percent: differs(to.ejection_max_percent, from.ejection_max_percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_between_two_is_what_differs() {
        let to = BreakerSettings { consecutive: 9, floor_percent: 20, ..BreakerSettings::DEFAULT };
        let wish = BreakerWish::between(&to, &BreakerSettings::DEFAULT);
        let expected =
            BreakerWish { consecutive: Some(9), floor_percent: Some(20), ..BreakerWish::default() };
        assert_eq!((wish, wish.over(BreakerSettings::DEFAULT)), (expected, to));
    }

    #[test]
    fn the_defaults_and_off_are_sound_and_contradictions_are_named() {
        assert!(BreakerSettings::DEFAULT.faults().is_empty() && BreakerSettings::DEFAULT.is_on());
        assert!(BreakerSettings::off().faults().is_empty() && !BreakerSettings::off().is_on());
        let bad = |wish: BreakerWish| {
            let faults = wish.over(BreakerSettings::DEFAULT).faults();
            faults.into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        let none = BreakerWish::default();
        assert_eq!(bad(BreakerWish { volume: Some(0), ..none }), ["volume"]);
        assert_eq!(bad(BreakerWish { backoff_ms: Some(90_000), ..none }), ["backoff_max_ms"]);
        assert_eq!(bad(BreakerWish { ejection_max_percent: Some(101), ..none }), ["ejection_max_percent"]);
        assert_eq!(bad(BreakerWish { trial_cps: Some(0), ..none }), ["trial_cps"]);
        assert_eq!(bad(BreakerWish { floor_percent: Some(0), ..none }), ["floor_percent"]);
        assert_eq!(bad(BreakerWish { window_s: Some(0), trial_successes: Some(0), ..none }).len(), 2);
    }
}
