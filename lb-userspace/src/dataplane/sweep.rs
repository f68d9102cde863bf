//! The sweep: forgets what is over, lets slots settle, and proves rows free.
//!
//! The rule by which a slot becomes stable: its window is over, one grace period has passed since, and no live entry
//! of it names another backend than `current`. The grace period matters twice: no packet that still saw the slot
//! moving can add an entry after the scan, and an entry whose trace looked old because it had just been made shows
//! its new trace. Nothing is locked: all is read word by word and changed by compare-and-swap, and whatever changed
//! under the sweep is left to the next one.
//!
//! Pure: it works on rows wherever they lie, and is given the grace period to wait.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::backend::{Control, NextHop};
use lb_common::abi::flow::{Entry, EntryState, FlowBucket, Trace};
use lb_common::abi::nat::{NatControl, NatRow, NatState};
use lb_common::abi::slot::{Phase, Slot};
use lb_common::abi::vip::{Policy, VipRow, extent};
use lb_common::datapath::flow_table::{Worth, worth};
use lb_common::limits::NAT_CLOSING_S;
use lb_control::plan::Rows;

use super::SweepReport;
use super::store::Store;

/// Sweeps everything. `grace_period` returns after every packet that was in the program when it was called has left.
pub(super) fn sweep(store: &Store, now_s: u32, watched: Rows, grace_period: &mut dyn FnMut()) -> SweepReport {
    let held = vec![false; store.slots.len()];
    let (nat_flows, ways_back) = (BTreeMap::new(), BTreeSet::new());
    let mut run = Run { store, now_s, held, nat_flows, ways_back, report: SweepReport::default() };
    run.report.sweep.watched = watched;
    let vips = run.vips();
    let pinned = run.end_windows(&vips);
    grace_period();
    let doubtful = run.scan_flows();
    let claimed = run.scan_nat();
    grace_period();
    doubtful.into_iter().for_each(|at| run.settle_doubt(at));
    claimed.into_iter().for_each(|(row, control)| run.free_claimed(row, control));
    run.settle_slots(&pinned);
    run.count_slots(&vips);
    run.finish()
}

/// A vip as the sweep needs it.
#[derive(Clone, Copy)]
struct Vip {
    row: u16,
    first: u32,
    count: u32,
}

struct Run<'s> {
    store: &'s Store,
    now_s: u32,
    /// By slot index: whether a live entry names another backend than `current`.
    held: Vec<bool>,
    /// Rows of the NAT table by backend row.
    nat_flows: BTreeMap<u16, u64>,
    /// Egress rows that NAT flows go back by.
    ways_back: BTreeSet<u16>,
    report: SweepReport,
}

/// What is to be done with an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It lives; the slot index that it holds, if it names another backend than the slot.
    Lives { held: Option<usize> },
    /// It is over, or says what its stable slot says anyway.
    Over,
}

