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
use lb_common::abi::nat::{NatControl, NatRow, NatState, is_udp};
use lb_common::abi::slot::{Phase, Slot};
use lb_common::abi::tenant::TenantRow;
use lb_common::abi::vip::{Policy, VipRow, extent};
use lb_common::datapath::flow_table::{Worth, worth};
use lb_control::plan::{Borrowers, Rows};

use super::SweepReport;
use super::store::Store;

/// Sweeps everything. `borrowers`: whose flows may be on whose backends; `grace_period` returns after every packet that was
/// in the program when it was called has left.
pub(super) fn sweep(
    store: &Store,
    now_s: u32,
    watched: Rows,
    borrowers: &Borrowers,
    grace_period: &mut dyn FnMut(),
) -> SweepReport {
    let (nat_flows, ways_back) = (BTreeMap::new(), BTreeSet::new());
    let tenants = vec![[0; 2]; store.tenants.len()];
    let report = SweepReport::default();
    let mut run = Run { store, now_s, borrowers, held: Vec::new(), nat_flows, ways_back, tenants, report };
    run.report.sweep.watched = watched;
    let vips = run.vips();
    // Tables use little of the room that there is for them.
    let used = vips.iter().map(|vip| vip.first as usize + vip.count as usize).max();
    run.held = vec![false; used.unwrap_or(0)];
    let pinned = run.end_windows(&vips);
    grace_period();
    let before = run.tenant_counts();
    let doubtful = run.scan_flows();
    let claimed = run.scan_nat();
    run.correct_tenants(&before);
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
    borrowers: &'s Borrowers,
    /// By slot index, as far as tables reach: whether a live entry names another backend than `current`.
    held: Vec<bool>,
    /// Rows of the NAT table by backend row.
    nat_flows: BTreeMap<u16, u64>,
    /// Egress rows that NAT flows go back by.
    ways_back: BTreeSet<u16>,
    /// By tenant row: entries and NAT rows that the scan met.
    tenants: Vec<[i64; 2]>,
    report: SweepReport,
}

/// What is to be done with an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It lives.
    Lives,
    /// It is over, or says what its stable slot says anyway.
    Over,
}

/// The slot of an entry's flow, if it is a flow of a certain vip.
struct Place {
    policy: Policy,
    index: usize,
    slot: Slot,
}

/// Where an entry's flow belongs: to the vip of its backend or to one that borrowed the backend. The entry does not say
/// which, so whoever asks must be right for each of them.
fn places<'s>(store: &'s Store, borrowers: &'s Borrowers, entry: Entry) -> impl Iterator<Item = Place> + 's {
    let owner = control_of(store, entry.backend()).map(Control::vip_row);
    let borrowed_by = owner.and_then(|row| borrowers.get(&row)).into_iter().flatten().copied();
    owner.into_iter().chain(borrowed_by).filter_map(move |row| {
        let vip = store.vips.get(row as usize).filter(|vip| is_used(vip))?;
        let (first, count) = extent(vip.table.load());
        let index = first as usize + entry.slot() as usize;
        let word = store.slots.get(index).filter(|_| entry.slot() < count)?;
        Some(Place { policy: Policy(vip.policy.load()), index, slot: Slot(word.load()) })
    })
}

fn is_used(vip: &VipRow) -> bool {
    vip.key.load() >> 32 & 1 != 0
}

/// The control word of a backend row in use.
fn control_of(store: &Store, backend: u16) -> Option<Control> {
    let row = store.backends.get(backend as usize).filter(|row| row.identity.load() != 0)?;
    Some(Control(row.control.load()))
}

