//! Health of a backend from the answers to its probes: rise, fall, retries and when to ask next, as a pure machine.
//!
//! Silence may be a lost packet, so a probe that meets it is tried again before it counts as failed; a refusal or a wrong
//! answer came from the backend, and counts. Chance enters as a span ([`Wait::spread_ms`]) of which the caller takes
//! what it likes.
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
    /// The TLS handshake failed.
    TlsFailed,
    /// What it answered is not of the protocol.
    Malformed,
    /// HTTP: another status than one of those that are wanted.
    WrongStatus,
    /// HTTP: the body does not match.
    WrongBody,
    /// UDP: another answer than the one that is expected.
    WrongAnswer,
}

impl Outcome {
    /// Whether nothing came back, which may be a lost packet's doing.
    pub const fn is_silence(self) -> bool {
        matches!(self, Self::Timeout | Self::Unreachable)
    }
}

/// How long to wait for the next attempt, from the end of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Milliseconds, at most.
    pub ms: u32,
    /// Milliseconds by which it may be shorter: the caller takes a random part of them off, so that probes of many
    /// backends, or of many nodes, do not march in step.
    pub spread_ms: u32,
    /// Whether it is the regular interval; no doubt, and no recovery, waits for this attempt.
    pub regular: bool,
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
    /// Successes or failures in a row that speak against the health.
    in_a_row: u8,
    /// Attempts of the probe under way that met silence.
    silent: u8,
    /// Attempts in a row that failed.
    failed: u8,
}

impl HealthTracker {
    /// A tracker that begins with what is known: of a backend that the maps already serve, what they say
    /// ([`crate::plan::adopted_health`]); otherwise [`Health::Unknown`].
    pub const fn starting(health: Health) -> Self {
        Self { health, in_a_row: 0, silent: 0, failed: 0 }
    }
    /// The health now.
    pub const fn health(&self) -> Health {
        self.health
    }
    /// Takes the outcome of one attempt. The first success of an unknown backend brings it up at once; `rise`
    /// successes in a row bring up one that is down; `fall` failures in a row take it down. An attempt that met
    /// silence is no failure yet while the probe has retries left.
    pub fn observe(&mut self, probe: &Probe, outcome: Outcome, now_ms: u64) -> Option<Transition> {
        let success = outcome == Outcome::Success;
        self.failed = if success { 0 } else { self.failed.saturating_add(1) };
        if outcome.is_silence() && self.health != Health::Down && self.silent < probe.retries {
            self.silent += 1;
            return None;
        }
        self.silent = 0;
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
    /// How long to wait after an attempt that took so long: until the interval is over; while the last answers leave a
    /// doubt, a small part of it, which doubles with every failure in a row.
    pub fn wait(&self, probe: &Probe, took_ms: u32) -> Wait {
        let interval_ms = probe.interval_ms;
        if self.health == Health::Down && self.in_a_row > 0 {
            let ms = interval_ms / 5;
            return Wait { ms, spread_ms: ms / 10, regular: false };
        }
        if self.health != Health::Down && self.failed > 0 {
            let doublings = u32::from(self.failed - 1).min(31);
            let ms = probe.doubt_interval_ms().saturating_mul(1 << doublings).min(interval_ms);
            return Wait { ms, spread_ms: ms / 2, regular: false };
        }
        let ms = interval_ms.saturating_sub(took_ms);
        Wait { ms, spread_ms: (interval_ms / 10).min(ms), regular: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ProbeKind;
    use Outcome::{Refused, Success, Timeout};

    fn probe(retries: u8) -> Probe {
        Probe { rise: 2, fall: 3, retries, ..Probe::of_kind(ProbeKind::Tcp) }
    }

    /// The health after each outcome.
    fn course(start: Health, outcomes: &[Outcome]) -> Vec<Health> {
        let mut tracker = HealthTracker::starting(start);
        let mut before = start;
        let after = outcomes.iter().zip(1_u64..).map(|(outcome, at_ms)| {
            let transition = tracker.observe(&probe(0), *outcome, at_ms);
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
    fn silence_is_no_failure_before_the_retries_are_used_up_and_a_refusal_is_one_at_once() {
        let probe = Probe { fall: 2, ..probe(1) };
        let mut tracker = HealthTracker::starting(Health::Up);
        let course: Vec<bool> = [Timeout, Timeout, Timeout, Timeout]
            .map(|outcome| tracker.observe(&probe, outcome, 0).is_some())
            .to_vec();
        assert_eq!(course, [false, false, false, true]);
        let mut tracker = HealthTracker::starting(Health::Up);
        assert!([Timeout, Refused].iter().all(|outcome| tracker.observe(&probe, *outcome, 0).is_none()));
        assert!(tracker.observe(&probe, Outcome::WrongStatus, 0).is_some());
        let mut tracker = HealthTracker::starting(Health::Up);
        for outcome in [Timeout, Success, Timeout, Success, Timeout, Success] {
            assert_eq!(tracker.observe(&probe, outcome, 0), None);
        }
    }

    #[test]
    fn a_doubt_is_settled_sooner_by_a_backoff_that_doubles_up_to_the_interval() {
        let probe = Probe { fall: 9, ..probe(0) };
        let mut tracker = HealthTracker::starting(Health::Up);
        assert_eq!(tracker.wait(&probe, 30), Wait { ms: 170, spread_ms: 20, regular: true });
        assert_eq!(tracker.wait(&probe, 500), Wait { ms: 0, spread_ms: 0, regular: true });
        let waits: Vec<u32> = (0..7)
            .map(|_| {
                tracker.observe(&probe, Refused, 0);
                let Wait { ms, spread_ms, .. } = tracker.wait(&probe, 30);
                assert_eq!(spread_ms, ms / 2);
                ms
            })
            .collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 200, 200]);
        tracker.observe(&probe, Success, 0);
        assert_eq!(tracker.wait(&probe, 0).ms, 200);
        let mut down = HealthTracker::starting(Health::Down);
        down.observe(&probe, Refused, 0);
        assert_eq!(down.wait(&probe, 0).ms, 200);
        down.observe(&probe, Success, 0);
        assert_eq!(down.wait(&probe, 0).ms, 40);
    }

    proptest::proptest! {
        #[test]
        fn a_transition_is_always_one(outcomes in proptest::collection::vec(
            proptest::sample::select(&[Success, Refused, Timeout][..]), 0..50)) {
            course(Health::Unknown, &outcomes);
        }
    }
}
