//! The store in files of the state directory: the log (`log.rs`) behind the door that every store has.
//!
//! The writer owns the log; readers share only where it ends and what the index knows, and read the files themselves.
//! Segments in the archive are read as long as they are there. Records are not kept in memory. The index is sparse and learnt on the way: revision to offset, a place every
//! [`STRIDE`] bytes at most, so that a reader who goes on where it was finds its place at once; it is never stored.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lb_control::record::{Record, RecordError};
use tokio::sync::broadcast;

use super::disk::{Access, Directory, Disk};
use super::frame::{Frame, Walk};
use super::log::{Limits, Log, LogError, TORN};
use super::page::Page;
use super::segment::{self, ARCHIVE, HEADER, Pass};
use super::snapshot::{self, Place};
use super::verify::{self, Verification};
use super::{AppendError, EventStore, FILE_NAME, Figures, Head, LogReader, SUBSCRIBER_BACKLOG, StoreError};

/// From one place that the index knows to the next, bytes at least.
const STRIDE: u64 = 16 * 1024;

/// Bytes of a page that a fold reads at once: several are in memory, and so is what they are parsed to.
const PAGE_BYTES: usize = 8 << 20;

/// The store in files.
#[derive(Debug)]
pub struct FileStore {
    log: Log,
    limits: Limits,
    notes: Vec<String>,
    shared: Arc<LogFiles>,
}

/// What [`FileStore::open`] found.
#[derive(Debug)]
pub struct Loaded {
    /// The store, ready for appends.
    pub store: FileStore,
    /// Bytes of an unfinished last record that were cut off; 0 = the log ended cleanly.
    pub cut_bytes: u64,
}

/// The readers' side of the store in files.
#[derive(Debug)]
pub struct LogFiles {
    disk: Arc<dyn Disk>,
    extent: Mutex<Extent>,
    subscribers: broadcast::Sender<Arc<Record>>,
    verification: Mutex<Verification>,
    /// Of appends, so far.
    appended: Mutex<Figures>,
}

/// Where the log lies.
#[derive(Debug)]
struct Extent {
    /// Those in the archive, all before the others.
    archived: Vec<Indexed>,
    segments: Vec<Indexed>,
    head: Head,
    /// Where the last segment ends, bytes.
    end: u64,
}

/// A segment and what the index knows of it.
#[derive(Debug)]
struct Indexed {
    base: u64,
    /// Offset by revision, where frames start.
    places: BTreeMap<u64, u64>,
}

impl Indexed {
    fn new(base: u64) -> Self {
        Self { base, places: BTreeMap::from([(base, HEADER)]) }
    }

    /// The last known place at or before a revision.
    fn before(&self, revision: u64) -> u64 {
        self.places.range(..=revision).next_back().map_or(HEADER, |(_, offset)| *offset)
    }

    fn learn(&mut self, revision: u64, offset: u64) {
        if offset >= self.before(revision) + STRIDE {
            self.places.insert(revision, offset);
        }
    }
}

impl FileStore {
    /// Where [`FileStore::open`] keeps an unfinished record that it cut off.
    pub fn torn_path(&self) -> PathBuf {
        self.shared.disk.path(TORN)
    }

    /// What a person should know of how the log was found, such as a tail that was cut.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Opens the store in a state directory that the caller holds ([`super::lock::DirectoryLock`]).
    ///
    /// # Errors
    /// The log cannot be opened, is of another version, or what the start needs is damaged.
    pub fn open(state_dir: &Path) -> Result<Loaded, StoreError> {
        Self::open_with(state_dir, Limits::default())
    }

    /// The same with other sizes.
    ///
    /// # Errors
    /// As [`FileStore::open`].
    pub fn open_with(state_dir: &Path, limits: Limits) -> Result<Loaded, StoreError> {
        Self::open_on(Arc::new(Directory::at(&folder(state_dir)?)), limits)
    }

