//! A way out of the node: device, MTU, source MAC and VLAN tags. Same index as the device map.
//!
//! A row is written before a next hop names it and never changed after; a change takes a fresh row.

use super::word::Word;
use crate::addr::Mac;

/// A way out. Written by the daemon.
#[derive(Debug, Default)]
#[repr(C)]
pub struct EgressRow {
    /// Source MAC (bits 0-47).
    pub source_mac: Word,
    /// Interface index (bits 0-31) and MTU in bytes, without the Ethernet header (32-47); 0 = the row is free.
    pub device: Word,
    /// VLAN tags, [`Tags`]. The number of tags is fixed with them.
    pub tags: Word,
    /// Unused, 0.
    pub spare: Word,
}

const _: () = assert!(size_of::<EgressRow>() == 32);

impl EgressRow {
    /// The `device` word.
    pub const fn device_word(ifindex: u32, mtu: u16) -> u64 {
        ifindex as u64 | (mtu as u64) << 32
    }
    /// Interface index.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        self.device.load() as u32
    }
    /// Largest IP packet, bytes.
    #[inline(always)]
    pub fn mtu(&self) -> u16 {
        (self.device.load() >> 32) as u16
    }
    /// Source MAC.
    #[inline(always)]
    pub fn mac(&self) -> Mac {
        Mac(self.source_mac.load())
    }
}

/// Up to two VLAN tags: how many (bits 0-7), then for each, outer first, its tag control information in host order
/// (8-23, 24-39). The outer one of two is an 802.1ad tag (0x88a8), the other an 802.1Q one (0x8100); where the first one
/// is of the other kind, bit 40 is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags(pub u64);

impl Tags {
    /// No tag.
    pub const NONE: Self = Self(0);

    /// One 802.1Q tag.
    pub const fn one(tci: u16) -> Self {
        Self(1 | (tci as u64) << 8)
    }
    /// An 802.1ad tag around an 802.1Q one.
    pub const fn two(outer: u16, inner: u16) -> Self {
        Self(2 | (outer as u64) << 8 | (inner as u64) << 24)
    }
    /// These tags, the first one of the kind that is not usual in its place, if `unusual`.
    #[inline(always)]
    pub const fn with_unusual(self, unusual: bool) -> Self {
        Self(self.0 | (unusual as u64) << 40)
    }
    /// Whether the first tag is of the kind that is not usual in its place.
    #[inline(always)]
    pub const fn is_unusual(self) -> bool {
        self.0 >> 40 & 1 != 0
    }
    /// Whether the first tag is an 802.1ad one.
    #[inline(always)]
    pub const fn is_ad(self) -> bool {
        (self.count() == 2) != self.is_unusual()
    }
    /// Number of tags.
    #[inline(always)]
    pub const fn count(self) -> u8 {
        self.0 as u8
    }
    /// Tag control information of the first (outer) tag.
    #[inline(always)]
    pub const fn first(self) -> u16 {
        (self.0 >> 8) as u16
    }
    /// Tag control information of the second (inner) tag.
    #[inline(always)]
    pub const fn second(self) -> u16 {
        (self.0 >> 24) as u16
    }
}
