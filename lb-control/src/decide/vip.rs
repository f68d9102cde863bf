//! Vips.

use super::draft::{Draft, path};
use super::settings::Wish;
use super::{address, backend, balancing, name, tenant};
use crate::code::Code;
use crate::command::{VipSet, VipSpec};
use crate::event::Change;
use crate::rejection::{Rejection, not_found};
use crate::state::State;
use crate::vip::{Served, Vip, VipSettings};

/// What a vip of the document or command serves.
pub(super) fn served(spec: &VipSpec) -> Served {
    Served { address: spec.address.to_canonical(), port: spec.port, protocol: spec.protocol }
}

/// Makes a vip with its backends.
pub(super) fn add(draft: &mut Draft, spec: &VipSpec, prefix: &str) {
    if draft.state.vips.contains_key(&spec.name) {
        let message = format!("vip `{}` exists", spec.name);
        return draft.fault(Code::DuplicateVip, path(prefix, "name"), message);
    }
    let served = served(spec);
    name::check(draft, &spec.name, path(prefix, "name"));
    if !draft.state.tenants.contains_key(&spec.tenant) {
        tenant::unknown(draft, &spec.tenant, path(prefix, "tenant"));
    }
    address::check(draft, Code::BadVipAddress, served.address, path(prefix, "address"));
    if let Some((code, message)) = conflict(&draft.state, &served, &spec.tenant) {
        draft.fault(code, path(prefix, "address"), message);
    }
    let settings = Wish::from(spec).over_defaults(draft, &served, prefix);
    draft.emit(Change::VipAdded {
        id: draft.state.next.vip,
        vip: spec.name.clone(),
        tenant: spec.tenant.clone(),
        served,
        settings: Box::new(settings),
    });
    for (index, backend) in spec.backends.iter().enumerate() {
        if draft.is_full() {
            return;
        }
        backend::add(draft, &spec.name, backend, &path(prefix, &format!("backend[{index}]")));
    }
}

/// What stands in the way of a vip: another vip, or a backend.
fn conflict(state: &State, served: &Served, tenant: &str) -> Option<(Code, String)> {
    if let Some((other, vip)) = state.vip_serving(served) {
        let message = format!("{served} is served by vip `{other}` of tenant `{}`", vip.tenant);
        return Some((Code::VipAddressTaken, message));
    }
    for (other, name) in state.vips_at(served.address) {
        let overlaps = other.protocol == served.protocol && (other.port == 0 || served.port == 0);
        let holder = state.vips.get(name).map_or("", |vip| &vip.tenant);
        if overlaps && holder != tenant {
            let message = format!("{served} overlaps {other}, vip `{name}` of tenant `{holder}`");
            return Some((Code::VipAddressOfOtherTenant, message));
        }
    }
    if !state.is_backend_address(served.address) {
        return None;
    }
    let (vip, _, backend, _) = state.backends().find(|(.., backend)| backend.address == served.address)?;
    let message = format!("{} is the address of backend `{vip}/{backend}`", served.address);
    Some((Code::BackendIsVip, message))
}

/// Changes settings of a vip.
pub(super) fn set(draft: &mut Draft, set: &VipSet) {
    let Some(vip) = draft.state.vips.get(&set.name).cloned() else {
        return unknown(draft, &set.name, "name");
    };
    let wish = Wish::from(set).beside(&vip.settings);
    if wish.is_empty() {
        return draft.fault(Code::NothingToSet, "", format!("no setting of vip `{}` is named", set.name));
    }
    let settings = wish.over(draft, vip.settings.clone(), &vip.served, "");
    change(draft, &set.name, &vip, settings, "");
}

/// Gives a vip its settings if they are other ones, and if they may change now.
pub(super) fn change(draft: &mut Draft, name: &str, vip: &Vip, settings: VipSettings, prefix: &str) {
    if settings == vip.settings {
        return;
    }
    if !vip.backends.is_empty() && settings.mode != vip.settings.mode {
        let message = format!("vip `{name}` has backends ({})", vip.backends.len());
        draft.fault(Code::ModeLive, path(prefix, "mode"), message);
    }
    if !vip.backends.is_empty() && settings.table_size != vip.settings.table_size {
        let message = format!("vip `{name}` has backends ({})", vip.backends.len());
        draft.fault(Code::TableSizeLive, path(prefix, "table_size"), message);
    }
    if !vip.backends.is_empty() {
        balancing::check_live(draft, name, &vip.settings.balancing, &settings.balancing, prefix);
    }
    draft.emit(Change::VipSettingsChanged { vip: name.to_string(), settings: Box::new(settings) });
}

/// Removes a vip.
pub(super) fn remove(draft: &mut Draft, name: &str) {
    if !draft.state.vips.contains_key(name) {
        return unknown(draft, name, "name");
    }
    draft.emit(Change::VipRemoved { vip: name.to_string() });
}

/// Notes that a vip is not there.
pub(super) fn unknown(draft: &mut Draft, name: &str, place: &str) {
    let message = not_found("vip", name, draft.state.vips.keys().map(String::as_str));
    draft.note(Rejection::new(Code::UnknownVip, place, message));
}
