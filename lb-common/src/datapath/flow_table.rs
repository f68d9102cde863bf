//! The flow table's two operations: find a flow's backend, and remember it.
//!
//! Rules, each found by breaking the simpler form:
//! - an entry to a dead backend is a miss;
//! - an entry made by a SYN counts only for packets whose sequence number fits that SYN, until one confirms it;
//!   every other packet is an older connection's, so a forged SYN cannot steal a live one;
//! - but a reset that acknowledges nothing goes where the last SYN went, and confirms nothing: whoever sends it knows of no
//!   older connection, and answers what came from there. A backend that still has a connection of that tuple (it hung, its
//!   flows went elsewhere, and it is back) acknowledges that instead of the SYN, and only this reset rids it of it
//!   (RFC 9293 section 3.10.7.3, RFC 5961 section 4);
//! - a SYN that meets an entry whose backend takes no new flows gets a second, unconfirmed entry to `current`;
//! - what is cheap to make again goes first: expired, probationary, unconfirmed, closing; a confirmed entry stays
//!   until it is idle for its vip's time, so no flood can push it out.

use super::bulkhead::Moves;
use super::connection::control;
use super::parse::Parsed;
use super::select::recount;
use super::tables::Tables;
use crate::abi::flow::{Entry, EntryState, FlowBucket, Trace};
use crate::abi::vip::{Pick, Policy};
use crate::abi::word::Word;
use crate::limits::{PROBATION_S, SYN_WINDOW};

/// A flow, as the table knows it.
#[derive(Clone, Copy)]
pub struct Flow {
    /// Flow hash.
    pub hash: u64,
    /// Slot number within the vip's table.
    pub slot: u32,
    /// Now, seconds since boot.
    pub now_s: u32,
    /// Its vip's settings: how long it is remembered, and whether it is counted.
    pub policy: Policy,
}

impl Flow {
    /// Its bucket.
    #[inline(always)]
    pub const fn bucket(&self, mask: u32) -> u32 {
        self.hash as u32 & mask
    }
    #[inline(always)]
    const fn entry(&self, backend: u16, state: EntryState) -> Entry {
        Entry::new(self.hash, self.slot, backend, state)
    }
}

/// One entry of a bucket, as it was read.
#[derive(Clone, Copy)]
pub(super) struct Way<'b> {
    word: &'b Word,
    trace: &'b Word,
    pub(super) entry: Entry,
}

impl<'b> Way<'b> {
    /// To begin a search with. Whole, unlike an `Option`'s `None`: the kernel's verifier refuses what is moved about
    /// without a value, even if nobody looks at it.
    #[inline(always)]
    fn none(bucket: &'b FlowBucket) -> Self {
        Self { word: &bucket.entries[0], trace: &bucket.traces[0], entry: Entry(0) }
    }
    #[inline(always)]
    pub(super) fn trace(&self) -> Trace {
        Trace(self.trace.load())
    }
    /// Puts an entry in this one's place, unless another CPU was quicker.
    #[inline(always)]
    pub(super) fn replace<T: Tables>(&self, entry: Entry, trace: Trace, tables: &T) -> bool {
        let done = entry == self.entry || self.swap(entry, tables);
        if done {
            self.trace.store(trace.0);
        }
        done
    }
    /// Frees this entry, unless another CPU was quicker.
    #[inline(always)]
    fn forget<T: Tables>(&self, moves: &mut Moves, tables: &T) {
        if self.swap(Entry::default(), tables) {
            moves.forgotten(self.entry);
        }
    }
    /// Whoever changes an entry that is counted, or becomes so, changes the count, once.
    #[inline(always)]
    fn swap<T: Tables>(&self, entry: Entry, tables: &T) -> bool {
        let done = tables.compare_swap(self.word, self.entry.0, entry.0);
        if done && (self.entry.is_counted() || entry.is_counted()) {
            recount(self.entry, entry, tables);
        }
        done
    }
}

/// One entry of a bucket.
#[inline(always)]
pub(super) fn way_at(bucket: &FlowBucket, at: usize) -> Option<Way<'_>> {
    let (word, trace) = (bucket.entries.get(at)?, bucket.traces.get(at)?);
    Some(Way { word, trace, entry: Entry(word.load()) })
}

/// The entries of a bucket.
#[inline(always)]
fn ways(bucket: &FlowBucket) -> impl DoubleEndedIterator<Item = Way<'_>> {
    let words = bucket.entries.iter().zip(&bucket.traces);
    words.map(|(word, trace)| Way { word, trace, entry: Entry(word.load()) })
}

