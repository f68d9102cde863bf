//! Stage 1: from bytes to what the path decides by. Nothing is guessed: whatever is cut off, oversized or
//! inconsistent ends here or is carried as [`Content::Unusable`] until it is known whether it is ours.
//!
//! Ethernet and IP headers that contradict themselves are refused whoever they are for: no host could use them.
//! What only a transport header shows, and fragments, are refused if they are to a vip and passed otherwise.

use super::Halt;
use super::packet::Packet;
use super::wire::ethernet::{
    ETHERNET, Ethernet, TYPE_IPV4, TYPE_IPV6, TYPE_QINQ, TYPE_VLAN, VLAN_TAG, VlanTag,
};
use super::wire::icmp::{self, ICMP_HEADER, Icmp};
use super::wire::ipv4::{IPV4, Ipv4, OFFSET};
use super::wire::ipv6::{DESTINATION, Extension, FRAGMENT, HOP_BY_HOP, IPV6, Ipv6, ROUTING};
use super::wire::transport::{ICMP, ICMPV6, Ports, TCP, Tcp, UDP, Udp};
use crate::addr::{Addr, Mac};
use crate::hash::Tuple;
use crate::limits::{V6_EXTENSIONS, VLAN_TAGS};
use crate::reason::Reason;
use core::sync::atomic::{Ordering::SeqCst, compiler_fence};

/// What a packet is, as far as the path cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    /// TCP or UDP.
    #[default]
    Segment = 0,
    /// An echo request.
    Echo,
    /// An ICMP error; the tuple is that of the flow it quotes, seen from the client.
    Error,
    /// An IP packet whose transport header cannot be used; refused only if it is to a vip.
    Unusable,
}

/// A parsed packet. Offsets are bytes from the start of the frame. All-zero bytes are a valid value.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Parsed {
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header.
    pub l4: u16,
    /// Length of the frame, bytes. Of one in several parts that is neither IPv4 nor IPv6 only the first part's.
    pub length: u32,
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
    /// Why it is [`Content::Unusable`].
    pub refusal: Reason,
    /// Whether an ICMP error says that something cannot be reached; not that a packet is too big.
    pub unreachable: bool,
    /// Offset of the IP header that an ICMP error quotes.
    pub quoted_l3: u16,
    /// Offset of the transport header that an ICMP error quotes.
    pub quoted_l4: u16,
}

impl Parsed {
    /// Forgets the packet before: what not every kind of packet sets.
    #[inline(always)]
    pub fn begin(&mut self, linear: u32) {
        self.length = linear;
        (self.content, self.tcp_flags, self.has_data, self.sequence) = (Content::Segment, 0, false, 0);
    }
    /// Whether the frame reaches as far as `end`, bytes from its start.
    #[inline(always)]
    fn reaches<P: Packet>(&mut self, packet: &P, end: u32) -> bool {
        if end > self.length {
            self.length = packet.length();
        }
        end <= self.length
    }
    /// Notes that the transport header cannot be used, and why.
    #[inline(always)]
    fn refuse(&mut self, reason: Reason) {
        (self.content, self.refusal) = (Content::Unusable, reason);
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
    /// Whether one side says that the connection ends at once.
    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.tcp_flags & super::wire::transport::RST != 0
    }
    /// Whether this is the reset that answers a segment which no connection of its sender explains: one that acknowledges
    /// nothing (RFC 9293 section 3.10.7.1).
    #[inline(always)]
    pub const fn answers_by_reset(&self) -> bool {
        use super::wire::transport::{ACK, RST};
        self.tcp_flags & (RST | ACK) == RST
    }
    /// Whether a flow entry may be made or refreshed by this packet: an ICMP error is hearsay.
    #[inline(always)]
    pub const fn teaches(&self) -> bool {
        matches!(self.content, Content::Segment)
    }
}

/// Parses a frame.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Halt> {
    network(packet, parsed)?;
    if parsed.content == Content::Segment {
        transport(packet, parsed)?;
        compiler_fence(SeqCst);
    }
    Ok(())
}

/// Parses Ethernet and IP: addresses, protocol and the offset of what follows.
///
/// The steps hand on by memory, and the fences, which cost no instruction, make the compiler read it again: the kernel's
/// verifier then forgets which of the many kinds of packet it follows, and walks what comes after once instead of once
/// for each kind. A call of a function would do the same, but where returns are guarded against speculation (AMD's
/// "Safe RET") each costs some 20 ns; only what few packets need is one.
#[inline(always)]
pub fn network<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Halt> {
    ethernet(packet, parsed)?;
    compiler_fence(SeqCst);
    if parsed.v4 {
        ipv4(packet, parsed)?
    } else {
        ipv6(packet, parsed)?
    }
    compiler_fence(SeqCst);
    Ok(())
}

