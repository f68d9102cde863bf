//! Which row, number or extent everything desired has: the one that it has already, or the first that is free.
//!
//! What one plan frees is free for the next one only, so nothing is reused while a packet may still hold it.

use super::actual::Actual;
use super::desired::{Desired, DesiredBackend, DesiredVip, Way};
use super::diff::Problem;
use super::extent::Extents;
use super::op::{BackendContent, EgressContent, Key, VipContent};
use super::tenants::{RowLimits, TenantContent};
use crate::code::Code;
use crate::vip::Mode;
use lb_common::abi::backend::{Control, NextHop};
use lb_common::addr::Mac;
use lb_common::be::Be16;
use lb_common::ids::{BackendId, TenantId, VipId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A row with what shall be in it, and what is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<C> {
    /// Row.
    pub(super) row: u16,
    /// What shall be in it.
    pub(super) content: C,
    /// What is in it; `None`: the row is free.
    pub(super) was: Option<C>,
}

/// The place of everything desired.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Tenants with limits. One that finds no place has none for now.
    pub(super) tenants: BTreeMap<TenantId, Placed<TenantContent>>,
    /// Vips. One that finds no place is missing, and its backends with it.
    pub(super) vips: BTreeMap<VipId, Placed<VipContent>>,
    /// Backends.
    pub(super) backends: BTreeMap<BackendId, Placed<BackendContent>>,
    /// Ways out, those in use and the new ones, by row.
    pub(super) egresses: BTreeMap<u16, EgressContent>,
    /// Those of them that are wanted, though perhaps nothing names them yet: a next hop that is not resolved.
    pub(super) wanted_egresses: BTreeSet<u16>,
    /// Source addresses, those in use and the new ones, by number.
    pub(super) sources: BTreeMap<u8, IpAddr>,
    /// Interface index to egress row.
    pub(super) ports: BTreeMap<u32, u16>,
    /// What found no place.
    pub(super) problems: Vec<Problem>,
}

/// Finds a place for everything desired.
pub(super) fn layout<S>(desired: &Desired, actual: &Actual<S>) -> Layout {
    layout_among(desired, actual, actual)
}

/// Finds a place for what is desired of a `part` of the maps: what is free, `whole` says.
pub(super) fn layout_among<S, T>(desired: &Desired, part: &Actual<S>, whole: &Actual<T>) -> Layout {
    let mut layout =
        Layout { egresses: part.egresses.clone(), sources: part.sources.clone(), ..Layout::default() };
    layout.problems.clone_from(&desired.problems);
    layout.place_tenants(desired, part);
    layout.place_vips(desired, part, whole);
    layout.place_ports(desired, part);
    layout.place_backends(desired, part, whole);
    layout
}

/// The rows of a range that are not in use, in order.
fn free_rows(used: impl Fn(&u16) -> bool, rows: std::ops::Range<u32>) -> impl Iterator<Item = u16> {
    rows.filter_map(|row| u16::try_from(row).ok()).filter(move |row| !used(row))
}

impl Layout {
    fn problem(&mut self, code: Code, object: impl Into<String>) {
        self.problems.push(Problem { code, object: object.into() });
    }

    fn place_tenants<S>(&mut self, desired: &Desired, actual: &Actual<S>) {
        let mut free =
            free_rows(|row| actual.tenants.contains_key(row), 1..actual.limits.tenants.saturating_add(1));
        for (id, tenant) in &desired.tenants {
            let old = actual.tenants.iter().find(|(_, content)| content.id == *id);
            let Some(row) = old.map(|(row, _)| *row).or_else(|| free.next()) else {
                self.problem(Code::TenantRowsFull, format!("tenant {}", tenant.name));
                continue;
            };
            let content = TenantContent { id: *id, limits: RowLimits::of(&tenant.limits, &actual.limits) };
            self.tenants.insert(*id, Placed { row, content, was: old.map(|(_, old)| *old) });
        }
    }

    /// The row of a tenant; 0 = it has no limits, or found no place.
    fn tenant_row(&self, id: TenantId) -> u16 {
        self.tenants.get(&id).map_or(0, |placed| placed.row)
    }

    fn place_vips<S, T>(&mut self, desired: &Desired, actual: &Actual<S>, whole: &Actual<T>) {
        let mut free = free_rows(|row| whole.vips.contains_key(row), 0..whole.limits.vips);
        let mut extents = None;
        // Serials alone do not tell: the maps may stem from another log. Of two rows of one vip the lower stays.
        let rows: BTreeMap<(VipId, Key), (u16, &VipContent)> =
            actual.vips.iter().rev().map(|(row, vip)| ((vip.id, vip.key), (*row, vip))).collect();
        for (id, vip) in &desired.vips {
            let old = rows.get(&(*id, vip.key)).copied();
            let fits = |old: &VipContent| {
                let end = u64::from(old.extent.0) + u64::from(old.extent.1);
                old.extent.1 == vip.table_size && end <= actual.limits.slots.into()
            };
            let extent = match old {
                Some((_, old)) if fits(old) => Some(old.extent),
                _ => extents
                    .get_or_insert_with(|| Extents::of(whole.vips.values().map(|vip| vip.extent)))
                    .take(vip.table_size, actual.limits.slots),
            };
            let row = old.map(|(row, _)| row).or_else(|| free.next());
            match (row, extent) {
                (Some(row), Some(extent)) => {
                    let policy = vip.policy.with_tenant(self.tenant_row(vip.tenant));
                    let (tenant, key, refuses) = (vip.tenant, vip.key, vip.refuses);
                    let content = VipContent { id: *id, tenant, key, extent, policy, refuses };
                    self.vips.insert(*id, Placed { row, content, was: old.map(|(_, old)| *old) });
                }
                (None, _) => self.problem(Code::VipRowsFull, format!("vip {}", vip.name)),
                (_, None) => self.problem(Code::SlotsFull, format!("vip {}", vip.name)),
            }
        }
    }

