//! NAT: towards a backend the destination becomes the backend and the source the node with a port of its own; a reply
//! to that port is turned back. Checksums are changed incrementally, and the packet that an ICMP error quotes is
//! translated with it.
//!
//! The port is the row of the NAT table (see [`crate::abi::nat`]).

use super::bulkhead::{nat_full, port_passed, refuse_port, tenant_of};
use super::connection::alive;
use super::forward::{CUT, Way, hops_left, leave, relink, take_hop};
use super::link::Link;
use super::packet::Packet;
use super::parse::{Content, Parsed};
use super::pipeline::Trail;
use super::tables::Tables;
use super::wire::checksum::Sum;
use super::wire::icmp::Icmp;
use super::wire::ipv4::Ipv4;
use super::wire::ipv6::Ipv6;
use super::wire::transport::{Ports, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM};
use super::{Halt, Verdict};
use crate::abi::backend::{Control, NextHop};
use crate::abi::nat::{NatControl, NatRow, NatState, first_row, port_of, port_pair, ports_word, tags_of};
use crate::addr::{Addr, Mac};
use crate::be::Be16;
use crate::limits::{NAT_PORT_FIRST, NAT_PORTS, NAT_PROBES, NAT_REST_S};
use crate::reason::Reason;

/// What a packet's addresses and ports become.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// New source address.
    pub src: Addr,
    /// New destination address.
    pub dst: Addr,
    /// New source port.
    pub src_port: Be16,
    /// New destination port.
    pub dst_port: Be16,
}

/// Sends a client's packet to its backend; allocates a port for a new flow.
#[inline(never)]
pub(super) fn send<P: Packet, T: Tables>(
    packet: &mut P,
    parsed: &Parsed,
    way: &Way<'_>,
    tables: &T,
    trail: &mut Trail,
) -> Result<(), Halt> {
    let source = tables.source(way.control.source()).ok_or(Halt::drop(Reason::TableInconsistent))?.address();
    let dst = way.row.address();
    let dst_port = if way.control.port().raw() == 0 { parsed.flow.dst_port } else { way.control.port() };
    let udp = parsed.flow.protocol == UDP;
    let first = first_row(&dst, dst_port, udp, tables.nat_rows());
    trail.search.begin(first, way.backend, trail.hash, tables.now_s(), udp, way.idle_s);
    trail.search.tenant = way.row.tenant();
    let port = client_port(packet, parsed, &mut trail.search, tables)?;
    take_hop(packet, parsed)?;
    let mapping = Mapping { src: source, dst, src_port: Be16::new(port), dst_port };
    rewrite(packet, parsed, &mapping).ok_or(CUT)?;
    relink(packet, parsed, &way.link)
}

/// Where to look for a flow's port, and what was found so far. It lies among the packet's notes, since what the search
/// comes to would be as many states to the verifier as there are ways through it (docs/adr/0006). All ports in host
/// order; 0 = none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Search {
    hash: u64,
    /// [`Search::rank`] of `best`.
    best_rank: u64,
    first: u32,
    now_s: u32,
    /// By [`NatState`]: a row without a packet for so long or longer may go to another flow, seconds.
    rest_s: [u32; 8],
    backend: u16,
    /// The flow's port.
    found: u16,
    /// The port that a new flow may have.
    best: u16,
    /// Row of the tenant that the port counts for; 0 = none.
    tenant: u16,
}

/// Ranks of a port for a new flow: the largest wins, and of equals the first. Below them, age counts, seconds.
const RESTED: u64 = 3 << 32;
const FREE: u64 = 2 << 32;
const YIELDS: u64 = 1 << 32;

