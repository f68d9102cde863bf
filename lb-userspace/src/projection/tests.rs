//! The following thread against stores in memory: it comes to the head, through bursts and through records that it was
//! not told of; a rebuild is the same; the past is as it was.

use super::*;
use crate::journal::{EventStore, Failing, MemoryStore, SUBSCRIBER_BACKLOG};
use lb_control::event::{Change, EVENT_VERSION, Event};

fn record(revision: u64) -> Arc<Record> {
    let change =
        Change::TenantAdded { id: lb_common::ids::TenantId(revision as u32), tenant: format!("t{revision}") };
    let at_ms = unix_ms();
    Arc::new(Record {
        v: 1,
        revision,
        at_ms,
        actor: "alice".to_owned(),
        command: "tenant_add".to_owned(),
        command_id: format!("c{revision}"),
        correlation_id: format!("c{revision}"),
        causation_id: None,
        key: None,
        reason: None,
        events: vec![Event { v: EVENT_VERSION, at_ms, change }],
    })
}

fn append(store: &mut MemoryStore, count: u64) {
    let from = store.latest().revision;
    let records: Vec<_> = (from + 1..=from + count).map(record).collect();
    store.append(from, &records).unwrap();
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_was_there_and_what_comes_is_read_by_whoever_asks_for_it() {
    let mut store = MemoryStore::default();
    append(&mut store, 3);
    let projections = start(store.reader(), None);
    append(&mut store, 2);
    let reading = projections.read_from(5, PATIENCE).await.unwrap();
    assert_eq!((reading.model.revision(), reading.lag_ms), (5, 0));
    assert_eq!(reading.model.inventory.tenants.len(), 6);
    let behind = projections.read_from(6, Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(behind.revision, 5);
}

#[tokio::test]
async fn a_burst_that_overflows_the_subscription_is_read_from_the_log() {
    let mut store = MemoryStore::default();
    let projections = start(store.reader(), None);
    let burst = 4 * SUBSCRIBER_BACKLOG as u64;
    append(&mut store, burst);
    let reading = projections.read_from(burst, PATIENCE).await.unwrap();
    assert_eq!(reading.model.inventory.tenants.len() as u64, burst + 1);
    assert!(projections.progress().records == burst, "each once: {:?}", projections.progress());
}

/// A store that keeps records without telling anybody.
#[derive(Clone)]
struct Silent(MemoryStore, tokio::sync::broadcast::Sender<Arc<Record>>);

impl LogReader for Silent {
    fn latest(&self) -> crate::journal::Head {
        self.0.latest()
    }
    fn read(&self, after: u64, limit: usize) -> Result<Vec<Arc<Record>>, StoreError> {
        self.0.read(after, limit)
    }
    fn snapshot(&self, at_most: u64) -> Option<(u64, Vec<u8>)> {
        self.0.snapshot(at_most)
    }
    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Arc<Record>> {
        self.1.subscribe()
    }
}

#[tokio::test]
async fn a_record_that_nobody_told_of_is_found_and_is_lag_until_then() {
    let mut store = MemoryStore::default();
    let silent = Arc::new(Silent(store.clone(), tokio::sync::broadcast::Sender::new(4)));
    let projections = start(silent.clone(), None);
    projections.read().await;
    append(&mut store, 2);
    assert!(projections.lag_ms(0, unix_ms() + 5) >= 5);
    let reading = projections.read_from(2, PATIENCE).await.unwrap();
    assert_eq!(reading.model.revision(), 2);
    // The third is told of, but the fourth before it never was.
    append(&mut store, 2);
    silent.1.send(record(4)).unwrap();
    assert_eq!(projections.read_from(4, PATIENCE).await.unwrap().model.inventory.tenants.len(), 5);
    // The first two may have come while the thread still read what was there at its start.
    assert!(projections.progress().resyncs >= 1);
}

#[tokio::test]
async fn a_rebuild_is_the_same_and_the_past_is_as_it_was() {
    let mut store = MemoryStore::default();
    let projections = start(store.reader(), None);
    append(&mut store, 5_000);
    projections.read_from(5_000, PATIENCE).await.unwrap();
    for revision in [0, 1, 1_023, 1_024, 1_025, 4_999, 5_000, 9_000] {
        let inventory = projections.inventory_at(revision).unwrap();
        assert_eq!(inventory.revision(), revision.min(5_000));
        assert_eq!(inventory.tenants.len() as u64, 1 + revision.min(5_000));
    }
    let rebuilt = projections.rebuild(None).unwrap();
    assert_eq!(rebuilt.iter().map(|one| one.name).collect::<Vec<_>>(), NAMES);
    for one in &rebuilt {
        assert!(one.same && one.records == 5_000 && one.revision == 5_000, "{one:?}");
    }
    append(&mut store, 1);
    assert_eq!(projections.read_from(5_001, PATIENCE).await.unwrap().model.revision(), 5_001);
    assert_eq!(projections.rebuild(Some("audit")).unwrap().len(), 1);
}

#[tokio::test]
async fn the_thread_ends_with_the_store() {
    let mut store = MemoryStore::default();
    append(&mut store, 1);
    let projections = start(store.reader(), None);
    projections.read_from(1, PATIENCE).await.unwrap();
    let shared = Arc::downgrade(&projections.shared);
    store.fail(Failing::No);
    drop((projections, store));
    let deadline = Instant::now() + PATIENCE;
    while shared.strong_count() > 0 {
        assert!(Instant::now() < deadline, "the thread holds on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_is_observed_is_followed_and_read_again_by_the_next_daemon() {
    use lb_control::health::{Health as Known, Outcome};
    use lb_control::observation::{Cause, Change as Seen, Object, Observation};
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        ObservationJournal::open(directory.path(), crate::journal::observation::Limits::default()).unwrap()
    };
    let id = lb_common::ids::BackendId(7);
    let seen = |to| Observation {
        v: 1,
        at_ms: unix_ms(),
        seq: 0,
        object: Object::Backend {
            id,
            vip: "web".to_owned(),
            backend: "b1".to_owned(),
            address: "10.0.0.1:80".parse().unwrap(),
        },
        change: Seen::HealthChanged { from: Known::Unknown, to },
        cause: Cause::Probe { outcome: Outcome::Success },
        evidence: "10.0.0.1:80 answered".to_owned(),
    };
    let until = async |projections: &Projections, changes: u64, health: Known| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = projections.health();
            if now.backends.get(&id).is_some_and(|one| one.changes == changes && one.health == health) {
                return;
            }
            assert!(Instant::now() < deadline, "not seen: {now:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (store, journal) = (MemoryStore::default(), open());
    let projections = start(store.reader(), Some(journal.clone()));
    journal.record(seen(Known::Up));
    until(&projections, 1, Known::Up).await;
    journal.record(seen(Known::Down));
    until(&projections, 2, Known::Down).await;
    journal.close();
    let again = start(store.reader(), Some(open()));
    until(&again, 2, Known::Down).await;
}
