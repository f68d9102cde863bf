//! The maps, modelled in memory: what carries a plan out where there is no kernel, and says whether what it finds
//! is safe for packets. For tests of the planner and of all that drives it.
//!
//! Flow and NAT tables are not modelled: what names rows from there comes in by [`super::Sweep`].

use super::actual::{Actual, Slots};
use super::op::{Op, SlotChange};
use crate::limits::Limits;
use crate::vip::Mode;
use lb_common::abi::backend::Control;
use lb_common::abi::slot::{Phase, Slot};
use std::collections::BTreeMap;
use std::fmt::Display;

/// The maps of a node.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Their content.
    pub actual: Actual<Vec<Slot>>,
    /// Extents that were written: first index to number of slots.
    written: BTreeMap<u32, u32>,
    /// Vip rows that were withdrawn, and whether packets that had them before are gone.
    withdrawn: BTreeMap<u16, bool>,
}

impl Memory {
    /// Empty maps.
    pub fn new(limits: Limits) -> Self {
        let actual =
            Actual { limits, slots: vec![Slot::default(); limits.slots as usize], ..Actual::default() };
        Self { actual, written: BTreeMap::new(), withdrawn: BTreeMap::new() }
    }

    /// Carries out one operation; returns the number of slots that held something else than was expected.
    ///
    /// # Errors
    /// A sentence: the operation does not fit what is there, such as a row to be filled that is in use.
    pub fn apply(&mut self, op: &Op) -> Result<usize, String> {
        let maps = &self.actual;
        match op {
            Op::WriteSource { number, .. } => vacant(maps.sources.contains_key(number), number)?,
            Op::WriteEgress { row, .. } => vacant(maps.egresses.contains_key(row), row)?,
            Op::WriteBackend { row, .. } => vacant(maps.backends.contains_key(row), row)?,
            Op::WriteTenant { row, .. } => vacant(maps.tenants.contains_key(row), row)?,
            Op::SetTenantLimits { row, .. } | Op::FreeTenant { row } => {
                used(maps.tenants.contains_key(row), row)?
            }
            Op::WriteVip { row, .. } => vacant(maps.vips.contains_key(row), row)?,
            Op::SetNextHop { row, .. }
            | Op::SetControl { row, .. }
            | Op::SetTrial { row, .. }
            | Op::SetBackendTenant { row, .. }
            | Op::FreeBackend { row } => {
                used(maps.backends.contains_key(row), row)?;
            }
            Op::SetVipPolicy { row, .. } | Op::SetVipRefusal { row, .. } | Op::SetVipTable { row, .. } => {
                used(maps.vips.contains_key(row), row)?;
            }
            Op::WithdrawVip { row } => {
                used(maps.vips.contains_key(row), row)?;
                self.withdrawn.insert(*row, false);
            }
            Op::FreeVip { row } => {
                used(maps.vips.contains_key(row), row)?;
                if self.withdrawn.remove(row) != Some(true) {
                    return Err(format!("packets may still find vip row {row}"));
                }
            }
            Op::Barrier => self.withdrawn.values_mut().for_each(|gone| *gone = true),
            Op::FreeEgress { row } => used(maps.egresses.contains_key(row), row)?,
            Op::FreeSource { number } => used(maps.sources.contains_key(number), number)?,
            Op::WriteSlots { first, values } => self.write_slots(*first, values)?,
            Op::ChangeSlots { first, changes, .. } => return Ok(self.change_slots(*first, changes)),
            Op::SetBypass { .. }
            | Op::SetPort { .. }
            | Op::RemovePort { .. }
            | Op::SetVipKey { .. }
            | Op::RemoveVipKey { .. } => {}
        }
        self.actual.note(op);
        Ok(0)
    }

    /// Whether packets find a vip row, by whatever leads them there.
    pub fn finds(&self, row: u16) -> bool {
        !self.withdrawn.contains_key(&row)
    }

    fn write_slots(&mut self, first: u32, values: &[Slot]) -> Result<(), String> {
        let (start, count) = (first as usize, values.len() as u32);
        let slots = self.actual.slots.get_mut(start..start + values.len());
        slots.ok_or_else(|| format!("slots {first} + {count} do not exist"))?.copy_from_slice(values);
        if let Some(vip) = self.actual.vips.values().find(|vip| overlap(vip.extent, (first, count))) {
            return Err(format!("slots {first} + {count} are vip {}'s", vip.id.0));
        }
        self.written.insert(first, count);
        Ok(())
    }

    fn change_slots(&mut self, first: u32, changes: &[SlotChange]) -> usize {
        let mut missed = 0;
        for change in changes {
            match self.actual.slots.get_mut((first + change.slot) as usize) {
                Some(slot) if *slot == change.old => *slot = change.new,
                _ => missed += 1,
            }
        }
        missed
    }

