//! Packets to a backend by L2 direct return and by IP-in-IP: golden frames, hops, sizes, tags, and what is refused.

use super::shape::{Content, Packet, assert_sound, frame};
use super::site::{CLIENT_MAC, Family, HERE, HOP_MAC, NODE_MAC, OUT_MAC, Site, THERE, V4, V6, tcp, udp};
use crate::abi::backend::{Control, Mode};
use crate::abi::egress::Tags;
use crate::abi::slot::Slot;
use crate::datapath::Verdict;
use crate::datapath::host::HostFrame;
use crate::reason::Reason;
use std::vec;
use std::vec::Vec;

const FORWARDED: Verdict = Verdict::Redirect(Reason::Forwarded, 1);

/// The packet as it goes on: one hop less.
fn on(packet: &Packet) -> Packet {
    Packet { hops: packet.hops - 1, ..packet.clone() }
}

fn sent(tags: &[u16], packet: &Packet) -> Vec<u8> {
    frame(OUT_MAC, HOP_MAC, tags, &packet.bytes())
}

/// Packets of every kind that is forwarded.
fn packets(site: &Site) -> Vec<Packet> {
    let contents = [tcp("S", 7, 0), tcp("A", 8, 1_000), tcp("FA", 9, 3), udp(0), udp(700)];
    let mut packets: Vec<Packet> = contents.map(|content| site.packet(content)).to_vec();
    for class in [0x01, 0x02, 0x03, 0xb8, 0xff] {
        packets.push(Packet { class, hops: 2, id: 0xabcd, label: 0xfffff, ..site.packet(tcp("A", 1, 5)) });
    }
    if site.vip.vip == V4.vip {
        packets.push(Packet { options: vec![1; 4], ..site.packet(tcp("A", 1, 5)) });
        packets.push(Packet { options: vec![1; 40], df: false, ..site.packet(udp(5)) });
    } else {
        // Hop-by-hop options, a routing header, and twice destination options, padded (RFC 8200).
        let chain = |next: u8| {
            vec![43, 0, 1, 4, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 60, 1, 1, 12, 0, 0, 0, 0]
                .into_iter()
                .chain([0, 0, 0, 0, 0, 0, 0, 0])
                .chain([next, 0, 1, 4, 0, 0, 0, 0])
                .collect()
        };
        packets.push(Packet { extensions: Some((0, chain(6))), ..site.packet(tcp("A", 1, 5)) });
        packets.push(Packet { extensions: Some((0, chain(17))), ..site.packet(udp(5)) });
    }
    packets
}

#[test]
fn direct_return_changes_the_link_and_the_hops_alone() {
    for family in [V4, V6] {
        let site = Site::new(Mode::L2, family, family);
        for packet in packets(&site) {
            let out = site.send_packet(&packet);
            assert_eq!((out.verdict, &out.bytes), (FORWARDED, &sent(&[], &on(&packet))), "{packet:?}");
            assert_sound(&out.bytes);
        }
    }
}

#[test]
fn a_backend_on_the_same_device_is_sent_back() {
    let site = Site::new(Mode::L2, V4, V4);
    site.way(1, HERE, 1500, Tags::NONE);
    assert_eq!(site.send_packet(&site.packet(tcp("S", 1, 0))).verdict, Verdict::Transmit(Reason::Forwarded));
}

#[test]
fn every_tagging_in_becomes_every_tagging_out() {
    let outs =
        [(Tags::NONE, vec![]), (Tags::one(0x6064), vec![0x6064]), (Tags::two(7, 0xe008), vec![7, 0xe008])];
    for (mode, family) in [(Mode::L2, V4), (Mode::L2, V6), (Mode::Ipip, V4), (Mode::Ipip, V6)] {
        for tags_in in [&[][..], &[0x0123], &[0x0fff, 0xf001]] {
            for (tags, tags_out) in &outs {
                let site = Site::new(mode, family, family);
                site.way(1, THERE, 1500, *tags);
                let packet = site.packet(tcp("A", 5, 50));
                let out = site.send(&frame(CLIENT_MAC, NODE_MAC, tags_in, &packet.bytes()));
                let expected = match mode {
                    Mode::L2 => on(&packet),
                    _ => wrapped(&on(&packet), family, out.trail.hash),
                };
                assert_eq!((out.verdict, out.bytes), (FORWARDED, sent(tags_out, &expected)), "{tags_in:?}");
            }
        }
    }
}

