//! What would become of a packet, and why: the packet path itself, run over the live tables without writing to them.

use lb_common::abi::backend::{Control, Mode, NextHop};
use lb_common::abi::egress::{EgressRow, Tags};
use lb_common::abi::flow::{Entry, EntryState, Trace};
use lb_common::abi::slot::{Phase, Slot};
use lb_common::abi::vip::Policy;
use lb_common::addr::Mac;
use lb_common::datapath::Verdict;
use lb_common::datapath::connection::MovedOnly;
use lb_common::datapath::host::HostFrame;
use lb_common::datapath::pipeline::{self, Choice, Trail, Walk};
use lb_common::datapath::tables::NO_ROW;
use lb_control::code::Code;

use super::fault::{Fault, Result};
use super::overlay::Overlay;
use super::store::Store;
use super::{
    ExplainedBackend, ExplainedEgress, ExplainedEntry, ExplainedSlot, ExplainedVip, Explanation, Question,
    frames,
};

/// Runs a frame through the path; returns the verdict, what the path found, and the frame as it left.
pub(super) fn run(store: &Store, now_ns: u64, ingress: u32, frame: &[u8]) -> (Verdict, Trail, Vec<u8>) {
    let mut packet = HostFrame::new(frame);
    let mut walk = Walk::default();
    let overlay = Overlay::new(store, now_ns, ingress);
    let verdict = pipeline::run::<_, _, MovedOnly>(&mut packet, &overlay, &mut walk);
    (verdict, walk.trail, packet.bytes().to_vec())
}

/// Answers a question.
pub(super) fn explain(store: &Store, now_ns: u64, question: &Question) -> Result<Explanation> {
    let (ingress, mac) = entry_device(store)?;
    let frame = frames::frame(question.client, question.vip, question.packet, mac.octets());
    let frame = frame.ok_or_else(|| {
        Fault::new(Code::FamilyMismatch, "client and vip are of different address families")
            .with_advice("Give two IPv4 or two IPv6 addresses.")
    })?;
    let (verdict, trail, left) = run(store, now_ns, ingress, &frame);
    let reason = verdict.reason();
    let now_s = (now_ns / 1_000_000_000) as u32;
    Ok(Explanation {
        verdict: name_of(verdict),
        reason: reason.name(),
        reason_text: reason.text(),
        vip: vip(store, &trail),
        slot: (trail.choice != Choice::None || trail.hash != 0).then(|| slot(&trail, now_s)),
        entry: entry(store, &trail, now_s),
        backend: backend(store, &trail),
        egress: egress(store, verdict, &trail, ingress),
        bytes: (frame.len() as u32, left.len() as u32),
    })
}

/// A device that packets come in by, the first of several: its interface index and MAC. None attached: none.
fn entry_device(store: &Store) -> Result<(u32, Mac)> {
    let first = store.calls.ports()?.into_iter().min();
    let found = first.and_then(|(ifindex, row)| Some((ifindex, store.egresses.get(row as usize)?)));
    Ok(found.map_or((0, Mac::from_octets([2, 0, 0, 0, 0, 1])), |(ifindex, row)| (ifindex, row.mac())))
}

pub(super) const fn name_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass(_) => "pass",
        Verdict::Drop(_) => "drop",
        Verdict::Transmit(_) => "transmit",
        Verdict::Redirect(..) => "redirect",
    }
}

fn vip(store: &Store, trail: &Trail) -> Option<ExplainedVip> {
    let row = store.vips.get(trail.vip_row as usize).filter(|_| trail.vip_row != NO_ROW)?;
    let (identity, policy) = (row.identity.load(), Policy(row.policy.load()));
    let tracking = match (policy.always(), policy.never()) {
        (true, _) => "always",
        (_, true) => "never",
        _ => "auto",
    };
    Some(ExplainedVip {
        row: trail.vip_row,
        id: identity as u32,
        tenant_id: (identity >> 32) as u32,
        tracking,
    })
}

fn slot(trail: &Trail, now_s: u32) -> ExplainedSlot {
    let (slot, moving) = (trail.slot, trail.slot.phase(now_s) == Phase::Moving);
    ExplainedSlot {
        hash: trail.hash,
        number: trail.slot_number,
        phase: phase(slot, now_s),
        current: slot.current(),
        previous: moving.then(|| slot.previous()),
        window_left_s: moving.then(|| slot.deadline_s() - now_s),
    }
}

fn phase(slot: Slot, now_s: u32) -> &'static str {
    match slot.phase(now_s) {
        Phase::Stable => "stable",
        Phase::Moving => "moving",
        Phase::Pinned => "pinned",
    }
}

/// The flow's entry as it lies in the live table: the first of duplicates, as for a packet.
fn entry(store: &Store, trail: &Trail, now_s: u32) -> Option<ExplainedEntry> {
    let mask = store.flows.len() - 1;
    let bucket = &store.flows[trail.hash as usize & mask];
    let wanted = Entry::new(trail.hash, trail.slot_number, 0, EntryState::Free);
    let entries = bucket.entries.iter().map(|word| Entry(word.load()));
    let mut found = entries
        .zip(&bucket.traces)
        .filter(|(entry, _)| trail.hash != 0 && entry.state() != EntryState::Free && entry.same_flow(wanted));
    let (entry, trace) = found.next()?;
    let state = match entry.state() {
        EntryState::Free => "free",
        EntryState::Probation => "probation",
        EntryState::Syn => "syn",
        EntryState::Closing => "closing",
        EntryState::Confirmed => "confirmed",
    };
    Some(ExplainedEntry { backend_row: entry.backend(), state, age_s: Trace(trace.load()).age_s(now_s) })
}

fn backend(store: &Store, trail: &Trail) -> Option<ExplainedBackend> {
    let row = store.backends.get(trail.backend_row as usize).filter(|_| trail.backend_row != NO_ROW)?;
    let control = Control(row.control.load());
    Some(ExplainedBackend {
        row: trail.backend_row,
        id: row.identity.load() as u32,
        address: row.address().ip(),
        port: control.port().host(),
        mode: match control.mode() {
            Mode::L2 => "l2",
            Mode::Ipip => "ipip",
            Mode::Nat => "nat",
        },
        alive: control.alive(),
        takes_new: control.takes_new(),
        choice: match trail.choice {
            Choice::None => "none",
            Choice::Slot => "slot",
            Choice::Remembered => "remembered",
            Choice::Inserted => "inserted",
            Choice::Previous => "previous",
        },
    })
}

fn egress(store: &Store, verdict: Verdict, trail: &Trail, ingress: u32) -> Option<ExplainedEgress> {
    let hop = store.backends.get(trail.backend_row as usize).map(|row| NextHop(row.next_hop.load()));
    let hop = hop.filter(|_| trail.backend_row != NO_ROW)?;
    let (row, out): (Option<u16>, &EgressRow) = match verdict {
        Verdict::Redirect(_, row) => (Some(row), store.egresses.get(row as usize)?),
        Verdict::Transmit(_) => (None, store.egresses.get(hop.egress() as usize)?),
        _ => return None,
    };
    let ifindex = if row.is_some() { out.ifindex() } else { ingress };
    let tags = Tags(out.tags.load());
    let ids = [tags.first(), tags.second()].map(|tci| tci & 0xfff);
    Some(ExplainedEgress {
        row,
        ifindex: Some(ifindex),
        next_hop: mac_text(hop.mac()),
        vlans: ids[..usize::from(tags.count()).min(2)].to_vec(),
    })
}

/// A hardware address as people write it.
fn mac_text(mac: Mac) -> String {
    mac.octets().map(|octet| format!("{octet:02x}")).join(":")
}
