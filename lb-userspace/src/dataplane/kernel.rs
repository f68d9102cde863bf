//! The data plane in the kernel.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Pod;
use aya::maps::xdp::DevMap;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use lb_common::abi::counter::Counter;
use lb_common::abi::signal::Signal;
use lb_common::abi::tenant::COUNTS_PER_TENANT;
use lb_common::abi::vip::VipKey;
use lb_common::abi::{self, MapSpec};
use lb_common::ids::BackendId;
use lb_control::code::Code;
use lb_control::plan::{Actual, Borrowers, Op, Rows, Sweep};
use lb_control::suspicion::Reading;
use nix::time::{ClockId, clock_gettime};

use super::fault::{Fault, Result};
use super::loader::{self, Loaded, Options, Origin};
use super::mapped::{Mapped, Row};
use super::pins::Pins;
use super::store::{Calls, CountOf, RowsOf, Store};
use super::{
    AttachMode, Attached, Check, Counters, Dataplane, DeviceState, Explanation, LastReading, LiveSlots,
    Question, SweepReport, attach, explain, maps, object, ports, selftest, sweep, sys,
};

/// The data plane in the kernel. Dropping it leaves it running.
pub struct Kernel {
    store: Store,
    pins: Pins,
    program: OwnedFd,
    program_id: u32,
    fixed_now_ns: u64,
    last_sweep: Mutex<Option<Sweep>>,
}

impl Kernel {
    /// Adopts the data plane that is pinned, or makes one.
    ///
    /// # Errors
    /// No data plane in this binary, no privilege, no BPF file system, another daemon or another version there, an
    /// impossible capacity, a kernel that refuses; what ran before runs on.
    pub fn open(options: &Options) -> Result<(Self, Origin)> {
        let Loaded { pins, program, program_id, origin } = loader::load(options)?;
        let store = store(&pins)?;
        let fixed_now_ns = options.fixed_now_ns;
        let last_sweep = Mutex::default();
        Ok((Self { store, pins, program, program_id, fixed_now_ns, last_sweep }, origin))
    }

    /// Nanoseconds on the data plane's clock.
    fn now_ns(&self) -> u64 {
        match self.fixed_now_ns {
            0 => {
                // The clock of bpf_ktime_get_ns. It always exists.
                let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
                now.map_or(0, |now| now.as_nanos() as u64)
            }
            fixed => fixed,
        }
    }

    fn site(&self) -> attach::Site<'_> {
        attach::Site { pins: &self.pins, program: &self.program, program_id: self.program_id }
    }
}

impl Dataplane for Kernel {
    fn now_s(&self) -> u32 {
        (self.now_ns() / 1_000_000_000) as u32
    }
    fn read(&self) -> Result<Actual<LiveSlots>> {
        maps::read(&self.store, lock(&self.last_sweep).take())
    }
    fn apply(&self, ops: &[Op]) -> Result<u64> {
        maps::apply(&self.store, ops, || self.now_s())
    }
    fn device(&self, name: &str) -> Result<DeviceState> {
        attach::device(name)
    }
    fn attach(&self, name: &str, mode: AttachMode, replace: bool) -> Result<Attached> {
        let added = ports::register(&self.store, &attach::device(name)?)?;
        let attached = self.site().attach(name, mode, replace);
        if let (Err(_), Some(added)) = (&attached, added) {
            ports::unregister(&self.store, added)?;
        }
        attached
    }
    fn detach(&self, name: &str) -> Result<()> {
        attach::detach(&self.pins, name)
    }
    fn attached(&self) -> Result<Vec<Attached>> {
        attach::attached_of(&self.pins)
    }
    fn sweep(&self, watched: Rows, borrowers: &Borrowers) -> Result<SweepReport> {
        let report = sweep::sweep(&self.store, self.now_s(), watched, borrowers, &mut sys::grace_period);
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
        explain::explain(&self.store, self.now_ns(), question)
    }
    fn selftest(&self) -> Result<Vec<Check>> {
        selftest::run(&self.store, self.now_ns(), &self.program)
    }
}

/// A lock whose holder panicked guards kernel objects or plain values, which are whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens every pinned map.
fn store(pins: &Pins) -> Result<Store> {
    Ok(Store {
        config: rows(pins, &abi::CONFIG)?,
        vips: rows(pins, &abi::VIPS)?,
        slots: rows(pins, &abi::SLOTS)?,
        backends: rows(pins, &abi::BACKENDS)?,
        egresses: rows(pins, &abi::EGRESS)?,
        sources: rows(pins, &abi::SOURCES)?,
        flows: rows(pins, &abi::FLOWS)?,
        nat: rows(pins, &abi::NAT)?,
        tenants: rows(pins, &abi::TENANTS)?,
        calls: Box::new(KernelCalls {
            vip_keys: Hash::open(pins, &abi::VIP_KEYS)?,
            ports: Hash::open(pins, &abi::PORTS)?,
            devices: Mutex::new(open(pins, &abi::DEVICES)?),
            reasons: Mutex::new(open(pins, &abi::REASON_COUNTS)?),
            vips: Mutex::new(open(pins, &abi::VIP_COUNTS)?),
            backends: Mutex::new(open(pins, &abi::BACKEND_COUNTS)?),
            tenants: Mutex::new(open(pins, &abi::TENANT_COUNTS)?),
            signals: Mutex::new(open(pins, &abi::SIGNALS)?),
        }),
    })
}

