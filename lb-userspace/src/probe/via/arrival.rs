//! What comes for the probe addresses: whose is it? Answers by the port or identifier that was asked from, ICMP errors by that of
//! the packet that they quote. What is nobody's is left alone: no reset, no error is sent for it.

use std::io::ErrorKind;
use std::net::IpAddr;

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol,
    Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

use super::{Addresses, Inbound};

/// Longest packet that is taken, bytes: the most that may be under way of a connection, which the kernel may have put
/// together to one packet, and headers.
const PACKET_MAX_BYTES: usize = super::tcp::WINDOW_BYTES + 512;
/// Code of "port unreachable" (RFC 792, RFC 4443 section 3.1).
const PORT_V4: u8 = 3;
const PORT_V6: u8 = 4;

/// A packet and whose it is.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) port: u16,
    pub(super) from: IpAddr,
    pub(super) inbound: Inbound,
}

/// The IP packet of a frame, as far as its header says that it goes: frames may be padded.
struct Datagram<'a> {
    from: IpAddr,
    to: IpAddr,
    protocol: IpProtocol,
    whole: &'a [u8],
    payload: &'a [u8],
}

/// Whose a frame is; `None`: nobody's.
pub(super) fn of(frame: &[u8], addresses: &Addresses) -> Option<Arrival> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let datagram = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => v4(ethernet.payload())?,
        EthernetProtocol::Ipv6 => v6(ethernet.payload())?,
        _ => return None,
    };
    if !addresses.has(datagram.to) || datagram.whole.len() > PACKET_MAX_BYTES {
        return None;
    }
    let packet = || Inbound::Packet(datagram.whole.to_vec());
    let (port, inbound) = match datagram.protocol {
        IpProtocol::Icmp => icmp_v4(datagram.payload, addresses, packet)?,
        IpProtocol::Icmpv6 => icmp_v6(datagram.payload, addresses, packet)?,
        _ => (ports(&datagram)?.1, packet()),
    };
    Some(Arrival { port, from: datagram.from, inbound })
}

fn v4(bytes: &[u8]) -> Option<Datagram<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let whole = &bytes[..usize::from(packet.total_len())];
    (!packet.more_frags() && packet.frag_offset() == 0).then(|| Datagram {
        from: packet.src_addr().into(),
        to: packet.dst_addr().into(),
        protocol: packet.next_header(),
        whole,
        payload: &whole[usize::from(packet.header_len())..],
    })
}

fn v6(bytes: &[u8]) -> Option<Datagram<'_>> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    let whole = &bytes[..packet.total_len()];
    Some(Datagram {
        from: packet.src_addr().into(),
        to: packet.dst_addr().into(),
        protocol: packet.next_header(),
        whole,
        payload: &whole[packet.header_len()..],
    })
}

/// Source and destination port.
fn ports(datagram: &Datagram<'_>) -> Option<(u16, u16)> {
    match datagram.protocol {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(datagram.payload).ok()?;
            Some((segment.src_port(), segment.dst_port()))
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(datagram.payload).ok()?;
            Some((datagram.src_port(), datagram.dst_port()))
        }
        _ => None,
    }
}

fn icmp_v4(message: &[u8], addresses: &Addresses, packet: impl Fn() -> Inbound) -> Option<(u16, Inbound)> {
    let message = Icmpv4Packet::new_checked(message).ok()?;
    match message.msg_type() {
        Icmpv4Message::EchoReply => Some((message.echo_ident(), packet())),
        Icmpv4Message::DstUnreachable => {
            let quoted = message.data();
            let header = usize::from(quoted.first()? & 15) * 4;
            let from: [u8; 4] = quoted.get(12..16)?.try_into().ok()?;
            let port = asked_from(*quoted.get(9)?, quoted.get(header..)?)?;
            addresses.has(from.into()).then_some((port, refused(message.msg_code() == PORT_V4)))
        }
        _ => None,
    }
}

fn icmp_v6(message: &[u8], addresses: &Addresses, packet: impl Fn() -> Inbound) -> Option<(u16, Inbound)> {
    let message = Icmpv6Packet::new_checked(message).ok()?;
    match message.msg_type() {
        Icmpv6Message::EchoReply => Some((message.echo_ident(), packet())),
        Icmpv6Message::DstUnreachable => {
            let quoted = message.payload();
            let from: [u8; 16] = quoted.get(8..24)?.try_into().ok()?;
            let port = asked_from(*quoted.get(6)?, quoted.get(40..)?)?;
            addresses.has(from.into()).then_some((port, refused(message.msg_code() == PORT_V6)))
        }
        _ => None,
    }
}

/// The port or identifier that a quoted packet of ours was sent from: an error quotes 8 bytes of it at least.
fn asked_from(protocol: u8, transport: &[u8]) -> Option<u16> {
    let at = match IpProtocol::from(protocol) {
        IpProtocol::Tcp | IpProtocol::Udp => 0,
        IpProtocol::Icmp | IpProtocol::Icmpv6 => 4,
        _ => return None,
    };
    transport.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn refused(port: bool) -> Inbound {
    Inbound::Unreachable(if port { ErrorKind::ConnectionRefused } else { ErrorKind::HostUnreachable })
}
