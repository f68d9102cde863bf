//! The Ethernet header on the way out: MACs, up to two VLAN tags, EtherType; and the room for it.

use super::packet::Packet;
use super::wire::ethernet::{
    ETHERNET, Ethernet, TYPE_IPV4, TYPE_IPV6, TYPE_QINQ, TYPE_VLAN, VLAN_TAG, VlanTag,
};
use crate::abi::egress::Tags;
use crate::addr::Mac;
use crate::be::Be16;

/// A link to send by.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Destination MAC.
    pub dst: Mac,
    /// Source MAC.
    pub src: Mac,
    /// VLAN tags.
    pub tags: Tags,
}

/// Sends a frame back where it came from, by the tags that it came with; nothing else of it moves.
#[inline(always)]
pub fn turn_round<P: Packet>(packet: &mut P) -> Option<()> {
    let header: &mut Ethernet = packet.at_mut(0)?;
    (header.dst, header.src) = (header.src, header.dst);
    Some(())
}

impl Link {
    /// The way that a frame with its IP header at `l3` came, turned round.
    #[inline(always)]
    pub fn back<P: Packet>(packet: &P, l3: u16) -> Option<Self> {
        let header: &Ethernet = packet.at(0)?;
        let (dst, src) = (Mac::from_field(&header.src), Mac::from_field(&header.dst));
        let tci = |offset: u16| packet.at::<VlanTag>(offset).map(|tag| tag.tci.host());
        let ad = header.ethertype == TYPE_QINQ;
        let tags = match l3 - ETHERNET {
            0 => Tags::NONE,
            VLAN_TAG => Tags::one(tci(ETHERNET)?).with_unusual(ad),
            _ => Tags::two(tci(ETHERNET)?, tci(ETHERNET + VLAN_TAG)?).with_unusual(!ad),
        };
        Some(Self { dst, src, tags })
    }

    /// Length of the Ethernet header with its tags, bytes.
    #[inline(always)]
    pub const fn length(&self) -> u16 {
        match self.tags.count() {
            0 => ETHERNET,
            1 => ETHERNET + VLAN_TAG,
            _ => ETHERNET + 2 * VLAN_TAG,
        }
    }

    /// Moves the start of the frame so that what lay at `from` comes to lie `gap` bytes behind this link's header.
    /// `None`: there is no room.
    #[inline(always)]
    pub fn reframe<P: Packet>(&self, packet: &mut P, from: u16, gap: u16) -> Option<()> {
        let wanted = self.length() + gap;
        let moved = if wanted > from {
            packet.grow_head(wanted - from)
        } else {
            wanted == from || packet.shrink_head(from - wanted)
        };
        moved.then_some(())
    }

    /// Writes the header at the front of the frame.
    #[inline(always)]
    pub fn write<P: Packet>(&self, packet: &mut P, v4: bool) -> Option<()> {
        let inner = if v4 { TYPE_IPV4 } else { TYPE_IPV6 };
        let ethertype = match self.tags.count() {
            0 => inner,
            _ if self.tags.is_ad() => TYPE_QINQ,
            _ => TYPE_VLAN,
        };
        *packet.at_mut(0)? = Ethernet { dst: self.dst.field(), src: self.src.field(), ethertype };
        if self.tags.count() == 0 {
            return Some(());
        }
        let last = self.tags.count() == 1;
        let tag =
            VlanTag { tci: Be16::new(self.tags.first()), ethertype: if last { inner } else { TYPE_VLAN } };
        *packet.at_mut(ETHERNET)? = tag;
        if !last {
            let tag = VlanTag { tci: Be16::new(self.tags.second()), ethertype: inner };
            *packet.at_mut(ETHERNET + VLAN_TAG)? = tag;
        }
        Some(())
    }
}
