//! The read side: what the log says, folded once for each question, so that no question has to be put to the writer.
//!
//! A projection is a pure fold over [`Record`]s. What it answers it holds ready, by the names that people use:
//! [`inventory`] what there is, [`tenant_usage`] what a tenant has, [`audit`] who set what, [`timeline`] where in the
//! log an object, an actor or a time is found, [`health`] what was observed. [`difference`] compares two inventories.
//! Not here: the log, threads, the present time; `lb-userspace` feeds projections and publishes them.
//!
//! Invariants:
//! - a projection at a revision equals one that was rebuilt from the log up to there;
//! - folding is total: any record of any log can be taken in;
//! - a clone costs little (what did not change is shared), since one is published after every change.

pub mod audit;
pub mod blame;
pub mod difference;
pub mod field;
pub mod health;
pub mod inventory;
pub mod object;
pub mod tenant_usage;
pub mod timeline;

use crate::record::Record;

/// A fold over the log.
pub trait Projection: Clone + Default + Send + Sync + 'static {
    /// Its name, for people.
    const NAME: &'static str;

    /// Takes one record in: the next one, that begins at [`Projection::revision`].
    fn apply(&mut self, record: &Record);

    /// The revision after the last record that it took in; 0 at first.
    fn revision(&self) -> u64;
}

#[cfg(test)]
mod testing;
