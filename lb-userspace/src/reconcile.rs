//! Makes the maps hold what they should: desired against what was read back from the kernel, again and again.
//!
//! A pass runs when the state, a health, a way or a device changed, after a sweep that may have freed something, and
//! every [`RESYNC_S`] seconds in any case. One thread passes, another sweeps; nobody else writes to the maps. What cannot be
//! done now stays pending with its reason and is tried again. Nothing here decides what the maps should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lb_common::ids::BackendId;
use lb_control::code::Code;
use lb_control::plan::{self, Actual, Desired, Observed, Op, Rows, Settled, TableCache, Way};
use lb_control::state::State;
use lb_control::vip::{Mode, Tracking};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::dataplane::{AttachMode, Attached, AttachedMode, Dataplane, Fault, LiveSlots, SweepReport};
use crate::engine::Published;
use crate::probe::SeenHealth;
use crate::vital;

/// Default time from one full comparison to the next when nothing changes, seconds.
pub const RESYNC_S: u64 = 10;
/// Between two looks at the devices, and between two sweeps.
const TICK: Duration = Duration::from_secs(1);
/// Plans of one pass. Each but the first follows one that met slots which the sweep had just changed; a sweep changes a
/// slot twice at most.
const ROUNDS: usize = 4;
/// Until a pass that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The ways to the backends; of one that is not known, why.
pub type Ways = Arc<BTreeMap<BackendId, Result<Way, String>>>;

/// What a pass follows.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The state of intent.
    pub states: watch::Receiver<Published>,
    /// Health of the backends.
    pub health: watch::Receiver<SeenHealth>,
    /// Ways to the backends.
    pub ways: watch::Receiver<Ways>,
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
    /// Rows that a sweep can prove free.
    watched: Rows,
}

/// Starts both threads of the reconciler; they end when the state's publisher is gone.
pub fn start(dataplane: Arc<dyn Dataplane>, inputs: Inputs) -> watch::Receiver<Standing> {
    let (standing, follow) = watch::channel(Standing::default());
    let standing = Arc::new(standing);
    let to_sweep = Arc::new(Mutex::new(ToSweep { due: true, ..ToSweep::default() }));
    let swept = Arc::new(Notify::new());
    let sweeper = Sweeper {
        dataplane: dataplane.clone(),
        to_sweep: to_sweep.clone(),
        standing: standing.clone(),
        swept: swept.clone(),
        states: inputs.states.clone(),
    };
    let passer = Passer {
        dataplane,
        inputs,
        standing,
        to_sweep,
        swept,
        tables: TableCache::default(),
        settled: Settled::default(),
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
    tables: TableCache,
    /// What the slots rested on after the last whole pass.
    settled: Settled,
}

/// Why a pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Something changed, or the last pass was not whole.
    Change,
    /// It was time.
    Resync,
    /// Nobody needs the maps any more.
    End,
}

