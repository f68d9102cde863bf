//! Vips: the key by which a packet finds its vip, what the key leads to, and the vip's row.

use super::word::{Word, field};
use crate::addr::Addr;
use crate::be::Be16;
use crate::limits::{CLOSING_TIMEOUT_S, SYN_TIMEOUT_S, TENANTS, VIP_HINTS};
use bytemuck::{Pod, Zeroable};

/// Key of the vip hash. Looked up as (address, port, protocol), then with port 0, then with both 0: the mark of
/// an address that some vip, or NAT, uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct VipKey {
    /// Destination address.
    pub addr: Addr,
    /// Destination port; 0 = every port.
    pub port: Be16,
    /// IP protocol number; 0 = the mark of an address.
    pub protocol: u8,
    /// Always 0: no implicit padding.
    pub zero: u8,
}

const _: () = assert!(size_of::<VipKey>() == 20);

impl VipKey {
    /// The key of a vip.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Be16, protocol: u8) -> Self {
        Self { addr, port, protocol, zero: 0 }
    }
    /// Where a CPU notes the row that the key leads to: an index below [`VIP_HINTS`].
    #[inline(always)]
    pub const fn hint(&self) -> u32 {
        // Golden ratio: the upper bits of the product depend on all that is below them.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let [high, low] = self.addr.words();
        let folded = high ^ low.rotate_left(32) ^ VipRow::key_word(self.port, self.protocol).rotate_left(40);
        (folded.wrapping_mul(SPREAD) >> (64 - VIP_HINTS.ilog2())) as u32
    }
    /// The key that marks an address.
    #[inline(always)]
    pub const fn mark(addr: Addr) -> Self {
        Self { addr, port: Be16::from_raw(0), protocol: 0, zero: 0 }
    }
}

/// What a key leads to: the row of a vip, or, behind the mark of an address, what the address is used for.
///
/// | bits | field |
/// |---|---|
/// | 0-15 | vip row (behind a vip's key) or source number (behind a mark with [`VipEntry::SOURCE`]) |
/// | 30 | [`VipEntry::SOURCE`]: replies to NAT arrive here |
/// | 31 | [`VipEntry::ADDRESS`]: a vip has this address: an echo is answered, fragments are refused |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipEntry(pub u32);

impl VipEntry {
    /// The address is a NAT source of the node.
    pub const SOURCE: u32 = 1 << 30;
    /// The address is a vip's.
    pub const ADDRESS: u32 = 1 << 31;

    /// Vip row, or source number.
    #[inline(always)]
    pub const fn row(self) -> u32 {
        self.0 & 0xffff
    }
    /// Whether the address is a NAT source.
    #[inline(always)]
    pub const fn is_source(self) -> bool {
        self.0 & Self::SOURCE != 0
    }
    /// Whether the address is a vip's.
    #[inline(always)]
    pub const fn is_address(self) -> bool {
        self.0 & Self::ADDRESS != 0
    }
}

/// How flows of a vip are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Tracking {
    /// Only in slots that moved.
    Auto = 0,
    /// Every flow.
    Always = 1,
    /// None: a flow follows its slot.
    Never = 2,
}

/// How a new flow finds its backend. Bit 0: its slot is that of its source address alone. Bits 1-2: what is asked
/// besides the slot; whoever asks remembers every flow ([`Tracking::Always`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// By the slot of its 5-tuple.
    Flow = 0,
    /// By the slot of its source address.
    Source = 1,
    /// By what its source address was last given, else as [`Pick::Source`].
    Affinity = 3,
    /// By the slot whose turn it is.
    Turn = 4,
    /// Of two slots, by the one whose backend has fewer connections for its weight.
    Least = 6,
}

/// How long flows are remembered, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// After a SYN that nothing confirmed.
    pub syn_s: u8,
    /// After the last packet of a flow whose client closed.
    pub closing_s: u8,
    /// A source address's backend ([`Pick::Affinity`]), after its last packet.
    pub affinity_s: u16,
}

impl Timeouts {
    /// The defaults; no affinity.
    pub const fn new() -> Self {
        Self { syn_s: SYN_TIMEOUT_S as u8, closing_s: CLOSING_TIMEOUT_S as u8, affinity_s: 0 }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::new()
    }
}

/// A vip's live settings, one word.
///
/// | bits | field |
/// |---|---|
/// | 0-1 | [`Tracking`] |
/// | 2 | UDP is stateless: an unknown flow of a moving slot goes to `current` at once |
/// | 3 | NAT: flows are found in the NAT table |
/// | 4-6 | [`Pick`] |
/// | 7-15 | row of the vip's tenant; 0 = the tenant has no limits |
/// | 16-31 | `idle_s`: a confirmed flow without a packet for so long may be forgotten, seconds |
/// | 32-39 | [`Timeouts::syn_s`] |
/// | 40-47 | [`Timeouts::closing_s`] |
/// | 48-63 | [`Timeouts::affinity_s`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policy(pub u64);

const _: () = assert!(TENANTS <= 1 << 9);

impl Policy {
    /// Bit of stateless UDP.
    pub const UDP_STATELESS: u64 = 1 << 2;
    /// Bit of NAT.
    pub const NAT: u64 = 1 << 3;