    /// The same on any disk.
    ///
    /// # Errors
    /// As [`FileStore::open`].
    pub fn open_on(disk: Arc<dyn Disk>, limits: Limits) -> Result<Loaded, StoreError> {
        let opened = Log::open(disk.clone(), limits)?;
        let place = opened.log.place();
        let indexed = |bases: Vec<u64>| bases.into_iter().map(Indexed::new).collect();
        let archived = segment::bases(&*disk, ARCHIVE);
        let archived =
            archived.map_err(|source| LogError::Io { path: disk.path(ARCHIVE), doing: "read", source })?;
        let (archived, segments) = (indexed(archived), indexed(opened.bases));
        let (subscribers, _) = broadcast::channel(SUBSCRIBER_BACKLOG);
        let shared = Arc::new(LogFiles {
            disk,
            extent: Mutex::new(Extent { archived, segments, head: place.head, end: place.offset }),
            subscribers,
            verification: Mutex::default(),
            appended: Mutex::default(),
        });
        shared.settled(place);
        let store = Self { log: opened.log, limits, notes: opened.notes, shared };
        Ok(Loaded { store, cut_bytes: opened.cut_bytes })
    }

    /// The readers' side, with what only files have: [`LogFiles::verify_older`].
    pub fn files(&self) -> Arc<LogFiles> {
        self.shared.clone()
    }

    /// Moves the oldest segments to the archive while those before the oldest snapshot take more than `retain_bytes`,
    /// and says how many. A segment is moved whole, never rewritten.
    ///
    /// # Errors
    /// The disk refused; what was moved is moved.
    pub fn archive(&mut self, retain_bytes: u64) -> Result<usize, StoreError> {
        let disk = &*self.shared.disk;
        let io = |doing| move |source| LogError::Io { path: disk.path(ARCHIVE), doing, source };
        let oldest = snapshot::revisions(disk).map_err(io("read"))?.first().copied();
        let Some(oldest) = oldest.and_then(|revision| snapshot::load(disk, revision).ok()) else {
            return Ok(0);
        };
        let movable: Vec<u64> = self
            .shared
            .extent()
            .segments
            .iter()
            .map(|one| one.base)
            .filter(|base| *base < oldest.0.base)
            .collect();
        let sizes = movable.iter().map(|base| disk.open(&segment::name(*base), Access::Read)?.length());
        let sizes: Vec<u64> = sizes.collect::<io::Result<_>>().map_err(io("read"))?;
        let mut left: u64 = sizes.iter().sum();
        let durable = || disk.sync(ARCHIVE).and_then(|()| disk.sync("")).map_err(io("move segments to"));
        let mut moved = 0;
        for (base, size) in movable.into_iter().zip(sizes) {
            if left <= retain_bytes {
                break;
            }
            disk.make_folder(ARCHIVE).map_err(io("make"))?;
            // Those before first, also what an earlier call left: else a power cut may keep this move and not theirs, and the
            // log would have a gap.
            durable()?;
            let mut extent = self.shared.extent();
            disk.rename(&segment::name(base), &segment::archived_name(base))
                .map_err(io("move a segment to"))?;
            let oldest = extent.segments.remove(0);
            extent.archived.push(oldest);
            drop(extent);
            left -= size;
            moved += 1;
        }
        if moved > 0 {
            durable()?;
        }
        Ok(moved)
    }
}

/// The log's directory in a state directory.
///
/// # Errors
/// What has its name is a file.
pub(super) fn folder(state_dir: &Path) -> Result<PathBuf, LogError> {
    let path = state_dir.join(FILE_NAME);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() => {
            let mut bytes = std::fs::read(&path).unwrap_or_default();
            bytes.truncate(8);
            Err(LogError::Foreign { path, found: bytes })
        }
        _ => Ok(path),
    }
}

/// How many records of a frame end at or before a revision.
fn read_before(frame: &Frame<'_>, after: u64) -> Result<usize, StoreError> {
    /// All that is asked of them.
    #[derive(serde::Deserialize)]
    struct Numbered {
        revision: u64,
    }
    let mut count = 0;
    for bytes in frame.records() {
        let unreadable = |error: serde_json::Error| StoreError::Unreadable {
            after: frame.head.before,
            reason: RecordError::Malformed(error.to_string()),
        };
        if serde_json::from_slice::<Numbered>(bytes).map_err(unreadable)?.revision > after {
            break;
        }
        count += 1;
    }
    Ok(count)
}

