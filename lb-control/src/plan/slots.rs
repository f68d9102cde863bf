//! Slots: what each becomes, by [`Slot::transition`] alone.

use super::actual::{Actual, Slots};
use super::desired::DesiredVip;
use super::layout::Layout;
use super::op::SlotChange;
use lb_common::abi::backend::Control;
use lb_common::abi::slot::Slot;

/// Which backend rows serve the flows that they have once the plan is carried out, by row number.
pub(super) struct Alive(Vec<bool>);

impl Alive {
    /// From the rows of a layout. What is not in it is dead.
    pub(super) fn of(layout: &Layout) -> Self {
        let mut alive = vec![false; usize::from(u16::MAX) + 1];
        for placed in layout.backends.values() {
            alive[usize::from(placed.row)] = placed.content.control.0 & Control::ALIVE != 0;
        }
        Self(alive)
    }
    fn is(&self, row: u16) -> bool {
        self.0[usize::from(row)]
    }
}

/// The row that each entry of a vip's table stands for: 0 = none, `None` = its backend found no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rows(Vec<Option<u16>>);

impl Rows {
    /// Of a vip's candidates.
    pub(super) fn of(vip: &DesiredVip, layout: &Layout) -> Self {
        let row = |id| layout.backends.get(id).map(|placed| placed.row);
        Self([Some(0)].into_iter().chain(vip.candidates.iter().map(row)).collect())
    }
    fn row(&self, vip: &DesiredVip, slot: usize) -> Option<u16> {
        self.0[usize::from(vip.table.get(slot).copied().unwrap_or(0))]
    }
}

/// The slots of a new table.
pub(super) fn fresh(vip: &DesiredVip, rows: &Rows) -> Vec<Slot> {
    (0..vip.table_size as usize).map(|slot| Slot::stable(rows.row(vip, slot).unwrap_or(0))).collect()
}

/// What changes in a table in use, from its `first` slot on. Where the wanted backend found no row, the slot keeps its
/// own while that lives. Where flows are `kept_elsewhere` than their slots lead, no slot is stable.
pub(super) fn changes<S: Slots>(
    vip: &DesiredVip,
    rows: &Rows,
    alive: &Alive,
    (first, kept_elsewhere): (u32, bool),
    actual: &Actual<S>,
    now_s: u32,
) -> Vec<SlotChange> {
    let mut changes = Vec::new();
    for slot in 0..vip.table_size {
        let old = actual.slots.slot(first + slot);
        let kept = || if alive.is(old.current()) { old.current() } else { 0 };
        let current = rows.row(vip, slot as usize).unwrap_or_else(kept);
        let new = if vip.policy.never() {
            // Nobody looks flows up: a moving state would only be waited for.
            Slot::stable(current)
        } else {
            match old.transition(current, now_s, vip.window_s, |row| alive.is(row)) {
                new if new.is_stable() && kept_elsewhere => Slot::pinned(current),
                new => new,
            }
        };
        if new != old {
            changes.push(SlotChange { slot, old, new });
        }
    }
    changes
}
