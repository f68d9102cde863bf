//! What a pass knows: what it plans from, what the pass before it left, and the plan for what differs.
//!
//! All of the maps is read back at the start, when a device or a sweep may have changed them, after every fault and every
//! lost race, and each time that it is time. Between those, whoever changed little is planned for alone, by the maps as
//! the last pass left them: there is no other writer of rows, but for a device that is being
//! attached. Not here: when a pass runs, and what is told of it.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use lb_common::ids::BackendId;
use lb_control::backend::Backend;
use lb_control::plan::{self, Actual, Footings, Last, Observed, Op, Problem, Settled, TableCache};
use lb_control::state::State;

use super::Ways;
use crate::breakers::SeenBreakers;
use crate::dataplane::{Attached, Dataplane, Fault, LiveSlots};
use crate::engine::Published;
use crate::probe::SeenHealth;

/// What a pass is made from.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// The state of intent.
    pub(super) state: Published,
    /// Health of the backends.
    pub(super) health: SeenHealth,
    /// Breakers of the backends.
    pub(super) breakers: SeenBreakers,
    /// Ways to the backends.
    pub(super) ways: Ways,
}

/// A whole pass.
#[derive(Debug)]
pub(super) struct Done {
    /// What it was made from.
    pub(super) wish: Wish,
    /// The maps after it.
    pub(super) actual: Arc<Actual<LiveSlots>>,
    /// What it did.
    pub(super) ops: Vec<Op>,
    /// What had no room in the maps.
    pub(super) problems: Vec<Problem>,
    /// Devices that the program is attached to.
    pub(super) attached: Vec<Attached>,
    /// Where the vips that it looked at stand, and who serves them.
    pub(super) footed: Footings,
    /// Whether it looked only at what had changed.
    pub(super) partial: bool,
}

/// What passes keep from one to the next.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Tables that were built.
    pub(super) tables: TableCache,
    /// What the slots rested on after the last whole pass.
    pub(super) settled: Settled,
    /// The last pass, if the next may rest on it.
    last: Option<Done>,
}

impl Wish {
    /// Backends of which something else is observed than before.
    fn observed_anew(&self, was: &Self) -> BTreeSet<BackendId> {
        let mut anew = BTreeSet::new();
        if !Arc::ptr_eq(&self.health, &was.health) {
            anew.extend(plan::changed(&*was.health, &*self.health));
        }
        if !Arc::ptr_eq(&self.breakers, &was.breakers) {
            anew.extend(plan::changed(&*was.breakers, &*self.breakers));
        }
        if !Arc::ptr_eq(&self.ways, &was.ways) {
            anew.extend(plan::changed(&*was.ways, &*self.ways));
        }
        anew
    }

    /// What is observed of some backends.
    fn observed<'b>(
        &self,
        backends: impl Iterator<Item = &'b Backend>,
        reached: impl Fn(&Backend) -> bool,
    ) -> Observed {
        let mut observed = Observed::default();
        for backend in backends {
            let id = backend.id;
            let seen = self.health.get(&id);
            observed.health.extend(seen.map(|seen| (id, seen.health)));
            observed.fell_ms.extend(seen.and_then(|seen| Some((id, seen.fell_ms()?))));
            observed.breakers.extend(self.breakers.get(&id).map(|seen| (id, seen.breaking)));
            let way = self.ways.get(&id).and_then(|way| way.as_ref().ok());
            observed.ways.extend(way.map(|way| (id, *way)));
            if way.is_none_or(|way| way.next_hop_mac.is_none()) && !reached(backend) {
                observed.unreached.insert(id);
            }
        }
        observed
    }

    /// What is observed of all backends and of the devices.
    pub(super) fn observed_all(&self, attached: &[Attached], actual: &Actual<LiveSlots>) -> Observed {
        // A way once known stays in its row, so the maps themselves remember who was ever reached.
        let rows = actual.backends.values().filter(|row| row.next_hop.is_known());
        let reached: BTreeSet<_> = rows.map(|row| (row.id, row.address)).collect();
        let backends = self.state.backends().map(|(.., backend)| backend);
        let observed = self.observed(backends, |backend| reached.contains(&(backend.id, backend.address)));
        let devices = attached.iter().filter_map(|one| Some((one.ifindex, one.device?))).collect();
        Observed { devices, ..observed }
    }

    /// What is observed of the backends of some vips.
    fn observed_of(&self, vips: &[&str], actual: &Actual<LiveSlots>) -> Observed {
        let vips: Vec<_> = vips.iter().filter_map(|name| self.state.vips.get(*name)).collect();
        let backends = || vips.iter().flat_map(|vip| vip.backends.values());
        // All rows are looked through for it: only if somebody has no way, which is seldom.
        let reached = LazyCell::new(|| -> BTreeSet<_> {
            let ids: BTreeSet<BackendId> = backends().map(|backend| backend.id).collect();
            let rows = actual.backends.values().filter(|row| row.next_hop.is_known());
            rows.filter(|row| ids.contains(&row.id)).map(|row| (row.id, row.address)).collect()
        });
        self.observed(backends(), |backend| reached.contains(&(backend.id, backend.address)))
    }
}

impl Known {
    /// The next pass reads everything back.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// What the next pass may rest on.
    pub(super) fn keep(&mut self, done: Done) {
        self.last = Some(Done { ops: Vec::new(), ..done });
    }

    /// Changes what a wish changes since the last pass; `None`: it takes a pass over everything, now or again.
    ///
    /// # Errors
    /// An operation failed. What was known is forgotten.
    pub(super) fn partial(&mut self, wish: &Wish, dataplane: &dyn Dataplane) -> Result<Option<Done>, Fault> {
        let Some(Done { wish: was, mut actual, attached, problems, .. }) = self.last.take() else {
            return Ok(None);
        };
        let state: &State = &wish.state;
        let Some(touched) = plan::touched(&was.state, state, &wish.observed_anew(&was)) else {
            return Ok(None);
        };
        let observed = wish.observed_of(&touched, &actual);
        let last = Last { actual: &*actual, settled: &self.settled, problems: &problems };
        let found = plan::partial(&touched, state, &observed, &mut self.tables, last, dataplane.now_s());
        let Some((plan, renewed, footed)) = found else { return Ok(None) };
        // Unless all is carried out, nobody knows what the slots rest on.
        let mut settled = std::mem::take(&mut self.settled);
        if dataplane.apply(&plan.ops)? > 0 {
            // The sweep was quicker somewhere.
            return Ok(None);
        }
        if !plan.ops.is_empty() {
            let actual = Arc::make_mut(&mut actual);
            plan.ops.iter().for_each(|op| actual.note(op));
        }
        settled.renew(renewed);
        self.settled = settled;
        let (wish, ops, problems) = (wish.clone(), plan.ops, plan.problems);
        Ok(Some(Done { wish, actual, ops, problems, attached, footed, partial: true }))
    }
}
