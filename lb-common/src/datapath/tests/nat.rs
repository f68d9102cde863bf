//! NAT there and back: golden frames with every checksum summed anew, the packet that an ICMP error quotes, and which
//! reply is believed.

use super::shape::{Content, Packet, assert_sound, frame};
use super::site::{CLIENT_MAC, Family, HOP_MAC, NODE_MAC, OUT_MAC, PORT, Site, V4, V6, tcp, udp};
use crate::abi::backend::Mode;
use crate::abi::nat::{NatControl, NatState};
use crate::datapath::Verdict;
use crate::limits::{NAT_CLOSING_S, NAT_PORT_FIRST, NAT_PORTS, NAT_REST_S};
use crate::reason::Reason;
use std::vec;
use std::vec::Vec;

const FORWARDED: Verdict = Verdict::Redirect(Reason::Forwarded, 1);
const REPLIED: Verdict = Verdict::Transmit(Reason::NatReply);

fn site(family: Family) -> Site {
    Site::new(Mode::Nat, family, family)
}

/// The source port of an outgoing frame without tags.
fn port_of(site: &Site, bytes: &[u8]) -> u16 {
    let l4 = if site.vip.vip == V4.vip { 34 } else { 54 };
    u16::from_be_bytes([bytes[l4], bytes[l4 + 1]])
}

/// The content with other ports.
fn ported(content: &Content, ports: (u16, u16)) -> Content {
    let mut content = content.clone();
    if let Content::Tcp { ports: old, .. } | Content::Udp { ports: old, .. } = &mut content {
        *old = ports;
    }
    content
}

/// A packet's ports.
fn ports(content: &Content) -> (u16, u16) {
    match content {
        Content::Tcp { ports, .. } | Content::Udp { ports, .. } => *ports,
        _ => (0, 0),
    }
}

/// What a backend sends to the node.
fn reply(site: &Site, content: &Content, port: u16) -> Packet {
    let back = ported(content, (ports(content).1, port));
    Packet::new(site.vip.backend, site.vip.node, back)
}

fn send_reply(site: &Site, packet: &Packet) -> super::site::Sent {
    site.send(&frame(HOP_MAC, OUT_MAC, &[], &packet.bytes()))
}

#[test]
fn there_and_back() {
    for family in [V4, V6] {
        let contents = [tcp("S", 7, 0), tcp("A", 8, 999), udp(0), udp(701)];
        for (content, tags) in contents.into_iter().zip([&[][..], &[0x0064], &[0x0ace, 0x0123], &[]]) {
            let site = site(family);
            let packet = Packet { class: 0x2e, id: 9, label: 5, ..site.packet(content.clone()) };
            let out = site.send(&frame(CLIENT_MAC, NODE_MAC, tags, &packet.bytes()));
            assert_eq!(out.verdict, FORWARDED);
            let port = port_of(&site, &out.bytes);
            assert!((NAT_PORT_FIRST..NAT_PORTS).contains(&port.into()));
            let translated = Packet {
                src: family.node.parse().unwrap(),
                dst: family.backend.parse().unwrap(),
                hops: 63,
                content: ported(&content, (port, ports(&content).1)),
                ..packet
            };
            assert_eq!(out.bytes, frame(OUT_MAC, HOP_MAC, &[], &translated.bytes()));
            assert_sound(&out.bytes);

            let answer = reply(&site, &content, port);
            let back = send_reply(&site, &answer);
            let (ours, theirs) = ports(&content);
            let expected = Packet::new(family.vip, family.client, ported(&content, (theirs, ours)));
            let expected = Packet { hops: 63, ..expected };
            assert_eq!(back.verdict, REPLIED);
            assert_eq!(back.bytes, frame(NODE_MAC, CLIENT_MAC, tags, &expected.bytes()));
            assert_sound(&back.bytes);
            assert_eq!(back.trail.backend_row, out.trail.backend_row);
        }
    }
}

