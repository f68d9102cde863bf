//! What a pass knows: what it plans from, what the pass before it left, and the plan for what differs.
//!
//! All of the maps is read back at the start, when a device or a sweep may have changed them, after every fault and every
//! lost race, and each time that it is time. Between those, whoever changed little is planned for alone, by the maps as
//! the last pass left them: there is no other writer of rows. Not here: when a pass runs, and what is told of it.
//!
//! A vip whose backends never rest does not take the reconciler from the others: after what was observed of it was planned
//! for, the next of that waits [`REST`] times as long as it took. What a person changes never waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lb_common::ids::{BackendId, VipId};
use lb_control::backend::Backend;
use lb_control::plan::{self, Actual, Footings, Last, Observed, Op, Problem, Settled, TableCache};
use lb_control::state::State;
use lb_control::vip::Vip;
use tokio::time::Instant;

use super::Ways;
use crate::breakers::SeenBreakers;
use crate::dataplane::{Attached, Dataplane, Fault, LiveSlots};
use crate::engine::Published;
use crate::probe::SeenHealth;

/// How much longer than planning for them took the observations of a vip wait for their next turn: it has a fifth of the
/// reconciler's time at most. Of ten backends that is less than a millisecond.
const REST: u32 = 4;

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
    /// Until when the observations of a vip wait.
    rests: BTreeMap<VipId, Instant>,
    /// What was observed and waits with such a vip.
    owed: BTreeSet<BackendId>,
    /// When the first of these have their turn.
    due: Option<Instant>,
}

impl Wish {
    /// Backends of which something else is observed than before.
    fn observed_anew(&self, was: &Self) -> BTreeSet<BackendId> {
        let mut anew = BTreeSet::new();
        if !Arc::ptr_eq(&self.health, &was.health) {
            anew.extend(plan::changed(&was.health, &self.health));
        }
        if !Arc::ptr_eq(&self.breakers, &was.breakers) {
            anew.extend(plan::changed(&was.breakers, &self.breakers));
        }
        if !Arc::ptr_eq(&self.ways, &was.ways) {
            anew.extend(plan::changed(&was.ways, &self.ways));
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
        let ids: BTreeSet<BackendId> =
            vips.iter().flat_map(|vip| vip.backends.values()).map(|backend| backend.id).collect();
        let rows = actual.backends.values().filter(|row| row.next_hop.is_known() && ids.contains(&row.id));
        let reached: BTreeSet<_> = rows.map(|row| (row.id, row.address)).collect();
        let backends = vips.iter().flat_map(|vip| vip.backends.values());
        self.observed(backends, |backend| reached.contains(&(backend.id, backend.address)))
    }
}

impl Known {
    /// The next pass reads everything back.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// What the next pass may rest on, if it was left without a problem.
    pub(super) fn keep(&mut self, done: Done) {
        if !done.partial {
            self.owed.clear();
            self.due = None;
        }
        self.last = done.problems.is_empty().then(|| Done { ops: Vec::new(), ..done });
    }

