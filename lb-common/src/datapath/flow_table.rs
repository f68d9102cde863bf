//! The flow table's two operations: find a flow's backend, and remember it.
//!
//! Rules, each found by breaking the simpler form:
//! - an entry to a dead backend is a miss;
//! - an entry made by a SYN counts only for packets whose sequence number fits that SYN, until one confirms it;
//!   every other packet is an older connection's, so a forged SYN cannot steal a live one;
//! - a SYN that meets an entry whose backend takes no new flows gets a second, unconfirmed entry to `current`;
//! - what is cheap to make again goes first: expired, probationary, unconfirmed, closing; a confirmed entry stays
//!   until it is idle for its vip's time, so no flood can push it out.

use super::connection::control;
use super::parse::Parsed;
use super::tables::Tables;
use crate::abi::flow::{Entry, EntryState, FlowBucket, Trace};
use crate::limits::{CLOSING_TIMEOUT_S, FLOW_WAYS, PROBATION_S, SYN_TIMEOUT_S, SYN_WINDOW};

/// A flow, as the table knows it.
#[derive(Clone, Copy)]
pub struct Flow {
    /// Flow hash.
    pub hash: u64,
    /// Slot number within the vip's table.
    pub slot: u32,
    /// Now, seconds since boot.
    pub now_s: u32,
    /// After how long without a packet a confirmed flow may be forgotten, seconds.
    pub idle_s: u32,
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

/// The backend of a remembered flow; refreshes, confirms or closes the entry as the packet asks.
#[inline(always)]
pub fn remembered<T: Tables>(
    bucket: &FlowBucket,
    flow: &Flow,
    current: u16,
    parsed: &Parsed,
    tables: &T,
) -> Option<u16> {
    let wanted = flow.entry(0, EntryState::Free);
    let (mut fresh, mut older) = (FLOW_WAYS, FLOW_WAYS);
    // From the last way to the first: of duplicates the lowest wins.
    for way in (0..FLOW_WAYS).rev() {
        let entry = Entry(bucket.entries[way].load());
        if entry.state() == EntryState::Free || !entry.same_flow(wanted) {
            continue;
        }
        if !control(entry.backend(), tables).alive() {
            continue;
        }
        if entry.state() != EntryState::Syn {
            older = way;
        } else if parsed.is_syn() || fits(parsed, Trace(bucket.traces[way].load())) {
            fresh = way;
        }
    }
    if parsed.is_syn() {
        return begin(bucket, fresh, older, flow, current, parsed, tables);
    }
    if fresh < FLOW_WAYS {
        return Some(confirm(bucket, fresh, older, flow, parsed, tables));
    }
    if older < FLOW_WAYS {
        return Some(refresh(bucket, older, flow, parsed, tables));
    }
    None
}

/// Whether a segment belongs to the connection of a SYN: its sequence number is within the SYN's window.
#[inline(always)]
fn fits(parsed: &Parsed, trace: Trace) -> bool {
    parsed.sequence.wrapping_sub(trace.isn().wrapping_add(1)) <= SYN_WINDOW
}

/// A SYN of a remembered tuple: a retransmission, or a new connection.
#[inline(always)]
fn begin<T: Tables>(
    bucket: &FlowBucket,
    fresh: usize,
    older: usize,
    flow: &Flow,
    current: u16,
    parsed: &Parsed,
    tables: &T,
) -> Option<u16> {
    let trace = Trace::new(flow.now_s, parsed.sequence);
    if fresh < FLOW_WAYS {
        let entry = Entry(bucket.entries[fresh].load());
        let repeated = Trace(bucket.traces[fresh].load()).isn() == parsed.sequence;
        let row = if repeated || control(entry.backend(), tables).takes_new() { entry.backend() } else { current };
        let new = flow.entry(row, EntryState::Syn);
        if row != 0 && (new == entry || tables.compare_swap(&bucket.entries[fresh], entry.0, new.0)) {
            bucket.traces[fresh].store(trace.0);
            return Some(row);
        }
        return Some(entry.backend());
    }
    if older < FLOW_WAYS {
        let entry = Entry(bucket.entries[older].load());
        let row = entry.backend();
        if current == 0 || current == row || control(row, tables).takes_new() {
            if entry.state() == EntryState::Closing {
                tables.compare_swap(&bucket.entries[older], entry.0, entry.with_state(EntryState::Confirmed).0);
                bucket.traces[older].store(trace.0);
            }
            return Some(row);
        }
        let stored = insert(bucket, flow, current, EntryState::Syn, parsed.sequence, tables);
        return Some(if stored { current } else { row });
    }
    None
}

/// A segment that fits an unconfirmed SYN: the connection is real, and the tuple's older one is over.
#[inline(always)]
fn confirm<T: Tables>(
    bucket: &FlowBucket,
    fresh: usize,
    older: usize,
    flow: &Flow,
    parsed: &Parsed,
    tables: &T,
) -> u16 {
    let entry = Entry(bucket.entries[fresh].load());
    if !parsed.teaches() {
        return entry.backend();
    }
    if tables.compare_swap(&bucket.entries[fresh], entry.0, entry.with_state(next_state(entry, 0, parsed)).0) {
        bucket.traces[fresh].store(Trace::new(flow.now_s, parsed.sequence).0);
        if older < FLOW_WAYS {
            let replaced = bucket.entries[older].load();
            tables.compare_swap(&bucket.entries[older], replaced, 0);
        }
    }
    entry.backend()
}

/// A packet of a remembered flow.
#[inline(always)]
fn refresh<T: Tables>(bucket: &FlowBucket, way: usize, flow: &Flow, parsed: &Parsed, tables: &T) -> u16 {
    let entry = Entry(bucket.entries[way].load());
    if !parsed.teaches() {
        return entry.backend();
    }
    let age_s = Trace(bucket.traces[way].load()).age_s(flow.now_s);
    let state = next_state(entry, age_s, parsed);
    if state != entry.state() {
        tables.compare_swap(&bucket.entries[way], entry.0, entry.with_state(state).0);
    }
    // A probationary entry keeps its birth until it is confirmed: that is what its second packet is measured by.
    if age_s != 0 && state != EntryState::Probation {
        bucket.traces[way].store(Trace::new(flow.now_s, 0).0);
    }
    entry.backend()
}

/// What an entry becomes by a packet `age_s` after its last one.
#[inline(always)]
fn next_state(entry: Entry, age_s: u32, parsed: &Parsed) -> EntryState {
    match entry.state() {
        _ if parsed.closes() => EntryState::Closing,
        EntryState::Probation if age_s < PROBATION_S => EntryState::Probation,
        // The last acknowledgements of a closing connection carry no data; if data comes, the close was forged.
        EntryState::Closing if !parsed.has_data => EntryState::Closing,
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
    tables: &T,
) -> bool {
    let (mut victim, mut least, mut old) = (FLOW_WAYS, u64::MAX, 0);
    for way in 0..FLOW_WAYS {
        let entry = Entry(bucket.entries[way].load());
        let age_s = Trace(bucket.traces[way].load()).age_s(flow.now_s);
        let worth = worth(entry, age_s, flow.idle_s, control(entry.backend(), tables).alive());
        // Among equals the oldest goes.
        let rank = (worth as u64) << 32 | (u32::MAX - age_s) as u64;
        if worth < Worth::Keep && rank < least {
            (victim, least, old) = (way, rank, entry.0);
        }
    }
    if victim >= FLOW_WAYS {
        return false;
    }
    let stored = tables.compare_swap(&bucket.entries[victim], old, flow.entry(backend, state).0);
    if stored {
        bucket.traces[victim].store(Trace::new(flow.now_s, sequence).0);
    }
    stored
}

/// What an entry is worth to whoever needs its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Free, expired, or of a dead backend.
    Nothing = 0,
    /// A miss makes it again.
    Probation = 1,
    /// A handshake on its way.
    Syn = 2,
    /// The last packets of a connection.
    Closing = 3,
    /// A live connection.
    Keep = 4,
}

/// What an entry is worth, `age_s` after its last packet.
#[inline(always)]
pub fn worth(entry: Entry, age_s: u32, idle_s: u32, alive: bool) -> Worth {
    if !alive {
        return Worth::Nothing;
    }
    match entry.state() {
        EntryState::Probation if age_s < idle_s => Worth::Probation,
        EntryState::Syn if age_s < SYN_TIMEOUT_S => Worth::Syn,
        EntryState::Closing if age_s < CLOSING_TIMEOUT_S => Worth::Closing,
        EntryState::Confirmed if age_s < idle_s => Worth::Keep,
        _ => Worth::Nothing,
    }
}
