//! A backend's row: where its packets go and whether it takes any.

use super::word::{Word, field};
use crate::addr::{Addr, Mac};
use crate::be::Be16;

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Mode {
    /// L2 direct return: only the Ethernet header is rewritten; the backend is on-link and has the vip.
    L2 = 0,
    /// IP-in-IP direct return (RFC 2003, RFC 2473): the packet travels inside another; the backend unwraps it.
    Ipip = 1,
    /// NAT: destination and source are rewritten, and the replies on their way back.
    Nat = 2,
}

/// State and way of a backend, one word.
///
/// | bits | field |
/// |---|---|
/// | 0 | [`Control::ALIVE`] |
/// | 1 | [`Control::NEW`] |
/// | 4-7 | [`Mode`] |
/// | 8-11 | source number: the node's own address on the way to this backend |
/// | 16-31 | vip row |
/// | 32-47 | the backend's port as it lies in memory; 0 = as in the packet (NAT) |
/// | 48-63 | its weight, where connections are counted; else 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Control(pub u64);

impl Control {
    /// Serves the flows that it has. Without it an entry that names this backend is a miss.
    pub const ALIVE: u64 = 1;
    /// Takes new flows. Without it the backend is draining.
    pub const NEW: u64 = 2;

    /// Packs a control word; `flags` of [`Control::ALIVE`] and [`Control::NEW`].
    pub const fn new(flags: u64, mode: Mode, source: u8, vip_row: u16, port: Be16) -> Self {
        Self(
            flags & 3
                | (mode as u64) << 4
                | ((source & 15) as u64) << 8
                | (vip_row as u64) << 16
                | (port.raw() as u64) << 32,
        )
    }
    /// The same with a weight.
    #[must_use]
    pub const fn with_weight(self, weight: u16) -> Self {
        Self(self.0 & 0xffff_ffff_ffff | (weight as u64) << 48)
    }
    /// Its weight; 0 = none is needed.
    #[inline(always)]
    pub const fn weight(self) -> u16 {
        field(self.0, 48, 16) as u16
    }
    /// Whether it serves the flows that it has.
    #[inline(always)]
    pub const fn alive(self) -> bool {
        self.0 & Self::ALIVE != 0
    }
    /// Whether it takes new flows.
    #[inline(always)]
    pub const fn takes_new(self) -> bool {
        self.0 & Self::NEW != 0
    }
    /// How packets reach it.
    #[inline(always)]
    pub const fn mode(self) -> Mode {
        match field(self.0, 4, 4) {
            0 => Mode::L2,
            1 => Mode::Ipip,
            _ => Mode::Nat,
        }
    }
    /// Source number.
    #[inline(always)]
    pub const fn source(self) -> u32 {
        field(self.0, 8, 4) as u32
    }
    /// Vip row.
    #[inline(always)]
    pub const fn vip_row(self) -> u16 {
        field(self.0, 16, 16) as u16
    }
    /// The backend's port; 0 = as in the packet.
    #[inline(always)]
    pub const fn port(self) -> Be16 {
        Be16::from_raw(field(self.0, 32, 16) as u16)
    }
}

/// Next hop: MAC (bits 0-47) and egress row (48-63); 0 = not known yet. Changes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NextHop(pub u64);

impl NextHop {
    /// Packs a next hop.
    #[inline(always)]
    pub const fn new(mac: Mac, egress: u16) -> Self {
        Self(mac.0 | (egress as u64) << 48)
    }
    /// Hardware address of the next hop.
    #[inline(always)]
    pub const fn mac(self) -> Mac {
        Mac(self.0 & 0xffff_ffff_ffff)
    }
    /// Row of the egress table.
    #[inline(always)]
    pub const fn egress(self) -> u16 {
        (self.0 >> 48) as u16
    }
    /// Whether a neighbour is known.
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.mac().0 != 0
    }
}

/// A backend. Written by the daemon before any slot names it; `control`, `next_hop`, the tenant, `connections` and
/// the words of a trial change live.
#[derive(Debug, Default)]
#[repr(C)]
pub struct BackendRow {
    /// [`Control`].
    pub control: Word,
    /// [`NextHop`].
    pub next_hop: Word,
    /// The backend's address.
    pub addr: [Word; 2],
    /// Serial number of the backend (bits 0-31; 0 = the row is free), and row of the tenant that its flows count for
    /// (32-47; 0 = the tenant has no limits). The latter changes live.
    pub identity: Word,
    /// Live connections that are counted ([`super::vip::Pick::Least`]): entries of the flow table that are
    /// [`super::flow::EntryState::Counted`]. Whoever changes such an entry changes this; of a free row 0.
    pub connections: Word,
    /// On trial: new connections per second that it is given (bits 0-15); 0 = it is not.
    pub trial_cps: Word,
    /// On trial: when its next token falls due, nanoseconds of the monotonic clock; written by the data plane alone
    /// ([`crate::datapath::trial`]).
    pub trial_due_ns: Word,
}

const _: () = assert!(size_of::<BackendRow>() == 64);

impl BackendRow {
    /// The `identity` word of a backend with this serial number, whose flows count for this row.
    #[inline(always)]
    pub const fn identity_word(id: u32, tenant: u16) -> u64 {
        id as u64 | (tenant as u64) << 32
    }
    /// Row of the tenant that its flows count for; 0 = no limits.
    #[inline(always)]
    pub fn tenant(&self) -> u16 {
        field(self.identity.load(), 32, 16) as u16
    }
    /// The backend's address.
    #[inline(always)]
    pub fn address(&self) -> Addr {
        Addr::from_words([self.addr[0].load(), self.addr[1].load()])
    }
}
