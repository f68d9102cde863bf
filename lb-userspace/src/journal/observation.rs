//! What the node saw, kept in a ring of files: bounded, not chained, not waited for.
//!
//! Whoever observes puts the observation into a bounded queue and goes on; a thread of its own writes. So neither a slow
//! nor a full disk ever holds up what follows from an observation. It is written in batches, at most
//! [`Limits::batches_per_s`] a second and [`Limits::batch_max`] observations each; what is beyond that, or did not fit
//! into the queue, is counted, and the count kept as one observation. Subscribers hear what is kept, whether the disk
//! took it or not.
//!
//! A file holds lines: the CRC-32C of the JSON behind it in eight hexadecimal digits, a space, the JSON. A line that is
//! not whole is passed over. Nothing is synced but a file that is full: a power cut costs the last moments.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::unix_ms;
use lb_control::observation::{Cause, Change, OBSERVATION_VERSION, Object, Observation};
use nix::libc;
use tokio::sync::broadcast;

/// Name of the ring's directory within the state directory.
pub const FOLDER: &str = "observations";
/// How the name of a file of the ring ends; before it stands the number of its first observation.
const ENDING: &str = ".jsonl";

/// Sizes of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A file that has reached this size is not appended to, bytes.
    pub file_bytes: u64,
    /// Files that are kept.
    pub files: usize,
    /// Batches that are written in a second at most.
    pub batches_per_s: u32,
    /// Observations of a batch at most.
    pub batch_max: usize,
    /// Observations that wait to be written at most.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 1 << 20, files: 16, batches_per_s: 10, batch_max: 200, queue: 4_096 }
    }
}

/// The journal of a node's observations; clones share it.
#[derive(Clone, Debug)]
pub struct ObservationJournal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    queue: Mutex<Option<SyncSender<Observation>>>,
    /// Observations that did not fit into the queue.
    lost: Arc<AtomicU64>,
    subscribers: broadcast::Sender<Arc<Observation>>,
    fault: Arc<Mutex<Option<String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl ObservationJournal {
    /// Opens the ring of a state directory, or begins one. That the disk refuses is no error here: what is observed is
    /// then told to subscribers only, [`ObservationJournal::fault`] says so, and it is tried again.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(state_dir: &Path, limits: Limits) -> io::Result<Self> {
        let folder = state_dir.join(FOLDER);
        let (queue, waiting) = sync_channel(limits.queue);
        let (subscribers, _) = broadcast::channel(super::SUBSCRIBER_BACKLOG);
        let (lost, fault) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let writer = Writer {
            ring: Ring { folder: folder.clone(), limits, file: None },
            next: numbers_from(&folder),
            lost: lost.clone(),
            subscribers: subscribers.clone(),
            fault: fault.clone(),
        };
        let thread = std::thread::Builder::new().name("observations".to_owned());
        let writer = thread.spawn(move || writer.run(&waiting))?;
        let (queue, writer) = (Mutex::new(Some(queue)), Mutex::new(Some(writer)));
        Ok(Self(Arc::new(Shared { folder, queue, lost, subscribers, fault, writer })))
    }

    /// Takes an observation to be kept; its `seq` is given here. Never waits.
    pub fn record(&self, observation: Observation) {
        let queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(observation).is_err()) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The newest observations of a time (milliseconds since the Unix epoch) or later, at most so many, oldest first.
    ///
    /// # Errors
    /// The ring cannot be read.
    pub fn read(&self, since_ms: u64, limit: usize) -> io::Result<Vec<Observation>> {
        read(&self.0.folder, since_ms, limit)
    }

    /// Every observation that is kept from now on; who falls behind is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Observation>> {
        self.0.subscribers.subscribe()
    }

    /// Why observations are not written at present.
    pub fn fault(&self) -> Option<String> {
        self.0.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes what waits and ends; what is recorded later is lost.
    pub fn close(&self) {
        drop(self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A writer that panicked has nothing more to write.
        let _ = writer.map(JoinHandle::join);
    }
}

/// The files of a ring, by the number of their first observation, ascending.
fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(ENDING)?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

/// The newest observations of a state directory's ring, without its daemon.
///
/// # Errors
/// The ring cannot be read.
pub fn read(folder: &Path, since_ms: u64, limit: usize) -> io::Result<Vec<Observation>> {
    let mut newest = VecDeque::new();
    for (_, path) in files(folder)?.into_iter().rev() {
        let room = limit - newest.len();
        let mut lines = match lines(&path) {
            // The ring went on meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lines => lines?,
        };
        lines.retain(|line| line.at_ms >= since_ms);
        lines.drain(..lines.len().saturating_sub(room));
        lines.into_iter().rev().for_each(|line| newest.push_front(line));
        if newest.len() == limit {
            break;
        }
    }
    Ok(newest.into())
}

/// The whole lines of a file.
fn lines(path: &Path) -> io::Result<Vec<Observation>> {
    let lines = BufReader::new(File::open(path)?).split(b'\n');
    let whole = |line: &[u8]| {
        let (sum, json) = line.split_at_checked(9)?;
        let sum = u32::from_str_radix(std::str::from_utf8(&sum[..8]).ok()?, 16).ok()?;
        (crc32c::crc32c(json) == sum).then(|| serde_json::from_slice(json).ok()).flatten()
    };
    let mut found = Vec::new();
    for line in lines {
        found.extend(whole(&line?));
    }
    Ok(found)
}

/// The number of the next observation.
fn numbers_from(folder: &Path) -> u64 {
    let last = files(folder).ok().and_then(|mut files| files.pop());
    let Some((first, path)) = last else { return 1 };
    lines(&path).ok().and_then(|lines| Some(lines.last()?.seq + 1)).unwrap_or(first + 1)
}

/// The end of the ring that is written.
struct Ring {
    folder: PathBuf,
    limits: Limits,
    file: Option<(File, u64)>,
}

impl Ring {
    /// Writes a batch that begins with an observation of this number.
    fn write(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let written = self.try_write(first, bytes);
        if written.is_err() {
            // What the file ends in is not known: the next batch begins another.
            self.file = None;
        }
        written
    }

    fn try_write(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some((full, _)) = self.file.take_if(|(_, size)| *size >= self.limits.file_bytes) {
            full.sync_data()?;
        }
        let (file, size) = match &mut self.file {
            Some(open) => open,
            none => none.insert((begin(&self.folder, first, self.limits.files)?, 0)),
        };
        file.write_all(bytes)?;
        *size += bytes.len() as u64;
        Ok(())
    }
}

/// Begins a file, and lets go of the oldest.
fn begin(folder: &Path, first: u64, keep: usize) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = files(folder)?;
    for (_, old) in found.iter().take((found.len() + 1).saturating_sub(keep.max(1))) {
        std::fs::remove_file(old)?;
    }
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let path = folder.join(format!("{first:020}{ENDING}"));
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(path)
}

