//! What the maps should hold: rows and tables by serial numbers. Row numbers are found by [`super::diff`].

use super::op::{EgressContent, Key};
use super::tables::TableCache;
use crate::health::Health;
use crate::state::State;
use crate::vip::Mode;
use lb_common::abi::egress::Tags;
use lb_common::abi::vip::Policy;
use lb_common::addr::Mac;
use lb_common::ids::{BackendId, TenantId, VipId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The resolved way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Hardware address of the next hop; `None`: its neighbour is not resolved, the last known one stays in use.
    pub next_hop_mac: Option<Mac>,
    /// Interface index of the device that frames leave by (of a VLAN, the device below it).
    pub ifindex: u32,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Our own MAC on it.
    pub source_mac: Mac,
    /// VLAN tags.
    pub tags: Tags,
    /// Our own address towards the backend, of the backend's family.
    pub source: IpAddr,
}

impl Way {
    /// Its egress row.
    pub const fn egress(&self) -> EgressContent {
        EgressContent { ifindex: self.ifindex, mtu: self.mtu, source_mac: self.source_mac, tags: self.tags }
    }
}

/// A device that packets come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Its own MAC.
    pub mac: Mac,
}

/// What was observed of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Health by backend; absent = unknown.
    pub health: BTreeMap<BackendId, Health>,
    /// Ways by backend; absent = not resolved (yet): what its row has stays.
    pub ways: BTreeMap<BackendId, Way>,
    /// Devices that the program is attached to, by interface index.
    pub devices: BTreeMap<u32, Device>,
}

/// What the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Whether every packet passes.
    pub bypass: bool,
    /// Vips.
    pub vips: BTreeMap<VipId, DesiredVip>,
    /// Devices that packets come in by.
    pub devices: BTreeMap<u32, Device>,
}

/// A vip's row and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredVip {
    /// Its name, for people.
    pub name: String,
    /// Serial of its tenant.
    pub tenant: TenantId,
    /// What it serves.
    pub key: Key,
    /// Its live settings.
    pub policy: Policy,
    /// The window of a slot that changes, seconds.
    pub window_s: u32,
    /// Its backends.
    pub backends: BTreeMap<BackendId, DesiredBackend>,
    /// Slots of its table.
    pub table_size: u32,
    /// The backends that take new flows.
    pub candidates: Vec<BackendId>,
    /// For each slot 1 + the index of its backend in `candidates`; 0 = none. Empty = all 0.
    pub table: Arc<[u16]>,
}

/// A backend's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredBackend {
    /// Its name, for people.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port, host order; 0 = as in the packet.
    pub port: u16,
    /// How packets reach it.
    pub mode: Mode,
    /// [`lb_common::abi::backend::Control::ALIVE`] and `NEW`.
    pub flags: u64,
    /// The way to it, if it is known.
    pub way: Option<Way>,
}

/// What the maps should hold, given intent and observation. Tables are taken from `tables` where nothing that makes
/// them has changed.
pub fn desired(state: &State, observed: &Observed, tables: &mut TableCache) -> Desired {
    let _ = (state, observed, tables);
    Desired::default()
}