#[test]
fn answers_carry_the_kinds_of_tags_that_came() {
    for (tags, kinds) in [(&[100][..], [0x8100, 0x88a8]), (&[100, 7], [0x8100, 0x88a8])] {
        for kind in kinds {
            let site = site(V4);
            let tagged = |packet: &Packet, src, dst| {
                let mut bytes = frame(src, dst, tags, &packet.bytes());
                bytes[12..14].copy_from_slice(&u16::to_be_bytes(kind));
                bytes
            };
            let packet = site.packet(tcp("S", 7, 0));
            let out = site.send(&tagged(&packet, CLIENT_MAC, NODE_MAC));
            assert_eq!(out.verdict, FORWARDED);
            let back = send_reply(&site, &reply(&site, &tcp("SA", 7, 0), port_of(&site, &out.bytes)));
            let expected = Packet::new(V4.vip, V4.client, ported(&tcp("SA", 7, 0), (80, 40_001)));
            let expected = Packet { hops: 63, ..expected };
            assert_eq!(back.bytes, tagged(&expected, NODE_MAC, CLIENT_MAC), "{kind:x}");
        }
    }
}

#[test]
fn a_backends_own_port_is_translated_both_ways() {
    for family in [V4, V6] {
        let site = site(family);
        site.control(|word| word | u64::from(8080_u16.to_be()) << 32);
        let out = site.send_packet(&site.packet(tcp("S", 7, 0)));
        let port = port_of(&site, &out.bytes);
        let l4 = if family.vip == V4.vip { 34 } else { 54 };
        assert_eq!(out.bytes[l4 + 2..l4 + 4], 8080_u16.to_be_bytes());
        assert_sound(&out.bytes);
        // From the vip's port it is not this flow's reply.
        assert_eq!(
            send_reply(&site, &reply(&site, &tcp("A", 1, 0), port)).verdict,
            Verdict::Pass(Reason::NoVip)
        );
        let content = Content::Tcp { ports: (0, 8080), sequence: 1, flags: "SA", data: vec![] };
        let back = send_reply(&site, &reply(&site, &content, port));
        assert_eq!(back.verdict, REPLIED);
        assert_eq!(back.bytes[l4..l4 + 2], 80_u16.to_be_bytes());
        assert_sound(&back.bytes);
    }
}

#[test]
fn udp_keeps_having_no_checksum_and_none_becomes_zero() {
    for family in [V4, V6] {
        let site = site(family);
        let l4 = if family.vip == V4.vip { 34 } else { 54 };
        for value in 0..=u16::MAX {
            let data = value.to_be_bytes().to_vec();
            let content = Content::Udp { ports: (40_001, 53), checksum: true, data };
            let out = site.send_packet(&site.packet(content));
            assert_ne!(out.bytes[l4 + 6..l4 + 8], [0, 0], "{value}");
            assert_sound(&out.bytes);
        }
    }
    let site = site(V4);
    let content = Content::Udp { ports: (40_001, 53), checksum: false, data: vec![1, 2, 3] };
    let out = site.send_packet(&site.packet(content.clone()));
    assert_eq!((out.verdict, &out.bytes[40..42]), (FORWARDED, &[0, 0][..]));
    let back = send_reply(&site, &reply(&site, &content, port_of(&site, &out.bytes)));
    assert_eq!((back.verdict, &back.bytes[40..42]), (REPLIED, &[0, 0][..]));
}

#[test]
fn a_flow_keeps_its_port_and_another_gets_its_own() {
    let site = site(V4);
    let mut taken = Vec::new();
    for client in 1_000..3_000 {
        let content = ported(&tcp("S", 7, 0), (client, 80));
        let port = port_of(&site, &site.send_packet(&site.packet(content.clone())).bytes);
        assert_eq!(port_of(&site, &site.send_packet(&site.packet(content)).bytes), port);
        taken.push(port);
    }
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 2_000);
}

