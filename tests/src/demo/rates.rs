//! From sums to rates: the tallies of the last minute and what they grow by.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::load::Tally;

/// Tallies that are kept: a minute of four a second.
const KEPT: usize = 240;
/// What a rate looks back.
const SPAN: Duration = Duration::from_secs(1);

/// What happened between two tallies.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Beat {
    /// Requests answered, a second.
    pub(super) requests_per_s: f64,
    /// Whether something failed that a killed backend explains.
    pub(super) met_killed: bool,
    /// Whether something failed that nothing explains.
    pub(super) failed: bool,
}

/// The tallies of the last minute, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates(VecDeque<(Instant, Tally)>);

impl Rates {
    pub(super) fn add(&mut self, at: Instant, tally: Tally) {
        self.0.push_back((at, tally));
        while self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// The newest tally.
    pub(super) fn now(&self) -> Option<&Tally> {
        self.0.back().map(|(_, tally)| tally)
    }

    /// What a sum grows by, a second, over the last second.
    pub(super) fn per_second(&self, of: impl Fn(&Tally) -> u64) -> f64 {
        let Some((now, newest)) = self.0.back() else { return 0.0 };
        let since = self.0.iter().rev().find(|(at, _)| now.duration_since(*at) >= SPAN).or(self.0.front());
        since.map_or(0.0, |(then, oldest)| growth(&of, (*then, oldest), (*now, newest)))
    }

    /// The newest `count` steps, oldest first.
    pub(super) fn beats(&self, count: usize) -> Vec<Beat> {
        let first = self.0.len().saturating_sub(count + 1);
        let steps = self.0.iter().skip(first).zip(self.0.iter().skip(first + 1));
        let beat = |((then, old), (now, new)): (&(Instant, Tally), &(Instant, Tally))| Beat {
            requests_per_s: growth(&|tally: &Tally| tally.requests_ok, (*then, old), (*now, new)),
            met_killed: killed(new) > killed(old),
            failed: failed(new) > failed(old),
        };
        steps.map(beat).collect()
    }
}

fn growth(of: &impl Fn(&Tally) -> u64, old: (Instant, &Tally), new: (Instant, &Tally)) -> f64 {
    let seconds = new.0.duration_since(old.0).as_secs_f64();
    if seconds > 0.0 { of(new.1).saturating_sub(of(old.1)) as f64 / seconds } else { 0.0 }
}

fn killed(tally: &Tally) -> u64 {
    tally.failed_on_killed + tally.udp_lost_on_killed
}

fn failed(tally: &Tally) -> u64 {
    tally.requests_failed + tally.udp_lost + tally.connections_broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_looks_a_second_back() {
        let (start, mut rates) = (Instant::now(), Rates::default());
        assert_eq!((rates.per_second(|tally| tally.requests_ok), rates.beats(3)), (0.0, vec![]));
        for step in 0..9_u64 {
            let tally =
                Tally { requests_ok: 100 * step, failed_on_killed: u64::from(step == 8), ..Tally::default() };
            rates.add(start + Duration::from_millis(250 * step), tally);
        }
        assert!((rates.per_second(|tally| tally.requests_ok) - 400.0).abs() < 1e-6);
        let beats = rates.beats(2);
        assert_eq!((beats.len(), beats[0].met_killed, beats[1].met_killed), (2, false, true));
        assert!((beats[1].requests_per_s - 400.0).abs() < 1e-6 && !beats[1].failed);
    }
}
