//! Answers for the probe addresses by ARP (RFC 826) and neighbour discovery (RFC 4861): no device of the node has them, so the
//! kernel does not.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use super::Addresses;

/// The answer to a frame that asks who has one of these addresses; `mac`: of the device that it came in by.
pub(super) fn answer(frame: &[u8], addresses: &Addresses, mac: [u8; 6]) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Arp => arp(ethernet.payload(), addresses, EthernetAddress(mac)),
        EthernetProtocol::Ipv6 => solicited(ethernet, addresses, EthernetAddress(mac)),
        _ => None,
    }
}

fn framed(from: EthernetAddress, to: EthernetAddress, ethertype: EthernetProtocol, length: usize) -> Vec<u8> {
    let repr = EthernetRepr { src_addr: from, dst_addr: to, ethertype };
    let mut bytes = vec![0; repr.buffer_len() + length];
    repr.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    bytes
}

/// Whoever asks who has the address is told, also one that wants it for itself (RFC 5227 section 2.1.1).
fn arp(packet: &[u8], addresses: &Addresses, mac: EthernetAddress) -> Option<Vec<u8>> {
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
    else {
        return None;
    };
    if !addresses.has(target_protocol_addr.into()) || !source_hardware_addr.is_unicast() {
        return None;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: mac,
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut bytes = framed(mac, source_hardware_addr, EthernetProtocol::Arp, reply.buffer_len());
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes[EthernetFrame::<&[u8]>::header_len()..]));
    Some(bytes)
}

fn solicited(frame: EthernetFrame<&[u8]>, addresses: &Addresses, mac: EthernetAddress) -> Option<Vec<u8>> {
    let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
    // RFC 4861 section 7.1.1: with another hop limit it has been routed, and means nothing.
    if packet.next_header() != IpProtocol::Icmpv6 || packet.hop_limit() != 255 {
        return None;
    }
    let (src, dst) = (packet.src_addr(), packet.dst_addr());
    let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) =
        Icmpv6Repr::parse(&src, &dst, &message, &ChecksumCapabilities::ignored()).ok()?
    else {
        return None;
    };
    if !addresses.has(target_addr.into()) || !frame.src_addr().is_unicast() {
        return None;
    }
    // RFC 4861 section 7.2.4: one that has no address yet is told by a message to all nodes, unsolicited.
    let nobody = src.is_unspecified();
    let to = if nobody { ALL_NODES } else { src };
    let to_mac = if nobody { EthernetAddress(ALL_NODES_MAC) } else { frame.src_addr() };
    let flags = NdiscNeighborFlags::OVERRIDE
        | if nobody { NdiscNeighborFlags::empty() } else { NdiscNeighborFlags::SOLICITED };
    let advert =
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr: Some(mac.into()) });
    let header = Ipv6Repr {
        src_addr: target_addr,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: advert.buffer_len(),
        hop_limit: 255,
    };
    let mut bytes = framed(mac, to_mac, EthernetProtocol::Ipv6, header.buffer_len() + advert.buffer_len());
    let rest = &mut bytes[EthernetFrame::<&[u8]>::header_len()..];
    let (head, body) = rest.split_at_mut(header.buffer_len());
    header.emit(&mut Ipv6Packet::new_unchecked(head));
    let message = &mut Icmpv6Packet::new_unchecked(body);
    advert.emit(&target_addr, &to, message, &ChecksumCapabilities::default());
    Some(bytes)
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// The group that is asked who has an address (RFC 4291 section 2.7.1).
pub(super) fn group(address: IpAddr) -> Option<Ipv6Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., a, b, c] = address.octets();
    Some(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c])))
}
