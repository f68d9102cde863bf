//! Golden frames: input and expected output both built by etherparse, run through the host's path and, as root, through
//! the program in the kernel. One case for each protocol, encapsulation and ICMP answer, byte for byte.
//!
//! The expectation comes from the RFCs by way of `shape`, not from the path: what the differential test cannot see, that
//! host and kernel are wrong together, is seen here.

#[path = "../../lb-common/src/datapath/tests/shape.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use more of it")]
mod shape;

use lb_common::abi::backend::{Control, Mode, NextHop};
use lb_common::abi::egress::{EgressRow, Tags};
use lb_common::abi::slot::Slot;
use lb_common::abi::vip::{Policy, Tracking, VipEntry, VipKey, VipRow, extent_word};
use lb_common::abi::word::Word;
use lb_common::addr::{Addr, Mac};
use lb_common::be::Be16;
use lb_common::datapath::connection::MovedOnly;
use lb_common::datapath::host::{HostFrame, HostTables};
use lb_common::datapath::pipeline::{self, Walk};
use lb_common::datapath::{Verdict, decap};
use lb_common::hash::HashKey;
use lb_common::reason::Reason;
use lb_tests::differential::kernel::{self, Kernel};
use lb_tests::differential::script::Program;
use lb_tests::differential::world::{INGRESS, World};
use lb_tests::skip;
use shape::{Content, Packet, frame};
use std::net::IpAddr;

const CLIENT: [u8; 6] = [2, 0, 0, 0, 9, 9];
const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUT: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOP: [u8; 6] = [2, 0, 0, 0, 7, 7];

/// Client, vip, backend and node of each family.
const V4: [&str; 4] = ["198.51.100.7", "203.0.113.10", "10.0.0.2", "192.0.2.1"];
const V6: [&str; 4] = ["2001:db8:c::7", "2001:db8:1::10", "fd00::2", "fd00::1"];

/// A port of a vip for each way to a backend: mode and the backend's family.
const WAYS: [(u16, Mode, [&str; 4]); 5] = [
    (80, Mode::L2, V4),
    (81, Mode::Ipip, V4),
    (82, Mode::Ipip, V6),
    (83, Mode::Nat, V4),
    (84, Mode::Nat, V6),
];

/// The port of a vip that nobody serves.
const UNSERVED: u16 = 85;

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn store(words: &[Word; 2], addr: Addr) {
    words.iter().zip(addr.words()).for_each(|(word, value)| word.store(value));
}

/// A TCP and a UDP vip on each port of [`WAYS`], in each family, with one backend each; one link with two tags.
fn tables() -> HostTables {
    let mut tables = HostTables::new(HashKey([5, 6]), 32, 16);
    tables.ingress.set(INGRESS);
    tables.ports.insert(INGRESS, 2);
    for (row, ifindex, tags) in [(1, 7, Tags::two(7, 0x2009)), (2, INGRESS, Tags::NONE)] {
        tables.egresses[row].source_mac.store(Mac::from_octets(OUT).0);
        tables.egresses[row].device.store(EgressRow::device_word(ifindex, 1500));
        tables.egresses[row].tags.store(tags.0);
    }
    for (number, [_, vip, _, node]) in [V4, V6].into_iter().enumerate() {
        store(&tables.sources[number].addr, addr(node));
        tables.insert_key(&VipKey::mark(addr(node)), VipEntry(VipEntry::SOURCE | number as u32));
        tables.insert_key(&VipKey::mark(addr(vip)), VipEntry(VipEntry::ADDRESS));
        tables.decap_peers.insert(addr(node).0);
        tables.decap_vips.insert(addr(vip).0);
    }
    let mut row = 0;
    for family in [V4, V6] {
        for protocol in [6, 17] {
            row += 1;
            vip(&mut tables, row, family, (UNSERVED, protocol), (Mode::L2, family));
            tables.slots[usize::from(row)].store(0);
            tables.vips[usize::from(row)].unserved.store(VipRow::REFUSED);
        }
        for (port, mode, backend) in WAYS {
            for protocol in [6, 17] {
                if mode != Mode::Nat || backend == family {
                    row += 1;
                    vip(&mut tables, row, family, (port, protocol), (mode, backend));
                }
            }
        }
    }
    tables
}

