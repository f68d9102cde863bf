//! Ethernet II and VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use crate::be::Be16;
use bytemuck::{Pod, Zeroable};

/// An Ethernet header, 14 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ethernet {
    /// Destination MAC.
    pub dst: [Be16; 3],
    /// Source MAC.
    pub src: [Be16; 3],
    /// EtherType of what follows.
    pub ethertype: Be16,
}

/// What follows a VLAN EtherType, 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1), VLAN id (12).
    pub tci: Be16,
    /// EtherType of what follows.
    pub ethertype: Be16,
}

/// Size of [`Ethernet`].
pub const ETHERNET: u16 = 14;
/// Size of [`VlanTag`].
pub const VLAN_TAG: u16 = 4;
/// IPv4.
pub const TYPE_IPV4: Be16 = Be16::new(0x0800);
/// IPv6.
pub const TYPE_IPV6: Be16 = Be16::new(0x86dd);
/// 802.1Q tag.
pub const TYPE_VLAN: Be16 = Be16::new(0x8100);
/// 802.1ad tag.
pub const TYPE_QINQ: Be16 = Be16::new(0x88a8);

const _: () = assert!(size_of::<Ethernet>() == 14 && size_of::<VlanTag>() == 4);