impl Run<'_> {
    fn vips(&self) -> Vec<Vip> {
        let used = self.store.vips.iter().enumerate().filter(|(_, vip)| vip.key.load() >> 32 & 1 != 0);
        used.map(|(row, vip)| {
            let (first, count) = extent(vip.table.load());
            Vip { row: row as u16, first, count }
        })
        .collect()
    }

    fn slots_of(&self, vip: Vip) -> std::ops::Range<usize> {
        let (from, len) = (vip.first as usize, self.store.slots.len());
        from.min(len)..from.saturating_add(vip.count as usize).min(len)
    }

    /// Moving slots whose window is over become pinned: the same to a packet, but said. Returns the pinned slots:
    /// only one that is still the same after the scan may settle, since the scan judged entries by it.
    fn end_windows(&mut self, vips: &[Vip]) -> Vec<(usize, Slot)> {
        let mut pinned = Vec::new();
        for vip in vips {
            for index in self.slots_of(*vip) {
                let word = &self.store.slots[index];
                let slot = Slot(word.load());
                if slot.is_stable() || slot.phase(self.now_s) == Phase::Moving {
                    continue;
                }
                let over = Slot::pinned(slot.current());
                if slot == over || word.compare_swap(slot.0, over.0) {
                    pinned.push((index, over));
                }
            }
        }
        pinned
    }

    /// Counts the live entries; returns the others (bucket, way, entry), which are looked at again.
    fn scan_flows(&mut self) -> Vec<(usize, usize, Entry)> {
        let store = self.store;
        let mut doubtful = Vec::new();
        for (bucket, flows) in store.flows.iter().enumerate() {
            for (way, word) in flows.entries.iter().enumerate() {
                let entry = Entry(word.load());
                if entry.state() == EntryState::Free {
                    continue;
                }
                match self.fate(flows, way, entry) {
                    Fate::Lives { held } => self.keep(entry, held),
                    Fate::Over => doubtful.push((bucket, way, entry)),
                }
            }
        }
        doubtful
    }

    /// What is to be done with an entry. The slot is read after the entry: if it is stable then, every packet of the
    /// flow went to `current` since, and a slot that moves after that begins with `previous` = this `current`.
    fn fate(&self, flows: &FlowBucket, way: usize, entry: Entry) -> Fate {
        let Some((control, vip)) = self.owner(entry.backend()) else { return Fate::Over };
        let policy = Policy(vip.policy.load());
        let age_s = Trace(flows.traces[way].load()).age_s(self.now_s);
        if worth(entry, age_s, policy.idle_s(), control.alive()) == Worth::Nothing {
            return Fate::Over;
        }
        let (first, count) = extent(vip.table.load());
        let index = first as usize + entry.slot() as usize;
        let Some(word) = self.store.slots.get(index).filter(|_| entry.slot() < count) else {
            return Fate::Over;
        };
        let slot = Slot(word.load());
        if slot.is_stable() && !policy.always() {
            return Fate::Over;
        }
        Fate::Lives { held: (slot.current() != entry.backend()).then_some(index) }
    }

    /// A backend row's control word and its vip, both in use.
    fn owner(&self, backend: u16) -> Option<(Control, &VipRow)> {
        let row = self.store.backends.get(backend as usize).filter(|row| row.identity.load() != 0)?;
        let control = Control(row.control.load());
        let vip = self.store.vips.get(control.vip_row() as usize)?;
        (vip.key.load() >> 32 & 1 != 0).then_some((control, vip))
    }

    fn keep(&mut self, entry: Entry, held: Option<usize>) {
        self.report.tracked_flows += 1;
        *self.report.flows.entry(entry.backend()).or_default() += 1;
        if let Some(index) = held {
            self.held[index] = true;
        }
    }

    /// Looks again, a grace period later, at an entry that seemed to be over, and forgets it if it still does.
    fn settle_doubt(&mut self, (bucket, way, seen): (usize, usize, Entry)) {
        let flows = &self.store.flows[bucket];
        let entry = Entry(flows.entries[way].load());
        if entry.state() == EntryState::Free {
            return;
        }
        let fate = self.fate(flows, way, entry);
        if entry == seen && fate == Fate::Over && flows.entries[way].compare_swap(entry.0, 0) {
            self.report.forgotten_flows += 1;
            return;
        }
        // It changed under us: whatever it is now counts, and what it names is named.
        let now = Entry(flows.entries[way].load());
        if now.state() != EntryState::Free {
            let held = match self.fate(flows, way, now) {
                Fate::Lives { held } => held,
                Fate::Over => None,
            };
            self.keep(now, held);
        }
    }

    /// Frees NAT rows that are over and counts the others; returns those that are being filled.
    fn scan_nat(&mut self) -> Vec<(usize, NatControl)> {
        let store = self.store;
        let mut claimed = Vec::new();
        for (number, row) in store.nat.iter().enumerate() {
            let control = NatControl(row.control.load());
            match control.state() {
                NatState::Free => continue,
                NatState::Claimed => claimed.push((number, control)),
                NatState::Live | NatState::Closing if self.nat_is_over(control) && free(row, control) => {
                    self.report.freed_nat_flows += 1;
                    continue;
                }
                NatState::Live | NatState::Closing => {}
            }
            self.keep_nat(row);
        }
        claimed
    }

    fn nat_is_over(&self, control: NatControl) -> bool {
        let Some((backend, vip)) = self.owner(control.backend()) else { return true };
        let limit_s = match control.state() {
            NatState::Closing => NAT_CLOSING_S,
            _ => Policy(vip.policy.load()).idle_s(),
        };
        !backend.alive() || control.age_s(self.now_s) > limit_s
    }

    fn keep_nat(&mut self, row: &NatRow) {
        let backend = NatControl(row.control.load()).backend();
        self.report.nat_flows += 1;
        *self.nat_flows.entry(backend).or_default() += 1;
        self.ways_back.insert(NextHop(row.back.load()).egress());
    }

    /// A packet claims a row and fills it within one run of the program. A row that is still claimed after a grace
    /// period by the same packet was never published.
    fn free_claimed(&mut self, number: usize, control: NatControl) {
        if free(&self.store.nat[number], control) {
            self.report.freed_nat_flows += 1;
            self.report.nat_flows -= 1;
        }
    }

    /// Pinned slots that no entry holds become stable.
    fn settle_slots(&mut self, pinned: &[(usize, Slot)]) {
        for (index, slot) in pinned {
            let word = &self.store.slots[*index];
            if !self.held[*index] && word.compare_swap(slot.0, Slot::stable(slot.current()).0) {
                self.report.settled_slots += 1;
            }
        }
    }

    fn count_slots(&mut self, vips: &[Vip]) {
        for vip in vips {
            for index in self.slots_of(*vip) {
                let counts = match Slot(self.store.slots[index].load()).phase(self.now_s) {
                    Phase::Stable => continue,
                    Phase::Moving => &mut self.report.moving_slots,
                    Phase::Pinned => &mut self.report.pinned_slots,
                };
                *counts.entry(vip.row).or_default() += 1;
            }
        }
    }

    /// A flow by NAT has a row in each table: it counts once.
    fn finish(mut self) -> SweepReport {
        for (backend, count) in self.nat_flows {
            let flows = self.report.flows.entry(backend).or_default();
            *flows = count.max(*flows);
        }
        let Rows { mut backends, mut egresses } = self.report.sweep.watched.clone();
        backends.retain(|row, _| self.report.flows.contains_key(row));
        egresses.retain(|row, _| self.ways_back.contains(row));
        self.report.sweep.referenced = Rows { backends, egresses };
        self.report
    }
}

