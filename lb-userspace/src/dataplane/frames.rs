//! Made-up frames for `explain` and `selftest`: Ethernet, IP and TCP or UDP, with no options and no payload.

use std::net::{IpAddr, SocketAddr};

use super::QuestionPacket;

/// Ethernet types.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ARP: [u8; 2] = [0x08, 0x06];
/// Flags of a TCP segment.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// A locally administered address that nobody has.
const SOMEONE: [u8; 6] = [0x02, 0, 0x5e, 0, 0x53, 1];
/// TTL or hop limit.
const HOPS: u8 = 64;

fn ethernet(to: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &SOMEONE, &kind].concat()
}

/// A frame from `client` to `vip`, addressed to the device `to`; `None` if they are of different families.
pub(super) fn frame(
    client: SocketAddr,
    vip: SocketAddr,
    packet: QuestionPacket,
    to: [u8; 6],
) -> Option<Vec<u8>> {
    let transport = transport(client.port(), vip.port(), packet);
    let protocol = if packet == QuestionPacket::Udp { 17 } else { 6 };
    match (client.ip(), vip.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let length = (20 + transport.len() as u16).to_be_bytes();
            let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, HOPS, protocol, 0, 0];
            header.extend(src.octets());
            header.extend(dst.octets());
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            Some([ethernet(to, IPV4), header, transport].concat())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let length = (transport.len() as u16).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, length[0], length[1], protocol, HOPS];
            header.extend(src.octets());
            header.extend(dst.octets());
            Some([ethernet(to, IPV6), header, transport].concat())
        }
        _ => None,
    }
}

fn transport(from: u16, to: u16, packet: QuestionPacket) -> Vec<u8> {
    let mut header = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let flags = match packet {
        QuestionPacket::TcpSyn => SYN,
        QuestionPacket::TcpEstablished => ACK,
        QuestionPacket::Udp => {
            // Length, and no checksum.
            header.extend([0, 8, 0, 0]);
            return header;
        }
    };
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An ARP request, as a frame.
pub(super) fn arp() -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([0; 20]);
    frame
}

/// An IPv4 frame that ends within its IP header.
pub(super) fn cut() -> Vec<u8> {
    let mut frame = ethernet(SOMEONE, IPV4);
    frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::datapath::host::HostFrame;
    use lb_common::datapath::parse::parse;
    use lb_common::datapath::pipeline::Walk;

    #[test]
    fn frames_are_what_the_path_takes_them_for() {
        let (v4, v6) =
            (["198.51.100.7:40001", "203.0.113.10:80"], ["[2001:db8::7]:40001", "[2001:db8::1]:80"]);
        for [client, vip] in [v4, v6].map(|pair| pair.map(|text| text.parse::<SocketAddr>().unwrap())) {
            for packet in [QuestionPacket::TcpSyn, QuestionPacket::TcpEstablished, QuestionPacket::Udp] {
                let bytes = frame(client, vip, packet, SOMEONE).unwrap();
                let mut walk = Walk::default();
                parse(&HostFrame::new(&bytes), &mut walk.parsed).unwrap();
                let parsed = walk.parsed;
                assert_eq!((parsed.flow.src.ip(), parsed.flow.dst.ip()), (client.ip(), vip.ip()));
                assert_eq!((parsed.flow.src_port.host(), parsed.flow.dst_port.host()), (40_001, 80));
                assert_eq!(parsed.is_syn(), packet == QuestionPacket::TcpSyn);
            }
        }
        assert!(
            frame(v4[0].parse().unwrap(), v6[1].parse().unwrap(), QuestionPacket::Udp, SOMEONE).is_none()
        );
    }

    #[test]
    fn an_ipv4_header_sums_to_zero() {
        let client = "198.51.100.7:40001".parse().unwrap();
        let bytes = frame(client, "203.0.113.10:80".parse().unwrap(), QuestionPacket::Udp, SOMEONE).unwrap();
        assert_eq!(checksum(&bytes[14..34]), 0);
    }
}
