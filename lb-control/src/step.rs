//! What the fold of the log needs of many records in a row, and nothing else: a start reads a million of them.
//!
//! It is a shorter way to read the same bytes: what [`Steps::parse`] finds in records' bytes is what a fold takes from
//! these records. What it does not need it skips: of ids and connection it sees only that they are there, and of keys it copies only those that
//! are remembered in the end.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::event::{EVENT_VERSION, Event};
use crate::ledger::{LastKeys, Remembered};
use crate::record::{RECORD_VERSION, Record, RecordError};

/// What a fold needs of records in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// How many records they are.
    pub records: u64,
    /// What followed from them, the last first.
    pub(crate) events: Vec<Event>,
    /// The last keys of each actor.
    pub(crate) keys: BTreeMap<String, LastKeys>,
}

/// A record that cannot be read, or is not where it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The revision before it.
    pub after: u64,
    /// What is wrong with it.
    pub reason: RecordError,
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
    events: Events,
}

#[derive(Deserialize)]
struct Key<'b> {
    #[serde(borrow)]
    key: Cow<'b, str>,
    #[serde(borrow)]
    content: Cow<'b, str>,
}

/// A list, but the one event that there nearly always is needs no allocation.
#[derive(Deserialize)]
#[serde(from = "Vec<Event>")]
struct Events {
    first: Option<Event>,
    others: Vec<Event>,
}

impl From<Vec<Event>> for Events {
    fn from(others: Vec<Event>) -> Self {
        Self { first: None, others }
    }
}

impl Events {
    fn len(&self) -> u64 {
        u64::from(self.first.is_some()) + self.others.len() as u64
    }
}

/// What is left of a text that is read from front to back.
struct Rest<'b>(&'b str);

