//! Everything that is cut off, oversized or inconsistent has its reason; what is not ours passes untouched.

use super::shape::{Content, Packet, frame};
use super::site::{CLIENT_MAC, NODE_MAC, Site, V4, V6, tcp, udp};
use crate::abi::backend::Mode;
use crate::datapath::Verdict;
use crate::reason::Reason;
use std::vec;
use std::vec::Vec;

const FORWARDED: Verdict = Verdict::Redirect(Reason::Forwarded, 1);

fn site(family: super::site::Family) -> Site {
    Site::new(Mode::L2, family, family)
}

/// Sends a packet whose bytes were changed; what is not forwarded must be as it came.
fn changed(site: &Site, content: Content, change: &dyn Fn(&mut Vec<u8>)) -> Verdict {
    let mut bytes = frame(CLIENT_MAC, NODE_MAC, &[], &site.packet(content).bytes());
    change(&mut bytes);
    let out = site.send(&bytes);
    if out.verdict != FORWARDED {
        assert_eq!(out.bytes, bytes);
    }
    out.verdict
}

#[test]
fn every_frame_that_is_cut_off_is_refused() {
    for (family, truncated) in [(V4, Reason::Ipv4Truncated), (V6, Reason::Ipv6Truncated)] {
        let site = site(family);
        for (content, tags) in [(tcp("A", 1, 9), &[][..]), (udp(9), &[1]), (tcp("S", 1, 0), &[1, 2])] {
            let whole = frame(CLIENT_MAC, NODE_MAC, tags, &site.packet(content).bytes());
            for length in 0..whole.len() {
                let expected =
                    if length < 14 + 4 * tags.len() { Reason::EthernetTruncated } else { truncated };
                assert_eq!(site.send(&whole[..length]).verdict, Verdict::Drop(expected), "{length}");
            }
            assert_eq!(site.send(&whole).verdict, FORWARDED);
            // Ethernet pads short packets.
            assert_eq!(site.send(&[whole, vec![0; 20]].concat()).verdict, FORWARDED);
        }
    }
}

#[test]
fn ipv4_headers_that_contradict_themselves_are_refused() {
    let site = site(V4);
    let reason = |at: usize, value: u8| changed(&site, tcp("A", 1, 9), &move |bytes| bytes[at] = value);
    let refused = Verdict::Drop(Reason::Ipv4Header);
    for version_ihl in [0x44, 0x40, 0x35, 0x65, 0x05] {
        assert_eq!(reason(14, version_ihl), refused);
    }
    // A total length under the header's.
    assert_eq!(reason(17, 19), refused);
    assert_eq!(reason(16, 1), Verdict::Drop(Reason::Ipv4Truncated));
    assert_eq!(reason(17, 20), Verdict::Drop(Reason::TransportTruncated));
    for flags in [0x20, 0x60, 0x01, 0x1f] {
        assert_eq!(reason(20, flags), Verdict::Drop(Reason::Fragment));
    }
    assert_eq!(reason(21, 1), Verdict::Drop(Reason::Fragment));
}

#[test]
fn ipv6_headers_that_contradict_themselves_are_refused() {
    let site = site(V6);
    let reason = |at: usize, value: u8| changed(&site, tcp("A", 1, 9), &move |bytes| bytes[at] = value);
    assert_eq!(reason(14, 0x40), Verdict::Drop(Reason::Ipv6Header));
    assert_eq!(reason(18, 1), Verdict::Drop(Reason::Ipv6Truncated));
    // A jumbogram says 0.
    assert_eq!(reason(19, 0), Verdict::Drop(Reason::TransportTruncated));
    let longest = |bytes: &mut Vec<u8>| {
        bytes.resize(14 + 40 + 65_535, 0);
        bytes[18..20].copy_from_slice(&[0xff, 0xff]);
    };
    assert_eq!(changed(&site, tcp("A", 1, 9), &longest), Verdict::Drop(Reason::Ipv6Truncated));
}

#[test]
fn transport_headers_that_cannot_be_used_are_refused_if_to_a_vip() {
    for (family, l4) in [(V4, 34), (V6, 54)] {
        let site = site(family);
        let put = |content: Content, at: usize, value: u8| {
            changed(&site, content, &move |bytes| bytes[l4 + at] = value)
        };
        let tcp_header = Verdict::Drop(Reason::TcpHeader);
        assert_eq!(put(tcp("A", 1, 9), 12, 0x40), tcp_header);
        assert_eq!(put(tcp("A", 1, 9), 12, 0x80), tcp_header);
        assert_eq!(put(tcp("A", 1, 12), 12, 0x80), FORWARDED);
        let udp_length = Verdict::Drop(Reason::UdpLength);
        assert_eq!((put(udp(9), 5, 7), put(udp(9), 5, 18)), (udp_length, udp_length));
        assert_eq!((put(udp(9), 5, 8), put(udp(9), 4, 1)), (FORWARDED, udp_length));
        let raw = |protocol, length| {
            let packet = site.packet(Content::Raw { protocol, bytes: vec![0x50; length] });
            site.send_packet(&packet).verdict
        };
        let icmp = if family.vip == V4.vip { 1 } else { 58 };
        for (protocol, least) in [(6, 20), (17, 8), (icmp, 8)] {
            assert_eq!(raw(protocol, least - 1), Verdict::Drop(Reason::TransportTruncated), "{protocol}");
            assert_ne!(raw(protocol, least).reason(), Reason::TransportTruncated, "{protocol}");
        }
        assert_eq!(raw(if icmp == 1 { 58 } else { 1 }, 40), Verdict::Pass(Reason::OtherProtocol));
        assert_eq!(raw(132, 40), Verdict::Pass(Reason::OtherProtocol));
    }
}

