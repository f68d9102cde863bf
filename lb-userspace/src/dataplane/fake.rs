//! A data plane in memory: the same rows, read, written, swept and explained by the same code as the kernel's maps,
//! without a program or a device. For tests and for working without root.
//!
//! Deliberately not here: packets. What the packet path would do to the rows a test does itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use lb_common::abi::slot::Slot;
use lb_common::addr::Mac;
use lb_common::ids::BackendId;
use lb_control::code::Code;
use lb_control::plan::{Actual, Borrowers, Device, Op, Rows, SlotChange, Sweep};
use lb_control::suspicion::Reading;

use super::fault::{Fault, Result};
use super::memory::{self, Memory, lock};
use super::store::{CountOf, Store};
use super::{
    AttachMode, Attached, AttachedMode, Capacities, Check, Counters, Dataplane, DeviceState, Explanation,
    LastReading, LiveSlots, Question, SweepReport, explain, maps, ports, sweep,
};

/// A data plane in memory.
pub struct Fake {
    store: Store,
    memory: Arc<Mutex<Memory>>,
    devices: Mutex<BTreeMap<String, (DeviceState, Option<AttachedMode>)>>,
    now_s: AtomicU32,
    last_sweep: Mutex<Option<Sweep>>,
    lost_races: AtomicU32,
}

impl Fake {
    /// An empty data plane with small tables.
    pub fn new() -> Self {
        Self::with(&memory::small())
    }

    /// An empty data plane of given capacities.
    pub fn with(capacities: &Capacities) -> Self {
        let (store, memory) = memory::store(capacities);
        let (devices, last_sweep) = (Mutex::default(), Mutex::default());
        let (now_s, lost_races) = (AtomicU32::new(1_000), AtomicU32::new(0));
        Self { store, memory, devices, now_s, last_sweep, lost_races }
    }

    /// Gives it a device, up, with an MTU of 1,500 bytes.
    pub fn add_device(&self, name: &str, ifindex: u32) {
        let [a, b, c, d] = ifindex.to_be_bytes();
        let device = Device { mtu: 1_500, mac: Mac::from_octets([2, 0, a, b, c, d]) };
        let state = DeviceState { name: name.into(), ifindex, up: true, device };
        lock(&self.devices).insert(name.into(), (state, None));
    }

    /// Sets its clock, seconds since boot. It begins at 1,000 and stands still.
    pub fn set_now_s(&self, now_s: u32) {
        self.now_s.store(now_s, Ordering::Relaxed);
    }

    /// Lets the next `count` calls into maps succeed and all after them fail; `None`: none fails.
    pub fn fail_after(&self, count: Option<u32>) {
        lock(&self.memory).left = count;
    }

    /// Another writer is quicker at the next `count` plans that change slots: each finds its slots settled, if they were
    /// not, or unsettled, as a sweep would have left them.
    pub fn lose_races(&self, count: u32) {
        self.lost_races.store(count, Ordering::Relaxed);
    }

    fn lose_race(&self, ops: &[Op]) {
        let changes = ops.iter().filter_map(|op| match op {
            Op::ChangeSlots { first, changes, .. } => Some((first, changes)),
            _ => None,
        });
        let mut met = false;
        for (first, changes) in changes.filter(|_| self.lost_races.load(Ordering::Relaxed) > 0) {
            met = true;
            for SlotChange { slot, old, .. } in changes {
                let settled = Slot::stable(old.current());
                let now = if *old == settled { Slot::pinned(old.current()) } else { settled };
                self.store.slots[(first + slot) as usize].store(now.0);
            }
        }
        // Who sets the count meanwhile is not counted down below it.
        let one_less = |left: u32| left.checked_sub(u32::from(met));
        let _ = self.lost_races.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    /// The device of an egress row, as redirection would use it.
    pub fn redirect_of(&self, row: u16) -> Option<u32> {
        lock(&self.memory).devices.get(&row).copied()
    }

    /// Counts packets, as the packet path would.
    pub fn add_count(
        &self,
        reason: lb_common::reason::Reason,
        vip: Option<u16>,
        backend: Option<u16>,
        bytes: u64,
    ) {
        let rows = [Some(CountOf::Reason(reason)), vip.map(CountOf::Vip), backend.map(CountOf::Backend)];
        let mut memory = lock(&self.memory);
        for of in rows.into_iter().flatten() {
            let counter = memory.counter(of);
            counter.packets += 1;
            counter.bytes += bytes;
        }
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Dataplane for Fake {
    fn now_s(&self) -> u32 {
        self.now_s.load(Ordering::Relaxed)
    }
    fn read(&self) -> Result<Actual<LiveSlots>> {
        maps::read(&self.store, lock(&self.last_sweep).take())
    }
    fn apply(&self, ops: &[Op]) -> Result<u64> {
        self.lose_race(ops);
        maps::apply(&self.store, ops, || self.now_s())
    }
    fn device(&self, name: &str) -> Result<DeviceState> {
        let devices = lock(&self.devices);
        let found = devices.get(name).map(|(state, _)| state.clone());
        found.ok_or_else(|| Fault::new(Code::NoDevice, format!("there is no device `{name}`")))
    }
    fn attach(&self, name: &str, mode: AttachMode, _replace: bool) -> Result<Attached> {
        let state = self.device(name)?;
        ports::register(&self.store, &state)?;
        let mode = if mode == AttachMode::Generic { AttachedMode::Generic } else { AttachedMode::Native };
        lock(&self.devices).insert(name.into(), (state.clone(), Some(mode)));
        Ok(attached(&state, mode))
    }
    fn detach(&self, name: &str) -> Result<()> {
        match lock(&self.devices).get_mut(name).and_then(|(_, mode)| mode.take()) {
            Some(_) => Ok(()),
            None => Err(Fault::new(Code::NotAttached, format!("`{name}` is not attached"))),
        }
    }
    fn attached(&self) -> Result<Vec<Attached>> {
        let devices = lock(&self.devices);
        Ok(devices.values().filter_map(|(state, mode)| Some(attached(state, (*mode)?))).collect())
    }
    fn sweep(&self, watched: Rows, borrowers: &Borrowers) -> Result<SweepReport> {
        let report = sweep::sweep(&self.store, self.now_s(), watched, borrowers, &mut || {});
        *lock(&self.last_sweep) = Some(report.sweep.clone());
        Ok(report)
    }
    fn readings(&self, last: &LastReading<'_>) -> Result<BTreeMap<BackendId, Reading>> {
        maps::readings(&self.store, last)
    }
    fn counters(&self) -> Result<Counters> {
        maps::counters(&self.store)
    }
    fn explain(&self, question: &Question) -> Result<Explanation> {
        explain::explain(&self.store, u64::from(self.now_s()) * 1_000_000_000, question)
    }
    /// Nothing: there is no program.
    fn selftest(&self) -> Result<Vec<Check>> {
        Ok(Vec::new())
    }
}

fn attached(state: &DeviceState, mode: AttachedMode) -> Attached {
    Attached {
        name: state.name.clone(),
        ifindex: state.ifindex,
        device: Some(state.device),
        mode,
        why: "it was asked for".into(),
        warnings: Vec::new(),
    }
}
