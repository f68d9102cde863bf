//! What the fold of the log needs of a record, and nothing else: a start reads a million of them.
//!
//! It is a shorter way to read the same bytes: [`Step::parse`] of a record is the [`Step`] of [`Record::parse`] of it. What it
//! does not need it skips: of ids and connection it sees only that they are there.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::event::{EVENT_VERSION, Event};
use crate::ledger::Remembered;
use crate::record::{RECORD_VERSION, Record, RecordError};

/// What a fold needs of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The revision after its events.
    pub revision: u64,
    /// Who asked.
    pub actor: String,
    /// What is to be remembered of its key, if it has one.
    pub key: Option<Remembered>,
    /// What followed from it, in order.
    pub events: Vec<Event>,
}

/// A record of today's form, as far as it is needed; strings stay where they are.
#[derive(Deserialize)]
struct Form<'b> {
    v: u16,
    revision: u64,
    #[serde(rename = "at_ms")]
    _at_ms: IgnoredAny,
    #[serde(borrow)]
    actor: Cow<'b, str>,
    #[serde(rename = "command")]
    _command: IgnoredAny,
    #[serde(rename = "command_id")]
    _command_id: IgnoredAny,
    #[serde(rename = "correlation_id")]
    _correlation_id: IgnoredAny,
    #[serde(borrow, default)]
    key: Option<Key<'b>>,
    #[serde(deserialize_with = "mostly_one")]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Key<'b> {
    #[serde(borrow)]
    key: Cow<'b, str>,
    #[serde(borrow)]
    content: Cow<'b, str>,
}

/// As a list is read, but with room for the one that there nearly always is: four would be as long as all else together.
fn mostly_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Event>, D::Error> {
    struct Events;
    impl<'de> Visitor<'de> for Events {
        type Value = Vec<Event>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("events")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Event>, A::Error> {
            let mut events = Vec::with_capacity(1);
            while let Some(event) = seq.next_element()? {
                events.push(event);
            }
            Ok(events)
        }
    }
    deserializer.deserialize_seq(Events)
}

impl Step {
    /// The revision before its events.
    pub fn revision_before(&self) -> u64 {
        self.revision.saturating_sub(self.events.len() as u64)
    }

    /// A step out of the log's bytes, of whatever version.
    ///
    /// # Errors
    /// As [`Record::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        match serde_json::from_slice::<Form<'_>>(bytes) {
            Ok(form) if form.is_of_today() => Ok(form.step()),
            _ => Record::parse(bytes).map(|record| Self::of(&record)),
        }
    }

    /// What a fold needs of this record.
    pub fn of(record: &Record) -> Self {
        let (revision, actor) = (record.revision, record.actor.clone());
        Self { revision, actor, key: Remembered::of(record), events: record.events.clone() }
    }
}

impl Form<'_> {
    fn is_of_today(&self) -> bool {
        self.v == RECORD_VERSION && self.events.iter().all(|event| event.v == EVENT_VERSION)
    }

    fn step(self) -> Step {
        let Self { revision, events, .. } = self;
        let before = revision.saturating_sub(events.len() as u64);
        let remembered = |Key { key, content }| Remembered {
            key: Cow::as_ref(&key).into(),
            content: Cow::into_owned(content),
            before,
            revision,
        };
        Step { revision, actor: self.actor.into_owned(), key: self.key.map(remembered), events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_version_it_is_what_the_record_comes_down_to() {
        for sample in [
            include_str!("../samples/record-v0.json"),
            include_str!("../samples/record-v1.json"),
            include_str!("../samples/record-v1-event-v2.json"),
            include_str!("../samples/record-v1-event-v3.json"),
        ] {
            let record = Record::parse(sample.as_bytes()).unwrap();
            assert_eq!(Step::parse(sample.as_bytes()), Ok(Step::of(&record)));
            assert_eq!(Step::of(&record).revision_before(), record.revision_before());
            assert_eq!(Step::parse(&record.to_bytes()), Ok(Step::of(&record)));
        }
    }

    #[test]
    fn what_is_no_record_is_no_step() {
        for bad in [r#"{"v": 9}"#, r#"{"v": 1, "revision": 1}"#, "", "no record"] {
            assert_eq!(Step::parse(bad.as_bytes()), Err(Record::parse(bad.as_bytes()).unwrap_err()));
        }
        let escaped = r#"{"v":1,"revision":1,"at_ms":0,"actor":"a\"b","command":"c","command_id":"i","correlation_id":"i",
            "events":[{"v":2,"at_ms":0,"change":{"kind":"bypass_changed","of":{"on":true}}}]}"#;
        let step = Step::parse(escaped.as_bytes()).unwrap();
        assert_eq!((step.actor.as_str(), step.revision_before()), ("a\"b", 0));
        let lacking = escaped.replace(r#","correlation_id":"i""#, "");
        assert!(Step::parse(lacking.as_bytes()).is_err());
    }
}
