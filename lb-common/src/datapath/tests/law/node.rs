//! The node of the simulation: vips, backend rows and the host path. It decides nothing.

use super::Scenario;
use crate::abi::backend::{Control, Mode, NextHop};
use crate::abi::egress::EgressRow;
use crate::abi::flow::{Entry, EntryState, Trace};
use crate::abi::slot::Slot;
use crate::abi::vip::{Policy, Tracking, VipEntry, VipKey, VipRow, extent_word};
use crate::addr::{Addr, Mac};
use crate::be::{Be16, Be32};
use crate::datapath::Verdict;
use crate::datapath::connection::MovedOnly;
use crate::datapath::flow_table::{Worth, worth};
use crate::datapath::host::{HostFrame, HostTables};
use crate::datapath::pipeline::{self, Trail, Walk};
use crate::datapath::wire::transport::{TCP, UDP};
use crate::hash::{HashKey, Tuple, flow_hash, slot_of};
use crate::limits::SYN_TIMEOUT_S;
use std::vec::Vec;

/// Slots of each vip's table.
pub(super) const SLOTS: u32 = 251;
/// Backend rows of each vip.
pub(super) const ROWS: u16 = 8;
/// Length of a window, and the time after which an idle entry may be forgotten, seconds.
pub(super) const WINDOW_S: u32 = 40;
/// The longest that a plan waits between two of its operations, seconds: by so much a window is shorter.
pub(super) const PLAN_S: u32 = 3;
/// The clock at the start, seconds since boot.
pub(super) const START_S: u32 = 1_000;

/// The vips: protocol and tracking.
pub(super) const VIPS: [(u8, Tracking); 4] =
    [(TCP, Tracking::Auto), (UDP, Tracking::Auto), (TCP, Tracking::Always), (UDP, Tracking::Always)];

/// A packet to a vip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) vip: usize,
    pub(super) client: (u32, u16),
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) data: u16,
}

/// First row of a vip's backends.
pub(super) fn first_row(vip: usize) -> u16 {
    1 + vip as u16 * ROWS
}

/// The vip of a row.
pub(super) fn vip_of(row: u16) -> usize {
    usize::from((row - 1) / ROWS)
}

fn vip_address(vip: usize) -> u32 {
    0xcb00_7101 + vip as u32
}

/// The settings of a vip.
pub(super) const fn policy(tracking: Tracking) -> Policy {
    Policy::new(tracking, false, false, WINDOW_S as u16)
}

/// Tables and clock.
pub(super) struct Node {
    pub(super) tables: HostTables,
}

