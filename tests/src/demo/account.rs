//! Whose fault a failure was: the killed backend's, or ours.
//!
//! A killed backend fails requests until the balancer has seen it and moved its slots; nobody can do better than
//! to make that time short. So a failure is put to the killed backend's account if, and only if,
//! - it went there: an earlier answer on its connection or flow named that backend, or it had no answer yet and
//!   so has no known backend (a refused connect, a connection reset before its first answer), and
//! - it overlaps the time from the kill until the slots of its vip were *seen* to have moved, which is later than
//!   they moved by at most one look (10 ms and the time that an answer takes).
//!
//! Everything else is a failure of the balancer. A connection that breaks counts against the balancer unless it
//! was to a backend that had been killed, or hung. Pure: no clock, no sockets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::traffic::{Failure, Stage};

/// Until whoever holds a connection to a backend that hung has said the next word on it: it did not close, so nobody has
/// told them that it is over.
const NEXT_WORD: Duration = Duration::from_secs(2);

/// How a backend fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its processes end: connections close.
    Killed,
    /// Its processes hang: connections are taken, and nobody answers.
    Hung,
}

/// A backend's death, or hang.
#[derive(Clone, Debug)]
pub struct Kill {
    /// Whose.
    pub backend: String,
    /// How.
    pub death: Death,
    /// Just before it.
    pub at: Instant,
    /// When its slots were seen to have moved, by vip.
    pub moved: BTreeMap<String, Instant>,
    /// When its processes ran again.
    pub back: Option<Instant>,
    /// Whether it was said that this takes long.
    pub is_late: bool,
}

impl Kill {
    /// A death as of now.
    #[must_use]
    pub fn now(backend: &str, death: Death) -> Self {
        Self {
            backend: backend.to_owned(),
            death,
            at: Instant::now(),
            moved: BTreeMap::new(),
            back: None,
            is_late: false,
        }
    }

    /// The time until all of `vips` were seen without it, once they were.
    #[must_use]
    pub fn detected_after(&self, vips: usize) -> Option<Duration> {
        let last = self.moved.values().max().filter(|_| self.moved.len() >= vips)?;
        Some(last.duration_since(self.at))
    }

    /// Whether a failed exchange with `vip` is this death's.
    #[must_use]
    pub fn explains(&self, vip: &str, failure: &Failure) -> bool {
        let until = match failure.backend {
            // A connection or flow that was there before.
            Some(_) if self.death == Death::Hung => self.back.map(|back| back + self.next_word()),
            _ => self.moved.get(vip).copied().into_iter().chain(self.back).min(),
        };
        let overlaps = failure.at >= self.at && until.is_none_or(|until| failure.began <= until);
        let went_there = failure.backend.as_ref().is_none_or(|backend| *backend == self.backend);
        failure.stage != Stage::Answer && overlaps && went_there
    }

    /// Whether a broken connection to `vip` is this death's. A connection dies with the process, but who holds
    /// it learns that at its next word.
    #[must_use]
    pub fn explains_break(&self, vip: &str, broken: &Failure) -> bool {
        match &broken.backend {
            None => self.explains(vip, broken),
            Some(backend) => {
                *backend == self.backend
                    && broken.at >= self.at
                    && self.back.is_none_or(|back| broken.began <= back + self.next_word())
            }
        }
    }

    fn next_word(&self) -> Duration {
        if self.death == Death::Hung { NEXT_WORD } else { Duration::ZERO }
    }
}