/// The records of a page up to a number, each of which must begin where the one before it ended.
fn in_order(page: &Page, after: u64, until: usize) -> Result<Vec<Arc<Record>>, StoreError> {
    let mut at = after;
    let next = |parsed: Result<Arc<Record>, RecordError>| {
        let unreadable = |reason| StoreError::Unreadable { after: at, reason };
        let record = parsed.map_err(unreadable)?;
        let before = record.revision_before();
        if before != at {
            let reason = format!("it begins at revision {before}, not at {at}");
            return Err(unreadable(RecordError::Malformed(reason)));
        }
        at = record.revision;
        Ok(record)
    };
    page.parse(until).into_iter().map(next).collect()
}

impl EventStore for FileStore {
    fn append(&mut self, expected: u64, records: &[Arc<Record>]) -> Result<Head, AppendError> {
        let latest = self.log.head().revision;
        if latest != expected {
            return Err(AppendError::Conflict { expected, latest });
        }
        let Some(last) = records.last() else { return Ok(self.log.head()) };
        let bytes: Vec<Vec<u8>> = records.iter().map(|record| record.to_bytes()).collect();
        let begin = Instant::now();
        let head = self.log.append(last.revision, &bytes)?;
        self.shared.appended(records.len(), begin.elapsed());
        self.shared.settled(self.log.place());
        for record in records {
            // Nobody may be listening.
            let _ = self.shared.subscribers.send(record.clone());
        }
        Ok(head)
    }

    fn reload(&mut self) -> Result<Head, StoreError> {
        let head = self.log.reload()?;
        self.shared.settled(self.log.place());
        Ok(head)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.shared.clone()
    }

    fn save_snapshot(&mut self, head: Head, state: &[u8]) -> Result<(), StoreError> {
        let place = self.shared.place_of(head)?;
        let disk = &*self.shared.disk;
        snapshot::save(disk, place, state).map_err(|source| LogError::Io {
            path: disk.path(&snapshot::name(head.revision)),
            doing: "save a snapshot",
            source,
        })?;
        if let Some(retain_bytes) = self.limits.retain_bytes {
            self.archive(retain_bytes)?;
        }
        Ok(())
    }
}

/// How much a page takes; an append that has begun it takes whole.
#[derive(Clone, Copy)]
struct Room {
    records: usize,
    bytes: usize,
}

impl Room {
    fn is_left(self, page: &Page) -> bool {
        page.len() < self.records && page.size() < self.bytes
    }
}

/// A stretch of one segment that a reader goes through.
struct Stretch {
    base: u64,
    archived: bool,
    offset: u64,
    /// Where it ends for certain, if it is the last: revision and offset.
    until: Option<u64>,
    /// Revision that the next segment begins at, or that the log ends at.
    ends: u64,
}

impl Stretch {
    fn name(&self) -> String {
        if self.archived { segment::archived_name(self.base) } else { segment::name(self.base) }
    }
}

impl LogFiles {
    fn extent(&self) -> MutexGuard<'_, Extent> {
        self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn appended(&self, records: usize, took: Duration) {
        let mut appended = self.appended.lock().unwrap_or_else(PoisonError::into_inner);
        appended.appends += 1;
        appended.records += records as u64;
        appended.append_us += took.as_micros() as u64;
    }

    /// The log ends here now.
    fn settled(&self, place: Place) {
        let mut extent = self.extent();
        if extent.segments.last().is_none_or(|last| last.base < place.base) {
            extent.segments.push(Indexed::new(place.base));
        }
        (extent.head, extent.end) = (place.head, place.offset);
        if let Some(last) = extent.segments.last_mut() {
            last.learn(place.head.revision, place.offset);
        }
    }

    /// Where to read on after a revision; `None`: it is the last.
    fn stretch(&self, after: u64) -> Result<Option<Stretch>, LogError> {
        let extent = self.extent();
        if after >= extent.head.revision {
            return Ok(None);
        }
        let first = extent.segments.first().map_or(0, |one| one.base);
        let archived = after < first;
        let among = if archived { &extent.archived } else { &extent.segments };
        let Some(index) = among.partition_point(|one| one.base <= after).checked_sub(1) else {
            return Err(LogError::Archived { first, archive: self.disk.path(ARCHIVE) });
        };
        let (segment, next) = (&among[index], among.get(index + 1).map(|next| next.base));
        let next = next.or(archived.then_some(first));
        Ok(Some(Stretch {
            base: segment.base,
            archived,
            offset: segment.before(after),
            until: next.is_none().then_some(extent.end),
            ends: next.unwrap_or(extent.head.revision),
        }))
    }

