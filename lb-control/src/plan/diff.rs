//! Desired against actual: the operations between them, in an order whose every prefix is safe for packets.
//!
//! | stage | what | because |
//! |---|---|---|
//! | 1 | sources, ways out, ports, marks, tenants and their limits | before a backend or a vip names them |
//! | 2 | new backends, next hops, whom they count for, backends that gain | before a slot names them |
//! | 3 | new tables, vip rows, keys, policies | a key leads only to a whole vip |
//! | 4 | vip rows that go are withdrawn, then their keys | no packet meets the end of its vip, whatever led it there |
//! | 5 | backends that die | at once their entries are misses; from here a dead `previous` counts as dead |
//! | 6 | slots | the new `current` has its row; the old one lives on as `previous`, or is dead already |
//! | 7 | backends that take no new flows | after their slots: as long as a slot names one as `current`, it does |
//! | 7 | policies that stop picking | after their slots, which are no longer stable while picked flows live on |
//! | 8 | a barrier, then what is freed | no packet holds it, nothing names it |
//!
//! The bypass is turned on before all else, and off after.

use super::actual::{Actual, Slots};
use super::desired::Desired;
use super::layout::{Layout, Placed, layout};
use super::op::{BackendContent, Key, Op, VipContent};
use super::settled::{self, Basis, Settled};
use super::slots::{self, Alive, Rows};
use crate::code::Code;
use crate::vip::Mode;
use lb_common::abi::backend::Control;
use lb_common::abi::vip::VipEntry;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What to do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations. Every prefix is safe for packets.
    pub ops: Vec<Op>,
    /// What could not be planned: a table is full. The rest of the plan is good without it.
    pub problems: Vec<Problem>,
}

/// Something that could not be planned; it is tried again with the next diff.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Stable code.
    pub code: Code,
    /// Which: `vip NAME`, `backend VIP/NAME`, `tenant NAME` or `device IFINDEX`.
    pub object: String,
}

impl Problem {
    /// Name of the vip that it is of; `None`: of a tenant or a device.
    pub fn vip(&self) -> Option<&str> {
        let backend = || Some(self.object.strip_prefix("backend ")?.split_once('/')?.0);
        self.object.strip_prefix("vip ").or_else(backend)
    }
}

/// The operations that make `actual` what is desired. `now_s` is on the data plane's clock, seconds since boot.
/// Nothing to do gives no operations.
pub fn diff<S: Slots>(desired: &Desired, actual: &Actual<S>, now_s: u32) -> Plan {
    diff_since(desired, actual, now_s, &Settled::default()).0
}

/// The same without a look at the slots of vips that are `settled`; and what is when the plan has been carried out whole.
pub fn diff_since<S: Slots>(
    desired: &Desired,
    actual: &Actual<S>,
    now_s: u32,
    settled: &Settled,
) -> (Plan, Settled) {
    let mut builder = Builder::new(desired, actual, layout(desired, actual), now_s, settled);
    builder.bypass();
    builder.tenants();
    builder.ways();
    builder.keys();
    builder.backends();
    builder.vips();
    builder.frees();
    builder.plan()
}

/// The plan for vips that have their rows and keys, whose `layout` takes nothing that vips share: `part` of the maps has
/// their rows.
pub(super) fn diff_rows<S: Slots>(
    desired: &Desired,
    part: &Actual<S>,
    layout: Layout,
    now_s: u32,
    settled: &Settled,
) -> (Plan, Settled) {
    let mut builder = Builder::new(desired, part, layout, now_s, settled);
    builder.backends();
    builder.vips();
    builder.plan()
}

/// The stages of a plan, as in the table above.
#[derive(Default)]
struct Stages {
    bypass_on: Vec<Op>,
    ways: Vec<Op>,
    backends: Vec<Op>,
    vips: Vec<Op>,
    keys: Vec<Op>,
    rows_gone: Vec<Op>,
    keys_gone: Vec<Op>,
    deaths: Vec<Op>,
    slots: Vec<Op>,
    drains: Vec<Op>,
    frees: Vec<Op>,
    /// Whether the plan leaves something that the next one may use for something else.
    needs_barrier: bool,
    bypass_off: Vec<Op>,
}