/// Frees a NAT row, keeping its generation, if it is still as it was.
fn free(row: &NatRow, control: NatControl) -> bool {
    row.control.compare_swap(control.0, NatControl::new(0, NatState::Free, control.generation(), 0).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{maps, memory};
    use lb_common::abi::backend::Mode;
    use lb_common::abi::vip::Tracking;
    use lb_common::addr::Mac;
    use lb_common::be::Be16;
    use lb_common::ids::{BackendId, TenantId, VipId};
    use lb_common::limits::{CLOSING_TIMEOUT_S, SYN_TIMEOUT_S};
    use lb_control::plan::{BackendContent, EgressContent, Key, Op, VipContent};

    const NOW: u32 = 10_000;
    const IDLE: u32 = 900;
    const ALIVE: u64 = Control::ALIVE | Control::NEW;
    /// Row of the only vip, its first slot, and the hash of every flow.
    const VIP: u16 = 3;
    const FIRST: u32 = 100;
    const HASH: u64 = 0x1234_5678_9abc_def0;

    /// A vip with 251 slots from index 100, and backends 1 to 3.
    fn store_with(tracking: Tracking) -> Store {
        let (store, _) = memory::store(&memory::small());
        let key = Key { address: "203.0.113.10".parse().unwrap(), port: 80, protocol: 6 };
        let policy = Policy::new(tracking, false, false, IDLE as u16);
        let content = VipContent { id: VipId(7), tenant: TenantId(1), key, extent: (FIRST, 251), policy };
        let mut ops = vec![Op::WriteVip { row: VIP, content }];
        ops.extend((1..=3).map(|row| Op::WriteBackend { row, content: backend(row, ALIVE) }));
        maps::apply(&store, &ops).unwrap();
        store
    }

    fn backend(row: u16, flags: u64) -> BackendContent {
        let control = Control::new(flags, Mode::Nat, 0, VIP, Be16::from_raw(0));
        let address = std::net::Ipv4Addr::new(10, 0, 0, row as u8).into();
        let next_hop = NextHop::new(Mac::from_octets([2, 0, 0, 0, 0, row as u8]), 1);
        BackendContent { id: BackendId(row.into()), address, control, next_hop }
    }

    fn kill(store: &Store, row: u16) {
        maps::apply(store, &[Op::SetControl { row, control: backend(row, 0).control }]).unwrap();
    }

    fn slot(store: &Store, number: u32) -> Slot {
        Slot(store.slots[(FIRST + number) as usize].load())
    }

    fn set_slot(store: &Store, number: u32, slot: Slot) {
        store.slots[(FIRST + number) as usize].store(slot.0);
    }

    fn put(store: &Store, way: usize, slot: u32, backend: u16, state: EntryState, age_s: u32) {
        let bucket = &store.flows[5];
        bucket.entries[way].store(Entry::new(HASH, slot, backend, state).0);
        bucket.traces[way].store(Trace::new(NOW - age_s, 0).0);
    }

    fn run(store: &Store) -> SweepReport {
        sweep(store, NOW, Rows::default(), &mut || {})
    }

    #[test]
    fn a_window_that_is_over_settles() {
        let store = store_with(Tracking::Auto);
        set_slot(&store, 0, Slot::moving(2, 1, NOW));
        set_slot(&store, 1, Slot::moving(2, 1, NOW + 1));
        set_slot(&store, 2, Slot::pinned(3));
        let report = run(&store);
        assert_eq!(slot(&store, 0), Slot::stable(2));
        assert_eq!(slot(&store, 1), Slot::moving(2, 1, NOW + 1));
        assert_eq!(slot(&store, 2), Slot::stable(3));
        assert_eq!((report.settled_slots, report.moving_slots[&VIP]), (2, 1));
        assert_eq!(report.pinned_slots, BTreeMap::new());
    }

    #[test]
    fn a_slot_stays_pinned_while_a_flow_needs_it() {
        let store = store_with(Tracking::Auto);
        set_slot(&store, 0, Slot::moving(2, 1, NOW));
        put(&store, 0, 0, 1, EntryState::Confirmed, IDLE - 1);
        put(&store, 1, 0, 2, EntryState::Confirmed, 0);
        let report = run(&store);
        assert_eq!(slot(&store, 0), Slot::pinned(2));
        assert_eq!((report.pinned_slots[&VIP], report.tracked_flows), (1, 2));
        assert_eq!((report.flows[&1], report.flows[&2]), (1, 1));
        // The flow to the former backend ends: the slot settles, and then its other entry is needless.
        store.flows[5].entries[0].store(0);
        assert_eq!((run(&store).settled_slots, slot(&store, 0)), (1, Slot::stable(2)));
        let report = run(&store);
        assert_eq!((report.forgotten_flows, report.tracked_flows), (1, 0));
    }

    #[test]
    fn entries_end_by_their_state() {
        for (state, limit_s) in [
            (EntryState::Probation, IDLE),
            (EntryState::Confirmed, IDLE),
            (EntryState::Syn, SYN_TIMEOUT_S),
            (EntryState::Closing, CLOSING_TIMEOUT_S),
        ] {
            for (age_s, left) in [(limit_s - 1, 1), (limit_s, 0)] {
                let store = store_with(Tracking::Always);
                put(&store, 2, 9, 1, state, age_s);
                assert_eq!(run(&store).tracked_flows, left, "{state:?} at {age_s} s");
            }
        }
    }

    #[test]
    fn entries_of_dead_free_or_foreign_rows_end() {
        let store = store_with(Tracking::Always);
        kill(&store, 1);
        put(&store, 0, 9, 1, EntryState::Confirmed, 0);
        put(&store, 1, 9, 77, EntryState::Confirmed, 0);
        put(&store, 2, 251, 2, EntryState::Confirmed, 0);
        put(&store, 3, 250, 3, EntryState::Confirmed, 0);
        let report = run(&store);
        assert_eq!((report.forgotten_flows, report.tracked_flows, report.flows[&3]), (3, 1, 1));
    }

    #[test]
    fn always_keeps_entries_of_stable_slots_and_auto_does_not() {
        for (tracking, left) in [(Tracking::Always, 1), (Tracking::Auto, 0), (Tracking::Never, 0)] {
            let store = store_with(tracking);
            set_slot(&store, 9, Slot::stable(1));
            put(&store, 0, 9, 1, EntryState::Confirmed, 0);
            assert_eq!(run(&store).tracked_flows, left, "{tracking:?}");
        }
    }

    /// An entry is written before its trace: it may look old because it has just been made.
    #[test]
    fn an_entry_that_was_just_made_is_not_forgotten() {
        let store = store_with(Tracking::Auto);
        set_slot(&store, 0, Slot::moving(2, 1, NOW + 9));
        put(&store, 0, 0, 1, EntryState::Probation, IDLE * 2);
        let mut waits = 0;
        let report = sweep(&store, NOW, Rows::default(), &mut || {
            waits += 1;
            if waits == 2 {
                store.flows[5].traces[0].store(Trace::new(NOW, 0).0);
            }
        });
        assert_eq!((report.tracked_flows, report.forgotten_flows, waits), (1, 0, 2));
    }

    /// A packet that saw the slot moving inserts within the first grace period.
    #[test]
    fn a_late_insert_keeps_its_slot_pinned() {
        let store = store_with(Tracking::Auto);
        set_slot(&store, 0, Slot::moving(2, 1, NOW));
        let mut waits = 0;
        sweep(&store, NOW, Rows::default(), &mut || {
            waits += 1;
            if waits == 1 {
                put(&store, 0, 0, 1, EntryState::Probation, 0);
            }
        });
        assert_eq!(slot(&store, 0), Slot::pinned(2));
    }

    /// The scan judged the entry by the slot as it was: a slot that changed since must not settle by that judgement.
    #[test]
    fn a_slot_that_changes_under_the_sweep_waits() {
        let store = store_with(Tracking::Auto);
        set_slot(&store, 0, Slot::moving(3, 1, NOW + 50));
        put(&store, 0, 0, 3, EntryState::Confirmed, 0);
        let mut waits = 0;
        sweep(&store, NOW, Rows::default(), &mut || {
            waits += 1;
            if waits == 2 {
                // Backend 1 died: the next change pins the slot at once.
                set_slot(&store, 0, Slot::pinned(2));
            }
        });
        assert_eq!(slot(&store, 0), Slot::pinned(2));
    }

    fn put_nat(store: &Store, row: usize, backend: u16, state: NatState, age_s: u32) {
        store.nat[row].control.store(NatControl::new(backend, state, 5, NOW - age_s).0);
        store.nat[row].back.store(NextHop::new(Mac::from_octets([2; 6]), 8).0);
    }

    #[test]
    fn nat_rows_are_freed_when_they_are_over() {
        let store = store_with(Tracking::Always);
        kill(&store, 3);
        put_nat(&store, 1, 1, NatState::Live, IDLE);
        put_nat(&store, 2, 1, NatState::Live, IDLE + 1);
        put_nat(&store, 3, 1, NatState::Closing, NAT_CLOSING_S + 1);
        put_nat(&store, 4, 3, NatState::Live, 0);
        put_nat(&store, 5, 2, NatState::Claimed, 0);
        let report = run(&store);
        assert_eq!((report.nat_flows, report.freed_nat_flows, report.flows.get(&1)), (1, 4, Some(&1)));
        let freed = NatControl(store.nat[2].control.load());
        assert_eq!((freed.state(), freed.generation()), (NatState::Free, 5));
    }

    #[test]
    fn a_row_that_is_being_filled_is_left_alone() {
        let store = store_with(Tracking::Always);
        put_nat(&store, 5, 2, NatState::Claimed, 0);
        let mut waits = 0;
        let report = sweep(&store, NOW, Rows::default(), &mut || {
            waits += 1;
            if waits == 2 {
                put_nat(&store, 5, 2, NatState::Live, 0);
            }
        });
        assert_eq!((report.nat_flows, report.freed_nat_flows), (1, 0));
    }

    #[test]
    fn watched_rows_that_are_named_are_said() {
        let store = store_with(Tracking::Always);
        put(&store, 0, 9, 1, EntryState::Confirmed, 0);
        put_nat(&store, 1, 2, NatState::Live, 0);
        let content = EgressContent { ifindex: 2, mtu: 1500, source_mac: Mac(2), tags: Default::default() };
        let watched = Rows {
            backends: (1..=3).map(|row| (row, BackendId(row.into()))).collect(),
            egresses: [(8, content), (9, content)].into(),
        };
        let report = sweep(&store, NOW, watched.clone(), &mut || {});
        let named = |row| report.sweep.referenced.backends.contains_key(&row);
        assert_eq!([1, 2, 3].map(named), [true, true, false]);
        assert_eq!(report.sweep.referenced.egresses.keys().collect::<Vec<_>>(), [&8]);
        assert_eq!(report.sweep.watched, watched);
    }
}
