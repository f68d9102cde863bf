//! The journal: what was decided, durable before it is acknowledged.
//!
//! [`EventStore`] is the door to it: a file ([`FileStore`]) in the daemon, memory ([`MemoryStore`]) in tests. One
//! record is one accepted command with all its events, so that either all of them happened or none. Health and the
//! slots' history are not in here. Hash chains, snapshots and queries over time are not built yet.

pub mod lock;
pub mod log;

use std::path::Path;

use lb_control::event::Event;
use serde::{Deserialize, Serialize};

use log::{Log, LogError};

/// Name of the log within the state directory.
pub const FILE_NAME: &str = "journal";

/// One accepted command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The revision after its events: the number of events so far, these included.
    pub revision: u64,
    /// Who asked: the name of the user at the other end of the socket, or `uid N`.
    pub actor: String,
    /// The command's own id, given by whoever sent it or made by the daemon.
    pub command_id: String,
    /// What followed from it, in order.
    pub events: Vec<Event>,
}

/// Why a record is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record is whole but is not what this version writes.
    #[error("record {number} of the journal cannot be read: {reason}")]
    Unreadable {
        /// Its place in the log, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where accepted commands are kept.
pub trait EventStore: Send {
    /// Appends one record and returns when it is durable.
    ///
    /// # Errors
    /// The store refused; the record is then not in it, and the store may be tried again.
    fn append(&mut self, record: &Record) -> Result<(), StoreError>;
}

/// The store in a file.
#[derive(Debug)]
pub struct FileStore {
    log: Log,
}

/// What [`FileStore::open`] found.
#[derive(Debug)]
pub struct Loaded {
    /// The store, ready for appends.
    pub store: FileStore,
    /// Every record, oldest first.
    pub records: Vec<Record>,
    /// Bytes of an unfinished last record that were cut off; 0 = the log ended cleanly.
    pub cut_bytes: u64,
}

impl FileStore {
    /// Where [`FileStore::open`] keeps an unfinished record that it cut off.
    pub fn torn_path(&self) -> std::path::PathBuf {
        self.log.torn_path()
    }

    /// Opens the store in a state directory that the caller holds ([`lock::DirectoryLock`]).
    ///
    /// # Errors
    /// The log cannot be opened or is damaged, a record cannot be read, or revisions do not follow each other.
    pub fn open(state_dir: &Path) -> Result<Loaded, StoreError> {
        let opened = Log::open(&state_dir.join(FILE_NAME))?;
        let mut records: Vec<Record> = Vec::with_capacity(opened.payloads.len());
        for (payload, number) in opened.payloads.iter().zip(1..) {
            let before = records.last().map_or(0, |record| record.revision);
            records.push(parse(payload, number, before)?);
        }
        Ok(Loaded { store: Self { log: opened.log }, records, cut_bytes: opened.cut_bytes })
    }
}

/// A record out of its payload; `before` is the revision of the one before it.
fn parse(payload: &[u8], number: usize, before: u64) -> Result<Record, StoreError> {
    let unreadable = |reason: String| StoreError::Unreadable { number, reason };
    let record: Record = serde_json::from_slice(payload).map_err(|error| unreadable(error.to_string()))?;
    let due = before + record.events.len() as u64;
    if record.revision != due {
        let reason = format!("it says that it ends at revision {}, not {due}", record.revision);
        return Err(unreadable(reason));
    }
    Ok(record)
}

impl EventStore for FileStore {
    fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        let payload = serde_json::to_vec(record)
            .map_err(|error| StoreError::Unreadable { number: 0, reason: error.to_string() })?;
        Ok(self.log.append(&payload)?)
    }
}

/// A store in memory, for tests: it can be told to refuse.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    records: std::sync::Arc<std::sync::Mutex<Vec<Record>>>,
    refuse: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl MemoryStore {
    /// What was appended so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().expect("no test panics while it appends").clone()
    }
    /// Whether appends fail from now on.
    pub fn refuse(&self, refuse: bool) {
        self.refuse.store(refuse, std::sync::atomic::Ordering::Relaxed);
    }
}

impl EventStore for MemoryStore {
    fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        if self.refuse.load(std::sync::atomic::Ordering::Relaxed) {
            let source = std::io::Error::other("told to refuse");
            return Err(LogError::Io { path: "memory".into(), doing: "append", source }.into());
        }
        self.records.lock().expect("no test panics while it appends").push(record.clone());
        Ok(())
    }
}