#[test]
fn only_the_backends_own_reply_is_believed() {
    for family in [V4, V6] {
        let site = site(family);
        let content = tcp("A", 7, 3);
        let port = port_of(&site, &site.send_packet(&site.packet(content.clone())).bytes);
        let honest = reply(&site, &content, port);
        assert_eq!(send_reply(&site, &honest).verdict, REPLIED);
        let stranger = if family.vip == V4.vip { "10.0.0.3" } else { "fd00::3" };
        let forgeries = [
            Packet { src: stranger.parse().unwrap(), ..honest.clone() },
            Packet { content: ported(&content, (81, port)), ..honest.clone() },
            Packet { content: ported(&content, (80, port ^ 1)), ..honest.clone() },
            Packet { content: ported(&content, (80, 1_023)), ..honest.clone() },
            Packet { content: ported(&content, (80, 32_768)), ..honest.clone() },
            Packet { content: ported(&udp(3), (80, port)), ..honest.clone() },
        ];
        for forged in forgeries {
            let out = send_reply(&site, &forged);
            assert_eq!(out.verdict, Verdict::Pass(Reason::NoVip), "{forged:?}");
            assert_eq!(out.bytes, frame(HOP_MAC, OUT_MAC, &[], &forged.bytes()));
        }
        assert_eq!(send_reply(&site, &Packet { hops: 1, ..honest }).verdict, Verdict::Drop(Reason::HopLimit));
    }
}

/// An ICMP error about a packet; its reporter stands between. The transport checksum in what is quoted is left as it was.
fn error(from: &str, to: &str, quoted: Vec<u8>) -> Packet {
    let kind = if from.contains(':') { 2 } else { 3 };
    Packet::new(from, to, Content::Icmp { kind, code: 4, rest: 1_400, body: quoted })
}

/// The bytes of a packet, with the transport checksum of another.
fn quoted(packet: &Packet, sum_of: &Packet, protocol: u8) -> Vec<u8> {
    let l4 = if packet.src.is_ipv4() { 20 } else { 40 };
    let at = l4 + if protocol == 6 { 16 } else { 6 };
    let mut bytes = packet.bytes();
    bytes[at..at + 2].copy_from_slice(&sum_of.bytes()[at..at + 2]);
    bytes
}

#[test]
fn an_error_about_a_translated_packet_is_translated_with_it() {
    for family in [V4, V6] {
        for (content, protocol) in [(tcp("A", 7, 40), 6), (udp(40), 17)] {
            let site = site(family);
            let (client_port, vip_port) = ports(&content);
            let port = port_of(&site, &site.send_packet(&site.packet(content.clone())).bytes);
            let router = if family.vip == V4.vip { "198.18.0.1" } else { "2001:db8:ffff::1" };

            // From the client's side, about what the client was sent.
            let seen = Packet::new(family.vip, family.client, ported(&content, (vip_port, client_port)));
            let told = Packet::new(family.backend, family.node, ported(&content, (vip_port, port)));
            let out = site.send_packet(&error(router, family.vip, seen.bytes()));
            let expected = error(family.node, family.backend, quoted(&told, &seen, protocol));
            let expected = Packet { hops: 63, ..expected };
            assert_eq!(out.verdict, Verdict::Redirect(Reason::IcmpErrorForwarded, 1));
            assert_eq!(out.bytes, frame(OUT_MAC, HOP_MAC, &[], &expected.bytes()));
            assert_sound(&out.bytes);

            // From the backend's side, about what the node sent.
            let sent = Packet::new(family.node, family.backend, ported(&content, (port, vip_port)));
            let told = Packet::new(family.client, family.vip, content.clone());
            let back = send_reply(&site, &error(router, family.node, sent.bytes()));
            let expected = error(family.vip, family.client, quoted(&told, &sent, protocol));
            let expected = Packet { hops: 63, ..expected };
            assert_eq!(back.verdict, REPLIED);
            assert_eq!(back.bytes, frame(NODE_MAC, CLIENT_MAC, &[], &expected.bytes()));
            assert_sound(&back.bytes);
        }
    }
}

#[test]
fn an_error_about_no_flow_makes_none() {
    let site = site(V4);
    let seen = Packet::new(V4.vip, V4.client, ported(&tcp("A", 1, 9), (80, 40_001)));
    let out = site.send_packet(&error("198.18.0.1", V4.vip, seen.bytes()));
    assert_eq!(out.verdict, Verdict::Drop(Reason::IcmpQuote));
    assert!(site.tables.nat.iter().all(|row| row.control.load() == 0));
}

