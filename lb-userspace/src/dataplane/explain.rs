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
        .filter(|(entry, _)| trail.hash != 0 && entry.is_flow() && entry.same_flow(wanted));
    let (entry, trace) = found.next()?;
    let state = match entry.state() {
        EntryState::Free => "free",
        EntryState::Probation => "probation",
        EntryState::Syn => "syn",
        EntryState::Closing => "closing",
        EntryState::Confirmed => "confirmed",
        EntryState::Counted => "counted",
        EntryState::Affinity => "affinity",
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
            Choice::Picked => "picked",
            Choice::Previous => "previous",
            Choice::SetAside => "set_aside",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{QuestionPacket, maps, memory};
    use lb_common::abi::vip::{Tracking, VipEntry};
    use lb_common::be::Be16;
    use lb_common::ids::{BackendId, TenantId, VipId};
    use lb_control::plan::{BackendContent, EgressContent, Key, Op, VipContent};

    const NOW_NS: u64 = 5_000_000_000_000;

    /// A vip with backends 1 and 2 in mode nat, whose slots are all `slot`.
    fn store_with(slot: Slot) -> Store {
        let (store, _) = memory::store(&memory::small());
        let key = Key { address: "203.0.113.10".parse().unwrap(), port: 80, protocol: 6 };
        let policy = Policy::new(Tracking::Always, false, true, 900);
        let (id, tenant, extent) = (VipId(7), TenantId(2), (0, 251));
        let content = VipContent { id, tenant, key, extent, policy, refuses: true };
        let egress = EgressContent { ifindex: 3, mtu: 1500, source_mac: Mac(2), tags: Tags::one(7) };
        let mut ops = vec![
            Op::WriteSource { number: 0, address: "10.0.0.1".parse().unwrap() },
            Op::WriteEgress { row: 1, content: egress },
            Op::WriteEgress { row: 2, content: EgressContent { ifindex: 9, tags: Tags::NONE, ..egress } },
            Op::SetPort { ifindex: 9, egress: 2 },
            Op::WriteSlots { first: 0, values: vec![slot; 251] },
            Op::WriteVip { row: 0, content },
            Op::SetVipKey { key, entry: VipEntry(0) },
        ];
        for row in 1..=2u16 {
            let control = Control::new(3, Mode::Nat, 0, 0, Be16::new(8080));
            let address = std::net::Ipv4Addr::new(10, 0, 0, 2 + row as u8).into();
            let next_hop = NextHop::new(Mac::from_octets([2, 0, 0, 0, 0, row as u8]), 1);
            let id = BackendId(10 + u32::from(row));
            let content = BackendContent { id, address, control, next_hop, tenant: 0, trial_cps: 0 };
            ops.push(Op::WriteBackend { row, content });
        }
        maps::apply(&store, &ops, maps::NO_CLOCK).unwrap();
        store
    }

    fn ask(store: &Store, vip: &str, packet: QuestionPacket) -> Result<Explanation> {
        let client = "198.51.100.7:40001".parse().unwrap();
        explain(store, NOW_NS, &Question { client, vip: vip.parse().unwrap(), packet })
    }

    #[test]
    fn a_forwarded_packet_is_told_whole() {
        let store = store_with(Slot::stable(1));
        let told = ask(&store, "203.0.113.10:80", QuestionPacket::TcpSyn).unwrap();
        assert_eq!((told.verdict, told.reason), ("redirect", "forwarded"));
        let (vip, slot) = (told.vip.unwrap(), told.slot.unwrap());
        assert_eq!((vip.id, vip.tenant_id, vip.tracking), (7, 2, "always"));
        assert_eq!((slot.phase, slot.current, slot.previous), ("stable", 1, None));
        let backend = told.backend.unwrap();
        assert_eq!((backend.id, backend.port, backend.mode, backend.choice), (11, 8080, "nat", "inserted"));
        let egress = told.egress.unwrap();
        assert_eq!((egress.row, egress.ifindex, egress.vlans), (Some(1), Some(3), vec![7]));
        assert_eq!(egress.next_hop, "02:00:00:00:00:01");
        // A VLAN tag longer than it came.
        assert_eq!(told.bytes, (54, 58));
    }

    #[test]
    fn who_is_refused_is_told_so() {
        let store = store_with(Slot::stable(0));
        let told = ask(&store, "203.0.113.10:80", QuestionPacket::TcpSyn).unwrap();
        assert_eq!((told.verdict, told.reason), ("transmit", "reset_replied"));
        assert_eq!((told.backend, told.egress), (None, None));
        let told = ask(&store, "203.0.113.10:80", QuestionPacket::TcpEstablished).unwrap();
        assert_eq!((told.verdict, told.reason), ("drop", "no_backend"));
    }

    #[test]
    fn asking_writes_nothing() {
        let store = store_with(Slot::moving(2, 1, 6_000));
        let told = ask(&store, "203.0.113.10:80", QuestionPacket::TcpSyn).unwrap();
        assert_eq!((told.backend.unwrap().id, told.slot.unwrap().window_left_s), (12, Some(1_000)));
        let told = ask(&store, "203.0.113.10:80", QuestionPacket::TcpEstablished).unwrap();
        assert_eq!((told.backend.unwrap().choice, told.entry), ("previous", None));
        assert!(store.flows.iter().all(|bucket| bucket.entries.iter().all(|word| word.load() == 0)));
        assert!(store.nat.iter().all(|row| row.control.load() == 0 && row.client[1].load() == 0));
        assert!(maps::counters(&store).unwrap().reasons.is_empty());
    }

    #[test]
    fn an_entry_is_shown_as_it_lies() {
        let store = store_with(Slot::moving(2, 1, 6_000));
        let slot = ask(&store, "203.0.113.10:80", QuestionPacket::TcpSyn).unwrap().slot.unwrap();
        let bucket = &store.flows[slot.hash as usize & (store.flows.len() - 1)];
        bucket.entries[3].store(Entry::new(slot.hash, slot.number, 1, EntryState::Confirmed).0);
        bucket.traces[3].store(Trace::new(4_990, 0).0);
        let told = ask(&store, "203.0.113.10:80", QuestionPacket::TcpEstablished).unwrap();
        let entry = told.entry.unwrap();
        assert_eq!((entry.backend_row, entry.state, entry.age_s), (1, "confirmed", 10));
        assert_eq!(told.backend.unwrap().choice, "remembered");
    }

    #[test]
    fn what_is_not_ours_or_no_packet_is_said() {
        let store = store_with(Slot::stable(1));
        let told = ask(&store, "203.0.113.10:81", QuestionPacket::TcpSyn).unwrap();
        assert_eq!((told.verdict, told.reason, told.vip), ("pass", "no_vip", None));
        let fault = ask(&store, "[2001:db8::1]:80", QuestionPacket::Udp).unwrap_err();
        assert_eq!(fault.code, Code::FamilyMismatch);
    }
}