impl Search {
    #[inline(always)]
    fn begin(&mut self, first: u32, backend: u16, hash: u64, now_s: u32, udp: bool, idle_s: u32) {
        (self.first, self.backend, self.hash, self.now_s) = (first, backend, hash, now_s);
        (self.found, self.best, self.best_rank) = (0, 0, 0);
        self.rest_s = NatState::rest_s(udp, idle_s);
    }
    /// The control word of a row that this flow takes from `old`.
    #[inline(always)]
    const fn control(&self, state: NatState, old: NatControl) -> NatControl {
        NatControl::new(self.backend, state, old.generation().wrapping_add(1), self.now_s)
    }
    /// Claims a row, if it is still as it was.
    #[inline(always)]
    fn claim<T: Tables>(&self, row: &NatRow, old: NatControl, tables: &T) -> bool {
        tables.compare_swap(&row.control, old.0, self.control(NatState::Claimed, old).0)
    }
    /// What a row's port is worth to a new flow; 0 = nothing. One that has rested is the best, a free one is good, and
    /// else the flow that has been opening for longest yields, or that was reset longest ago: what a flood of
    /// beginnings takes, it loses again, and a flow that goes on keeps its port.
    #[inline(always)]
    fn rank<T: Tables>(&self, word: NatControl, tables: &T) -> u64 {
        let age_s = word.age_s(self.now_s);
        if age_s >= self.rest_s[word.state_bits()] || (word.is_flow() && !alive(word.backend(), tables)) {
            return if age_s > NAT_REST_S { RESTED } else { FREE };
        }
        if word.yields() { YIELDS + u64::from(age_s) } else { 0 }
    }
}

/// The NAT port of a client's flow, in host order.
#[inline(always)]
fn client_port<P: Packet, T: Tables>(
    packet: &P,
    parsed: &Parsed,
    search: &mut Search,
    tables: &T,
) -> Result<u16, Halt> {
    find(parsed, search, tables);
    let back = Link::back(packet, parsed.l3).ok_or(CUT)?;
    if search.found == 0 {
        return take(parsed, search, &back, tables);
    }
    let row = tables.nat(search.first + u32::from(search.found)).ok_or(CUT)?;
    // A device gets a fresh egress row when its MTU changes: looked up once a second.
    let due = touch(row, parsed, search.now_s, true, tables);
    if (due || moved(row, parsed, &back, tables))
        && let Some(egress) = tables.port(tables.ingress_ifindex())
    {
        remember_way_back(row, parsed, &back, egress);
    }
    Ok(search.found)
}

/// The `ports` word of a flow with this way back.
#[inline(always)]
fn ports_of(parsed: &Parsed, back: &Link) -> u64 {
    ports_word(parsed.flow.src_port, parsed.flow.dst_port, back.tags)
}

/// Tries the ports that the flow hash allows.
#[inline(never)]
fn find<T: Tables>(parsed: &Parsed, search: &mut Search, tables: &T) {
    for attempt in 0..NAT_PROBES {
        if probe(parsed, search, attempt, tables) {
            break;
        }
    }
}

/// Tries one port; whether the search is over.
#[inline(never)]
fn probe<T: Tables>(parsed: &Parsed, search: &mut Search, attempt: u32, tables: &T) -> bool {
    let port = port_of(search.hash, attempt);
    let Some(row) = tables.nat(search.first + port) else { return true };
    let word = NatControl(row.control.load());
    if word.backend() == search.backend && is_flow(row, word, parsed) {
        search.found = port as u16;
        return true;
    }
    let rank = search.rank(word, tables);
    if rank > search.best_rank {
        (search.best_rank, search.best) = (rank, port as u16);
    }
    false
}

/// Whether a row holds this packet's flow, and held it while it was read. One sum of differences, since every
/// comparison that could end it would be a way of its own to the verifier.
#[inline(always)]
fn is_flow(row: &NatRow, word: NatControl, parsed: &Parsed) -> bool {
    let (client, vip) = (parsed.flow.src.words(), parsed.flow.dst.words());
    let pair = port_pair(parsed.flow.src_port, parsed.flow.dst_port);
    let differs = u64::from(row.ports.load() as u32 ^ pair)
        | (row.client[0].load() ^ client[0])
        | (row.client[1].load() ^ client[1])
        | (row.vip[0].load() ^ vip[0])
        | (row.vip[1].load() ^ vip[1])
        | u64::from(NatControl(row.control.load()).generation() ^ word.generation());
    differs == 0 && word.is_flow()
}

