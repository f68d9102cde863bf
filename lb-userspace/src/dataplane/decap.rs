//! The backend's side of IP-in-IP: loads the program that takes the outer header off, for `lb decap`.
//!
//! No daemon: what is attached stays attached after the command has ended, and the next command finds it by its
//! pins. Peers and vips are of the pin directory, so of all its devices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use aya::maps::{Map, PerCpuArray};
use lb_common::abi::counter::Counter;
use lb_common::abi::{self, MapSpec};
use lb_common::addr::Addr;
use lb_common::reason::Reason;
use lb_control::code::Code;

use super::attach::Site;
use super::fault::{Fault, Result};
use super::kernel::{self, CountMap, Hash};
use super::object::{self, Globals, Wanted};
use super::pins::Pins;
use super::{AttachMode, Attached, loader};

/// Where it is pinned unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/lb-decap";
/// Name of the program and of its pin.
const PROGRAM: &str = "decap";
const MAPS: [&MapSpec; 3] = [&abi::REASON_COUNTS, &abi::DECAP_PEERS, &abi::DECAP_VIPS];

/// What is unwrapped: packets from a peer, whose inner destination is a vip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The balancers' own addresses, the outer sources of their tunnels.
    pub peers: BTreeSet<IpAddr>,
    /// The vips' addresses.
    pub vips: BTreeSet<IpAddr>,
}

/// What `lb decap` does on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The devices.
    pub attached: Vec<Attached>,
    /// What is unwrapped.
    pub accepted: Accepted,
    /// Packets and bytes by reason, since the first attach.
    pub reasons: BTreeMap<Reason, Counter>,
}

/// Attaches the program to a device, or changes what is accepted if it is there already.
///
/// # Errors
/// As [`super::Dataplane::attach`] and [`kernel::Kernel::open`]; more peers or vips than their maps hold.
pub fn attach(
    pin_dir: &Path,
    device: &str,
    accepted: &Accepted,
    mode: AttachMode,
    replace: bool,
) -> Result<Attached> {
    if !object::is_built_in() {
        return Err(object::no_object());
    }
    super::attach::device(device)?;
    let pins = Pins::open(pin_dir)?;
    for spec in MAPS.iter().filter(|spec| pins.path(spec.name).exists()) {
        loader::compare(&pins, spec)?;
    }
    let wanted =
        MAPS.map(|spec| Wanted { spec: *spec, entries: spec.capacity, pin: Some(pins.path(spec.name)) });
    let new = object::load(PROGRAM, &wanted, &Globals::default())?;
    // What is accepted is there before the first packet.
    accept(&pins, &abi::DECAP_PEERS, &accepted.peers)?;
    accept(&pins, &abi::DECAP_VIPS, &accepted.vips)?;
    let (program, program_id, _) = loader::settle(&pins, PROGRAM, new, true)?;
    let attached = Site { pins: &pins, program: &program, program_id }.attach(device, mode, replace);
    if attached.is_err() {
        forget_unused(&pins)?;
    }
    attached
}

/// Detaches it from a device; from the last one, it is removed altogether.
///
/// # Errors
/// It is not attached there.
pub fn detach(pin_dir: &Path, device: &str) -> Result<()> {
    let pins = existing(pin_dir)?;
    super::attach::detach(&pins, device)?;
    forget_unused(&pins)
}

/// Removes maps and program if no device has them.
fn forget_unused(pins: &Pins) -> Result<()> {
    if !pins.links()?.is_empty() {
        return Ok(());
    }
    let names = MAPS.iter().map(|spec| spec.name).chain([PROGRAM]);
    names.map(|name| pins.path(name)).try_for_each(|path| pins.remove(&path))
}

/// What is attached, what it accepts, and what it did.
///
/// # Errors
/// Nothing is attached, or it could not be read.
pub fn status(pin_dir: &Path) -> Result<Status> {
    let pins = existing(pin_dir)?;
    let counts = Map::from_map_data(loader::open_map(&pins, &abi::REASON_COUNTS)?);
    let counts: CountMap = counts
        .and_then(PerCpuArray::try_from)
        .map_err(|error| object::fault("open map LB_REASONS", &error))?;
    let mut status = Status { attached: super::attach::attached_of(&pins)?, ..Status::default() };
    status.accepted = Accepted {
        peers: addresses(&Hash::open(&pins, &abi::DECAP_PEERS)?)?,
        vips: addresses(&Hash::open(&pins, &abi::DECAP_VIPS)?)?,
    };
    for reason in Reason::ALL {
        let count = kernel::sum(&counts, &abi::REASON_COUNTS, *reason as u32)?;
        if count.packets != 0 {
            status.reasons.insert(*reason, count);
        }
    }
    Ok(status)
}

/// The pins of what is attached.
fn existing(pin_dir: &Path) -> Result<Pins> {
    if !pin_dir.join(PROGRAM).exists() {
        return Err(Fault::new(Code::NotAttached, "no device is attached for decapsulation"));
    }
    Pins::open(pin_dir)
}

fn addresses(map: &Hash<Addr>) -> Result<BTreeSet<IpAddr>> {
    Ok(map.all()?.into_iter().map(|(address, _)| address.ip()).collect())
}

/// Makes a set what it should be: what is new first, so that nothing that stays is missing in between.
fn accept(pins: &Pins, spec: &'static MapSpec, wanted: &BTreeSet<IpAddr>) -> Result<()> {
    let map = Hash::<Addr>::open(pins, spec)?;
    let present = addresses(&map)?;
    wanted.difference(&present).try_for_each(|address| map.set(Addr::from(*address), 1))?;
    present.difference(wanted).try_for_each(|address| map.remove(Addr::from(*address)))
}
