//! Tenants.

use super::draft::Draft;
use super::name;
use crate::code::Code;
use crate::command::{DEFAULT_TENANT, TenantSpec};
use crate::event::Change;
use crate::rejection::not_found;

/// Makes a tenant.
pub(super) fn add(draft: &mut Draft, spec: &TenantSpec) {
    if draft.state.tenants.contains_key(&spec.name) {
        return draft.fault(Code::DuplicateTenant, "name", format!("tenant `{}` exists", spec.name));
    }
    make(draft, &spec.name, "name");
}

/// Makes a tenant that is not there.
pub(super) fn make(draft: &mut Draft, name: &str, place: &str) {
    name::check(draft, name, place);
    let id = draft.state.next.tenant;
    draft.emit(Change::TenantAdded { id, tenant: name.to_string() });
}

/// Removes a tenant.
pub(super) fn remove(draft: &mut Draft, name: &str) {
    if name == DEFAULT_TENANT {
        return draft.fault(Code::DefaultTenant, "name", "tenant `default` cannot be removed");
    }
    if !draft.state.tenants.contains_key(name) {
        return unknown(draft, name, "name");
    }
    let mut vips = draft.state.vips.iter().filter(|(_, vip)| vip.tenant == name);
    if let Some((vip, _)) = vips.next() {
        let others = match vips.count() {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        let message = format!("tenant `{name}` has vip `{vip}`{others}");
        return draft.fault(Code::TenantNotEmpty, "name", message);
    }
    draft.emit(Change::TenantRemoved { tenant: name.to_string() });
}

/// Notes that a tenant is not there.
pub(super) fn unknown(draft: &mut Draft, name: &str, place: impl Into<String>) {
    let message = not_found("tenant", name, draft.state.tenants.keys().map(String::as_str));
    draft.fault(Code::UnknownTenant, place, message);
}
