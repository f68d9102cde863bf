//! The unit of the intent log: one accepted command with all that followed from it, so that either all of it happened
//! or none. Who asked, why and in what connection stand here once, for all its events.
//!
//! A record is JSON within the log's frame. What older versions wrote is brought to today's form by [`Record::parse`];
//! one stored sample of every version ever written is read by a test.

use serde::{Deserialize, Serialize};

use crate::event::Event;

/// Version of the records that this build writes.
pub const RECORD_VERSION: u16 = 1;

/// One accepted command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of its form, [`RECORD_VERSION`] when written.
    pub v: u16,
    /// The revision after its events: the number of events so far, these included.
    pub revision: u64,
    /// When it was decided, milliseconds since the Unix epoch. A label: revisions order records, not times.
    pub at_ms: u64,
    /// Who asked: the name of the user at the other end of the socket, or `uid N`.
    pub actor: String,
    /// What was asked, as [`crate::command::Command::kind`].
    pub command: String,
    /// The command's own id, unique for ever.
    pub command_id: String,
    /// Id of the command that a chain of commands began with; its own for one that nothing led to.
    pub correlation_id: String,
    /// What led to it: the id of a command or of an observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// The key that makes a repetition of it harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// Why, in the words of whoever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What followed from it, in order; at least one.
    pub events: Vec<Event>,
}

/// A key and what it was sent with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The key, unique for its actor.
    pub key: String,
    /// Digest of the command it came with, hexadecimal: the same key with another command is a mistake.
    pub content: String,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A newer version wrote it.
    #[error("it is of version {found}, and this build reads up to {RECORD_VERSION}")]
    Newer {
        /// Its version.
        found: u64,
    },
    /// It is not of its form.
    #[error("{0}")]
    Malformed(String),
}

impl Record {
    /// The revision before its events.
    pub fn revision_before(&self) -> u64 {
        self.revision.saturating_sub(self.events.len() as u64)
    }

    /// A record as the log keeps it.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has string keys only and is written to memory")
    }

    /// A record out of the log's bytes, of whatever version.
    ///
    /// # Errors
    /// It is of a newer version, or not of its form.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let malformed = |error: serde_json::Error| RecordError::Malformed(error.to_string());
        let record: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        if record.v > RECORD_VERSION {
            return Err(RecordError::Newer { found: record.v.into() });
        }
        Ok(record)
    }
}
