//! What is sent: connections that begin, go on and end, replies of NAT backends, ICMP about them, tunnels, and what is
//! none of the balancer's business. What the path sent on is fed back, so that replies meet the flows that it made.

use super::mutate::{mutate, pick};
use super::packets::{ICMP, ICMPV6, IPIP, IPV6_IN_IP, Ip, Link, Sketch, TCP, UDP};
use super::packets::{frame, icmp, tcp, udp};
use super::world::{Vip, World, v4, v6};
use fastrand::Rng;
use lb_common::abi::mark::Mark;
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::hash::{Tuple, flow_hash};
use std::collections::VecDeque;

/// Connections that are played at a time.
const CONNECTIONS: usize = 400;
/// Frames to backends by NAT that are remembered for replies.
const TRANSLATED: usize = 64;
/// TCP flags.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Which program a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The node's.
    Balance,
    /// The backend's.
    Decap,
}

#[derive(Clone, Debug)]
struct Connection {
    vip: Vip,
    client: Addr,
    ports: (u16, u16),
    isn: u32,
    sent: u32,
    begun: bool,
    link: Link,
}

/// The state of what is played.
#[derive(Default)]
pub struct Script {
    connections: Vec<Connection>,
    translated: VecDeque<Vec<u8>>,
}

impl Script {
    /// The next frame, and the program that it is for.
    pub fn next(&mut self, world: &World, rng: &mut Rng) -> (Program, Sketch) {
        let (program, mut sketch) = match rng.u8(0..100) {
            0..54 => (Program::Balance, self.segment(world, rng)),
            54..62 => (Program::Balance, self.reply(world, rng)),
            62..68 => (Program::Balance, self.error_to_client_side(world, rng)),
            68..72 => (Program::Balance, self.error_of_backend_side(world, rng)),
            72..75 => (Program::Balance, echo(world, rng)),
            75..80 => (Program::Balance, foreign(world, rng)),
            _ => (Program::Decap, tunnel(world, rng)),
        };
        if rng.u8(0..100) < 22 {
            for _ in 0..rng.u8(1..3) {
                mutate(&mut sketch, rng);
            }
        }
        (program, sketch)
    }

    /// What the path sent to a backend.
    pub fn forwarded(&mut self, bytes: &[u8]) {
        if self.translated.len() == TRANSLATED {
            self.translated.pop_front();
        }
        self.translated.push_back(bytes.to_vec());
    }

    fn connection(&mut self, world: &World, rng: &mut Rng) -> &mut Connection {
        if self.connections.len() < CONNECTIONS {
            self.connections.push(connection(world, rng));
            return self.connections.last_mut().expect("just pushed");
        }
        let at = rng.usize(0..self.connections.len());
        if rng.u8(0..60) == 0 {
            self.connections[at] = connection(world, rng);
        }
        &mut self.connections[at]
    }

    /// A packet of a connection, as its client or a forger would send it.
    fn segment(&mut self, world: &World, rng: &mut Rng) -> Sketch {
        let connection = self.connection(world, rng);
        let data = size(rng);
        let payload = if connection.vip.protocol == TCP {
            let next = connection.isn.wrapping_add(1).wrapping_add(connection.sent);
            let (flags, sequence) = match rng.u8(0..24) {
                _ if !connection.begun => (SYN, connection.isn),
                0 => (SYN, connection.isn),
                1 => (SYN, rng.u32(..)),
                2 => (FIN | ACK, next),
                3 => (RST, next),
                4 => (ACK, rng.u32(..)),
                5 => (SYN | ACK, next),
                6 => {
                    // The client begins anew from the same port.
                    (connection.isn, connection.sent) = (rng.u32(..), 0);
                    (SYN, connection.isn)
                }
                _ => (ACK, next),
            };
            connection.sent = connection.sent.wrapping_add(data as u32);
            tcp(connection.ports, sequence, flags, rng.u8(0..4), data, rng.u32(..))
        } else {
            udp(connection.ports, data, rng.u32(..))
        };
        connection.begun = true;
        let ip = dress(Ip::new(connection.client, connection.vip.address), rng);
        frame(&connection.link, &ip, connection.vip.protocol, &payload)
    }