/// Takes a port for a new flow, in host order: the best that the search found.
#[inline(never)]
fn take<T: Tables>(parsed: &Parsed, search: &Search, back: &Link, tables: &T) -> Result<u16, Halt> {
    if !parsed.teaches() {
        return Err(Halt::drop(Reason::IcmpQuote));
    }
    if search.best_rank == 0 {
        return Err(Halt::drop(Reason::NatPorts));
    }
    let row = tables.nat(search.first + u32::from(search.best)).ok_or(CUT)?;
    let egress = tables.port(tables.ingress_ifindex()).ok_or(Halt::drop(Reason::NoNextHop))?;
    // Another CPU may have been quicker: what is in the row now must be worth as much.
    let old = NatControl(row.control.load());
    let from = if old.is_flow() { tenant_of(old.backend(), tables) } else { 0 };
    if from != search.tenant && nat_full(search.tenant, tables) {
        return Err(refuse_port(search.tenant, parsed.length, tables));
    }
    if search.rank(old, tables) < search.best_rank || !search.claim(row, old, tables) {
        return Err(Halt::drop(Reason::NatBusy));
    }
    port_passed(from, search.tenant, tables);
    let (client, vip) = (parsed.flow.src.words(), parsed.flow.dst.words());
    row.client[0].store(client[0]);
    row.client[1].store(client[1]);
    row.vip[0].store(vip[0]);
    row.vip[1].store(vip[1]);
    remember_way_back(row, parsed, back, egress);
    row.control.store(search.control(NatState::Opening, old).0);
    Ok(search.best)
}

/// Whether a client's packet came another way than the one before: by another device, router or tag, or to another
/// MAC. Two devices may well lead to routers of one MAC.
#[inline(always)]
fn moved<T: Tables>(row: &NatRow, parsed: &Parsed, back: &Link, tables: &T) -> bool {
    let hop = NextHop(row.back.load());
    let Some(out) = tables.egress(hop.egress().into()) else { return true };
    let differs = hop.mac().0 ^ back.dst.0
        | row.own_mac.load() ^ back.src.0
        | row.ports.load() ^ ports_of(parsed, back)
        | u64::from(out.ifindex() ^ tables.ingress_ifindex());
    differs != 0
}

/// Where the client's packets come from is where the replies go.
#[inline(always)]
fn remember_way_back(row: &NatRow, parsed: &Parsed, back: &Link, egress: u16) {
    row.ports.store(ports_of(parsed, back));
    row.back.store(NextHop::new(back.dst, egress).0);
    row.own_mac.store(back.src.0);
}

/// Notes a packet of a flow: its time, whether it closes the flow or opens it again. Whether there was something new
/// to note: at least once a second of a flow that goes on.
#[inline(always)]
fn touch<T: Tables>(row: &NatRow, parsed: &Parsed, now_s: u32, from_client: bool, tables: &T) -> bool {
    let old = NatControl(row.control.load());
    if !parsed.teaches() || !old.is_flow() {
        return false;
    }
    let state = after(old.state(), parsed, from_client);
    let news = state != old.state() || old.seen_s() != now_s;
    if news {
        let new = NatControl::new(old.backend(), state, old.generation(), now_s);
        tables.compare_swap(&row.control, old.0, new.0);
    }
    news
}

/// What a packet makes of its flow. Of a flow that goes on, one FIN leaves the other side's half (RFC 9293 section 3.6),
/// and neither FIN nor RST is proof, for anybody can send one in another's name: data takes it back.
#[inline(always)]
fn after(state: NatState, parsed: &Parsed, from_client: bool) -> NatState {
    use NatState::{BackendClosed, ClientClosed, Closing, Live, Opening, Reset};
    let sides = (ClientClosed, BackendClosed);
    let (own, other) = if from_client { sides } else { (sides.1, sides.0) };
    let begins = from_client && parsed.is_syn();
    match state {
        Opening | Closing if parsed.resets() => Closing,
        _ if parsed.closes() && state == other => Closing,
        _ if parsed.resets() => Reset,
        Opening if !from_client => Opening,
        Live if begins => Live,
        _ if begins => Opening,
        Closing | Reset if parsed.closes() => state,
        _ if parsed.closes() => own,
        Opening => Live,
        Closing | Reset if parsed.has_data => Live,
        _ => state,
    }
}

