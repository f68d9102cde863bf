//! Desired against actual.

use super::actual::{Actual, Slots};
use super::desired::Desired;
use super::op::Op;
use crate::code::Code;
use serde::Serialize;

/// What to do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations. Every prefix is safe for packets.
    pub ops: Vec<Op>,
    /// What could not be planned: a table is full. The rest of the plan is good without it.
    pub problems: Vec<Problem>,
}

/// Something that could not be planned; it is tried again with the next diff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable code.
    pub code: Code,
    /// Which vip, backend or device, by name.
    pub object: String,
}

/// The operations that make `actual` what is desired. `now_s` is on the data plane's clock, seconds since boot.
/// Nothing to do gives no operations.
pub fn diff<S: Slots>(desired: &Desired, actual: &Actual<S>, now_s: u32) -> Plan {
    let _ = (desired, actual, now_s);
    Plan::default()
}
