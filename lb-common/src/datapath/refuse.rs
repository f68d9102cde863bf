//! What becomes of a packet of a vip that nobody serves. Where the vip asks for it its client is told at once: a new
//! connection is reset, and a datagram answered as if nobody listened on its port. All else is dropped.
//!
//! At most one packet for one, and as many as the meter of refusals allows: a flood of SYNs is answered as little as a flood
//! of pings, and takes nothing from the other messages of the node.

use super::Halt;
use super::icmp::{allowed, header_v4, header_v6, port_unreachable};
use super::link::turn_round;
use super::packet::Packet;
use super::parse::{Content, Parsed};
use super::pipeline::Trail;
use super::tables::Tables;
use super::wire::checksum::pseudo_header;
use super::wire::ipv4::IPV4;
use super::wire::ipv6::IPV6;
use super::wire::transport::{ACK, FIN, Ports, RST, TCP, Tcp, UDP};
use crate::abi::counter::Answer;
use crate::abi::vip::VipRow;
use crate::be::{Be16, Be32};
use crate::reason::Reason;

/// A TCP header without options, bytes.
const TCP_HEADER: u16 = size_of::<Tcp>() as u16;

/// The end of a packet that found no backend.
#[inline(never)]
pub fn unserved<P: Packet, T: Tables>(packet: &mut P, parsed: &Parsed, tables: &T, trail: &Trail) -> Halt {
    let asked = tables.vip(trail.vip_row).is_some_and(|vip| vip.unserved.load() == VipRow::REFUSED);
    // A tenant that has had its share is no lack of backends.
    let refused = asked && trail.refusal == Reason::NoBackend && parsed.content == Content::Segment;
    if refused && parsed.is_syn() {
        return reset(packet, parsed, tables);
    }
    if refused && parsed.flow.protocol == UDP {
        return port_unreachable(packet, parsed, tables);
    }
    Halt::drop(trail.refusal)
}

/// Turns a SYN into the reset that refuses it.
#[inline(never)]
fn reset<P: Packet, T: Tables>(packet: &mut P, parsed: &Parsed, tables: &T) -> Halt {
    if !allowed(&parsed.flow.src, Answer::Refusal, tables) {
        return Halt::drop(Reason::IcmpLimited);
    }
    match write_reset(packet, parsed) {
        Some(()) => Halt::answer(Reason::ResetReplied),
        None => Halt::drop(Reason::NoHeadroom),
    }
}

#[inline(always)]
fn write_reset<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    let (l3, ip) = (parsed.l3, if parsed.v4 { IPV4 } else { IPV6 });
    let header_length = u16::from(packet.at::<Tcp>(parsed.l4)?.offset >> 4) * 4;
    let data = parsed.ip_length.wrapping_sub(parsed.l4 - l3).wrapping_sub(header_length);
    // The length of a segment counts its SYN and its FIN (RFC 9293 section 3.4).
    let length = u32::from(data) + 1 + u32::from(parsed.tcp_flags & FIN);
    let segment = segment(parsed, parsed.sequence.wrapping_add(length));
    if !packet.truncate(u32::from(l3 + ip + TCP_HEADER)) {
        return None;
    }
    if parsed.v4 {
        *packet.at_mut(l3)? = header_v4(parsed, TCP, TCP_HEADER);
        *packet.at_mut(l3 + IPV4)? = segment;
    } else {
        *packet.at_mut(l3)? = header_v6(parsed, TCP, TCP_HEADER);
        *packet.at_mut(l3 + IPV6)? = segment;
    }
    turn_round(packet)
}

/// "If the ACK bit is off, sequence number zero is used, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>" (RFC 9293 section
/// 3.10.7.1).
#[inline(always)]
fn segment(parsed: &Parsed, acknowledgement: u32) -> Tcp {
    let flow = &parsed.flow;
    let (offset, flags) = ((TCP_HEADER as u8 / 4) << 4, RST | ACK);
    let acknowledgement = Be32::new(acknowledgement);
    let checksum = pseudo_header(&flow.dst, &flow.src, TCP, TCP_HEADER)
        .add(flow.dst_port.raw())
        .add(flow.src_port.raw())
        .add32(acknowledgement.raw())
        .add(u16::from_ne_bytes([offset, flags]))
        .finish();
    Tcp {
        ports: Ports { src: flow.dst_port, dst: flow.src_port },
        sequence: Be32::new(0),
        acknowledgement,
        offset,
        flags,
        window: Be16::new(0),
        checksum,
        urgent: Be16::new(0),
    }
}