/// The thread that writes.
struct Writer {
    ring: Ring,
    /// Number of the next observation.
    next: u64,
    lost: Arc<AtomicU64>,
    subscribers: broadcast::Sender<Arc<Observation>>,
    fault: Arc<Mutex<Option<String>>>,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Observation>) {
        let pause = Duration::from_secs(1) / self.ring.limits.batches_per_s.max(1);
        while let Ok(first) = waiting.recv() {
            let began = Instant::now();
            self.keep(first, waiting);
            // The pause is also the time in which the next batch gathers.
            std::thread::sleep(pause.saturating_sub(began.elapsed()));
        }
    }

    /// Keeps what waits, up to a batch; the rest of it is counted.
    fn keep(&mut self, first: Observation, waiting: &Receiver<Observation>) {
        let mut batch = vec![first];
        let mut suppressed = self.lost.swap(0, Ordering::Relaxed);
        while let Ok(more) = waiting.try_recv() {
            if batch.len() < self.ring.limits.batch_max {
                batch.push(more);
            } else {
                suppressed += 1;
            }
        }
        if suppressed > 0 {
            batch.push(Observation {
                v: OBSERVATION_VERSION,
                at_ms: unix_ms(),
                seq: 0,
                object: Object::Node,
                change: Change::Suppressed { count: suppressed },
                cause: Cause::Rate,
                evidence: String::new(),
            });
        }
        let first = self.next;
        let mut bytes = Vec::new();
        for observation in &mut batch {
            observation.seq = self.next;
            self.next += 1;
            let json = serde_json::to_vec(observation).unwrap_or_default();
            bytes.extend(format!("{:08x} ", crc32c::crc32c(&json)).bytes());
            bytes.extend(json);
            bytes.push(b'\n');
        }
        let error = self.ring.write(first, &bytes).err();
        self.said(error);
        for observation in batch {
            // Nobody may be listening.
            let _ = self.subscribers.send(Arc::new(observation));
        }
    }

    /// Says that writing fails once, and once that it works again.
    fn said(&self, error: Option<io::Error>) {
        let path = self.ring.folder.display();
        let fault = error.map(|error| format!("observations are not written: {path}: {error}"));
        let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match (&fault, known.is_some()) {
            (Some(fault), false) => tracing::error!("{fault}"),
            (None, true) => tracing::info!("observations are written again"),
            _ => {}
        }
        *known = fault;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::health::{Health, Outcome};

    fn observed(at_ms: u64) -> Observation {
        let change = Change::HealthChanged { from: Health::Up, to: Health::Down };
        let (object, cause) = (Object::Node, Cause::Probe { outcome: Outcome::Timeout });
        Observation { v: 1, at_ms, seq: 0, object, change, cause, evidence: String::new() }
    }

    fn times(kept: &[Observation]) -> Vec<u64> {
        kept.iter().map(|one| one.at_ms).collect()
    }

    #[test]
    fn what_was_seen_is_read_again_and_numbers_go_on() {
        let directory = tempfile::tempdir().unwrap();
        for start in [0, 10] {
            let journal = ObservationJournal::open(directory.path(), Limits::default()).unwrap();
            (start..start + 5).for_each(|at_ms| journal.record(observed(at_ms)));
            journal.close();
        }
        let journal = ObservationJournal::open(directory.path(), Limits::default()).unwrap();
        let all = journal.read(0, 100).unwrap();
        assert_eq!(times(&all), [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
        assert_eq!(all.iter().map(|one| one.seq).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        assert_eq!(times(&journal.read(3, 100).unwrap()), [3, 4, 10, 11, 12, 13, 14], "since a time");
        assert_eq!(times(&journal.read(0, 2).unwrap()), [13, 14], "the newest");
        assert!(journal.read(0, 0).unwrap().is_empty());
    }

    #[test]
    fn a_storm_is_kept_up_to_a_batch_and_the_rest_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { batch_max: 10, queue: 50, ..Limits::default() };
        let journal = ObservationJournal::open(directory.path(), limits).unwrap();
        let mut heard = journal.subscribe();
        (0..10_000).for_each(|at_ms| journal.record(observed(at_ms)));
        journal.record(observed(10_000));
        journal.close();
        let (mut kept, mut suppressed) = (0, 0);
        for one in journal.read(0, usize::MAX).unwrap() {
            match one.change {
                Change::Suppressed { count } => suppressed += count,
                _ => kept += 1,
            }
            assert_eq!(*heard.try_recv().unwrap(), one);
        }
        let unsaid = journal.0.lost.load(Ordering::Relaxed);
        assert_eq!(kept + suppressed + unsaid, 10_001);
        assert!(suppressed > 0 && kept < 5_000, "{kept} kept, {suppressed} suppressed");
    }

    #[test]
    fn the_ring_is_bounded_and_keeps_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { file_bytes: 1, files: 3, batch_max: 1, batches_per_s: 1_000, queue: 64 };
        let journal = ObservationJournal::open(directory.path(), limits).unwrap();
        let mut heard = journal.subscribe();
        for at_ms in 0..20 {
            journal.record(observed(at_ms));
            heard.blocking_recv().unwrap();
        }
        journal.close();
        assert_eq!(files(&directory.path().join(FOLDER)).unwrap().len(), 3);
        assert_eq!(times(&journal.read(0, 100).unwrap()), [17, 18, 19]);
    }

    #[test]
    fn a_disk_that_refuses_is_said_and_holds_nothing_up_and_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join(FOLDER);
        std::fs::write(&folder, "in the way").unwrap();
        let limits = Limits { batches_per_s: 1_000, ..Limits::default() };
        let journal = ObservationJournal::open(directory.path(), limits).unwrap();
        let mut heard = journal.subscribe();
        journal.record(observed(1));
        assert_eq!(heard.blocking_recv().unwrap().at_ms, 1, "subscribers hear of it");
        assert!(journal.fault().unwrap().contains("not written"));
        std::fs::remove_file(&folder).unwrap();
        journal.record(observed(2));
        heard.blocking_recv().unwrap();
        assert_eq!((journal.fault(), times(&journal.read(0, 9).unwrap())), (None, vec![2]));
    }

    #[test]
    fn a_line_that_is_not_whole_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let journal = ObservationJournal::open(directory.path(), Limits::default()).unwrap();
        (0..3).for_each(|at_ms| journal.record(observed(at_ms)));
        journal.close();
        let path = files(&directory.path().join(FOLDER)).unwrap().remove(0).1;
        let mut bytes = std::fs::read(&path).unwrap();
        let second = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        bytes[second + 20] ^= 1;
        bytes.truncate(bytes.len() - 3);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(times(&journal.read(0, 9).unwrap()), [0]);
    }
}