/// What became of a backend's reply.
pub enum Reply {
    /// It is on its way.
    Sent(Verdict),
    /// The way to the client takes `mtu` bytes at most, and the kernel would lose the packet without a word: the backend
    /// is to be told, by the address that it sent to. Not here: this function and that one share a BPF stack.
    TooBig {
        /// Largest IP packet, bytes.
        mtu: u16,
    },
}

/// A packet to one of the node's source addresses: a backend's reply to NAT, or not ours.
#[inline(never)]
pub fn reply<P: Packet, T: Tables>(
    packet: &mut P,
    parsed: &Parsed,
    tables: &T,
    trail: &mut Trail,
) -> Result<Reply, Halt> {
    const NOT_OURS: Halt = Halt::pass(Reason::NoVip);
    let (flow, port) = (&parsed.flow, u32::from(parsed.flow.dst_port.host()));
    if !(NAT_PORT_FIRST..NAT_PORTS).contains(&port) {
        return Err(NOT_OURS);
    }
    let first = first_row(&flow.src, flow.src_port, flow.protocol == UDP, tables.nat_rows());
    let row = tables.nat(first + port).ok_or(NOT_OURS)?;
    let before = NatControl(row.control.load());
    let ports = row.ports.load();
    let vip_port = Be16::from_raw((ports >> 16) as u16);
    if !before.is_flow() || !is_from(before.backend(), parsed, vip_port, tables) {
        return Err(NOT_OURS);
    }
    let back = NextHop(row.back.load());
    let link = Link { dst: back.mac(), src: Mac(row.own_mac.load()), tags: tags_of(ports) };
    let mapping = Mapping {
        src: row.vip_address(),
        dst: row.client_address(),
        src_port: vip_port,
        dst_port: Be16::from_raw(ports as u16),
    };
    touch(row, parsed, tables.now_s(), false, tables);
    let after = NatControl(row.control.load());
    if after.generation() != before.generation() || after.state() == NatState::Claimed {
        return Err(Halt::drop(Reason::NatBusy));
    }
    trail.backend_row = before.backend().into();
    let out = tables.egress(back.egress().into()).ok_or(Halt::drop(Reason::TableInconsistent))?;
    if parsed.ip_length > out.mtu() {
        return Ok(Reply::TooBig { mtu: out.mtu() });
    }
    if hops_left(packet, parsed)? <= 1 {
        return Err(Halt::drop(Reason::HopLimit));
    }
    take_hop(packet, parsed)?;
    rewrite(packet, parsed, &mapping).ok_or(CUT)?;
    relink(packet, parsed, &link)?;
    Ok(Reply::Sent(leave(Reason::NatReply, out.ifindex(), back.egress(), tables)))
}

/// Whether a packet comes from a backend's address and port.
#[inline(always)]
fn is_from<T: Tables>(backend: u16, parsed: &Parsed, vip_port: Be16, tables: &T) -> bool {
    let Some(row) = tables.backend(backend.into()) else { return false };
    let port = Control(row.control.load()).port();
    let port = if port.raw() == 0 { vip_port } else { port };
    row.address() == parsed.flow.src && port == parsed.flow.src_port
}

/// Writes a mapping into the packet, or, for an ICMP error, into what it quotes and the outer addresses.
#[inline(never)]
pub fn rewrite<P: Packet>(packet: &mut P, parsed: &Parsed, mapping: &Mapping) -> Option<()> {
    if parsed.content == Content::Error {
        return rewrite_error(packet, parsed, mapping);
    }
    let flow = &parsed.flow;
    let change = Sum::change()
        .replace_address(&flow.src, &mapping.src)
        .replace_address(&flow.dst, &mapping.dst)
        .replace(flow.src_port.raw(), mapping.src_port.raw())
        .replace(flow.dst_port.raw(), mapping.dst_port.raw());
    rewrite_addresses(packet, parsed.l3, parsed.v4, &mapping.src, &mapping.dst)?;
    *packet.at_mut(parsed.l4)? = Ports { src: mapping.src_port, dst: mapping.dst_port };
    let offset = if flow.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let checksum: &mut Be16 = packet.at_mut(parsed.l4 + offset)?;
    if flow.protocol == UDP {
        // 0 says that there is none, and a sum of 0 is sent as its twin (RFC 768).
        if checksum.raw() != 0 {
            let sum = change.apply(*checksum);
            *checksum = if sum.raw() == 0 { Be16::from_raw(0xffff) } else { sum };
        }
    } else {
        *checksum = change.apply(*checksum);
    }
    Some(())
}