impl Stages {
    fn in_order(self) -> Vec<Op> {
        let barrier = if self.needs_barrier { vec![Op::Barrier] } else { Vec::new() };
        [
            self.bypass_on,
            self.ways,
            self.backends,
            self.vips,
            self.keys,
            self.rows_gone,
            self.keys_gone,
            self.deaths,
            self.slots,
            self.drains,
            barrier,
            self.frees,
            self.bypass_off,
        ]
        .concat()
    }
}

/// Whether a vip's flows were not where their slots lead, and new ones will be.
fn stops_picking(was: &VipContent, is: &VipContent) -> bool {
    was.policy.picks() && !is.policy.picks()
}

struct Builder<'a, S> {
    desired: &'a Desired,
    actual: &'a Actual<S>,
    now_s: u32,
    layout: Layout,
    stages: Stages,
    was_settled: &'a Settled,
    settled: Settled,
}

impl<'a, S: Slots> Builder<'a, S> {
    fn new(
        desired: &'a Desired,
        actual: &'a Actual<S>,
        layout: Layout,
        now_s: u32,
        was_settled: &'a Settled,
    ) -> Self {
        let (stages, settled) = Default::default();
        Self { desired, actual, now_s, layout, stages, was_settled, settled }
    }

    fn plan(self) -> (Plan, Settled) {
        (Plan { ops: self.stages.in_order(), problems: self.layout.problems }, self.settled)
    }

    fn bypass(&mut self) {
        let on = self.desired.bypass;
        if on != self.actual.bypass {
            let stage = if on { &mut self.stages.bypass_on } else { &mut self.stages.bypass_off };
            stage.push(Op::SetBypass { on });
        }
    }

    fn ways(&mut self) {
        let ways = &mut self.stages.ways;
        let new_sources = self.layout.sources.iter().filter(|(n, _)| !self.actual.sources.contains_key(n));
        ways.extend(new_sources.map(|(&number, &address)| Op::WriteSource { number, address }));
        let new_egresses =
            self.layout.egresses.iter().filter(|(row, _)| !self.actual.egresses.contains_key(row));
        ways.extend(new_egresses.map(|(&row, &content)| Op::WriteEgress { row, content }));
        let ports = self.layout.ports.iter().filter(|(i, row)| self.actual.ports.get(i) != Some(row));
        ways.extend(ports.map(|(&ifindex, &egress)| Op::SetPort { ifindex, egress }));
        let gone = self.actual.ports.keys().filter(|ifindex| !self.desired.devices.contains_key(ifindex));
        self.stages.frees.extend(gone.map(|&ifindex| Op::RemovePort { ifindex }));
    }

    fn tenants(&mut self) {
        for placed in self.layout.tenants.values() {
            let Placed { row, content, was } = *placed;
            match was {
                None => self.stages.ways.push(Op::WriteTenant { row, content }),
                Some(was) if was.limits != content.limits => {
                    self.stages.ways.push(Op::SetTenantLimits { row, limits: content.limits });
                }
                Some(_) => {}
            }
        }
    }

    /// Tenants without limits, of whose vips and backends none is left that counted for them.
    fn freed_tenants(&self, rest: &BTreeMap<u16, BackendContent>) -> Vec<Op> {
        let wanted = self.layout.tenants.values().map(|placed| placed.row);
        let used: BTreeSet<u16> = wanted.chain(rest.values().map(|b| b.tenant)).collect();
        let gone = self.actual.tenants.keys().filter(|row| !used.contains(row));
        gone.map(|&row| Op::FreeTenant { row }).collect()
    }

    fn keys(&mut self) {
        let wanted = wanted_keys(&self.layout);
        for (&key, &entry) in &wanted {
            let set = Op::SetVipKey { key, entry };
            match self.actual.keys.get(&key) {
                Some(old) if *old == entry => {}
                _ if key.is_mark() => self.stages.ways.push(set),
                _ => self.stages.keys.push(set),
            }
        }
        let gone = self.actual.keys.keys().filter(|key| !wanted.contains_key(key));
        self.stages.keys_gone.extend(gone.map(|&key| Op::RemoveVipKey { key }));
    }

