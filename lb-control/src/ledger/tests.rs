//! The log folds to the same ledger however it is folded: live, replayed, from any snapshot on; and every prefix of the
//! events is a state that one can work with.

use super::{KEYS_PER_ACTOR, Ledger, SNAPSHOT_VERSION, SnapshotError};
use crate::code::Code;
use crate::command::Command;
use crate::decide::{Now, rehearse};
use crate::limits::Limits;
use crate::plan::{Observed, TableCache, desired, summarise};
use crate::record::{IdempotencyKey, RECORD_VERSION, Record};
use crate::state::State;
use crate::step::Steps;
use crate::testing::any_command;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The record of a command, if it is accepted.
fn record(state: &State, command: &Command, at_ms: u64, actor: &str, key: Option<&str>) -> Option<Record> {
    let decided = rehearse(state, &Limits::default(), Now(at_ms), command).ok()?;
    let command_id = format!("c{}", decided.after.revision);
    Some(Record {
        v: RECORD_VERSION,
        revision: decided.after.revision,
        at_ms,
        actor: actor.to_string(),
        command: command.kind().to_string(),
        correlation_id: command_id.clone(),
        command_id,
        causation_id: None,
        key: key.map(|key| IdempotencyKey { key: key.to_string(), content: command.digest() }),
        reason: None,
        events: decided.events,
    })
}

