//! The benchmark: what it measures, each part in a file of its own, and what it says.
//!
//! Ratios within one run are what counts: contenders take turns in short rounds, so that a machine that is slower for
//! a while is slower for all of them. Nothing here is a test: a reach that is missed is said, not failed.

pub mod control;
pub mod failover;
pub mod hash;
pub mod http;
pub mod path;
pub mod plane;
mod plot;
pub mod programs;
pub mod rate;
pub mod report;
mod stage;
pub mod table;

use std::time::Duration;

/// How much time to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Two minutes: the ratios wobble by a tenth.
    Quick,
    /// Ten minutes.
    Full,
}

impl Effort {
    /// Rounds, and packets a program sees in each.
    pub(crate) const fn path_rounds(self) -> (u32, u32) {
        match self {
            Self::Quick => (9, 100_000),
            Self::Full => (21, 200_000),
        }
    }
    /// Rounds, and packets that are sent in each.
    pub(crate) const fn rate_rounds(self) -> (u32, u32) {
        match self {
            Self::Quick => (5, 1 << 19),
            Self::Full => (11, 1 << 20),
        }
    }
    /// Rounds, and how long requests are made in each.
    pub(crate) const fn http_rounds(self) -> (u32, Duration) {
        match self {
            Self::Quick => (3, Duration::from_secs(1)),
            Self::Full => (7, Duration::from_secs(2)),
        }
    }
    /// Rounds, and how long commands are given in each.
    pub(crate) const fn control_rounds(self) -> (u32, Duration) {
        match self {
            Self::Quick => (3, Duration::from_secs(1)),
            Self::Full => (5, Duration::from_secs(3)),
        }
    }
    /// Requests, appends or changes of which a median or a percentile is taken.
    pub(crate) const fn control_requests(self) -> u32 {
        match self {
            Self::Quick => 300,
            Self::Full => 2_000,
        }
    }
    /// How often the long log is read.
    pub(crate) const fn replay_rounds(self) -> u32 {
        match self {
            Self::Quick => 2,
            Self::Full => 5,
        }
    }
    /// How often each backend fails in its way.
    pub(crate) const fn failover_rounds(self) -> u32 {
        match self {
            Self::Quick => 3,
            Self::Full => 7,
        }
    }
    /// How long probes are counted.
    pub(crate) const fn probing(self) -> Duration {
        match self {
            Self::Quick => Duration::from_secs(6),
            Self::Full => Duration::from_secs(20),
        }
    }
    /// Random changes of a pool, of which means are taken.
    pub(crate) const fn table_changes(self) -> u32 {
        match self {
            Self::Quick => 60,
            Self::Full => 200,
        }
    }
    /// How often a table is built.
    pub(crate) const fn table_rounds(self) -> u32 {
        match self {
            Self::Quick => 11,
            Self::Full => 51,
        }
    }
}

/// The middle one; of an even number the upper.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
