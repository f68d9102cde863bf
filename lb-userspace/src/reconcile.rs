//! Makes the maps hold what they should: desired against what was read back from the kernel, again and again.
//!
//! A pass runs when the state, a health, a breaker, a way or a device changed, after a sweep that may have freed something, and
//! every [`RESYNC_S`] seconds in any case. One thread passes, another sweeps. Nobody else writes to the maps but who attaches a
//! device: it gets its way out and its port before its first packet, in the last free row, while a pass takes the first. A
//! pass that does not know of the device yet may remove them; the next one adds them again. What cannot be done now stays
//! pending with its reason and is tried again. Nothing here decides what the maps should hold; [`known`] says when a pass need
//! not look at everything.

mod known;
mod lent;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imbl::OrdMap;
use lb_common::ids::{BackendId, VipId};
use lb_control::code::Code;
use lb_control::degradation::{Footing, Rung};
use lb_control::observation::{Cause as Why, Change, OBSERVATION_VERSION, Object, Observation};
use lb_control::plan::{self, Actual, Op, Rows, Settled, Way};
use lb_control::vip::{Mode, Tracking, Vip};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::breakers::SeenBreakers;
use crate::clock::unix_ms;
use crate::dataplane::{AttachMode, Attached, AttachedMode, Dataplane, Fault, LiveSlots, SweepReport};
use crate::engine::Published;
use crate::probe::{Observe, SeenHealth};
use crate::vital;
use known::{Done, Known, Wish};
use lent::Lent;

/// Default time from one full comparison to the next when nothing changes, seconds.
pub const RESYNC_S: u32 = 10;
/// Between two looks at the devices, and between two sweeps.
const TICK: Duration = Duration::from_secs(1);
/// From one sweep to the next that a death brings, at least: ten thousand backends that flap must not keep it busy.
const AFTER_DEATH: Duration = Duration::from_millis(250);
/// Plans of one pass. Each but the first follows one that met slots which the sweep had just changed; a sweep changes a
/// slot twice at most.
const ROUNDS: usize = 4;
/// Until a pass that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The ways to the backends; of one that is not known, why.
pub type Ways = Arc<BTreeMap<BackendId, Result<Way, String>>>;

/// What a pass follows.
#[derive(Clone)]
pub struct Inputs {
    /// The state of intent.
    pub states: watch::Receiver<Published>,
    /// Health of the backends.
    pub health: watch::Receiver<SeenHealth>,
    /// Breakers of the backends.
    pub breakers: watch::Receiver<SeenBreakers>,
    /// Ways to the backends.
    pub ways: watch::Receiver<Ways>,
    /// Who is told what was observed.
    pub observe: Observe,
    /// Rung when a device was attached or detached.
    pub nudge: Arc<Notify>,
    /// From one full comparison to the next when nothing changes.
    pub resync: Duration,
}

/// How far the maps are, published after every pass and every sweep.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Revision of the state that the last whole pass brought into the maps.
    pub revision: u64,
    /// Whole passes so far.
    pub passes: u64,
    /// Where each vip stands on its ladder, as of the last whole pass.
    pub footings: OrdMap<VipId, Footing>,
    /// Those of them that looked only at what had changed.
    pub partial_passes: u64,
    /// What the last pass took, microseconds.
    pub pass_us: u64,
    /// What the longest took, microseconds.
    pub longest_pass_us: u64,
    /// What had no room in the maps.
    pub problems: Vec<plan::Problem>,
    /// Why the last pass is not whole.
    pub fault: Option<Fault>,
    /// Operations that a pass found necessary although nothing had changed: somebody else wrote to the maps.
    pub drift_ops: u64,
    /// Devices that the program is attached to.
    pub attached: Vec<Attached>,
    /// What the maps hold, as of the last whole pass; `None` before the first.
    pub actual: Option<Arc<Actual<LiveSlots>>>,
    /// What the last sweep found.
    pub swept: Arc<SweepReport>,
}

/// What the passing thread leaves for the sweeping one.
#[derive(Debug, Default)]
struct ToSweep {
    /// There may be slots that settle or entries that end.
    due: bool,
    /// Some vip remembers every flow, so there may always be entries that end.
    always: bool,
    /// The last whole pass: what rows a sweep can prove free follows from it.
    last: Option<(Published, Arc<Actual<LiveSlots>>)>,
}