    /// A NAT backend's answer to something that was sent to it: that frame turned round.
    fn reply(&mut self, world: &World, rng: &mut Rng) -> Sketch {
        let turned = self.translated.get(rng.usize(0..TRANSLATED)).and_then(|sent| turn(sent));
        let Some((link, mut ip, protocol, ports)) = turned else { return self.segment(world, rng) };
        (ip.hops, ip.class) = (*pick(&[64, 64, 64, 2, 1, 0], rng), rng.u8(..));
        let ports = if rng.u8(0..20) == 0 { (rng.u16(..), rng.u16(..)) } else { ports };
        let flags = *pick(&[SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST], rng);
        let payload = match protocol {
            TCP => tcp(ports, rng.u32(..), flags, rng.u8(0..4), size(rng), rng.u32(..)),
            _ => udp(ports, size(rng), rng.u32(..)),
        };
        frame(&link, &ip, protocol, &payload)
    }

    /// Somebody between the vip and the client reports an error about what a backend sent as the vip.
    fn error_to_client_side(&mut self, world: &World, rng: &mut Rng) -> Sketch {
        let connection = self.connection(world, rng).clone();
        let ports = (connection.ports.1, connection.ports.0);
        let protocol = connection.vip.protocol;
        let payload = match protocol {
            TCP => tcp(ports, rng.u32(..), ACK, 0, 8, rng.u32(..)),
            _ => udp(ports, 20, rng.u32(..)),
        };
        let mut quoted = Ip::new(connection.vip.address, connection.client);
        quoted.options = if rng.u8(0..8) == 0 { rng.u8(0..5) } else { 0 };
        let reporter = if rng.bool() { connection.client } else { stranger(&connection.client, rng) };
        let ip = dress(Ip::new(reporter, connection.vip.address), rng);
        error(&connection.link, &ip, &quoted.packet(protocol, &payload), rng)
    }

    /// Somebody between the node and a NAT backend reports an error about what the node sent.
    fn error_of_backend_side(&mut self, world: &World, rng: &mut Rng) -> Sketch {
        let sent = self.translated.get(rng.usize(0..TRANSLATED)).cloned();
        let Some((sent, (link, ip, ..))) = sent.and_then(|sent| turn(&sent).map(|turned| (sent, turned)))
        else {
            return self.error_to_client_side(world, rng);
        };
        let l3 = 14 + 4 * link.tags.len();
        let reporter = if rng.bool() { ip.src } else { stranger(&ip.src, rng) };
        error(&link, &dress(Ip::new(reporter, ip.dst), rng), &sent[l3..sent.len().min(l3 + 80)], rng)
    }
}

fn connection(world: &World, rng: &mut Rng) -> Connection {
    let vip = *pick(&world.vips, rng);
    let client = client(vip.address.is_v4(), rng);
    // Now and then a port that has a key of its own, or none.
    let port = if vip.port == 0 { rng.u16(1..) } else { vip.port };
    let port = if rng.u8(0..30) == 0 { *pick(&[7001, 7002, 7003, 9], rng) } else { port };
    let tags = (0..*pick(&[0, 0, 0, 1, 2], rng)).map(|n| (if n == 0 { 0x88a8 } else { 0x8100 }, rng.u16(..)));
    let tags = tags.collect();
    let mut link = Link { dst: [2, 0, 0, 0, 0, 1], src: [2, 0, 0, 9, rng.u8(..), 7], tags };
    if let [(tpid, _)] = &mut link.tags[..] {
        *tpid = *pick(&[0x8100, 0x88a8], rng);
    }
    let mut ports = (rng.u16(1..), port);
    if rng.u8(0..4) == 0 {
        // One whose SYNs leave marks.
        ports.0 = (ports.0..=u16::MAX)
            .find(|from| is_sampled(world, client, &vip, (*from, port)))
            .unwrap_or(ports.0);
    }
    let isn = rng.u32(..);
    Connection { vip, client, ports, isn, sent: 0, begun: rng.u8(0..4) == 0, link }
}

/// Whether a flow is one of those whose SYNs leave marks.
fn is_sampled(world: &World, client: Addr, vip: &Vip, ports: (u16, u16)) -> bool {
    let (src_port, dst_port) = (Be16::new(ports.0), Be16::new(ports.1));
    let tuple = Tuple { src: client, dst: vip.address, src_port, dst_port, protocol: vip.protocol };
    Mark::place(flow_hash(world.tables.key, &tuple)).is_some()
}