fn rows<T: Row + Send + Sync + 'static>(pins: &Pins, spec: &MapSpec) -> Result<RowsOf<T>> {
    let map = loader::open_map(pins, spec)?;
    let entries = map.info().map_err(|error| map_fault(spec, "read", 0, &error))?.max_entries();
    let mapped = Mapped::<T>::new(map.fd(), entries);
    Ok(Arc::new(mapped.map_err(|error| Fault::os(format!("map {} into memory", spec.name), &error))?))
}

/// Opens a pinned map as one of aya's types.
fn open<M: TryFrom<Map, Error = MapError>>(pins: &Pins, spec: &MapSpec) -> Result<M> {
    let map = Map::from_map_data(loader::open_map(pins, spec)?);
    map.and_then(M::try_from).map_err(|error| map_fault(spec, "open", 0, &error))
}

/// A fault of a call into a map of `limit` entries.
fn map_fault(spec: &MapSpec, doing: &str, limit: u32, error: &MapError) -> Fault {
    match object::os_error(error).and_then(std::io::Error::raw_os_error) {
        // E2BIG: a hash without room, or an index beyond the end of an array.
        Some(libc::E2BIG) => Fault::full(spec.name, limit as usize),
        Some(libc::ENODEV | libc::EINVAL) if spec.name == abi::DEVICES.name => {
            Fault::new(Code::NoDevice, "a device that frames should leave by is gone")
        }
        _ if matches!(error, MapError::OutOfBounds { .. }) => Fault::full(spec.name, limit as usize),
        _ => object::fault(format!("{doing} map {}", spec.name), error),
    }
}

/// A type of the ABI for aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Cell<T: bytemuck::Pod>(pub(super) T);

// SAFETY: `bytemuck::Pod` promises what aya asks for: no padding, any bytes are a value.
unsafe impl<T: bytemuck::Pod> Pod for Cell<T> {}

/// A hash map with its limit.
pub(super) struct Hash<K: bytemuck::Pod> {
    spec: &'static MapSpec,
    limit: u32,
    map: Mutex<HashMap<MapData, Cell<K>, u32>>,
}

impl<K: bytemuck::Pod> Hash<K> {
    /// Opens a pinned one.
    pub(super) fn open(pins: &Pins, spec: &'static MapSpec) -> Result<Self> {
        let map = loader::open_map(pins, spec)?;
        let limit = map.info().map_err(|error| map_fault(spec, "read", 0, &error))?.max_entries();
        let map = Map::from_map_data(map).and_then(HashMap::try_from);
        Ok(Self { spec, limit, map: Mutex::new(map.map_err(|error| map_fault(spec, "open", 0, &error))?) })
    }
    pub(super) fn value(&self, key: K) -> Result<Option<u32>> {
        match lock(&self.map).get(&Cell(key), 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_fault(self.spec, "read", self.limit, &error)),
        }
    }
    pub(super) fn all(&self) -> Result<Vec<(K, u32)>> {
        let map = lock(&self.map);
        let all = map.iter().map(|pair| pair.map(|(Cell(key), value)| (key, value)));
        all.collect::<Result<_, _>>().map_err(|error| map_fault(self.spec, "read", self.limit, &error))
    }
    pub(super) fn set(&self, key: K, value: u32) -> Result<()> {
        let done = lock(&self.map).insert(Cell(key), value, 0);
        done.map_err(|error| map_fault(self.spec, "write", self.limit, &error))
    }
    pub(super) fn remove(&self, key: K) -> Result<()> {
        match lock(&self.map).remove(&Cell(key)) {
            Err(error) if object::os_error(&error).and_then(|e| e.raw_os_error()) != Some(libc::ENOENT) => {
                Err(map_fault(self.spec, "write", self.limit, &error))
            }
            _ => Ok(()),
        }
    }
}

/// Counters, one for each CPU.
pub(super) type CountMap = PerCpuArray<MapData, Cell<Counter>>;

/// Sums a counter over CPUs.
pub(super) fn sum<M: Borrow<MapData>>(
    map: &PerCpuArray<M, Cell<Counter>>,
    spec: &MapSpec,
    index: u32,
) -> Result<Counter> {
    let values = map.get(&index, 0).map_err(|error| map_fault(spec, "read", map.len(), &error))?;
    Ok(total(values.iter().map(|Cell(one)| one)))
}

