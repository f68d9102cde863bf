//! Stage 5: the packet on its way to its backend, by L2 direct return, IP-in-IP or NAT.

use super::link::Link;
use super::packet::Packet;
use super::parse::{Content, Parsed};
use super::pipeline::Trail;
use super::tables::Tables;
use super::wire::ipv4::{DF, Ipv4};
use super::wire::ipv6::Ipv6;
use super::wire::transport::{IPIP, IPV6_IN_IP};
use super::{Halt, Verdict, icmp, nat};
use crate::abi::backend::{BackendRow, Control, Mode, NextHop};
use crate::abi::vip::{Policy, VipRow};
use crate::addr::Addr;
use crate::be::{Be16, Be32};
use crate::limits::{IPV4_OVERHEAD, IPV6_OVERHEAD, OUTER_TTL};
use crate::reason::Reason;

/// A packet that the frame turned out to be too short for: parse saw it whole, so this is a bug.
pub(super) const CUT: Halt = Halt::drop(Reason::TableInconsistent);
const NO_ROOM: Halt = Halt::drop(Reason::NoHeadroom);

/// Where a packet leaves the node.
pub(super) struct Way<'t> {
    /// The backend's row number.
    pub(super) backend: u16,
    /// The backend.
    pub(super) row: &'t BackendRow,
    /// Its control word.
    pub(super) control: Control,
    /// Next hop and the node's side of it.
    pub(super) link: Link,
    egress: u16,
    ifindex: u32,
    mtu: u16,
    /// After how long without a packet a flow of the vip may be forgotten, seconds.
    pub(super) idle_s: u32,
}

/// Sends a packet to a backend.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    parsed: &Parsed,
    vip: &VipRow,
    backend: u16,
    tables: &T,
    trail: &mut Trail,
) -> Result<Verdict, Halt> {
    let mut way = way(backend, tables)?;
    way.idle_s = Policy(vip.policy.load()).idle_s();
    let overhead = match (way.control.mode(), way.row.address().is_v4()) {
        (Mode::Ipip, true) => IPV4_OVERHEAD,
        (Mode::Ipip, false) => IPV6_OVERHEAD,
        _ => 0,
    };
    if u32::from(parsed.ip_length) + u32::from(overhead) > u32::from(way.mtu) {
        return Err(icmp::too_big(packet, parsed, way.mtu.saturating_sub(overhead), tables));
    }
    if hops_left(packet, parsed)? <= 1 {
        return Err(icmp::hop_limit(packet, parsed, tables));
    }
    match way.control.mode() {
        Mode::L2 => direct(packet, parsed, &way)?,
        Mode::Ipip => encapsulate(packet, parsed, &way, tables, trail)?,
        Mode::Nat => nat::send(packet, parsed, &way, tables, trail)?,
    }
    let reason =
        if parsed.content == Content::Error { Reason::IcmpErrorForwarded } else { Reason::Forwarded };
    Ok(leave(reason, way.ifindex, way.egress, tables))
}

/// Out by a device: the one that the packet came in by, or another.
#[inline(always)]
pub(super) fn leave<T: Tables>(reason: Reason, ifindex: u32, egress: u16, tables: &T) -> Verdict {
    if ifindex == tables.ingress_ifindex() {
        Verdict::Transmit(reason)
    } else {
        Verdict::Redirect(reason, egress)
    }
}

#[inline(always)]
fn way<T: Tables>(backend: u16, tables: &T) -> Result<Way<'_>, Halt> {
    let row = tables.backend(backend.into()).ok_or(Halt::drop(Reason::TableInconsistent))?;
    let control = Control(row.control.load());
    if !control.alive() {
        return Err(Halt::drop(Reason::BackendDead));
    }
    let hop = NextHop(row.next_hop.load());
    if !hop.is_known() {
        return Err(Halt::drop(Reason::NoNextHop));
    }
    let out = tables.egress(hop.egress().into()).ok_or(Halt::drop(Reason::TableInconsistent))?;
    let link = Link { dst: hop.mac(), src: out.mac(), tags: crate::abi::egress::Tags(out.tags.load()) };
    let (egress, ifindex, mtu) = (hop.egress(), out.ifindex(), out.mtu());
    Ok(Way { backend, row, control, link, egress, ifindex, mtu, idle_s: 0 })
}

#[inline(always)]
pub(super) fn hops_left<P: Packet>(packet: &P, parsed: &Parsed) -> Result<u8, Halt> {
    if parsed.v4 {
        return Ok(packet.at::<Ipv4>(parsed.l3).ok_or(CUT)?.ttl);
    }
    Ok(packet.at::<Ipv6>(parsed.l3).ok_or(CUT)?.hop_limit)
}