impl Run<'_> {
    fn vips(&self) -> Vec<Vip> {
        let used = self.store.vips.iter().enumerate().filter(|(_, vip)| is_used(vip));
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
                if entry.is_flow() {
                    self.meet(entry.backend(), 0);
                }
                match self.fate(flows, way, entry) {
                    Fate::Lives => self.keep(entry),
                    Fate::Over => doubtful.push((bucket, way, entry)),
                }
            }
        }
        doubtful
    }

    /// What is to be done with an entry. The slot is read after the entry: if it is stable then, every packet of the
    /// flow went to `current` since, and a slot that moves after that begins with `previous` = this `current`.
    fn fate(&self, flows: &FlowBucket, way: usize, entry: Entry) -> Fate {
        let Some((control, _)) = self.owner(entry.backend()) else { return Fate::Over };
        let age_s = Trace(flows.traces[way].load()).age_s(self.now_s);
        let lives = |Place { policy, slot, .. }: Place| {
            worth(entry, age_s, policy, control.alive()) != Worth::Nothing
                // A source address that comes back gets another backend: one that drains is not waited for.
                && if entry.is_flow() { policy.always() || !slot.is_stable() } else { control.takes_new() }
        };
        if places(self.store, self.borrowers, entry).any(lives) { Fate::Lives } else { Fate::Over }
    }

    /// A backend row's control word and its vip, both in use.
    fn owner(&self, backend: u16) -> Option<(Control, &VipRow)> {
        let control = control_of(self.store, backend)?;
        let vip = self.store.vips.get(control.vip_row() as usize).filter(|vip| is_used(vip))?;
        Some((control, vip))
    }

    /// Counts an entry that lives, and has the slots wait that would lead its flow elsewhere.
    fn keep(&mut self, entry: Entry) {
        if !entry.is_flow() {
            return;
        }
        self.report.tracked_flows += 1;
        *self.report.flows.entry(entry.backend()).or_default() += 1;
        for Place { index, slot, .. } in places(self.store, self.borrowers, entry) {
            // Beyond lie the slots of a vip that came meanwhile: this sweep ends no window of it.
            if let Some(held) = self.held.get_mut(index) {
                *held |= slot.current() != entry.backend();
            }
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
            self.uncount(entry);
            if let Some(tenant) = self.tenant_of(entry.backend()).filter(|_| entry.is_flow()) {
                tenant.connections.add(-1);
            }
            return;
        }
        // It changed under us: whatever it is now counts, and what it names is named.
        let now = Entry(flows.entries[way].load());
        if now.state() != EntryState::Free {
            self.keep(now);
        }
    }

    /// Whoever ends an entry that is counted changes its backend's count.
    fn uncount(&self, entry: Entry) {
        if let Some(row) = self.store.backends.get(entry.backend() as usize).filter(|_| entry.is_counted()) {
            row.connections.add(-1);
        }
    }

    /// Frees NAT rows that are over and counts the others; returns those that are being filled.
    fn scan_nat(&mut self) -> Vec<(usize, NatControl)> {
        let store = self.store;
        let mut claimed = Vec::new();
        for (number, row) in store.nat.iter().enumerate() {
            let control = NatControl(row.control.load());
            if control.state() != NatState::Free {
                self.meet(control.backend(), 1);
            }
            match control.state() {
                NatState::Free => continue,
                NatState::Claimed => claimed.push((number, control)),
                _ if self.nat_is_over(number, control) && self.free(row, control) => {
                    self.report.freed_nat_flows += 1;
                    continue;
                }
                _ => {}
            }
            self.keep_nat(row);
        }
        claimed
    }

    fn nat_is_over(&self, number: usize, control: NatControl) -> bool {
        let Some((backend, vip)) = self.owner(control.backend()) else { return true };
        let idle_s = Policy(vip.policy.load()).idle_s();
        !backend.alive() || control.is_over(self.now_s, is_udp(number), idle_s)
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
        if self.free(&self.store.nat[number], control) {
            self.report.freed_nat_flows += 1;
            self.report.nat_flows -= 1;
        }
    }

    /// Frees a NAT row, keeping its generation and its time, if it is still as it was.
    fn free(&self, row: &NatRow, control: NatControl) -> bool {
        let free = NatControl::new(0, NatState::Free, control.generation(), control.seen_s());
        let done = row.control.compare_swap(control.0, free.0);
        if let Some(tenant) = self.tenant_of(control.backend()).filter(|_| done) {
            tenant.nat_ports.add(-1);
        }
        done
    }

    /// The counts of every tenant row: entries, NAT rows.
    fn tenant_counts(&self) -> Vec<[i64; 2]> {
        let counts = |row: &TenantRow| [&row.connections, &row.nat_ports].map(|word| word.load() as i64);
        self.store.tenants.iter().map(counts).collect()
    }

    /// Notes an entry (0) or a NAT row (1) for its tenant.
    fn meet(&mut self, backend: u16, kind: usize) {
        let Some(row) = self.store.backends.get(backend as usize) else { return };
        if let Some(counts) = self.tenants.get_mut(row.tenant() as usize) {
            counts[kind] += 1;
        }
    }

    /// Puts right what a tenant's row counts, where the scan met more or less than it said before and after: it begins
    /// with nothing when a tenant gets its first limit. What came and went under the scan is no error.
    fn correct_tenants(&self, before: &[[i64; 2]]) {
        let after = self.tenant_counts();
        let rows = self.store.tenants.iter().enumerate().skip(1);
        for (number, row) in rows.filter(|(_, row)| row.identity.load() != 0) {
            for (kind, word) in [&row.connections, &row.nat_ports].into_iter().enumerate() {
                let (was, is, met) = (before[number][kind], after[number][kind], self.tenants[number][kind]);
                let wrong = met - met.clamp(was.min(is), was.max(is));
                if wrong != 0 {
                    word.add(wrong);
                }
            }
        }
    }

    /// The tenant that the flows of a backend row count for, if it has limits.
    fn tenant_of(&self, backend: u16) -> Option<&TenantRow> {
        let row = Some(self.store.backends.get(backend as usize)?.tenant()).filter(|row| *row != 0)?;
        self.store.tenants.get(row as usize)
    }

    /// Pinned slots that no entry holds become stable; but where a backend is on trial, its new connections are counted
    /// only as long as packets look at more than the slot.
    fn settle_slots(&mut self, pinned: &[(usize, Slot)]) {
        for (index, slot) in pinned {
            let word = &self.store.slots[*index];
            let backend = self.store.backends.get(slot.current() as usize);
            let tried = backend.is_some_and(|row| row.trial_cps.load() != 0);
            if !self.held[*index] && !tried && word.compare_swap(slot.0, Slot::stable(slot.current()).0) {
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

#[cfg(test)]
mod tests;