    fn place_ports<S>(&mut self, desired: &Desired, actual: &Actual<S>) {
        for (ifindex, device) in &desired.devices {
            match self.egress(device.egress(*ifindex), actual) {
                Some(row) => drop(self.ports.insert(*ifindex, row)),
                None => self.problem(Code::EgressRowsFull, format!("device {ifindex}")),
            }
        }
    }

    fn place_backends<S, T>(&mut self, desired: &Desired, actual: &Actual<S>, whole: &Actual<T>) {
        let mut free =
            free_rows(|row| whole.backends.contains_key(row), 1..whole.limits.backends.saturating_add(1));
        let rows: BTreeMap<(BackendId, IpAddr), (u16, &BackendContent)> =
            actual.backends.iter().rev().map(|(row, old)| ((old.id, old.address), (*row, old))).collect();
        for (vip_id, vip) in &desired.vips {
            let Some(vip_row) = self.vips.get(vip_id).map(|vip| vip.row) else { continue };
            for (id, backend) in &vip.backends {
                let old = rows.get(&(*id, backend.address)).copied();
                let Some(row) = old.map(|(row, _)| row).or_else(|| free.next()) else {
                    self.problem(Code::BackendRowsFull, name(vip, backend));
                    continue;
                };
                let was = old.map(|(_, old)| *old);
                let content = self.backend(*id, vip, vip_row, backend, was.as_ref(), actual);
                self.backends.insert(*id, Placed { row, content, was });
            }
        }
    }

    /// A backend's row. Where its way is not known, or finds no place, what is in the row stays.
    fn backend<S>(
        &mut self,
        id: BackendId,
        vip: &DesiredVip,
        vip_row: u16,
        backend: &DesiredBackend,
        was: Option<&BackendContent>,
        actual: &Actual<S>,
    ) -> BackendContent {
        let old_source = was.map_or(0, |was| was.control.source() as u8);
        let old_hop = was.map_or(NextHop::default(), |was| was.next_hop);
        let (source, next_hop) = match &backend.way {
            Some(way) => self.way(vip, backend, way, old_hop, actual).unwrap_or((old_source, old_hop)),
            None => (old_source, old_hop),
        };
        let port = Be16::new(backend.port);
        let control =
            Control::new(backend.flags, backend.mode, source, vip_row, port).with_weight(backend.weight);
        let tenant = self.tenant_row(vip.tenant);
        let trial_cps = backend.trial_cps;
        BackendContent { id, address: backend.address, control, next_hop, tenant, trial_cps }
    }

    /// Source number and next hop of a way; `None` where a table is full.
    fn way<S>(
        &mut self,
        vip: &DesiredVip,
        backend: &DesiredBackend,
        way: &Way,
        old_hop: NextHop,
        actual: &Actual<S>,
    ) -> Option<(u8, NextHop)> {
        let Some(egress) = self.egress(way.egress(), actual) else {
            self.problem(Code::EgressRowsFull, name(vip, backend));
            return None;
        };
        let source = if backend.mode == Mode::L2 { Some(0) } else { self.source(way.source, actual) };
        let Some(source) = source else {
            self.problem(Code::SourcesFull, name(vip, backend));
            return None;
        };
        let next_hop = match way.next_hop_mac {
            Some(mac) => NextHop::new(mac, egress),
            None if old_hop.is_known() => old_hop,
            None => NextHop::new(Mac(0), egress),
        };
        Some((source, next_hop))
    }

    /// The egress row of a way out.
    fn egress<S>(&mut self, wanted: EgressContent, actual: &Actual<S>) -> Option<u16> {
        let known = self.egresses.iter().find(|(_, content)| **content == wanted).map(|(row, _)| *row);
        let row = known
            .or_else(|| free_rows(|row| self.egresses.contains_key(row), 0..actual.limits.egresses).next())?;
        self.egresses.entry(row).or_insert(wanted);
        self.wanted_egresses.insert(row);
        Some(row)
    }

    /// The number of a source address.
    fn source<S>(&mut self, wanted: IpAddr, actual: &Actual<S>) -> Option<u8> {
        if let Some((number, _)) = self.sources.iter().find(|(_, address)| **address == wanted) {
            return Some(*number);
        }
        let mut numbers = 0..u8::try_from(actual.limits.sources).unwrap_or(u8::MAX);
        let number = numbers.find(|number| !self.sources.contains_key(number))?;
        self.sources.insert(number, wanted);
        Some(number)
    }
}

fn name(vip: &DesiredVip, backend: &DesiredBackend) -> String {
    format!("backend {}/{}", vip.name, backend.name)
}