    /// When observations that wait have their turn; `None`: none waits, the maps are as the last wish was.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Of the vips that are `touched`, those whose turn it is; what was observed `anew` is owed to the others.
    fn whose_turn<'s>(
        &mut self,
        state: &State,
        touched: Vec<&'s str>,
        by_state: &[&str],
        anew: BTreeSet<BackendId>,
    ) -> Vec<&'s str> {
        let now = Instant::now();
        let rest = |name: &str| state.vips.get(name).and_then(|vip| self.rests.get(&vip.id)).copied();
        let (turn, resting): (Vec<&str>, Vec<&str>) = touched
            .into_iter()
            .partition(|name| by_state.contains(name) || rest(name).is_none_or(|until| until <= now));
        self.due = resting.iter().filter_map(|name| rest(name)).min();
        self.owed = if resting.is_empty() { BTreeSet::new() } else { anew };
        turn
    }

    /// Has these vips rest after they were planned for together, each for its part of what that took.
    fn rest<'v>(&mut self, vips: impl Iterator<Item = &'v Vip>, took: Duration) {
        let now = Instant::now();
        self.rests.retain(|_, until| *until > now);
        let sizes: Vec<(VipId, usize)> = vips.map(|vip| (vip.id, vip.backends.len())).collect();
        let all: usize = sizes.iter().map(|(_, size)| size).sum();
        for (id, size) in sizes {
            let part = took.mul_f64(size as f64 / all.max(1) as f64);
            self.rests.insert(id, now + part * REST);
        }
    }

    /// Changes what a wish changes since the last pass; `None`: it takes a pass over everything, now or again.
    ///
    /// # Errors
    /// An operation failed. What was known is forgotten.
    pub(super) fn partial(&mut self, wish: &Wish, dataplane: &dyn Dataplane) -> Result<Option<Done>, Fault> {
        let Some(Done { wish: was, mut actual, attached, .. }) = self.last.take() else { return Ok(None) };
        let (state, begin): (&State, Instant) = (&wish.state, Instant::now());
        let anew: BTreeSet<BackendId> = wish.observed_anew(&was).union(&self.owed).copied().collect();
        let touched = plan::touched(&was.state, state, &anew);
        let by_state = plan::touched(&was.state, state, &BTreeSet::new());
        let Some((touched, by_state)) = touched.zip(by_state) else { return Ok(None) };
        let touched = self.whose_turn(state, touched, &by_state, anew);
        let observed = wish.observed_of(&touched, &actual);
        let last = Last { actual: &*actual, settled: &self.settled };
        let found = plan::partial(&touched, state, &observed, &mut self.tables, last, dataplane.now_s());
        let Some((plan, renewed)) = found else { return Ok(None) };
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
        let vips = touched.iter().filter_map(|name| Some(&**state.vips.get(*name)?));
        let footed = plan::footings(vips.clone(), state, &observed);
        self.rest(vips, begin.elapsed());
        let (wish, ops, problems) = (wish.clone(), plan.ops, plan.problems);
        Ok(Some(Done { wish, actual, ops, problems, attached, footed, partial: true }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::decide::{Now, decide};
    use lb_control::limits::Limits;

    /// Vip `big` with 30 backends and vip `small` with one.
    fn state() -> State {
        let mut state = State::default();
        let mut run = |text: &str| {
            let events = decide(&state, &Limits::default(), Now(0), &serde_json::from_str(text).unwrap());
            events.unwrap().iter().for_each(|event| state.apply(event));
        };
        for (name, last) in [("big", 1), ("small", 2)] {
            run(&format!(
                r#"{{"kind":"vip_add","name":"{name}","address":"203.0.113.{last}","port":80,"mode":"l2"}}"#
            ));
        }
        for last in 1..=31 {
            let vip = if last == 31 { "small" } else { "big" };
            run(&format!(
                r#"{{"kind":"backend_add","vip":"{vip}","name":"b{last}","address":"10.0.0.{last}"}}"#
            ));
        }
        state
    }

    #[test]
    fn a_vip_that_took_long_rests_and_others_and_commands_do_not_wait_for_it() {
        let (state, mut known) = (state(), Known::default());
        let anew: BTreeSet<BackendId> = state.backends().map(|(.., one)| one.id).collect();
        let both = vec!["big", "small"];
        assert_eq!(known.whose_turn(&state, both.clone(), &[], anew.clone()), both);
        assert_eq!((known.owed.len(), known.due()), (0, None));
        // An hour's work: only the small one's part of it is over soon enough for a test.
        known.rest([&*state.vips["big"]].into_iter(), Duration::from_secs(3_600));
        assert_eq!(known.whose_turn(&state, both.clone(), &[], anew.clone()), ["small"]);
        assert_eq!(known.owed, anew);
        assert!(known.due().is_some_and(|due| due > Instant::now() + Duration::from_secs(3 * 3_600)));
        assert_eq!(known.whose_turn(&state, both.clone(), &["big"], anew), both, "a command does not wait");
        assert_eq!((known.owed.len(), known.due()), (0, None));
    }

    #[test]
    fn each_rests_for_its_own_part() {
        let (state, mut known) = (state(), Known::default());
        let begin = Instant::now();
        known.rest(state.vips.values().map(|vip| &**vip), Duration::from_secs(31));
        let rest = |name: &str| (known.rests[&state.vips[name].id] - begin).as_secs_f64();
        assert!((rest("big") - 120.0).abs() < 1.0 && (rest("small") - 4.0).abs() < 1.0);
    }
}
