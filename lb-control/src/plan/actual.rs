//! What the maps hold, as read back from the kernel: only rows in use, with the serials that sit in them, so that a
//! daemon that starts adopts what runs.

use super::desired::{Desired, Device};
use super::op::{BackendContent, EgressContent, Key, VipContent};
use crate::health::Health;
use crate::limits::Limits;
use crate::state::State;
use lb_common::abi::slot::Slot;
use lb_common::abi::vip::VipEntry;
use lb_common::ids::BackendId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A vip row in use: the same as [`VipContent`].
pub type ActualVip = VipContent;

/// Reads slots; in the daemon from the memory-mapped map.
pub trait Slots {
    /// The slot at an index over all tables. An index beyond the map gives an empty stable slot.
    fn slot(&self, index: u32) -> Slot;
}

impl Slots for [Slot] {
    fn slot(&self, index: u32) -> Slot {
        self.get(index as usize).copied().unwrap_or_default()
    }
}

impl Slots for Vec<Slot> {
    fn slot(&self, index: u32) -> Slot {
        self.as_slice().slot(index)
    }
}

/// Rows of each kind that something else can name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Backend rows.
    pub backends: BTreeSet<u16>,
    /// Egress rows.
    pub egresses: BTreeSet<u16>,
    /// Source numbers.
    pub sources: BTreeSet<u8>,
}

/// What the last whole scan of flow and NAT table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The rows that were unnamed ([`unnamed`]) when the scan began, one grace period after the plan that left them
    /// so: only these can be proven free.
    pub watched: Rows,
    /// The rows that entries named.
    pub referenced: Rows,
}

/// What the maps hold.
#[derive(Clone, Debug, Default)]
pub struct Actual<S> {
    /// Capacities of the maps.
    pub limits: Limits,
    /// The bypass word.
    pub bypass: bool,
    /// Vip rows in use.
    pub vips: BTreeMap<u16, ActualVip>,
    /// Keys of the vip hash.
    pub keys: BTreeMap<Key, VipEntry>,
    /// Backend rows in use (`identity` is not 0).
    pub backends: BTreeMap<u16, BackendContent>,
    /// Egress rows in use (`device` is not 0).
    pub egresses: BTreeMap<u16, EgressContent>,
    /// Interface index to its untagged egress row.
    pub ports: BTreeMap<u32, u16>,
    /// Source numbers in use.
    pub sources: BTreeMap<u8, IpAddr>,
    /// All slots.
    pub slots: S,
    /// The last sweep; `None`: there was none yet, so nothing can be freed that entries may name.
    pub sweep: Option<Sweep>,
}

/// The rows in use that neither the desired state nor, after its plan, any slot names: those that a sweep which
/// begins now can prove free.
pub fn unnamed<S: Slots>(desired: &Desired, actual: &Actual<S>) -> Rows {
    let _ = (desired, actual);
    Rows::default()
}

/// The health that the maps of a former daemon imply, for a daemon that starts: a backend that takes new flows or,
/// draining, keeps its own is up; one that is enabled and dead is down; others are unknown.
pub fn adopted_health<S>(state: &State, actual: &Actual<S>) -> BTreeMap<BackendId, Health> {
    let _ = (state, actual);
    BTreeMap::new()
}

impl Device {
    /// Its untagged egress row.
    pub fn egress(&self, ifindex: u32) -> EgressContent {
        EgressContent {
            ifindex,
            mtu: self.mtu,
            source_mac: self.mac,
            tags: lb_common::abi::egress::Tags::NONE,
        }
    }
}
