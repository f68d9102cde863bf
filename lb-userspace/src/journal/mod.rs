//! The journal: what was decided, durable before it is acknowledged.
//!
//! [`EventStore`] is the door to it: the log in files ([`FileStore`]) in the daemon, memory ([`MemoryStore`]) in tests.
//! The writer owns the store; everybody else reads through a [`LogReader`] and hears of what is new by
//! [`LogReader::subscribe`], and never meets the writer. What a record means is `lb_control`'s business; snapshots are
//! opaque bytes to the store.

pub mod disk;
mod file;
mod frame;
pub mod lock;
pub mod log;
mod memory;
pub mod observation;
pub mod offline;
mod page;
mod ring;
mod segment;
mod snapshot;
mod verify;
mod waiting;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod recording;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use lb_control::code::Code;
use lb_control::record::{Record, RecordError};
use tokio::sync::broadcast;

pub use file::{FileStore, Loaded, LogFiles};
use log::LogError;
pub use memory::{Failing, MemoryStore};
pub use page::Page;
pub(crate) use page::threads;
pub use verify::Verification;

/// Name of the log's directory within the state directory.
pub const FILE_NAME: &str = "journal";
/// Records that a subscriber may be behind; beyond that it is told that it missed some, and reads them again.
pub const SUBSCRIBER_BACKLOG: usize = 1_024;

/// Where a log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Revision after the last record.
    pub revision: u64,
    /// Hash of the chain up to and with the last record; zeros for an empty log.
    pub hash: [u8; 32],
}

/// `REVISION:HASH`, the hash in hexadecimal: what `lb log head` prints and `lb log verify --head` takes.
impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.revision)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("`{text}` is no head: it is written REVISION:HASH, with 64 hexadecimal digits");
        let (revision, digits) = text.split_once(':').ok_or_else(malformed)?;
        let revision = revision.parse().map_err(|_| malformed())?;
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| malformed())?;
        }
        Ok(Self { revision, hash })
    }
}

/// Why records are not known to be in the store.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// They are not: the store is at another revision than expected.
    #[error("the log is at revision {latest}, not at {expected}")]
    Conflict {
        /// What the caller expected.
        expected: u64,
        /// Where the store is.
        latest: u64,
    },
    /// They are not, and nothing was tried.
    #[error("{0}")]
    Refused(String),
    /// They may be: a write or sync failed. The caller must [`EventStore::reload`] before anything else.
    #[error("{0}")]
    Unknown(String),
}

/// Why a store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record is whole but cannot be understood.
    #[error("the journal's record after revision {after} cannot be read: {reason}")]
    Unreadable {
        /// The revision before it.
        after: u64,
        /// What is wrong with it.
        reason: RecordError,
    },
    /// The log was never at this head.
    #[error("the journal was never at {0}")]
    NoSuchHead(Head),
}

impl StoreError {
    /// What it is for people.
    pub fn code(&self) -> Code {
        match self {
            Self::Log(LogError::Io { .. }) => Code::StateDir,
            Self::Log(LogError::Foreign { .. }) => Code::JournalForeign,
            Self::Unreadable { reason, .. } if Record::is_newer(reason) => Code::JournalForeign,
            Self::Log(LogError::Archived { .. }) => Code::JournalArchived,
            Self::Log(LogError::Damaged { .. }) | Self::Unreadable { .. } | Self::NoSuchHead(_) => {
                Code::JournalDamaged
            }
        }
    }
}

/// Where accepted commands are kept: the writer's side.
pub trait EventStore: Send {
    /// Appends records, all or none, and returns when they are durable. The first must follow `expected`, the revision
    /// that the caller believes the store to be at. Subscribers hear of them before this returns.
    ///
    /// # Errors
    /// See [`AppendError`]: refused for certain, or not known.
    fn append(&mut self, expected: u64, records: &[Arc<Record>]) -> Result<Head, AppendError>;

    /// After [`AppendError::Unknown`]: reads the end of the store again and says where it is. What was in doubt is
    /// then either in the store for good (its revision is behind the head) or not at all.
    ///
    /// # Errors
    /// The store still cannot be used; try again later.
    fn reload(&mut self) -> Result<Head, StoreError>;

    /// The readers' side, for any number of threads.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Keeps a snapshot as of the head: it only speeds up the next start and may be lost. `state` is the caller's.
    ///
    /// # Errors
    /// The store refused; nothing is lost by that.
    fn save_snapshot(&mut self, head: Head, state: &[u8]) -> Result<(), StoreError>;
}

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Segments that are appended to or may be needed by a start.
    pub segments: u64,
    /// Segments in the archive.
    pub archived: u64,
    /// Bytes of the records in the former.
    pub bytes: u64,
    /// Appends since the store was opened; each is one sync.
    pub appends: u64,
    /// Records that they made durable.
    pub records: u64,
    /// What they took all together, microseconds.
    pub append_us: u64,
}

/// The readers' side of a store.
pub trait LogReader: Send + Sync {
    /// Where the log ends.
    fn latest(&self) -> Head;

    /// Up to `limit` records after a revision (which lies at a record's end), oldest first.
    ///
    /// # Errors
    /// The store cannot be read there.
    fn read(&self, after: u64, limit: usize) -> Result<Vec<Arc<Record>>, StoreError>;

    /// The same as they lie in the store, into a page, and the revision after the last; up to the end of the append that
    /// holds the last one, so that the next page begins with an append. Large records fill a page before there are so many.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    fn page(&self, after: u64, limit: usize, page: &mut Page) -> Result<u64, StoreError> {
        let records = self.read(after, limit)?;
        records.iter().for_each(|record| page.push(&record.to_bytes()));
        Ok(records.last().map_or(after, |record| record.revision))
    }

    /// The newest snapshot of `at_most` this revision: its revision, and the caller's bytes.
    fn snapshot(&self, at_most: u64) -> Option<(u64, Vec<u8>)>;

    /// What is known of the parts of the store that the start did not read.
    fn verification(&self) -> Verification {
        Verification::Pending
    }

    /// How large the store is, and what was appended since it was opened.
    fn figures(&self) -> Figures {
        Figures::default()
    }

    /// Every record from now on. One who falls behind by [`SUBSCRIBER_BACKLOG`] is told so by
    /// `RecvError::Lagged`, and reads on from where it was with [`LogReader::read`].
    fn subscribe(&self) -> broadcast::Receiver<Arc<Record>>;
}

/// Every record after a revision.
///
/// # Errors
/// The store cannot be read.
pub fn read_all(log: &dyn LogReader, after: u64) -> Result<Vec<Arc<Record>>, StoreError> {
    let mut records: Vec<Arc<Record>> = Vec::new();
    loop {
        let from = records.last().map_or(after, |record| record.revision);
        let more = log.read(from, SUBSCRIBER_BACKLOG)?;
        if more.is_empty() {
            return Ok(records);
        }
        records.extend(more);
    }
}
