//! What the slots of each vip rest on: a plan need not walk the millions of slots of vips of which nothing changed.
//!
//! Time is none of it: a slot whose window ends changes by the data plane's own rules and the sweep's. Nor is what somebody
//! else may have written: only a comparison with everything sees that.

use super::actual::Actual;
use super::desired::DesiredVip;
use super::layout::Layout;
use super::slots::Rows;
use lb_common::ids::VipId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the slots of each vip rested on when they were last found, or made, as they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    vips: BTreeMap<VipId, Basis>,
}

impl Settled {
    /// Whether a vip's slots rest on this already.
    pub(super) fn holds(&self, vip: VipId, basis: &Basis) -> bool {
        self.vips.get(&vip) == Some(basis)
    }
    pub(super) fn insert(&mut self, vip: VipId, basis: Basis) {
        self.vips.insert(vip, basis);
    }
    /// Takes in what the slots of some vips rest on now.
    pub fn renew(&mut self, some: Self) {
        self.vips.extend(some.vips);
    }
}

/// All that says what the slots of a vip shall be, but for what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    extent: (u32, u32),
    table: Arc<[u16]>,
    rows: Rows,
    never: bool,
    picks: bool,
    lives: Lives,
}

/// Every backend row of a vip, wanted or left over, and whether it serves the flows that it has.
pub(super) type Lives = BTreeMap<u16, bool>;

/// The [`Lives`] of each vip, by vip row.
pub(super) fn lives<S>(layout: &Layout, actual: &Actual<S>) -> BTreeMap<u16, Lives> {
    let left_over = actual.backends.iter().map(|(row, content)| (*row, content.control, false));
    let wanted = layout.backends.values().map(|placed| (placed.row, placed.content.control));
    let wanted = wanted.map(|(row, control)| (row, control, control.alive()));
    let mut lives = BTreeMap::<u16, Lives>::new();
    for (row, control, alive) in left_over.chain(wanted) {
        lives.entry(control.vip_row()).or_default().insert(row, alive);
    }
    lives
}

impl Basis {
    /// Of a vip whose slots lie in `extent`.
    pub(super) fn of(vip: &DesiredVip, extent: (u32, u32), rows: &Rows, lives: Lives) -> Self {
        let (never, picks) = (vip.policy.never(), vip.policy.picks());
        Self { extent, table: vip.table.clone(), rows: rows.clone(), never, picks, lives }
    }
}