#[test]
fn no_free_port_a_lost_race_and_no_way_back_have_their_reasons() {
    let mut site = site(V4);
    let packet = site.packet(tcp("S", 7, 0));
    site.tables.failing_swaps.set(1);
    assert_eq!(site.send_packet(&packet).verdict, Verdict::Drop(Reason::NatBusy));
    assert_eq!(site.send_packet(&packet).verdict, FORWARDED);

    let now_s = (site.tables.now_ns.get() / 1_000_000_000) as u32;
    for row in &site.tables.nat {
        row.control.store(NatControl::new(1, NatState::Live, 0, now_s).0);
    }
    assert_eq!(site.send_packet(&packet).verdict, FORWARDED, "its own row");
    let other = site.packet(ported(&tcp("S", 7, 0), (1, 80)));
    assert_eq!(site.send_packet(&other).verdict, Verdict::Drop(Reason::NatPorts));
    // A dead backend's ports are free.
    for row in &site.tables.nat {
        row.control.store(NatControl::new(77, NatState::Live, 0, now_s).0);
    }
    assert_eq!(site.send_packet(&other).verdict, FORWARDED);

    site.tables.ports.clear();
    let third = site.packet(ported(&tcp("S", 7, 0), (2, 80)));
    assert_eq!(site.send_packet(&third).verdict, Verdict::Drop(Reason::NoNextHop));
}

/// A connection by NAT that is up.
struct Connection {
    site: Site,
    port: u16,
}

impl Connection {
    fn new() -> Self {
        let site = site(V4);
        let port = port_of(&site, &site.send_packet(&site.packet(tcp("S", 7, 0))).bytes);
        let connection = Self { site, port };
        assert_eq!(connection.client_sends("A", 0), NatState::Live);
        connection
    }
    /// The state of its row, the only one that is used.
    fn state(&self) -> NatState {
        let used = self.site.tables.nat.iter().map(|row| NatControl(row.control.load()).state());
        let used: Vec<_> = used.filter(|state| *state != NatState::Free).collect();
        assert_eq!(used.len(), 1);
        used[0]
    }
    fn client_sends(&self, flags: &'static str, data: usize) -> NatState {
        let out = self.site.send_packet(&self.site.packet(tcp(flags, 8, data)));
        assert_eq!((out.verdict, port_of(&self.site, &out.bytes)), (FORWARDED, self.port));
        self.state()
    }
    fn backend_sends(&self, flags: &'static str, data: usize) -> NatState {
        let out = send_reply(&self.site, &reply(&self.site, &tcp(flags, 7, data), self.port));
        assert_eq!(out.verdict, REPLIED);
        self.state()
    }
    fn wait_s(&self, seconds: u32) {
        self.site.tables.now_ns.set(self.site.tables.now_ns.get() + u64::from(seconds) * 1_000_000_000);
    }
    /// Whether the sweep would free its port after so long without a packet; its vip's idle time is 900 s.
    fn is_over_after(&self, seconds: u32) -> bool {
        let now_s = (self.site.tables.now_ns.get() / 1_000_000_000) as u32;
        let row = self.site.tables.nat.iter().find(|row| row.control.load() != 0).unwrap();
        NatControl(row.control.load()).is_over(now_s + seconds, false, 900)
    }
}

#[test]
fn one_sides_fin_leaves_the_other_its_half() {
    let client_first = Connection::new();
    assert_eq!(client_first.client_sends("FA", 9), NatState::ClientClosed);
    assert!(!client_first.is_over_after(900) && client_first.is_over_after(901));
    // The answer comes in its own time; the client acknowledges, and sends its FIN again.
    assert_eq!(client_first.backend_sends("A", 900), NatState::ClientClosed);
    assert_eq!(client_first.client_sends("A", 0), NatState::ClientClosed);
    assert_eq!(client_first.client_sends("FA", 0), NatState::ClientClosed);
    assert_eq!(client_first.backend_sends("FA", 0), NatState::Closing);
    let backend_first = Connection::new();
    assert_eq!(backend_first.backend_sends("FA", 0), NatState::BackendClosed);
    assert!(!backend_first.is_over_after(900));
    assert_eq!(backend_first.client_sends("A", 900), NatState::BackendClosed);
    assert_eq!(backend_first.client_sends("FA", 0), NatState::Closing);
    // A reset by the other side is its end, and one by the same side says no more than its FIN did.
    for (client, reset, state) in [(true, "R", NatState::Closing), (false, "RA", NatState::Reset)] {
        let flow = Connection::new();
        flow.backend_sends("FA", 0);
        let is = if client { flow.client_sends(reset, 0) } else { flow.backend_sends(reset, 0) };
        assert_eq!(is, state);
    }
}

