//! Points in the past as people give them: a revision, a time, a distance from now.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::problem::{Code, Problem};

/// A point in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After the record that ends at this revision, or is the last before it.
    Revision(u64),
    /// A time, milliseconds since the Unix epoch.
    Time(u64),
}

impl Moment {
    /// `42`, `now`, `2026-11-26T09:30:00Z`, `2026-11-26 09:30` or `2026-11-26` (UTC), `10m ago`, `2 days ago`.
    ///
    /// # Errors
    /// It is nothing of that.
    pub fn parse(text: &str, now_ms: u64) -> Result<Self, Problem> {
        let text = text.trim();
        if let Ok(revision) = text.parse() {
            return Ok(Self::Revision(revision));
        }
        let at_ms = time_ms(text, now_ms);
        at_ms.map(Self::Time).ok_or_else(|| {
            Problem::new(Code::BadMoment, format!("`{text}` is neither a revision nor a time nor a distance"))
        })
    }
}

/// A time or a distance, as milliseconds since the Unix epoch.
fn time_ms(text: &str, now_ms: u64) -> Option<u64> {
    let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
    let utc = |civil: DateTime| civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let ago = |text: &str| {
        let span: Span = text.ends_with("ago").then(|| text.parse().ok()).flatten()?;
        let then = now.to_zoned(TimeZone::UTC).checked_add(span).ok()?;
        Some(then.timestamp())
    };
    let at = (text == "now")
        .then_some(now)
        .or_else(|| text.parse::<Timestamp>().ok())
        .or_else(|| text.parse::<DateTime>().ok().and_then(utc))
        .or_else(|| text.parse::<Date>().ok().and_then(|date| utc(date.at(0, 0, 0, 0))))
        .or_else(|| ago(text))?;
    u64::try_from(at.as_millisecond()).ok()
}

/// A time as answers give it: RFC 3339, UTC, to the millisecond.
pub fn rfc3339(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|at_ms| Timestamp::from_millisecond(at_ms).ok());
    at.map_or_else(|| format!("{at_ms} ms after 1970"), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_given_in_many_ways() {
        let now_ms = 1_795_686_000_000; // 2026-11-26T09:40:00Z
        let at = |text: &str| Moment::parse(text, now_ms).unwrap();
        assert_eq!(rfc3339(now_ms), "2026-11-26T09:40:00.000Z");
        assert_eq!(at("42"), Moment::Revision(42));
        assert_eq!(at("now"), Moment::Time(now_ms));
        for same in [
            "2026-11-26T09:30:00Z",
            "2026-11-26 09:30",
            "2026-11-26T10:30:00+01:00",
            "10m ago",
            "10 minutes ago",
        ] {
            assert_eq!(at(same), Moment::Time(now_ms - 600_000), "{same}");
        }
        assert_eq!(at("2026-11-26"), Moment::Time(now_ms - 34_800_000));
        assert_eq!(at("2 days ago"), Moment::Time(now_ms - 2 * 86_400_000));
        for bad in ["", "-3", "yesterday", "10m", "2026-13-01", "1969-01-01", "99999 years ago"] {
            let problem = Moment::parse(bad, now_ms).unwrap_err();
            assert!(problem.is(Code::BadMoment), "{bad}");
        }
    }
}