/// Sums the first `rows` counters over CPUs.
fn sums(map: &Mutex<CountMap>, spec: &MapSpec, rows: usize) -> Result<Vec<Counter>> {
    let counters = sys::counters(&lock(map), rows as u32);
    counters.map_err(|error| Fault::os(format!("read map {}", spec.name), &error))
}

/// A counter over all CPUs.
pub(super) fn total<'c>(of_cpus: impl IntoIterator<Item = &'c Counter>) -> Counter {
    of_cpus.into_iter().fold(Counter::default(), |sum, one| Counter {
        packets: sum.packets + one.packets,
        bytes: sum.bytes + one.bytes,
    })
}

struct KernelCalls {
    vip_keys: Hash<VipKey>,
    ports: Hash<u32>,
    devices: Mutex<DevMap<MapData>>,
    reasons: Mutex<CountMap>,
    vips: Mutex<CountMap>,
    backends: Mutex<CountMap>,
    tenants: Mutex<CountMap>,
    signals: Mutex<PerCpuArray<MapData, u64>>,
}

impl KernelCalls {
    fn counter(&self, of: CountOf) -> (&Mutex<CountMap>, &'static MapSpec, u32) {
        match of {
            CountOf::Reason(reason) => (&self.reasons, &abi::REASON_COUNTS, reason as u32),
            CountOf::Vip(row) => (&self.vips, &abi::VIP_COUNTS, row.into()),
            CountOf::Backend(row) => (&self.backends, &abi::BACKEND_COUNTS, row.into()),
            CountOf::Tenant(row, kind) => {
                (&self.tenants, &abi::TENANT_COUNTS, u32::from(row) * COUNTS_PER_TENANT + kind)
            }
        }
    }
}

impl Calls for KernelCalls {
    fn vip_keys_limit(&self) -> u32 {
        self.vip_keys.limit
    }
    fn vip_key(&self, key: &VipKey) -> Result<Option<u32>> {
        self.vip_keys.value(*key)
    }
    fn vip_keys(&self) -> Result<Vec<(VipKey, u32)>> {
        self.vip_keys.all()
    }
    fn set_vip_key(&self, key: VipKey, entry: u32) -> Result<()> {
        self.vip_keys.set(key, entry)
    }
    fn remove_vip_key(&self, key: &VipKey) -> Result<()> {
        self.vip_keys.remove(*key)
    }
    fn ports(&self) -> Result<Vec<(u32, u32)>> {
        self.ports.all()
    }
    fn set_port(&self, ifindex: u32, egress: u32) -> Result<()> {
        self.ports.set(ifindex, egress)
    }
    fn remove_port(&self, ifindex: u32) -> Result<()> {
        self.ports.remove(ifindex)
    }
    fn set_device(&self, row: u16, ifindex: u32) -> Result<()> {
        let mut devices = lock(&self.devices);
        let limit = devices.len();
        devices.set(row.into(), ifindex, None, 0).map_err(|error| device_fault(limit, &error))
    }
    fn remove_device(&self, row: u16) -> Result<()> {
        // The kernel takes interface index 0 as "none".
        let mut devices = lock(&self.devices);
        let limit = devices.len();
        devices.set(row.into(), 0, None, 0).map_err(|error| device_fault(limit, &error))
    }
    fn vip_counts(&self, rows: usize) -> Result<Vec<Counter>> {
        sums(&self.vips, &abi::VIP_COUNTS, rows)
    }
    fn backend_counts(&self, rows: usize) -> Result<Vec<Counter>> {
        sums(&self.backends, &abi::BACKEND_COUNTS, rows)
    }
    fn count(&self, of: CountOf) -> Result<Counter> {
        let (map, spec, index) = self.counter(of);
        sum(&lock(map), spec, index)
    }
    fn signal(&self, row: u16, signal: Signal) -> Result<u64> {
        let map = lock(&self.signals);
        let values = map.get(&signal.index(row.into()), 0);
        let values = values.map_err(|error| map_fault(&abi::SIGNALS, "read", map.len(), &error))?;
        Ok(values.iter().sum())
    }
    fn reset_count(&self, of: CountOf) -> Result<()> {
        let (map, spec, index) = self.counter(of);
        let cpus = nr_cpus().map_err(|(path, error)| Fault::os(format!("read {path}"), &error))?;
        let zero = PerCpuValues::try_from(vec![Cell(Counter::default()); cpus]);
        let zero = zero.map_err(|error| Fault::os("count CPUs", &error))?;
        let mut map = lock(map);
        let limit = map.len();
        map.set(index, zero, 0).map_err(|error| map_fault(spec, "write", limit, &error))
    }
}

fn device_fault(limit: u32, error: &aya::maps::xdp::XdpMapError) -> Fault {
    use aya::maps::xdp::XdpMapError;
    match error {
        XdpMapError::MapError(error) => map_fault(&abi::DEVICES, "write", limit, error),
        other => object::fault("write map LB_DEVICES", other),
    }
}