    /// Packs a policy; `idle_s` in seconds.
    pub const fn new(tracking: Tracking, udp_stateless: bool, nat: bool, idle_s: u16) -> Self {
        Self(tracking as u64 | (udp_stateless as u64) << 2 | (nat as u64) << 3 | (idle_s as u64) << 16)
            .with_timeouts(Timeouts::new())
    }
    /// The same with another choice of what is remembered.
    #[must_use]
    pub const fn with_tracking(self, tracking: Tracking) -> Self {
        Self(self.0 & !3 | tracking as u64)
    }
    /// The same for a vip whose tenant has limits, in this row.
    #[must_use]
    pub const fn with_tenant(self, row: u16) -> Self {
        Self(self.0 & !(0x1ff << 7) | (row as u64 & 0x1ff) << 7)
    }
    /// Row of the vip's tenant; 0 = no limits.
    #[inline(always)]
    pub const fn tenant(self) -> u16 {
        field(self.0, 7, 9) as u16
    }
    /// Whether every flow is remembered.
    #[inline(always)]
    pub const fn always(self) -> bool {
        self.0 & 3 == Tracking::Always as u64
    }
    /// Whether no flow is remembered.
    #[inline(always)]
    pub const fn never(self) -> bool {
        self.0 & 3 == Tracking::Never as u64
    }
    /// Whether an unknown UDP flow of a moving slot goes to `current`.
    #[inline(always)]
    pub const fn udp_stateless(self) -> bool {
        self.0 & Self::UDP_STATELESS != 0
    }
    /// Whether the vip's backends are reached by NAT.
    #[inline(always)]
    pub const fn nat(self) -> bool {
        self.0 & Self::NAT != 0
    }
    /// The same with another [`Pick`].
    #[must_use]
    pub const fn with_pick(self, pick: Pick) -> Self {
        Self(self.0 & !(7 << 4) | (pick as u64) << 4)
    }
    /// The same with other timeouts.
    #[must_use]
    pub const fn with_timeouts(self, timeouts: Timeouts) -> Self {
        let Timeouts { syn_s, closing_s, affinity_s } = timeouts;
        let high = syn_s as u64 | (closing_s as u64) << 8 | (affinity_s as u64) << 16;
        Self(self.0 & 0xffff_ffff | high << 32)
    }
    /// How a new flow finds its backend.
    #[inline(always)]
    pub const fn pick(self) -> Pick {
        match field(self.0, 4, 3) {
            0 => Pick::Flow,
            1 => Pick::Source,
            3 => Pick::Affinity,
            4 => Pick::Turn,
            _ => Pick::Least,
        }
    }
    /// Whether the slot is that of the source address alone.
    #[inline(always)]
    pub const fn by_source(self) -> bool {
        self.0 & 1 << 4 != 0
    }
    /// Whether a new flow asks more than its slot.
    #[inline(always)]
    pub const fn picks(self) -> bool {
        self.0 & 3 << 5 != 0
    }
    /// After how long without a packet a confirmed flow may be forgotten, seconds.
    #[inline(always)]
    pub const fn idle_s(self) -> u32 {
        field(self.0, 16, 16) as u32
    }
    /// How long a SYN's entry waits for its confirmation, seconds.
    #[inline(always)]
    pub const fn syn_s(self) -> u32 {
        field(self.0, 32, 8) as u32
    }
    /// How long a closed flow's entry is kept after its last packet, seconds.
    #[inline(always)]
    pub const fn closing_s(self) -> u32 {
        field(self.0, 40, 8) as u32
    }
    /// How long a source address keeps its backend after its last packet, seconds.
    #[inline(always)]
    pub const fn affinity_s(self) -> u32 {
        field(self.0, 48, 16) as u32
    }
}

/// A vip. Written by the daemon before its key leads here; `table`, `policy` and `unserved` change live, `turn` is the
/// packets'.
#[derive(Debug, Default)]
#[repr(C)]
pub struct VipRow {
    /// The vip's address, repeated for the reader to compare.
    pub addr: [Word; 2],
    /// Port as it lies in memory (bits 0-15), protocol (16-23); bit 32: packets may find the row. 0 = it is free.
    pub key: Word,
    /// The extent of the vip's slots: index of the first (bits 0-31), their number (32-63).
    pub table: Word,
    /// [`Policy`].
    pub policy: Word,
    /// Serial number of the vip (bits 0-31) and of its tenant (32-63).
    pub identity: Word,
    /// How many new flows took their turn ([`Pick::Turn`]).
    pub turn: Word,
    /// What becomes of new flows while nobody serves them: [`VipRow::REFUSED`], or dropped (0).
    pub unserved: Word,
}

const _: () = assert!(size_of::<VipRow>() == 64);

impl VipRow {
    /// Of `unserved`: they are refused, so that the client knows at once.
    pub const REFUSED: u64 = 1;

    /// The `key` word of a vip.
    #[inline(always)]
    pub const fn key_word(port: Be16, protocol: u8) -> u64 {
        port.raw() as u64 | (protocol as u64) << 16 | Self::FOUND
    }
    /// Bit of the `key` word: packets may find the row.
    pub const FOUND: u64 = 1 << 32;
}

/// First index and number of a vip's slots, from the `table` word.
#[inline(always)]
pub const fn extent(table: u64) -> (u32, u32) {
    (table as u32, (table >> 32) as u32)
}

/// The `table` word.
pub const fn extent_word(first: u32, count: u32) -> u64 {
    first as u64 | (count as u64) << 32
}
