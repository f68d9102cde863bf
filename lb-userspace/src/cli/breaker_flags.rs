//! The flags of a vip's breaker, for `lb vip add` and `lb vip set`. What may stand in each is decided in the daemon.

use lb_control::breaker::BreakerWish;

use super::number::whole;

/// Settings of the breaker; what is not named stays, or has its default.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct BreakerFlags {
    /// Failures in a row that open a backend's breaker, 0 (they do not) to 65535; 5 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", value_parser = whole::<u16>("from 0 to 65535"))]
    breaker_consecutive: Option<u16>,
    /// Share of failures within the window that opens it, 0 (it does not) to 100; 50 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "PERCENT", value_parser = whole::<u8>("from 0 to 100"))]
    breaker_ratio_percent: Option<u8>,
    /// Outcomes that the window must hold before their share counts; 10 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", value_parser = whole::<u16>("from 0 to 65535"))]
    breaker_volume: Option<u16>,
    /// The sliding window, seconds, 1 to 3600; 10 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = whole::<u16>("from 1 to 3600"))]
    breaker_window_s: Option<u16>,
    /// The first time that it stays open, milliseconds, 100 to 3600000; each opening doubles it; 1000 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "MS", value_parser = whole::<u32>("from 100 to 3600000"))]
    breaker_backoff_ms: Option<u32>,
    /// The longest time that it stays open, milliseconds; 60000 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "MS", value_parser = whole::<u32>("from 100 to 3600000"))]
    breaker_backoff_max_ms: Option<u32>,
    /// How long it must have been closed for one doubling to be forgotten, seconds; 60 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = whole::<u16>("from 1 to 65535"))]
    breaker_calm_s: Option<u16>,
    /// New connections a second that a backend on trial is given, 1 to 65535; 10 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "RATE", value_parser = whole::<u16>("from 1 to 65535"))]
    breaker_trial_cps: Option<u16>,
    /// Successes in a row that end a trial well, 1 to 100; 3 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", value_parser = whole::<u8>("from 1 to 100"))]
    breaker_trial_successes: Option<u8>,
    /// From a trial that ended well to the whole share of new flows, seconds, 0 (at once) to 3600; 10 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = whole::<u16>("from 0 to 3600"))]
    breaker_slow_start_s: Option<u16>,
    /// Share of its slots that a backend on trial has, and that its slow start begins with, 1 to 100; 10 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "PERCENT", value_parser = whole::<u8>("from 1 to 100"))]
    breaker_floor_percent: Option<u8>,
    /// Largest share of the enabled backends that breakers keep out at once, 0 to 100; 50 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "PERCENT", value_parser = whole::<u8>("from 0 to 100"))]
    breaker_ejection_max_percent: Option<u8>,
}

impl BreakerFlags {
    /// The wish that they say; none if they say nothing.
    pub(super) fn wish(&self) -> Option<BreakerWish> {
        let wish = BreakerWish {
            consecutive: self.breaker_consecutive,
            ratio_percent: self.breaker_ratio_percent,
            volume: self.breaker_volume,
            window_s: self.breaker_window_s,
            backoff_ms: self.breaker_backoff_ms,
            backoff_max_ms: self.breaker_backoff_max_ms,
            calm_s: self.breaker_calm_s,
            trial_cps: self.breaker_trial_cps,
            trial_successes: self.breaker_trial_successes,
            slow_start_s: self.breaker_slow_start_s,
            floor_percent: self.breaker_floor_percent,
            ejection_max_percent: self.breaker_ejection_max_percent,
        };
        (wish != BreakerWish::default()).then_some(wish)
    }
}
