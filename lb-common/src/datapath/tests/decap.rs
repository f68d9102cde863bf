//! The backend's side of a tunnel: what is taken off, from whom, for whom, and how congestion marks are carried.

use super::shape::{Content, Packet, assert_sound, frame};
use super::site::{Family, HOP_MAC, OUT_MAC, V4, V6, addr, tcp, udp};
use crate::datapath::host::{HostFrame, HostTables};
use crate::datapath::parse::Parsed;
use crate::datapath::{Verdict, decap};
use crate::hash::HashKey;
use crate::reason::Reason;
use std::vec;
use std::vec::Vec;

/// A backend that knows one balancer and one vip in each family.
fn tables() -> HostTables {
    let mut tables = HostTables::new(HashKey([0; 2]), 0, 1);
    tables.decap_peers.extend([V4.node, V6.node].map(|node| addr(node).0));
    tables.decap_vips.extend([V4.vip, V6.vip].map(|vip| addr(vip).0));
    tables
}

fn run(bytes: &[u8]) -> (Verdict, Vec<u8>) {
    run_after(bytes, &mut Parsed::default())
}

/// Runs a packet on a CPU whose notes are those of the packet before.
fn run_after(bytes: &[u8], notes: &mut Parsed) -> (Verdict, Vec<u8>) {
    let mut packet = HostFrame::new(bytes);
    let verdict = decap::run(&mut packet, &tables(), notes);
    (verdict, packet.bytes().to_vec())
}

fn outer(tunnel: Family, inner: &Packet) -> Packet {
    let protocol = if inner.src.is_ipv4() { 4 } else { 41 };
    Packet::new(tunnel.node, tunnel.backend, Content::Raw { protocol, bytes: inner.bytes() })
}

fn inner(family: Family) -> Packet {
    Packet::new(family.client, family.vip, tcp("A", 1, 100))
}

fn framed(packet: &Packet) -> Vec<u8> {
    frame(OUT_MAC, HOP_MAC, &[], &packet.bytes())
}

#[test]
fn either_family_comes_out_of_either() {
    for tunnel in [V4, V6] {
        for family in [V4, V6] {
            for tags in [&[][..], &[0x2001], &[7, 0xe001]] {
                for content in [tcp("S", 1, 0), udp(500)] {
                    let inner = Packet { class: 0x2c, ..Packet::new(family.client, family.vip, content) };
                    let packet = frame(OUT_MAC, HOP_MAC, tags, &outer(tunnel, &inner).bytes());
                    let expected = frame(OUT_MAC, HOP_MAC, tags, &inner.bytes());
                    assert_eq!(run(&packet), (Verdict::Pass(Reason::DecapUnwrapped), expected));
                }
            }
        }
    }
}

/// RFC 6040 section 4.2, figure 4, without its one rule that raises ECT(0) to ECT(1): rows are the inner mark, columns
/// the outer one, in the order Not-ECT, ECT(1), ECT(0), CE; `None` is a drop.
#[test]
fn congestion_marks_follow_rfc_6040() {
    const TABLE: [[Option<u8>; 4]; 4] = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(2), Some(2), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    for tunnel in [V4, V6] {
        for family in [V4, V6] {
            for (inside, row) in (0_u8..).zip(TABLE) {
                for (outside, expected) in (0_u8..).zip(row) {
                    let inner = Packet { class: 0xb8 | inside, ..inner(family) };
                    let packet = Packet { class: 0x68 | outside, ..outer(tunnel, &inner) };
                    let (verdict, bytes) = run(&framed(&packet));
                    let Some(mark) = expected else {
                        assert_eq!(verdict, Verdict::Drop(Reason::DecapEcn));
                        continue;
                    };
                    let expected = Packet { class: 0xb8 | mark, ..inner };
                    assert_eq!(
                        (verdict, &bytes),
                        (Verdict::Pass(Reason::DecapUnwrapped), &framed(&expected))
                    );
                    assert_sound(&bytes);
                }
            }
        }
    }
}