fn vip(
    tables: &mut HostTables,
    row: u16,
    family: [&str; 4],
    (port, protocol): (u16, u8),
    (mode, backend): (Mode, [&str; 4]),
) {
    let key = VipKey::new(addr(family[1]), Be16::new(port), protocol);
    tables.insert_key(&key, VipEntry(row.into()));
    let stored = &tables.vips[usize::from(row)];
    store(&stored.addr, key.addr);
    stored.key.store(VipRow::key_word(key.port, protocol));
    stored.table.store(extent_word(row.into(), 1));
    stored.policy.store(Policy::new(Tracking::Auto, false, false, 900).0);
    tables.slots[usize::from(row)].store(Slot::stable(row).0);
    let stored = &tables.backends[usize::from(row)];
    let source = u8::from(backend == V6);
    stored.control.store(Control::new(3, mode, source, row, Be16::new(0)).0);
    store(&stored.addr, addr(backend[2]));
    stored.next_hop.store(NextHop::new(Mac::from_octets(HOP), 1).0);
}

/// A case: the program, what goes in, what must come out, and why.
struct Case {
    name: String,
    program: Program,
    input: Vec<u8>,
    verdict: Verdict,
    output: Vec<u8>,
}

const FORWARDED: Verdict = Verdict::Redirect(Reason::Forwarded, 1);

fn from_client(packet: &Packet) -> Vec<u8> {
    frame(CLIENT, NODE, &[0x0100], &packet.bytes())
}

fn to_client(packet: &Packet) -> Vec<u8> {
    frame(NODE, CLIENT, &[0x0100], &packet.bytes())
}

fn to_backend(packet: &Packet) -> Vec<u8> {
    frame(OUT, HOP, &[7, 0x2009], &packet.bytes())
}

fn contents(port: u16) -> [Content; 2] {
    [
        Content::Tcp { ports: (40_001, port), sequence: 77, flags: "A", data: b"GET / HTTP/1.1".to_vec() },
        Content::Udp { ports: (40_002, port), checksum: true, data: b"question".to_vec() },
    ]
}

/// Everything that needs no state: direct return, tunnels, answers, decapsulation.
fn stateless() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in [V4, V6] {
        for (port, mode, backend) in WAYS.into_iter().filter(|(_, mode, _)| *mode != Mode::Nat) {
            for content in contents(port) {
                let packet = Packet { class: 0x2d, ..Packet::new(family[0], family[1], content) };
                let on = Packet { hops: 63, ..packet.clone() };
                let output = if mode == Mode::L2 { to_backend(&on) } else { to_backend(&wrap(&on, backend)) };
                let (name, input) = (format!("{mode:?} {packet:?}"), from_client(&packet));
                cases.push(Case { name, program: Program::Balance, input, verdict: FORWARDED, output });
                if mode == Mode::Ipip {
                    cases.push(unwrapped(&wrap(&on, backend), &on));
                }
            }
        }
        cases.extend(answers(family));
    }
    cases
}

/// The packet in a tunnel (RFC 2003, RFC 2473). The flow label is compared apart: it is the flow's hash.
fn wrap(inner: &Packet, tunnel: [&str; 4]) -> Packet {
    let protocol = if inner.src.is_ipv4() { 4 } else { 41 };
    let outer = Packet::new(tunnel[3], tunnel[2], Content::Raw { protocol, bytes: inner.bytes() });
    Packet { class: inner.class, ..outer }
}

