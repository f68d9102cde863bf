//! Where in the log something is found: the revisions of an object, of an actor, of a time, of a command's id. It holds
//! no records; the log does.
//!
//! It is a list of chunks of [`CHUNK`] records, each with indexes of its own. Only the last one grows, so a clone shares
//! all others, and a question walks the chunks from the end it asks for and stops when it has enough.
//!
//! **Time.** Revisions order records, times only label them. The state as of a time is that after the *last record, in
//! the order of revisions, whose time is not later*. Where a clock was set back, records that bear a later time but
//! stand before such a record are part of it, because they had happened.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use xxhash_rust::xxh64::xxh64;

use super::Projection;
use super::object::Object;
use crate::event::Change;
use crate::record::Record;

/// Records of a chunk: few enough to copy one after every change, enough to make chunks few.
const CHUNK: usize = 128;

/// Where everything stands in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    chunks: Vector<Arc<Chunk>>,
    /// The tenant of each vip that there is.
    tenants: OrdMap<Arc<str>, Arc<str>>,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The revision before it.
    pub before: u64,
    /// The revision after it.
    pub revision: u64,
    /// When it was decided, milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Which records are looked for; what is `None` lets all through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// About this object. A vip's are its backends' too, a tenant's those of its vips.
    pub object: Option<Object>,
    /// By this actor.
    pub actor: Option<String>,
    /// Not before this time, milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Not after this time, milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
    /// Up to this revision.
    pub up_to: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chunk {
    places: Vec<Place>,
    objects: BTreeMap<Object, Vec<u16>>,
    actors: BTreeMap<Arc<str>, Vec<u16>>,
    /// By [`hash`] of the command's id; another id may have the same.
    commands: BTreeMap<u64, u16>,
    first_ms: u64,
    last_ms: u64,
}

fn hash(command_id: &str) -> u64 {
    xxh64(command_id.as_bytes(), 0)
}

impl Projection for Timeline {
    const NAME: &'static str = "timeline";

    fn apply(&mut self, record: &Record) {
        let objects = self.touched(record);
        if self.chunks.last().is_none_or(|last| last.places.len() == CHUNK) {
            let (first_ms, last_ms) = (record.at_ms, record.at_ms);
            self.chunks.push_back(Arc::new(Chunk { first_ms, last_ms, ..Chunk::default() }));
        }
        if let Some(open) = self.chunks.back_mut() {
            Arc::make_mut(open).add(record, objects);
        }
    }

    fn revision(&self) -> u64 {
        self.chunks.last().and_then(|chunk| chunk.places.last()).map_or(0, |place| place.revision)
    }
}

impl Timeline {
    /// What a record is about, each once. Takes in which tenant has which vip.
    fn touched(&mut self, record: &Record) -> Vec<Object> {
        let mut objects = Vec::new();
        for event in &record.events {
            let Some(object) = Object::of(&event.change) else { continue };
            if let Change::VipAdded { vip, tenant, .. } = &event.change {
                self.tenants.insert(vip.as_str().into(), tenant.as_str().into());
            }
            if let Object::Vip(vip) | Object::Backend(vip, _) = &object {
                objects.extend(self.tenants.get(vip).cloned().map(Object::Tenant));
                objects.push(Object::Vip(vip.clone()));
            }
            if let Change::VipRemoved { vip } = &event.change {
                self.tenants.remove(vip.as_str());
            }
            objects.push(object);
        }
        objects.sort_unstable();
        objects.dedup();
        objects
    }

    /// Places of the records that are wanted, the last `limit` of them, oldest first; and whether there are more
    /// before them.
    pub fn find(&self, wanted: &Wanted, limit: usize) -> (Vec<Place>, bool) {
        let mut found = Vec::new();
        for chunk in self.chunks.iter().rev() {
            found.extend(chunk.find(wanted).into_iter().rev().take(limit + 1 - found.len()));
            if found.len() > limit {
                break;
            }
        }
        let more = found.len() > limit;
        found.truncate(limit);
        found.reverse();
        (found, more)
    }

