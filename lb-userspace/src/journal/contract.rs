//! What every store keeps to: one test for all of them, run over each.

use std::sync::Arc;

use lb_control::event::{Change, EVENT_VERSION, Event};
use lb_control::record::Record;
use tokio::sync::broadcast::error::TryRecvError;

use super::{
    AppendError, EventStore, Failing, FileStore, Head, LogReader, MemoryStore, SUBSCRIBER_BACKLOG, read_all,
};

/// A record of `span` events that follows `revision`; `text` is whatever is to be in it.
pub(super) fn record(revision: u64, span: u64, text: &str) -> Arc<Record> {
    let change = |number| Change::TenantRemoved { tenant: format!("{text}-{number}") };
    let event =
        |number| Event { v: EVENT_VERSION, at_ms: 1_700_000_000_000 + revision, change: change(number) };
    Arc::new(Record {
        v: 1,
        revision: revision + span,
        at_ms: 1_700_000_000_000 + revision,
        actor: "root".to_owned(),
        command: "remove_tenant".to_owned(),
        command_id: format!("{text}-{revision}"),
        correlation_id: format!("{text}-{revision}"),
        causation_id: None,
        key: None,
        reason: None,
        events: (0..span).map(event).collect(),
    })
}

/// Ids of the commands in a log.
pub(super) fn ids(log: &dyn LogReader) -> Vec<String> {
    read_all(log, 0).unwrap().iter().map(|record| record.command_id.clone()).collect()
}

/// Takes a store that is empty, and a way to open it again.
fn contract<S: EventStore>(mut store: S, again: impl FnOnce(S) -> S) {
    let reader = store.reader();
    assert_eq!((reader.latest(), reader.snapshot(u64::MAX)), (Head::default(), None));
    assert!(reader.read(0, 10).unwrap().is_empty());

    let mut follower = reader.subscribe();
    let first = [record(0, 1, "a"), record(1, 3, "b")];
    let head = store.append(0, &first).unwrap();
    assert_eq!((head.revision, reader.latest()), (4, head));
    assert_eq!([follower.try_recv().unwrap(), follower.try_recv().unwrap()], first);

    let wrong = store.append(1, &[record(1, 1, "late")]).unwrap_err();
    assert!(matches!(wrong, AppendError::Conflict { expected: 1, latest: 4 }), "{wrong}");
    assert_eq!((reader.latest(), follower.try_recv()), (head, Err(TryRecvError::Empty)));
    assert_eq!(store.append(4, &[]).unwrap(), head, "nothing changes nothing");

    store.append(4, &[record(4, 1, "c")]).unwrap();
    assert_eq!(ids(&*reader), ["a-0", "b-1", "c-4"]);
    assert_eq!(reader.read(1, 1).unwrap(), [record(1, 3, "b")], "from a revision, so many");
    assert_eq!(reader.read(4, 9).unwrap(), [record(4, 1, "c")]);
    assert!(reader.read(5, 9).unwrap().is_empty() && reader.read(99, 9).unwrap().is_empty());

    let mut slow = reader.subscribe();
    let many: Vec<_> = (5..=5 + SUBSCRIBER_BACKLOG as u64).map(|revision| record(revision, 1, "d")).collect();
    store.append(5, &many).unwrap();
    assert!(matches!(slow.try_recv(), Err(TryRecvError::Lagged(1))), "it is told what it missed");
    assert_eq!(slow.try_recv().unwrap().revision, 7);
    assert_eq!(reader.read(5, 1).unwrap()[0].revision, 6, "and can read it");

    let head = reader.latest();
    store.save_snapshot(head, b"state").unwrap();
    assert_eq!(reader.snapshot(u64::MAX), Some((head.revision, b"state".to_vec())));
    assert_eq!(reader.snapshot(head.revision - 1), None);

    let before = ids(&*reader);
    assert_eq!(store.reload().unwrap(), head, "a reload without need changes nothing");
    let mut store = again(store);
    assert_eq!((store.reader().latest(), ids(&*store.reader())), (head, before));
    assert_eq!(store.reader().snapshot(u64::MAX), Some((head.revision, b"state".to_vec())));
    store.append(head.revision, &[record(head.revision, 2, "e")]).unwrap();
    assert_eq!(store.reader().latest().revision, head.revision + 2);
}

#[test]
fn memory_keeps_the_contract() {
    contract(MemoryStore::default(), |store| store);
}

#[test]
fn files_keep_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let open = || FileStore::open(directory.path()).unwrap().store;
    contract(open(), |store| {
        drop(store);
        open()
    });
}

#[test]
fn what_was_in_doubt_is_there_or_not_after_a_reload() {
    let mut store = MemoryStore::default();
    store.append(0, &[record(0, 1, "a")]).unwrap();
    for (failing, there) in [(Failing::UnknownLost, 1), (Failing::UnknownKept, 2)] {
        store.fail(failing);
        assert!(matches!(store.append(1, &[record(1, 1, "b")]), Err(AppendError::Unknown(_))));
        store.fail(Failing::No);
        assert_eq!(store.reload().unwrap().revision, there);
    }
}
