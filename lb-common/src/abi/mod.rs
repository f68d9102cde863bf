//! Map layouts: what lies in each BPF map, one file per map, and the table of maps itself.
//!
//! Rows that change while packets flow are made of [`word::Word`]s: aligned 64-bit atomics, each read once and each
//! complete in itself. The daemon writes them through a memory mapping. Hash maps only map a key to a row number,
//! and the row repeats the key: a kernel hash map can be read torn, or as another key's value, while it changes.

pub mod backend;
pub mod config;
pub mod counter;
pub mod egress;
pub mod flow;
pub mod mark;
pub mod nat;
pub mod signal;
pub mod slot;
pub mod source;
pub mod tenant;
pub mod vip;
pub mod word;

use crate::limits;

/// Version of all layouts together. Pinned maps of another version are not adopted.
pub const ABI_VERSION: u32 = 4;

/// Name and default capacity of a map, as both sides know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name of the map in the object and of its pin.
    pub name: &'static str,
    /// Default number of entries.
    pub capacity: u32,
    /// Size of a key, bytes.
    pub key_size: u32,
    /// Size of a value, bytes (of one CPU's value where the map is per CPU).
    pub value_size: u32,
}

macro_rules! maps {
    ($($(#[$doc:meta])* $id:ident: $name:literal, $capacity:expr, $key:ty => $value:ty;)*) => {
        $($(#[$doc])* pub const $id: MapSpec = MapSpec {
            name: $name,
            capacity: $capacity,
            key_size: size_of::<$key>() as u32,
            value_size: size_of::<$value>() as u32,
        };)*
        /// Every map of the balancer.
        pub const MAPS: &[MapSpec] = &[$($id),*];
    };
}

maps! {
    /// What changes for the whole node: ABI version, emergency bypass.
    CONFIG: "LB_CONFIG", 1, u32 => config::ConfigRow;
    /// Address, port and protocol to a [`vip::VipEntry`].
    VIP_KEYS: "LB_VIP_KEYS", limits::VIP_KEYS, vip::VipKey => u32;
    /// Vip rows.
    VIPS: "LB_VIPS", limits::VIPS, u32 => vip::VipRow;
    /// Vip rows by [`vip::VipKey::hint`], per CPU: where a key led last. Never more than a hint: the row decides.
    VIP_HINTS: "LB_VIP_HINTS", limits::VIP_HINTS, u32 => word::Word;
    /// Slots of every table, each vip's in one contiguous extent.
    SLOTS: "LB_SLOTS", limits::SLOTS, u32 => word::Word;
    /// Backend rows; row 0 is none.
    BACKENDS: "LB_BACKENDS", limits::BACKENDS, u32 => backend::BackendRow;
    /// Ways out of the node.
    EGRESS: "LB_EGRESS", limits::EGRESSES, u32 => egress::EgressRow;
    /// Devices of the ways out, for redirection; same index as [`EGRESS`]. (The kernel's value: interface index and
    /// program.)
    DEVICES: "LB_DEVICES", limits::EGRESSES, u32 => [u32; 2];
    /// Interface index of a device to an egress row without VLAN tags, for answers to where a packet came from.
    PORTS: "LB_PORTS", limits::EGRESSES, u32 => u32;
    /// The node's own source addresses.
    SOURCES: "LB_SOURCES", limits::SOURCES, u32 => source::SourceRow;
    /// The flow table.
    FLOWS: "LB_FLOWS", limits::FLOW_BUCKETS, u32 => flow::FlowBucket;
    /// NAT flows, by plane, protocol and port.
    NAT: "LB_NAT", limits::NAT_PLANES * 2 * limits::NAT_PORTS, u32 => nat::NatRow;
    /// Packets and bytes by reason, per CPU.
    REASON_COUNTS: "LB_REASONS", crate::reason::REASON_CAPACITY, u32 => counter::Counter;
    /// Packets and bytes by vip row, per CPU.
    VIP_COUNTS: "LB_VIP_COUNTS", limits::VIPS, u32 => counter::Counter;
    /// Packets and bytes by backend row, per CPU.
    BACKEND_COUNTS: "LB_BACK_COUNTS", limits::BACKENDS, u32 => counter::Counter;
    /// Signals by backend row and kind ([`signal::Signal`]), per CPU.
    SIGNALS: "LB_SIGNALS", limits::BACKENDS * signal::SIGNALS_PER_BACKEND, u32 => u64;
    /// SYNs of sampled flows, by [`mark::Mark::place`].
    SYN_MARKS: "LB_SYN_MARKS", limits::SYN_MARKS, u32 => word::Word;
    /// Tenants with limits; row 0 is none.
    TENANTS: "LB_TENANTS", limits::TENANTS, u32 => tenant::TenantRow;
    /// Credit in hand by tenant row, per CPU.
    TENANT_CREDIT: "LB_TENANT_CRED", limits::TENANTS, u32 => tenant::TenantCredit;
    /// Packets and bytes by tenant row and what the limits said, per CPU.
    TENANT_COUNTS: "LB_TENANT_CNTS", limits::TENANTS * tenant::COUNTS_PER_TENANT, u32 => counter::Counter;
    /// The token buckets of what the node itself sends, by [`counter::Answer`], per CPU.
    ICMP_METER: "LB_ICMP_METER", counter::ANSWERS, u32 => counter::Meter;
    /// Who may send tunnelled packets to a backend (`lb decap`): balancers' addresses.
    DECAP_PEERS: "LB_DECAP_PEERS", 256, crate::addr::Addr => u32;
    /// Which inner destinations a backend accepts from a tunnel (`lb decap`): vip addresses.
    DECAP_VIPS: "LB_DECAP_VIPS", 4096, crate::addr::Addr => u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_are_distinct() {
        for (index, map) in MAPS.iter().enumerate() {
            assert!(map.name.len() <= 15, "{} is longer than BPF_OBJ_NAME_LEN - 1", map.name);
            assert!(MAPS[index + 1..].iter().all(|other| other.name != map.name));
        }
    }

    #[test]
    fn a_tracked_flow_costs_at_most_24_bytes() {
        assert!(size_of::<flow::FlowBucket>() / limits::FLOW_WAYS <= 24);
    }
}
