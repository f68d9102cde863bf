//! The BPF object that was built into the binary, and how one of its programs is loaded with pinned maps.
//!
//! A map that is pinned is used as it is, whatever its size: the caller has compared it with what it should be.

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::MapType;
use aya::programs::{ProgramError, Xdp};
use aya::util::KernelVersion;
use aya::{EbpfError, EbpfLoader};
use lb_common::abi::{self, MapSpec};
use lb_control::code::Code;
use sha2::{Digest, Sha256};

use super::fault::{Fault, Result};

include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// Frames of several parts (`xdp.frags`) came with 5.18; links, and memory that is not counted against
/// RLIMIT_MEMLOCK, before.
const SINCE: KernelVersion = KernelVersion::new(5, 18, 0);

/// `BPF_F_MMAPABLE`.
pub(super) const MMAPABLE: u32 = 1 << 10;

/// Whether this binary has its data plane.
pub(super) fn is_built_in() -> bool {
    OBJECT.is_some()
}

/// A map of the object as the caller wants it.
pub(super) struct Wanted {
    pub(super) spec: MapSpec,
    pub(super) entries: u32,
    /// Where it is pinned; `None`: it lives and dies with the program.
    pub(super) pin: Option<PathBuf>,
}

/// The read-only globals of the object.
#[derive(Clone, Copy, Default)]
pub(super) struct Globals {
    pub(super) hash_key: [u64; 2],
    pub(super) flow_mask: u32,
    pub(super) nat_rows: u32,
    /// Nanoseconds; 0 = the clock runs.
    pub(super) fixed_now_ns: u64,
}

/// Digest of all that a program of this binary is made of: the same gives the same program.
pub(super) fn digest(globals: &Globals) -> String {
    let Globals { hash_key: [first, second], flow_mask, nat_rows, fixed_now_ns } = *globals;
    let words = [first, second, flow_mask.into(), nat_rows.into(), fixed_now_ns];
    let mut hasher = Sha256::new_with_prefix(OBJECT.unwrap_or_default());
    words.iter().for_each(|word| hasher.update(word.to_le_bytes()));
    hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A loaded program.
pub(super) struct Program {
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
    /// Digest of its instructions: the same for the same object.
    pub(super) tag: u64,
}

/// Loads a program of the object, making the maps that are not pinned yet. Maps of the object that are not in
/// `maps` get one entry: the program does not use them.
pub(super) fn load(program: &str, maps: &[Wanted], globals: &Globals) -> Result<Program> {
    let object = OBJECT.ok_or_else(no_object)?;
    check_kernel()?;
    let mut loader = EbpfLoader::new();
    for spec in abi::MAPS {
        loader.map_max_entries(spec.name, 1);
    }
    for map in maps {
        loader.map_max_entries(map.spec.name, map.entries);
        if let Some(pin) = &map.pin {
            loader.map_pin_path(map.spec.name, pin.as_path());
        }
    }
    loader
        .override_global("LB_HASH_KEY", &globals.hash_key, true)
        .override_global("LB_FLOW_MASK", &globals.flow_mask, true)
        .override_global("LB_NAT_ROWS", &globals.nat_rows, true)
        .override_global("LB_FIXED_NOW_NS", &globals.fixed_now_ns, true);
    let mut loaded = loader.load(object).map_err(|error| maps_fault(&error))?;
    let found = loaded.program_mut(program);
    let found = found
        .ok_or_else(|| Fault::new(Code::ObjectRefused, format!("the object has no program `{program}`")))?;
    let xdp = <&mut Xdp>::try_from(found).map_err(|error| program_fault(program, &error))?;
    xdp.load().map_err(|error| program_fault(program, &error))?;
    read_back(program, xdp)
}

fn read_back(name: &str, xdp: &Xdp) -> Result<Program> {
    let fault = |error: ProgramError| program_fault(name, &error);
    let info = xdp.info().map_err(fault)?;
    let fd = xdp.fd().map_err(fault)?.as_fd().try_clone_to_owned();
    let fd = fd.map_err(|error| Fault::os("keep the program", &error))?;
    Ok(Program { fd, id: info.id(), tag: info.tag() })
}

/// The binary was built without its data plane.
pub(super) fn no_object() -> Fault {
    Fault::new(Code::NoDataPlane, Code::NoDataPlane.short())
}

fn check_kernel() -> Result<()> {
    let version =
        KernelVersion::current().map_err(|error| Fault::new(Code::KernelTooOld, error.to_string()))?;
    supported(version)
}

fn supported(version: KernelVersion) -> Result<()> {
    if version < SINCE {
        return Err(Fault::new(Code::KernelTooOld, format!("this kernel is {version}")));
    }
    Ok(())
}

/// The kernel's own error, somewhere in a chain of causes.
pub(super) fn os_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<std::io::Error>() {
            Some(found) if found.raw_os_error().is_some() => return Some(found),
            _ => next = error.source(),
        }
    }
    None
}

