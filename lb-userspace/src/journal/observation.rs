//! What the node saw, kept in a ring of files: bounded, not chained, not waited for.
//!
//! Whoever observes puts the observation into a bounded queue (`waiting.rs`) and goes on; a thread of its own writes. So
//! neither a slow nor a full disk ever holds up what follows from an observation. It is written in batches, at most
//! [`Limits::batches_per_s`] a second and [`Limits::batch_max`] observations each; what finds no room in the queue
//! meanwhile is counted, and the count kept as an observation. Subscribers hear what is kept, whether the disk took it or
//! not. How the files are kept is `ring.rs`'s business.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_control::observation::Observation;
use tokio::sync::broadcast;

use super::ring::{self, Ring};
use super::waiting::Waiting;

/// Name of the ring's directory within the state directory.
pub const FOLDER: &str = "observations";

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
    queue: Arc<Queue>,
    /// Held while the ring is read for a question: however many ask, they take one processor, and memory for one.
    asked: Mutex<()>,
    subscribers: broadcast::Sender<Arc<Observation>>,
    fault: Arc<Mutex<Option<String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What waits to be written.
#[derive(Debug)]
struct Queue {
    /// Nobody holds it for longer than a batch takes to be put together.
    waiting: Mutex<(Waiting, Door)>,
    rung: Condvar,
}

/// Whether more is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, (Waiting, Door)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.waiting().1 = Door::Closed;
        self.rung.notify_one();
    }

    /// The next batch, once there is one; empty: there is never another.
    fn batch(&self, most: usize) -> (Vec<Observation>, Door) {
        let none = |(waiting, door): &mut (Waiting, Door)| waiting.is_empty() && *door == Door::Open;
        let held = self.rung.wait_while(self.waiting(), none);
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        (held.0.take(most), held.1)
    }
}

impl ObservationJournal {
    /// Opens the ring of a state directory, or begins one. That the disk refuses is no error here: what is observed is
    /// then told to subscribers only, [`ObservationJournal::fault`] says so, and it is tried again.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(state_dir: &Path, limits: Limits) -> io::Result<Self> {
        let folder = state_dir.join(FOLDER);
        let waiting = Mutex::new((Waiting::new(limits.queue), Door::Open));
        let queue = Arc::new(Queue { waiting, rung: Condvar::new() });
        let (subscribers, _) = broadcast::channel(super::SUBSCRIBER_BACKLOG);
        let fault = Arc::new(Mutex::new(None));
        let writer = Writer {
            ring: Ring::new(folder.clone(), limits.file_bytes, limits.files),
            limits,
            next: ring::numbers_from(&folder),
            subscribers: subscribers.clone(),
            fault: fault.clone(),
        };
        let waits = queue.clone();
        let thread = std::thread::Builder::new().name("observations".to_owned());
        let writer = Mutex::new(Some(thread.spawn(move || writer.run(&waits))?));
        Ok(Self(Arc::new(Shared { folder, queue, asked: Mutex::default(), subscribers, fault, writer })))
    }

    /// Takes an observation to be kept; its `seq` is given later. Never waits for the disk.
    pub fn record(&self, observation: Observation) {
        let (waiting, door) = &mut *self.0.queue.waiting();
        if *door == Door::Open {
            waiting.push(observation);
            self.0.queue.rung.notify_one();
        }
    }

    /// The newest observations of a time (milliseconds since the Unix epoch) or later, at most so many, oldest first.
    ///
    /// # Errors
    /// The ring cannot be read.
    pub fn read(&self, since_ms: u64, limit: usize) -> io::Result<Vec<Observation>> {
        self.find(since_ms, limit, |_| true)
    }

    /// Those of them that are wanted. One search at a time: whoever else asks waits.
    ///
    /// # Errors
    /// The ring cannot be read.
    pub fn find(
        &self,
        since_ms: u64,
        limit: usize,
        wanted: impl Fn(&Observation) -> bool,
    ) -> io::Result<Vec<Observation>> {
        let _turn = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        ring::find(&self.0.folder, since_ms, limit, wanted)
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
        self.0.queue.close();
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A writer that panicked has nothing more to write.
        let _ = writer.map(JoinHandle::join);
    }
}

/// The thread that writes.
struct Writer {
    ring: Ring,
    limits: Limits,
    /// Number of the next observation.
    next: u64,
    subscribers: broadcast::Sender<Arc<Observation>>,
    fault: Arc<Mutex<Option<String>>>,
}

impl Writer {
    fn run(mut self, queue: &Queue) {
        let pause = Duration::from_secs(1) / self.limits.batches_per_s.max(1);
        loop {
            let (batch, door) = queue.batch(self.limits.batch_max.max(1));
            if batch.is_empty() {
                return;
            }
            let began = Instant::now();
            self.keep(batch);
            if door == Door::Open {
                // The pause is also the time in which the next batch gathers.
                std::thread::sleep(pause.saturating_sub(began.elapsed()));
            }
        }
    }

    fn keep(&mut self, mut batch: Vec<Observation>) {
        let first = self.next;
        let mut bytes = Vec::new();
        for observation in &mut batch {
            observation.seq = self.next;
            self.next += 1;
            bytes.extend(ring::line(observation));
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
    use super::super::ring::files;
    use super::*;
    use lb_control::health::{Health, Outcome};
    use lb_control::observation::{Cause, Change, Object};

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
    fn a_storm_is_kept_up_to_the_room_and_the_rest_is_counted() {
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
        assert_eq!(kept + suppressed, 10_001);
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