impl<'b> Rest<'b> {
    /// Goes past a text, if it is next.
    fn past(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// The number that is next.
    fn number(&mut self) -> Option<u64> {
        let length = self.0.bytes().position(|byte| !byte.is_ascii_digit())?;
        let (number, rest) = self.0.split_at(length);
        self.0 = rest;
        // JSON has no number that begins so.
        let padded = length > 1 && number.starts_with('0');
        number.parse().ok().filter(|_| !padded)
    }

    /// The event that is next.
    fn event(&mut self) -> Option<Event> {
        self.past(r#"{"v":"#)?;
        let v = self.number()?.try_into().ok()?;
        self.past(r#","at_ms":"#)?;
        let at_ms = self.number()?;
        self.past(r#","change":"#)?;
        let mut change = serde_json::Deserializer::from_str(self.0).into_iter();
        let event = Event { v, at_ms, change: change.next()?.ok()? };
        self.0 = self.0.get(change.byte_offset()..)?;
        self.past("}")?;
        Some(event)
    }

    /// What is next up to its quote, if nothing in it is escaped.
    fn word(&mut self) -> Option<&'b str> {
        let length = memchr::memchr2(b'"', b'\\', self.0.as_bytes())?;
        let (word, rest) = self.0.split_at(length);
        self.0 = rest.strip_prefix('"')?;
        Some(word)
    }
}

impl Steps {
    /// Becomes the steps of records out of the log's bytes, of whatever version, that lead from revision `after` to `until`; the
    /// room that it has it uses again.
    ///
    /// # Errors
    /// As [`Record::parse`], or a record does not begin where the one before it ended, or the last does not end at `until`:
    /// the first such.
    pub fn parse<'b, R>(&mut self, after: u64, until: u64, records: R) -> Result<(), Unread>
    where
        R: IntoIterator<Item = &'b [u8], IntoIter: DoubleEndedIterator + Clone>,
    {
        let records = records.into_iter();
        self.events.clear();
        self.keys.clear();
        self.records = 0;
        // From the last one on, so that of each actor the last keys come first, and the others need no look.
        let mut ends = until;
        for bytes in records.clone().rev() {
            match self.older(bytes, ends) {
                Some(before) => ends = before,
                None => return Err(first_fault(after, until, records)),
            }
        }
        if ends == after { Ok(()) } else { Err(first_fault(after, until, records)) }
    }

    /// Takes a record that ends where those begin that are here already; the revision before it. `None`: it does not.
    fn older(&mut self, bytes: &[u8], ends: u64) -> Option<u64> {
        // As text, whose letters are looked at once, and not again for each string in it.
        let by_name = |text| Form::as_written(text).or_else(|| serde_json::from_str(text).ok());
        let form = match std::str::from_utf8(bytes).ok().and_then(by_name).filter(Form::is_of_today) {
            Some(form) => form,
            None => Form::of(Record::parse(bytes).ok()?),
        };
        let Form { revision, actor, key, events, .. } = form;
        if revision != ends {
            return None;
        }
        let before = revision.saturating_sub(events.len());
        self.records += 1;
        self.events.extend(events.others.into_iter().rev());
        self.events.extend(events.first);
        if let Some(key) = key {
            let own = match self.keys.get_mut(&*actor) {
                Some(own) => own,
                None => self.keys.entry(actor.into_owned()).or_default(),
            };
            own.older(|| Remembered {
                key: (*key.key).into(),
                content: key.content.into(),
                before,
                revision,
            });
        }
        Some(before)
    }
}

/// The first record that cannot be read or is not where it should be, of records some of which are so.
fn first_fault<'b>(after: u64, until: u64, records: impl Iterator<Item = &'b [u8]>) -> Unread {
    let mut at = after;
    for bytes in records {
        match Record::parse(bytes) {
            Ok(record) if record.revision_before() == at => at = record.revision,
            Ok(record) => {
                let reason = format!("it begins at revision {}, not {at}", record.revision_before());
                return Unread { after: at, reason: RecordError::Malformed(reason) };
            }
            Err(reason) => return Unread { after: at, reason },
        }
    }
    let reason = format!("the log says that records lead on to revision {until}");
    Unread { after: at, reason: RecordError::Malformed(reason) }
}

impl<'b> Form<'b> {
    /// A record to the letter as [`Record::to_bytes`] writes it today, with nothing escaped: most of it is passed over
    /// without being looked at, which is a third of the time that it takes by names. `None`: it must be read by names.
    fn as_written(text: &'b str) -> Option<Self> {
        // No string has these as they are. To the end, whatever is found: that is many bytes at a time.
        if text.bytes().fold(false, |found, byte| found | (byte < b' ')) {
            return None;
        }
        let mut rest = Rest(text);
        rest.past(r#"{"v":"#)?;
        let v = rest.number()?.try_into().ok()?;
        rest.past(r#","revision":"#)?;
        let revision = rest.number()?;
        rest.past(r#","at_ms":"#)?;
        rest.number()?;
        rest.past(r#","actor":""#)?;
        let actor = rest.word()?.into();
        for skipped in [r#","command":""#, r#","command_id":""#, r#","correlation_id":""#] {
            rest.past(skipped)?;
            rest.word()?;
        }
        if rest.past(r#","causation_id":""#).is_some() {
            rest.word()?;
        }
        let mut key = None;
        if rest.past(r#","key":{"key":""#).is_some() {
            let name = rest.word()?.into();
            rest.past(r#","content":""#)?;
            key = Some(Key { key: name, content: rest.word()?.into() });
            rest.past("}")?;
        }
        if rest.past(r#","reason":""#).is_some() {
            rest.word()?;
        }
        rest.past(r#","events":["#)?;
        let mut events = Events { first: Some(rest.event()?), others: Vec::new() };
        while rest.past(",").is_some() {
            events.others.push(rest.event()?);
        }
        (rest.0 == "]}").then(|| Self::new(v, revision, actor, key, events))
    }

    fn is_of_today(&self) -> bool {
        let today = |event: &Event| event.v == EVENT_VERSION;
        self.v == RECORD_VERSION
            && self.events.first.iter().all(today)
            && self.events.others.iter().all(today)
    }

    fn of(record: Record) -> Self {
        let key = record.key.map(|own| Key { key: own.key.into(), content: own.content.into() });
        Self::new(record.v, record.revision, record.actor.into(), key, record.events.into())
    }

    fn new(v: u16, revision: u64, actor: Cow<'b, str>, key: Option<Key<'b>>, events: Events) -> Self {
        let [_at_ms, _command, _command_id, _correlation_id] = [IgnoredAny; 4];
        Self { v, revision, _at_ms, actor, _command, _command_id, _correlation_id, key, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use proptest::prelude::*;

    const SAMPLES: [&str; 5] = [
        include_str!("../samples/record-v0.json"),
        include_str!("../samples/record-v1.json"),
        include_str!("../samples/record-v1-event-v2.json"),
        include_str!("../samples/record-v1-event-v3.json"),
        include_str!("../samples/record-v1-event-v4.json"),
    ];

    fn text_of(record: &Record) -> String {
        String::from_utf8(record.to_bytes()).unwrap()
    }

    /// A ledger that took all that came before a revision, as far as these tests see.
    fn ledger_at(revision: u64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.state.revision = revision;
        ledger
    }

    #[test]
    fn of_every_version_they_are_what_the_record_comes_down_to() {
        for sample in SAMPLES {
            let record = Record::parse(sample.as_bytes()).unwrap();
            let before = record.revision_before();
            let mut due = ledger_at(before);
            due.apply(&record);
            for bytes in [sample.as_bytes(), &record.to_bytes()] {
                let mut steps = Steps::default();
                steps.parse(before, record.revision, [bytes]).unwrap();
                assert_eq!(steps.records, 1);
                let mut ledger = ledger_at(before);
                ledger.take(&steps);
                assert_eq!(ledger, due);
            }
        }
    }

    /// Otherwise a start would be three times as slow, and nothing would say so.
    #[test]
    fn what_is_written_today_is_read_as_it_is_written() {
        for sample in SAMPLES {
            let record = Record::parse(sample.as_bytes()).unwrap();
            let plain = Record { causation_id: None, key: None, reason: None, ..record.clone() };
            let some = || Some("some".to_owned());
            let full = Record { causation_id: some(), reason: some(), ..record.clone() };
            for record in [record, plain, full] {
                let text = text_of(&record);
                let form = Form::as_written(&text).unwrap();
                let by_name: Form<'_> = serde_json::from_str(&text).unwrap();
                assert_eq!(
                    (form.v, form.revision, &form.actor),
                    (by_name.v, by_name.revision, &by_name.actor)
                );
                let events: Vec<Event> = form.events.first.into_iter().chain(form.events.others).collect();
                assert_eq!(events, by_name.events.others);
                let words = |key: Option<Key<'_>>| {
                    key.map(|Key { key, content }| (key.to_string(), content.to_string()))
                };
                assert_eq!(words(form.key), words(by_name.key));
                let quoted = Record { actor: "a\"b".to_owned(), ..record };
                assert!(Form::as_written(&text_of(&quoted)).is_none());
            }
        }
    }

    #[test]
    fn what_is_no_record_or_not_the_next_is_no_step() {
        let parse_to = |after, until, texts: &[&str]| {
            let mut steps = Steps::default();
            steps.parse(after, until, texts.iter().map(|text| text.as_bytes())).map(|()| steps)
        };
        let parse = |after, texts: &[&str]| parse_to(after, after + texts.len() as u64, texts);
        for bad in [r#"{"v": 9}"#, r#"{"v": 1, "revision": 1}"#, "", "no record"] {
            let reason = Record::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(parse(7, &[bad]), Err(Unread { after: 7, reason }));
        }
        let escaped = r#"{"v":1,"revision":1,"at_ms":0,"actor":"a\"b","command":"c","command_id":"i","correlation_id":"i",
            "key":{"key":"k\n","content":"00"},
            "events":[{"v":4,"at_ms":0,"change":{"kind":"bypass_changed","of":{"on":true}}}]}"#;
        let (mut ledger, mut due) = (Ledger::default(), Ledger::default());
        ledger.take(&parse(0, &[escaped]).unwrap());
        due.apply(&Record::parse(escaped.as_bytes()).unwrap());
        assert_eq!(ledger, due);
        assert!(ledger.keys.find("a\"b", "k\n").is_some());
        let lacking = escaped.replace(r#","correlation_id":"i""#, "");
        assert!(parse(0, &[&lacking]).is_err());
        assert_eq!(parse(0, &[escaped, "no record", "nor this"]).unwrap_err().after, 1);
        assert!(parse(7, &[escaped]).unwrap_err().reason.to_string().contains("begins at revision 0, not 7"));
        let short = parse_to(0, 2, &[escaped]).unwrap_err();
        assert!(short.after == 1 && short.reason.to_string().contains("revision 2"), "{}", short.reason);
        assert!(parse_to(0, 1, &[]).is_err() && parse_to(1, 1, &[]).is_ok());
        let unread = parse(0, &[escaped, escaped]).unwrap_err();
        assert_eq!(unread.after, 1);
        assert!(unread.reason.to_string().contains("begins at revision 0, not 1"), "{}", unread.reason);
    }

    proptest! {
        /// Whatever is done to a record: if it is read by its order, it is read by names too, and is the same.
        #[test]
        fn what_is_read_by_order_is_read_by_names(
            sample in 0..SAMPLES.len(),
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![Just(b'0'), Just(b'"'), Just(b'\\'), Just(b'\n'), Just(b','), Just(b'}'), 0_u8..128],
            inserted in any::<bool>(),
        ) {
            let mut bytes = Record::parse(SAMPLES[sample].as_bytes()).unwrap().to_bytes();
            // The events are read by names either way.
            let head = bytes.windows(9).position(|part| part == b"\"events\":").unwrap();
            let at = at.index(head);
            if inserted { bytes.insert(at, byte) } else { bytes[at] = byte }
            let text = String::from_utf8(bytes).unwrap();
            if let Some(form) = Form::as_written(&text) {
                let record: Record = serde_json::from_str(&text).unwrap();
                prop_assert_eq!((form.v, form.revision, &*form.actor), (record.v, record.revision, &*record.actor));
                let key = form.key.map(|Key { key, content }| (key.into_owned(), content.into_owned()));
                prop_assert_eq!(key, record.key.map(|own| (own.key, own.content)));
            }
        }
    }
}
