//! The maps in memory, for the data plane that is a fake and for tests of what works on maps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::abi::counter::Counter;
use lb_common::abi::signal::Signal;
use lb_common::abi::vip::VipKey;
use lb_common::limits::NAT_PORTS;
use lb_control::code::Code;
use lb_control::limits::{flow_entries, nat_ports};
use lb_control::plan::Key;

use super::Capacities;
use super::fault::{Fault, Result};
use super::store::{Calls, CountOf, RowsOf, Store};

/// The maps that are reached by calls.
#[derive(Default)]
pub(super) struct Memory {
    vip_keys_limit: u32,
    vip_keys: BTreeMap<Key, (VipKey, u32)>,
    ports: BTreeMap<u32, u32>,
    pub(super) devices: BTreeMap<u16, u32>,
    pub(super) reasons: BTreeMap<u32, Counter>,
    pub(super) vips: BTreeMap<u16, Counter>,
    pub(super) backends: BTreeMap<u16, Counter>,
    pub(super) tenants: BTreeMap<(u16, u32), Counter>,
    /// By index of their counter.
    pub(super) signals: BTreeMap<u32, u64>,
    /// Operations that may still succeed; `None` = all.
    pub(super) left: Option<u32>,
}

/// Capacities of small tables.
pub(super) fn small() -> Capacities {
    let mut capacities = Capacities { flow_buckets: 1024, nat_planes: 1, ..Capacities::default() };
    capacities.limits.vips = 64;
    capacities.limits.vip_keys = 128;
    capacities.limits.backends = 1023;
    capacities.limits.slots = 1 << 20;
    capacities.limits.flow_entries = flow_entries(capacities.flow_buckets);
    capacities.limits.nat_ports = nat_ports(capacities.nat_planes * 2 * NAT_PORTS);
    capacities
}

/// Empty maps, and those of them that are reached by calls.
pub(super) fn store(capacities: &Capacities) -> (Store, Arc<Mutex<Memory>>) {
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
        tenants: rows(limits.tenants + 1),
        calls: Box::new(SharedMemory(memory.clone())),
    };
    // A key, always the same.
    store.config[0].hash_key[0].store(0x0706_0504_0302_0100);
    store.config[0].hash_key[1].store(0x0f0e_0d0c_0b0a_0908);
    (store, memory)
}

fn rows<T: Default + Send + Sync + 'static>(count: u32) -> RowsOf<T> {
    let rows: Vec<T> = std::iter::repeat_with(T::default).take(count as usize).collect();
    Arc::new(rows)
}

/// A lock whose holder panicked guards plain values that are whole at every step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// A counter.
    pub(super) fn counter(&mut self, of: CountOf) -> &mut Counter {
        match of {
            CountOf::Reason(reason) => self.reasons.entry(reason as u32).or_default(),
            CountOf::Vip(row) => self.vips.entry(row).or_default(),
            CountOf::Backend(row) => self.backends.entry(row).or_default(),
            CountOf::Tenant(row, kind) => self.tenants.entry((row, kind)).or_default(),
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
    fn vip_counts(&self, rows: usize) -> Result<Vec<Counter>> {
        (0..rows).map(|row| self.count(CountOf::Vip(row as u16))).collect()
    }
    fn backend_counts(&self, rows: usize) -> Result<Vec<Counter>> {
        (0..rows).map(|row| self.count(CountOf::Backend(row as u16))).collect()
    }
    fn count(&self, of: CountOf) -> Result<Counter> {
        Ok(*self.call()?.counter(of))
    }
    fn signal(&self, row: u16, signal: Signal) -> Result<u64> {
        Ok(self.call()?.signals.get(&signal.index(row.into())).copied().unwrap_or_default())
    }
    fn reset_count(&self, of: CountOf) -> Result<()> {
        *self.call()?.counter(of) = Counter::default();
        Ok(())
    }
}