#[inline(always)]
fn ethernet<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Halt> {
    const CUT: Halt = Halt::drop(Reason::EthernetTruncated);
    let header: &Ethernet = packet.at(0).ok_or(CUT)?;
    let to_group = Mac::from_field(&header.dst).is_group();
    let (mut ethertype, mut l3) = (header.ethertype, ETHERNET);
    for _ in 0..VLAN_TAGS {
        if ethertype == TYPE_VLAN || ethertype == TYPE_QINQ {
            ethertype = packet.at::<VlanTag>(l3).ok_or(CUT)?.ethertype;
            l3 += VLAN_TAG;
        }
    }
    if ethertype != TYPE_IPV4 && ethertype != TYPE_IPV6 {
        return Err(Halt::pass(Reason::NotIp));
    }
    if to_group {
        return Err(Halt::pass(Reason::NotUnicast));
    }
    (parsed.l3, parsed.v4) = (l3, ethertype == TYPE_IPV4);
    Ok(())
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Halt> {
    let header: &Ipv4 = packet.at(parsed.l3).ok_or(Halt::drop(Reason::Ipv4Truncated))?;
    let (header_length, total) = (header.header_length(), header.total_length.host());
    if header.version_ihl >> 4 != 4 || header_length < IPV4 || total < header_length {
        return Err(Halt::drop(Reason::Ipv4Header));
    }
    if !parsed.reaches(packet, u32::from(parsed.l3) + u32::from(total)) {
        return Err(Halt::drop(Reason::Ipv4Truncated));
    }
    parsed.ip_length = total;
    parsed.l4 = parsed.l3 + header_length;
    parsed.flow.src = Addr::v4(header.src);
    parsed.flow.dst = Addr::v4(header.dst);
    parsed.flow.protocol = header.protocol;
    if header.is_fragment() {
        parsed.refuse(Reason::Fragment);
    }
    Ok(())
}

#[inline(never)]
fn ipv6<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Halt> {
    let header: &Ipv6 = packet.at(parsed.l3).ok_or(Halt::drop(Reason::Ipv6Truncated))?;
    if header.version_class_label.host() >> 28 != 6 {
        return Err(Halt::drop(Reason::Ipv6Header));
    }
    let payload = header.payload_length.host();
    // A jumbogram's length of 0 (RFC 2675) ends as a transport header that is cut off.
    let end = u32::from(parsed.l3) + u32::from(IPV6) + u32::from(payload);
    if payload > u16::MAX - IPV6 || !parsed.reaches(packet, end) {
        return Err(Halt::drop(Reason::Ipv6Truncated));
    }
    parsed.ip_length = IPV6 + payload;
    parsed.flow.src = Addr::v6(&header.src);
    parsed.flow.dst = Addr::v6(&header.dst);
    // IPv4's addresses in here are never on a wire (RFC 4291 section 2.5.5.2, RFC 6890): they would pass for IPv4's.
    if parsed.flow.src.is_v4() || parsed.flow.dst.is_v4() {
        return Err(Halt::drop(Reason::Ipv6Header));
    }
    let next = header.next_header;
    // Of a fragment this is all that is known; what the packet before had must not stand for it.
    parsed.flow.protocol = next;
    match extensions(packet, parsed.l3 + IPV6, next, payload) {
        Ok((protocol, skipped)) => {
            parsed.flow.protocol = protocol;
            parsed.l4 = parsed.l3 + IPV6 + skipped;
        }
        Err(reason) => parsed.refuse(reason),
    }
    Ok(())
}

/// Follows extension headers: the protocol behind them and their length in bytes.
#[inline(never)]
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
    let content = match parsed.flow.protocol {
        TCP => tcp(packet, parsed, l4, left),
        UDP => udp(packet, parsed, l4, left),
        ICMP if parsed.v4 => icmp(packet, parsed, l4, left),
        ICMPV6 if !parsed.v4 => icmp(packet, parsed, l4, left),
        _ => return Err(Halt::pass(Reason::OtherProtocol)),
    };
    match content {
        Ok(content) => parsed.content = content,
        Err(reason) => parsed.refuse(reason),
    }
    Ok(())
}

#[inline(always)]
fn tcp<P: Packet>(packet: &P, parsed: &mut Parsed, l4: u16, left: u16) -> Result<Content, Reason> {
    let header = packet.at::<Tcp>(l4).ok_or(Reason::TransportTruncated)?;
    if left < size_of::<Tcp>() as u16 {
        return Err(Reason::TransportTruncated);
    }
    let header_length = u16::from(header.offset >> 4) * 4;
    if header_length < size_of::<Tcp>() as u16 || header_length > left {
        return Err(Reason::TcpHeader);
    }
    parsed.flow.src_port = header.ports.src;
    parsed.flow.dst_port = header.ports.dst;
    parsed.tcp_flags = header.flags;
    parsed.sequence = header.sequence.host();
    parsed.has_data = header_length < left;
    Ok(Content::Segment)
}