fn unwrapped(outer: &Packet, inner: &Packet) -> Case {
    Case {
        name: format!("decap {outer:?}"),
        program: Program::Decap,
        input: frame(OUT, HOP, &[3], &outer.bytes()),
        verdict: Verdict::Pass(Reason::DecapUnwrapped),
        output: frame(OUT, HOP, &[3], &inner.bytes()),
    }
}

/// Echo, too big, hop limit (RFC 792, RFC 4443), and what is told while nobody serves (RFC 9293 section 3.10.7.1).
fn answers(family: [&str; 4]) -> Vec<Case> {
    let v4 = family == V4;
    let [client, vip, ..] = family;
    let answer = |content| Packet { df: false, ..Packet::new(vip, client, content) };
    let error = |about: &Packet, kind, code, rest| {
        let body = about.bytes()[..if v4 { 28 } else { 48 }].to_vec();
        answer(Content::Icmp { kind, code, rest, body })
    };
    let echo = |kind| Content::Icmp { kind, code: 0, rest: 0x00aa_0001, body: b"abcdefgh".to_vec() };
    let request = Packet::new(client, vip, echo(if v4 { 8 } else { 128 }));
    let echoed = Packet { df: true, ..answer(echo(if v4 { 0 } else { 129 })) };
    let [segment, _] = contents(81);
    let last_hop = Packet { hops: 1, ..Packet::new(client, vip, segment) };
    let time = error(&last_hop, if v4 { 11 } else { 3 }, 0, 0);
    let long = Content::Tcp { ports: (40_001, 81), sequence: 1, flags: "A", data: vec![b'l'; 1_450] };
    let long = Packet::new(client, vip, long);
    let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
    let too_big = error(&long, kind, code, 1_480);
    let case = |name: &str, packet: &Packet, reason, answer: &Packet| Case {
        name: format!("{name} {client}"),
        program: Program::Balance,
        input: from_client(packet),
        verdict: Verdict::Transmit(reason),
        output: to_client(answer),
    };
    let [_, datagram] = contents(UNSERVED).map(|content| Packet::new(client, vip, content));
    let syn = Content::Tcp { ports: (40_001, UNSERVED), sequence: u32::MAX, flags: "S", data: Vec::new() };
    let syn = Packet::new(client, vip, syn);
    let reset = answer(Content::Reset { ports: (UNSERVED, 40_001), acknowledgement: 0 });
    let (kind, code) = if v4 { (3, 3) } else { (1, 4) };
    let unreachable = error(&datagram, kind, code, 0);
    vec![
        case("refused", &syn, Reason::ResetReplied, &reset),
        case("port unreachable", &datagram, Reason::UnreachableReplied, &unreachable),
        case("echo", &request, Reason::EchoReplied, &echoed),
        case("hop limit", &last_hop, Reason::HopLimitReplied, &time),
        case("too big", &long, Reason::TooBigReplied, &too_big),
    ]
}

/// Host and, where it can be had, kernel.
struct Both {
    tables: HostTables,
    kernel: Option<Kernel>,
}

impl Both {
    fn new() -> Self {
        let world = World { tables: tables(), ..World::new(&mut fastrand::Rng::with_seed(1)) };
        let root = skip::obstacle(&[]).is_none() && kernel::object_path().is_file();
        let kernel = root.then(|| Kernel::load(&world).unwrap());
        Self { tables: world.tables, kernel }
    }
    fn run(&mut self, program: Program, input: &[u8]) -> (Verdict, Vec<u8>) {
        let (mut packet, mut walk) = (HostFrame::new(input), Walk::default());
        let verdict = match program {
            Program::Balance => pipeline::run::<_, _, MovedOnly>(&mut packet, &self.tables, &mut walk),
            Program::Decap => decap::run(&mut packet, &self.tables, &mut walk.parsed),
        };
        let bytes = packet.bytes().to_vec();
        if let Some(kernel) = &mut self.kernel {
            let found = kernel.run(program, input, 0).unwrap();
            assert_eq!(found.bytes, bytes, "host and kernel differ");
        }
        (verdict, bytes)
    }
}

