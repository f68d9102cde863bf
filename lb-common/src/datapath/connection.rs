//! Stage 4: which backend has this flow? *Track only what moved*: the slot answers for every flow that began since
//! it last changed, so a stable slot costs neither a lookup nor an insert, whatever the number of flows.

use super::Halt;
use super::bulkhead::{Admission, admit_entry, settle};
use super::flow_table::{Flow, insert, remembered};
use super::parse::Parsed;
use super::pipeline::{Choice, Trail};
use super::select;
use super::tables::Tables;
use super::trial;
use super::wire::transport::UDP;
use crate::abi::backend::Control;
use crate::abi::flow::EntryState;
use crate::abi::slot::{Phase, Slot};
use crate::abi::vip::{Pick, Policy, VipRow, extent};
use crate::hash::{flow_hash, slot_of};
use crate::reason::Reason;

/// How flows are kept on their backend. The balancer has one way, [`MovedOnly`]; a benchmark replaces it to compare.
pub trait Tracker {
    /// The backend row of a flow, for its slot and policy.
    fn backend<T: Tables>(parsed: &Parsed, slot: Slot, policy: Policy, tables: &T, trail: &mut Trail) -> u16;
}

/// Tracks only what moved.
pub struct MovedOnly;

/// The row of no backend.
pub const NOBODY: u16 = 0;

/// Finds the backend row of a packet's flow; [`NOBODY`] if it has none.
#[inline(always)]
pub fn backend<T: Tables, K: Tracker>(
    parsed: &Parsed,
    vip: &VipRow,
    tables: &T,
    trail: &mut Trail,
) -> Result<u16, Halt> {
    let (first, count) = extent(vip.table.load());
    let policy = Policy(vip.policy.load());
    trail.hash = flow_hash(tables.hash_key(), &parsed.flow);
    let choosing = if policy.by_source() { select::source_hash(parsed, tables) } else { trail.hash };
    trail.slot_number = slot_of(choosing, count);
    let word =
        tables.slot(first.wrapping_add(trail.slot_number)).ok_or(Halt::drop(Reason::TableInconsistent))?;
    trail.slot = Slot(word.load());
    let row = K::backend(parsed, trail.slot, policy, tables, trail);
    if row != NOBODY {
        trail.backend_row = row.into();
    }
    Ok(row)
}

impl Tracker for MovedOnly {
    #[inline(always)]
    fn backend<T: Tables>(parsed: &Parsed, slot: Slot, policy: Policy, tables: &T, trail: &mut Trail) -> u16 {
        trail.choice = Choice::Slot;
        if policy.never() || (slot.is_stable() && !policy.always()) {
            return slot.current();
        }
        tracked(parsed, slot, policy, tables, trail)
    }
}

/// The flow of a slot that moved, or of a vip that tracks every flow.
#[inline(never)]
fn tracked<T: Tables>(parsed: &Parsed, slot: Slot, policy: Policy, tables: &T, trail: &mut Trail) -> u16 {
    trail.moves.begin();
    let row = looked_up(parsed, slot, policy, tables, trail);
    if !trail.moves.is_empty() {
        settle(&trail.moves, policy.tenant(), tables);
    }
    row
}

#[inline(always)]
fn looked_up<T: Tables>(parsed: &Parsed, slot: Slot, policy: Policy, tables: &T, trail: &mut Trail) -> u16 {
    let now_s = tables.now_s();
    let flow = Flow { hash: trail.hash, slot: trail.slot_number, now_s, policy };
    let Some(bucket) = tables.flows(flow.bucket(tables.flow_mask())) else { return slot.current() };
    if let Some(row) = remembered(bucket, &flow, slot.current(), parsed, &mut trail.moves, tables) {
        trail.choice = Choice::Remembered;
        if policy.pick() == Pick::Affinity && parsed.teaches() && !parsed.is_syn() {
            trail.moves.displaced(select::learn(parsed, &flow, row, tables, trail));
        }
        return row;
    }
    let moving = slot.phase(now_s) == Phase::Moving;
    let previous = if moving && alive(slot.previous(), tables) { slot.previous() } else { 0 };
    // A vip that picks knows every flow: whatever UDP it does not know is new.
    let picks = policy.picks() && parsed.teaches();
    let newcomer = parsed.is_syn() || (parsed.flow.protocol == UDP && (picks || policy.udp_stateless()));
    let old = previous != 0 && !newcomer;
    let mut row = if old { previous } else { slot.current() };
    let picked = picks && newcomer && row != 0;
    if picked {
        row = select::pick(parsed, &flow, row, tables, trail);
    }
    let tried = parsed.is_syn() && parsed.teaches() && trial::rate_cps(row, tables) != 0;
    let first_choice = row;
    row = if tried { trial::admitted(row, trail, tables) } else { row };
    let aside = row != first_choice;
    trail.choice = if old { Choice::Previous } else { Choice::Slot };
    // A pinned slot's newcomers need no entry: a later change makes their backend the slot's `previous`.
    // Neither does stateless UDP, nor what is only quoted by an ICMP error. But a connection that a token was asked for
    // does: its SYN may come again.
    let state = if parsed.is_syn() { EntryState::Syn } else { EntryState::Probation };
    let remember = parsed.teaches()
        && row != 0
        && (policy.always() || tried || (previous != 0 && (old || parsed.is_syn())));
    if !remember {
        return row;
    }
    let admission = match policy.tenant() {
        0 => Admission::Remember,
        tenant => admit_entry(parsed, tenant, old, tables, trail),
    };
    if admission == Admission::Refuse {
        return 0;
    }
    let stored = admission == Admission::Remember
        && insert(bucket, &flow, row, state, parsed.sequence, &mut trail.moves, tables);
    if stored {
        if picked && !parsed.is_syn() && policy.pick() == Pick::Affinity {
            trail.moves.displaced(select::learn(parsed, &flow, row, tables, trail));
        }
        if !old {
            trail.choice = if aside {
                Choice::SetAside
            } else if picked {
                Choice::Picked
            } else {
                Choice::Inserted
            };
        }
        return row;
    }
    // A new connection goes to `current`, or where it is picked for or set aside to, only if it is remembered: otherwise
    // its next packet would look like an older one's, and go to `previous` or else, token or not, to `current`.
    if previous != 0 {
        trail.choice = Choice::Previous;
        return previous;
    }
    slot.current()
}

/// Whether a backend serves the flows that it has.
#[inline(always)]
pub fn alive<T: Tables>(row: u16, tables: &T) -> bool {
    control(row, tables).alive()
}

/// A backend's control word; of no backend, one without any flag.
#[inline(always)]
pub fn control<T: Tables>(row: u16, tables: &T) -> Control {
    match tables.backend(row.into()) {
        Some(backend) if row != 0 => Control(backend.control.load()),
        _ => Control(0),
    }
}
