//! Which backend a new flow gets where its vip asks for more than the flow's slot: by the client's address, by turns,
//! by fewest connections. The slot stays the base of all: every pick is some slot's `current`, or a backend that takes
//! new flows, and whoever cannot be remembered goes where his slot leads.
//!
//! A vip that asks for nothing of this pays one test of a bit. Connections are counted by entries of the flow table:
//! an entry is [`EntryState::Counted`] from its confirmation to its close, its timeout or its end, and whoever wins
//! the compare-and-swap that makes or ends that state changes its backend's count, once.

use super::connection::control;
use super::flow_table::{Flow, Way, Worth, way_at, worth};
use super::parse::Parsed;
use super::pipeline::Trail;
use super::tables::Tables;
use crate::abi::flow::{Entry, EntryState, Trace};
use crate::abi::slot::Slot;
use crate::abi::vip::{Pick, VipRow, extent};
use crate::be::Be16;
use crate::hash::{Tuple, flow_hash, slot_of};
use crate::limits::FLOW_WAYS;

/// How often a packet tries to take its turn before it shares another's: CPUs that meet are few.
const TURN_TRIES: u32 = 4;

/// The hash of a client's address, and of the vip's, so that one client is nobody's for all vips.
#[inline(never)]
pub(super) fn source_hash<T: Tables>(parsed: &Parsed, tables: &T) -> u64 {
    let none = Be16::from_raw(0);
    let Tuple { src, dst, .. } = parsed.flow;
    flow_hash(tables.hash_key(), &Tuple { src, dst, src_port: none, dst_port: none, protocol: 0 })
}

/// The backend of a new flow whose slot gives `current`, by what its vip's policy asks.
#[inline(never)]
pub(super) fn pick<T: Tables>(parsed: &Parsed, flow: &Flow, current: u16, tables: &T, trail: &Trail) -> u16 {
    let Some(vip) = tables.vip(trail.vip_row) else { return current };
    let picked = match flow.policy.pick() {
        Pick::Flow | Pick::Source => 0,
        Pick::Affinity => known_source(&source(parsed, flow, trail, tables), tables),
        Pick::Turn => by_turn(vip, tables),
        Pick::Least => with_fewer(vip, current, flow.hash, tables),
    };
    // A source's entry may name a row that is another vip's by now.
    let control = control(picked, tables);
    if control.takes_new() && u32::from(control.vip_row()) == trail.vip_row { picked } else { current }
}

/// The backend of a slot of the vip's; 0 = none.
#[inline(always)]
fn current_of<T: Tables>(vip: &VipRow, number: impl FnOnce(u32) -> u32, tables: &T) -> u16 {
    let (first, count) = extent(vip.table.load());
    tables.slot(first.wrapping_add(number(count))).map_or(0, |word| Slot(word.load()).current())
}

/// The backend of the slot whose turn it is: the table's order is the order of turns.
#[inline(always)]
fn by_turn<T: Tables>(vip: &VipRow, tables: &T) -> u16 {
    let mut turn = 0;
    for _ in 0..TURN_TRIES {
        turn = vip.turn.load();
        if tables.compare_swap(&vip.turn, turn, turn.wrapping_add(1)) {
            break;
        }
    }
    current_of(vip, |count| if count == 0 { 0 } else { (turn % u64::from(count)) as u32 }, tables)
}

/// Of the backends of two slots the one with fewer connections for its weight (Mitzenmacher, "The Power of Two Choices
/// in Randomized Load Balancing", 2001). Both slots are drawn by weight; the second by the hash's other half.
#[inline(always)]
fn with_fewer<T: Tables>(vip: &VipRow, current: u16, hash: u64, tables: &T) -> u16 {
    let other = current_of(vip, |count| slot_of(hash << 32, count), tables);
    let (connections, weight) = load(current, tables);
    let (other_connections, other_weight) = load(other, tables);
    if other_connections * weight < connections * other_weight { other } else { current }
}

/// Connections and weight of a backend.
#[inline(always)]
fn load<T: Tables>(row: u16, tables: &T) -> (u64, u64) {
    let weight = control(row, tables).weight().max(1);
    let connections = tables.backend(row.into()).map_or(0, |backend| backend.connections.load());
    // An entry may be ended by another CPU before the one that made it has counted it: fewer than none is none.
    let connections = if connections > u64::from(u32::MAX) { 0 } else { connections };
    (connections, weight.into())
}

/// A flow's source address at its vip, as if it were a flow. The slot is that of all vips of the vip's address, the entry is
/// not: each vip has backends of its own, so those that share an address would take it from each other.
#[inline(always)]
fn source<T: Tables>(parsed: &Parsed, flow: &Flow, trail: &Trail, tables: &T) -> Flow {
    // Golden ratio: an odd number, so no two rows give the same bucket, and its upper bits spread tag and way.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let of_vip = (u64::from(trail.vip_row) + 1).wrapping_mul(SPREAD);
    Flow { hash: source_hash(parsed, tables) ^ of_vip, ..*flow }
}

/// The backend that a source address was given last, if that was not too long ago; 0 = none.
#[inline(always)]
fn known_source<T: Tables>(flow: &Flow, tables: &T) -> u16 {
    let Some(way) = place(flow, tables) else { return 0 };
    let known = is_source(way.entry, of_source(flow, 0));
    if known && way.trace().age_s(flow.now_s) < flow.policy.affinity_s() { way.entry.backend() } else { 0 }
}

/// Notes which backend a source address has, from now on; unless its place holds a live connection. Returns the entry that
/// it took the place of, which may be free.
#[inline(never)]
pub(super) fn learn<T: Tables>(
    parsed: &Parsed,
    flow: &Flow,
    backend: u16,
    tables: &T,
    trail: &Trail,
) -> Entry {
    let flow = source(parsed, flow, trail, tables);
    let Some(way) = place(&flow, tables) else { return Entry::default() };
    let (age_s, alive) = (way.trace().age_s(flow.now_s), control(way.entry.backend(), tables).alive());
    let new = age_s != 0 || way.entry != of_source(&flow, backend);
    let wanted = new && worth(way.entry, age_s, flow.policy, alive) < Worth::Keep;
    if wanted && way.replace(of_source(&flow, backend), Trace::new(flow.now_s, 0), tables) {
        return way.entry;
    }
    Entry::default()
}

/// The place of a source address: one way of its bucket. A search through all of them would cost more than a client that
/// now and then finds its place taken, and goes where its slot leads.
#[inline(always)]
fn place<'t, T: Tables>(flow: &Flow, tables: &'t T) -> Option<Way<'t>> {
    let bucket = tables.flows(flow.bucket(tables.flow_mask()))?;
    way_at(bucket, (flow.hash >> 60) as usize & (FLOW_WAYS - 1))
}

#[inline(always)]
const fn of_source(flow: &Flow, backend: u16) -> Entry {
    Entry::new(flow.hash, flow.slot, backend, EntryState::Affinity)
}

#[inline(always)]
const fn is_source(entry: Entry, wanted: Entry) -> bool {
    matches!(entry.state(), EntryState::Affinity) && entry.same_flow(wanted)
}

/// An entry was replaced by another, and one of them is counted.
#[inline(never)]
pub(super) fn recount<T: Tables>(old: Entry, new: Entry, tables: &T) {
    for (entry, change) in [(old, -1), (new, 1)] {
        if let Some(backend) = tables.backend(entry.backend().into()).filter(|_| entry.is_counted()) {
            tables.add(&backend.connections, change);
        }
    }
}