/// Starts both threads of the reconciler; they end when the state's publisher is gone.
pub fn start(dataplane: Arc<dyn Dataplane>, inputs: Inputs) -> watch::Receiver<Standing> {
    let (standing, follow) = watch::channel(Standing::default());
    let standing = Arc::new(standing);
    let to_sweep = Arc::new(Mutex::new(ToSweep { due: true, ..ToSweep::default() }));
    let (swept, died) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let sweeper = Sweeper {
        died: died.clone(),
        dataplane: dataplane.clone(),
        to_sweep: to_sweep.clone(),
        standing: standing.clone(),
        swept: swept.clone(),
        states: inputs.states.clone(),
        lent: Lent::default(),
    };
    let passer = Passer {
        dataplane,
        inputs,
        standing,
        to_sweep,
        swept,
        died,
        known: Known::default(),
        makes_room: false,
    };
    spawn("reconcile", passer.run());
    spawn("sweep", sweeper.run());
    follow
}

/// Runs what may block in a thread with a runtime of its own, so that it holds nobody up.
fn spawn(name: &str, body: impl Future<Output = ()> + Send + 'static) {
    vital::spawn(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a daemon that starts can have a timer").block_on(body);
    });
}

struct Passer {
    dataplane: Arc<dyn Dataplane>,
    inputs: Inputs,
    standing: Arc<watch::Sender<Standing>>,
    to_sweep: Arc<Mutex<ToSweep>>,
    swept: Arc<Notify>,
    died: Arc<Notify>,
    known: Known,
    /// The last pass freed something, and something found no room in it.
    makes_room: bool,
}

/// Why a pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The state, a health, a breaker or a way changed: what the maps hold is as the last pass left it.
    Wish,
    /// A device changed, a sweep may have freed something, or the last pass was not whole.
    Maps,
    /// It was time.
    Resync,
    /// Nobody needs the maps any more.
    End,
}

impl Passer {
    async fn run(mut self) {
        let mut last = Instant::now();
        let mut cause = Cause::Maps;
        while cause != Cause::End {
            self.pass(cause);
            if cause == Cause::Resync {
                last = Instant::now();
            }
            cause = self.wait(last + self.inputs.resync).await;
        }
    }

    /// Until something changed, or it is time.
    async fn wait(&mut self, resync: Instant) -> Cause {
        if std::mem::take(&mut self.makes_room) {
            return Cause::Maps;
        }
        let retry = self.standing.borrow().fault.is_some();
        loop {
            let tick = Instant::now() + if retry { RETRY } else { TICK };
            tokio::select! {
                changed = self.inputs.states.changed() => {
                    return if changed.is_ok() { Cause::Wish } else { Cause::End };
                }
                Ok(()) = self.inputs.health.changed() => return Cause::Wish,
                Ok(()) = self.inputs.breakers.changed() => return Cause::Wish,
                Ok(()) = self.inputs.ways.changed() => return Cause::Wish,
                () = self.inputs.nudge.notified() => return Cause::Maps,
                () = self.swept.notified() => return Cause::Maps,
                () = tokio::time::sleep_until(tick.min(resync)) => {}
            }
            if retry || self.devices_changed() {
                return Cause::Maps;
            }
            if Instant::now() >= resync {
                return Cause::Resync;
            }
        }
    }

    /// Whether a device came, went or was renamed. One that vanished and is there again is attached again.
    fn devices_changed(&self) -> bool {
        let Ok(attached) = self.dataplane.attached() else { return true };
        for gone in attached.iter().filter(|attached| attached.device.is_none()) {
            if self.dataplane.device(&gone.name).is_ok() {
                let mode = match gone.mode {
                    AttachedMode::Native => AttachMode::Native,
                    AttachedMode::Generic => AttachMode::Generic,
                };
                let again = self.dataplane.attach(&gone.name, mode, false);
                tracing::info!(device = gone.name, ok = again.is_ok(), "a device is back");
            }
        }
        attached != self.standing.borrow().attached
    }

    fn pass(&mut self, cause: Cause) {
        let changed = self.inputs.states.has_changed().unwrap_or(true)
            || self.inputs.health.has_changed().unwrap_or(true)
            || self.inputs.breakers.has_changed().unwrap_or(true)
            || self.inputs.ways.has_changed().unwrap_or(true);
        let wish = Wish {
            state: self.inputs.states.borrow_and_update().clone(),
            health: self.inputs.health.borrow_and_update().clone(),
            breakers: self.inputs.breakers.borrow_and_update().clone(),
            ways: self.inputs.ways.borrow_and_update().clone(),
        };
        let begin = Instant::now();
        match self.compare_and_apply(&wish, cause) {
            Ok(done) => {
                let took_us = begin.elapsed().as_micros() as u64;
                let quiet = cause == Cause::Resync && !changed;
                let drift = if quiet { drifted(&done.ops) } else { 0 };
                if drift > 0 {
                    tracing::warn!(operations = drift, "the maps were not as they were left; repaired");
                }
                // What one plan frees is free for the next one only.
                self.makes_room = !done.problems.is_empty() && done.ops.contains(&Op::Barrier);
                self.leave_for_sweep(&done, cause);
                let footings = self.footings(&done);
                self.standing.send_modify(|standing| {
                    standing.revision = wish.state.revision;
                    standing.passes += 1;
                    standing.footings = footings;
                    standing.partial_passes += u64::from(done.partial);
                    standing.pass_us = took_us;
                    standing.longest_pass_us = standing.longest_pass_us.max(took_us);
                    standing.problems.clone_from(&done.problems);
                    standing.fault = None;
                    standing.drift_ops += drift;
                    standing.attached.clone_from(&done.attached);
                    standing.actual = Some(done.actual.clone());
                });
                self.known.keep(done);
            }
            Err(fault) => {
                tracing::error!(code = %fault.code, message = fault.message, "the maps are not as they should be");
                self.known.forget();
                self.standing.send_modify(|standing| standing.fault = Some(fault));
            }
        }
    }

