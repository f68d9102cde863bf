//! What the node itself answers: an echo to a vip, "too big", "hop limit used up" and "port unreachable". At most one
//! packet for one, never to an error, a fragment or a group address, and no more than [`ICMP_RATE_PPS`] of each kind
//! ([`Answer`]) per CPU.

use super::Halt;
use super::forward::CUT;
use super::link::{Link, turn_round};
use super::packet::Packet;
use super::parse::{Content, Parsed};
use super::tables::Tables;
use super::wire::checksum::{Sum, pseudo_header};
use super::wire::icmp::{ICMP_HEADER, Icmp, v4, v6};
use super::wire::ipv4::{IPV4, Ipv4};
use super::wire::ipv6::{IPV6, Ipv6};
use super::wire::transport::{ICMP, ICMPV6};
use crate::abi::counter::Answer;
use crate::addr::Addr;
use crate::be::{Be16, Be32};
use crate::limits::{ICMP_BURST_PACKETS, ICMP_RATE_PPS, ICMP4_QUOTE, ICMP6_QUOTE, OUTER_TTL};
use crate::reason::Reason;

/// Lowest MTU that is ever told: what every IPv4 host must take (RFC 791), and IPv6's minimum (RFC 8200).
const MTU_FLOOR_V4: u16 = 576;
const MTU_FLOOR_V6: u16 = 1280;

/// Whether one more answer of a kind may go to this address now.
#[inline(never)]
pub(super) fn allowed<T: Tables>(to: &Addr, of: Answer, tables: &T) -> bool {
    let first = if to.is_v4() { to.0[3].to_ne_bytes()[0] } else { to.0[0].to_ne_bytes()[0] };
    // In ::/96 lie the unspecified address and loopback, and nothing else that is in use (RFC 4291 sections 2.5.2 to 2.5.5).
    let none_v6 = to.0[0] | to.0[1] | to.0[2] == 0;
    let group =
        if to.is_v4() { first >= 224 || first == 0 || first == 127 } else { first == 0xff || none_v6 };
    let now_ns = tables.now_ns();
    !group && tables.with_icmp_meter(of, |meter| meter.take(now_ns, ICMP_RATE_PPS, ICMP_BURST_PACKETS))
}

/// Answers an echo request to a vip's address in place.
#[inline(never)]
pub fn echo<P: Packet, T: Tables>(
    packet: &mut P,
    parsed: &Parsed,
    tables: &T,
) -> Result<super::Verdict, Halt> {
    if !allowed(&parsed.flow.src, Answer::Signpost, tables) {
        return Err(Halt::drop(Reason::IcmpLimited));
    }
    let reply = if parsed.v4 { v4::ECHO_REPLY } else { v6::ECHO_REPLY };
    let icmp: &mut Icmp = packet.at_mut(parsed.l4).ok_or(CUT)?;
    let old = u16::from_ne_bytes([icmp.kind, icmp.code]);
    icmp.kind = reply;
    // The pseudo header of ICMPv6 covers both addresses, whose sum does not change when they are swapped.
    icmp.checksum = Sum::change().replace(old, u16::from_ne_bytes([reply, icmp.code])).apply(icmp.checksum);
    if parsed.v4 {
        let header: &mut Ipv4 = packet.at_mut(parsed.l3).ok_or(CUT)?;
        (header.src, header.dst) = (header.dst, header.src);
        header.set_ttl(OUTER_TTL);
    } else {
        let header: &mut Ipv6 = packet.at_mut(parsed.l3).ok_or(CUT)?;
        (header.src, header.dst) = (header.dst, header.src);
        header.hop_limit = OUTER_TTL;
    }
    turn_round(packet).ok_or(CUT)?;
    Err(Halt::answer(Reason::EchoReplied))
}

/// Tells the sender that the way onwards takes `mtu` bytes at most.
#[inline(always)]
pub fn too_big<P: Packet, T: Tables>(packet: &mut P, parsed: &Parsed, mtu: u16, tables: &T) -> Halt {
    let floor = if parsed.v4 { MTU_FLOOR_V4 } else { MTU_FLOOR_V6 };
    let mtu = if mtu < floor { floor } else { mtu };
    // Who allows fragmenting expects no message (RFC 1191 section 4), and XDP cannot fragment.
    let df = !parsed.v4 || packet.at::<Ipv4>(parsed.l3).is_some_and(Ipv4::dont_fragment);
    if !df || parsed.content != Content::Segment {
        return Halt::drop(Reason::TooBig);
    }
    let (kind, code) = if parsed.v4 { (v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) } else { (v6::TOO_BIG, 0) };
    let (of, reason) = (Answer::TooBig, Reason::TooBigReplied);
    answer(packet, parsed, &Error { of, kind, code, rest: mtu.into(), reason }, tables)
}

/// Tells the sender that the packet's hops are used up.
#[inline(always)]
pub fn hop_limit<P: Packet, T: Tables>(packet: &mut P, parsed: &Parsed, tables: &T) -> Halt {
    if parsed.content != Content::Segment {
        return Halt::drop(Reason::HopLimit);
    }
    let kind = if parsed.v4 { v4::TIME_EXCEEDED } else { v6::TIME_EXCEEDED };
    let (of, reason) = (Answer::Signpost, Reason::HopLimitReplied);
    answer(packet, parsed, &Error { of, kind, code: 0, rest: 0, reason }, tables)
}

