//! Brings the data plane up: adopts what is pinned, or makes it; swaps the program if this binary has another one.
//!
//! Order, so that a crash at any step is repaired by the next start:
//! - new: maps, program, then the version in the config row, written last; without it nothing is attached yet and
//!   the next start begins anew;
//! - adopted: the maps are compared first and nothing is touched if one does not fit; then, unless the pinned program was
//!   loaded from the same object with the same globals (the kernel takes a second to verify it), the new one is loaded on
//!   them and swapped into each link atomically, then pinned in place of the old one. What it is of is said last.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapInfo};
use aya::programs::ProgramInfo;
use lb_common::abi::config::ConfigRow;
use lb_common::abi::signal::SIGNALS_PER_BACKEND;
use lb_common::abi::tenant::COUNTS_PER_TENANT;
use lb_common::abi::{self, ABI_VERSION, MapSpec};
use lb_common::limits::{self, NAT_PORTS};
use lb_control::code::Code;

use super::Capacities;
use super::fault::{Fault, Result};
use super::mapped::Mapped;
use super::object::{self, Globals, Program, Wanted};
use super::pins::Pins;
use super::sys;

/// Name of the program and of its pin.
pub(super) const PROGRAM: &str = "balance";

/// How a data plane is brought up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where it is pinned: a directory in a BPF file system, one for each node (and each network namespace).
    pub pin_dir: PathBuf,
    /// Capacities of a new data plane.
    pub capacities: Capacities,
    /// Stops the clock at so many nanoseconds, for tests; 0 = it runs.
    pub fixed_now_ns: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { pin_dir: "/sys/fs/bpf/lb".into(), capacities: Capacities::default(), fixed_now_ns: 0 }
    }
}

/// What [`super::kernel::Kernel::open`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing: it was made.
    Made,
    /// What a former daemon left: it runs on untouched.
    Adopted,
    /// What a former daemon of another build left: the program was swapped, maps and flows were kept.
    Upgraded,
}

/// A loaded program with its pins.
pub(super) struct Loaded {
    pub(super) pins: Pins,
    pub(super) program: OwnedFd,
    pub(super) program_id: u32,
    pub(super) origin: Origin,
}

/// Brings the data plane up.
pub(super) fn load(options: &Options) -> Result<Loaded> {
    if !object::is_built_in() {
        return Err(object::no_object());
    }
    check(&options.capacities)?;
    let pins = Pins::open(&options.pin_dir)?;
    match adoptable(&pins)? {
        Some(config) => adopt(pins, options, &config),
        None => make(pins, options).map_err(|(pins, fault)| {
            // What was half made has never been attached.
            let _ = clear(&pins);
            fault
        }),
    }
}

/// The balancer's maps; those of the decapsulation belong to the backends.
fn specs() -> impl Iterator<Item = &'static MapSpec> {
    let elsewhere = [abi::DECAP_PEERS.name, abi::DECAP_VIPS.name];
    abi::MAPS.iter().filter(move |spec| !elsewhere.contains(&spec.name))
}

fn check(capacities: &Capacities) -> Result<()> {
    let limits = &capacities.limits;
    let within = |name: &str, value: u32, low: u32, high: u32| {
        let wrong =
            || Fault::new(Code::BadCapacity, format!("{name} is {value}, but must be from {low} to {high}"));
        (low..=high).contains(&value).then_some(()).ok_or_else(wrong)
    };
    within("the number of vips", limits.vips, 1, 1 << 16)?;
    within("the number of vip keys", limits.vip_keys, 1, 1 << 20)?;
    within("the number of backends", limits.backends, 1, limits::BACKENDS_MAX - 1)?;
    within("the number of slots", limits.slots, limits::SLOTS_PER_VIP_MIN, 1 << 28)?;
    within("the number of ways out", limits.egresses, 1, 1 << 16)?;
    within("the number of source addresses", limits.sources, 1, limits::SOURCES)?;
    within("the number of tenants with limits", limits.tenants, 1, (1 << 16) - 1)?;
    within("the number of flow buckets", capacities.flow_buckets, 1, 1 << 24)?;
    within("the number of NAT planes", capacities.nat_planes, 1, 1 << 8)?;
    if capacities.flow_buckets.is_power_of_two() && capacities.nat_planes.is_power_of_two() {
        return Ok(());
    }
    Err(Fault::new(Code::BadCapacity, "flow buckets and NAT planes must each be a power of two"))
}

