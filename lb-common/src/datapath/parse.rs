//! Stage 1: from bytes to what the path decides by. Nothing is guessed: whatever is cut off, oversized or
//! inconsistent ends here or is carried as [`Content::Unusable`] until it is known whether it is ours.
//!
//! Ethernet and IP headers that contradict themselves are refused whoever they are for: no host could use them.
//! What only a transport header shows, and fragments, are refused if they are to a vip and passed otherwise.

use super::Halt;
use super::packet::Packet;
use super::wire::ethernet::{ETHERNET, Ethernet, TYPE_IPV4, TYPE_IPV6, TYPE_QINQ, TYPE_VLAN, VLAN_TAG, VlanTag};
use super::wire::icmp::{self, ICMP_HEADER, Icmp};
use super::wire::ipv4::{IPV4, Ipv4, OFFSET};
use super::wire::ipv6::{DESTINATION, Extension, FRAGMENT, HOP_BY_HOP, IPV6, Ipv6, ROUTING};
use super::wire::transport::{ICMP, ICMPV6, Ports, TCP, Tcp, UDP, Udp};
use crate::abi::egress::Tags;
use crate::addr::{Addr, Mac};
use crate::be::Be16;
use crate::hash::Tuple;
use crate::limits::V6_EXTENSIONS;
use crate::reason::Reason;

/// What a packet is, as far as the path cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// TCP or UDP.
    Segment,
    /// An echo request.
    Echo,
    /// An ICMP error; the tuple is that of the flow it quotes, seen from the client.
    Error,
    /// An IP packet whose transport header cannot be used, and why; refused only if it is to a vip.
    Unusable(Reason),
}

/// A parsed packet. Offsets are bytes from the start of the frame.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// Source MAC.
    pub src_mac: Mac,
    /// Destination MAC.
    pub dst_mac: Mac,
    /// VLAN tags.
    pub tags: Tags,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header.
    pub l4: u16,
    /// Length of the IP packet, bytes.
    pub ip_length: u16,
    /// Whether it is IPv4.
    pub v4: bool,
    /// The 5-tuple from the client's view: of the packet, or of the flow that an ICMP error quotes.
    pub flow: Tuple,
    /// TCP flags; 0 where there are none.
    pub tcp_flags: u8,
    /// TCP sequence number in host order.
    pub sequence: u32,
    /// Whether a TCP segment carries data.
    pub has_data: bool,
    /// What it is.
    pub content: Content,
    /// Offset of the IP header that an ICMP error quotes.
    pub quoted_l3: u16,
    /// Offset of the transport header that an ICMP error quotes.
    pub quoted_l4: u16,
}

impl Parsed {
    /// Protocol number of the packet itself (not of what an ICMP error quotes).
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        match self.content {
            Content::Error | Content::Echo if self.v4 => ICMP,
            Content::Error | Content::Echo => ICMPV6,
            _ => self.flow.protocol,
        }
    }
    /// Whether this begins a TCP connection: SYN without ACK or RST.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        use super::wire::transport::{ACK, RST, SYN};
        self.tcp_flags & (SYN | ACK | RST) == SYN
    }
    /// Whether one side says that the connection ends.
    #[inline(always)]
    pub const fn closes(&self) -> bool {
        use super::wire::transport::{FIN, RST};
        self.tcp_flags & (FIN | RST) != 0
    }
    /// Whether a flow entry may be made or refreshed by this packet: an ICMP error is hearsay.
    #[inline(always)]
    pub const fn teaches(&self) -> bool {
        matches!(self.content, Content::Segment)
    }
}

/// Parses a frame.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P) -> Result<Parsed, Halt> {
    let mut parsed = network(packet)?;
    if parsed.content == Content::Segment {
        transport(packet, &mut parsed)?;
    }
    Ok(parsed)
}

/// Parses Ethernet and IP: addresses, protocol and the offset of what follows.
#[inline(always)]
pub fn network<P: Packet>(packet: &P) -> Result<Parsed, Halt> {
    let mut parsed = ethernet(packet)?;
    if parsed.v4 {
        ipv4(packet, &mut parsed)?;
    } else {
        ipv6(packet, &mut parsed)?;
    }
    Ok(parsed)
}

