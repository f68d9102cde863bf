//! A data plane in memory: the same rows, read, written, swept and explained by the same code as the kernel's maps,
//! without a program or a device. For tests and for working without root.
//!
//! Deliberately not here: packets. What the packet path would do to the rows a test does itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::abi::counter::Counter;
use lb_common::abi::vip::VipKey;
use lb_common::addr::Mac;
use lb_common::hash::HashKey;
use lb_common::limits::NAT_PORTS;
use lb_common::reason::REASON_CAPACITY;
use lb_control::code::Code;
use lb_control::plan::{Actual, Device, Key, Op, Rows, Sweep};

use super::fault::{Fault, Result};
use super::store::{Calls, CountOf, RowsOf, Store};
use super::{
    AttachMode, Attached, AttachedMode, Capacities, Check, Counters, Dataplane, DeviceState, Explanation,
    LiveSlots, Question, SweepReport, explain, maps, sweep,
};

/// A data plane in memory.
pub struct Fake {
    store: Store,
    memory: Arc<Mutex<Memory>>,
    devices: Mutex<BTreeMap<String, (DeviceState, Option<AttachedMode>)>>,
    now_s: AtomicU32,
    last_sweep: Mutex<Option<Sweep>>,
}

/// The maps that are reached by calls.
#[derive(Default)]
struct Memory {
    vip_keys_limit: u32,
    vip_keys: BTreeMap<Key, (VipKey, u32)>,
    ports: BTreeMap<u32, u32>,
    devices: BTreeMap<u16, u32>,
    reasons: BTreeMap<u32, Counter>,
    vips: BTreeMap<u16, Counter>,
    backends: BTreeMap<u16, Counter>,
    /// Operations that may still succeed; `None` = all.
    left: Option<u32>,
}

impl Fake {
    /// An empty data plane with small tables.
    pub fn new() -> Self {
        let mut capacities = Capacities { flow_buckets: 1024, nat_planes: 1, ..Capacities::default() };
        capacities.limits.vips = 64;
        capacities.limits.vip_keys = 128;
        capacities.limits.backends = 1023;
        capacities.limits.slots = 1 << 20;
        Self::with(&capacities)
    }

