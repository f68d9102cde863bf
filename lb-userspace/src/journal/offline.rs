//! The log of a state directory without its daemon: what `lb log head|verify|export|stats|repair` do.
//!
//! Everything but [`repair`] only reads, and may look at the log of a daemon that runs; `repair` takes the directory's
//! lock. How it reads for a person is the command line's business.

use std::cell::Cell;
use std::cmp::Ordering;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lb_control::record::Record;

use super::disk::{Access, Directory, Disk, read_from, write_all};
use super::file::folder;
use super::frame::Frame;
use super::lock::{DirectoryLock, LockError};
use super::log::{self, LogError};
use super::segment::{self, ARCHIVE, HEADER};
use super::snapshot::{self, Place};
use super::verify::{self, Walked};
use super::{Head, StoreError};

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
    /// The revision to cut at lies within an append, or behind the last one.
    #[error("no append ends at revision {at}; the last that ends before it ends at {before}")]
    NoRecordEnd {
        /// What was asked for.
        at: u64,
        /// The last end of an append before it.
        before: u64,
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

impl From<LogError> for OfflineError {
    fn from(error: LogError) -> Self {
        Self::Store(error.into())
    }
}

/// The log of a state directory, and its segments, those of the archive first.
struct Files {
    disk: Directory,
    names: Vec<String>,
    archived: usize,
}

impl Files {
    fn of(state_dir: &Path) -> Result<Self, OfflineError> {
        let disk = Directory::at(&folder(state_dir)?);
        let bases = |folder| segment::bases(&disk, folder).map_err(|source| io_error(&disk, folder, source));
        let live = bases("")?;
        let archive: Vec<u64> = bases(ARCHIVE)?.into_iter().filter(|base| !live.contains(base)).collect();
        let archived = archive.len();
        let mut names: Vec<String> = archive.into_iter().map(segment::archived_name).collect();
        names.extend(live.into_iter().map(segment::name));
        Ok(Self { disk, names, archived })
    }

    /// All of the log; `None`: there is none yet.
    fn walk(
        &self,
        each: impl FnMut(&Frame<'_>) -> Result<(), OfflineError>,
    ) -> Result<Option<Walked>, OfflineError> {
        verify::walk(&self.disk, &self.names, |_| ControlFlow::Continue(()), each)
    }
}

fn io_error(disk: &Directory, name: &str, source: io::Error) -> OfflineError {
    LogError::Io { path: disk.path(name), doing: "read", source }.into()
}

/// What a look says. A daemon that goes on meanwhile may take away what was about to be read, such as the oldest
/// snapshot; what is truly wrong is so again, in the same words.
fn steady<T>(look: impl Fn() -> Result<T, OfflineError>) -> Result<T, OfflineError> {
    let mut said = String::new();
    loop {
        match look() {
            Err(OfflineError::Store(error)) if error.to_string() != said => said = error.to_string(),
            seen => return seen,
        }
    }
}

/// Where the log of a state directory ends.
///
/// # Errors
/// The log cannot be read, or its end is damaged.
pub fn head(state_dir: &Path) -> Result<Head, OfflineError> {
    steady(|| head_now(state_dir))
}

fn head_now(state_dir: &Path) -> Result<Head, OfflineError> {
    let disk = Directory::at(&folder(state_dir)?);
    match disk.list("") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Head::default()),
        names => names.map_err(|source| io_error(&disk, "", source))?,
    };
    Ok(log::look(&disk, Access::Read)?.map_or_else(Head::default, |found| found.reached.head))
}

/// Checks the whole log, the archive included: every checksum, every link of the chain, every segment's place; and, if
/// a head is given that was kept elsewhere (`(revision, hash)`), that the log leads to it.
///
/// # Errors
/// Where it breaks, or that it is not the log of that head.
pub fn verify(state_dir: &Path, expected: Option<(u64, [u8; 32])>) -> Result<Verified, OfflineError> {
    let expected = expected.map(|(revision, hash)| Head { revision, hash });
    steady(|| verify_now(state_dir, expected))
}

