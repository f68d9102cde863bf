//! What the log folds to: the state of intent, and the keys that make repeated commands harmless.
//!
//! Keys are kept by count and never by clock ([`KEYS_PER_ACTOR`] for each actor), so that a replay forgets exactly
//! what the running daemon forgot.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::state::State;

/// Keys that are remembered for one actor.
pub const KEYS_PER_ACTOR: usize = 4_096;

/// The fold of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The state of intent.
    pub state: State,
    /// The keys of the last commands.
    pub keys: Keys,
}

impl Ledger {
    /// The ledger after all of `records`.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut ledger = Self::default();
        records.into_iter().for_each(|record| ledger.apply(record));
        ledger
    }

    /// Takes one record in.
    pub fn apply(&mut self, record: &Record) {
        record.events.iter().for_each(|event| self.state.apply(event));
        self.keys.remember(record);
    }
}

/// The keys of each actor's last commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys(BTreeMap<String, VecDeque<Remembered>>);

/// A key and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The key.
    pub key: String,
    /// Digest of the command that it came with.
    pub content: String,
    /// Revision after the command: where its record ends.
    pub revision: u64,
}

impl Keys {
    /// What became of an actor's key.
    pub fn find(&self, actor: &str, key: &str) -> Option<&Remembered> {
        self.0.get(actor)?.iter().rev().find(|one| one.key == key)
    }

    /// Remembers a record's key, and forgets the actor's oldest if there are too many.
    pub fn remember(&mut self, record: &Record) {
        let Some(key) = &record.key else { return };
        let (key, content) = (key.key.clone(), key.content.clone());
        let own = self.0.entry(record.actor.clone()).or_default();
        own.push_back(Remembered { key, content, revision: record.revision });
        if own.len() > KEYS_PER_ACTOR {
            own.pop_front();
        }
    }
}