#[inline(always)]
fn udp<P: Packet>(packet: &P, parsed: &mut Parsed, l4: u16, left: u16) -> Result<Content, Reason> {
    let header = packet.at::<Udp>(l4).ok_or(Reason::TransportTruncated)?;
    if left < size_of::<Udp>() as u16 {
        return Err(Reason::TransportTruncated);
    }
    let length = header.length.host();
    if length < size_of::<Udp>() as u16 || length > left {
        return Err(Reason::UdpLength);
    }
    parsed.flow.src_port = header.ports.src;
    parsed.flow.dst_port = header.ports.dst;
    Ok(Content::Segment)
}

#[inline(always)]
fn icmp<P: Packet>(packet: &P, parsed: &mut Parsed, l4: u16, left: u16) -> Result<Content, Reason> {
    let header = packet.at::<Icmp>(l4).ok_or(Reason::TransportTruncated)?;
    if left < ICMP_HEADER {
        return Err(Reason::TransportTruncated);
    }
    let kind = header.kind;
    let (echo, error) = if parsed.v4 {
        use icmp::v4::{ECHO, PARAMETER, TIME_EXCEEDED, UNREACHABLE};
        (kind == ECHO, matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER))
    } else {
        (kind == icmp::v6::ECHO, matches!(kind, icmp::v6::UNREACHABLE..=icmp::v6::PARAMETER))
    };
    match (echo, error) {
        (true, _) => Ok(Content::Echo),
        (_, true) => {
            parsed.unreachable = if parsed.v4 {
                kind == icmp::v4::UNREACHABLE && header.code != icmp::v4::FRAGMENTATION_NEEDED
            } else {
                kind == icmp::v6::UNREACHABLE
            };
            quoted(packet, parsed, l4 + ICMP_HEADER, left - ICMP_HEADER)
        }
        _ => Err(Reason::IcmpOther),
    }
}

/// The flow that an ICMP error quotes, turned round: the quoted packet went from the vip to the client.
#[inline(never)]
fn quoted<P: Packet>(packet: &P, parsed: &mut Parsed, l3: u16, left: u16) -> Result<Content, Reason> {
    const SHORT: Reason = Reason::IcmpQuote;
    let (l4, protocol, src, dst) = if parsed.v4 {
        let inner = packet.at::<Ipv4>(l3).ok_or(SHORT)?;
        let header_length = inner.header_length();
        if inner.version_ihl >> 4 != 4 || header_length < IPV4 || inner.fragment.host() & OFFSET != 0 {
            return Err(SHORT);
        }
        (header_length, inner.protocol, Addr::v4(inner.src), Addr::v4(inner.dst))
    } else {
        let inner = packet.at::<Ipv6>(l3).ok_or(SHORT)?;
        if inner.version_class_label.host() >> 28 != 6 {
            return Err(SHORT);
        }
        (IPV6, inner.next_header, Addr::v6(&inner.src), Addr::v6(&inner.dst))
    };
    if left < l4 + size_of::<Ports>() as u16 || (protocol != TCP && protocol != UDP) {
        return Err(SHORT);
    }
    let ports = packet.at::<Ports>(l3 + l4).ok_or(SHORT)?;
    // An error about a packet that was not sent from where the error went to is a forgery, or none of ours.
    if src != parsed.flow.dst {
        return Err(SHORT);
    }
    parsed.quoted_l3 = l3;
    parsed.quoted_l4 = l3 + l4;
    parsed.flow = Tuple { src: dst, dst: src, src_port: ports.dst, dst_port: ports.src, protocol };
    Ok(Content::Error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::host::HostFrame;

    /// An empty UDP datagram over IPv6.
    fn datagram(src: [u8; 16], dst: [u8; 16]) -> HostFrame {
        let mut frame = [[0; 12].as_slice(), &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, UDP, 64]].concat();
        frame.extend(src.into_iter().chain(dst));
        frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        HostFrame::new(&frame)
    }

    #[test]
    fn ipv6_between_mapped_ipv4_addresses_is_refused() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 10];
        let other = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 10];
        assert_eq!(parse(&datagram(other, other), &mut Parsed::default()), Ok(()));
        for (src, dst) in [(mapped, other), (other, mapped)] {
            let parsed = parse(&datagram(src, dst), &mut Parsed::default());
            assert_eq!(parsed, Err(Halt::drop(Reason::Ipv6Header)));
        }
    }
}