fn verify_now(state_dir: &Path, expected: Option<Head>) -> Result<Verified, OfflineError> {
    // What the start would refuse is refused here, too.
    let end = head_now(state_dir)?;
    let files = Files::of(state_dir)?;
    let (mut records, mut met) = (0, Some(Head::default()).filter(|start| expected == Some(*start)));
    let walked = files.walk(|frame| {
        records += frame.records().count() as u64;
        let here = frame.head.after();
        if expected.is_some_and(|expected| expected.revision == here.revision) {
            met = Some(here);
        }
        Ok(())
    })?;
    let mut verified = Verified {
        head: end,
        first: 0,
        records,
        segments: files.names.len(),
        unfinished_bytes: 0,
        expected_found: false,
    };
    if let Some(walked) = walked {
        let tail = read_from(&*walked.last.file, walked.reached.offset)
            .map_err(|source| io_error(&files.disk, &walked.last.name, source))?;
        let unfinished = tail.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        (verified.head, verified.first) = (walked.reached.head, walked.first.revision);
        verified.unfinished_bytes = unfinished as u64;
    }
    let Some(expected) = expected else { return Ok(verified) };
    let found = match met {
        Some(met) if met == expected => return Ok(Verified { expected_found: true, ..verified }),
        Some(met) => format!("at that revision it is at {met}: it was rewritten"),
        None if expected.revision > verified.head.revision => {
            format!("it ends at {}: it was cut", verified.head)
        }
        None if expected.revision <= verified.first => {
            format!("it begins at revision {}: older segments are not here", verified.first)
        }
        None => format!("no record ends at revision {}: it was rewritten", expected.revision),
    };
    Err(OfflineError::OtherHead { expected, found })
}

/// Writes the records after a revision, one JSON object a line, and says how many; the archive is read too.
///
/// # Errors
/// The log cannot be read there, or the output refuses.
pub fn export(state_dir: &Path, after: u64, output: &mut dyn Write) -> Result<u64, OfflineError> {
    let (mut written, mut at) = (0, after);
    Files::of(state_dir)?.walk(|frame| {
        if frame.head.after().revision <= after {
            return Ok(());
        }
        for bytes in frame.records() {
            let record = parse(bytes, at)?;
            if record.revision > after {
                at = record.revision;
                output.write_all(&record.to_bytes())?;
                output.write_all(b"\n")?;
                written += 1;
            }
        }
        Ok(())
    })?;
    Ok(written)
}

fn parse(bytes: &[u8], after: u64) -> Result<Record, OfflineError> {
    Record::parse(bytes).map_err(|reason| StoreError::Unreadable { after, reason }.into())
}

/// Figures of a log.
///
/// # Errors
/// The log cannot be read.
pub fn stats(state_dir: &Path) -> Result<Stats, OfflineError> {
    steady(|| stats_now(state_dir))
}

fn stats_now(state_dir: &Path) -> Result<Stats, OfflineError> {
    let files = Files::of(state_dir)?;
    let (mut records, mut bytes, mut first_ms, mut last_ms) = (0, 0, None, None);
    let walked = files.walk(|frame| {
        bytes += frame.end() - frame.offset;
        for record in frame.records() {
            records += 1;
            if first_ms.is_none() {
                first_ms = Some(parse(record, frame.head.before)?.at_ms);
            }
            last_ms = Some(record.to_vec());
        }
        Ok(())
    })?;
    let head = walked.as_ref().map_or_else(Head::default, |walked| walked.reached.head);
    let last_ms =
        last_ms.map(|bytes| Ok::<_, OfflineError>(parse(&bytes, head.revision)?.at_ms)).transpose()?;
    let snapshots = match files.names.is_empty() {
        true => Vec::new(),
        false => snapshot::revisions(&files.disk).map_err(|source| io_error(&files.disk, "", source))?,
    };
    let folder = files.disk.path("");
    let disk_bytes = disk_bytes(&folder).map_err(|source| io_error(&files.disk, "", source))?;
    Ok(Stats {
        head,
        first: walked.map_or(0, |walked| walked.first.revision),
        records,
        segments: files.names.len() - files.archived,
        archived: files.archived,
        bytes,
        disk_bytes,
        snapshots,
        span_ms: first_ms.zip(last_ms),
    })
}

/// What the files of a directory and the folders in it take on the disk, bytes.
fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { disk_bytes(&entry.path())? } else { found.blocks() * 512 };
    }
    Ok(bytes)
}

