//! The whole log gone through, checksums, revisions and chain: in the background of a running daemon, and offline.
//!
//! The start reads only what it needs; older segments are looked at here.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::Head;
use super::disk::{Access, Disk};
use super::frame::Frame;
use super::log::LogError;
use super::segment::{self, HEADER, Pass, Reached, Segment};

/// What is known of the segments that the start did not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// They have not been looked at.
    #[default]
    Pending,
    /// They are being gone through.
    Running {
        /// Segments that are whole.
        done: usize,
        /// All segments.
        segments: usize,
    },
    /// They are whole.
    Whole {
        /// Segments.
        segments: usize,
        /// Where the log was then.
        revision: u64,
    },
    /// They are not.
    Damaged {
        /// The segment.
        segment: PathBuf,
        /// Where, bytes from its start.
        offset: u64,
        /// Revision up to which the log is whole.
        whole: u64,
        /// What is wrong.
        reason: String,
    },
    /// They could not be read.
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl Verification {
    /// What an error of a verification says.
    pub(super) fn failed(error: LogError) -> Self {
        match error {
            LogError::Damaged { path, offset, whole, reason } => {
                Self::Damaged { segment: path, offset, whole, reason }
            }
            other => Self::Unreadable { reason: other.to_string() },
        }
    }
}

/// What a walk through a log's segments came to.
#[derive(Debug)]
pub(super) struct Walked {
    /// Where the log is before its first record.
    pub(super) first: Head,
    /// The last segment.
    pub(super) last: Segment,
    /// Where it ends.
    pub(super) reached: Reached,
}

/// Goes through segments that follow each other, and their chain, to the last whole frame. `report` hears how many
/// are done and may end the walk there.
///
/// # Errors
/// Where it breaks, or what `each` says. No segments are `Ok(None)`, and so is a walk that was ended.
pub(super) fn walk<E: From<LogError>>(
    disk: &dyn Disk,
    names: &[String],
    mut report: impl FnMut(usize) -> ControlFlow<()>,
    mut each: impl FnMut(&Frame<'_>) -> Result<(), E>,
) -> Result<Option<Walked>, E> {
    let mut walked: Option<Walked> = None;
    for (name, done) in names.iter().zip(0..) {
        if report(done).is_break() {
            return Ok(None);
        }
        let next = segment::open(disk, name.clone(), Access::Read)?;
        let mut first = next.begins;
        if let Some(before) = &walked {
            first = before.first;
            segment::expect_room(disk, &before.last, before.reached)?;
            segment::expect_follows(disk, &next, before.reached.head)?;
        }
        let pass = Pass { offset: HEADER, head: next.begins, chain: true };
        let reached = segment::walk(disk, &next, pass, &mut each)?;
        walked = Some(Walked { first, last: next, reached });
    }
    Ok(walked)
}
