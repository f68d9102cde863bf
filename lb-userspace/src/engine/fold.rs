//! What a log folds to: from the newest snapshot that can be used and the records after it, or from all records.
//!
//! A snapshot is only ever a shorter way: one that cannot be read is passed over and said. Not here: who keeps
//! snapshots (the writer), and views of the past (the projections).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lb_control::ledger::Ledger;
use lb_control::record::Record;
use lb_control::step::{Steps, Unread};

use super::States;
use crate::journal::{LogReader, Page, StoreError, threads};

/// Records that one thread reads at once. Of a page's keys it copies only those that are remembered, so large ones are
/// cheap; but a log that is shorter than a page for each thread is shared out.
const PAGE: std::ops::RangeInclusive<u64> = 1_024..=16_384;

/// What a log folds to.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// The fold.
    pub ledger: Ledger,
    /// Records that were read one by one.
    pub replayed: u64,
    /// Snapshots that could not be used, and why.
    pub passed_over: Vec<String>,
}

/// Folds a whole log.
///
/// # Errors
/// The records that are needed cannot be read.
pub fn latest(log: &dyn LogReader) -> Result<Folded, StoreError> {
    let mut folded = Folded::default();
    let mut at_most = u64::MAX;
    while let Some((revision, bytes)) = log.snapshot(at_most) {
        match Ledger::from_snapshot(&bytes) {
            Ok(ledger) if ledger.state.revision == revision => {
                folded.ledger = ledger;
                break;
            }
            Ok(ledger) => folded.pass_over(revision, &format!("it is of revision {}", ledger.state.revision)),
            Err(error) => folded.pass_over(revision, &error.to_string()),
        }
        let Some(older) = revision.checked_sub(1) else { break };
        at_most = older;
    }
    folded.replayed = rest(log, &mut folded.ledger)?;
    Ok(folded)
}

/// Folds a whole log from its first record, whatever snapshots there are.
///
/// # Errors
/// The records cannot be read.
pub fn all(log: &dyn LogReader) -> Result<Ledger, StoreError> {
    let mut ledger = Ledger::default();
    rest(log, &mut ledger)?;
    Ok(ledger)
}

/// The states before and after a record of the log.
///
/// # Errors
/// The records that are needed cannot be read: they were archived and taken away, for example.
pub fn around(log: &dyn LogReader, record: &Record) -> Result<States, StoreError> {
    let until = record.revision_before();
    let usable = |(revision, bytes): (u64, Vec<u8>)| {
        Ledger::from_snapshot(&bytes).ok().filter(|ledger| ledger.state.revision == revision)
    };
    let mut ledger = log.snapshot(until).and_then(usable).unwrap_or_default();
    while ledger.state.revision < until {
        let at = ledger.state.revision;
        let records = log.read(at, *PAGE.end() as usize)?;
        records.iter().take_while(|record| record.revision <= until).for_each(|record| ledger.apply(record));
        if ledger.state.revision == at {
            break;
        }
    }
    let before = Arc::new(ledger.state.clone());
    ledger.apply(record);
    Ok(States { before, after: Arc::new(ledger.state) })
}

/// Takes in the records after a ledger's revision; how many they were. Threads take turns: each reads a page, parses it
/// while the others read and parse theirs, and folds it when all before it are folded. So what a thread makes it also
/// frees.
fn rest(log: &dyn LogReader, ledger: &mut Ledger) -> Result<u64, StoreError> {
    // One more than can run: now and then one waits for its turn.
    let (after, threads) = (ledger.state.revision, threads() + 1);
    let share = log.latest().revision.saturating_sub(after).div_ceil(threads as u64);
    let limit = share.clamp(*PAGE.start(), *PAGE.end()) as usize;
    let folding = Folding::of(ledger);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| folding.work(log, limit));
        }
        folding.work(log, limit);
    });
    let Done { replayed, failed, .. } = folding.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(replayed), Err)
}

/// Whose turn a page is, and the revisions before and after it.
type Turn = (u64, Result<(u64, u64), StoreError>);

/// A log that threads read and fold by turns.
struct Folding<'l> {
    next: Mutex<Next>,
    done: Mutex<Done<'l>>,
    turned: Condvar,
}

/// The page that is read next.
struct Next {
    after: u64,
    turn: u64,
    ended: bool,
}

/// What has been folded.
struct Done<'l> {
    ledger: &'l mut Ledger,
    /// The page whose turn it is.
    turn: u64,
    replayed: u64,
    /// What ended it: the first fault in the order of the log.
    failed: Option<StoreError>,
    /// Nobody's turn comes any more.
    given_up: bool,
}

