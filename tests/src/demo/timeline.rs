//! What happens without a person at the keys, and when.

use std::time::Duration;

use super::conductor::Act;

/// Least length of a headless run.
pub const SECONDS_MIN: u64 = 5;

/// The acts of a run of this length, each with its time, in order. A drain comes first: a remembered flow is
/// forgotten ten seconds after its end, so a run of 20 s sees it through.
#[must_use]
pub fn acts(length: Duration) -> Vec<(Duration, Act)> {
    let part = |part: f64| length.mul_f64(part);
    vec![
        (part(0.08), Act::Drain("b1".to_owned())),
        (part(0.12), Act::Hang("b0".to_owned())),
        (part(0.25), Act::Add),
        (part(0.35), Act::Flood),
        (part(0.45), Act::Kill("b2".to_owned())),
        (part(0.62), Act::RestartDaemon(part(0.05))),
        (part(0.69), Act::TravelBack("b0".to_owned())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_come_in_order_and_leave_room_at_the_end() {
        let length = Duration::from_secs(SECONDS_MIN);
        let acts = acts(length);
        assert!(acts.is_sorted_by_key(|(at, _)| *at));
        assert!(acts.iter().all(|(at, _)| *at < length.mul_f64(0.75)));
    }
}