/// Tells the sender of a datagram that nobody takes it.
#[inline(always)]
pub fn port_unreachable<P: Packet, T: Tables>(packet: &mut P, parsed: &Parsed, tables: &T) -> Halt {
    let (kind, code) = if parsed.v4 {
        (v4::UNREACHABLE, v4::PORT_UNREACHABLE)
    } else {
        (v6::UNREACHABLE, v6::PORT_UNREACHABLE)
    };
    let (of, reason) = (Answer::Refusal, Reason::UnreachableReplied);
    answer(packet, parsed, &Error { of, kind, code, rest: 0, reason }, tables)
}

struct Error {
    of: Answer,
    kind: u8,
    code: u8,
    rest: u32,
    reason: Reason,
}

/// Turns the packet into an ICMP error about itself, from the vip to its sender.
#[inline(never)]
fn answer<P: Packet, T: Tables>(packet: &mut P, parsed: &Parsed, error: &Error, tables: &T) -> Halt {
    if !allowed(&parsed.flow.src, error.of, tables) {
        return Halt::drop(Reason::IcmpLimited);
    }
    let reason = error.reason;
    let written = if parsed.v4 { answer_v4(packet, parsed, error) } else { answer_v6(packet, parsed, error) };
    match written {
        Some(()) => Halt::answer(reason),
        None => Halt::drop(Reason::NoHeadroom),
    }
}

#[inline(always)]
fn answer_v4<P: Packet>(packet: &mut P, parsed: &Parsed, error: &Error) -> Option<()> {
    const QUOTE: usize = ICMP4_QUOTE as usize / 4;
    let l3 = parsed.l3;
    if parsed.ip_length < ICMP4_QUOTE || !packet.truncate(u32::from(l3 + ICMP4_QUOTE)) {
        return None;
    }
    let link = Link::back(packet, l3)?;
    link.reframe(packet, l3, IPV4 + ICMP_HEADER)?;
    let mut sum = icmp_header(error);
    for unit in packet.at::<[Be32; QUOTE]>(l3 + IPV4 + ICMP_HEADER)? {
        sum = sum.add32(unit.raw());
    }
    *packet.at_mut(l3)? = header_v4(parsed, ICMP, ICMP_HEADER + ICMP4_QUOTE);
    *packet.at_mut(l3 + IPV4)? = message(error, sum.finish());
    link.write(packet, true)
}

#[inline(always)]
fn answer_v6<P: Packet>(packet: &mut P, parsed: &Parsed, error: &Error) -> Option<()> {
    const QUOTE: usize = ICMP6_QUOTE as usize / 4;
    let l3 = parsed.l3;
    if parsed.ip_length < ICMP6_QUOTE || !packet.truncate(u32::from(l3 + ICMP6_QUOTE)) {
        return None;
    }
    let link = Link::back(packet, l3)?;
    link.reframe(packet, l3, IPV6 + ICMP_HEADER)?;
    let (vip, client) = (parsed.flow.dst, parsed.flow.src);
    let pseudo = pseudo_header(&vip, &client, ICMPV6, ICMP_HEADER + ICMP6_QUOTE);
    let mut sum = pseudo.join(icmp_header(error));
    for unit in packet.at::<[Be32; QUOTE]>(l3 + IPV6 + ICMP_HEADER)? {
        sum = sum.add32(unit.raw());
    }
    *packet.at_mut(l3)? = header_v6(parsed, ICMPV6, ICMP_HEADER + ICMP6_QUOTE);
    *packet.at_mut(l3 + IPV6)? = message(error, sum.finish());
    link.write(packet, false)
}

/// The IPv4 header of an answer from the vip to its client with so much behind it, bytes.
#[inline(always)]
pub(super) fn header_v4(parsed: &Parsed, protocol: u8, length: u16) -> Ipv4 {
    let mut header = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_length: Be16::new(IPV4 + length),
        id: Be16::new(0),
        fragment: Be16::new(0),
        ttl: OUTER_TTL,
        protocol,
        checksum: Be16::new(0),
        src: parsed.flow.dst.v4_field(),
        dst: parsed.flow.src.v4_field(),
    };
    header.seal();
    header
}

/// The same for IPv6.
#[inline(always)]
pub(super) fn header_v6(parsed: &Parsed, protocol: u8, length: u16) -> Ipv6 {
    Ipv6 {
        version_class_label: Be32::new(6 << 28),
        payload_length: Be16::new(length),
        next_header: protocol,
        hop_limit: OUTER_TTL,
        src: parsed.flow.dst.v6_field(),
        dst: parsed.flow.src.v6_field(),
    }
}

#[inline(always)]
const fn icmp_header(error: &Error) -> Sum {
    Sum::start().add(u16::from_ne_bytes([error.kind, error.code])).add32(Be32::new(error.rest).raw())
}

#[inline(always)]
const fn message(error: &Error, checksum: Be16) -> Icmp {
    Icmp { kind: error.kind, code: error.code, checksum, rest: Be32::new(error.rest) }
}