/// The backend of a remembered flow; refreshes, confirms or closes the entry as the packet asks.
#[inline(always)]
pub fn remembered<T: Tables>(
    bucket: &FlowBucket,
    flow: &Flow,
    current: u16,
    parsed: &Parsed,
    moves: &mut Moves,
    tables: &T,
) -> Option<u16> {
    let wanted = flow.entry(0, EntryState::Free);
    let (mut fresh, mut older) = (Way::none(bucket), Way::none(bucket));
    let (mut is_fresh, mut is_older) = (false, false);
    // From the last way to the first: of duplicates the lowest wins.
    for way in ways(bucket).rev() {
        let known = way.entry.is_flow() && way.entry.same_flow(wanted);
        if !known {
            continue;
        }
        if !control(way.entry.backend(), tables).alive() {
            // Forgotten at once: if the backend comes back, the flow is another's by then.
            if parsed.teaches() {
                way.forget(moves, tables);
            }
            continue;
        }
        if way.entry.state() != EntryState::Syn {
            (older, is_older) = (way, true);
        } else if parsed.is_syn() || fits(parsed, way.trace(), flow) {
            (fresh, is_fresh) = (way, true);
        }
    }
    match (is_fresh.then_some(fresh), is_older.then_some(older)) {
        (Some(fresh), _) if parsed.is_syn() => {
            if fresh.trace().isn() == parsed.sequence {
                moves.repeat();
            }
            Some(begin_again(&fresh, flow, current, parsed, tables))
        }
        (None, Some(older)) if parsed.is_syn() => {
            Some(begin_anew(bucket, &older, flow, current, parsed, moves, tables))
        }
        (Some(fresh), older) => Some(confirm(&fresh, older, flow, parsed, moves, tables)),
        (None, Some(older)) => Some(refresh(&older, flow, parsed, tables)),
        (None, None) => None,
    }
}

/// Whether a segment belongs to the connection of a SYN: it comes in time, and its sequence number is within the SYN's
/// window, or it is a reset that answers. (A forged SYN must not wait for a live connection until its sequence numbers
/// have come round.)
#[inline(always)]
fn fits(parsed: &Parsed, trace: Trace, flow: &Flow) -> bool {
    let distance = parsed.sequence.wrapping_sub(trace.isn().wrapping_add(1));
    // Without a branch: the verifier would follow both ways for each entry.
    (distance <= SYN_WINDOW) | parsed.answers_by_reset() && trace.age_s(flow.now_s) < flow.policy.syn_s()
}

/// A SYN after a SYN of the same tuple: a retransmission, or the client tries anew.
#[inline(always)]
fn begin_again<T: Tables>(fresh: &Way<'_>, flow: &Flow, current: u16, parsed: &Parsed, tables: &T) -> u16 {
    let row = fresh.entry.backend();
    let stay = current == 0 || fresh.trace().isn() == parsed.sequence || control(row, tables).takes_new();
    let wanted = if stay { row } else { current };
    let trace = Trace::new(flow.now_s, parsed.sequence);
    let stored = fresh.replace(flow.entry(wanted, EntryState::Syn), trace, tables);
    if stored { wanted } else { row }
}

/// A SYN of a tuple that has an older connection: the same backend if it takes new flows, else a second entry.
#[inline(always)]
fn begin_anew<T: Tables>(
    bucket: &FlowBucket,
    older: &Way<'_>,
    flow: &Flow,
    current: u16,
    parsed: &Parsed,
    moves: &mut Moves,
    tables: &T,
) -> u16 {
    let row = older.entry.backend();
    if current != 0
        && current != row
        && !control(row, tables).takes_new()
        && insert(bucket, flow, current, EntryState::Syn, parsed.sequence, moves, tables)
    {
        return current;
    }
    // The new connection needs the entry for as long as any: it must not go by the old one's age.
    refresh(older, flow, parsed, tables)
}

/// A segment that fits an unconfirmed SYN: the connection is real, and the tuple's older one is over.
#[inline(always)]
fn confirm<T: Tables>(
    fresh: &Way<'_>,
    older: Option<Way<'_>>,
    flow: &Flow,
    parsed: &Parsed,
    moves: &mut Moves,
    tables: &T,
) -> u16 {
    if parsed.teaches() && !parsed.answers_by_reset() {
        let state = next_state(fresh.entry.state(), 0, parsed, flow.policy);
        let stored = fresh.replace(fresh.entry.with_state(state), Trace::new(flow.now_s, 0), tables);
        if let (true, Some(older)) = (stored, older) {
            older.forget(moves, tables);
        }
    }
    fresh.entry.backend()
}

