//! Health of a backend from the answers to its probes: rise and fall, as a pure machine.
//!
//! Health is what was observed, intent is what people want; neither ever changes the other.

use crate::probe::Probe;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not probed yet: keeps the flows that it has, takes no new ones (unless its vip has no probe).
    #[default]
    Unknown,
    /// Answers.
    Up,
    /// Does not answer: takes nothing, its flows are sent elsewhere.
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The backend answered as it should.
    Success,
    /// It refused (TCP: RST).
    Refused,
    /// It did not answer in time.
    Timeout,
    /// It cannot be reached: no route, no neighbour, ICMP unreachable.
    Unreachable,
}

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// What it was.
    pub from: Health,
    /// What it is.
    pub to: Health,
    /// Outcome of the probe that decided.
    pub cause: Outcome,
    /// When, on the clock of the caller, milliseconds.
    pub at_ms: u64,
}

/// A backend's health and the answers in a row that may change it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthTracker {
    health: Health,
    in_a_row: u8,
}

impl HealthTracker {
    /// A tracker that begins with what is known: of a backend that the maps already serve, what they say
    /// ([`crate::plan::adopted_health`]); otherwise [`Health::Unknown`].
    pub const fn starting(health: Health) -> Self {
        Self { health, in_a_row: 0 }
    }
    /// The health now.
    pub const fn health(&self) -> Health {
        self.health
    }
    /// Takes the outcome of one probe. The first success of an unknown backend brings it up at once; `rise`
    /// successes in a row bring up one that is down; `fall` failures in a row take it down.
    pub fn observe(&mut self, probe: &Probe, outcome: Outcome, now_ms: u64) -> Option<Transition> {
        let success = outcome == Outcome::Success;
        if success == (self.health == Health::Up) && self.health != Health::Unknown {
            self.in_a_row = 0;
            return None;
        }
        self.in_a_row = if success && self.health == Health::Unknown {
            probe.rise
        } else {
            self.in_a_row.saturating_add(1)
        };
        let (enough, to) = if success { (probe.rise, Health::Up) } else { (probe.fall, Health::Down) };
        if self.in_a_row < enough {
            return None;
        }
        let from = core::mem::replace(self, Self::starting(to)).health;
        Some(Transition { from, to, cause: outcome, at_ms: now_ms })
    }
    /// How long to wait from the start of one probe to the next, milliseconds: the interval, or less while the last
    /// answers leave a doubt. The caller adds its jitter.
    pub const fn next_probe_after_ms(&self, probe: &Probe) -> u32 {
        if self.in_a_row > 0 || matches!(self.health, Health::Unknown) {
            probe.doubt_interval_ms()
        } else {
            probe.interval_ms
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ProbeKind;
    use Outcome::{Refused, Success, Timeout};

    const PROBE: Probe = Probe { rise: 2, fall: 3, ..Probe::of_kind(ProbeKind::Tcp) };

    /// The health after each outcome.
    fn course(start: Health, outcomes: &[Outcome]) -> Vec<Health> {
        let mut tracker = HealthTracker::starting(start);
        let mut before = start;
        let after = outcomes.iter().zip(1_u64..).map(|(outcome, at_ms)| {
            let transition = tracker.observe(&PROBE, *outcome, at_ms);
            let now = tracker.health();
            let expected = Transition { from: before, to: now, cause: *outcome, at_ms };
            assert_eq!(transition, (now != before).then_some(expected));
            before = now;
            now
        });
        after.collect()
    }

    #[test]
    fn the_first_success_brings_an_unknown_backend_up_and_only_failures_in_a_row_take_it_down() {
        use Health::{Down, Unknown, Up};
        assert_eq!(course(Unknown, &[Success]), [Up]);
        assert_eq!(course(Unknown, &[Timeout, Timeout, Success]), [Unknown, Unknown, Up]);
        assert_eq!(course(Unknown, &[Refused; 3]), [Unknown, Unknown, Down]);
        assert_eq!(
            course(Up, &[Refused, Refused, Success, Refused, Refused, Timeout]),
            [Up, Up, Up, Up, Up, Down]
        );
    }

    #[test]
    fn a_backend_that_is_down_must_rise() {
        use Health::{Down, Up};
        assert_eq!(course(Down, &[Success, Refused, Success, Success]), [Down, Down, Down, Up]);
    }

    #[test]
    fn a_doubt_is_settled_sooner() {
        let mut tracker = HealthTracker::starting(Health::Up);
        assert_eq!(tracker.next_probe_after_ms(&PROBE), 500);
        tracker.observe(&PROBE, Refused, 0);
        assert_eq!(tracker.next_probe_after_ms(&PROBE), 100);
        tracker.observe(&PROBE, Success, 0);
        assert_eq!(tracker.next_probe_after_ms(&PROBE), 500);
    }

    proptest::proptest! {
        #[test]
        fn a_transition_is_always_one(outcomes in proptest::collection::vec(
            proptest::sample::select(&[Success, Refused, Timeout][..]), 0..50)) {
            course(Health::Unknown, &outcomes);
        }
    }
}