/// What an error of aya's means, while doing `what`.
pub(super) fn fault(what: impl std::fmt::Display, error: &(dyn Error + 'static)) -> Fault {
    match os_error(error) {
        Some(found) => Fault::os(what, found),
        None => Fault::new(Code::KernelCall, format!("could not {what}: {error}")),
    }
}

fn maps_fault(error: &EbpfError) -> Fault {
    match error {
        EbpfError::MapError(inner) => fault(format!("make the maps ({inner})"), inner),
        _ => match os_error(error) {
            Some(found) => Fault::os("load the object", found),
            None => Fault::new(Code::ObjectRefused, error.to_string()),
        },
    }
}

fn program_fault(program: &str, error: &ProgramError) -> Fault {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return fault(format!("load the program `{program}`"), error);
    };
    if matches!(io_error.raw_os_error(), Some(libc::EPERM)) {
        return Fault::os(format!("load the program `{program}`"), io_error);
    }
    let log = verifier_log.to_string();
    let last: Vec<&str> = log.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    let said = last.into_iter().rev().collect::<Vec<_>>().join(" | ");
    Fault::new(
        Code::ObjectRefused,
        format!("the kernel refused the program `{program}` ({io_error}): {said}"),
    )
}

/// What the kernel should say about a map of the balancer: its type, and whether it can be mapped into memory.
pub(super) fn kind(spec: &MapSpec) -> (MapType, bool) {
    match spec.name {
        name if [abi::VIP_KEYS, abi::PORTS, abi::DECAP_PEERS, abi::DECAP_VIPS]
            .iter()
            .any(|m| m.name == name) =>
        {
            (MapType::Hash, false)
        }
        name if name == abi::DEVICES.name => (MapType::DevMap, false),
        name if [
            abi::REASON_COUNTS,
            abi::VIP_HINTS,
            abi::VIP_COUNTS,
            abi::BACKEND_COUNTS,
            abi::TENANT_CREDIT,
            abi::TENANT_COUNTS,
            abi::SIGNALS,
            abi::ICMP_METER,
        ]
        .iter()
        .any(|m| m.name == name) =>
        {
            (MapType::PerCpuArray, false)
        }
        name if name == abi::SYN_MARKS.name => (MapType::Array, false),
        _ => (MapType::Array, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_error_is_found_below_others() {
        let inner = std::io::Error::from_raw_os_error(libc::ENOMEM);
        let error = aya::maps::MapError::CreateError { name: "LB_X".into(), io_error: inner };
        assert_eq!(os_error(&error).unwrap().raw_os_error(), Some(libc::ENOMEM));
        assert!(maps_fault(&EbpfError::MapError(error)).message.contains("LB_X"));
    }

    #[test]
    fn every_global_is_in_the_digest() {
        let change: [fn(&mut Globals); 5] = [
            |globals| globals.hash_key[0] = 1,
            |globals| globals.hash_key[1] = 1,
            |globals| globals.flow_mask = 1,
            |globals| globals.nat_rows = 1,
            |globals| globals.fixed_now_ns = 1,
        ];
        let mut digests = vec![digest(&Globals::default())];
        for change in change {
            let mut globals = Globals::default();
            change(&mut globals);
            assert!(!digests.contains(&digest(&globals)));
            digests.push(digest(&globals));
        }
        assert_eq!((digests[0].len(), &digests[0]), (32, &digest(&Globals::default())));
    }

    #[test]
    fn a_kernel_that_is_too_old_is_named_with_what_it_takes() {
        assert_eq!(supported(KernelVersion::new(5, 18, 0)), Ok(()));
        let fault = supported(KernelVersion::new(5, 17, 9)).unwrap_err().to_string();
        assert!(fault.contains("LB4012") && fault.contains("5.17.9") && fault.contains("5.18"), "{fault}");
    }

    #[test]
    fn live_rows_can_be_mapped_and_the_rest_cannot() {
        let mapped: Vec<&str> = abi::MAPS.iter().filter(|spec| kind(spec).1).map(|spec| spec.name).collect();
        let live = ["CONFIG", "VIPS", "SLOTS", "BACKENDS", "EGRESS", "SOURCES", "FLOWS", "NAT", "TENANTS"];
        assert_eq!(mapped, live.map(|name| format!("LB_{name}")));
    }
}
