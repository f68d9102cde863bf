//! Waiting for a condition with a deadline: the only way tests wait for something to become true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(2);

/// Looks at `condition` until it holds and returns how long that took.
///
/// # Errors
/// When `deadline` has passed; the message says `what` was waited for.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    wait_for(what, deadline, || condition().then_some(())).map(|((), took)| took)
}

/// Looks until `found` yields something; returns that and how long it took.
///
/// # Errors
/// When `deadline` has passed; the message says `what` was waited for.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut found: impl FnMut() -> Option<T>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(value) = found() {
            return Ok((value, start.elapsed()));
        }
        if start.elapsed() >= deadline {
            bail!("waited {} ms in vain: {what}", deadline.as_millis());
        }
        std::thread::sleep(PAUSE);
    }
}