    fn compare_and_apply(&mut self, wish: &Wish, cause: Cause) -> Result<Done, Fault> {
        if cause == Cause::Wish
            && let Some(done) = self.known.partial(wish, &*self.dataplane)?
        {
            return Ok(done);
        }
        let attached = self.dataplane.attached()?;
        let mut actual = self.dataplane.read()?;
        let observed = wish.observed_all(&attached, &actual);
        let desired = plan::desired(&wish.state, &observed, &mut self.known.tables);
        let mut ops = Vec::new();
        // After a fault, and when it is time, every slot is looked at.
        let was_settled = std::mem::take(&mut self.known.settled);
        let was_settled = if cause == Cause::Resync { Settled::default() } else { was_settled };
        for _ in 0..ROUNDS {
            let (plan, settled) = plan::diff_since(&desired, &actual, self.dataplane.now_s(), &was_settled);
            let missed = self.dataplane.apply(&plan.ops)?;
            if !plan.ops.is_empty() {
                ops.extend(plan.ops);
                actual = self.dataplane.read()?;
            }
            if missed == 0 {
                self.known.settled = settled;
                // What it proved has been used.
                actual.sweep = None;
                let footed = desired.footings();
                let (wish, actual, problems) = (wish.clone(), Arc::new(actual), plan.problems);
                return Ok(Done { wish, actual, ops, problems, attached, footed, partial: false });
            }
            tracing::debug!(slots = missed, "slots changed while they were planned; planning again");
        }
        Err(Fault::new(Code::SlotsContended, format!("slots changed under {ROUNDS} plans in a row")))
    }

    /// Where each vip stands now; what changed is told.
    fn footings(&self, done: &Done) -> OrdMap<VipId, Footing> {
        let mut footings = self.standing.borrow().footings.clone();
        let vips = &done.wish.state.vips;
        for (name, vip) in vips.iter().filter(|(_, vip)| done.footed.contains_key(&vip.id)) {
            let (footing, serving) = &done.footed[&vip.id];
            let was = footings.insert(vip.id, *footing).map(|was| was.rung);
            if let Some(from) = was.filter(|was| *was != footing.rung) {
                (self.inputs.observe)(stepped(name, vip, (from, footing.rung), serving));
            }
        }
        if footings.len() > vips.len() {
            let lives: BTreeSet<VipId> = vips.values().map(|vip| vip.id).collect();
            footings = footings.into_iter().filter(|(id, _)| lives.contains(id)).collect();
        }
        footings
    }

    fn leave_for_sweep(&self, done: &Done, cause: Cause) {
        let remembers = |vip: &lb_control::vip::Vip| {
            vip.settings.tracking == Tracking::Always || vip.settings.mode == Mode::Nat
        };
        let state = &done.wish.state;
        let free = || plan::unnamed(state, &done.actual, self.dataplane.now_s()) != Rows::default();
        // What frees rows in the course of time is looked for when there is time.
        let free = cause != Cause::Wish && free();
        let mut to_sweep = self.to_sweep.lock().unwrap_or_else(PoisonError::into_inner);
        to_sweep.due |= free || !done.ops.is_empty();
        to_sweep.always = state.vips.values().any(|vip| remembers(vip));
        to_sweep.last = Some((state.clone(), done.actual.clone()));
        let dies = |op: &Op| matches!(op, Op::SetControl { control, .. } if !control.alive());
        if done.ops.iter().any(dies) {
            self.died.notify_one();
        }
    }
}