    /// The last record at or before a revision: what a state as of that revision has last taken in.
    pub fn at_revision(&self, revision: u64) -> Option<Place> {
        let later = |chunk: &Arc<Chunk>| chunk.places[0].revision > revision;
        let order = |chunk: &Arc<Chunk>| if later(chunk) { Ordering::Greater } else { Ordering::Less };
        let (Ok(chunk) | Err(chunk)) = self.chunks.binary_search_by(order);
        let chunk = self.chunks.get(chunk.checked_sub(1)?)?;
        let index = chunk.places.partition_point(|place| place.revision <= revision);
        chunk.places.get(index.checked_sub(1)?).copied()
    }

    /// The last record as of a time, in milliseconds since the Unix epoch: see the head of this file.
    pub fn at_time(&self, at_ms: u64) -> Option<Place> {
        let chunk = self.chunks.iter().rev().find(|chunk| chunk.first_ms <= at_ms)?;
        chunk.places.iter().rev().find(|place| place.at_ms <= at_ms).copied()
    }

    /// Where the records may be that a command of this id made: the reader compares the id itself.
    pub fn of_command(&self, command_id: &str) -> Vec<Place> {
        let hash = hash(command_id);
        let place = |chunk: &Arc<Chunk>| chunk.commands.get(&hash).map(|at| chunk.places[usize::from(*at)]);
        self.chunks.iter().rev().filter_map(place).collect()
    }

    /// Every object that the log ever spoke of, those that are gone too; and, when asked again and again, one twice.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.chunks.iter().rev().flat_map(|chunk| chunk.objects.keys())
    }

    /// Every actor, one perhaps twice.
    pub fn actors(&self) -> impl Iterator<Item = &str> {
        self.chunks.iter().rev().flat_map(|chunk| chunk.actors.keys().map(|name| &**name))
    }

    /// Whether the log ever spoke of it.
    pub fn knows(&self, object: &Object) -> bool {
        self.chunks.iter().rev().any(|chunk| chunk.objects.contains_key(object))
    }
}

impl Chunk {
    fn add(&mut self, record: &Record, objects: Vec<Object>) {
        let index = self.places.len() as u16;
        let (before, revision, at_ms) = (record.revision_before(), record.revision, record.at_ms);
        self.places.push(Place { before, revision, at_ms });
        (self.first_ms, self.last_ms) = (self.first_ms.min(at_ms), self.last_ms.max(at_ms));
        for object in objects {
            self.objects.entry(object).or_default().push(index);
        }
        match self.actors.get_mut(record.actor.as_str()) {
            Some(own) => own.push(index),
            None => drop(self.actors.insert(record.actor.as_str().into(), vec![index])),
        }
        self.commands.insert(hash(&record.command_id), index);
    }