    fn backends(&mut self) {
        for placed in self.layout.backends.values() {
            let Placed { row, content, was } = *placed;
            let Some(was) = was else {
                self.stages.backends.push(Op::WriteBackend { row, content });
                continue;
            };
            if content.trial_cps != was.trial_cps {
                self.stages.backends.push(Op::SetTrial { row, trial_cps: content.trial_cps });
            }
            self.stages.control(row, was.control, content.control);
            if content.tenant != was.tenant {
                self.stages.backends.push(Op::SetBackendTenant { row, tenant: content.tenant });
            }
            if content.next_hop != was.next_hop {
                self.stages.backends.push(Op::SetNextHop { row, next_hop: content.next_hop });
            }
        }
        let used: BTreeSet<u16> = self.layout.backends.values().map(|placed| placed.row).collect();
        for (&row, content) in self.actual.backends.iter().filter(|(row, _)| !used.contains(row)) {
            let dead = Control(content.control.0 & !FLAGS);
            if dead != content.control {
                self.stages.deaths.push(Op::SetControl { row, control: dead });
            }
        }
    }

    fn vips(&mut self) {
        let alive = Alive::of(&self.layout);
        let lives = settled::lives(&self.layout, self.actual);
        let lives_of = |row: u16| lives.get(&row).cloned().unwrap_or_default();
        for (id, vip) in &self.desired.vips {
            let Some(Placed { row, content, was }) = self.layout.vips.get(id).copied() else { continue };
            let rows = Rows::of(vip, &self.layout);
            let (first, extent) = (content.extent.0, content.extent);
            let lender = vip.lender.and_then(|lender| self.layout.vips.get(&lender));
            let lent = lender.map(|lender| lives_of(lender.row)).unwrap_or_default();
            let basis = Basis::of(vip, extent, &rows, lives_of(row).into_iter().chain(lent).collect());
            if was.is_none_or(|was| was.extent != extent) {
                self.stages.vips.push(Op::WriteSlots { first, values: slots::fresh(vip, &rows) });
            } else if !self.was_settled.holds(*id, &basis) {
                let kept = was.is_some_and(|was| stops_picking(&was, &content));
                let changes = slots::changes(vip, &rows, &alive, (first, kept), self.actual, self.now_s);
                if !changes.is_empty() {
                    self.stages.slots.push(Op::ChangeSlots { vip_row: row, first, changes });
                }
            }
            self.vip_row(row, content, was);
            self.settled.insert(*id, basis);
        }
    }

    fn vip_row(&mut self, row: u16, content: VipContent, was: Option<VipContent>) {
        let Some(was) = was else {
            return self.stages.vips.push(Op::WriteVip { row, content });
        };
        if content.extent != was.extent {
            self.stages.vips.push(Op::SetVipTable { row, extent: content.extent });
            self.stages.needs_barrier = true;
        }
        if content.refuses != was.refuses {
            self.stages.vips.push(Op::SetVipRefusal { row, refuses: content.refuses });
        }
        if content.policy != was.policy {
            let late = stops_picking(&was, &content);
            let stage = if late { &mut self.stages.drains } else { &mut self.stages.vips };
            stage.push(Op::SetVipPolicy { row, policy: content.policy });
        }
    }

    /// Frees what nothing names: vips by their keys at once, backends and ways out when a sweep has proven it.
    fn frees(&mut self) {
        let kept: BTreeSet<u16> = self.layout.vips.values().map(|placed| placed.row).collect();
        let gone = || self.actual.vips.keys().filter(|row| !kept.contains(row));
        self.stages.rows_gone.extend(gone().map(|&row| Op::WithdrawVip { row }));
        let mut frees: Vec<Op> = gone().map(|&row| Op::FreeVip { row }).collect();
        let freed = self.freed_backends();
        frees.extend(freed.iter().map(|&row| Op::FreeBackend { row }));
        let rest = self.rest(&freed);
        frees.extend(self.freed_egresses(&rest));
        frees.extend(self.freed_sources(&rest));
        frees.extend(self.freed_tenants(&rest));
        self.stages.needs_barrier |= !frees.is_empty();
        self.stages.frees.extend(frees);
    }

