//! Numbers as people type them: what is none, or has no room in its type, is told with the range of the flag.
//!
//! What is a number but out of its range is mostly the daemon's to refuse, with the code of the setting.

use std::str::FromStr;

/// Takes a whole number; `range` says which there are, such as `from 0 to 65535`.
pub(super) fn whole<T: FromStr>(range: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| text.parse().map_err(|_| format!("it is a whole number {range}"))
}

/// Takes a whole number of a range that nobody else looks at.
pub(super) fn within<const LEAST: u32, const MOST: u32>(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (LEAST..=MOST).contains(number));
    number.ok_or_else(|| format!("it is a whole number from {LEAST} to {MOST}"))
}
