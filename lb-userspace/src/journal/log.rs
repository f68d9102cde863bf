//! The writer's side of the log: opening, appending, beginning new segments, and what is done when the disk refuses.
//!
//! Invariants:
//! - [`Log::append`] is one write and one sync, and returns when all of its records are durable or none is;
//! - [`AppendError::Refused`] means that no whole frame can have reached the disk; everything else is `Unknown`;
//! - an append is begun only when the one before it is durable, so at most the last frame of a log can be torn. It is cut,
//!   kept beside the log and said. Anything else that is not whole was acknowledged once: it stops the start;
//! - a failed sync is never tried again: the kernel has marked the pages clean by then. [`Log::reload`] opens the segment
//!   anew, reads it to where it was durable, and cuts what was in doubt;
//! - what was found whole at the start is written again before it counts as durable, for the same reason: the last
//!   daemon may have ended between a failed sync and the cut;
//! - opening changes nothing before all that the start needs has been read and found whole.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;

use super::disk::{Access, Disk, FRESH, read_from, write_all};
use super::frame::{self, Tail};
use super::segment::{self, ARCHIVE, HEADER, Pass, Reached, Segment};
use super::snapshot::{self, Place};
use super::{AppendError, Head};

/// Where [`Log::open`] keeps an unfinished record that it cut off.
pub(super) const TORN: &str = "torn";

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A segment that has reached this size is not appended to, bytes.
    pub segment_bytes: u64,
    /// Room that is made at a time ahead of the appends, bytes: a sync need not write the file's length then.
    pub room_bytes: u64,
    /// What whole segments before the oldest snapshot may take before the oldest are archived, bytes, as counted when a
    /// snapshot was kept; `None`: they stay.
    pub retain_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, room_bytes: 256 << 10, retain_bytes: None }
    }
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{path}: {doing}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// A file is no segment of ours, or of a newer version.
    #[error("{path}: not a journal that this version reads (it starts with {found:02x?})", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// What was acknowledged is not there as it was.
    #[error("{path}: damaged at byte {offset}, after revision {whole}: {reason}", path = path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where, bytes from its start.
        offset: u64,
        /// The revision up to which the log is whole.
        whole: u64,
        /// What is wrong.
        reason: String,
    },
    /// What is asked for was archived, and is not in the archive.
    #[error("revisions up to {first} were archived, and are not in {archive}", archive = archive.display())]
    Archived {
        /// The revision that the log begins at now.
        first: u64,
        /// Where the older segments are.
        archive: PathBuf,
    },
}

/// What a look at a log's files shows, before anything is changed.
#[derive(Debug)]
pub(super) struct Found {
    /// Revisions that the segments begin at.
    pub(super) bases: Vec<u64>,
    /// The last segment.
    pub(super) last: Segment,
    /// Where it ends.
    pub(super) reached: Reached,
    /// What lies behind: an append that did not finish.
    pub(super) torn: Vec<u8>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// Looks at a log: its newest snapshot that is whole, and everything after it. `None`: there is no log yet. With
/// [`Access::Read`], a daemon may append meanwhile: what it has not finished by then is not damage.
///
/// # Errors
/// It cannot be read, is of another version, or what the start needs is damaged.
pub(super) fn look(disk: &dyn Disk, access: Access) -> Result<Option<Found>, LogError> {
    let io = |source| LogError::Io { path: disk.path(""), doing: "read", source };
    // Snapshots first: the segment that one was taken in is then among those that are found, also if a daemon goes on.
    let snapshots = snapshot::revisions(disk).map_err(io)?;
    let bases = segment::bases(disk, "").map_err(io)?;
    let archived = segment::bases(disk, ARCHIVE).map_err(io)?;
    let Some(&first) = bases.first() else {
        return match snapshots.last().or(archived.last()) {
            None => Ok(None),
            Some(&whole) => Err(cut_short(disk, "", 0, whole)),
        };
    };
    let mut notes = Vec::new();
    let mut start = None;
    for &revision in snapshots.iter().rev() {
        match snapshot::load(disk, revision) {
            Ok((place, _)) => {
                start = Some(place);
                break;
            }
            Err(reason) => {
                let path = disk.path(&snapshot::name(revision));
                notes.push(format!("the snapshot {} was passed over: {reason}", path.display()));
            }
        }
    }
    if start.is_none() && first > 0 {
        return Err(LogError::Archived { first, archive: disk.path(ARCHIVE) });
    }
    let (last, mut reached) = read_on(disk, access, &bases, start)?;
    let tail = read_from(&*last.file, reached.offset).map_err(io)?;
    let torn = match frame::judge(&tail, reached.offset, reached.head) {
        Tail::Clean => Vec::new(),
        // Only who holds the log knows that it stands still: under another's eyes the tail may have become whole.
        Tail::Damaged(_) if access == Access::Read && moved_on(disk, &last, &mut reached)? => Vec::new(),
        Tail::Torn => tail[..tail.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)].to_vec(),
        Tail::Damaged(reason) => {
            let (path, reason) = (disk.path(&last.name), reason.to_owned());
            let (offset, whole) = (reached.offset, reached.head.revision);
            return Err(LogError::Damaged { path, offset, whole, reason });
        }
    };
    Ok(Some(Found { bases, last, reached, torn, notes }))
}