/// Entries of a map in a new data plane.
fn entries(spec: &MapSpec, capacities: &Capacities) -> u32 {
    let limits = &capacities.limits;
    match spec.name {
        name if name == abi::VIPS.name || name == abi::VIP_COUNTS.name => limits.vips,
        name if name == abi::VIP_KEYS.name => limits.vip_keys,
        name if name == abi::BACKENDS.name || name == abi::BACKEND_COUNTS.name => limits.backends + 1,
        name if name == abi::SLOTS.name => limits.slots,
        name if [abi::EGRESS.name, abi::DEVICES.name, abi::PORTS.name].contains(&name) => limits.egresses,
        name if name == abi::SOURCES.name => limits.sources,
        name if name == abi::TENANTS.name || name == abi::TENANT_CREDIT.name => limits.tenants + 1,
        name if name == abi::TENANT_COUNTS.name => (limits.tenants + 1) * COUNTS_PER_TENANT,
        name if name == abi::SIGNALS.name => (limits.backends + 1) * SIGNALS_PER_BACKEND,
        name if name == abi::FLOWS.name => capacities.flow_buckets,
        name if name == abi::NAT.name => capacities.nat_planes * 2 * NAT_PORTS,
        _ => spec.capacity,
    }
}

/// Makes maps and program in an empty directory.
fn make(pins: Pins, options: &Options) -> Result<Loaded, (Pins, Fault)> {
    match make_in(&pins, options) {
        Ok(program) => Ok(Loaded { pins, program: program.fd, program_id: program.id, origin: Origin::Made }),
        Err(fault) => Err((pins, fault)),
    }
}

fn make_in(pins: &Pins, options: &Options) -> Result<Program> {
    clear(pins)?;
    let key = sys::random_key().map_err(|error| Fault::os("draw the hash key", &error))?;
    let globals = Globals {
        hash_key: key,
        flow_mask: options.capacities.flow_buckets - 1,
        nat_rows: options.capacities.nat_planes * 2 * NAT_PORTS,
        fixed_now_ns: options.fixed_now_ns,
    };
    let program = load_program(pins, |spec| entries(spec, &options.capacities), &globals)?;
    pin_program(pins, PROGRAM, &program.fd)?;
    pins.set_object(Some(&object::digest(&globals)))?;
    let config = config(pins)?;
    config[0].hash_key[0].store(key[0]);
    config[0].hash_key[1].store(key[1]);
    std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
    config[0].version.store(ABI_VERSION.into());
    Ok(program)
}

/// Loads the program on the maps that are pinned, making those that are not.
fn load_program(pins: &Pins, entries: impl Fn(&MapSpec) -> u32, globals: &Globals) -> Result<Program> {
    let wanted: Vec<Wanted> = specs()
        .map(|spec| Wanted { spec: *spec, entries: entries(spec), pin: Some(pins.path(spec.name)) })
        .collect();
    object::load(PROGRAM, &wanted, globals)
}

/// Pins a program in place of the one that was, by a rename.
fn pin_program(pins: &Pins, name: &str, program: &OwnedFd) -> Result<()> {
    let (fresh, place) = (pins.path(&format!("{name}-new")), pins.path(name));
    pins.remove(&fresh)?;
    sys::pin(program.as_fd(), &fresh).map_err(|error| Fault::os("pin the program", &error))?;
    std::fs::rename(&fresh, &place).map_err(|error| Fault::os("pin the program", &error))
}

/// Puts a loaded program in place of the pinned one, unless that is the same. `keep`: whether the same may stay.
pub(super) fn settle(pins: &Pins, name: &str, new: Program, keep: bool) -> Result<(OwnedFd, u32, Origin)> {
    let before = ProgramInfo::from_pin(pins.path(name)).ok();
    if let Some(before) = before.filter(|before| before.tag() == new.tag && keep) {
        let old =
            sys::pinned(&pins.path(name)).map_err(|error| Fault::os("open the pinned program", &error))?;
        swap_links(pins, &old, before.id())?;
        return Ok((old, before.id(), Origin::Adopted));
    }
    swap_links(pins, &new.fd, new.id)?;
    pin_program(pins, name, &new.fd)?;
    Ok((new.fd, new.id, Origin::Upgraded))
}

/// The config row of a whole data plane in the directory; `None` if there is none, or only a half-made one.
fn adoptable(pins: &Pins) -> Result<Option<Mapped<ConfigRow>>> {
    if !pins.path(abi::CONFIG.name).exists() && pins.links()?.is_empty() {
        return Ok(None);
    }
    compare(pins, &abi::CONFIG)?;
    let config = config(pins)?;
    match config[0].version.load() as u32 {
        0 if pins.links()?.is_empty() => return Ok(None),
        ABI_VERSION => {}
        other => {
            let what = format!("its layout is version {other}, this `lb` has version {ABI_VERSION}");
            return Err(Fault::other_abi(pins.dir(), what));
        }
    }
    specs().try_for_each(|spec| compare(pins, spec).map(drop))?;
    Ok(Some(config))
}

