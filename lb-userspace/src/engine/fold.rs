//! What a log folds to: from the newest snapshot that can be used and the records after it, or from all records.
//!
//! A snapshot is only ever a shorter way: one that cannot be read is passed over and said. Not here: who keeps
//! snapshots (the writer), and views of the past (the projections).

use lb_control::ledger::Ledger;

use crate::journal::{LogReader, SUBSCRIBER_BACKLOG, StoreError};

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
    loop {
        let more = log.read(folded.ledger.state.revision, SUBSCRIBER_BACKLOG)?;
        if more.is_empty() {
            return Ok(folded);
        }
        more.iter().for_each(|record| folded.ledger.apply(record));
        folded.replayed += more.len() as u64;
    }
}

impl Folded {
    fn pass_over(&mut self, revision: u64, why: &str) {
        self.passed_over.push(format!("the snapshot of revision {revision} was not used: {why}"));
    }
}
