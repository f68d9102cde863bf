//! From intent and observation to map operations.
//!
//! [`desired`] says what the maps should hold, without slot states; [`diff`] compares it with what was read back
//! from the kernel ([`Actual`]) and gives ordered [`Op`]s such that every prefix of them is safe for packets: things
//! exist before something names them, and nothing is freed while something names it. The state of a slot (moving,
//! pinned) belongs to the data plane's history: it enters only through [`lb_common::abi::slot::Slot::transition`].

mod actual;
mod desired;
mod diff;
mod extent;
mod layout;
mod lending;
pub mod memory;
mod note;
mod op;
mod partial;
mod reveal;
mod settled;
mod slots;
mod standing;
mod summary;
mod tables;
mod tenants;

pub use actual::{Actual, ActualVip, Rows, Slots, Sweep, adopted_breakers, adopted_health, pools, unnamed};
pub use desired::{
    Desired, DesiredBackend, DesiredTenant, DesiredVip, Device, Footings, Observed, Way, desired,
};
pub use diff::{Plan, Problem, diff, diff_since};
pub use lending::{Borrowers, borrowers};
pub use op::{BackendContent, EgressContent, Key, Op, SlotChange, VipContent};
pub use partial::{Last, changed, partial, touched};
pub use settled::Settled;
pub use standing::Breaking;
pub use summary::{Line, ObjectChange, PlanSummary, SlotsMoved, summarise, summarise_with};
pub use tables::{TableCache, TableMemo};
pub use tenants::{RowLimits, TenantContent};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