/// Compares a pinned map with what it should be, all but its capacity, which it returns.
pub(super) fn compare(pins: &Pins, spec: &MapSpec) -> Result<u32> {
    let path = pins.path(spec.name);
    let info =
        map_info(&path).map_err(|why| Fault::other_abi(pins.dir(), format!("map {}: {why}", spec.name)))?;
    let (kind, mapped) = object::kind(spec);
    let found = info.map_type().map_err(|error| object::fault("read a map's type", &error))?;
    let flags = info.map_flags() & object::MMAPABLE;
    let wrong = if found != kind {
        format!("its type is {found:?}, not {kind:?}")
    } else if info.key_size() != spec.key_size || info.value_size() != spec.value_size {
        let (key, value) = (info.key_size(), info.value_size());
        format!(
            "its key and value are {key} and {value} bytes, not {} and {}",
            spec.key_size, spec.value_size
        )
    } else if mapped != (flags != 0) {
        format!("its flags are {:#x}", info.map_flags())
    } else {
        return Ok(info.max_entries());
    };
    Err(Fault::other_abi(pins.dir(), format!("map {}: {wrong}", spec.name)))
}

fn map_info(path: &Path) -> Result<MapInfo, String> {
    MapInfo::from_pin(path).map_err(|error| match object::os_error(&error) {
        Some(found) => found.to_string(),
        None => error.to_string(),
    })
}

fn config(pins: &Pins) -> Result<Mapped<ConfigRow>> {
    let map = open_map(pins, &abi::CONFIG)?;
    Mapped::new(map.fd(), 1).map_err(|error| Fault::os("map LB_CONFIG into memory", &error))
}

/// Opens a pinned map.
pub(super) fn open_map(pins: &Pins, spec: &MapSpec) -> Result<MapData> {
    MapData::from_pin(pins.path(spec.name))
        .map_err(|error| object::fault(format!("open map {}", spec.name), &error))
}

/// Takes over what is pinned; swaps the program if this binary has another one.
fn adopt(pins: Pins, options: &Options, config: &Mapped<ConfigRow>) -> Result<Loaded> {
    let globals = Globals {
        hash_key: [config[0].hash_key[0].load(), config[0].hash_key[1].load()],
        flow_mask: compare(&pins, &abi::FLOWS)? - 1,
        nat_rows: compare(&pins, &abi::NAT)?,
        fixed_now_ns: options.fixed_now_ns,
    };
    let (digest, keep) = (object::digest(&globals), options.fixed_now_ns == 0);
    if keep
        && pins.is_of(&digest)
        && let Ok((program, program_id)) = pinned_program(&pins)
    {
        swap_links(&pins, &program, program_id)?;
        return Ok(Loaded { pins, program, program_id, origin: Origin::Adopted });
    }
    let new = load_program(&pins, |spec| spec.capacity, &globals)?;
    pins.set_object(None)?;
    let (program, program_id, origin) = settle(&pins, PROGRAM, new, keep)?;
    pins.set_object(Some(&digest))?;
    Ok(Loaded { pins, program, program_id, origin })
}

/// The pinned program and its id.
fn pinned_program(pins: &Pins) -> Result<(OwnedFd, u32)> {
    let path = pins.path(PROGRAM);
    let info = ProgramInfo::from_pin(&path);
    let info = info.map_err(|error| object::fault("read the pinned program", &error))?;
    let program = sys::pinned(&path).map_err(|error| Fault::os("open the pinned program", &error))?;
    Ok((program, info.id()))
}

/// Puts the program into every link that has another one. A link whose device is gone is left to [`super::attach`].
fn swap_links(pins: &Pins, program: &OwnedFd, id: u32) -> Result<()> {
    for pinned in pins.links()? {
        let (link, state) = pinned.open()?;
        if state.ifindex != 0 && state.program != id {
            sys::relink(link.as_fd(), program.as_fd())
                .map_err(|error| Fault::os(format!("swap the program of `{}`", pinned.name), &error))?;
        }
    }
    Ok(())
}

/// Removes maps and program of a half-made data plane.
fn clear(pins: &Pins) -> Result<()> {
    let names = specs().map(|spec| spec.name).chain([PROGRAM, "balance-new"]);
    names.map(|name| pins.path(name)).try_for_each(|path| pins.remove(&path))?;
    pins.set_object(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_checked() {
        assert!(check(&Capacities::default()).is_ok());
        let mut bad = vec![Capacities::default(); 4];
        bad[0].flow_buckets = 1000;
        bad[1].limits.backends = limits::BACKENDS_MAX;
        bad[2].limits.sources = limits::SOURCES + 1;
        bad[3].nat_planes = 0;
        for capacities in bad {
            assert_eq!(check(&capacities).unwrap_err().code, Code::BadCapacity);
        }
    }

    #[test]
    fn every_map_has_its_number_of_entries() {
        let mut capacities = Capacities::default();
        capacities.limits.backends = 99;
        let of = |spec: &MapSpec| entries(spec, &capacities);
        assert_eq!((of(&abi::BACKENDS), of(&abi::BACKEND_COUNTS)), (100, 100));
        assert_eq!((of(&abi::DEVICES), of(&abi::NAT)), (abi::EGRESS.capacity, abi::NAT.capacity));
    }
}