/// The packet inside another, as RFC 2003 and RFC 2473 say; DSCP and ECN copied outwards.
fn wrapped(inner: &Packet, backend: Family, hash: u64) -> Packet {
    let protocol = if inner.src.is_ipv4() { 4 } else { 41 };
    let outer = Packet::new(backend.node, backend.backend, Content::Raw { protocol, bytes: inner.bytes() });
    let label = if outer.src.is_ipv4() { 0 } else { (hash >> 44) as u32 };
    Packet { class: inner.class, label, ..outer }
}

#[test]
fn a_tunnel_wraps_either_family_in_either() {
    for vip in [V4, V6] {
        for backend in [V4, V6] {
            let site = Site::new(Mode::Ipip, vip, backend);
            for packet in packets(&site) {
                let out = site.send_packet(&packet);
                let expected = wrapped(&on(&packet), backend, out.trail.hash);
                assert_eq!((out.verdict, &out.bytes), (FORWARDED, &sent(&[], &expected)), "{packet:?}");
                assert_sound(&out.bytes);
            }
        }
    }
}

/// The ICMP error about a packet, from the vip to the client.
fn error(packet: &Packet, kinds: ((u8, u8), (u8, u8)), rest: u32) -> Packet {
    let v4 = packet.src.is_ipv4();
    let ((kind, code), quote) = if v4 { (kinds.0, 28) } else { (kinds.1, 48) };
    let body = packet.bytes()[..quote].to_vec();
    let content = Content::Icmp { kind, code, rest, body };
    let answer = Packet { src: packet.dst, dst: packet.src, content, ..packet.clone() };
    Packet { hops: 64, class: 0, id: 0, df: false, label: 0, extensions: None, options: vec![], ..answer }
}

const TOO_BIG: ((u8, u8), (u8, u8)) = ((3, 4), (2, 0));
const HOP_LIMIT: ((u8, u8), (u8, u8)) = ((11, 0), (3, 0));

#[test]
fn used_up_hops_are_reported() {
    for (family, mode) in [(V4, Mode::L2), (V6, Mode::Ipip), (V4, Mode::Nat), (V6, Mode::Nat)] {
        let site = Site::new(mode, family, family);
        for (hops, content) in [(1, tcp("A", 5, 9)), (0, tcp("S", 5, 0)), (1, udp(0))] {
            let packet = Packet { hops, ..site.packet(content) };
            let out = site.send(&frame(CLIENT_MAC, NODE_MAC, &[0x2005], &packet.bytes()));
            assert_eq!(out.verdict, Verdict::Transmit(Reason::HopLimitReplied));
            let answer = frame(NODE_MAC, CLIENT_MAC, &[0x2005], &error(&packet, HOP_LIMIT, 0).bytes());
            assert_eq!(out.bytes, answer);
            assert_sound(&out.bytes);
        }
    }
}

#[test]
fn too_big_is_told_with_the_mtu_less_the_overhead() {
    for (vip, backend, mode, fits) in [
        (V4, V4, Mode::L2, 1500_u32),
        (V6, V6, Mode::L2, 1500),
        (V4, V4, Mode::Nat, 1500),
        (V4, V4, Mode::Ipip, 1480),
        (V6, V4, Mode::Ipip, 1480),
        (V4, V6, Mode::Ipip, 1460),
        (V6, V6, Mode::Ipip, 1460),
    ] {
        let site = Site::new(mode, vip, backend);
        let header = if vip.vip == V4.vip { 40 } else { 60 };
        let fitting = site.packet(tcp("A", 5, fits as usize - header));
        assert_eq!(site.send_packet(&fitting).verdict, FORWARDED, "{mode:?}");
        let packet = site.packet(tcp("A", 5, fits as usize + 1 - header));
        let out = site.send_packet(&packet);
        assert_eq!(out.verdict, Verdict::Transmit(Reason::TooBigReplied), "{mode:?}");
        assert_eq!(out.bytes, frame(NODE_MAC, CLIENT_MAC, &[], &error(&packet, TOO_BIG, fits).bytes()));
        assert_sound(&out.bytes);
        // Who allows fragmenting gets no message.
        let out = site.send_packet(&Packet { df: false, ..packet });
        let silent = vip.vip == V4.vip;
        assert_eq!(out.verdict == Verdict::Drop(Reason::TooBig), silent);
    }
}

