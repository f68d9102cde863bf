//! Packets by another implementation (etherparse): what goes in, and what must come out, to the byte. It knows nothing
//! of this crate, so that whoever reads a frame here trusts etherparse and the RFCs alone.

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions,
    Ipv6FlowLabel, Ipv6Header, SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
};
use std::net::IpAddr;
use std::vec;
use std::vec::Vec;

/// What an IP packet carries.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A TCP segment: ports, sequence number, flags ("S", "A", "F", "R") and data.
    Tcp { ports: (u16, u16), sequence: u32, flags: &'static str, data: Vec<u8> },
    /// A segment that refuses a connection (RFC 9293 section 3.10.7.1): ports and what it acknowledges.
    Reset { ports: (u16, u16), acknowledgement: u32 },
    /// A UDP datagram; without a checksum if it is not wanted.
    Udp { ports: (u16, u16), checksum: bool, data: Vec<u8> },
    /// An ICMP message of the packet's family: type, code, the four bytes after the checksum, and the body.
    Icmp { kind: u8, code: u8, rest: u32, body: Vec<u8> },
    /// Anything: protocol number and bytes.
    Raw { protocol: u8, bytes: Vec<u8> },
}

/// An IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Source.
    pub(crate) src: IpAddr,
    /// Destination, of the same family.
    pub(crate) dst: IpAddr,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// DSCP and ECN.
    pub(crate) class: u8,
    /// Identification (IPv4).
    pub(crate) id: u16,
    /// Don't fragment (IPv4).
    pub(crate) df: bool,
    /// Options (IPv4), a multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    /// Flow label (IPv6).
    pub(crate) label: u32,
    /// Extension headers as they stand (IPv6), the type of the first, and that of what they lead to in the last.
    pub(crate) extensions: Option<(u8, Vec<u8>)>,
    /// What it carries.
    pub(crate) content: Content,
}

impl Packet {
    /// An ordinary packet.
    pub(crate) fn new(src: &str, dst: &str, content: Content) -> Self {
        Self {
            src: src.parse().expect("an address"),
            dst: dst.parse().expect("an address"),
            hops: 64,
            class: 0,
            id: 0,
            df: true,
            options: vec![],
            label: 0,
            extensions: None,
            content,
        }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let payload = self.payload();
        let mut bytes = vec![];
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let protocol = IpNumber(self.protocol());
                let length = (payload.len() + self.options.len()) as u16;
                let mut header = Ipv4Header::new(length, self.hops, protocol, src.octets(), dst.octets())
                    .expect("a length that fits");
                header.options = Ipv4Options::try_from(&self.options[..]).expect("options that fit");
                header.total_len = 20 + length;
                header.dscp = (self.class >> 2).try_into().expect("6 bits");
                header.ecn = (self.class & 3).try_into().expect("2 bits");
                (header.identification, header.dont_fragment) = (self.id, self.df);
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut bytes).expect("a vector takes all");
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (first, extensions) = self.extensions.clone().unwrap_or((self.protocol(), vec![]));
                let header = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::try_new(self.label).expect("20 bits"),
                    payload_length: (extensions.len() + payload.len()) as u16,
                    next_header: IpNumber(first),
                    hop_limit: self.hops,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                header.write(&mut bytes).expect("a vector takes all");
                bytes.extend(extensions);
            }
            families => panic!("two families: {families:?}"),
        }
        bytes.extend(payload);
        bytes
    }

    fn protocol(&self) -> u8 {
        match &self.content {
            Content::Tcp { .. } | Content::Reset { .. } => 6,
            Content::Udp { .. } => 17,
            Content::Icmp { .. } if self.src.is_ipv4() => 1,
            Content::Icmp { .. } => 58,
            Content::Raw { protocol, .. } => *protocol,
        }
    }

    /// Headers of the packet without options, for etherparse's checksums.
    fn headers(&self) -> IpHeaders {
        match (self.src, self.dst) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                IpHeaders::Ipv4(
                    Ipv4Header { source, destination, ..Ipv4Header::default() },
                    Ipv4Extensions::default(),
                )
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                IpHeaders::Ipv6(
                    Ipv6Header { source, destination, ..Ipv6Header::default() },
                    Ipv6Extensions::default(),
                )
            }
            families => panic!("two families: {families:?}"),
        }
    }

    fn payload(&self) -> Vec<u8> {
        let mut bytes = vec![];
        match &self.content {
            Content::Tcp { ports, sequence, flags, data } => {
                let mut header = TcpHeader::new(ports.0, ports.1, *sequence, 64_000);
                (header.syn, header.ack) = (flags.contains('S'), flags.contains('A'));
                (header.fin, header.rst) = (flags.contains('F'), flags.contains('R'));
                let sum = match self.headers() {
                    IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(&ip, data),
                    IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(&ip, data),
                };
                header.checksum = sum.expect("a length that fits");
                header.write(&mut bytes).expect("a vector takes all");
                bytes.extend(data);
            }
            Content::Reset { ports, acknowledgement } => {
                let mut header = TcpHeader::new(ports.0, ports.1, 0, 0);
                (header.rst, header.ack, header.acknowledgment_number) = (true, true, *acknowledgement);
                let sum = match self.headers() {
                    IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(&ip, &[]),
                    IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(&ip, &[]),
                };
                header.checksum = sum.expect("a length that fits");
                header.write(&mut bytes).expect("a vector takes all");
            }
            Content::Udp { ports, checksum, data } => {
                let mut header = UdpHeader::without_ipv4_checksum(ports.0, ports.1, data.len())
                    .expect("a length that fits");
                if *checksum {
                    let sum = match self.headers() {
                        IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(&ip, data),
                        IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(&ip, data),
                    };
                    header.checksum = sum.expect("a length that fits");
                }
                header.write(&mut bytes).expect("a vector takes all");
                bytes.extend(data);
            }
            Content::Icmp { kind, code, rest, body } => {
                let (type_u8, code_u8, bytes5to8) = (*kind, *code, rest.to_be_bytes());
                let sum = match self.headers() {
                    IpHeaders::Ipv4(..) => {
                        Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 }.calc_checksum(body)
                    }
                    IpHeaders::Ipv6(ip, _) => Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 }
                        .calc_checksum(ip.source, ip.destination, body)
                        .expect("a length that fits"),
                };
                bytes.extend([*kind, *code]);
                bytes.extend(sum.to_be_bytes());
                bytes.extend(bytes5to8);
                bytes.extend(body);
            }
            Content::Raw { bytes: raw, .. } => bytes.extend(raw),
        }
        bytes
    }
}

