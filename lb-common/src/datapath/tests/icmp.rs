//! What the node answers itself, and ICMP errors on their way to the party of the flow that they quote.

use super::shape::{Content, Packet, assert_sound, frame};
use super::site::{CLIENT_MAC, HOP_MAC, NODE_MAC, OUT_MAC, Site, V4, V6, tcp, udp};
use crate::abi::backend::Mode;
use crate::abi::slot::Slot;
use crate::abi::vip::VipRow;
use crate::datapath::Verdict;
use crate::limits::{ICMP_BURST_PACKETS, ICMP_RATE_PPS};
use crate::reason::Reason;
use std::vec;
use std::vec::Vec;

fn echo(site: &Site, data: usize) -> Packet {
    let kind = if site.vip.vip == V4.vip { 8 } else { 128 };
    site.packet(Content::Icmp { kind, code: 0, rest: 0x1234_0001, body: vec![0xa5; data] })
}

#[test]
fn an_echo_to_a_vip_is_answered() {
    for (family, kind) in [(V4, 0), (V6, 129)] {
        let site = Site::new(Mode::Nat, family, family);
        for data in [0, 1, 56, 1_000] {
            let request = Packet { hops: 3, class: 0x1c, ..echo(&site, data) };
            let out = site.send(&frame(CLIENT_MAC, NODE_MAC, &[5], &request.bytes()));
            let body = vec![0xa5; data];
            let content = Content::Icmp { kind, code: 0, rest: 0x1234_0001, body };
            let answer = Packet { src: request.dst, dst: request.src, hops: 64, content, ..request };
            assert_eq!(out.verdict, Verdict::Transmit(Reason::EchoReplied));
            assert_eq!(out.bytes, frame(NODE_MAC, CLIENT_MAC, &[5], &answer.bytes()));
            assert_sound(&out.bytes);
        }
    }
}

#[test]
fn an_echo_to_the_node_or_to_nobody_passes_untouched() {
    let site = Site::new(Mode::Nat, V4, V4);
    for dst in [V4.node, "203.0.113.99"] {
        let request = Packet { dst: dst.parse().unwrap(), ..echo(&site, 8) };
        let out = site.send_packet(&request);
        assert_eq!(out.verdict, Verdict::Pass(Reason::NoVip));
        assert_eq!(out.bytes, frame(CLIENT_MAC, NODE_MAC, &[], &request.bytes()));
    }
}

#[test]
fn answers_are_limited_and_the_bucket_fills_again() {
    let site = Site::new(Mode::L2, V4, V4);
    let answered = |count: u64| {
        let out = (0..count).map(|_| site.send_packet(&echo(&site, 8)).verdict.reason());
        out.filter(|reason| *reason == Reason::EchoReplied).count() as u64
    };
    assert_eq!(answered(2 * ICMP_BURST_PACKETS), ICMP_BURST_PACKETS);
    assert_eq!(site.tables.packets(Reason::IcmpLimited), ICMP_BURST_PACKETS);
    let short = site.send_packet(&Packet { hops: 1, ..site.packet(tcp("A", 1, 0)) });
    assert_eq!(short.verdict, Verdict::Drop(Reason::IcmpLimited));
    site.tables.now_ns.set(site.tables.now_ns.get() + 10 * 1_000_000_000 / ICMP_RATE_PPS);
    assert_eq!(answered(100), 10);
}

/// A flood that asks for one kind of answer silences no other: uploads over a tunnel must be told the MTU.
#[test]
fn each_kind_of_answer_has_a_meter_of_its_own() {
    let site = Site::new(Mode::Ipip, V4, V4);
    site.tables.vips.iter().for_each(|row| row.unserved.store(VipRow::REFUSED));
    let hop = Packet { hops: 1, ..site.packet(tcp("A", 1, 0)) };
    // What asks for an answer, the backend that serves then, and another packet that asks for the same kind.
    let asked = [
        (echo(&site, 8), 1, hop, Reason::EchoReplied),
        (site.packet(tcp("S", 1, 0)), 0, site.packet(udp(9)), Reason::ResetReplied),
        (site.packet(tcp("A", 1, 1_441)), 1, site.packet(udp(1_460)), Reason::TooBigReplied),
    ];
    for first in 0..3 {
        site.tables.now_ns.set(site.tables.now_ns.get() + 1_000_000_000);
        for (flood, row, other, answer) in asked.iter().cycle().skip(first).take(3) {
            site.slots(Slot::stable(*row));
            for _ in 0..ICMP_BURST_PACKETS {
                assert_eq!(
                    site.send_packet(flood).verdict,
                    Verdict::Transmit(*answer),
                    "after {first} others"
                );
            }
            for packet in [flood, other] {
                assert_eq!(
                    site.send_packet(packet).verdict,
                    Verdict::Drop(Reason::IcmpLimited),
                    "{answer:?}"
                );
            }
        }
    }
}

#[test]
fn groups_and_nobody_are_not_answered() {
    for (family, sources) in [
        (V4, &["224.0.0.1", "239.1.2.3", "255.255.255.255", "0.0.0.0", "127.0.0.1"][..]),
        (V6, &["ff02::1", "::", "::1"]),
    ] {
        let site = Site::new(Mode::L2, family, family);
        for src in sources {
            let src = src.parse().unwrap();
            let out = site.send_packet(&Packet { src, ..echo(&site, 8) });
            assert_eq!(out.verdict, Verdict::Drop(Reason::IcmpLimited), "{src}");
            let out = site.send_packet(&Packet { src, hops: 1, ..site.packet(tcp("S", 1, 0)) });
            assert_eq!(out.verdict, Verdict::Drop(Reason::IcmpLimited), "{src}");
        }
    }
}