    fn find(&self, wanted: &Wanted) -> Vec<Place> {
        let (since_ms, until_ms) = (wanted.since_ms.unwrap_or(0), wanted.until_ms.unwrap_or(u64::MAX));
        if self.last_ms < since_ms || self.first_ms > until_ms {
            return Vec::new();
        }
        let none = Vec::new();
        let of_object = wanted.object.as_ref().map(|object| self.objects.get(object).unwrap_or(&none));
        let of_actor = wanted.actor.as_ref().map(|actor| self.actors.get(actor.as_str()).unwrap_or(&none));
        let fits = |place: &Place| {
            (since_ms..=until_ms).contains(&place.at_ms)
                && wanted.up_to.is_none_or(|up_to| place.revision <= up_to)
        };
        let place = |index: &u16| Some(self.places[usize::from(*index)]).filter(fits);
        match (of_object, of_actor) {
            (None, None) => self.places.iter().filter(|place| fits(place)).copied().collect(),
            (Some(own), None) | (None, Some(own)) => own.iter().filter_map(place).collect(),
            (Some(own), Some(theirs)) => {
                let both = own.iter().filter(|index| theirs.binary_search(index).is_ok());
                both.filter_map(place).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::testing::{any_log, rebuilt};
    use proptest::prelude::*;

    fn bypass(revision: u64, at_ms: u64) -> Record {
        let change = Change::BypassChanged { on: true };
        Record {
            v: 1,
            revision,
            at_ms,
            actor: "alice".to_owned(),
            command: "bypass_set".to_owned(),
            command_id: revision.to_string(),
            correlation_id: revision.to_string(),
            causation_id: None,
            key: None,
            reason: None,
            events: vec![crate::event::Event { v: crate::event::EVENT_VERSION, at_ms, change }],
        }
    }

    fn timeline(times: &[u64]) -> Timeline {
        let mut timeline = Timeline::default();
        times.iter().zip(1..).for_each(|(at_ms, revision)| timeline.apply(&bypass(revision, *at_ms)));
        timeline
    }

    #[test]
    fn a_clock_that_was_set_back_takes_nothing_out_of_the_past() {
        let timeline = timeline(&[100, 500, 200, 300]);
        let at = |at_ms| timeline.at_time(at_ms).map(|place| place.revision);
        assert_eq!(
            [at(99), at(100), at(250), at(499), at(9_999)],
            [None, Some(1), Some(3), Some(4), Some(4)]
        );
    }

    #[test]
    fn chunks_are_walked_and_not_seen() {
        let times: Vec<u64> = (0..3 * CHUNK as u64 + 7).collect();
        let timeline = timeline(&times);
        assert_eq!(timeline.chunks.len(), 4);
        let (found, more) = timeline.find(&Wanted::default(), CHUNK + 10);
        assert!(more && found.len() == CHUNK + 10);
        assert_eq!(found.last().map(|place| place.revision), Some(timeline.revision()));
        assert!(found.is_sorted_by_key(|place| place.revision));
        let last = 2 * CHUNK as u64;
        let (found, _) = timeline.find(&Wanted { up_to: Some(last), ..Wanted::default() }, 1);
        assert_eq!(found[0].revision, last);
        assert_eq!(timeline.at_revision(CHUNK as u64 + 1).unwrap().revision, CHUNK as u64 + 1);
        assert_eq!(timeline.at_time(CHUNK as u64).unwrap().revision, CHUNK as u64 + 1);
        assert_eq!(timeline.of_command("300")[0].revision, 300);
        assert!(timeline.at_revision(0).is_none() && timeline.of_command("none").is_empty());
    }

    proptest! {
        #[test]
        fn it_finds_what_a_walk_over_the_log_finds(log in any_log(), at_ms in 0_u64..1_000, up_to in 0_u64..60) {
            let mut timeline = Timeline::default();
            for record in &log {
                timeline.apply(record);
                prop_assert_eq!(&timeline, &rebuilt::<Timeline>(&log, record.revision));
            }
            let of = |place: Option<Place>| place.map(|place| place.revision);
            let walked = log.iter().rfind(|record| record.at_ms <= at_ms).map(|record| record.revision);
            prop_assert_eq!(of(timeline.at_time(at_ms)), walked);
            let walked = log.iter().rfind(|record| record.revision <= up_to).map(|record| record.revision);
            prop_assert_eq!(of(timeline.at_revision(up_to)), walked);
            for object in timeline.objects().filter(|object| !matches!(object, Object::Tenant(_))) {
                let about = |record: &&Record| {
                    record.actor == "bob"
                        && record.events.iter().filter_map(|event| Object::of(&event.change))
                            .any(|one| object.holds(&one))
                };
                let walked: Vec<u64> = log.iter().filter(about).map(|record| record.revision).collect();
                let wanted = Wanted {
                    object: Some(object.clone()), actor: Some("bob".to_owned()), ..Wanted::default()
                };
                let found: Vec<u64> =
                    timeline.find(&wanted, 1_000).0.iter().map(|place| place.revision).collect();
                prop_assert_eq!(found, walked);
            }
        }
    }
}