/// A frame: MACs, VLAN tags (tag control information, outer first) and an IP packet.
pub(crate) fn frame(src: [u8; 6], dst: [u8; 6], tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { 0x0800_u16 } else { 0x86dd };
    let mut bytes = [dst, src].concat();
    for (number, tci) in tags.iter().enumerate() {
        let tpid = if tags.len() == 2 && number == 0 { 0x88a8_u16 } else { 0x8100 };
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes
}

/// Asserts that every checksum of a frame is right, by summing it all again.
pub(crate) fn assert_sound(frame: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a whole packet");
    let (v4, v6) = match sliced.net.as_ref().expect("an IP packet") {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "of the IPv4 header");
            (Some((header.source, header.destination)), None)
        }
        etherparse::NetSlice::Ipv6(ip) => (None, Some(ip.header().to_header())),
        other => panic!("not IP: {other:?}"),
    };
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            let sum = match (v4, v6) {
                (Some((src, dst)), _) => header.calc_checksum_ipv4_raw(src, dst, tcp.payload()),
                (_, Some(ip)) => header.calc_checksum_ipv6(&ip, tcp.payload()),
                _ => unreachable!("one of the two"),
            };
            assert_eq!(sum.expect("a length that fits"), tcp.checksum(), "of TCP");
        }
        Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
            let header = udp.to_header();
            let sum = match (v4, v6) {
                (Some((src, dst)), _) => header.calc_checksum_ipv4_raw(src, dst, udp.payload()),
                (_, Some(ip)) => header.calc_checksum_ipv6(&ip, udp.payload()),
                _ => unreachable!("one of the two"),
            };
            assert_eq!(sum.expect("a length that fits"), udp.checksum(), "of UDP");
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let sum = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(sum, icmp.checksum(), "of ICMP");
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let ip = v6.expect("ICMPv6 in IPv6");
            assert!(icmp.is_checksum_valid(ip.source, ip.destination), "of ICMPv6");
        }
        _ => {}
    }
}