/// Whether one can work with a state: its indexes and sums are those of its vips, serials were given once and are
/// below the next ones, every vip has its tenant, and a plan can be made of it.
fn check(state: &State) -> Result<(), TestCaseError> {
    let stored: State = serde_json::from_slice(&serde_json::to_vec(state).unwrap()).unwrap();
    prop_assert_eq!(&stored, state, "indexes and sums");
    let mut vips = BTreeSet::new();
    let mut backends = BTreeSet::new();
    for (name, vip) in &state.vips {
        prop_assert!(vip.id < state.next.vip && vips.insert(vip.id), "serial of vip {}", name);
        prop_assert!(state.tenants.contains_key(&vip.tenant), "tenant of vip {}", name);
        prop_assert!(vip.revision <= state.revision);
        prop_assert_eq!(state.vip_serving(&vip.served).map(|(name, _)| name), Some(name.as_str()));
    }
    for (_, vip, name, backend) in state.backends() {
        prop_assert!(backend.id < state.next.backend && backends.insert(backend.id), "serial of {}", name);
        prop_assert!(backend.revision <= vip.revision && state.is_backend_address(backend.address));
    }
    prop_assert!(state.tenants.values().all(|tenant| tenant.id < state.next.tenant));
    desired(state, &Observed::default(), &mut TableCache::default());
    summarise(&State::default(), state, &Observed::default());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_log_folds_to_one_ledger_live_replayed_and_across_any_snapshot(
        commands in proptest::collection::vec((any_command(), any::<bool>()), 1..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut live, mut log) = (Ledger::default(), Vec::new());
        for (index, (command, with_key)) in commands.iter().enumerate() {
            let key = format!("k{index}");
            let key = with_key.then_some(key.as_str());
            // Times that go back and forth are only labels.
            let at_ms = (index as u64).wrapping_mul(7_919) % 101;
            let Some(record) = record(&live.state, command, at_ms, "tester", key) else { continue };
            for event in &record.events {
                let mut prefix = live.state.clone();
                prefix.apply(event);
                live.state = prefix;
                check(&live.state)?;
            }
            live.keys.remember(&record);
            log.push(Record::parse(&record.to_bytes()).unwrap());
        }
        let replayed = Ledger::replay(&log);
        prop_assert_eq!(&replayed, &live);
        prop_assert_eq!(replayed.digest(), live.digest());
        prop_assert_eq!(Ledger::replay(&log).digest(), live.digest(), "twice the same");
        let (first, rest) = log.split_at(cut.index(log.len() + 1));
        let mut stepped = Ledger::default();
        for part in [first, rest] {
            let bytes: Vec<Vec<u8>> = part.iter().map(Record::to_bytes).collect();
            let mut steps = Steps::default();
            let until = part.last().map_or(stepped.state.revision, |record| record.revision);
            steps.parse(stepped.state.revision, until, bytes.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(steps.records, part.len() as u64);
            stepped.take(&steps);
        }
        prop_assert_eq!(&stepped, &live);
        let mut resumed = Ledger::from_snapshot(&Ledger::replay(first).to_snapshot()).unwrap();
        rest.iter().for_each(|record| resumed.apply(record));
        prop_assert_eq!(&resumed, &live);
        prop_assert_eq!(resumed.digest(), live.digest());
    }
}

fn tenant(name: &str) -> Command {
    serde_json::from_value(serde_json::json!({ "kind": "tenant_add", "name": name })).unwrap()
}

/// A key comes again only when it is forgotten.
#[test]
fn many_keys_at_once_are_remembered_as_one_by_one() {
    let mut state = State::default();
    let mut of = |index: u64| {
        let actor = ["ann", "bob"][usize::from(index.is_multiple_of(3))];
        let key = format!("k{}", index % (2 * KEYS_PER_ACTOR as u64 + 11));
        let command = serde_json::json!({ "kind": "bypass_set", "on": !state.bypass });
        let one = record(&state, &serde_json::from_value(command).unwrap(), 0, actor, Some(&key)).unwrap();
        one.events.iter().for_each(|event| state.apply(event));
        one
    };
    let log: Vec<Record> = (1..=5 * KEYS_PER_ACTOR as u64).map(&mut of).collect();
    let (mut single, mut paged) = (Ledger::default(), Ledger::default());
    log.iter().for_each(|record| single.apply(record));
    let mut steps = Steps::default();
    for page in log.chunks(7 * KEYS_PER_ACTOR / 4) {
        let bytes: Vec<Vec<u8>> = page.iter().map(Record::to_bytes).collect();
        steps
            .parse(page[0].revision_before(), page[page.len() - 1].revision, bytes.iter().map(Vec::as_slice))
            .unwrap();
        paged.take(&steps);
    }
    assert_eq!(single.keys, paged.keys);
    assert!(single.keys.0["ann"].order.len() == KEYS_PER_ACTOR);
}

#[test]
fn the_oldest_keys_are_forgotten_by_count_and_by_actor() {
    let bypass =
        |on: bool| serde_json::from_value(serde_json::json!({ "kind": "bypass_set", "on": on })).unwrap();
    let add = |ledger: &mut Ledger, actor: &str, key: &str| {
        let one = record(&ledger.state, &bypass(!ledger.state.bypass), 0, actor, Some(key)).unwrap();
        ledger.apply(&one);
    };
    let mut ledger = Ledger::default();
    add(&mut ledger, "ann", "first");
    add(&mut ledger, "bob", "first");
    for index in 1..KEYS_PER_ACTOR {
        add(&mut ledger, "ann", &format!("k{index}"));
    }
    add(&mut ledger, "bob", "second");
    let place =
        |ledger: &Ledger, actor: &str| ledger.keys.find(actor, "first").map(|one| (one.before, one.revision));
    assert_eq!((place(&ledger, "ann"), place(&ledger, "bob")), (Some((0, 1)), Some((1, 2))));
    let mut over = ledger;
    add(&mut over, "ann", "one more");
    assert_eq!(over.keys.find("ann", "first"), None);
    assert!(over.keys.find("ann", "k1").is_some() && over.keys.find("bob", "first").is_some());
    assert!(over.keys.find("carl", "first").is_none());
    let mut resumed = Ledger::from_snapshot(&over.to_snapshot()).unwrap();
    assert_eq!(resumed, over);
    add(&mut resumed, "ann", "two more");
    assert_eq!(resumed.keys.find("ann", "k1"), None, "a snapshot keeps their order");
}

#[test]
fn a_snapshot_that_is_not_what_was_written_is_refused() {
    let mut ledger = Ledger::default();
    let one = record(&ledger.state, &tenant("red"), 0, "ann", Some("k")).unwrap();
    ledger.apply(&one);
    let bytes = ledger.to_snapshot();
    assert_eq!(Ledger::from_snapshot(&bytes).unwrap(), ledger);
    let text = String::from_utf8(bytes.clone()).unwrap();
    let other = text.replace("\"red\"", "\"rod\"");
    assert!(matches!(Ledger::from_snapshot(other.as_bytes()), Err(SnapshotError::Digest { .. })));
    let newer = text.replacen("\"v\":1", "\"v\":2", 1);
    assert_eq!(Ledger::from_snapshot(newer.as_bytes()), Err(SnapshotError::Version { found: 2 }));
    assert!(matches!(Ledger::from_snapshot(&bytes[..bytes.len() / 2]), Err(SnapshotError::Malformed(_))));
    assert_eq!(SNAPSHOT_VERSION, 1);
}

#[test]
fn one_command_makes_no_more_changes_than_one_record_holds() {
    let names = |count: usize| {
        let tenants: Vec<_> = (0..count).map(|n| serde_json::json!({ "name": format!("t{n}") })).collect();
        let json = serde_json::json!({ "kind": "apply", "document": { "tenant": tenants } });
        serde_json::from_value::<Command>(json).unwrap()
    };
    let decided = |count| rehearse(&State::default(), &Limits::default(), Now(0), &names(count));
    assert_eq!(decided(131_072).unwrap().events.len(), 131_072);
    assert_eq!(decided(131_073).unwrap_err().code, Code::Capacity);
}

#[test]
fn a_clock_that_goes_back_changes_labels_only() {
    let gone = serde_json::json!({ "kind": "tenant_remove", "name": "a" });
    let commands = [tenant("a"), tenant("b"), serde_json::from_value(gone).unwrap()];
    let folded = |times: [u64; 3]| {
        let mut ledger = Ledger::default();
        for (at_ms, command) in times.into_iter().zip(&commands) {
            let key = format!("k{}", ledger.state.revision);
            let one = record(&ledger.state, command, at_ms, "ann", Some(&key)).unwrap();
            ledger.apply(&one);
        }
        ledger
    };
    let (forth, back) = (folded([1_000, 2_000, 3_000]), folded([1_000, 500, 0]));
    assert_eq!(forth, back);
    assert_eq!(back.state.tenants.keys().collect::<Vec<_>>(), ["b", "default"]);
    assert_eq!(back.keys.find("ann", "k2").map(|one| one.revision), Some(3));
}

#[test]
fn a_rejection_shows_no_more_faults_than_a_person_reads() {
    let tenants: Vec<_> = (0..5_000).map(|_| serde_json::json!({ "name": "Bad Name" })).collect();
    let json = serde_json::json!({ "kind": "apply", "document": { "tenant": tenants } });
    let command: Command = serde_json::from_value(json).unwrap();
    let rejection = rehearse(&State::default(), &Limits::default(), Now(0), &command).unwrap_err();
    assert_eq!(rejection.also.len(), 99);
}