fn client(is_v4: bool, rng: &mut Rng) -> Addr {
    if is_v4 { v4(198, 51, 100, rng.u8(..)) } else { v6(0x2222, rng.u16(..)) }
}

/// Anyone of the same family; now and then somebody who must not be answered.
fn stranger(like: &Addr, rng: &mut Rng) -> Addr {
    match (rng.u8(0..12), like.is_v4()) {
        (0, true) => v4(*pick(&[0, 127, 224, 255], rng), 0, 0, 1),
        (0, false) => "ff02::1".parse::<std::net::IpAddr>().map_or(*like, Addr::from),
        (_, is_v4) => client(is_v4, rng),
    }
}

/// Bytes of data: mostly few, some around what fits a way, some far beyond, even more than a page holds.
fn size(rng: &mut Rng) -> usize {
    match rng.u8(0..64) {
        0..4 => rng.usize(200..320),
        4..8 => rng.usize(1_300..1_500),
        8..12 => rng.usize(0..3_200),
        12 => rng.usize(3_200..9_000),
        _ => rng.usize(0..40),
    }
}

/// Gives a packet what packets have beyond the plain header.
fn dress(mut ip: Ip, rng: &mut Rng) -> Ip {
    ip.class = rng.u8(..);
    ip.hops = if rng.u8(0..16) == 0 { rng.u8(0..3) } else { rng.u8(2..) };
    ip.fragment = *pick(&[0x4000, 0x4000, 0x4000, 0], rng);
    ip.options = if rng.u8(0..10) == 0 { rng.u8(0..11) } else { 0 };
    if rng.u8(0..8) == 0 {
        let kinds = [0, 43, 60, 60, 44];
        let header =
            |rng: &mut Rng| (*pick(&kinds[..if rng.u8(0..6) == 0 { 5 } else { 4 }], rng), 8 * rng.u16(1..5));
        ip.extensions = (0..rng.u8(0..9)).map(|_| header(rng)).collect();
    }
    ip
}

/// An ICMP error that quotes a packet.
fn error(link: &Link, ip: &Ip, quoted: &[u8], rng: &mut Rng) -> Sketch {
    let v4 = ip.dst.is_v4();
    let kind = if v4 { *pick(&[3, 3, 11, 12, 4, 5], rng) } else { *pick(&[1, 2, 2, 3, 4, 5], rng) };
    let shortest = (if v4 { 28 } else { 48 }).min(quoted.len());
    let cut = if rng.u8(0..12) == 0 { rng.usize(0..=shortest) } else { quoted.len() };
    let message = icmp(kind, rng.u8(0..5), 1_400, &quoted[..cut], rng.u32(..));
    frame(link, ip, if v4 { ICMP } else { ICMPV6 }, &message)
}

fn echo(world: &World, rng: &mut Rng) -> Sketch {
    let vip = pick(&world.vips, rng).address;
    let to = if rng.u8(0..6) == 0 { world.sources[usize::from(!vip.is_v4())] } else { vip };
    let ip = dress(Ip::new(stranger(&to, rng), to), rng);
    let kind =
        if to.is_v4() { *pick(&[8, 8, 8, 0, 13], rng) } else { *pick(&[128, 128, 128, 129, 135], rng) };
    let message = icmp(kind, 0, rng.u32(..), &vec![3; rng.usize(0..64)], rng.u32(..));
    frame(&plain(), &ip, if to.is_v4() { ICMP } else { ICMPV6 }, &message)
}