    /// Whether a packet that comes now, at `now_s` on the data plane's clock, finds nothing that it must not find.
    ///
    /// # Errors
    /// A sentence: what is unsafe.
    pub fn check(&self, now_s: u32) -> Result<(), String> {
        self.check_keys()?;
        self.check_extents()?;
        for (row, vip) in &self.actual.vips {
            let (first, count) = vip.extent;
            for index in first..first + count {
                self.check_slot(*row, index, now_s)?;
            }
        }
        self.check_tenants()?;
        self.check_ways()
    }

    /// A vip and its backends name no tenant, or the vip's.
    fn check_tenants(&self) -> Result<(), String> {
        let named = |row: u16| self.actual.tenants.get(&row).map(|tenant| tenant.id);
        for (row, vip) in self.actual.vips.iter().filter(|(_, vip)| vip.policy.tenant() != 0) {
            if named(vip.policy.tenant()) != Some(vip.tenant) {
                return Err(format!("vip row {row} names tenant row {}, another's", vip.policy.tenant()));
            }
        }
        let backends = self.actual.backends.iter().filter(|(_, backend)| backend.tenant != 0);
        match backends.clone().find(|(_, backend)| named(backend.tenant).is_none()) {
            Some((row, _)) => Err(format!("backend row {row} names a tenant row that is free")),
            None => Ok(()),
        }
    }

    fn check_keys(&self) -> Result<(), String> {
        for (key, entry) in &self.actual.keys {
            if key.is_mark() {
                let source = self.actual.sources.get(&(entry.row() as u8));
                if entry.is_source() && source != Some(&key.address) {
                    return Err(format!("the mark of {} names source {}", key.address, entry.row()));
                }
                continue;
            }
            let vip = u16::try_from(entry.row()).ok().and_then(|row| self.actual.vips.get(&row));
            if vip.is_none_or(|vip| vip.key != *key) {
                return Err(format!("{key:?} leads to row {}, which is another's or free", entry.row()));
            }
        }
        Ok(())
    }

    fn check_extents(&self) -> Result<(), String> {
        for (row, vip) in &self.actual.vips {
            let (first, count) = vip.extent;
            if self.written.get(&first) != Some(&count) {
                return Err(format!("vip row {row} names slots {first} + {count}, which were not written"));
            }
            let mut others = self.actual.vips.iter().filter(|(other, _)| *other != row);
            if others.any(|(_, other)| overlap(other.extent, vip.extent)) {
                return Err(format!("vip row {row} shares slots"));
            }
        }
        Ok(())
    }

    fn check_slot(&self, vip_row: u16, index: u32, now_s: u32) -> Result<(), String> {
        let slot = self.actual.slots.slot(index);
        let previous = if slot.phase(now_s) == Phase::Moving { slot.previous() } else { 0 };
        for row in [slot.current(), previous].into_iter().filter(|row| *row != 0) {
            let backend = self.actual.backends.get(&row);
            if backend.is_none_or(|backend| !self.serves(backend.control, vip_row)) {
                return Err(format!("{slot:?} of vip row {vip_row} names row {row}, another vip's or free"));
            }
        }
        Ok(())
    }

    /// Whether a backend may have flows of a vip: it is the vip's, or of one of the same tenant that it falls back on, or
    /// has none any more.
    pub(super) fn serves(&self, backend: Control, vip_row: u16) -> bool {
        let tenant = |row| self.actual.vips.get(&row).map(|vip| vip.tenant);
        let row = backend.vip_row();
        row == vip_row || !backend.alive() || tenant(row).is_some_and(|of| tenant(vip_row) == Some(of))
    }

    fn check_ways(&self) -> Result<(), String> {
        let maps = &self.actual;
        for (row, backend) in maps.backends.iter().filter(|(_, backend)| backend.next_hop.is_known()) {
            if !maps.egresses.contains_key(&backend.next_hop.egress()) {
                return Err(format!("backend row {row} names egress row {}", backend.next_hop.egress()));
            }
            let source = backend.control.source() as u8;
            if backend.control.mode() != Mode::L2 && !maps.sources.contains_key(&source) {
                return Err(format!("backend row {row} names source {source}"));
            }
        }
        match maps.ports.iter().find(|(_, egress)| !maps.egresses.contains_key(egress)) {
            Some((ifindex, egress)) => Err(format!("device {ifindex} names egress row {egress}")),
            None => Ok(()),
        }
    }
}

fn overlap(a: (u32, u32), b: (u32, u32)) -> bool {
    a.0 < b.0 + b.1 && b.0 < a.0 + a.1
}

fn vacant(in_use: bool, row: impl Display) -> Result<(), String> {
    if in_use { Err(format!("row {row} is in use")) } else { Ok(()) }
}

fn used(in_use: bool, row: impl Display) -> Result<(), String> {
    if in_use { Ok(()) } else { Err(format!("row {row} is free")) }
}