#[inline(always)]
fn ethernet<P: Packet>(packet: &P) -> Result<Parsed, Halt> {
    const CUT: Halt = Halt::drop(Reason::EthernetTruncated);
    let header: &Ethernet = packet.at(0).ok_or(CUT)?;
    let (src_mac, dst_mac) = (Mac::from_field(&header.src), Mac::from_field(&header.dst));
    let (mut ethertype, mut l3, mut tags) = (header.ethertype, ETHERNET, Tags::NONE);
    if ethertype == TYPE_VLAN || ethertype == TYPE_QINQ {
        let outer: &VlanTag = packet.at(l3).ok_or(CUT)?;
        (ethertype, l3, tags) = (outer.ethertype, ETHERNET + VLAN_TAG, Tags::one(outer.tci.host()));
        if ethertype == TYPE_VLAN || ethertype == TYPE_QINQ {
            let inner: &VlanTag = packet.at(l3).ok_or(CUT)?;
            tags = Tags::two(outer.tci.host(), inner.tci.host());
            (ethertype, l3) = (inner.ethertype, ETHERNET + 2 * VLAN_TAG);
        }
    }
    if ethertype != TYPE_IPV4 && ethertype != TYPE_IPV6 {
        return Err(Halt::pass(Reason::NotIp));
    }
    if dst_mac.is_group() {
        return Err(Halt::pass(Reason::NotUnicast));
    }
    Ok(Parsed {
        src_mac,
        dst_mac,
        tags,
        l3,
        l4: l3,
        ip_length: 0,
        v4: ethertype == TYPE_IPV4,
        flow: Tuple {
            src: Addr::default(),
            dst: Addr::default(),
            src_port: Be16::from_raw(0),
            dst_port: Be16::from_raw(0),
            protocol: 0,
        },
        tcp_flags: 0,
        sequence: 0,
        has_data: false,
        content: Content::Segment,
        quoted_l3: 0,
        quoted_l4: 0,
    })
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Halt> {
    let header: &Ipv4 = packet.at(parsed.l3).ok_or(Halt::drop(Reason::Ipv4Truncated))?;
    let (header_length, total) = (header.header_length(), header.total_length.host());
    if header.version_ihl >> 4 != 4 || header_length < IPV4 || total < header_length {
        return Err(Halt::drop(Reason::Ipv4Header));
    }
    if u32::from(parsed.l3) + u32::from(total) > packet.length() {
        return Err(Halt::drop(Reason::Ipv4Truncated));
    }
    parsed.ip_length = total;
    parsed.l4 = parsed.l3 + header_length;
    parsed.flow.src = Addr::v4(header.src);
    parsed.flow.dst = Addr::v4(header.dst);
    parsed.flow.protocol = header.protocol;
    if header.is_fragment() {
        parsed.content = Content::Unusable(Reason::Fragment);
    }
    Ok(())
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Halt> {
    let header: &Ipv6 = packet.at(parsed.l3).ok_or(Halt::drop(Reason::Ipv6Truncated))?;
    if header.version_class_label.host() >> 28 != 6 {
        return Err(Halt::drop(Reason::Ipv6Header));
    }
    let payload = header.payload_length.host();
    // A jumbogram's length of 0 (RFC 2675) ends as a transport header that is cut off.
    if u32::from(parsed.l3) + u32::from(IPV6) + u32::from(payload) > packet.length() || payload > u16::MAX - IPV6 {
        return Err(Halt::drop(Reason::Ipv6Truncated));
    }
    parsed.ip_length = IPV6 + payload;
    parsed.flow.src = Addr::v6(&header.src);
    parsed.flow.dst = Addr::v6(&header.dst);
    let next = header.next_header;
    match extensions(packet, parsed.l3 + IPV6, next, payload) {
        Ok((protocol, skipped)) => {
            parsed.flow.protocol = protocol;
            parsed.l4 = parsed.l3 + IPV6 + skipped;
        }
        Err(reason) => parsed.content = Content::Unusable(reason),
    }
    Ok(())
}

/// Follows extension headers: the protocol behind them and their length in bytes.
#[inline(always)]
fn extensions<P: Packet>(packet: &P, start: u16, first: u8, payload: u16) -> Result<(u8, u16), Reason> {
    let (mut next, mut skipped) = (first, 0u16);
    for _ in 0..V6_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {}
            FRAGMENT => return Err(Reason::Fragment),
            protocol => return Ok((protocol, skipped)),
        }
        let header: &Extension = packet.at(start + skipped).ok_or(Reason::Ipv6Extensions)?;
        next = header.next_header;
        skipped += (u16::from(header.length_8) + 1) * 8;
        if skipped > payload {
            return Err(Reason::Ipv6Extensions);
        }
    }
    match next {
        HOP_BY_HOP | ROUTING | DESTINATION => Err(Reason::Ipv6Extensions),
        FRAGMENT => Err(Reason::Fragment),
        protocol => Ok((protocol, skipped)),
    }
}

