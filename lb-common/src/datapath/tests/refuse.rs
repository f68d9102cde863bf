//! What a client is told while nobody serves a vip.

use super::shape::{Content, Packet, assert_sound, frame};
use super::site::{CLIENT_MAC, NODE_MAC, Site, V4, V6, tcp, udp};
use crate::abi::backend::Mode;
use crate::abi::slot::Slot;
use crate::abi::vip::VipRow;
use crate::datapath::Verdict;
use crate::limits::ICMP_BURST_PACKETS;
use crate::reason::Reason;
use std::vec;

const DROPPED: Verdict = Verdict::Drop(Reason::NoBackend);

/// A site whose vips nobody serves, which refuse.
fn empty(family: super::site::Family) -> Site {
    let site = Site::new(Mode::L2, family, family);
    site.slots(Slot::stable(0));
    site.tables.vips.iter().for_each(|row| row.unserved.store(VipRow::REFUSED));
    site
}

#[test]
fn a_syn_is_reset_with_the_numbers_of_the_rfc() {
    for family in [V4, V6] {
        let site = empty(family);
        // The length of a segment counts data, SYN and FIN; the numbers come round.
        for (flags, sequence, data, length) in
            [("S", 7, 0, 1), ("S", u32::MAX, 0, 1), ("S", u32::MAX - 50, 100, 101), ("SF", 7, 3, 5)]
        {
            let syn = Packet { hops: 1, class: 0x1d, ..site.packet(tcp(flags, sequence, data)) };
            let out = site.send(&frame(CLIENT_MAC, NODE_MAC, &[5, 6], &syn.bytes()));
            assert_eq!(out.verdict, Verdict::Transmit(Reason::ResetReplied));
            let content = Content::Reset { ports: (80, 40_001), acknowledgement: sequence.wrapping_add(length) };
            let answer = Packet { df: false, ..Packet::new(family.vip, family.client, content) };
            assert_eq!(out.bytes, frame(NODE_MAC, CLIENT_MAC, &[5, 6], &answer.bytes()));
            assert_sound(&out.bytes);
        }
        assert_eq!(site.tables.packets(Reason::ResetReplied), 4);
        assert_eq!(site.tables.vip_counts.borrow()[&1].packets, 4);
    }
}

#[test]
fn options_and_extension_headers_are_not_sent_back() {
    let sites = [
        (empty(V4), Packet { options: vec![1; 24], ..empty(V4).packet(tcp("S", 9, 20)) }),
        (empty(V6), Packet { extensions: Some((60, vec![6, 0, 1, 4, 0, 0, 0, 0])), ..empty(V6).packet(tcp("S", 9, 20)) }),
    ];
    for (site, syn) in sites {
        let out = site.send_packet(&syn);
        assert_eq!(out.verdict, Verdict::Transmit(Reason::ResetReplied));
        let content = Content::Reset { ports: (80, 40_001), acknowledgement: 9 + 21 };
        let answer = Packet { df: false, ..Packet::new(site.vip.vip, site.vip.client, content) };
        assert_eq!(out.bytes, frame(NODE_MAC, CLIENT_MAC, &[], &answer.bytes()));
    }
}

#[test]
fn the_sender_of_a_datagram_is_told() {
    for (family, kind, code, quote) in [(V4, 3, 3, 28), (V6, 1, 4, 48)] {
        let site = empty(family);
        for data in [0, 1, 400] {
            let datagram = site.packet(udp(data));
            let out = site.send_packet(&datagram);
            assert_eq!(out.verdict, Verdict::Transmit(Reason::UnreachableReplied));
            let body = datagram.bytes()[..quote].to_vec();
            let content = Content::Icmp { kind, code, rest: 0, body };
            let answer = Packet { df: false, ..Packet::new(family.vip, family.client, content) };
            assert_eq!(out.bytes, frame(NODE_MAC, CLIENT_MAC, &[], &answer.bytes()));
            assert_sound(&out.bytes);
        }
    }
}

#[test]
fn all_else_is_dropped() {
    let site = empty(V4);
    for flags in ["A", "SA", "F", "R", "SR"] {
        assert_eq!(site.send_packet(&site.packet(tcp(flags, 1, 0))).verdict, DROPPED, "{flags}");
    }
    // An ICMP error about a datagram is not answered by another one.
    let quoted = Packet::new(V4.vip, V4.client, Content::Udp { ports: (53, 40_001), checksum: true, data: vec![] });
    let content = Content::Icmp { kind: 3, code: 3, rest: 0, body: quoted.bytes() };
    assert_eq!(site.send_packet(&site.packet(content)).verdict, DROPPED);
    // A vip that does not ask for it.
    site.tables.vips.iter().for_each(|row| row.unserved.store(0));
    for content in [tcp("S", 1, 0), udp(4)] {
        assert_eq!(site.send_packet(&site.packet(content)).verdict, DROPPED);
    }
}

#[test]
fn older_connections_of_the_last_backend_go_on() {
    let site = empty(V4);
    let now_s = (site.tables.now_ns.get() / 1_000_000_000) as u32;
    site.slots(Slot::moving(0, 1, now_s + 60));
    let reason = |content| site.send_packet(&site.packet(content)).verdict.reason();
    assert_eq!(reason(tcp("A", 5, 5)), Reason::Forwarded);
    assert_eq!(reason(Content::Tcp { ports: (40_002, 80), sequence: 1, flags: "S", data: vec![] }), Reason::ResetReplied);
}

#[test]
fn a_tenant_that_has_had_its_share_is_not_reset() {
    use crate::abi::tenant::Caps;
    use crate::abi::vip::{Policy, Tracking};
    let site = empty(V4);
    site.slots(Slot::stable(1));
    site.tables.vips[1].policy.store(Policy::new(Tracking::Always, false, false, 900).with_tenant(1).0);
    site.tables.tenants[1].caps.store(Caps::new(1, 0).0);
    site.tables.tenants[1].connections.store(1);
    let out = site.send_packet(&site.packet(tcp("S", 1, 0)));
    assert_eq!(out.verdict, Verdict::Drop(Reason::TenantConnections));
}

#[test]
fn resets_are_limited() {
    let site = empty(V4);
    for _ in 0..2 * ICMP_BURST_PACKETS {
        site.send_packet(&site.packet(tcp("S", 1, 0)));
    }
    assert_eq!(site.tables.packets(Reason::ResetReplied), ICMP_BURST_PACKETS);
    assert_eq!(site.tables.packets(Reason::IcmpLimited), ICMP_BURST_PACKETS);
    let nobody = Packet { src: [224, 0, 0, 1].into(), ..empty(V4).packet(tcp("S", 1, 0)) };
    assert_eq!(empty(V4).send_packet(&nobody).verdict, Verdict::Drop(Reason::IcmpLimited));
}