    /// What a sweep has proven free stays so: a removed backend never returns, and no slot is ever led to it.
    fn freed_backends(&self) -> BTreeSet<u16> {
        let Some(sweep) = &self.actual.sweep else { return BTreeSet::new() };
        let proven =
            self.actual.backends.iter().filter(|(row, content)| sweep.frees_backend(**row, content.id));
        proven.map(|(row, _)| *row).collect()
    }

    /// The backend rows in use after the plan, by row.
    fn rest(&self, freed: &BTreeSet<u16>) -> BTreeMap<u16, BackendContent> {
        let old = self.actual.backends.iter().filter(|(row, _)| !freed.contains(row));
        let new = self.layout.backends.values().map(|placed| (placed.row, placed.content));
        old.map(|(row, content)| (*row, *content)).chain(new).collect()
    }

    fn freed_egresses(&self, rest: &BTreeMap<u16, BackendContent>) -> Vec<Op> {
        let Some(sweep) = &self.actual.sweep else { return Vec::new() };
        let hops = rest.values().map(|content| content.next_hop);
        let used: BTreeSet<u16> = (hops.filter(|hop| hop.is_known()).map(|hop| hop.egress()))
            .chain(self.layout.wanted_egresses.iter().copied())
            .collect();
        let free = |row: &u16, content| !used.contains(row) && sweep.frees_egress(*row, content);
        let gone = self.actual.egresses.iter().filter(|(row, content)| free(row, content));
        gone.map(|(&row, _)| Op::FreeEgress { row }).collect()
    }

    fn freed_sources(&self, rest: &BTreeMap<u16, BackendContent>) -> Vec<Op> {
        let used: BTreeSet<u8> = rest.values().filter_map(source_of).collect();
        let gone = self.actual.sources.keys().filter(|number| !used.contains(number));
        gone.map(|&number| Op::FreeSource { number }).collect()
    }
}

impl Stages {
    /// The change of a control word: what it gains, with all else but its flags, in one stage (before its next hop,
    /// which may wait for the source number); what it loses in a later one.
    fn control(&mut self, row: u16, was: Control, is: Control) {
        let gained = Control(is.0 | was.0 & FLAGS);
        if gained != was {
            self.backends.push(Op::SetControl { row, control: gained });
        }
        if is != gained {
            let losses = if is.alive() { &mut self.drains } else { &mut self.deaths };
            losses.push(Op::SetControl { row, control: is });
        }
    }
}

/// The bits of a control word that people and health decide.
const FLAGS: u64 = Control::ALIVE | Control::NEW;

/// The source number that a backend uses, if its mode needs one.
pub(super) fn source_of(content: &BackendContent) -> Option<u8> {
    (content.control.mode() != Mode::L2).then(|| content.control.source() as u8)
}

/// The keys of a layout: one a vip, one a vip's address, one a source address that NAT uses.
pub(super) fn wanted_keys(layout: &Layout) -> BTreeMap<Key, VipEntry> {
    let mut keys = BTreeMap::new();
    let mut mark = |address, bits| {
        let entry = keys.entry(Key::mark(address)).or_insert(VipEntry(0));
        *entry = VipEntry(entry.0 | bits);
    };
    for vip in layout.vips.values() {
        mark(vip.content.key.address, VipEntry::ADDRESS);
    }
    for backend in layout.backends.values().filter(|b| b.content.control.mode() == Mode::Nat) {
        let number = backend.content.control.source();
        if let Some(address) = layout.sources.get(&(number as u8)) {
            mark(*address, VipEntry::SOURCE | number);
        }
    }
    keys.extend(layout.vips.values().map(|vip| (vip.content.key, VipEntry(vip.row.into()))));
    keys
}
