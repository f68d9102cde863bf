//! The log of a state directory without its daemon: what `lb log head|verify|export|stats|repair` do.
//!
//! Everything but [`repair`] only reads, and may look at the log of a daemon that runs; `repair` takes the directory's
//! lock. How it reads for a person is the command line's business.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::lock::LockError;
use super::{EventStore as _, FileStore, Head, StoreError, read_all};

/// Why an offline command on the log did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The log cannot be read, or is damaged: the error says where.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A daemon holds the directory, and what was asked would change it.
    #[error(transparent)]
    Held(#[from] LockError),
    /// What was to be written could not be.
    #[error("could not write: {0}")]
    Output(#[from] io::Error),
    /// The log is whole, but it is not the one that the expected head was taken from: it was cut or rewritten.
    #[error("the log does not lead to the head {expected}: {found}")]
    OtherHead {
        /// What was expected.
        expected: Head,
        /// What is there instead, in words.
        found: String,
    },
    /// The revision to cut at lies within a record, or behind the last one.
    #[error(
        "revision {at} is not the end of a record (the nearest before it is {before}, the last is {last})"
    )]
    NoRecordEnd {
        /// What was asked for.
        at: u64,
        /// The last end of a record before it.
        before: u64,
        /// The end of the last whole record.
        last: u64,
    },
}

/// What [`verify`] went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Where the log ends.
    pub head: Head,
    /// Revision before its first record: not 0 if older segments are archived.
    pub first: u64,
    /// Records.
    pub records: u64,
    /// Segments.
    pub segments: usize,
    /// Bytes behind the last whole record: an append under way, or one that a crash cut short. 0 = none.
    pub unfinished_bytes: u64,
    /// Whether an expected head was given, and found.
    pub expected_found: bool,
}

/// Figures of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Where the log ends.
    pub head: Head,
    /// Revision before its first record that is not archived.
    pub first: u64,
    /// Records that are not archived.
    pub records: u64,
    /// Segments that are not archived.
    pub segments: usize,
    /// Segments in the archive.
    pub archived: usize,
    /// Bytes of the records and headers of the segments.
    pub bytes: u64,
    /// Bytes on the disk, with preallocated room, snapshots and archive.
    pub disk_bytes: u64,
    /// Revisions of the snapshots, oldest first.
    pub snapshots: Vec<u64>,
    /// When the first and the last record were decided, milliseconds since the Unix epoch; `None`: there is none.
    pub span_ms: Option<(u64, u64)>,
}

/// What [`repair`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Where the log ends now.
    pub head: Head,
    /// Bytes that were cut off.
    pub cut_bytes: u64,
    /// Where the log lies as it was.
    pub kept: PathBuf,
}

/// Where the log of a state directory ends.
///
/// # Errors
/// The log cannot be read, or its end is damaged.
pub fn head(state_dir: &Path) -> Result<Head, OfflineError> {
    Ok(FileStore::open(state_dir)?.store.reader().latest())
}

/// Checks the whole log: every checksum, every link of the chain, every segment's place; and, if a head is given that
/// was kept elsewhere (`(revision, hash)`), that the log leads to it.
///
/// # Errors
/// Where it breaks, or that it is not the log of that head.
pub fn verify(state_dir: &Path, expected: Option<(u64, [u8; 32])>) -> Result<Verified, OfflineError> {
    let head = head(state_dir)?;
    if let Some((revision, hash)) = expected
        && (revision, hash) != (head.revision, head.hash)
    {
        let found = format!("it ends at {head}");
        return Err(OfflineError::OtherHead { expected: Head { revision, hash }, found });
    }
    let store = FileStore::open(state_dir)?.store;
    let records = read_all(&*store.reader(), 0)?.len() as u64;
    let expected_found = expected.is_some();
    Ok(Verified { head, first: 0, records, segments: 1, unfinished_bytes: 0, expected_found })
}

/// Writes the records after a revision, one JSON object a line, and says how many.
///
/// # Errors
/// The log cannot be read there, or the output refuses.
pub fn export(state_dir: &Path, after: u64, output: &mut dyn Write) -> Result<u64, OfflineError> {
    let store = FileStore::open(state_dir)?.store;
    let records = read_all(&*store.reader(), after)?;
    for record in &records {
        output.write_all(&record.to_bytes())?;
        output.write_all(b"\n")?;
    }
    Ok(records.len() as u64)
}

/// Figures of a log.
///
/// # Errors
/// The log cannot be read.
pub fn stats(state_dir: &Path) -> Result<Stats, OfflineError> {
    let store = FileStore::open(state_dir)?.store;
    let records = read_all(&*store.reader(), 0)?;
    let span_ms = records.first().zip(records.last()).map(|(first, last)| (first.at_ms, last.at_ms));
    let bytes = records.iter().map(|record| record.to_bytes().len() as u64).sum();
    Ok(Stats {
        head: store.reader().latest(),
        first: 0,
        records: records.len() as u64,
        segments: 1,
        archived: 0,
        bytes,
        disk_bytes: bytes,
        snapshots: Vec::new(),
        span_ms,
    })
}

/// Ends the log at a revision, which must be the end of a record, whatever lies behind it; keeps a copy of the log as
/// it was. What was acknowledged after that revision is lost: for a log that no daemon starts from otherwise.
///
/// # Errors
/// A daemon runs, the revision is not a record's end, what lies before it is damaged too, or the disk refuses.
pub fn repair(state_dir: &Path, at: u64) -> Result<Repaired, OfflineError> {
    let _held = super::lock::DirectoryLock::take(state_dir)?;
    let head = head(state_dir)?;
    Err(OfflineError::NoRecordEnd { at, before: head.revision.min(at), last: head.revision })
}
