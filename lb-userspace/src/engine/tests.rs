//! The single writer: durable before answered, in groups, whatever the store does; keys, expected revisions, snapshots.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lb_control::command::{TenantRemove, TenantSpec, VipSpec};
use lb_control::ledger::Ledger;
use lb_control::vip::Protocol;
use tokio::task::JoinHandle;

use super::writer::SNAPSHOT_RECORDS;
use super::*;
use crate::journal::log::LogError;
use crate::journal::{AppendError, Failing, LogReader, MemoryStore, StoreError, read_all};

/// A store that counts, waits and goes away on demand.
#[derive(Clone, Default)]
struct Watched {
    store: MemoryStore,
    appends: Arc<AtomicUsize>,
    /// Appends wait while somebody holds it.
    gate: Arc<Mutex<()>>,
    away: Arc<AtomicBool>,
}

impl Watched {
    fn closed(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventStore for Watched {
    fn append(&mut self, expected: u64, records: &[Arc<Record>]) -> Result<Head, AppendError> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        drop(self.closed());
        self.store.append(expected, records)
    }
    fn reload(&mut self) -> Result<Head, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            let (path, source) = ("journal".into(), std::io::Error::other("told to be away"));
            return Err(StoreError::Log(LogError::Io { path, doing: "read", source }));
        }
        self.store.reload()
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        self.store.reader()
    }
    fn save_snapshot(&mut self, head: Head, state: &[u8]) -> Result<(), StoreError> {
        self.store.save_snapshot(head, state)
    }
}

fn engine() -> (Engine, MemoryStore) {
    let store = MemoryStore::default();
    (Engine::start(Folded::default(), Limits::default(), store.clone()), store)
}

fn watched() -> (Engine, Watched) {
    let store = Watched::default();
    (Engine::start(Folded::default(), Limits::default(), store.clone()), store)
}

fn vip(name: &str) -> Command {
    Command::VipAdd(VipSpec::new(name, "203.0.113.10".parse().unwrap(), 80, Protocol::Tcp))
}

fn tenant(name: &str) -> Command {
    Command::TenantAdd(TenantSpec::new(name))
}

fn from(actor: &str, command: Command) -> Request {
    Request::new(command, actor)
}

fn keyed(command: Command, key: &str) -> Request {
    Request { key: Some(key.to_owned()), ..from("ann", command) }
}