#[test]
fn a_flow_that_goes_on_takes_back_what_was_forged() {
    for from_client in [true, false] {
        let flow = Connection::new();
        let reset = if from_client { flow.client_sends("R", 0) } else { flow.backend_sends("RA", 0) };
        assert_eq!(reset, NatState::Reset);
        // One packet in another's name does not end it: a silent flow has as long as a port rests anyway.
        assert!(!flow.is_over_after(NAT_REST_S) && flow.is_over_after(NAT_REST_S + 1));
        // The other side's FIN ends nothing, and an acknowledgement says nothing.
        assert_eq!(flow.backend_sends("FA", 0), NatState::Reset);
        assert_eq!(flow.client_sends("A", 0), NatState::Reset);
        let data = if from_client { flow.client_sends("A", 1) } else { flow.backend_sends("A", 1) };
        assert_eq!(data, NatState::Live);
        flow.client_sends("FA", 0);
        assert_eq!(flow.backend_sends("FA", 0), NatState::Closing);
        let data = if from_client { flow.client_sends("A", 1) } else { flow.backend_sends("A", 1) };
        assert_eq!(data, NatState::Live);
        assert!(!flow.is_over_after(900));
    }
}

#[test]
fn a_closed_flows_port_is_reused_and_a_syn_opens_it_again() {
    let flow = Connection::new();
    flow.client_sends("FA", 0);
    assert_eq!(flow.backend_sends("FA", 0), NatState::Closing);
    // The last packets still come through, and end nothing and open nothing.
    assert_eq!(flow.client_sends("A", 0), NatState::Closing);
    assert_eq!(flow.client_sends("R", 0), NatState::Closing);
    assert_eq!(flow.backend_sends("FA", 0), NatState::Closing);
    assert!(!flow.is_over_after(NAT_CLOSING_S) && flow.is_over_after(NAT_CLOSING_S + 1));
    flow.wait_s(NAT_CLOSING_S + 1);
    assert_eq!(flow.client_sends("S", 0), NatState::Opening);
    // Whatever closed it.
    for (client, flags) in [(true, "FA"), (false, "FA"), (true, "R")] {
        assert_eq!(flow.client_sends("A", 0), NatState::Live);
        assert_eq!(flow.client_sends("S", 0), NatState::Live, "a SYN that comes again, or is forged");
        let closed = if client { flow.client_sends(flags, 0) } else { flow.backend_sends(flags, 0) };
        assert_ne!(closed, NatState::Live);
        assert_eq!(flow.client_sends("S", 0), NatState::Opening);
    }
    // Nothing but a beginning: refused, it is over at once; and no FIN makes more of it but the client's.
    assert_eq!(flow.backend_sends("FA", 0), NatState::Opening);
    assert_eq!(flow.backend_sends("RA", 0), NatState::Closing);
}

#[test]
fn only_the_clients_next_packet_makes_more_of_a_beginning() {
    let site = site(V4);
    let state = || {
        let mut states = site.tables.nat.iter().map(|row| NatControl(row.control.load()).state());
        states.find(|state| *state != NatState::Free)
    };
    let port = port_of(&site, &site.send_packet(&site.packet(tcp("S", 7, 0))).bytes);
    // A backend answers every beginning of a flood.
    assert_eq!(send_reply(&site, &reply(&site, &tcp("SA", 7, 0), port)).verdict, REPLIED);
    assert_eq!(state(), Some(NatState::Opening));
    site.send_packet(&site.packet(tcp("A", 8, 0)));
    assert_eq!(state(), Some(NatState::Live));
}

