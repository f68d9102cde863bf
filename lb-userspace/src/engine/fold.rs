//! What a log folds to: from the newest snapshot that can be used and the records after it, or from all records.
//!
//! A snapshot is only ever a shorter way: one that cannot be read is passed over and said. Not here: who keeps
//! snapshots (the writer), and views of the past (the projections).

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use lb_control::ledger::Ledger;
use lb_control::record::Record;

use super::States;
use crate::journal::{LogReader, StoreError};

/// Records that are read at once, and how many such pages may wait to be folded.
const PAGE: usize = 16_384;
const PAGES_AHEAD: usize = 1;

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
        let due = log.steps(at, PAGE)?.into_iter().take_while(|step| step.revision <= until);
        ledger.take(due.collect());
        if ledger.state.revision == at {
            break;
        }
    }
    let before = Arc::new(ledger.state.clone());
    ledger.apply(record);
    Ok(States { before, after: Arc::new(ledger.state) })
}

/// Takes in the records after a ledger's revision; how many they were. One thread reads on while another folds.
fn rest(log: &dyn LogReader, ledger: &mut Ledger) -> Result<u64, StoreError> {
    let (pages, next) = sync_channel(PAGES_AHEAD);
    let mut after = ledger.state.revision;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                let page = log.steps(after, PAGE);
                let last = page.as_ref().ok().and_then(|steps| steps.last()).map(|step| step.revision);
                // Whoever folds gave up.
                if pages.send(page).is_err() {
                    return;
                }
                match last {
                    Some(revision) => after = revision,
                    None => return,
                }
            }
        });
        let mut replayed = 0;
        for page in next {
            let steps = page?;
            replayed += steps.len() as u64;
            ledger.take(steps);
        }
        Ok(replayed)
    })
}

impl Folded {
    fn pass_over(&mut self, revision: u64, why: &str) {
        self.passed_over.push(format!("the snapshot of revision {revision} was not used: {why}"));
    }
}
