//! The counters of the last minute, one sample a second, so that any reader gets rates from one question.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::abi::counter::Counter;
use tokio::sync::watch;

use crate::dataplane::{Counters, Dataplane};

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(1);
/// Samples that are kept: a minute and the one that it begins with.
const KEPT: usize = 61;
/// How far a rate looks back at least: one sample may be of this very moment.
const RATE_SPAN: Duration = Duration::from_secs(1);

/// The samples, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Samples(VecDeque<(Instant, Arc<Counters>)>);

/// Packets and bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Packets per second.
    pub pps: f64,
    /// Bits per second.
    pub bps: f64,
}

impl Samples {
    /// The newest counters.
    pub fn newest(&self) -> Arc<Counters> {
        self.0.back().map(|(_, counters)| counters.clone()).unwrap_or_default()
    }

    /// What `of` grew by over all samples: the last minute, or since the first sample if that is shorter.
    pub fn last_minute(&self, of: impl Fn(&Counters) -> Counter) -> Counter {
        self.growth(Duration::MAX, of).map_or_else(Counter::default, |(growth, _)| growth)
    }

    /// What `of` grows by now.
    pub fn rate(&self, of: impl Fn(&Counters) -> Counter) -> Rate {
        let Some((growth, time)) = self.growth(RATE_SPAN, of) else { return Rate::default() };
        let seconds = time.as_secs_f64();
        if seconds <= 0.0 {
            return Rate::default();
        }
        Rate { pps: growth.packets as f64 / seconds, bps: growth.bytes as f64 * 8.0 / seconds }
    }

    /// Growth since the newest sample that is at least `span` old (else the oldest there is), and its time. A row
    /// that was given to somebody else began again at 0.
    fn growth(&self, span: Duration, of: impl Fn(&Counters) -> Counter) -> Option<(Counter, Duration)> {
        let (newest, new) = self.0.back()?;
        let old_enough = self.0.iter().rev().find(|(at, _)| newest.duration_since(*at) >= span);
        let (oldest, old) = old_enough.or(self.0.front())?;
        let (new, old) = (of(new), of(old));
        let growth = Counter {
            packets: new.packets.checked_sub(old.packets).unwrap_or(new.packets),
            bytes: new.bytes.checked_sub(old.bytes).unwrap_or(new.bytes),
        };
        Some((growth, newest.duration_since(*oldest)))
    }

    /// The same with the counters of this moment, so that what just happened is seen.
    pub fn and_now(&self, dataplane: &dyn Dataplane) -> Self {
        let mut samples = self.clone();
        if let Ok(counters) = dataplane.counters() {
            samples.add(Instant::now(), counters);
        }
        samples
    }

    fn add(&mut self, at: Instant, counters: Counters) {
        self.0.push_back((at, Arc::new(counters)));
        while self.0.len() > KEPT {
            self.0.pop_front();
        }
    }
}

/// Samples until nobody looks any more.
pub fn start(dataplane: Arc<dyn Dataplane>) -> watch::Receiver<Samples> {
    let (samples, follow) = watch::channel(Samples::default());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !samples.is_closed() {
            tick.tick().await;
            let dataplane = dataplane.clone();
            let read = tokio::task::spawn_blocking(move || (Instant::now(), dataplane.counters())).await;
            match read {
                Ok((at, Ok(counters))) => samples.send_modify(|samples| samples.add(at, counters)),
                Ok((_, Err(fault))) => tracing::warn!(message = fault.message, "could not read the counters"),
                Err(_) => return,
            }
        }
    });
    follow
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::reason::Reason;

    fn counted(packets: u64) -> Counters {
        let counter = Counter { packets, bytes: packets * 100 };
        Counters { reasons: [(Reason::NoBackend, counter)].into(), ..Counters::default() }
    }

    fn no_backend(counters: &Counters) -> Counter {
        counters.reasons.get(&Reason::NoBackend).copied().unwrap_or_default()
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_sums_of_the_last_minute() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        assert_eq!(samples.rate(no_backend), Rate::default());
        for second in 0..100_u64 {
            samples.add(begin + Duration::from_secs(second), counted(second * 10));
        }
        assert_eq!(samples.rate(no_backend), Rate { pps: 10.0, bps: 8_000.0 });
        assert_eq!(samples.last_minute(no_backend).packets, 600);
        samples.add(begin + Duration::from_millis(99_010), counted(991));
        assert!((samples.rate(no_backend).pps - 11.0 / 1.01).abs() < 0.01);
        samples.add(begin + Duration::from_secs(100), counted(3));
        assert_eq!(samples.last_minute(no_backend).packets, 3, "the row began again");
    }
}