    fn learn(&self, base: u64, revision: u64, offset: u64) {
        let mut extent = self.extent();
        let Extent { archived, segments, .. } = &mut *extent;
        if let Some(segment) = archived.iter_mut().chain(segments).find(|one| one.base == base) {
            segment.learn(revision, offset);
        }
    }

    /// Reads on, over as many segments as it takes, and says up to which revision.
    fn gather(&self, after: u64, room: Room, page: &mut Page) -> Result<u64, StoreError> {
        let mut at = after;
        while room.is_left(page)
            && let Some(stretch) = self.stretch(at)?
        {
            at = self.read_stretch(&stretch, at, room, page)?;
        }
        Ok(at)
    }

    /// Reads on in one segment, and says up to which revision.
    fn read_stretch(
        &self,
        stretch: &Stretch,
        after: u64,
        room: Room,
        page: &mut Page,
    ) -> Result<u64, StoreError> {
        let name = stretch.name();
        let path = self.disk.path(&name);
        let io = |source| LogError::Io { path: path.clone(), doing: "read", source };
        let file = match self.disk.open(&name, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // It was archived a moment ago, or somebody took it away.
                return match self.stretch(after)? {
                    Some(moved) if moved.archived && !stretch.archived => {
                        self.read_stretch(&moved, after, room, page)
                    }
                    _ if stretch.archived => {
                        let archive = self.disk.path(ARCHIVE);
                        Err(LogError::Archived { first: stretch.ends, archive }.into())
                    }
                    _ => Err(io(error).into()),
                };
            }
            file => file.map_err(io)?,
        };
        let mut walk = Walk::new(file, stretch.offset, stretch.until.unwrap_or(u64::MAX));
        walk.skip_to(after).map_err(io)?;
        let mut at = after;
        while at < stretch.ends && room.is_left(page) {
            let offset = walk.offset();
            let Some(frame) = walk.step().map_err(io)? else {
                let reason = "no whole record is there".to_owned();
                return Err(LogError::Damaged { path, offset, whole: at, reason }.into());
            };
            // Only the first frame can begin before what is wanted.
            let known = if frame.head.before < after { read_before(&frame, after)? } else { 0 };
            frame.records().skip(known).for_each(|bytes| page.push(bytes));
            at = frame.head.after().revision;
            self.learn(stretch.base, at, frame.end());
        }
        Ok(at)
    }

    /// Where the log was at a head.
    fn place_of(&self, head: Head) -> Result<Place, StoreError> {
        {
            let extent = self.extent();
            if let Some(last) = extent.segments.last().filter(|_| extent.head == head) {
                return Ok(Place { head, base: last.base, offset: extent.end });
            }
        }
        let Some(stretch) = self.stretch(head.revision.saturating_sub(1))? else {
            return Err(StoreError::NoSuchHead(head));
        };
        let name = stretch.name();
        let io = |source| LogError::Io { path: self.disk.path(&name), doing: "read", source };
        let file = self.disk.open(&name, Access::Read).map_err(io)?;
        let mut walk = Walk::new(file, stretch.offset, stretch.until.unwrap_or(u64::MAX));
        walk.skip_to(head.revision.saturating_sub(1)).map_err(io)?;
        match walk.step().map_err(io)? {
            Some(frame) if frame.head.after() == head => {
                Ok(Place { head, base: stretch.base, offset: frame.end() })
            }
            _ => Err(StoreError::NoSuchHead(head)),
        }
    }

    /// Goes through the log that is not archived, its checksums and revisions but not its chain, and says how many
    /// records it holds.
    ///
    /// # Errors
    /// Where it breaks.
    pub fn check_sums(&self) -> Result<u64, LogError> {
        let bases: Vec<u64> = self.extent().segments.iter().map(|one| one.base).collect();
        let mut records = 0;
        for base in bases {
            let segment = segment::open(&*self.disk, segment::name(base), Access::Read)?;
            let pass = Pass { offset: HEADER, head: segment.begins, chain: false };
            segment::walk(&*self.disk, &segment, pass, |frame| {
                records += frame.records().count() as u64;
                Ok::<_, LogError>(())
            })?;
        }
        Ok(records)
    }

    /// Goes through the whole log that is not archived, and its chain; `report` hears how far it is and may end it.
    /// What comes of it is kept for [`LogReader::verification`]. It takes a while: for a thread of its own.
    pub fn verify_older(&self, mut report: impl FnMut(&Verification) -> ControlFlow<()>) -> Verification {
        let (bases, head) = {
            let extent = self.extent();
            (extent.segments.iter().map(|one| one.base).collect::<Vec<_>>(), extent.head)
        };
        let names: Vec<String> = bases.iter().map(|base| segment::name(*base)).collect();
        let snapshots: BTreeMap<u64, Head> = snapshot::revisions(&*self.disk)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|revision| Some((revision, snapshot::load(&*self.disk, revision).ok()?.0.head)))
            .collect();
        let (segments, keep) = (names.len(), |now: Verification| {
            *self.verification.lock().unwrap_or_else(PoisonError::into_inner) = now.clone();
            now
        });
        let mut seen = None;
        let walked = verify::walk(
            &*self.disk,
            &names,
            |done| report(&keep(Verification::Running { done, segments })),
            |frame| {
                let here = frame.head.after();
                if here.revision == head.revision {
                    seen = Some(here);
                }
                match snapshots.get(&here.revision) {
                    Some(taken) if *taken != here => Err(LogError::Damaged {
                        path: self.disk.path(&snapshot::name(here.revision)),
                        offset: frame.offset,
                        whole: here.revision,
                        reason: "its hash is not the log's: one of the two was rewritten".to_owned(),
                    }),
                    _ => Ok(()),
                }
            },
        );
        let moved = self.extent().segments.first().map(|one| one.base) != bases.first().copied();
        let outcome = match walked {
            // Segments were archived meanwhile: what was found says nothing of those that are left.
            _ if moved => Verification::Pending,
            Ok(None) => Verification::Pending,
            Err(error) => Verification::failed(error),
            Ok(Some(walked)) if seen.unwrap_or(walked.reached.head) != head => {
                let reason =
                    format!("revision {} was read at the start, and is not there now", head.revision);
                let (path, offset) = (self.disk.path(&walked.last.name), walked.reached.offset);
                let whole = walked.reached.head.revision;
                Verification::failed(LogError::Damaged { path, offset, whole, reason })
            }
            Ok(Some(_)) => Verification::Whole { segments, revision: head.revision },
        };
        let outcome = keep(outcome);
        let _ = report(&outcome);
        outcome
    }
}

