//! Whose flows may be on whose backends. An entry of the flow table names a backend, and a backend's row its vip: where that
//! vip lends its pool to others, the flow may be theirs.

use super::actual::Actual;
use super::desired::lender;
use crate::state::State;
use lb_common::ids::VipId;
use std::collections::{BTreeMap, BTreeSet};

/// By the row of a vip the rows of those that fall back on it.
pub type Borrowers = BTreeMap<u16, BTreeSet<u16>>;

/// Who may be given whose backends, by what is asked for; `actual` says which rows they have.
pub fn borrowers<S>(state: &State, actual: &Actual<S>) -> Borrowers {
    let rows: BTreeMap<VipId, u16> = actual.vips.iter().map(|(row, content)| (content.id, *row)).collect();
    let mut borrowers = Borrowers::new();
    for vip in state.vips.values() {
        let lender = lender(vip, state).and_then(|lender| rows.get(&lender.id));
        if let (Some(lender), Some(row)) = (lender, rows.get(&vip.id)) {
            borrowers.entry(*lender).or_default().insert(*row);
        }
    }
    borrowers
}