impl Passer {
    async fn run(mut self) {
        let mut last = Instant::now();
        let mut cause = Cause::Change;
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
        let retry = self.standing.borrow().fault.is_some();
        loop {
            let tick = Instant::now() + if retry { RETRY } else { TICK };
            tokio::select! {
                changed = self.inputs.states.changed() => {
                    return if changed.is_ok() { Cause::Change } else { Cause::End };
                }
                Ok(()) = self.inputs.health.changed() => return Cause::Change,
                Ok(()) = self.inputs.ways.changed() => return Cause::Change,
                () = self.inputs.nudge.notified() => return Cause::Change,
                () = self.swept.notified() => return Cause::Change,
                () = tokio::time::sleep_until(tick.min(resync)) => {}
            }
            if retry || self.devices_changed() {
                return Cause::Change;
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
            || self.inputs.ways.has_changed().unwrap_or(true);
        let state = self.inputs.states.borrow_and_update().clone();
        match self.compare_and_apply(&state, cause) {
            Ok(done) => {
                let quiet = cause == Cause::Resync && !changed;
                let drift = if quiet { drifted(&done.ops) } else { 0 };
                if drift > 0 {
                    tracing::warn!(operations = drift, "the maps were not as they were left; repaired");
                }
                self.leave_for_sweep(&state, &done);
                self.standing.send_modify(|standing| {
                    standing.revision = state.revision;
                    standing.passes += 1;
                    standing.problems = done.problems;
                    standing.fault = None;
                    standing.drift_ops += drift;
                    standing.attached = done.attached;
                    standing.actual = Some(Arc::new(done.actual));
                });
            }
            Err(fault) => {
                tracing::error!(code = %fault.code, message = fault.message, "the maps are not as they should be");
                self.standing.send_modify(|standing| standing.fault = Some(fault));
            }
        }
    }

    fn compare_and_apply(&mut self, state: &State, cause: Cause) -> Result<Done, Fault> {
        let attached = self.dataplane.attached()?;
        let mut actual = self.dataplane.read()?;
        let observed = self.observed(&attached, state, &actual);
        let desired = plan::desired(state, &observed, &mut self.tables);
        let mut ops = Vec::new();
        // After a fault, and when it is time, every slot is looked at.
        let was_settled = std::mem::take(&mut self.settled);
        let was_settled = if cause == Cause::Resync { Settled::default() } else { was_settled };
        for _ in 0..ROUNDS {
            let (plan, settled) = plan::diff_since(&desired, &actual, self.dataplane.now_s(), &was_settled);
            if plan.ops.is_empty() {
                self.settled = settled;
                return Ok(Done { desired, actual, ops, problems: plan.problems, attached });
            }
            let missed = self.dataplane.apply(&plan.ops)?;
            ops.extend(plan.ops);
            actual = self.dataplane.read()?;
            if missed == 0 {
                self.settled = settled;
                return Ok(Done { desired, actual, ops, problems: plan.problems, attached });
            }
            tracing::debug!(slots = missed, "slots changed while they were planned; planning again");
        }
        Err(Fault::new(Code::SlotsContended, format!("slots changed under {ROUNDS} plans in a row")))
    }

    fn observed(&mut self, attached: &[Attached], state: &State, actual: &Actual<LiveSlots>) -> Observed {
        let health = self.inputs.health.borrow_and_update().clone();
        let ways = self.inputs.ways.borrow_and_update().clone();
        let ways: BTreeMap<_, _> =
            ways.iter().filter_map(|(id, way)| Some((*id, *way.as_ref().ok()?))).collect();
        // A way once known stays in its row, so the maps themselves remember who was ever reached.
        let rows = actual.backends.values().filter(|row| row.next_hop.is_known());
        let reached: BTreeSet<_> = rows.map(|row| (row.id, row.address)).collect();
        let unreached = state.backends().map(|(_, _, _, backend)| backend).filter(|backend| {
            ways.get(&backend.id).is_none_or(|way| way.next_hop_mac.is_none())
                && !reached.contains(&(backend.id, backend.address))
        });
        Observed {
            health: health.iter().map(|(id, seen)| (*id, seen.health)).collect(),
            unreached: unreached.map(|backend| backend.id).collect(),
            ways,
            devices: attached.iter().filter_map(|one| Some((one.ifindex, one.device?))).collect(),
        }
    }

    fn leave_for_sweep(&self, state: &State, done: &Done) {
        let remembers = |vip: &lb_control::vip::Vip| {
            vip.settings.tracking == Tracking::Always || vip.settings.mode == Mode::Nat
        };
        let watched = plan::unnamed(&done.desired, &done.actual, self.dataplane.now_s());
        let mut to_sweep = self.to_sweep.lock().unwrap_or_else(PoisonError::into_inner);
        to_sweep.due |= !done.ops.is_empty() || watched != Rows::default();
        to_sweep.always = state.vips.values().any(|vip| remembers(vip));
        to_sweep.watched = watched;
    }
}

/// A whole pass.
struct Done {
    desired: Desired,
    /// The maps after it.
    actual: Actual<LiveSlots>,
    ops: Vec<Op>,
    problems: Vec<plan::Problem>,
    attached: Vec<Attached>,
}

/// How many operations say that somebody else wrote to the maps. What the sweep proved free is freed in its own time.
fn drifted(ops: &[Op]) -> u64 {
    let own = |op: &&Op| {
        !matches!(
            op,
            Op::Barrier
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
    states: watch::Receiver<Published>,
}

impl Sweeper {
    /// Every second, if there is something to sweep, until the state's publisher is gone.
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.states.changed() => if changed.is_err() { return },
                _ = tick.tick() => self.sweep(),
            }
        }
    }

    fn sweep(&self) {
        let watched = {
            let mut to_sweep = self.to_sweep.lock().unwrap_or_else(PoisonError::into_inner);
            if !to_sweep.due && !to_sweep.always {
                return;
            }
            to_sweep.due = false;
            to_sweep.watched.clone()
        };
        let frees = watched != Rows::default();
        match self.dataplane.sweep(watched) {
            Ok(report) => {
                let again = frees || has_more(&report);
                self.to_sweep.lock().unwrap_or_else(PoisonError::into_inner).due |= again;
                self.standing.send_modify(|standing| standing.swept = Arc::new(report));
                if frees {
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

/// Whether the next sweep may find something to settle or to forget.
fn has_more(report: &SweepReport) -> bool {
    report.tracked_flows > 0
        || report.nat_flows > 0
        || !report.moving_slots.is_empty()
        || !report.pinned_slots.is_empty()
}