/// Takes the flow label of an outer IPv6 header behind two tags out of a frame: it is the flow's hash.
fn without_label(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes[20..22] == [0x86, 0xdd] {
        bytes[23] &= 0xf0;
        bytes[24..26].fill(0);
    }
    bytes
}

#[test]
fn what_needs_no_state_is_golden() {
    let mut both = Both::new();
    let cases = stateless();
    assert_eq!(cases.len(), 2 * (3 * 2 + 2 * 2 + 5));
    for case in cases {
        let (verdict, bytes) = both.run(case.program, &case.input);
        assert_eq!(verdict, case.verdict, "{}", case.name);
        assert_eq!(without_label(bytes), without_label(case.output), "{}", case.name);
    }
}

#[test]
fn nat_is_golden_there_and_back_and_in_its_errors() {
    let mut both = Both::new();
    for (family, way) in [(V4, 83), (V6, 84)] {
        let [client, vip, backend, node] = family;
        for content in contents(way) {
            let ported = |ports| match content.clone() {
                Content::Tcp { sequence, flags, data, .. } => Content::Tcp { ports, sequence, flags, data },
                _ => Content::Udp { ports, checksum: true, data: b"question".to_vec() },
            };
            let own = if matches!(content, Content::Tcp { .. }) { 40_001 } else { 40_002 };
            let packet = Packet::new(client, vip, content.clone());
            let (verdict, bytes) = both.run(Program::Balance, &from_client(&packet));
            let l4 = 22 + if family == V4 { 20 } else { 40 };
            let port = u16::from_be_bytes([bytes[l4], bytes[l4 + 1]]);
            let there = Packet { hops: 63, ..Packet::new(node, backend, ported((port, way))) };
            assert_eq!((verdict, &bytes), (FORWARDED, &to_backend(&there)));

            let reply = Packet::new(backend, node, ported((way, port)));
            let back = Packet { hops: 63, ..Packet::new(vip, client, ported((way, own))) };
            let found = both.run(Program::Balance, &frame(HOP, OUT, &[7, 9], &reply.bytes()));
            assert_eq!(found, (Verdict::Transmit(Reason::NatReply), to_client(&back)));

            // A router reports that what the vip sent was too big: the backend must hear it about what it sent.
            let about = |packet: &Packet| Content::Icmp {
                kind: if family == V4 { 3 } else { 2 },
                code: if family == V4 { 4 } else { 0 },
                rest: 1_400,
                body: quote(packet, &Packet::new(vip, client, ported((way, own)))),
            };
            let router = if family == V4 { "198.18.0.1" } else { "2001:db8:ffff::1" };
            let seen = Packet::new(vip, client, ported((way, own)));
            let error = Packet::new(router, vip, about(&seen));
            let found = both.run(Program::Balance, &from_client(&error));
            let told = Packet { hops: 63, ..Packet::new(node, backend, about(&reply)) };
            let forwarded = Verdict::Redirect(Reason::IcmpErrorForwarded, 1);
            assert_eq!(found, (forwarded, to_backend(&told)));
        }
    }
    if both.kernel.is_none() {
        skip::report_skip("nat_is_golden (in the kernel)", "needs root and the BPF object");
    }
}

/// What an ICMP error quotes of a packet: up to 8 bytes of the transport header, so that no checksum of it is seen; of
/// UDP's those 8 bytes have one, which is left as the wire had it.
fn quote(packet: &Packet, on_the_wire: &Packet) -> Vec<u8> {
    let l4 = if packet.src.is_ipv4() { 20 } else { 40 };
    let mut bytes = packet.bytes()[..l4 + 8].to_vec();
    if matches!(packet.content, Content::Udp { .. }) {
        bytes[l4 + 6..].copy_from_slice(&on_the_wire.bytes()[l4 + 6..l4 + 8]);
    }
    bytes
}