/// Walks on from where no whole frame was, and says whether one is there by now.
fn moved_on(disk: &dyn Disk, last: &Segment, reached: &mut Reached) -> Result<bool, LogError> {
    let before = reached.offset;
    let pass = Pass { offset: before, head: reached.head, chain: true };
    *reached = segment::walk(disk, last, pass, |_| Ok::<_, LogError>(()))?;
    Ok(reached.offset > before)
}

/// Reads from a snapshot (else from the first segment) to the last whole frame.
fn read_on(
    disk: &dyn Disk,
    access: Access,
    bases: &[u64],
    start: Option<Place>,
) -> Result<(Segment, Reached), LogError> {
    let from = start.map_or(0, |place| bases.partition_point(|&base| base < place.base));
    if let Some(place) = start.filter(|place| bases.get(from) != Some(&place.base)) {
        return Err(cut_short(disk, &segment::name(place.base), 0, place.head.revision));
    }
    let mut before: Option<(Segment, Reached)> = None;
    for &base in &bases[from..] {
        let next = segment::open(disk, segment::name(base), access)?;
        let mut pass = Pass { offset: HEADER, head: next.begins, chain: true };
        match (&before, start) {
            (Some((last, reached)), _) => {
                segment::expect_room(disk, last, *reached)?;
                segment::expect_follows(disk, &next, reached.head)?;
            }
            (None, Some(place)) => {
                let length = next.file.length();
                let length = length.map_err(|source| LogError::Io {
                    path: disk.path(&next.name),
                    doing: "read",
                    source,
                })?;
                if length < place.offset {
                    return Err(cut_short(disk, &next.name, length, place.head.revision));
                }
                pass = Pass { offset: place.offset, head: place.head, chain: true };
            }
            (None, None) => {}
        }
        let reached = segment::walk(disk, &next, pass, |_| Ok::<_, LogError>(()))?;
        before = Some((next, reached));
    }
    before.ok_or_else(|| cut_short(disk, "", 0, 0))
}

/// The log ends before something that was taken from it.
fn cut_short(disk: &dyn Disk, name: &str, offset: u64, revision: u64) -> LogError {
    let reason = format!("the log was cut: there is a snapshot or an archive up to revision {revision}");
    LogError::Damaged { path: disk.path(name), offset, whole: 0, reason }
}

/// An open log, positioned behind its last whole frame.
#[derive(Debug)]
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    limits: Limits,
    /// The segment that is appended to.
    active: Segment,
    /// Where the next frame goes, bytes from its start; everything before is durable.
    end: u64,
    /// The file's length: room up to here, bytes.
    room: u64,
    head: Head,
    /// A write or sync failed: what the file holds is not known.
    in_doubt: bool,
    /// A part of a refused frame may lie behind `end`.
    remains: bool,
    /// The next segment may have a name already: nothing may be appended to this one.
    full: bool,
}