impl LogReader for LogFiles {
    fn latest(&self) -> Head {
        self.extent().head
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Arc<Record>>, StoreError> {
        let mut page = Page::default();
        self.gather(after, Room { records: limit, bytes: usize::MAX }, &mut page)?;
        in_order(&page, after, limit)
    }

    fn page(&self, after: u64, limit: usize, page: &mut Page) -> Result<u64, StoreError> {
        self.gather(after, Room { records: limit, bytes: PAGE_BYTES }, page)
    }

    fn snapshot(&self, at_most: u64) -> Option<(u64, Vec<u8>)> {
        let found = snapshot::revisions(&*self.disk).ok()?;
        let usable = found.into_iter().rev().filter(|revision| *revision <= at_most);
        usable
            .into_iter()
            .find_map(|revision| Some((revision, snapshot::load(&*self.disk, revision).ok()?.1)))
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.subscribers.subscribe()
    }

    fn figures(&self) -> Figures {
        let appended = *self.appended.lock().unwrap_or_else(PoisonError::into_inner);
        let extent = self.extent();
        // All but the last are full; one that is being archived has gone.
        let full = extent.segments.iter().rev().skip(1);
        let length = |base| self.disk.open(&segment::name(base), Access::Read)?.length();
        let full: u64 = full.filter_map(|one| length(one.base).ok()).sum();
        Figures {
            segments: extent.segments.len() as u64,
            archived: extent.archived.len() as u64,
            bytes: full + extent.end,
            ..appended
        }
    }

    fn verification(&self) -> Verification {
        self.verification.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