#[test]
fn no_mtu_below_the_protocols_floor_is_told() {
    for (family, floor) in [(V4, 576), (V6, 1280)] {
        let site = Site::new(Mode::Ipip, family, family);
        site.way(1, THERE, 300, Tags::NONE);
        let packet = site.packet(tcp("A", 5, 400));
        let out = site.send_packet(&packet);
        assert_eq!(out.bytes, frame(NODE_MAC, CLIENT_MAC, &[], &error(&packet, TOO_BIG, floor).bytes()));
    }
}

#[test]
fn what_cannot_be_sent_has_its_reason() {
    let reason = |change: &dyn Fn(&mut Site)| {
        let mut site = Site::new(Mode::Ipip, V4, V4);
        change(&mut site);
        site.send_packet(&site.packet(tcp("S", 1, 0))).verdict
    };
    let drop = Verdict::Drop;
    assert_eq!(reason(&|_| ()), FORWARDED);
    assert_eq!(reason(&|site| site.slots(Slot::stable(0))), drop(Reason::NoBackend));
    assert_eq!(reason(&|site| site.slots(Slot::stable(999))), drop(Reason::TableInconsistent));
    assert_eq!(reason(&|site| site.tables.slots.truncate(0)), drop(Reason::TableInconsistent));
    assert_eq!(reason(&|site| site.control(|word| word & !Control::ALIVE)), drop(Reason::BackendDead));
    assert_eq!(reason(&|site| site.tables.backends[1].next_hop.store(0)), drop(Reason::NoNextHop));
    assert_eq!(reason(&|site| site.tables.egresses.truncate(0)), drop(Reason::TableInconsistent));
    assert_eq!(reason(&|site| site.tables.sources.truncate(0)), drop(Reason::TableInconsistent));
    // A draining backend serves what it has.
    assert_eq!(reason(&|site| site.control(|word| word & !Control::NEW)), FORWARDED);
}

#[test]
fn too_little_room_before_the_frame_is_refused() {
    for (mode, room, verdict) in [
        (Mode::Ipip, 18, Verdict::Drop(Reason::NoHeadroom)),
        (Mode::Ipip, 20, FORWARDED),
        (Mode::L2, 0, FORWARDED),
    ] {
        let site = Site::new(mode, V4, V4);
        let bytes = frame(CLIENT_MAC, NODE_MAC, &[], &site.packet(tcp("S", 1, 0)).bytes());
        assert_eq!(site.send_with(HostFrame::with_headroom(&bytes, room)).verdict, verdict);
    }
}

#[test]
fn packets_and_bytes_are_counted_once_as_they_arrived() {
    let site = Site::new(Mode::Ipip, V4, V4);
    let bytes = frame(CLIENT_MAC, NODE_MAC, &[], &site.packet(tcp("S", 1, 0)).bytes());
    site.send(&bytes);
    let counts = (site.tables.packets(Reason::Forwarded), site.tables.reasons.borrow()[0].bytes);
    assert_eq!(counts, (1, 54));
    assert_eq!(site.tables.vip_counts.borrow()[&1].packets, 1);
    assert_eq!(site.tables.backend_counts.borrow()[&1].bytes, 54);
    let total: u64 = site.tables.reasons.borrow().iter().map(|counter| counter.packets).sum();
    assert_eq!(total, 1);
}