/// What [`Log::open`] found.
#[derive(Debug)]
pub(super) struct Opened {
    /// The log, ready for appends.
    pub(super) log: Log,
    /// Revisions that its segments begin at.
    pub(super) bases: Vec<u64>,
    /// Bytes of an unfinished last append that were cut off; 0 = the log ended cleanly.
    pub(super) cut_bytes: u64,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

impl Log {
    /// Opens the log of a directory, or begins an empty one.
    ///
    /// # Errors
    /// It cannot be read or written, is of another version, or what the start needs is damaged.
    pub(super) fn open(disk: Arc<dyn Disk>, limits: Limits) -> Result<Opened, LogError> {
        let fail = |doing| {
            let path = disk.path("");
            move |source| LogError::Io { path, doing, source }
        };
        disk.make_folder("").map_err(fail("make"))?;
        let Some(mut found) = look(&*disk, Access::Write)? else {
            let file = segment::create(&*disk, Head::default(), limits.room_bytes).map_err(fail("begin"))?;
            let active = Segment { name: segment::name(0), file, begins: Head::default() };
            let log = Self::at(disk, limits, active, HEADER, Head::default())
                .map_err(|(path, source)| LogError::Io { path, doing: "begin", source })?;
            return Ok(Opened { log, bases: vec![0], cut_bytes: 0, notes: Vec::new() });
        };
        for fresh in disk.list("").map_err(fail("read"))?.iter().filter(|name| name.ends_with(FRESH)) {
            disk.remove(fresh).map_err(fail("remove what was never finished"))?;
        }
        let cut_bytes = found.torn.len() as u64;
        if cut_bytes > 0 {
            let kept = keep_torn(&*disk, &found.torn).map_or_else(
                |error| format!("they could not be kept: {error}"),
                |()| format!("they were moved to {}", disk.path(TORN).display()),
            );
            found
                .notes
                .push(format!("the journal ended in {cut_bytes} bytes of an unfinished record; {kept}"));
        }
        settle(&*disk, &found).map_err(|source| LogError::Io {
            path: disk.path(&found.last.name),
            doing: "make what was found durable",
            source,
        })?;
        let (end, head) = (found.reached.offset, found.reached.head);
        let log = Self::at(disk, limits, found.last, end, head).map_err(|(path, source)| LogError::Io {
            path,
            doing: "read",
            source,
        })?;
        Ok(Opened { log, bases: found.bases, cut_bytes, notes: found.notes })
    }

    fn at(
        disk: Arc<dyn Disk>,
        limits: Limits,
        active: Segment,
        end: u64,
        head: Head,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let room = active.file.length().map_err(|error| (disk.path(&active.name), error))?;
        Ok(Self { disk, limits, active, end, room, head, in_doubt: false, remains: false, full: false })
    }

    /// Where the log ends.
    pub(super) const fn head(&self) -> Head {
        self.head
    }

    /// Where the log goes on: the segment (by its first revision), and the offset in it.
    pub(super) const fn place(&self) -> Place {
        Place { head: self.head, base: self.active.begins.revision, offset: self.end }
    }

    /// Appends records that lead to `revision`, all or none, and returns when they are durable.
    ///
    /// # Errors
    /// `Refused`: none of them is in the log. `Unknown`: they may be; the log takes nothing before [`Log::reload`].
    pub(super) fn append(&mut self, revision: u64, records: &[Vec<u8>]) -> Result<Head, AppendError> {
        if self.in_doubt {
            return Err(AppendError::Refused("an earlier append is in doubt".to_owned()));
        }
        let (frame, head) = frame::encode(self.head, revision, records).map_err(|size| {
            AppendError::Refused(format!("records of {size} bytes are larger than the journal takes"))
        })?;
        let length = frame.len() as u64;
        self.prepare(length).map_err(|error| AppendError::Refused(self.said(&error)))?;
        if let Err((written, error)) = write_all(&*self.active.file, &frame, self.end) {
            self.remains = true;
            if surely_nothing(&error) {
                return Err(AppendError::Refused(self.said(&error)));
            }
            self.in_doubt = true;
            return Err(AppendError::Unknown(format!("{} (after {written} bytes)", self.said(&error))));
        }
        if let Err(error) = self.active.file.sync() {
            self.in_doubt = true;
            return Err(AppendError::Unknown(self.said(&error)));
        }
        self.end += length;
        self.room = self.room.max(self.end);
        self.head = head;
        Ok(head)
    }