/// That a vip left a rung of its ladder, with who serves now.
fn stepped(name: &str, vip: &Vip, (from, to): (Rung, Rung), serving: &[BackendId]) -> Observation {
    tracing::warn!(vip = name, %from, %to, "ladder");
    let serves = vip.backends.iter().filter(|(_, backend)| serving.contains(&backend.id));
    let serving: Vec<&str> = serves.map(|(name, _)| name.as_str()).collect();
    let evidence = match serving.len() {
        _ if to == Rung::Fallback => {
            format!(
                "new flows go to the pool of vip {}",
                vip.settings.ladder.fallback.as_deref().unwrap_or_default()
            )
        }
        0 => "no backend takes new flows".to_owned(),
        1..=5 => format!("new flows go to {}", serving.join(", ")),
        many => format!("new flows go to {many} backends"),
    };
    Observation {
        v: OBSERVATION_VERSION,
        at_ms: unix_ms(),
        seq: 0,
        object: Object::Vip { id: vip.id, vip: name.to_owned() },
        change: Change::LadderChanged { from, to },
        cause: Why::Pool,
        evidence,
    }
}

/// How many operations say that somebody else wrote to the maps. What the sweep proved free is freed in its own time.
fn drifted(ops: &[Op]) -> u64 {
    let own = |op: &&Op| {
        !matches!(
            op,
            Op::Barrier
                | Op::WithdrawVip { .. }
                | Op::FreeVip { .. }
                | Op::FreeTenant { .. }
                | Op::FreeBackend { .. }
                | Op::FreeEgress { .. }
                | Op::FreeSource { .. }
        )
    };
    ops.iter().filter(own).count() as u64
}

struct Sweeper {
    dataplane: Arc<dyn Dataplane>,
    to_sweep: Arc<Mutex<ToSweep>>,
    standing: Arc<watch::Sender<Standing>>,
    swept: Arc<Notify>,
    /// A backend has died: if it lives again before its entries are gone, whoever comes by the ports of one of them goes to
    /// it, trial or not.
    died: Arc<Notify>,
    states: watch::Receiver<Published>,
    lent: Lent,
}

impl Sweeper {
    /// Every second, and soon after a backend died, if there is something to sweep, until the state's publisher is gone.
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            tokio::select! {
                changed = self.states.changed() => if changed.is_err() { return } else { continue },
                () = self.died.notified() => {
                    tokio::time::sleep_until(last + AFTER_DEATH).await;
                    self.sweep();
                }
                _ = tick.tick() => self.sweep(),
            }
            last = Instant::now();
        }
    }

    fn sweep(&mut self) {
        let last = {
            let mut to_sweep = self.to_sweep.lock().unwrap_or_else(PoisonError::into_inner);
            if !to_sweep.due && !to_sweep.always {
                return;
            }
            to_sweep.due = false;
            to_sweep.last.clone()
        };
        let now_s = self.dataplane.now_s();
        let found = |(state, actual): (Published, Arc<Actual<LiveSlots>>)| {
            (plan::unnamed(&state, &actual, now_s), plan::borrowers(&state, &actual))
        };
        let (watched, borrowers) = last.map(found).unwrap_or_default();
        let frees = watched != Rows::default();
        match self.dataplane.sweep(watched, self.lent.with(borrowers)) {
            Ok(report) => {
                self.lent.forget_settled(&report);
                let (again, proves) = (frees || has_more(&report), proves(&report.sweep));
                self.to_sweep.lock().unwrap_or_else(PoisonError::into_inner).due |= again;
                self.standing.send_modify(|standing| standing.swept = Arc::new(report));
                if proves {
                    self.swept.notify_one();
                }
            }
            Err(fault) => {
                tracing::error!(code = %fault.code, message = fault.message, "could not sweep");
                self.to_sweep.lock().unwrap_or_else(PoisonError::into_inner).due = true;
            }
        }
    }
}

/// Whether it proved a row free. One that flows still name waits for their end, and a pass would find nothing to do.
fn proves(sweep: &plan::Sweep) -> bool {
    sweep.watched != sweep.referenced
}

/// Whether the next sweep may find something to settle or to forget.
fn has_more(report: &SweepReport) -> bool {
    report.tracked_flows > 0
        || report.nat_flows > 0
        || !report.moving_slots.is_empty()
        || !report.pinned_slots.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_that_proves_nothing_free_asks_for_no_pass() {
        let row = Rows { backends: BTreeMap::from([(7, BackendId(7))]), ..Rows::default() };
        let sweep = |watched: &Rows, referenced: &Rows| plan::Sweep {
            watched: watched.clone(),
            referenced: referenced.clone(),
        };
        assert!(proves(&sweep(&row, &Rows::default())));
        assert!(!proves(&sweep(&row, &row)), "a flow names it still");
        assert!(!proves(&sweep(&Rows::default(), &Rows::default())));
    }
}