/// What is none of the balancer's business.
fn foreign(world: &World, rng: &mut Rng) -> Sketch {
    let is_v4 = rng.bool();
    let elsewhere = if is_v4 { v4(192, 0, 2, rng.u8(..)) } else { v6(0xffff, rng.u16(..)) };
    let to = if rng.bool() { elsewhere } else { pick(&world.vips, rng).address };
    let mut ip = dress(Ip::new(client(to.is_v4(), rng), to), rng);
    let payload = tcp((rng.u16(..), *pick(&[22, 81, 54], rng)), rng.u32(..), SYN, 0, 0, rng.u32(..));
    match rng.u8(0..5) {
        0 => {
            let mut sketch = frame(&plain(), &ip, TCP, &payload);
            sketch.bytes[12..14].copy_from_slice(&[0x08, 0x06]);
            sketch
        }
        1 => frame(&plain(), &ip, *pick(&[2, 47, 50, 89, 132], rng), &payload),
        2 => {
            ip.fragment = *pick(&[0x2000, 0x0001, 0x1fff], rng);
            ip.extensions = vec![(44, 8)];
            frame(&plain(), &ip, TCP, &payload)
        }
        3 => frame(&Link { dst: [0x33, 0x33, 0, 0, 0, 1], ..plain() }, &ip, UDP, &payload),
        _ => frame(&plain(), &ip, TCP, &payload),
    }
}

/// A packet in a packet, as a balancer sends it to a backend, or somebody who is none.
fn tunnel(world: &World, rng: &mut Rng) -> Sketch {
    let vip = *pick(&world.vips, rng);
    let to = if rng.u8(0..8) == 0 { client(vip.address.is_v4(), rng) } else { vip.address };
    let mut inner = dress(Ip::new(client(to.is_v4(), rng), to), rng);
    inner.class = *pick(&[0, 1, 2, 3, 0xb8], rng);
    let segment = tcp((rng.u16(..), 80), rng.u32(..), ACK, 0, size(rng).min(1_400), rng.u32(..));
    let mut packet = inner.packet(*pick(&[TCP, TCP, TCP, UDP, IPIP, IPV6_IN_IP], rng), &segment);
    if rng.u8(0..10) == 0 {
        packet[0] = rng.u8(..);
    }
    let peer = *pick(&world.peers, rng);
    let src = if rng.u8(0..8) == 0 { client(peer.is_v4(), rng) } else { peer };
    let dst = if src.is_v4() { v4(10, 1, 1, 1) } else { v6(0x101, 1) };
    let mut outer = dress(Ip::new(src, dst), rng);
    outer.class = *pick(&[0, 1, 2, 3, 3, 0xbb], rng);
    let right = if to.is_v4() { IPIP } else { IPV6_IN_IP };
    let protocol = if rng.u8(0..10) == 0 { *pick(&[IPIP, IPV6_IN_IP, TCP, UDP], rng) } else { right };
    let tags = (0..*pick(&[0, 0, 1, 2], rng)).map(|_| (0x8100, rng.u16(..))).collect();
    frame(&Link { tags, ..plain() }, &outer, protocol, &packet)
}

fn plain() -> Link {
    Link { dst: [2, 0, 0, 0, 0, 1], src: [2, 0, 0, 9, 1, 1], tags: Vec::new() }
}

/// The link, addresses, protocol and ports of an answer to a frame of TCP or UDP.
fn turn(sent: &[u8]) -> Option<(Link, Ip, u8, (u16, u16))> {
    let unit = |at: usize| sent.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut link =
        Link { dst: sent.get(6..12)?.try_into().ok()?, src: sent[..6].try_into().ok()?, tags: Vec::new() };
    let mut l3 = 14;
    while let Some(tpid @ (0x8100 | 0x88a8)) = unit(l3 - 2) {
        link.tags.push((tpid, unit(l3)?));
        l3 += 4;
    }
    let is_v4 = unit(l3 - 2)? == 0x0800;
    let (protocol, l4, at) = if is_v4 {
        (*sent.get(l3 + 9)?, l3 + 4 * usize::from(sent[l3] & 15), l3 + 12)
    } else {
        (*sent.get(l3 + 6)?, l3 + 40, l3 + 8)
    };
    let length = if is_v4 { 4 } else { 16 };
    let address = |at: usize| {
        let bytes = sent.get(at..at + length)?;
        let ip: std::net::IpAddr = match length {
            4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
            _ => <[u8; 16]>::try_from(bytes).ok()?.into(),
        };
        Some(Addr::from(ip))
    };
    let ip = Ip::new(address(at + length)?, address(at)?);
    matches!(protocol, TCP | UDP).then_some((link, ip, protocol, (unit(l4 + 2)?, unit(l4)?)))
}