/// A packet of a remembered flow.
#[inline(always)]
fn refresh<T: Tables>(older: &Way<'_>, flow: &Flow, parsed: &Parsed, tables: &T) -> u16 {
    let trace = older.trace();
    let age_s = trace.age_s(flow.now_s);
    let state = next_state(older.entry.state(), age_s, parsed, flow.policy);
    if parsed.teaches() && (age_s != 0 || state != older.entry.state()) {
        // A probationary entry keeps its birth until it is confirmed: that is what its second packet is measured by.
        let seen_s = if state == EntryState::Probation { trace.seen_s() } else { flow.now_s };
        older.replace(older.entry.with_state(state), Trace::new(seen_s, 0), tables);
    }
    older.entry.backend()
}

/// What an entry becomes by a packet `age_s` after its last one.
#[inline(always)]
fn next_state(state: EntryState, age_s: u32, parsed: &Parsed, policy: Policy) -> EntryState {
    match state {
        _ if parsed.closes() => EntryState::Closing,
        EntryState::Probation if age_s < PROBATION_S => EntryState::Probation,
        // The last acknowledgements of a closing connection carry no data; if data comes, the close was forged, and a
        // SYN begins the tuple's next connection.
        EntryState::Closing if !parsed.has_data && !parsed.is_syn() => EntryState::Closing,
        _ if policy.pick() == Pick::Least => EntryState::Counted,
        _ => EntryState::Confirmed,
    }
}

/// Remembers a flow. `false`: every entry of the bucket is worth more, or another CPU was quicker.
#[inline(always)]
pub fn insert<T: Tables>(
    bucket: &FlowBucket,
    flow: &Flow,
    backend: u16,
    state: EntryState,
    sequence: u32,
    moves: &mut Moves,
    tables: &T,
) -> bool {
    let (mut victim, mut is_one, mut least) = (Way::none(bucket), false, u64::MAX);
    for way in ways(bucket) {
        let age_s = way.trace().age_s(flow.now_s);
        let alive = control(way.entry.backend(), tables).alive();
        let worth = worth_number(way.entry, age_s, flow.policy, alive);
        // Among equals the oldest goes.
        let rank = worth << 32 | u64::from(u32::MAX - age_s);
        if worth < Worth::Keep as u64 && rank < least {
            (victim, is_one, least) = (way, true, rank);
        }
    }
    let trace = Trace::new(flow.now_s, sequence);
    let stored = is_one && victim.replace(flow.entry(backend, state), trace, tables);
    if stored {
        moves.inserted(victim.entry);
    }
    stored
}

/// What an entry is worth to whoever needs its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Free, expired, or of a dead backend.
    Nothing = 0,
    /// A miss makes it again.
    Probation = 1,
    /// A handshake on its way.
    Syn = 2,
    /// The last packets of a connection, or a source address's backend.
    Closing = 3,
    /// A live connection.
    Keep = 4,
}

/// What an entry is worth, `age_s` after its last packet.
#[inline(always)]
pub fn worth(entry: Entry, age_s: u32, policy: Policy, alive: bool) -> Worth {
    match worth_number(entry, age_s, policy, alive) {
        0 => Worth::Nothing,
        1 => Worth::Probation,
        2 => Worth::Syn,
        3 => Worth::Closing,
        _ => Worth::Keep,
    }
}

/// The same as a number. By tables in constants, an entry for each [`EntryState`] from the lowest bits on: each branch by
/// state would double, for each way of a bucket, what the kernel's verifier has to look at.
#[inline(always)]
fn worth_number(entry: Entry, age_s: u32, policy: Policy, alive: bool) -> u64 {
    /// Four bits each: [`Worth`].
    const WORTHS: u64 = 0x4344_3210;
    /// Eight bits each: where its time lies in the policy.
    const SHIFTS: u64 = 0x1030_1010_2820_1010;
    /// One bit each: whether its time is eight bits wide, not 16.
    const NARROW: u64 = 0b1100;
    let state = entry.0 >> 16 & 7;
    let time_s = policy.0 >> (SHIFTS >> (8 * state) & 63) & 0xffff >> (8 * (NARROW >> state & 1));
    if alive && u64::from(age_s) < time_s { WORTHS >> (4 * state) & 7 } else { 0 }
}