#[test]
fn a_reply_that_is_too_big_for_the_clients_side_is_told_to_the_backend() {
    for (family, kind, header) in [(V4, 3, 40), (V6, 2, 60)] {
        let site = site(family);
        let port = port_of(&site, &site.send_packet(&site.packet(tcp("S", 7, 0))).bytes);
        site.way(PORT, super::site::HERE, 1400, crate::abi::egress::Tags::NONE);
        assert_eq!(send_reply(&site, &reply(&site, &tcp("A", 7, 1400 - header), port)).verdict, REPLIED);
        let long = reply(&site, &tcp("A", 7, 1401 - header), port);
        let out = send_reply(&site, &long);
        assert_eq!(out.verdict, Verdict::Transmit(Reason::TooBigReplied));
        let (code, quote) = if kind == 3 { (4, 28) } else { (0, 48) };
        let body = long.bytes()[..quote].to_vec();
        let told = Content::Icmp { kind, code, rest: 1_400, body };
        let told = Packet::new(family.node, family.backend, told);
        let told = Packet { df: false, ..told };
        assert_eq!(out.bytes, frame(OUT_MAC, HOP_MAC, &[], &told.bytes()));
        assert_sound(&out.bytes);
    }
}

#[test]
fn the_way_back_follows_the_client() {
    let mut site = site(V4);
    let port = port_of(&site, &site.send_packet(&site.packet(tcp("S", 7, 0))).bytes);
    let from = |site: &Site, router, node| {
        site.send(&frame(router, node, &[], &site.packet(tcp("A", 8, 0)).bytes()));
        send_reply(site, &reply(site, &tcp("A", 7, 0), port))
    };
    let moved = [2, 0, 0, 0, 8, 8];
    let back = from(&site, moved, NODE_MAC);
    assert_eq!((back.verdict, &back.bytes[..6]), (REPLIED, &moved[..]));
    // Out by another device than the reply's.
    site.way(PORT, super::site::THERE, 1500, crate::abi::egress::Tags::NONE);
    let back = send_reply(&site, &reply(&site, &tcp("A", 7, 0), port));
    assert_eq!(back.verdict, Verdict::Redirect(Reason::NatReply, PORT));
    // In by another device whose router has the same MAC, as leaf switches do.
    let (second, second_row) = (9, 6);
    site.way(PORT, super::site::HERE, 1500, crate::abi::egress::Tags::NONE);
    site.way(second_row, second, 1500, crate::abi::egress::Tags::NONE);
    site.tables.ports.insert(second, second_row);
    site.tables.ingress.set(second);
    assert_eq!(from(&site, moved, NODE_MAC).verdict, REPLIED);
    site.tables.ingress.set(super::site::HERE);
    let back = send_reply(&site, &reply(&site, &tcp("A", 7, 0), port));
    assert_eq!(back.verdict, Verdict::Redirect(Reason::NatReply, second_row));
    // To another MAC of the node's, and nothing else: it came by this device before.
    let ours = [2, 0, 0, 0, 0, 9];
    assert_eq!(from(&site, moved, NODE_MAC).bytes[6..12], NODE_MAC);
    assert_eq!(from(&site, moved, ours).bytes[6..12], ours);
}

#[test]
fn the_way_back_takes_the_devices_new_row_within_a_second() {
    let mut site = site(V4);
    let port = port_of(&site, &site.send_packet(&site.packet(tcp("S", 7, 0))).bytes);
    // The device's MTU changed: a row of its own, and the old one stays until nothing names it.
    let fresh = 6;
    site.way(fresh, super::site::HERE, 9000, crate::abi::egress::Tags::NONE);
    site.tables.ports.insert(super::site::HERE, fresh);
    site.tables.now_ns.set(site.tables.now_ns.get() + 1_000_000_000);
    site.send_packet(&site.packet(tcp("A", 8, 0)));
    assert_eq!(send_reply(&site, &reply(&site, &tcp("A", 7, 5_000), port)).verdict, REPLIED);
}