fn ask(engine: &Engine, request: Request) -> JoinHandle<Result<Accepted, Problem>> {
    let engine = engine.clone();
    tokio::spawn(async move { engine.submit(request).await })
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let patience = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), patience).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Waits without giving the thread away: a guard that is held must not live over an await.
fn block_until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    tokio::task::block_in_place(|| {
        while !so() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Has these decided together: the writer is held up in the append of a first command until all of them wait, in order.
/// Returns the answers, the first one's first.
async fn together(
    engine: &Engine,
    store: &Watched,
    requests: Vec<Request>,
    before_release: impl FnOnce(),
) -> Vec<Result<Accepted, Problem>> {
    let appends = store.appends.load(Ordering::SeqCst);
    let mut asked;
    {
        let held = store.closed();
        asked = vec![ask(engine, from("first", tenant("first")))];
        block_until("the first one's append begins", || store.appends.load(Ordering::SeqCst) > appends);
        for (request, place) in requests.into_iter().zip(1..) {
            asked.push(ask(engine, request));
            block_until("it waits", || QUEUE - engine.inputs.capacity() == place);
        }
        before_release();
        drop(held);
    }
    let mut answers = Vec::new();
    for one in asked {
        answers.push(one.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn an_accepted_command_is_in_the_journal_with_who_why_and_its_connection() {
    let (engine, store) = engine();
    let request = Request {
        reason: Some("black friday".to_owned()),
        causation_id: Some("before".to_owned()),
        ..keyed(vip("web"), "k1")
    };
    let accepted = engine.submit(request.clone()).await.unwrap();
    assert_eq!(accepted.record.revision, engine.state().revision);
    let records = store.records();
    assert_eq!(records, std::slice::from_ref(&accepted.record));
    let record = &records[0];
    assert_eq!((record.actor.as_str(), record.command.as_str()), ("ann", "vip_add"));
    assert_eq!(record.reason.as_deref(), Some("black friday"));
    assert_eq!(record.correlation_id, record.command_id);
    assert_eq!(record.causation_id.as_deref(), Some("before"));
    assert_eq!(record.key.as_ref().map(|key| key.key.as_str()), Some("k1"));
    let in_chain = Request { correlation_id: Some("first".to_owned()), ..from("ann", tenant("acme")) };
    assert_eq!(engine.submit(in_chain).await.unwrap().record.correlation_id, "first");
    let replayed = Ledger::replay(store.records().iter().map(|record| &**record));
    assert_eq!(replayed.state.digest(), engine.state().digest());
}

#[tokio::test]
async fn a_rejected_command_changes_nothing_and_is_not_in_the_journal() {
    let (engine, store) = engine();
    let command = Command::TenantRemove(TenantRemove { name: "nobody".to_owned() });
    let problem = engine.submit(keyed(command, "k")).await.unwrap_err();
    assert_eq!(problem.code, "LB1001");
    assert_eq!((store.records().len(), engine.state().revision), (0, 0));
    engine.submit(keyed(tenant("acme"), "k")).await.expect("a rejection does not use its key up");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_wait_become_durable_together_and_are_decided_in_turn() {
    let (engine, store) = watched();
    let mut requests: Vec<Request> = (0..64).map(|n| from("ann", tenant(&format!("t{n}")))).collect();
    requests.push(from("ann", tenant("t7")));
    let answers = together(&engine, &store, requests, || ()).await;
    assert_eq!(store.appends.load(Ordering::SeqCst), 2, "one for the first, one for all others");
    let revisions: Vec<u64> = answers[..65].iter().map(|one| one.as_ref().unwrap().record.revision).collect();
    assert_eq!(revisions, (1..66).collect::<Vec<_>>());
    assert_eq!(answers[65].as_ref().unwrap_err().code, "LB1004");
    assert_eq!(engine.state().revision, 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_or_published_before_what_it_rests_on_is_durable() {
    let (engine, store) = watched();
    engine.submit(keyed(tenant("old"), "old")).await.unwrap();
    let twice = [keyed(tenant("acme"), "k"), keyed(tenant("acme"), "k"), from("ann", tenant("acme"))];
    let answers = together(&engine, &store, twice.to_vec(), || ()).await;
    assert_eq!(answers[1].as_ref().unwrap().record, answers[2].as_ref().unwrap().record);
    assert_eq!(answers[3].as_ref().unwrap_err().code, "LB1004");
    store.store.fail(Failing::UnknownLost);
    let (before, published) = (store.store.records().len(), engine.state());
    let batch = [keyed(tenant("new"), "n"), keyed(tenant("new"), "n"), from("ann", tenant("new"))];
    for request in batch {
        assert!(engine.submit(request).await.unwrap_err().is(Code::OutcomeUnknown));
    }
    assert_eq!((store.store.records().len(), engine.state()), (before, published));
    let old = engine.submit(keyed(tenant("old"), "old")).await.unwrap();
    assert_eq!(old.record.revision, 1, "what is durable is answered while the store fails");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_or_repetition_that_rests_on_a_lost_batch_is_in_doubt_too() {
    for (failing, code) in
        [(Failing::UnknownLost, Code::OutcomeUnknown), (Failing::Refused, Code::JournalRefused)]
    {
        let (engine, store) = watched();
        let gone = Command::TenantRemove(TenantRemove { name: "nobody".to_owned() });
        let requests = vec![
            from("ann", gone),
            keyed(tenant("new"), "n"),
            keyed(tenant("new"), "n"),
            from("ann", tenant("new")),
            keyed(tenant("other"), "n"),
        ];
        // The first one's append fails as well: it is held up when the store begins to fail.
        let inner = store.store.clone();
        let answers = together(&engine, &store, requests, || inner.fail(failing)).await;
        let codes: Vec<String> = answers.into_iter().map(|one| one.unwrap_err().code).collect();
        let doubt = code.to_string();
        let wanted = [&doubt, "LB1001", &doubt, &doubt, &doubt, &doubt];
        assert_eq!(codes, wanted, "{failing:?}: only what rests on nothing new is known");
        assert_eq!((inner.records().len(), engine.state().revision), (0, 0));
        inner.fail(Failing::No);
        let again = engine.submit(keyed(tenant("new"), "n")).await.unwrap();
        assert_eq!(again.record.revision, 1);
    }
}

#[tokio::test]
async fn what_the_journal_refuses_did_not_happen_and_can_be_tried_again() {
    let (engine, store) = engine();
    store.fail(Failing::Refused);
    let problem = engine.submit(from("ann", vip("web"))).await.unwrap_err();
    assert!(problem.is(Code::JournalRefused) && problem.status() == 503, "{problem}");
    assert_eq!(engine.state().revision, 0);
    store.fail(Failing::No);
    engine.submit(from("ann", vip("web"))).await.unwrap();
    assert!(engine.state().vips.contains_key("web"));
}

#[tokio::test]
async fn an_unknown_outcome_is_said_and_the_key_tells_what_became_of_it() {
    for (failing, kept) in [(Failing::UnknownLost, false), (Failing::UnknownKept, true)] {
        let (engine, store) = engine();
        engine.submit(from("ann", tenant("before"))).await.unwrap();
        store.fail(failing);
        let problem = engine.submit(keyed(vip("web"), "k")).await.unwrap_err();
        assert!(problem.is(Code::OutcomeUnknown) && problem.status() == 503, "{problem}");
        store.fail(Failing::No);
        let again = engine.submit(keyed(vip("web"), "k")).await.unwrap();
        assert_eq!((again.record.revision, again.states.is_none()), (2, kept), "applied once");
        assert_eq!(store.records().len(), 2);
        assert_eq!(engine.state().revision, 2, "what was kept is published");
        engine.submit(from("ann", tenant("after"))).await.unwrap();
        let replayed = Ledger::replay(store.records().iter().map(|record| &**record));
        assert_eq!(replayed.state, *engine.state());
    }
}

#[tokio::test]
async fn while_the_store_is_away_commands_are_told_so_and_it_recovers_by_itself() {
    let (engine, store) = watched();
    engine.submit(keyed(tenant("old"), "old")).await.unwrap();
    store.away.store(true, Ordering::SeqCst);
    store.store.fail(Failing::UnknownKept);
    assert!(engine.submit(keyed(vip("web"), "k")).await.unwrap_err().is(Code::OutcomeUnknown));
    for _ in 0..3 {
        let problem = engine.submit(keyed(vip("dns"), "other")).await.unwrap_err();
        assert!(problem.is(Code::JournalAway) && problem.status() == 503, "{problem}");
        assert!(problem.message.contains("told to be away"), "{problem}");
        assert!(engine.submit(from("ann", vip("dns"))).await.unwrap_err().is(Code::JournalAway));
        let problem = engine.submit(keyed(vip("web"), "k")).await.unwrap_err();
        assert!(problem.is(Code::OutcomeUnknown), "it may be there, and is not told otherwise: {problem}");
        let bobs = Request { key: Some("k".to_owned()), ..from("bob", tenant("bobs")) };
        assert!(engine.submit(bobs).await.unwrap_err().is(Code::JournalAway), "his key is another one");
        let old = engine.submit(keyed(tenant("old"), "old")).await.unwrap();
        assert_eq!(old.record.revision, 1, "what is durable is answered meanwhile");
    }
    assert_eq!(engine.state().revision, 1, "readers have the last state that is known to be durable");
    store.store.fail(Failing::No);
    store.away.store(false, Ordering::SeqCst);
    until("it recovers without a command", || engine.state().revision == 2).await;
    assert_eq!(engine.submit(keyed(vip("web"), "k")).await.unwrap().record.revision, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_is_said_to_be_in_doubt() {
    let (mut engine, store) = watched();
    engine.patience = Duration::from_millis(50);
    let asked;
    {
        let held = store.closed();
        asked = ask(&engine, keyed(tenant("acme"), "k"));
        block_until("it is answered while the disk hangs", || asked.is_finished());
        drop(held);
    }
    assert!(asked.await.unwrap().unwrap_err().is(Code::OutcomeUnknown));
    engine.patience = PATIENCE;
    let again = engine.submit(keyed(tenant("acme"), "k")).await.unwrap();
    assert_eq!((again.record.revision, store.store.records().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_not_done() {
    let (mut engine, store) = watched();
    engine.patience = Duration::from_millis(50);
    let (begun, given_up);
    {
        let held = store.closed();
        begun = ask(&engine, from("ann", tenant("begun")));
        block_until("its append begins", || store.appends.load(Ordering::SeqCst) == 1);
        given_up = ask(&engine, keyed(tenant("late"), "k"));
        block_until("both were told that nobody knows", || begun.is_finished() && given_up.is_finished());
        drop(held);
    }
    assert!(begun.await.unwrap().unwrap_err().is(Code::OutcomeUnknown));
    assert!(given_up.await.unwrap().unwrap_err().is(Code::OutcomeUnknown));
    engine.patience = PATIENCE;
    engine.submit(from("ann", tenant("after"))).await.unwrap();
    let state = engine.state();
    assert_eq!(state.tenants.keys().collect::<Vec<_>>(), ["after", "begun", "default"]);
    assert_eq!(
        engine.submit(keyed(tenant("late"), "k")).await.unwrap().record.revision,
        3,
        "its key is free"
    );
}

#[tokio::test]
async fn a_store_that_another_wrote_to_is_read_again() {
    let (engine, store) = engine();
    let other = Engine::start(Folded::default(), Limits::default(), store.clone());
    other.submit(from("bob", tenant("acme"))).await.unwrap();
    let problem = engine.submit(from("ann", tenant("late"))).await.unwrap_err();
    assert!(problem.is(Code::JournalRefused), "{problem}");
    engine.submit(from("ann", tenant("late"))).await.unwrap();
    assert_eq!(engine.state().tenants.keys().collect::<Vec<_>>(), ["acme", "default", "late"]);
}

#[tokio::test]
async fn the_same_key_gives_the_first_answer_and_another_content_is_refused() {
    let (engine, store) = engine();
    let first = engine.submit(keyed(vip("web"), "k")).await.unwrap();
    let same = Command::VipSet(lb_control::command::VipSet {
        name: "web".to_owned(),
        window_s: Some(60),
        ..Default::default()
    });
    engine.submit(keyed(same.clone(), "k2")).await.unwrap();
    let again = engine.submit(Request { if_match: Some(77), ..keyed(vip("web"), "k") }).await.unwrap();
    assert_eq!(again.record, first.record);
    assert!(again.states.is_some(), "it was a moment ago");
    let problem = engine.submit(keyed(vip("other"), "k")).await.unwrap_err();
    assert!(problem.is(Code::KeyReused) && problem.status() == 422, "{problem}");
    // Another actor's key is another key.
    let request = Request { key: Some("k".to_owned()), ..from("bob", tenant("bobs")) };
    assert_eq!(engine.submit(request).await.unwrap().record.revision, 3);
    // What changed nothing is remembered as well.
    let nothing = engine.submit(keyed(same.clone(), "k3")).await.unwrap();
    assert_eq!(nothing.record.events.len(), 1);
    assert_eq!(engine.submit(keyed(same, "k3")).await.unwrap().record, nothing.record);
    assert_eq!(store.records().len(), 4);
}

#[tokio::test]
async fn keys_survive_a_restart() {
    let (engine, store) = engine();
    let first = engine.submit(keyed(vip("web"), "k")).await.unwrap();
    drop(engine);
    let folded = fold::latest(&*store.reader()).unwrap();
    assert_eq!(folded.replayed, 1);
    let engine = Engine::start(folded, Limits::default(), store.clone());
    let again = engine.submit(keyed(vip("web"), "k")).await.unwrap();
    assert_eq!((again.record, store.records().len()), (first.record, 1));
    assert!(engine.submit(keyed(vip("other"), "k")).await.unwrap_err().is(Code::KeyReused));
}

#[tokio::test]
async fn a_command_may_name_the_revision_that_it_rests_on() {
    let (engine, store) = engine();
    let at = |command: Command, revision| Request { if_match: Some(revision), ..from("ann", command) };
    let added = engine.submit(at(vip("web"), 0)).await.unwrap();
    assert_eq!(added.touched, 1);
    engine.submit(from("bob", tenant("elsewhere"))).await.unwrap();
    let set = |window_s| {
        let name = "web".to_owned();
        Command::VipSet(lb_control::command::VipSet { name, window_s: Some(window_s), ..Default::default() })
    };
    let changed = engine.submit(at(set(60), 1)).await.unwrap();
    assert_eq!(changed.touched, 3, "what others did elsewhere does not matter");
    let problem = engine.submit(at(set(70), 1)).await.unwrap_err();
    assert!(problem.is(Code::Stale) && problem.status() == 412, "{problem}");
    assert_eq!(problem.related.as_deref(), Some("3"));
    assert!(engine.submit(at(vip("web"), 0)).await.unwrap_err().is(Code::Stale));
    assert_eq!(store.records().len(), 3);
    assert_eq!(engine.submit(at(set(70), 3)).await.unwrap().touched, 4);
}

#[tokio::test]
async fn a_start_from_a_snapshot_is_the_start_from_all_records() {
    let (engine, store) = engine();
    let toggled = |n: u64| Command::BypassSet(lb_control::command::BypassSet { on: n % 2 == 1 });
    let request = |n: u64| keyed(toggled(n), &format!("k{n}"));
    engine.submit(keyed(vip("web"), "web")).await.unwrap();
    let mut asked = Vec::new();
    for n in 1..SNAPSHOT_RECORDS + 50 {
        asked.push(ask(&engine, request(n)));
    }
    for one in asked {
        one.await.unwrap().unwrap();
    }
    until("a snapshot is kept", || store.snapshot(u64::MAX).is_some()).await;
    engine.submit(from("ann", tenant("after"))).await.unwrap();
    let folded = fold::latest(&store).unwrap();
    let records = read_all(&store, 0).unwrap();
    let replayed = Ledger::replay(records.iter().map(|record| &**record));
    assert_eq!(folded.ledger, replayed);
    assert!(folded.replayed < SNAPSHOT_RECORDS / 2 && folded.passed_over.is_empty(), "{}", folded.replayed);
    let mut damaged = store.clone();
    let (revision, mut bytes) = store.snapshot(u64::MAX).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    damaged.save_snapshot(Head { revision, hash: [0; 32] }, &bytes).unwrap();
    let folded = fold::latest(&damaged).unwrap();
    assert_eq!((folded.ledger, folded.replayed), (replayed, records.len() as u64));
    assert_eq!(folded.passed_over.len(), 1);
}

#[tokio::test]
async fn a_rehearsal_happens_nowhere() {
    let (engine, store) = engine();
    let rehearsed = engine.rehearse(&vip("web")).unwrap();
    assert!(rehearsed.states.after.vips.contains_key("web") && !rehearsed.events.is_empty());
    assert_eq!((store.records().len(), engine.state().revision), (0, 0));
}