impl<'l> Folding<'l> {
    /// Of the log after a ledger's revision.
    fn of(ledger: &'l mut Ledger) -> Self {
        Self {
            next: Mutex::new(Next { after: ledger.state.revision, turn: 0, ended: false }),
            done: Mutex::new(Done { ledger, turn: 0, replayed: 0, failed: None, given_up: false }),
            turned: Condvar::new(),
        }
    }

    fn work(&self, log: &dyn LogReader, limit: usize) {
        let _leave = Leave(self);
        let (mut page, mut steps) = (Page::default(), Steps::default());
        while let Some((turn, read)) = self.read(log, limit, &mut page) {
            let parsed = read.and_then(|(after, until)| {
                let unreadable = |Unread { after, reason }| StoreError::Unreadable { after, reason };
                steps.parse(after, until, page.records()).map_err(unreadable)
            });
            if !self.fold(turn, parsed.map(|()| &steps)) {
                return;
            }
        }
    }

    /// Reads the next page: its turn, and the revisions before and after it. `None`: there is no more.
    fn read(&self, log: &dyn LogReader, limit: usize, page: &mut Page) -> Option<Turn> {
        let mut next = held(&self.next);
        if next.ended {
            return None;
        }
        page.clear();
        let (after, turn) = (next.after, next.turn);
        let read = log.page(after, limit, page);
        next.turn += 1;
        match read {
            Ok(revision) => next.after = revision,
            Err(_) => next.ended = true,
        }
        // An append that says that more happened, and holds nothing, is a fault and not the end.
        if page.is_empty() && matches!(read, Ok(until) if until == after) {
            next.ended = true;
            return None;
        }
        Some((turn, read.map(|until| (after, until))))
    }

    /// Folds what a page came to when its turn comes; false: it never will, or nothing can follow.
    fn fold(&self, turn: u64, steps: Result<&Steps, StoreError>) -> bool {
        let waits = |done: &mut Done<'_>| done.turn != turn && !done.given_up;
        let mut done =
            self.turned.wait_while(held(&self.done), waits).unwrap_or_else(PoisonError::into_inner);
        if done.given_up {
            return false;
        }
        match steps {
            Ok(steps) => {
                done.ledger.take(steps);
                done.replayed += steps.records;
                done.turn += 1;
            }
            Err(error) => (done.failed, done.given_up) = (Some(error), true),
        }
        self.turned.notify_all();
        !done.given_up
    }
}

/// One thread's part: if it panics, the others do not wait for its turn.
struct Leave<'f, 'l>(&'f Folding<'l>);

