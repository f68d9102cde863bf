//! Tenants.

use super::draft::{Draft, path};
use super::name;
use crate::code::Code;
use crate::command::{DEFAULT_TENANT, TenantSet, TenantSpec};
use crate::event::Change;
use crate::rejection::not_found;
use crate::tenant::{Limit, TenantLimits};

/// Makes a tenant.
pub(super) fn add(draft: &mut Draft, spec: &TenantSpec) {
    if draft.state.tenants.contains_key(&spec.name) {
        return draft.fault(Code::DuplicateTenant, "name", format!("tenant `{}` exists", spec.name));
    }
    make(draft, spec, "");
}

/// Makes a tenant that is not there.
pub(super) fn make(draft: &mut Draft, spec: &TenantSpec, prefix: &str) {
    name::check(draft, &spec.name, path(prefix, "name"));
    let id = draft.state.next.tenant;
    draft.emit(Change::TenantAdded { id, tenant: spec.name.clone() });
    limit(draft, &spec.name, spec.limits, prefix);
}

/// Changes limits of a tenant.
pub(super) fn set(draft: &mut Draft, set: &TenantSet) {
    let Some(tenant) = draft.state.tenants.get(&set.name).copied() else {
        return unknown(draft, &set.name, "name");
    };
    if set.limits.is_empty() {
        return draft.fault(Code::NothingToSet, "", format!("no limit of tenant `{}` is named", set.name));
    }
    let limits = set.limits.iter().fold(tenant.limits, |limits, (limit, value)| limits.with(*limit, *value));
    limit(draft, &set.name, limits, "");
}

/// Gives a tenant its limits if they are other ones.
pub(super) fn limit(draft: &mut Draft, name: &str, limits: TenantLimits, prefix: &str) {
    if draft.state.tenants.get(name).is_none_or(|tenant| tenant.limits == limits) {
        return;
    }
    for (limit, value) in limits.iter() {
        let (low, high) = limit.range();
        if (low..=high).contains(&value) {
            continue;
        }
        let code = match limit {
            Limit::BurstMs if value == 0 => Code::TenantBurst,
            Limit::FlowSharePercent | Limit::NatSharePercent => Code::TenantShare,
            _ => Code::TenantLimitRange,
        };
        let message = format!("{limit} is {value}, but must be from {low} to {high}");
        draft.fault(code, path(prefix, limit.name()), message);
    }
    draft.emit(Change::TenantLimitsChanged { tenant: name.to_string(), limits: Box::new(limits) });
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