/// Ends the log at a revision, which must be the end of an append, whatever lies behind it; keeps what it takes away.
/// What was acknowledged after that revision is lost: for a log that no daemon starts from otherwise.
///
/// # Errors
/// A daemon runs, the revision is not an append's end, what lies before it is damaged too, or the disk refuses.
pub fn repair(state_dir: &Path, at: u64) -> Result<Repaired, OfflineError> {
    let _held = DirectoryLock::take(state_dir)?;
    let disk = Directory::at(&folder(state_dir)?);
    let io = |source| io_error(&disk, "", source);
    let bases = segment::bases(&disk, "").map_err(io)?;
    let end = find_end(&disk, &bases, at)?;
    let folder = free_folder(&disk).map_err(io)?;
    // Snapshots first: one without its log would look like a log that was cut.
    let beyond = snapshot::revisions(&disk).map_err(io)?.into_iter().filter(|revision| *revision > at);
    let mut away: Vec<String> = beyond.map(snapshot::name).collect();
    away.extend(bases.iter().rev().filter(|base| **base > end.base).map(|base| segment::name(*base)));
    let cut_bytes = take_away(&disk, &folder, &away, end).map_err(io)?;
    Ok(Repaired { head: end.head, cut_bytes, kept: disk.path(&folder) })
}

/// Moves whole files to a folder, copies the last segment there and cuts it; says how many bytes went.
fn take_away(disk: &Directory, folder: &str, away: &[String], end: Place) -> io::Result<u64> {
    let mut gone = 0;
    for name in away {
        gone += disk.open(name, Access::Read)?.length()?;
        disk.rename(name, &format!("{folder}/{name}"))?;
        disk.sync(folder)?;
        disk.sync("")?;
    }
    let name = segment::name(end.base);
    let file = disk.open(&name, Access::Write)?;
    let bytes = read_from(&*file, 0)?;
    let copy = disk.open(&format!("{folder}/{name}"), Access::Create)?;
    write_all(&*copy, &bytes, 0).map_err(|(_, error)| error)?;
    copy.sync()?;
    disk.sync(folder)?;
    file.cut(end.offset)?;
    file.sync()?;
    Ok(gone + (bytes.len() as u64).saturating_sub(end.offset))
}

/// A folder beside the segments that nothing has the name of.
fn free_folder(disk: &Directory) -> io::Result<String> {
    for number in 1_u32.. {
        let folder = format!("before-repair-{number}");
        if !disk.path(&folder).exists() {
            disk.make_folder(&folder)?;
            return Ok(folder);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// How a search for a revision ends.
enum Stop {
    /// There.
    At(Place),
    /// Not there.
    Failed(OfflineError),
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Failed(error.into())
    }
}

/// Where an append ended at a revision; what lies behind is not looked at.
fn find_end(disk: &Directory, bases: &[u64], at: u64) -> Result<Place, OfflineError> {
    if let Some(&base) = bases.first().filter(|base| **base == at) {
        let head = segment::open(disk, segment::name(base), Access::Read)?.begins;
        return Ok(Place { head, base, offset: HEADER });
    }
    let names: Vec<String> =
        bases.iter().filter(|base| **base < at).map(|base| segment::name(*base)).collect();
    let (before, base) = (Cell::new(bases.first().copied().unwrap_or_default()), Cell::new(0));
    let walked = verify::walk(
        disk,
        &names,
        |index| {
            base.set(bases[index]);
            ControlFlow::Continue(())
        },
        |frame| {
            let head = frame.head.after();
            match head.revision.cmp(&at) {
                Ordering::Less => before.set(head.revision),
                Ordering::Equal => {
                    return Err(Stop::At(Place { head, base: base.get(), offset: frame.end() }));
                }
                Ordering::Greater => {
                    let before = before.get();
                    return Err(Stop::Failed(OfflineError::NoRecordEnd { at, before }));
                }
            }
            Ok(())
        },
    );
    match walked {
        Err(Stop::At(place)) => Ok(place),
        Err(Stop::Failed(error)) => Err(error),
        Ok(_) => Err(OfflineError::NoRecordEnd { at, before: before.get() }),
    }
}
