//! Backends.

use super::draft::{Draft, path};
use super::{address, name, vip};
use crate::backend::Backend;
use crate::code::Code;
use crate::command::{BackendSet, BackendSpec};
use crate::event::Change;
use crate::rejection::not_found;
use crate::state::State;
use crate::vip::{Mode, Vip};
use lb_common::limits::WEIGHT_MAX;
use std::net::IpAddr;

/// Adds a backend to a vip.
pub(super) fn add(draft: &mut Draft, vip_name: &str, spec: &BackendSpec, prefix: &str) {
    let Some(vip) = draft.state.vips.get(vip_name) else {
        return vip::unknown(draft, vip_name, "vip");
    };
    if vip.backends.contains_key(&spec.name) {
        let message = format!("vip `{vip_name}` has a backend `{}`", spec.name);
        return draft.fault(Code::DuplicateBackend, path(prefix, "name"), message);
    }
    let faults = faults_of(&draft.state, vip, spec, prefix);
    let address = spec.address.to_canonical();
    let port = port_of(vip, spec);
    faults.into_iter().for_each(|(code, place, message)| draft.fault(code, place, message));
    name::check(draft, &spec.name, path(prefix, "name"));
    address::check(draft, Code::BadBackendAddress, address, path(prefix, "address"));
    let weight = weight_of(draft, spec.weight, prefix);
    draft.emit(Change::BackendAdded {
        id: draft.state.next.backend,
        vip: vip_name.to_string(),
        backend: spec.name.clone(),
        address,
        port,
        weight,
        intent: spec.intent,
    });
}

/// The port of a backend in a vip.
pub(super) fn port_of(vip: &Vip, spec: &BackendSpec) -> u16 {
    spec.port.unwrap_or(vip.served.port)
}

type Fault = (Code, String, String);

/// What is wrong between a backend and the vips.
fn faults_of(state: &State, vip: &Vip, spec: &BackendSpec, prefix: &str) -> Vec<Fault> {
    let address = spec.address.to_canonical();
    [
        loop_fault(state, address, prefix),
        family_fault(vip, address, prefix),
        port_fault(vip, spec, prefix),
        // Most addresses are new to the whole state, and a pool may be large.
        state
            .is_backend_address(address)
            .then(|| twin_fault(vip, address, port_of(vip, spec), prefix))
            .flatten(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn loop_fault(state: &State, address: IpAddr, prefix: &str) -> Option<Fault> {
    let (_, vip) = state.vips_at(address).next()?;
    let message = format!("{address} is the address of vip `{vip}`");
    Some((Code::BackendIsVip, path(prefix, "address"), message))
}

fn family_fault(vip: &Vip, address: IpAddr, prefix: &str) -> Option<Fault> {
    let same = vip.served.address.is_ipv4() == address.is_ipv4();
    (!same && vip.settings.mode != Mode::Ipip).then(|| {
        let message =
            format!("vip {} and backend {address} in mode {}", vip.served, mode_name(vip.settings.mode));
        (Code::FamilyMismatch, path(prefix, "address"), message)
    })
}

fn port_fault(vip: &Vip, spec: &BackendSpec, prefix: &str) -> Option<Fault> {
    let (port, own) = (port_of(vip, spec), vip.served.port);
    if port == own {
        return None;
    }
    let place = path(prefix, "port");
    match vip.settings.mode {
        Mode::Nat if port == 0 => Some((Code::BackendPortZero, place, format!("the vip serves port {own}"))),
        Mode::Nat => None,
        mode => {
            let message = format!("port {port} behind port {own} in mode {}", mode_name(mode));
            Some((Code::BackendPortInDirectReturn, place, message))
        }
    }
}

fn twin_fault(vip: &Vip, address: IpAddr, port: u16, prefix: &str) -> Option<Fault> {
    let twin = |(_, other): &(&String, &Backend)| other.address == address && other.port == port;
    let (name, _) = vip.backends.iter().find(twin)?;
    let message = format!("{address} port {port} is backend `{name}`");
    Some((Code::DuplicateBackendAddress, path(prefix, "address"), message))
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::L2 => "l2",
        Mode::Ipip => "ipip",
        Mode::Nat => "nat",
    }
}

/// The weight, within its range.
fn weight_of(draft: &mut Draft, weight: u32, prefix: &str) -> u16 {
    u16::try_from(weight).unwrap_or_else(|_| {
        draft.fault(
            Code::WeightRange,
            path(prefix, "weight"),
            format!("weight is {weight}, but must be from 0 to {WEIGHT_MAX}"),
        );
        WEIGHT_MAX
    })
}

/// Changes a backend by command.
pub(super) fn set(draft: &mut Draft, set: &BackendSet) {
    let Some(backend) = find(draft, &set.vip, &set.name) else { return };
    if set.weight.is_none() && set.intent.is_none() {
        let message = format!("no setting of backend `{}/{}` is named", set.vip, set.name);
        return draft.fault(Code::NothingToSet, "", message);
    }
    let weight = set.weight.unwrap_or(backend.weight.into());
    change(draft, &set.vip, &set.name, &backend, (weight, set.intent.unwrap_or(backend.intent)), "");
}

/// Gives a backend its weight and intent where they are other ones.
pub(super) fn change(
    draft: &mut Draft,
    vip: &str,
    name: &str,
    backend: &Backend,
    (weight, intent): (u32, crate::backend::Intent),
    prefix: &str,
) {
    let weight = weight_of(draft, weight, prefix);
    let (vip, name) = (vip.to_string(), name.to_string());
    if weight != backend.weight {
        draft.emit(Change::BackendWeightChanged { vip: vip.clone(), backend: name.clone(), weight });
    }
    if intent != backend.intent {
        draft.emit(Change::BackendIntentChanged { vip, backend: name, intent });
    }
}

/// Removes a backend.
pub(super) fn remove(draft: &mut Draft, vip: &str, name: &str) {
    if find(draft, vip, name).is_some() {
        draft.emit(Change::BackendRemoved { vip: vip.to_string(), backend: name.to_string() });
    }
}

/// The backend, or a fault.
pub(super) fn find(draft: &mut Draft, vip_name: &str, name: &str) -> Option<Backend> {
    let Some(vip) = draft.state.vips.get(vip_name) else {
        vip::unknown(draft, vip_name, "vip");
        return None;
    };
    let backend = vip.backends.get(name).cloned();
    if backend.is_none() {
        let what = format!("in vip `{vip_name}`, backend");
        let message = not_found(&what, name, vip.backends.keys().map(String::as_str));
        draft.fault(Code::UnknownBackend, "name", message);
    }
    backend
}