/// Extension headers of these types, 8 bytes each, before a protocol.
fn chain(types: &[u8], protocol: u8) -> Option<(u8, Vec<u8>)> {
    let nexts = types[1..].iter().copied().chain([protocol]);
    Some((types[0], nexts.flat_map(|next| [next, 0, 1, 4, 0, 0, 0, 0]).collect()))
}

#[test]
fn extension_headers_are_followed_to_a_bound() {
    let site = site(V6);
    let verdict = |types: &[u8]| {
        site.send_packet(&Packet { extensions: chain(types, 6), ..site.packet(tcp("S", 1, 0)) }).verdict
    };
    assert_eq!(verdict(&[0, 43, 60, 60, 60, 60]), FORWARDED);
    assert_eq!(verdict(&[0, 43, 60, 60, 60, 60, 60]), Verdict::Drop(Reason::Ipv6Extensions));
    assert_eq!(verdict(&[44]), Verdict::Drop(Reason::Fragment));
    assert_eq!(verdict(&[0, 43, 60, 60, 60, 60, 44]), Verdict::Drop(Reason::Fragment));
    // Not an extension that is followed: authentication, no next header.
    assert_eq!(verdict(&[51]), Verdict::Pass(Reason::OtherProtocol));
    assert_eq!(verdict(&[59]), Verdict::Pass(Reason::OtherProtocol));
    // A header longer than the packet.
    let (first, mut bytes) = chain(&[60], 6).unwrap();
    bytes[1] = 3;
    let long = Packet { extensions: Some((first, bytes)), ..site.packet(tcp("S", 1, 0)) };
    assert_eq!(site.send_packet(&long).verdict, Verdict::Drop(Reason::Ipv6Extensions));
    let cut = site.packet(Content::Raw { protocol: 60, bytes: vec![] });
    assert_eq!(site.send_packet(&cut).verdict, Verdict::Drop(Reason::Ipv6Extensions));
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let site = site(V4);
    let arp = |bytes: &mut Vec<u8>| bytes[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(changed(&site, tcp("S", 1, 0), &arp), Verdict::Pass(Reason::NotIp));
    for group in [0xff, 0x01, 0x33] {
        let verdict = changed(&site, tcp("S", 1, 0), &move |bytes| bytes[0] = group);
        assert_eq!(verdict, Verdict::Pass(Reason::NotUnicast));
    }
    // A third tag is not looked behind.
    let thrice = frame(CLIENT_MAC, NODE_MAC, &[1, 2], &site.packet(tcp("S", 1, 0)).bytes());
    let thrice = [&thrice[..18], &[0x81, 0, 0, 9], &thrice[18..]].concat();
    assert_eq!(site.send(&thrice).verdict, Verdict::Pass(Reason::NotIp));
    let port = Content::Tcp { ports: (40_001, 22), sequence: 1, flags: "S", data: vec![] };
    assert_eq!(changed(&site, port, &|_| ()), Verdict::Pass(Reason::NoVip));
    // Whatever is wrong with a packet to somebody else beyond its IP header is not our business.
    for elsewhere in ["203.0.113.99", V4.node] {
        let elsewhere = elsewhere.parse().unwrap();
        for content in [tcp("S", 1, 0), udp(9), Content::Raw { protocol: 6, bytes: vec![0; 3] }] {
            let packet = Packet { dst: elsewhere, ..site.packet(content) };
            assert_eq!(site.send_packet(&packet).verdict, Verdict::Pass(Reason::NoVip));
            let mut fragment = frame(CLIENT_MAC, NODE_MAC, &[], &packet.bytes());
            fragment[20] = 0x20;
            assert_eq!(site.send(&fragment).verdict, Verdict::Pass(Reason::NoVip));
        }
    }
}

#[test]
fn the_bypass_lets_everything_pass() {
    let site = site(V4);
    site.tables.config.bypass.store(1);
    assert_eq!(changed(&site, tcp("S", 1, 0), &|_| ()), Verdict::Pass(Reason::Bypass));
    assert_eq!(changed(&site, tcp("S", 1, 0), &|bytes| bytes[14] = 0), Verdict::Pass(Reason::Bypass));
    site.tables.config.bypass.store(0);
    assert_eq!(changed(&site, tcp("S", 1, 0), &|_| ()), FORWARDED);
}