impl Drop for Leave<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            held(&self.0.done).given_up = true;
            self.0.turned.notify_all();
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folded {
    fn pass_over(&mut self, revision: u64, why: &str) {
        self.passed_over.push(format!("the snapshot of revision {revision} was not used: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::log::Limits;
    use crate::journal::{EventStore, FileStore, Head, MemoryStore};
    use lb_control::event::{Change, EVENT_VERSION, Event};
    use lb_control::record::{IdempotencyKey, RECORD_VERSION};

    /// A log of so many records, and what it comes to.
    fn log(records: u64) -> (MemoryStore, Ledger) {
        let (mut store, mut ledger) = (MemoryStore::default(), Ledger::default());
        for revision in 1..=records {
            let id = format!("c{revision}");
            let change =
                Change::TenantAdded { id: lb_common::ids::TenantId(revision as u32), tenant: id.clone() };
            let record = Record {
                v: RECORD_VERSION,
                revision,
                at_ms: 0,
                actor: ["ann", "bob"][revision as usize % 2].to_owned(),
                command: "tenant_add".to_owned(),
                correlation_id: id.clone(),
                command_id: id.clone(),
                causation_id: None,
                key: Some(IdempotencyKey { key: id, content: String::new() }),
                reason: None,
                events: vec![Event { v: EVENT_VERSION, at_ms: 0, change }],
            };
            ledger.apply(&record);
            store.append(revision - 1, &[Arc::new(record)]).unwrap();
        }
        (store, ledger)
    }

    /// A log some of whose records cannot be understood, or whose disk fails, after revisions.
    struct Faulty(MemoryStore, Vec<u64>, Option<u64>);

    impl LogReader for Faulty {
        fn latest(&self) -> Head {
            self.0.latest()
        }
        fn read(&self, after: u64, limit: usize) -> Result<Vec<Arc<Record>>, StoreError> {
            self.0.read(after, limit)
        }
        fn page(&self, after: u64, limit: usize, page: &mut Page) -> Result<u64, StoreError> {
            if self.2.is_some_and(|away| after >= away) {
                return Err(StoreError::NoSuchHead(Head::default()));
            }
            let records = self.read(after, limit)?;
            for record in &records {
                let faulty = self.1.contains(&record.revision_before());
                let bytes = if faulty { b"no record".to_vec() } else { record.to_bytes() };
                page.push(&bytes);
            }
            Ok(records.last().map_or(after, |record| record.revision))
        }
        fn snapshot(&self, _: u64) -> Option<(u64, Vec<u8>)> {
            None
        }
        fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Arc<Record>> {
            self.0.subscribe()
        }
    }

    /// A log whose last append holds no records, and says that something happened.
    struct Hollow(MemoryStore);

    impl LogReader for Hollow {
        fn latest(&self) -> Head {
            Head { revision: self.0.latest().revision + 1, ..self.0.latest() }
        }
        fn read(&self, after: u64, limit: usize) -> Result<Vec<Arc<Record>>, StoreError> {
            self.0.read(after, limit)
        }
        fn page(&self, after: u64, limit: usize, page: &mut Page) -> Result<u64, StoreError> {
            let until = self.0.page(after, limit, page)?;
            Ok(if page.is_empty() { self.latest().revision } else { until })
        }
        fn snapshot(&self, _: u64) -> Option<(u64, Vec<u8>)> {
            None
        }
        fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Arc<Record>> {
            self.0.subscribe()
        }
    }

    #[test]
    fn an_append_without_records_is_not_the_end() {
        let fault = latest(&Hollow(log(3).0)).map(|folded| folded.replayed);
        assert!(matches!(fault, Err(StoreError::Unreadable { after: 3, .. })), "{fault:?}");
    }

    #[test]
    fn many_pages_fold_to_what_their_records_do_one_by_one() {
        for records in [0, 1, 1_500, 20_000] {
            let (store, due) = log(records);
            let folded = latest(&store).unwrap();
            assert!(folded.ledger == due && folded.replayed == records, "{} of {records}", folded.replayed);
        }
    }

    #[test]
    fn the_first_fault_in_the_order_of_the_log_is_told() {
        let (store, _) = log(20_000);
        let unread = |log: &Faulty| match latest(log) {
            Err(StoreError::Unreadable { after, .. }) => after,
            other => panic!("{:?}", other.map(|folded| folded.replayed)),
        };
        let faulty = |faults: &[u64], away| Faulty(store.clone(), faults.to_vec(), away);
        assert_eq!(unread(&faulty(&[19_000, 11_111, 3], None)), 3);
        assert_eq!(unread(&faulty(&[19_000], None)), 19_000);
        assert_eq!(unread(&faulty(&[9_000], Some(9_500))), 9_000);
        let gone = latest(&faulty(&[19_000], Some(9_500)));
        assert!(matches!(gone, Err(StoreError::NoSuchHead(_))), "{:?}", gone.map(|folded| folded.replayed));
    }

    #[test]
    fn a_thread_that_panics_leaves_nobody_waiting() {
        let mut ledger = Ledger::default();
        let folding = Folding::of(&mut ledger);
        let steps = Steps::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| folding.fold(1, Ok(&steps)));
            let panics = scope.spawn(|| {
                let _leave = Leave(&folding);
                panic!("told to");
            });
            assert!(panics.join().is_err());
            assert!(!waits.join().unwrap(), "its turn never comes");
        });
    }

    #[test]
    fn appends_of_several_records_fold_whole_over_segments() {
        let (memory, due) = log(6_000);
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { segment_bytes: 64 << 10, room_bytes: 4 << 10, ..Limits::default() };
        let mut store = FileStore::open_with(directory.path(), limits).unwrap().store;
        let (mut rest, mut size) = (&memory.records()[..], 1);
        while !rest.is_empty() {
            let (append, behind) = rest.split_at(size.min(rest.len()));
            store.append(append[0].revision - 1, append).unwrap();
            (rest, size) = (behind, size * 7 % 301 + 1);
        }
        assert!(store.reader().figures().segments > 10);
        let folded = latest(&*store.reader()).unwrap();
        assert!(folded.ledger == due && folded.replayed == 6_000);
        let mut page = Page::default();
        let mut at = 0;
        while let Ok(until) = store.reader().page(at, 2, &mut page)
            && until > at
        {
            assert_eq!(page.len() as u64, until - at, "whole appends, and none twice");
            at = until;
            page.clear();
        }
        assert_eq!(at, 6_000);
    }

    /// The log's heads say that more happened than its records do: as the last append of all, nothing follows that shows it.
    #[test]
    fn records_that_do_not_lead_where_their_append_does_are_a_fault() {
        let (memory, _) = log(3);
        let records = memory.records();
        let directory = tempfile::tempdir().unwrap();
        let mut store = FileStore::open(directory.path()).unwrap().store;
        store.append(0, &records[..1]).unwrap();
        store.append(1, &records[2..]).unwrap();
        assert_eq!(store.reader().latest().revision, 3);
        let fault = latest(&*store.reader());
        let text = fault.map(|folded| folded.replayed).unwrap_err().to_string();
        assert!(text.contains("after revision 1") && text.contains("begins at revision 2"), "{text}");
    }
}