#[test]
fn only_known_balancers_and_vips_are_believed() {
    for tunnel in [V4, V6] {
        let stranger = Packet { src: tunnel.client.parse().unwrap(), ..outer(tunnel, &inner(V4)) };
        assert_eq!(run(&framed(&stranger)).0, Verdict::Drop(Reason::DecapUnknownPeer));
        for family in [V4, V6] {
            let elsewhere = Packet { dst: family.backend.parse().unwrap(), ..inner(family) };
            let packet = framed(&outer(tunnel, &elsewhere));
            assert_eq!(run(&packet).0, Verdict::Drop(Reason::DecapUnknownVip));
        }
    }
}

#[test]
fn a_tunnel_in_a_tunnel_is_refused() {
    for family in [V4, V6] {
        for protocol in [4, 41] {
            let deep = Content::Raw { protocol, bytes: inner(V4).bytes() };
            let inner = Packet::new(family.client, family.vip, deep);
            assert_eq!(run(&framed(&outer(V4, &inner))).0, Verdict::Drop(Reason::DecapMalformed));
        }
    }
}

#[test]
fn what_is_cut_off_or_inconsistent_inside_is_refused() {
    for family in [V4, V6] {
        let whole = inner(family).bytes();
        let protocol = if family.vip == V4.vip { 4 } else { 41 };
        let verdict = |bytes: Vec<u8>| {
            let packet = Packet::new(V4.node, V4.backend, Content::Raw { protocol, bytes });
            run(&framed(&packet)).0
        };
        let malformed = Verdict::Drop(Reason::DecapMalformed);
        for length in 0..whole.len() {
            assert_eq!(verdict(whole[..length].to_vec()), malformed, "{length}");
        }
        for (at, value) in [(0, 0x05), (0, 0x75)] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            assert_eq!(verdict(bytes), malformed);
        }
        let mut longer = whole.clone();
        longer[if protocol == 4 { 2 } else { 4 }] = 0xff;
        assert_eq!(verdict(longer), malformed);
        if protocol == 4 {
            for (at, value) in [(0, 0x44), (3, 19)] {
                let mut bytes = whole.clone();
                (bytes[2], bytes[at]) = (0, value);
                assert_eq!(verdict(bytes), malformed);
            }
        }
    }
}

/// A backend's own traffic: the answer to its question, in fragments, between packets of the tunnel.
#[test]
fn a_fragment_is_not_judged_by_the_packet_before_it() {
    for tunnel in [V4, V6] {
        let tunnelled = framed(&outer(tunnel, &inner(V6)));
        let behind = |first: u8, bytes: &[u8]| {
            let bytes = bytes.to_vec();
            framed(&Packet::new(V6.client, V6.backend, Content::Raw { protocol: first, bytes }))
        };
        // A fragment of UDP at once, and one behind hop-by-hop options.
        let fragment = [17, 0, 0, 1, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8];
        let options = [&[44, 0, 1, 4, 0, 0, 0, 0], &fragment[..]].concat();
        for plain in [behind(44, &fragment), behind(0, &options)] {
            let mut notes = Parsed::default();
            assert_eq!(run_after(&tunnelled, &mut notes).0, Verdict::Pass(Reason::DecapUnwrapped));
            assert_eq!(run_after(&plain, &mut notes), (Verdict::Pass(Reason::DecapNotTunnel), plain));
        }
    }
}

#[test]
fn fragments_of_a_tunnel_are_refused_and_all_else_passes() {
    let packet = outer(V4, &inner(V4));
    let mut fragment = framed(&packet);
    fragment[20] = 0x20;
    assert_eq!(run(&fragment).0, Verdict::Drop(Reason::DecapMalformed));
    let plain = framed(&Packet::new(V4.client, V4.backend, tcp("S", 1, 0)));
    assert_eq!(run(&plain), (Verdict::Pass(Reason::DecapNotTunnel), plain));
    let options = Packet { options: vec![1; 8], ..packet };
    let expected = (Verdict::Pass(Reason::DecapUnwrapped), framed(&inner(V4)));
    assert_eq!(run(&framed(&options)), expected);
}