    /// Clears what a refused append left, begins a new segment if this one is full, and makes room.
    fn prepare(&mut self, length: u64) -> io::Result<()> {
        if self.remains {
            self.cut()?;
        }
        self.full |= self.end + length > self.limits.segment_bytes && self.end > HEADER;
        if self.full {
            let room = self.limits.room_bytes;
            let file = segment::create(&*self.disk, self.head, room)?;
            // Its room is of no more use; that it stays does no harm.
            let _ = self.active.file.cut(self.end);
            self.room = file.length()?;
            self.active = Segment { name: segment::name(self.head.revision), file, begins: self.head };
            self.end = HEADER;
            self.full = false;
        }
        let wanted = self.end + length;
        if wanted > self.room {
            let room = wanted.next_multiple_of(self.limits.room_bytes.max(1));
            // Where no room can be made ahead of time, the write itself finds out whether there is some.
            if self.active.file.reserve(room).is_ok() {
                self.room = room;
            }
        }
        Ok(())
    }

    /// Ends the segment where it is known to be whole, durably.
    fn cut(&mut self) -> io::Result<()> {
        self.active.file.cut(self.end)?;
        self.active.file.sync()?;
        self.room = self.end;
        self.remains = false;
        Ok(())
    }

    fn said(&self, error: &io::Error) -> String {
        format!("{}: append: {error}", self.disk.path(&self.active.name).display())
    }

    /// After a failure: opens the segment anew, reads what must be in it and cuts what was in doubt.
    ///
    /// # Errors
    /// The disk still refuses, or what was durable is not there.
    pub(super) fn reload(&mut self) -> Result<Head, LogError> {
        let again = segment::open(&*self.disk, self.active.name.clone(), Access::Write)?;
        let pass = Pass { offset: HEADER, head: again.begins, chain: true };
        let (mut durable, end) = (pass.head, self.end);
        // What is in doubt may be whole, half, or lie behind what is damaged by now: none of it counts.
        let reached = segment::walk(&*self.disk, &again, pass, |frame| {
            if frame.end() <= end {
                durable = frame.head.after();
            }
            Ok::<_, LogError>(())
        })?;
        if durable != self.head {
            let (offset, whole) = (reached.offset, reached.head.revision);
            let reason = format!("revision {} was durable and cannot be read", self.head.revision);
            return Err(LogError::Damaged { path: self.disk.path(&again.name), offset, whole, reason });
        }
        self.active = again;
        self.cut().map_err(|source| LogError::Io {
            path: self.disk.path(&self.active.name),
            doing: "cut what is in doubt",
            source,
        })?;
        self.in_doubt = false;
        Ok(self.head)
    }
}

/// Cuts what is unfinished, and makes durable what is not known to be.
fn settle(disk: &dyn Disk, found: &Found) -> io::Result<()> {
    let (file, reached) = (&*found.last.file, found.reached);
    if !found.torn.is_empty() {
        file.cut(reached.offset)?;
    }
    if let Some(start) = reached.last_frame {
        let mut frame = read_from(file, start)?;
        frame.truncate((reached.offset - start) as usize);
        write_all(file, &frame, start).map_err(|(_, error)| error)?;
    }
    file.sync()?;
    // The last daemon may have ended after it named a segment and before the name was durable.
    disk.sync("")
}

fn keep_torn(disk: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
    let file = disk.open(TORN, Access::Create)?;
    write_all(&*file, bytes, 0).map_err(|(_, error)| error)?;
    file.sync()?;
    disk.sync("")
}

/// Whether a write that failed so put no whole frame anywhere: there was no room or no right, so at most a part of
/// the frame was taken.
fn surely_nothing(error: &io::Error) -> bool {
    let known = [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG, Errno::EROFS, Errno::EPERM, Errno::EBADF];
    error.raw_os_error().is_some_and(|number| known.contains(&Errno::from_raw(number)))
}