/// An error of a router about what the vip sent to the client.
fn error(site: &Site, content: Content, kind: u8, quote: usize) -> Packet {
    let quoted = Packet::new(site.vip.vip, site.vip.client, content).bytes();
    let body = quoted[..quoted.len().min(quote)].to_vec();
    let router = if site.vip.vip == V4.vip { "198.18.0.1" } else { "2001:db8:ffff::1" };
    let content = Content::Icmp { kind, code: 0, rest: 1_400, body };
    Packet::new(router, site.vip.vip, content)
}

fn towards_client() -> [Content; 2] {
    [
        Content::Tcp { ports: (80, 40_001), sequence: 9, flags: "A", data: vec![1; 60] },
        Content::Udp { ports: (53, 40_001), checksum: true, data: vec![1; 60] },
    ]
}

#[test]
fn an_error_goes_to_the_backend_of_the_flow_that_it_quotes() {
    for (family, kinds) in [(V4, [3, 11, 12]), (V6, [1, 2, 3])] {
        for (content, forward) in towards_client().into_iter().zip([tcp("A", 5, 5), udp(5)]) {
            for kind in kinds {
                let site = Site::new(Mode::L2, family, family);
                let packet = error(&site, content.clone(), kind, 64);
                let flow = site.send_packet(&site.packet(forward.clone()));
                let out = site.send_packet(&packet);
                assert_eq!(out.verdict, Verdict::Redirect(Reason::IcmpErrorForwarded, 1));
                assert_eq!(
                    (out.trail.hash, out.trail.backend_row),
                    (flow.trail.hash, flow.trail.backend_row)
                );
                let on = Packet { hops: 63, ..packet };
                assert_eq!(out.bytes, frame(OUT_MAC, HOP_MAC, &[], &on.bytes()));
            }
        }
    }
}

#[test]
fn an_error_that_quotes_too_little_or_another_is_refused() {
    for (family, shortest) in [(V4, 24), (V6, 44)] {
        let site = Site::new(Mode::L2, family, family);
        let content = towards_client()[0].clone();
        let reason = |packet: &Packet| site.send_packet(packet).verdict;
        let refused = Verdict::Drop(Reason::IcmpQuote);
        for quote in [0, 8, shortest - 1] {
            assert_eq!(reason(&error(&site, content.clone(), 3, quote)), refused, "{quote}");
        }
        let taken = reason(&error(&site, content.clone(), 3, shortest));
        assert_eq!(taken, Verdict::Redirect(Reason::IcmpErrorForwarded, 1));
        // What another address sent, though the error is to the vip.
        let quoted = Packet::new(site.vip.backend, site.vip.client, content.clone()).bytes();
        let content = Content::Icmp { kind: 3, code: 0, rest: 0, body: quoted };
        assert_eq!(reason(&Packet { content, ..error(&site, towards_client()[0].clone(), 3, 64) }), refused);
        let ping = Content::Icmp { kind: 0, code: 0, rest: 0, body: vec![0; 40] };
        assert_eq!(reason(&error(&site, ping, 3, 64)), refused);
    }
}

#[test]
fn no_error_is_answered_with_an_error() {
    let site = Site::new(Mode::L2, V4, V4);
    let spent = Packet { hops: 1, ..error(&site, towards_client()[0].clone(), 3, 64) };
    assert_eq!(site.send_packet(&spent).verdict, Verdict::Drop(Reason::HopLimit));
    let long = Content::Tcp { ports: (80, 40_001), sequence: 9, flags: "A", data: vec![1; 1_600] };
    let long = error(&site, long, 3, 1_600);
    assert_eq!(site.send_packet(&long).verdict, Verdict::Drop(Reason::TooBig));
}

#[test]
fn an_error_teaches_the_flow_table_nothing() {
    use crate::abi::slot::Slot;
    let site = Site::new(Mode::L2, V4, V4);
    let now_s = (site.tables.now_ns.get() / 1_000_000_000) as u32;
    site.slots(Slot::moving(2, 1, now_s + 60));
    let out = site.send_packet(&error(&site, towards_client()[0].clone(), 3, 64));
    assert_eq!((out.verdict.reason(), out.trail.backend_row), (Reason::IcmpErrorForwarded, 1));
    let used: Vec<u64> = site.tables.flows.iter().flat_map(|b| &b.entries).map(|word| word.load()).collect();
    assert!(used.iter().all(|entry| *entry == 0));
}

#[test]
fn other_icmp_passes() {
    for (family, kinds) in [(V4, [0, 4, 5, 13]), (V6, [129, 133, 135, 136])] {
        let site = Site::new(Mode::L2, family, family);
        for kind in kinds {
            let content = Content::Icmp { kind, code: 0, rest: 0, body: vec![0; 40] };
            assert_eq!(site.send_packet(&site.packet(content)).verdict, Verdict::Pass(Reason::IcmpOther));
        }
    }
}