/// A forwarded packet has one hop less (RFC 1812 section 5.3.1, RFC 8200 section 3), however it is forwarded: a
/// loop between nodes then ends by itself.
#[inline(always)]
pub(super) fn take_hop<P: Packet>(packet: &mut P, parsed: &Parsed) -> Result<(), Halt> {
    if parsed.v4 {
        packet.at_mut::<Ipv4>(parsed.l3).ok_or(CUT)?.decrement_ttl();
    } else {
        packet.at_mut::<Ipv6>(parsed.l3).ok_or(CUT)?.hop_limit -= 1;
    }
    Ok(())
}

/// Replaces the Ethernet header; the IP packet stays where it is in memory.
#[inline(always)]
pub(super) fn relink<P: Packet>(packet: &mut P, parsed: &Parsed, link: &Link) -> Result<(), Halt> {
    link.reframe(packet, parsed.l3, 0).ok_or(NO_ROOM)?;
    link.write(packet, parsed.v4).ok_or(CUT)
}

#[inline(always)]
fn direct<P: Packet>(packet: &mut P, parsed: &Parsed, way: &Way<'_>) -> Result<(), Halt> {
    take_hop(packet, parsed)?;
    relink(packet, parsed, &way.link)
}

/// Puts the packet into another (RFC 2003, RFC 2473): DSCP and ECN copied outwards (RFC 2983, RFC 6040 section 4.1).
#[inline(never)]
fn encapsulate<P: Packet, T: Tables>(
    packet: &mut P,
    parsed: &Parsed,
    way: &Way<'_>,
    tables: &T,
    trail: &Trail,
) -> Result<(), Halt> {
    let backend = way.row.address();
    let source = tables.source(way.control.source()).ok_or(Halt::drop(Reason::TableInconsistent))?.address();
    take_hop(packet, parsed)?;
    let class = if parsed.v4 {
        packet.at::<Ipv4>(parsed.l3).ok_or(CUT)?.tos
    } else {
        packet.at::<Ipv6>(parsed.l3).ok_or(CUT)?.class()
    };
    let protocol = if parsed.v4 { IPIP } else { IPV6_IN_IP };
    let l3 = way.link.length();
    if backend.is_v4() {
        way.link.reframe(packet, parsed.l3, IPV4_OVERHEAD).ok_or(NO_ROOM)?;
        let header: &mut Ipv4 = packet.at_mut(l3).ok_or(CUT)?;
        *header = outer_v4(&source, &backend, class, protocol, parsed.ip_length);
    } else {
        way.link.reframe(packet, parsed.l3, IPV6_OVERHEAD).ok_or(NO_ROOM)?;
        let header: &mut Ipv6 = packet.at_mut(l3).ok_or(CUT)?;
        *header = outer_v6(&source, &backend, class, protocol, parsed.ip_length, trail.hash);
    }
    way.link.write(packet, backend.is_v4()).ok_or(CUT)
}

/// The header around an inner packet of `inner` bytes, with which there are 65,535 at most. The outer packet is never
/// fragmented, so it needs no identification (RFC 6864 section 4.1).
#[inline(always)]
pub fn outer_v4(source: &Addr, backend: &Addr, class: u8, protocol: u8, inner: u16) -> Ipv4 {
    let mut header = Ipv4 {
        version_ihl: 0x45,
        tos: class,
        total_length: Be16::new(inner + IPV4_OVERHEAD),
        id: Be16::new(0),
        fragment: Be16::new(DF),
        ttl: OUTER_TTL,
        protocol,
        checksum: Be16::new(0),
        src: source.v4_field(),
        dst: backend.v4_field(),
    };
    header.seal();
    header
}

/// The header around an inner packet of `inner` bytes. The flow label carries the upper 20 bits of the flow's `hash`, so that
/// what lies between spreads flows (RFC 6438).
#[inline(always)]
pub fn outer_v6(source: &Addr, backend: &Addr, class: u8, protocol: u8, inner: u16, hash: u64) -> Ipv6 {
    let label = (hash >> 44) as u32;
    Ipv6 {
        version_class_label: Be32::new(6 << 28 | u32::from(class) << 20 | label),
        payload_length: Be16::new(inner),
        next_header: protocol,
        hop_limit: OUTER_TTL,
        src: source.v6_field(),
        dst: backend.v6_field(),
    }
}