/// Replaces the addresses of an IP header, and an IPv4 header's checksum with them.
#[inline(always)]
fn rewrite_addresses<P: Packet>(packet: &mut P, l3: u16, v4: bool, src: &Addr, dst: &Addr) -> Option<()> {
    if v4 {
        let header: &mut Ipv4 = packet.at_mut(l3)?;
        let change = Sum::change()
            .replace32(header.src.raw(), src.v4_field().raw())
            .replace32(header.dst.raw(), dst.v4_field().raw());
        header.checksum = change.apply(header.checksum);
        (header.src, header.dst) = (src.v4_field(), dst.v4_field());
    } else {
        let header: &mut Ipv6 = packet.at_mut(l3)?;
        (header.src, header.dst) = (src.v6_field(), dst.v6_field());
    }
    Some(())
}

/// An ICMP error about a translated packet. What it quotes travelled the other way: the quoted source is the
/// mapping's destination. The quoted transport checksum is left alone: whoever gets the error looks its ports up and
/// no more. The node (towards a backend) or the vip (towards a client) speaks for whoever reported the error.
#[inline(always)]
fn rewrite_error<P: Packet>(packet: &mut P, parsed: &Parsed, mapping: &Mapping) -> Option<()> {
    let flow = &parsed.flow;
    let inner_before = quoted_checksum(packet, parsed)?;
    rewrite_addresses(packet, parsed.quoted_l3, parsed.v4, &mapping.dst, &mapping.src)?;
    let inner_after = quoted_checksum(packet, parsed)?;
    *packet.at_mut(parsed.quoted_l4)? = Ports { src: mapping.dst_port, dst: mapping.src_port };
    // The tuple is the quoted one turned round: its destination is the quoted source.
    let mut change = Sum::change()
        .replace_address(&flow.dst, &mapping.dst)
        .replace_address(&flow.src, &mapping.src)
        .replace(flow.dst_port.raw(), mapping.dst_port.raw())
        .replace(flow.src_port.raw(), mapping.src_port.raw());
    if parsed.v4 {
        change = change.replace(inner_before, inner_after);
        let header: &mut Ipv4 = packet.at_mut(parsed.l3)?;
        let outer = Sum::change()
            .replace32(header.src.raw(), mapping.src.v4_field().raw())
            .replace32(header.dst.raw(), mapping.dst.v4_field().raw());
        header.checksum = outer.apply(header.checksum);
        (header.src, header.dst) = (mapping.src.v4_field(), mapping.dst.v4_field());
    } else {
        let header: &mut Ipv6 = packet.at_mut(parsed.l3)?;
        // The ICMPv6 checksum covers the outer addresses.
        let (src, dst) = (Addr::v6(&header.src), Addr::v6(&header.dst));
        change = change.replace_address(&src, &mapping.src).replace_address(&dst, &mapping.dst);
        (header.src, header.dst) = (mapping.src.v6_field(), mapping.dst.v6_field());
    }
    let icmp: &mut Icmp = packet.at_mut(parsed.l4)?;
    icmp.checksum = change.apply(icmp.checksum);
    Some(())
}

/// The header checksum of what an ICMPv4 error quotes; 0 for IPv6, which has none.
#[inline(always)]
fn quoted_checksum<P: Packet>(packet: &P, parsed: &Parsed) -> Option<u16> {
    if !parsed.v4 {
        return Some(0);
    }
    Some(packet.at::<Ipv4>(parsed.quoted_l3)?.checksum.raw())
}

#[cfg(test)]
mod tests;
