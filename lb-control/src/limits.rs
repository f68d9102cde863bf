//! What the maps of this node can hold. The daemon sets it once at its start, from the maps or from its options.

use lb_common::limits;
use serde::{Deserialize, Serialize};

/// Capacities, in objects of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Vips.
    pub vips: u32,
    /// Keys of the vip hash: one a vip, one a distinct vip address, one a source address.
    pub vip_keys: u32,
    /// Backends of all vips together; one less than the rows, since row 0 is "none".
    pub backends: u32,
    /// Slots of all tables together.
    pub slots: u32,
    /// Ways out of the node.
    pub egresses: u32,
    /// Source addresses of the node.
    pub sources: u32,
    /// Tenants with limits; one less than the rows, since row 0 is "none".
    pub tenants: u32,
    /// Entries of the flow table, which shares are shares of.
    pub flow_entries: u32,
    /// NAT ports, which shares are shares of.
    pub nat_ports: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            vips: limits::VIPS,
            vip_keys: limits::VIP_KEYS,
            backends: limits::BACKENDS - 1,
            slots: limits::SLOTS,
            egresses: limits::EGRESSES,
            sources: limits::SOURCES,
            tenants: limits::TENANTS - 1,
            flow_entries: flow_entries(limits::FLOW_BUCKETS),
            nat_ports: nat_ports(limits::NAT_PLANES * 2 * limits::NAT_PORTS),
        }
    }
}

/// Entries of a flow table of so many buckets.
pub const fn flow_entries(buckets: u32) -> u32 {
    buckets.saturating_mul(limits::FLOW_WAYS as u32)
}

/// Ports that flows may have in a NAT table of so many rows.
pub const fn nat_ports(rows: u32) -> u32 {
    rows / limits::NAT_PORTS * (limits::NAT_PORTS - limits::NAT_PORT_FIRST)
}
