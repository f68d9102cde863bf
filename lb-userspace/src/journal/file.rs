//! The store in a file of the state directory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_control::record::{Record, RecordError};
use tokio::sync::broadcast;

use super::log::Log;
use super::{AppendError, EventStore, FILE_NAME, Head, LogReader, SUBSCRIBER_BACKLOG, StoreError};

/// The store in a file.
#[derive(Debug)]
pub struct FileStore {
    log: Log,
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    records: Mutex<Vec<Arc<Record>>>,
    subscribers: broadcast::Sender<Arc<Record>>,
}

/// What [`FileStore::open`] found.
#[derive(Debug)]
pub struct Loaded {
    /// The store, ready for appends.
    pub store: FileStore,
    /// Bytes of an unfinished last record that were cut off; 0 = the log ended cleanly.
    pub cut_bytes: u64,
}

impl FileStore {
    /// Where [`FileStore::open`] keeps an unfinished record that it cut off.
    pub fn torn_path(&self) -> PathBuf {
        self.log.torn_path()
    }

    /// Opens the store in a state directory that the caller holds ([`super::lock::DirectoryLock`]).
    ///
    /// # Errors
    /// The log cannot be opened or is damaged, a record cannot be read, or revisions do not follow each other.
    pub fn open(state_dir: &Path) -> Result<Loaded, StoreError> {
        let path = state_dir.join(FILE_NAME);
        let opened = Log::open(&path)?;
        let records = Mutex::new(parsed(&opened.payloads)?);
        let (subscribers, _) = broadcast::channel(SUBSCRIBER_BACKLOG);
        let shared = Arc::new(Shared { records, subscribers });
        Ok(Loaded { store: Self { log: opened.log, path, shared }, cut_bytes: opened.cut_bytes })
    }
}

fn parsed(payloads: &[Vec<u8>]) -> Result<Vec<Arc<Record>>, StoreError> {
    let mut records: Vec<Arc<Record>> = Vec::with_capacity(payloads.len());
    for (payload, number) in payloads.iter().zip(1..) {
        let unreadable = |reason| StoreError::Unreadable { number, reason };
        let record = Record::parse(payload).map_err(unreadable)?;
        let before = records.last().map_or(0, |record| record.revision);
        if record.revision_before() != before {
            let reason = format!("it begins at revision {}, not {before}", record.revision_before());
            return Err(unreadable(RecordError::Malformed(reason)));
        }
        records.push(Arc::new(record));
    }
    Ok(records)
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, Vec<Arc<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventStore for FileStore {
    fn append(&mut self, expected: u64, records: &[Arc<Record>]) -> Result<Head, AppendError> {
        let latest = self.shared.latest().revision;
        if latest != expected {
            return Err(AppendError::Conflict { expected, latest });
        }
        for record in records {
            self.log.append(&record.to_bytes()).map_err(|error| AppendError::Unknown(error.to_string()))?;
            self.shared.records().push(record.clone());
            // Nobody may be listening.
            let _ = self.shared.subscribers.send(record.clone());
        }
        Ok(self.shared.latest())
    }

    fn reload(&mut self) -> Result<Head, StoreError> {
        let opened = Log::open(&self.path)?;
        *self.shared.records() = parsed(&opened.payloads)?;
        self.log = opened.log;
        Ok(self.shared.latest())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.shared.clone()
    }

    fn save_snapshot(&mut self, _head: Head, _state: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
}

impl LogReader for Shared {
    fn latest(&self) -> Head {
        Head { revision: self.records().last().map_or(0, |record| record.revision), hash: [0; 32] }
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Arc<Record>>, StoreError> {
        let records = self.records();
        let first = records.partition_point(|record| record.revision <= after);
        Ok(records[first..].iter().take(limit).cloned().collect())
    }

    fn snapshot(&self, _at_most: u64) -> Option<(u64, Vec<u8>)> {
        None
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.subscribers.subscribe()
    }
}