    /// An empty data plane of given capacities.
    pub fn with(capacities: &Capacities) -> Self {
        let limits = &capacities.limits;
        let memory = Memory { vip_keys_limit: limits.vip_keys, ..Memory::default() };
        let memory = Arc::new(Mutex::new(memory));
        let store = Store {
            config: rows(1),
            vips: rows(limits.vips),
            slots: rows(limits.slots),
            backends: rows(limits.backends + 1),
            egresses: rows(limits.egresses),
            sources: rows(limits.sources),
            flows: rows(capacities.flow_buckets),
            nat: rows(capacities.nat_planes * 2 * NAT_PORTS),
            calls: Box::new(SharedMemory(memory.clone())),
        };
        let HashKey([low, high]) = HashKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        store.config[0].hash_key[0].store(low);
        store.config[0].hash_key[1].store(high);
        let (devices, last_sweep) = (Mutex::default(), Mutex::default());
        Self { store, memory, devices, now_s: AtomicU32::new(1_000), last_sweep }
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
        let mut memory = lock(&self.memory);
        let add = |counter: &mut Counter| {
            counter.packets += 1;
            counter.bytes += bytes;
        };
        add(memory.reasons.entry(reason as u32).or_default());
        vip.into_iter().for_each(|row| add(memory.vips.entry(row).or_default()));
        backend.into_iter().for_each(|row| add(memory.backends.entry(row).or_default()));
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

fn rows<T: Default + Send + Sync + 'static>(count: u32) -> RowsOf<T> {
    let rows: Vec<T> = std::iter::repeat_with(T::default).take(count as usize).collect();
    Arc::new(rows)
}

/// A lock whose holder panicked guards plain values that are whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dataplane for Fake {
    fn now_s(&self) -> u32 {
        self.now_s.load(Ordering::Relaxed)
    }
    fn read(&self) -> Result<Actual<LiveSlots>> {
        maps::read(&self.store, lock(&self.last_sweep).take())
    }
    fn apply(&self, ops: &[Op]) -> Result<()> {
        maps::apply(&self.store, ops)
    }
    fn device(&self, name: &str) -> Result<DeviceState> {
        let devices = lock(&self.devices);
        let found = devices.get(name).map(|(state, _)| state.clone());
        found.ok_or_else(|| Fault::new(Code::NoDevice, format!("there is no device `{name}`")))
    }
    fn attach(&self, name: &str, mode: AttachMode, _replace: bool) -> Result<Attached> {
        let state = self.device(name)?;
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
    fn sweep(&self, watched: Rows) -> Result<SweepReport> {
        let report = sweep::sweep(&self.store, self.now_s(), watched, &mut || {});
        *lock(&self.last_sweep) = Some(report.sweep.clone());
        Ok(report)
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

struct SharedMemory(Arc<Mutex<Memory>>);

impl SharedMemory {
    /// The maps, for a call that may be made to fail.
    fn call(&self) -> Result<MutexGuard<'_, Memory>> {
        let mut memory = lock(&self.0);
        match &mut memory.left {
            Some(0) => return Err(Fault::new(Code::KernelCall, "made to fail")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(memory)
    }
}

impl Memory {
    fn counter(&mut self, of: CountOf) -> &mut Counter {
        match of {
            CountOf::Reason(reason) => {
                debug_assert!((reason as u32) < REASON_CAPACITY);
                self.reasons.entry(reason as u32).or_default()
            }
            CountOf::Vip(row) => self.vips.entry(row).or_default(),
            CountOf::Backend(row) => self.backends.entry(row).or_default(),
        }
    }
}

impl Calls for SharedMemory {
    fn vip_keys_limit(&self) -> u32 {
        lock(&self.0).vip_keys_limit
    }
    fn vip_key(&self, key: &VipKey) -> Result<Option<u32>> {
        Ok(self.call()?.vip_keys.get(&Key::from_abi(key)).map(|(_, entry)| *entry))
    }
    fn vip_keys(&self) -> Result<Vec<(VipKey, u32)>> {
        Ok(self.call()?.vip_keys.values().copied().collect())
    }
    fn set_vip_key(&self, key: VipKey, entry: u32) -> Result<()> {
        let mut memory = self.call()?;
        let limit = memory.vip_keys_limit as usize;
        let named = Key::from_abi(&key);
        if memory.vip_keys.len() >= limit && !memory.vip_keys.contains_key(&named) {
            return Err(Fault::full("LB_VIP_KEYS", limit));
        }
        memory.vip_keys.insert(named, (key, entry));
        Ok(())
    }
    fn remove_vip_key(&self, key: &VipKey) -> Result<()> {
        self.call()?.vip_keys.remove(&Key::from_abi(key));
        Ok(())
    }
    fn ports(&self) -> Result<Vec<(u32, u32)>> {
        Ok(self.call()?.ports.iter().map(|(ifindex, row)| (*ifindex, *row)).collect())
    }
    fn set_port(&self, ifindex: u32, egress: u32) -> Result<()> {
        self.call()?.ports.insert(ifindex, egress);
        Ok(())
    }
    fn remove_port(&self, ifindex: u32) -> Result<()> {
        self.call()?.ports.remove(&ifindex);
        Ok(())
    }
    fn set_device(&self, row: u16, ifindex: u32) -> Result<()> {
        self.call()?.devices.insert(row, ifindex);
        Ok(())
    }
    fn remove_device(&self, row: u16) -> Result<()> {
        self.call()?.devices.remove(&row);
        Ok(())
    }
    fn count(&self, of: CountOf) -> Result<Counter> {
        Ok(*self.call()?.counter(of))
    }
    fn reset_count(&self, of: CountOf) -> Result<()> {
        *self.call()?.counter(of) = Counter::default();
        Ok(())
    }
}
