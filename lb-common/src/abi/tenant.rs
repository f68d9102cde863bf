//! Tenants with limits: a row that all CPUs share, and of each CPU what it has in hand and what it counted.
//!
//! A tenant without limits has no row, and its vips name row 0. Who writes: the daemon the limits, the data plane (and
//! the daemon's sweep, which takes off what it deletes) the state.

use super::counter::Counter;
use super::word::{Word, field};
use crate::reason::Reason;
use bytemuck::{Pod, Zeroable};

/// The buckets of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Packets a second.
    Packets = 0,
    /// Bits a second, of frames as they arrived.
    Bits = 1,
    /// New connections a second.
    Connections = 2,
}

/// How much of the node's tables a tenant may hold, one word.
///
/// | bits | field |
/// |---|---|
/// | 0-31 | entries of the flow table; 0 = no cap |
/// | 32-63 | NAT ports; 0 = no cap |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps(pub u64);

impl Caps {
    /// Packs caps.
    pub const fn new(connections: u32, nat_ports: u32) -> Self {
        Self(connections as u64 | (nat_ports as u64) << 32)
    }
    /// Largest number of entries of the flow table; 0 = no cap.
    #[inline(always)]
    pub const fn connections(self) -> u32 {
        field(self.0, 0, 32) as u32
    }
    /// Largest number of NAT ports; 0 = no cap.
    #[inline(always)]
    pub const fn nat_ports(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A tenant with limits: a cache line that is only read while packets flow, and one that is written now and then.
#[derive(Debug, Default)]
#[repr(C)]
pub struct TenantRow {
    /// Serial number of the tenant (bits 0-31); 0 = the row is free.
    pub identity: Word,
    /// By [`Rate`]: units a second; 0 = no limit. Change live.
    pub rates: [Word; 3],
    /// How far a bucket may lag behind the clock: what may come at once is this times the rate, nanoseconds.
    pub burst_ns: Word,
    /// [`Caps`].
    pub caps: Word,
    /// Unused, 0.
    pub spare: [Word; 2],
    /// By [`Rate`]: up to when credit was handed out to CPUs, nanoseconds of the monotonic clock.
    pub handed_ns: [Word; 3],
    /// Entries of the flow table that name a backend of the tenant's.
    pub connections: Word,
    /// NAT ports with a flow to a backend of the tenant's.
    pub nat_ports: Word,
    /// Unused, 0.
    pub unused: [Word; 3],
}

const _: () = assert!(size_of::<TenantRow>() == 128);

/// What a CPU has in hand for a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TenantCredit {
    /// By [`Rate`], billionths of a unit.
    pub credit: [u64; 3],
    /// Unused, 0: two to a cache line.
    pub unused: u64,
}

const _: () = assert!(size_of::<TenantCredit>() == 32);

/// Counters of a tenant row: `COUNTS_PER_TENANT * row + kind`. Kinds below [`ARRIVED`] are [`REFUSALS`].
pub const COUNTS_PER_TENANT: u32 = 8;
/// The kind of all that came, refused or not.
pub const ARRIVED: u32 = 5;
/// The kind of new connections that the limits let through; they have no bytes.
pub const BEGUN: u32 = 6;

/// Why limits refuse a packet. Their numbers follow each other.
pub const REFUSALS: [Reason; ARRIVED as usize] = [
    Reason::TenantPacketRate,
    Reason::TenantBitRate,
    Reason::TenantConnectionRate,
    Reason::TenantConnections,
    Reason::TenantNatPorts,
];

/// The kind of a refusal.
#[inline(always)]
pub const fn kind_of(refusal: Reason) -> u32 {
    (refusal as u32).wrapping_sub(REFUSALS[0] as u32)
}

/// The counters of a tenant, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantCounts(pub [Counter; COUNTS_PER_TENANT as usize]);

impl TenantCounts {
    /// What the limits let through, whatever became of it then.
    pub fn passed(&self) -> Counter {
        let arrived = self.0[ARRIVED as usize];
        // Counters are read one after another, while packets flow.
        self.refused().fold(arrived, |rest, (_, refused)| Counter {
            packets: rest.packets.saturating_sub(refused.packets),
            bytes: rest.bytes.saturating_sub(refused.bytes),
        })
    }
    /// New connections that the limits let through.
    pub const fn begun(&self) -> u64 {
        self.0[BEGUN as usize].packets
    }
    /// What the limits refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (Reason, Counter)> {
        REFUSALS.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_kind_and_what_is_left_passed() {
        let mut counts = TenantCounts::default();
        for (number, reason) in REFUSALS.into_iter().enumerate() {
            assert_eq!(kind_of(reason) as usize, number);
            counts.0[number] = Counter { packets: 1, bytes: 100 };
        }
        counts.0[ARRIVED as usize] = Counter { packets: 7, bytes: 900 };
        assert_eq!(counts.passed(), Counter { packets: 2, bytes: 400 });
    }

    #[test]
    fn caps_keep_their_halves() {
        let caps = Caps::new(7, 9);
        assert_eq!((caps.connections(), caps.nat_ports()), (7, 9));
    }
}