impl Node {
    pub(super) fn new(scenario: Scenario, key: [u64; 2]) -> Self {
        let mut tables = HostTables::new(HashKey(key), VIPS.len() * SLOTS as usize, scenario.buckets);
        tables.egresses[1].device.store(EgressRow::device_word(1, 1500));
        for (vip, (protocol, tracking)) in VIPS.into_iter().enumerate() {
            let addr = Addr::v4(Be32::new(vip_address(vip)));
            let port = Be16::new(80);
            let row = &tables.vips[vip + 1];
            row.addr[0].store(addr.words()[0]);
            row.addr[1].store(addr.words()[1]);
            row.key.store(VipRow::key_word(port, protocol));
            row.table.store(extent_word(vip as u32 * SLOTS, SLOTS));
            row.policy.store(policy(tracking).0);
            tables.insert_key(&VipKey::new(addr, port, protocol), VipEntry(vip as u32 + 1));
        }
        for row in 1..=VIPS.len() as u16 * ROWS {
            tables.backends[usize::from(row)].next_hop.store(NextHop::new(Mac(2 | 1 << 40), 1).0);
        }
        let node = Self { tables };
        node.set_now(START_S);
        node
    }
    pub(super) fn set_now(&self, now_s: u32) {
        self.tables.now_ns.set(u64::from(now_s) * 1_000_000_000);
    }
    pub(super) fn now_s(&self) -> u32 {
        (self.tables.now_ns.get() / 1_000_000_000) as u32
    }
    pub(super) fn set_control(&self, row: u16, flags: u64) {
        let control = Control::new(flags, Mode::L2, 0, vip_of(row) as u16 + 1, Be16::new(0));
        self.tables.backends[usize::from(row)].control.store(control.0);
    }
    pub(super) fn control(&self, row: u16) -> Control {
        Control(self.tables.backends[usize::from(row)].control.load())
    }
    pub(super) fn slot(&self, index: u32) -> Slot {
        Slot(self.tables.slots[index as usize].load())
    }
    /// The flow hash of a client at a vip, and the index of its slot over all tables.
    pub(super) fn place(&self, vip: usize, client: (u32, u16)) -> (u64, u32) {
        let tuple = Tuple {
            src: Addr::v4(Be32::new(client.0)),
            dst: Addr::v4(Be32::new(vip_address(vip))),
            src_port: Be16::new(client.1),
            dst_port: Be16::new(80),
            protocol: VIPS[vip].0,
        };
        let hash = flow_hash(self.tables.key, &tuple);
        (hash, vip as u32 * SLOTS + slot_of(hash, SLOTS))
    }
    /// The entries of a connection, in the order of the bucket; not those of SYNs that it did not send or that timed out.
    pub(super) fn entries(&self, vip: usize, client: (u32, u16), isn: u32) -> Vec<Entry> {
        let (hash, slot) = self.place(vip, client);
        let bucket = &self.tables.flows[hash as usize & (self.tables.flows.len() - 1)];
        let wanted = Entry::new(hash, slot - vip as u32 * SLOTS, 0, EntryState::Free);
        let ways = bucket.entries.iter().zip(&bucket.traces);
        let entries = ways.map(|(word, trace)| (Entry(word.load()), Trace(trace.load())));
        let own = |entry: Entry, trace: Trace| match entry.state() {
            EntryState::Free => false,
            EntryState::Syn => trace.isn() == isn && trace.age_s(self.now_s()) < SYN_TIMEOUT_S,
            _ => true,
        };
        let own = entries.filter(|(entry, trace)| own(*entry, *trace) && entry.same_flow(wanted));
        own.map(|(entry, _)| entry).collect()
    }
    /// Whether a flow's bucket has no entry that could make room.
    pub(super) fn is_full(&self, vip: usize, client: (u32, u16)) -> bool {
        let (hash, _) = self.place(vip, client);
        let bucket = &self.tables.flows[hash as usize & (self.tables.flows.len() - 1)];
        let now_s = self.now_s();
        bucket.entries.iter().zip(&bucket.traces).all(|(word, trace)| {
            let entry = Entry(word.load());
            let alive = entry.backend() != 0 && self.control(entry.backend()).alive();
            let age_s = Trace(trace.load()).age_s(now_s);
            worth(entry, age_s, policy(VIPS[vip].1), alive) == Worth::Keep
        })
    }
    /// Runs a packet; the backend's row that it went to, or 0.
    pub(super) fn run(&self, segment: &Segment) -> (u16, Trail) {
        let mut walk = Walk::default();
        let verdict = pipeline::run::<_, _, MovedOnly>(&mut frame(segment), &self.tables, &mut walk);
        let row = if let Verdict::Transmit(_) = verdict { walk.trail.backend_row as u16 } else { 0 };
        (row, walk.trail)
    }
}

/// A packet's frame; without checksums, which the path changes but does not check.
fn frame(segment: &Segment) -> HostFrame {
    let protocol = VIPS[segment.vip].0;
    let header = if protocol == TCP { 20 } else { 8 };
    let mut bytes = [0_u8; 64];
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let total = 20 + header + segment.data;
    bytes[14..18].copy_from_slice(&[0x45, 0, (total >> 8) as u8, total as u8]);
    (bytes[22], bytes[23]) = (64, protocol);
    bytes[26..30].copy_from_slice(&segment.client.0.to_be_bytes());
    bytes[30..34].copy_from_slice(&vip_address(segment.vip).to_be_bytes());
    bytes[34..36].copy_from_slice(&segment.client.1.to_be_bytes());
    bytes[36..38].copy_from_slice(&80_u16.to_be_bytes());
    if protocol == TCP {
        bytes[38..42].copy_from_slice(&segment.sequence.to_be_bytes());
        (bytes[46], bytes[47]) = (5 << 4, segment.flags);
    } else {
        bytes[38..40].copy_from_slice(&(8 + segment.data).to_be_bytes());
    }
    HostFrame::new(&bytes[..14 + usize::from(total)])
}