/// Reads the transport header.
#[inline(always)]
fn transport<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Halt> {
    let (l4, left) = (parsed.l4, parsed.ip_length - (parsed.l4 - parsed.l3));
    parsed.content = match parsed.flow.protocol {
        TCP => tcp(packet, parsed, l4, left),
        UDP => udp(packet, parsed, l4, left),
        ICMP if parsed.v4 => icmp(packet, parsed, l4, left),
        ICMPV6 if !parsed.v4 => icmp(packet, parsed, l4, left),
        _ => return Err(Halt::pass(Reason::OtherProtocol)),
    };
    Ok(())
}

#[inline(always)]
fn tcp<P: Packet>(packet: &P, parsed: &mut Parsed, l4: u16, left: u16) -> Content {
    let Some(header) = packet.at::<Tcp>(l4) else { return Content::Unusable(Reason::TransportTruncated) };
    if left < size_of::<Tcp>() as u16 {
        return Content::Unusable(Reason::TransportTruncated);
    }
    let header_length = u16::from(header.offset >> 4) * 4;
    if header_length < size_of::<Tcp>() as u16 || header_length > left {
        return Content::Unusable(Reason::TcpHeader);
    }
    parsed.flow.src_port = header.ports.src;
    parsed.flow.dst_port = header.ports.dst;
    parsed.tcp_flags = header.flags;
    parsed.sequence = header.sequence.host();
    parsed.has_data = header_length < left;
    Content::Segment
}

#[inline(always)]
fn udp<P: Packet>(packet: &P, parsed: &mut Parsed, l4: u16, left: u16) -> Content {
    let Some(header) = packet.at::<Udp>(l4) else { return Content::Unusable(Reason::TransportTruncated) };
    if left < size_of::<Udp>() as u16 {
        return Content::Unusable(Reason::TransportTruncated);
    }
    let length = header.length.host();
    if length < size_of::<Udp>() as u16 || length > left {
        return Content::Unusable(Reason::UdpLength);
    }
    parsed.flow.src_port = header.ports.src;
    parsed.flow.dst_port = header.ports.dst;
    Content::Segment
}

#[inline(always)]
fn icmp<P: Packet>(packet: &P, parsed: &mut Parsed, l4: u16, left: u16) -> Content {
    let Some(header) = packet.at::<Icmp>(l4) else { return Content::Unusable(Reason::TransportTruncated) };
    if left < ICMP_HEADER {
        return Content::Unusable(Reason::TransportTruncated);
    }
    let kind = header.kind;
    let (echo, error) = if parsed.v4 {
        use icmp::v4::{ECHO, PARAMETER, TIME_EXCEEDED, UNREACHABLE};
        (kind == ECHO, matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER))
    } else {
        (kind == icmp::v6::ECHO, matches!(kind, icmp::v6::UNREACHABLE..=icmp::v6::PARAMETER))
    };
    match (echo, error) {
        (true, _) => Content::Echo,
        (_, true) => quoted(packet, parsed, l4 + ICMP_HEADER, left - ICMP_HEADER),
        _ => Content::Unusable(Reason::IcmpOther),
    }
}

/// The flow that an ICMP error quotes, turned round: the quoted packet went from the vip to the client.
#[inline(always)]
fn quoted<P: Packet>(packet: &P, parsed: &mut Parsed, l3: u16, left: u16) -> Content {
    const SHORT: Content = Content::Unusable(Reason::IcmpQuote);
    let (l4, protocol, src, dst) = if parsed.v4 {
        let Some(inner) = packet.at::<Ipv4>(l3) else { return SHORT };
        let header_length = inner.header_length();
        if inner.version_ihl >> 4 != 4 || header_length < IPV4 || inner.fragment.host() & OFFSET != 0 {
            return SHORT;
        }
        (header_length, inner.protocol, Addr::v4(inner.src), Addr::v4(inner.dst))
    } else {
        let Some(inner) = packet.at::<Ipv6>(l3) else { return SHORT };
        if inner.version_class_label.host() >> 28 != 6 {
            return SHORT;
        }
        (IPV6, inner.next_header, Addr::v6(&inner.src), Addr::v6(&inner.dst))
    };
    if left < l4 + size_of::<Ports>() as u16 || (protocol != TCP && protocol != UDP) {
        return SHORT;
    }
    let Some(ports) = packet.at::<Ports>(l3 + l4) else { return SHORT };
    // An error about a packet that was not sent from where the error went to is a forgery, or none of ours.
    if src != parsed.flow.dst {
        return SHORT;
    }
    parsed.quoted_l3 = l3;
    parsed.quoted_l4 = l3 + l4;
    parsed.flow = Tuple { src: dst, dst: src, src_port: ports.dst, dst_port: ports.src, protocol };
    Content::Error
}
