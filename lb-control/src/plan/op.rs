//! The operations on the maps. Each is done whole or not at all, as far as a packet can tell.

use super::tenants::{RowLimits, TenantContent};
use crate::vip::Served;
use lb_common::abi::backend::{Control, NextHop};
use lb_common::abi::egress::Tags;
use lb_common::abi::slot::Slot;
use lb_common::abi::vip::{Policy, VipEntry, VipKey};
use lb_common::addr::{Addr, Mac};
use lb_common::be::Be16;
use lb_common::ids::{BackendId, TenantId, VipId};
use std::net::IpAddr;

/// A key of the vip hash, ordered. `protocol` 0 is the mark of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Destination address, never a v4-mapped one.
    pub address: IpAddr,
    /// Destination port, host order; 0 = every port.
    pub port: u16,
    /// IP protocol number; 0 = the mark of an address.
    pub protocol: u8,
}

impl Key {
    /// The key of what a vip serves.
    pub const fn of(served: &Served) -> Self {
        Self { address: served.address, port: served.port, protocol: served.protocol.number() }
    }
    /// The mark of an address.
    pub const fn mark(address: IpAddr) -> Self {
        Self { address, port: 0, protocol: 0 }
    }
    /// Whether it is the mark of an address.
    pub const fn is_mark(&self) -> bool {
        self.protocol == 0
    }
    /// As in the map.
    pub fn to_abi(self) -> VipKey {
        VipKey::new(Addr::from(self.address), Be16::new(self.port), self.protocol)
    }
    /// From the map.
    pub fn from_abi(key: &VipKey) -> Self {
        Self { address: key.addr.ip(), port: key.port.host(), protocol: key.protocol }
    }
}

/// Content of a vip row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipContent {
    /// Serial of the vip.
    pub id: VipId,
    /// Serial of its tenant.
    pub tenant: TenantId,
    /// What it serves; never a mark.
    pub key: Key,
    /// Index of its first slot over all tables, and number of its slots.
    pub extent: (u32, u32),
    /// Its live settings.
    pub policy: Policy,
    /// Whether new flows are refused while nobody serves them; else they are dropped.
    pub refuses: bool,
}

/// Content of a backend row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendContent {
    /// Serial of the backend.
    pub id: BackendId,
    /// Its address.
    pub address: IpAddr,
    /// State and way.
    pub control: Control,
    /// Next hop; 0 = not known.
    pub next_hop: NextHop,
    /// On trial: new connections per second; 0 = no limit.
    pub trial_cps: u16,
    /// Row of the tenant that its flows count for; 0 = it has no limits.
    pub tenant: u16,
}

/// Content of an egress row, and of the same index of the device map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressContent {
    /// Interface index of the device that frames leave by (of a VLAN, the device below it).
    pub ifindex: u32,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Our own MAC on it.
    pub source_mac: Mac,
    /// VLAN tags.
    pub tags: Tags,
}

/// A change of one slot, by compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotChange {
    /// Number of the slot within its extent.
    pub slot: u32,
    /// What must be there.
    pub old: Slot,
    /// What shall be there.
    pub new: Slot,
}

/// An operation on the maps. Row numbers are indices of their maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The bypass word of the config row.
    SetBypass {
        /// Whether every packet passes.
        on: bool,
    },
    /// Fills a free source number.
    WriteSource {
        /// Source number.
        number: u8,
        /// Its address.
        address: IpAddr,
    },
    /// Fills a free egress row and the same index of the device map; `device` of the row is written last.
    WriteEgress {
        /// Row.
        row: u16,
        /// Content.
        content: EgressContent,
    },
    /// The untagged egress row of a device that packets come in by.
    SetPort {
        /// Interface index.
        ifindex: u32,
        /// Egress row.
        egress: u16,
    },
    /// Fills a free tenant row, with no credit handed out and nothing counted; `identity` is written last.
    WriteTenant {
        /// Row.
        row: u16,
        /// Content.
        content: TenantContent,
    },
    /// The limits of a tenant in use.
    SetTenantLimits {
        /// Row.
        row: u16,
        /// The new limits.
        limits: RowLimits,
    },
    /// Zeroes a tenant row that no vip and no backend names.
    FreeTenant {
        /// Row.
        row: u16,
    },
    /// Fills a free backend row; `identity` is written last.
    WriteBackend {
        /// Row.
        row: u16,
        /// Content.
        content: BackendContent,
    },
    /// The next hop of a backend in use, one word.
    SetNextHop {
        /// Backend row.
        row: u16,
        /// The new value.
        next_hop: NextHop,
    },
    /// The control word of a backend in use.
    SetControl {
        /// Backend row.
        row: u16,
        /// The new value.
        control: Control,
    },
    /// The rate of a backend in use while it is on trial.
    SetTrial {
        /// Backend row.
        row: u16,
        /// New connections per second; 0 = no limit.
        trial_cps: u16,
    },
    /// The tenant that the flows of a backend in use count for, one word.
    SetBackendTenant {
        /// Backend row.
        row: u16,
        /// Row of the tenant; 0 = it has no limits.
        tenant: u16,
    },
    /// Fills slots that no vip row names, with plain writes.
    WriteSlots {
        /// Index of the first over all tables.
        first: u32,
        /// Their values.
        values: Vec<Slot>,
    },
    /// Fills a free vip row; `key` is written last.
    WriteVip {
        /// Row.
        row: u16,
        /// Content.
        content: VipContent,
    },
    /// The policy word of a vip in use.
    SetVipPolicy {
        /// Vip row.
        row: u16,
        /// The new value.
        policy: Policy,
    },
    /// Whether a vip in use refuses new flows while nobody serves them, one word.
    SetVipRefusal {
        /// Vip row.
        row: u16,
        /// Whether it does.
        refuses: bool,
    },
    /// The table word of a vip in use (one without backends).
    SetVipTable {
        /// Vip row.
        row: u16,
        /// First index and number of its slots.
        extent: (u32, u32),
    },
    /// Adds or replaces a key of the vip hash.
    SetVipKey {
        /// The key.
        key: Key,
        /// What it leads to.
        entry: VipEntry,
    },
    /// Removes a key of the vip hash.
    RemoveVipKey {
        /// The key.
        key: Key,
    },
    /// Changes slots in use, each by compare-and-swap. Where another value than `old` is found the slot stays, and
    /// the next diff sees it.
    ChangeSlots {
        /// Vip row, for people.
        vip_row: u16,
        /// Index of the extent's first slot over all tables.
        first: u32,
        /// The changes, in order of their slots.
        changes: Vec<SlotChange>,
    },
    /// Waits until every packet that was in the program before has left it (one RCU grace period), so that none
    /// still holds what is freed next.
    Barrier,
    /// Removes a device from the port map.
    RemovePort {
        /// Interface index.
        ifindex: u32,
    },
    /// Takes the bit from a vip row's key by which packets find it; nothing else of it changes.
    WithdrawVip {
        /// Row.
        row: u16,
    },
    /// Zeroes a vip row that was withdrawn before the last barrier, `key` first. Its extent is free with it.
    FreeVip {
        /// Row.
        row: u16,
    },
    /// Zeroes a backend row, `identity` last.
    FreeBackend {
        /// Row.
        row: u16,
    },
    /// Zeroes an egress row and the same index of the device map.
    FreeEgress {
        /// Row.
        row: u16,
    },
    /// Zeroes a source number.
    FreeSource {
        /// Source number.
        number: u8,
    },
}
