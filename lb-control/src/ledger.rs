//! What the log folds to: the state of intent, and the keys that make repeated commands harmless.
//!
//! Keys are kept by count and never by clock ([`KEYS_PER_ACTOR`] for each actor), so that a replay forgets exactly
//! what the running daemon forgot. A snapshot ([`Ledger::to_snapshot`]) only speeds up a start: it carries a digest of
//! what it holds, and whoever cannot read it folds the log instead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::{Xxh64Builder, xxh64};

use crate::record::Record;
use crate::state::State;
use crate::step::Steps;

/// Keys that are remembered for one actor.
pub const KEYS_PER_ACTOR: usize = 4_096;
/// Version of the snapshots that this build writes, and the only one that it reads: another one is folded anew.
pub const SNAPSHOT_VERSION: u16 = 1;

/// The fold of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The state of intent.
    pub state: State,
    /// The keys of the last commands.
    pub keys: Keys,
}

/// Why a snapshot cannot be used. The log still can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Another version wrote it.
    #[error("it is of version {found}, and this build reads {SNAPSHOT_VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// It is not of its form.
    #[error("{0}")]
    Malformed(String),
    /// It is whole JSON, but not what was written.
    #[error("its content has the digest {found}, and it says {written}")]
    Digest {
        /// Of what was read.
        found: String,
        /// As it stands in it.
        written: String,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    v: u16,
    digest: String,
    ledger: &'a Ledger,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "v")]
    _v: u16,
    digest: String,
    ledger: Ledger,
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

    /// Takes in what the next records come down to.
    pub fn take(&mut self, steps: &Steps) {
        steps.events.iter().rev().for_each(|event| self.state.apply(event));
        for (actor, own) in &steps.keys {
            let all = own.newest_first.iter().rev().cloned();
            // As many as are remembered, each another one: all others are forgotten.
            let full = own.newest_first.len() == KEYS_PER_ACTOR;
            let whole = full.then(|| all.clone().collect::<OfActor>());
            match whole.filter(|new| new.order.len() == KEYS_PER_ACTOR) {
                Some(new) => drop(self.keys.0.insert(actor.clone(), new)),
                None => all.for_each(|one| self.keys.push(actor, one)),
            }
        }
    }

    /// Hash (xxh64) over all of it in its canonical form, compact JSON with ordered keys; 16 hexadecimal digits.
    pub fn digest(&self) -> String {
        let canonical = serde_json::to_vec(self).expect("string keys only, and written to memory");
        format!("{:016x}", xxh64(&canonical, 0))
    }

    /// Itself as bytes, with a version and a digest.
    pub fn to_snapshot(&self) -> Vec<u8> {
        let written = Written { v: SNAPSHOT_VERSION, digest: self.digest(), ledger: self };
        serde_json::to_vec(&written).expect("string keys only, and written to memory")
    }

    /// The ledger that a snapshot holds.
    ///
    /// # Errors
    /// It is of another version, damaged, or not what was written.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u16,
        }
        let malformed = |error: serde_json::Error| SnapshotError::Malformed(error.to_string());
        let Versioned { v: found } = serde_json::from_slice(bytes).map_err(malformed)?;
        if found != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { found });
        }
        let Read { digest: written, ledger, .. } = serde_json::from_slice(bytes).map_err(malformed)?;
        let found = ledger.digest();
        if found == written { Ok(ledger) } else { Err(SnapshotError::Digest { found, written }) }
    }
}

/// The keys of each actor's last commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys(BTreeMap<String, OfActor>);

#[expect(clippy::disallowed_types, reason = "looked up only: another field has the order")]
type ByKey = std::collections::HashMap<Arc<str>, Remembered, Xxh64Builder>;

/// One actor's keys: by key, and in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Remembered>", into = "Vec<Remembered>")]
struct OfActor {
    by_key: ByKey,
    order: VecDeque<Arc<str>>,
}

/// A key and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// The key.
    pub key: Arc<str>,
    /// Digest of the command that it came with.
    pub content: String,
    /// Revision before the command: where its record begins.
    pub before: u64,
    /// Revision after the command: where its record ends.
    pub revision: u64,
}

impl Remembered {
    /// What is remembered of a record, if it came with a key.
    pub fn of(record: &Record) -> Option<Self> {
        let key = record.key.as_ref()?;
        Some(Self {
            key: key.key.as_str().into(),
            content: key.content.clone(),
            before: record.revision_before(),
            revision: record.revision,
        })
    }
}

impl Keys {
    /// What became of an actor's key.
    pub fn find(&self, actor: &str, key: &str) -> Option<&Remembered> {
        self.0.get(actor)?.by_key.get(key)
    }

    /// Remembers a record's key, and forgets the actor's oldest if there are too many.
    pub fn remember(&mut self, record: &Record) {
        let Some(one) = Remembered::of(record) else { return };
        self.push(&record.actor, one);
    }

    fn push(&mut self, actor: &str, one: Remembered) {
        match self.0.get_mut(actor) {
            Some(own) => own.push(one),
            None => self.0.entry(actor.to_owned()).or_default().push(one),
        }
    }
}

/// The last keys of one actor among many records, as many as are remembered. None is there twice: who sends a key that is
/// remembered makes no record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastKeys {
    newest_first: Vec<Remembered>,
}

impl LastKeys {
    /// Takes a key that came before all others.
    pub(crate) fn older(&mut self, remembered: impl FnOnce() -> Remembered) {
        if self.newest_first.len() < KEYS_PER_ACTOR {
            self.newest_first.push(remembered());
        }
    }
}

impl OfActor {
    fn push(&mut self, one: Remembered) {
        let key = one.key.clone();
        if self.by_key.insert(key.clone(), one).is_some() {
            self.order.retain(|older| *older != key);
        }
        self.order.push_back(key);
        if self.order.len() > KEYS_PER_ACTOR
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }
}

impl FromIterator<Remembered> for OfActor {
    fn from_iter<I: IntoIterator<Item = Remembered>>(all: I) -> Self {
        let all = all.into_iter();
        let mut own = Self::default();
        own.by_key.reserve(all.size_hint().0.min(KEYS_PER_ACTOR));
        all.for_each(|one| own.push(one));
        own
    }
}

impl From<Vec<Remembered>> for OfActor {
    fn from(all: Vec<Remembered>) -> Self {
        all.into_iter().collect()
    }
}

impl From<OfActor> for Vec<Remembered> {
    fn from(own: OfActor) -> Self {
        let OfActor { mut by_key, order } = own;
        order.into_iter().filter_map(|key| by_key.remove(&key)).collect()
    }
}

#[cfg(test)]
mod tests;
