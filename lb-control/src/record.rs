//! The unit of the intent log: one accepted command with all that followed from it, so that either all of it happened
//! or none. Who asked, why and in what connection stand here once, for all its events.
//!
//! A record is JSON within the log's frame. What older versions wrote is brought to today's form by [`Record::parse`];
//! one stored sample of every version ever written is read by a test.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{EVENT_VERSION, Event};

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
    /// It has an event that a newer version wrote.
    #[error("it has an event of version {found}, and this build reads up to {EVENT_VERSION}")]
    NewerEvent {
        /// The event's version.
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
        // Nearly all records are of today's form; the others take the longer way.
        if let Ok(record) = serde_json::from_slice::<Self>(bytes)
            && record.v == RECORD_VERSION
            && record.events.iter().all(|event| event.v == EVENT_VERSION)
        {
            return Ok(record);
        }
        let malformed = |error: serde_json::Error| RecordError::Malformed(error.to_string());
        let mut value: Value = serde_json::from_slice(bytes).map_err(malformed)?;
        upcast(&mut value)?;
        serde_json::from_value(value).map_err(malformed)
    }

    /// Whether this is why a newer version of the program is needed, rather than damage.
    pub fn is_newer(error: &RecordError) -> bool {
        matches!(error, RecordError::Newer { .. } | RecordError::NewerEvent { .. })
    }
}

/// A step from one version to the next.
type Step = fn(&mut Value);

/// Step N brings a record of version N to version N + 1.
const RECORD_STEPS: [Step; RECORD_VERSION as usize] = [record_from_0];
/// Step N brings an event of version N + 1 to version N + 2: events began with version 1.
const EVENT_STEPS: [Step; EVENT_VERSION as usize - 1] = [event_from_1, event_from_2, event_from_3];

/// Brings a record with its events to today's form.
fn upcast(record: &mut Value) -> Result<(), RecordError> {
    let version = |value: &Value| value.get("v").and_then(Value::as_u64);
    let found = version(record).unwrap_or(0);
    let steps = usize::try_from(found).ok().and_then(|found| RECORD_STEPS.get(found..));
    let steps = steps.ok_or(RecordError::Newer { found })?;
    steps.iter().for_each(|step| step(record));
    let events = record.get_mut("events").and_then(Value::as_array_mut);
    for event in events.into_iter().flatten() {
        let found = version(event).unwrap_or(0);
        let first = found
            .checked_sub(1)
            .ok_or_else(|| RecordError::Malformed("an event names no version".to_string()))?;
        let steps = usize::try_from(first).ok().and_then(|first| EVENT_STEPS.get(first..));
        steps.ok_or(RecordError::NewerEvent { found })?.iter().for_each(|step| step(event));
    }
    Ok(())
}

/// Version 0 named no version, and neither time, command, key nor connection: `{revision, actor, command_id, events}`.
fn record_from_0(record: &mut Value) {
    let at_ms = record.pointer("/events/0/at_ms").cloned().unwrap_or(Value::from(0));
    let command_id = record.get("command_id").cloned().unwrap_or_default();
    let Some(fields) = record.as_object_mut() else { return };
    fields.insert("v".to_string(), Value::from(1));
    fields.insert("at_ms".to_string(), at_ms);
    fields.insert("command".to_string(), Value::from("unknown"));
    fields.insert("correlation_id".to_string(), command_id);
}

/// Version 1 had what happened among its own fields: `{v, at_ms, kind, …}`.
fn event_from_1(event: &mut Value) {
    let Some(fields) = event.as_object_mut() else { return };
    let at_ms = fields.remove("at_ms").unwrap_or_default();
    let kind = fields.remove("kind").unwrap_or_default();
    fields.remove("v");
    let of = std::mem::take(fields);
    *event = serde_json::json!({ "v": 2, "at_ms": at_ms, "change": { "kind": kind, "of": of } });
}

/// Version 2 knew no breaker, no choice of algorithm and one kind of probe: what a vip leaves out means what it did then.
fn event_from_2(event: &mut Value) {
    event["v"] = Value::from(3);
}

/// Version 3 knew no limits of tenants, no backups and no lower rungs of the ladder: a vip without them has none.
fn event_from_3(event: &mut Value) {
    event["v"] = Value::from(4);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One stored sample of every version of records and events ever written; they are never edited.
    const SAMPLES: [&str; RECORD_VERSION as usize + EVENT_VERSION as usize] = [
        include_str!("../samples/record-v0.json"),
        include_str!("../samples/record-v1.json"),
        include_str!("../samples/record-v1-event-v2.json"),
        include_str!("../samples/record-v1-event-v3.json"),
        include_str!("../samples/record-v1-event-v4.json"),
    ];

    #[test]
    fn records_of_every_version_ever_written_are_read() {
        for (version, sample) in SAMPLES.iter().enumerate() {
            let record = Record::parse(sample.as_bytes()).unwrap_or_else(|why| panic!("{version}: {why}"));
            assert_eq!(record.v, RECORD_VERSION);
            assert_eq!((record.actor.as_str(), record.at_ms), ("ann", 1_767_225_600_000), "{version}");
            assert!(!record.command_id.is_empty() && record.correlation_id.starts_with("0198"), "{version}");
            assert_eq!(record.revision_before() + record.events.len() as u64, record.revision);
            let state = crate::state::State::replay(&record.events);
            assert_eq!(state.backend("web", "b1").map(|backend| backend.weight), Some(50), "{version}");
            assert_eq!(state.vips["web"].settings.window_s, 60, "{version}");
        }
    }

    #[test]
    fn what_is_written_today_is_the_newest_sample_to_the_letter() {
        let newest = SAMPLES[SAMPLES.len() - 1];
        let record = Record::parse(newest.as_bytes()).unwrap();
        let written: Value = serde_json::from_slice(&record.to_bytes()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(newest).unwrap());
        let kinds = written["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["change"]["kind"].as_str().unwrap());
        let kinds: std::collections::BTreeSet<_> = kinds.collect();
        assert_eq!(kinds.len(), 14, "the sample has every kind of event: {kinds:?}");
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused_as_such() {
        let newest = SAMPLES[SAMPLES.len() - 1];
        let record = newest.replacen("\"v\": 1", "\"v\": 2", 1);
        assert_eq!(Record::parse(record.as_bytes()), Err(RecordError::Newer { found: 2 }));
        let strange = r#"{"v": 9, "shape": "unknown"}"#;
        assert_eq!(Record::parse(strange.as_bytes()), Err(RecordError::Newer { found: 9 }));
        let event = newest.replacen("{\"v\": 4, \"at_ms\"", "{\"v\": 5, \"at_ms\"", 1);
        let error = Record::parse(event.as_bytes()).unwrap_err();
        assert_eq!(error, RecordError::NewerEvent { found: 5 });
        assert!(Record::is_newer(&error));
        let error = Record::parse(b"{\"v\": 1}").unwrap_err();
        assert!(!Record::is_newer(&error) && error.to_string().contains("missing field"), "{error}");
        assert!(Record::parse(b"no record").is_err());
    }
}
