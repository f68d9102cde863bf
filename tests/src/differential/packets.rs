//! Frames from fields: Ethernet with tags, IPv4 with options, IPv6 with extension headers, TCP, UDP, ICMP and tunnels.
//!
//! Header checksums of IPv4 are right; those of transports are drawn by chance, because the path changes them and never
//! checks them.

use lb_common::addr::Addr;

/// Protocol numbers.
pub const ICMP: u8 = 1;
/// IPv4 in IP.
pub const IPIP: u8 = 4;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// IPv6 in IP.
pub const IPV6_IN_IP: u8 = 41;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// A frame with the places of its headers, bytes from its start.
#[derive(Clone, Debug)]
pub struct Sketch {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Where the IP header is.
    pub l3: usize,
    /// Where the transport header is.
    pub l4: usize,
}

/// The Ethernet part of a frame.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Destination MAC.
    pub dst: [u8; 6],
    /// Source MAC.
    pub src: [u8; 6],
    /// Tags: TPID and TCI, outer first.
    pub tags: Vec<(u16, u16)>,
}

/// The IP part of a packet. Family is that of the destination.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// TTL or hop limit.
    pub hops: u8,
    /// TOS or traffic class.
    pub class: u8,
    /// The field of flags and fragment offset (IPv4).
    pub fragment: u16,
    /// Words of options (IPv4), at most 10.
    pub options: u8,
    /// Extension headers (IPv6): type and length in bytes, a multiple of 8.
    pub extensions: Vec<(u8, u16)>,
}

impl Ip {
    /// An ordinary packet.
    #[must_use]
    pub fn new(src: Addr, dst: Addr) -> Self {
        Self { src, dst, hops: 64, class: 0, fragment: 0x4000, options: 0, extensions: Vec::new() }
    }
    /// The packet with a payload.
    #[must_use]
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        if self.dst.is_v4() { self.v4(protocol, payload) } else { self.v6(protocol, payload) }
    }
    fn header_length(&self) -> usize {
        if self.dst.is_v4() {
            20 + 4 * usize::from(self.options)
        } else {
            40 + self.extensions.iter().map(|(_, length)| usize::from(*length)).sum::<usize>()
        }
    }
    fn v4(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = 20 + 4 * usize::from(self.options);
        let mut packet = vec![1; header];
        packet[0] = 0x40 | (header / 4) as u8;
        packet[1] = self.class;
        packet[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&[0x12, 0x34]);
        packet[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        (packet[8], packet[9]) = (self.hops, protocol);
        packet[10..12].copy_from_slice(&[0, 0]);
        packet[12..16].copy_from_slice(&octets(&self.src)[12..]);
        packet[16..20].copy_from_slice(&octets(&self.dst)[12..]);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(payload);
        packet
    }
    fn v6(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = self.header_length() - 40 + payload.len();
        let mut packet = (6 << 28 | u32::from(self.class) << 20 | 0xbeef).to_be_bytes().to_vec();
        packet.extend((length as u16).to_be_bytes());
        let mut types = self.extensions.iter().map(|(kind, _)| *kind).chain([protocol]);
        packet.extend([types.next().unwrap_or(protocol), self.hops]);
        packet.extend(octets(&self.src));
        packet.extend(octets(&self.dst));
        for ((_, length), next) in self.extensions.iter().zip(types) {
            let start = packet.len();
            packet.resize(start + usize::from(*length), 0);
            packet[start..start + 2].copy_from_slice(&[next, (length / 8 - 1) as u8]);
        }
        packet.extend_from_slice(payload);
        packet
    }
}

/// Octets of an address; an IPv4 one in the last four.
#[must_use]
pub fn octets(addr: &Addr) -> [u8; 16] {
    bytemuck::cast(addr.0)
}

/// The Internet checksum (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let unit = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let mut sum: u64 = bytes.chunks(2).map(unit).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A whole frame.
#[must_use]
pub fn frame(link: &Link, ip: &Ip, protocol: u8, payload: &[u8]) -> Sketch {
    let mut bytes = [link.dst, link.src].concat();
    for (tpid, tci) in &link.tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(if ip.dst.is_v4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    let l3 = bytes.len();
    bytes.extend(ip.packet(protocol, payload));
    Sketch { bytes, l3, l4: l3 + ip.header_length() }
}

/// A TCP segment; `options` in words.
#[must_use]
pub fn tcp(ports: (u16, u16), sequence: u32, flags: u8, options: u8, data: usize, chance: u32) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let mut segment = vec![1; header + data];
    segment[..2].copy_from_slice(&ports.0.to_be_bytes());
    segment[2..4].copy_from_slice(&ports.1.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&chance.to_be_bytes());
    (segment[12], segment[13]) = (((header / 4) as u8) << 4, flags);
    segment[16..18].copy_from_slice(&(chance as u16).to_be_bytes());
    segment
}

/// A UDP datagram.
#[must_use]
pub fn udp(ports: (u16, u16), data: usize, chance: u32) -> Vec<u8> {
    let mut datagram = vec![2; 8 + data];
    datagram[..2].copy_from_slice(&ports.0.to_be_bytes());
    datagram[2..4].copy_from_slice(&ports.1.to_be_bytes());
    datagram[4..6].copy_from_slice(&((8 + data) as u16).to_be_bytes());
    // One in four has no checksum.
    let sum = if chance.is_multiple_of(4) { 0 } else { chance as u16 };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// An ICMP message of either family.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: u32, body: &[u8], chance: u32) -> Vec<u8> {
    let sum = (chance as u16).to_be_bytes();
    [&[kind, code, sum[0], sum[1]], &rest.to_be_bytes()[..], body].concat()
}
