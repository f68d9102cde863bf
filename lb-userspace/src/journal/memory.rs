//! A store in memory, for tests: it keeps the contract of every store, and fails on demand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_control::record::Record;
use tokio::sync::broadcast;

use super::{AppendError, EventStore, Head, LogReader, SUBSCRIBER_BACKLOG, StoreError};

/// How appends fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failing {
    /// They do not.
    #[default]
    No,
    /// They are refused for certain.
    Refused,
    /// Nobody knows: the records are not in the store, as a reload shows.
    UnknownLost,
    /// Nobody knows: the records are in the store, as a reload shows.
    UnknownKept,
}

/// A store in memory; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    records: Vec<Arc<Record>>,
    snapshot: Option<(u64, Vec<u8>)>,
    failing: Failing,
    subscribers: broadcast::Sender<Arc<Record>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        let (subscribers, _) = broadcast::channel(SUBSCRIBER_BACKLOG);
        let (records, snapshot, failing) = (Vec::new(), None, Failing::No);
        Self(Arc::new(Mutex::new(Inner { records, snapshot, failing, subscribers })))
    }
}

impl MemoryStore {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// What was appended so far.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.inner().records.clone()
    }
    /// How appends fail from now on.
    pub fn fail(&self, failing: Failing) {
        self.inner().failing = failing;
    }
}

impl Inner {
    /// Revisions only: memory has no chain that could break.
    fn head(&self) -> Head {
        Head { revision: self.records.last().map_or(0, |record| record.revision), hash: [0; 32] }
    }
    fn take(&mut self, records: &[Arc<Record>]) {
        self.records.extend_from_slice(records);
        for record in records {
            // Nobody may be listening.
            let _ = self.subscribers.send(record.clone());
        }
    }
}

impl EventStore for MemoryStore {
    fn append(&mut self, expected: u64, records: &[Arc<Record>]) -> Result<Head, AppendError> {
        let mut inner = self.inner();
        let latest = inner.head().revision;
        if latest != expected {
            return Err(AppendError::Conflict { expected, latest });
        }
        match inner.failing {
            Failing::No => inner.take(records),
            Failing::Refused => return Err(AppendError::Refused("told to refuse".to_owned())),
            Failing::UnknownLost => return Err(AppendError::Unknown("told to lose".to_owned())),
            Failing::UnknownKept => {
                inner.take(records);
                return Err(AppendError::Unknown("told to say nothing".to_owned()));
            }
        }
        Ok(inner.head())
    }

    fn reload(&mut self) -> Result<Head, StoreError> {
        Ok(self.inner().head())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.clone())
    }

    fn save_snapshot(&mut self, head: Head, state: &[u8]) -> Result<(), StoreError> {
        self.inner().snapshot = Some((head.revision, state.to_vec()));
        Ok(())
    }
}

impl LogReader for MemoryStore {
    fn latest(&self) -> Head {
        self.inner().head()
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Arc<Record>>, StoreError> {
        let inner = self.inner();
        let first = inner.records.partition_point(|record| record.revision <= after);
        Ok(inner.records[first..].iter().take(limit).cloned().collect())
    }

    fn snapshot(&self, at_most: u64) -> Option<(u64, Vec<u8>)> {
        self.inner().snapshot.clone().filter(|(revision, _)| *revision <= at_most)
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.inner().subscribers.subscribe()
    }
}
