//! The backend's side of an IP-in-IP tunnel: takes the outer header off, from known balancers and for known vips
//! only, one level deep (CVE-2020-10136 is what happens otherwise), and hands the packet to the kernel.

use super::link::Link;
use super::packet::Packet;
use super::parse::{Content, Parsed, network};
use super::tables::{NO_ROW, Tables};
use super::wire::ipv4::{IPV4, Ipv4};
use super::wire::ipv6::{IPV6, Ipv6};
use super::wire::transport::{IPIP, IPV6_IN_IP};
use super::{Halt, Verdict};
use crate::addr::Addr;
use crate::be::Be32;
use crate::reason::Reason;

const MALFORMED: Halt = Halt::drop(Reason::DecapMalformed);
/// ECN: not capable, and congestion experienced (RFC 3168).
const NOT_ECT: u8 = 0;
const CE: u8 = 3;

/// Unwraps a packet if it is a tunnelled one, counts it once and says what to do with it.
#[inline(always)]
pub fn run<P: Packet, T: Tables>(packet: &mut P, tables: &T, outer: &mut Parsed) -> Verdict {
    outer.begin(packet.linear());
    let (Ok(verdict) | Err(Halt(verdict))) = unwrap(packet, tables, outer);
    tables.count(verdict.reason(), NO_ROW, NO_ROW, outer.length.into());
    verdict
}

#[inline(always)]
fn unwrap<P: Packet, T: Tables>(packet: &mut P, tables: &T, outer: &mut Parsed) -> Result<Verdict, Halt> {
    network(packet, outer)?;
    let inner_v4 = match outer.flow.protocol {
        IPIP => true,
        IPV6_IN_IP => false,
        _ => return Err(Halt::pass(Reason::DecapNotTunnel)),
    };
    if outer.content != Content::Segment {
        return Err(MALFORMED);
    }
    if !tables.decap_peer(&outer.flow.src) {
        return Err(Halt::drop(Reason::DecapUnknownPeer));
    }
    let inner = inner(packet, outer, inner_v4)?;
    if !tables.decap_vip(&inner.dst) {
        return Err(Halt::drop(Reason::DecapUnknownVip));
    }
    mark_congestion(packet, outer, &inner, inner_v4)?;
    // Turned round twice: the same header again.
    let back = Link::back(packet, outer.l3).ok_or(MALFORMED)?;
    let link = Link { dst: back.src, src: back.dst, tags: back.tags };
    link.reframe(packet, outer.l4, 0).ok_or(MALFORMED)?;
    link.write(packet, inner_v4).ok_or(MALFORMED)?;
    Err(Halt::pass(Reason::DecapUnwrapped))
}

struct Inner {
    dst: Addr,
    ecn: u8,
}

/// Checks that the inner packet is whole and no tunnel itself.
#[inline(always)]
fn inner<P: Packet>(packet: &P, outer: &Parsed, v4: bool) -> Result<Inner, Halt> {
    let room = outer.ip_length - (outer.l4 - outer.l3);
    if v4 {
        let header: &Ipv4 = packet.at(outer.l4).ok_or(MALFORMED)?;
        let (length, total) = (header.header_length(), header.total_length.host());
        let tunnel = matches!(header.protocol, IPIP | IPV6_IN_IP);
        if header.version_ihl >> 4 != 4 || length < IPV4 || total < length || total > room || tunnel {
            return Err(MALFORMED);
        }
        return Ok(Inner { dst: Addr::v4(header.dst), ecn: header.tos & 3 });
    }
    let header: &Ipv6 = packet.at(outer.l4).ok_or(MALFORMED)?;
    let payload = u32::from(header.payload_length.host());
    let tunnel = matches!(header.next_header, IPIP | IPV6_IN_IP);
    if header.version_class_label.host() >> 28 != 6 || payload + u32::from(IPV6) > u32::from(room) || tunnel {
        return Err(MALFORMED);
    }
    Ok(Inner { dst: Addr::v6(&header.dst), ecn: header.class() & 3 })
}

/// Carries a congestion mark from the outer header inwards (RFC 6040 section 4.2).
#[inline(always)]
fn mark_congestion<P: Packet>(packet: &mut P, outer: &Parsed, inner: &Inner, v4: bool) -> Result<(), Halt> {
    let outer_ecn = if outer.v4 {
        packet.at::<Ipv4>(outer.l3).ok_or(MALFORMED)?.tos & 3
    } else {
        packet.at::<Ipv6>(outer.l3).ok_or(MALFORMED)?.class() & 3
    };
    if outer_ecn != CE || inner.ecn == CE {
        return Ok(());
    }
    if inner.ecn == NOT_ECT {
        return Err(Halt::drop(Reason::DecapEcn));
    }
    if v4 {
        let header: &mut Ipv4 = packet.at_mut(outer.l4).ok_or(MALFORMED)?;
        header.set_tos(header.tos | CE);
    } else {
        let header: &mut Ipv6 = packet.at_mut(outer.l4).ok_or(MALFORMED)?;
        header.version_class_label = Be32::new(header.version_class_label.host() | u32::from(CE) << 20);
    }
    Ok(())
}