/// How many of `failures` some kill explains, and those that none does.
pub(super) fn split<'f>(
    failures: impl IntoIterator<Item = &'f Failure>,
    explains: impl Fn(&Failure) -> bool,
) -> (u64, Vec<&'f Failure>) {
    let (theirs, ours): (Vec<_>, Vec<_>) = failures.into_iter().partition(|failure| explains(failure));
    (theirs.len() as u64, ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock(Instant);

    impl Clock {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }

        fn failure(&self, stage: Stage, backend: Option<&str>, began_ms: u64, at_ms: u64) -> Failure {
            let backend = backend.map(str::to_owned);
            let (began, at) = (self.at(began_ms), self.at(at_ms));
            Failure { began, at, at_ms, stage, backend, error: String::new() }
        }

        /// b2 is killed at 1,000 ms, seen by web4 at 1,500 and by web6 at 1,600.
        fn kill(&self) -> Kill {
            let moved =
                BTreeMap::from([("web4".to_owned(), self.at(1_500)), ("web6".to_owned(), self.at(1_600))]);
            let (backend, death) = ("b2".to_owned(), Death::Killed);
            Kill { backend, death, at: self.at(1_000), moved, back: None, is_late: false }
        }
    }

    #[test]
    fn only_what_went_there_in_that_time_is_explained() {
        let clock = Clock(Instant::now());
        let kill = clock.kill();
        let explained =
            |stage, backend, began, at| kill.explains("web4", &clock.failure(stage, backend, began, at));
        assert!(explained(Stage::Connect, None, 1_200, 1_201));
        assert!(explained(Stage::Exchange, Some("b2"), 990, 1_001), "under way when it died");
        assert!(explained(Stage::Exchange, None, 1_499, 2_400), "sent before the slots moved");
        assert!(!explained(Stage::Exchange, Some("b0"), 1_200, 1_201), "another backend");
        assert!(!explained(Stage::Answer, Some("b2"), 1_200, 1_201), "a wrong answer is no death");
        assert!(!explained(Stage::Connect, None, 900, 999), "before");
        assert!(!explained(Stage::Connect, None, 1_501, 1_502), "after");
    }

    #[test]
    fn each_vip_has_its_own_end_and_a_restart_is_one() {
        let clock = Clock(Instant::now());
        let mut kill = clock.kill();
        let late = clock.failure(Stage::Connect, None, 1_550, 1_551);
        assert!(!kill.explains("web4", &late) && kill.explains("web6", &late));
        assert!(kill.explains("udp4", &late), "not seen there yet");
        kill.back = Some(clock.at(1_540));
        assert!(!kill.explains("udp4", &late) && !kill.explains("web6", &late));
        assert_eq!(kill.detected_after(2), Some(Duration::from_millis(600)));
        assert_eq!(kill.detected_after(3), None);
    }

    #[test]
    fn a_connection_to_one_that_hung_is_over_at_its_next_word() {
        let clock = Clock(Instant::now());
        let kill = Kill { death: Death::Hung, back: Some(clock.at(2_000)), ..clock.kill() };
        let word = |backend, began| clock.failure(Stage::Exchange, backend, began, began + 1);
        for (failure, explained) in [
            (word(Some("b2"), 2_001), true),
            (word(Some("b2"), 3_999), true),
            (word(Some("b2"), 4_001), false),
            (word(Some("b0"), 2_001), false),
            (word(None, 1_400), true),
            (word(None, 1_501), false),
        ] {
            assert_eq!(kill.explains("web4", &failure), explained, "{failure:?}");
            assert_eq!(kill.explains_break("web4", &failure), explained, "{failure:?}");
        }
    }

    #[test]
    fn a_connection_to_the_dead_may_break_at_any_time_after() {
        let clock = Clock(Instant::now());
        let kill = clock.kill();
        let broken = |backend, at| clock.failure(Stage::Idle, backend, at, at);
        assert!(kill.explains_break("web4", &broken(Some("b2"), 3_000)));
        assert!(!kill.explains_break("web4", &broken(Some("b2"), 999)));
        assert!(!kill.explains_break("web4", &broken(Some("b0"), 1_200)));
        assert!(!kill.explains_break("web4", &broken(None, 3_000)));
        let failures = [broken(Some("b2"), 3_000), broken(Some("b0"), 3_000)];
        let (theirs, ours) = split(&failures, |broken| kill.explains_break("web4", broken));
        assert_eq!((theirs, ours.len()), (1, 1));
    }
}
