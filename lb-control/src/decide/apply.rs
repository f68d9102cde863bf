//! `apply`: a whole document, brought about by the same events as single commands. Removals come first, so that
//! what they free can be used at once.

use super::draft::{Draft, path};
use super::settings::Wish;
use super::{backend, breaker, tenant, vip};
use crate::backend::Backend;
use crate::code::Code;
use crate::command::{Apply, BackendSpec, DEFAULT_TENANT, Document, VipSpec};
use crate::event::Change;
use crate::rejection::Rejection;
use std::collections::{BTreeMap, BTreeSet};

/// Brings a document about.
pub(super) fn apply(draft: &mut Draft, wish: &Apply) {
    let document = &wish.document;
    check_duplicates(draft, document);
    if !draft.faults.is_empty() {
        return;
    }
    if wish.prune {
        prune(draft, document);
    }
    if wish.replace {
        make_way(draft, document);
    }
    for (index, spec) in document.tenants.iter().enumerate() {
        if draft.is_full() {
            return;
        }
        let prefix = format!("tenant[{index}]");
        if draft.state.tenants.contains_key(&spec.name) {
            tenant::limit(draft, &spec.name, spec.limits, &prefix);
        } else {
            tenant::make(draft, spec, &prefix);
        }
    }
    for (index, spec) in document.vips.iter().enumerate() {
        if draft.is_full() {
            return;
        }
        let prefix = format!("vip[{index}]");
        if draft.state.vips.contains_key(&spec.name) {
            change_vip(draft, spec, &prefix);
        } else {
            vip::add(draft, spec, &prefix);
        }
    }
    if let Some(trips) = &wish.trips {
        breaker::order(draft, trips);
    }
}

/// Notes names that the document has twice.
fn check_duplicates(draft: &mut Draft, document: &Document) {
    let tenants = document.tenants.iter().map(|spec| spec.name.as_str());
    let vips = document.vips.iter().map(|spec| spec.name.as_str());
    check_twice(draft, Code::DuplicateTenant, tenants, "tenant");
    check_twice(draft, Code::DuplicateVip, vips, "vip");
    for (index, spec) in document.vips.iter().enumerate() {
        let backends = spec.backends.iter().map(|spec| spec.name.as_str());
        check_twice(draft, Code::DuplicateBackend, backends, &format!("vip[{index}].backend"));
    }
}

fn check_twice<'a>(draft: &mut Draft, code: Code, names: impl Iterator<Item = &'a str>, list: &str) {
    let mut seen = BTreeMap::new();
    for (index, name) in names.enumerate() {
        if draft.is_full() {
            return;
        }
        if let Some(first) = seen.insert(name, index) {
            let message = format!("`{name}` stands twice in the document");
            let rejection = Rejection::new(code, format!("{list}[{index}].name"), message);
            draft.note(rejection.with_related(format!("{list}[{first}].name")));
        }
    }
}

/// Removes what the document does not name. A tenant that one of its vips names is as good as listed.
fn prune(draft: &mut Draft, document: &Document) {
    let wanted: BTreeMap<&str, &VipSpec> =
        document.vips.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    let mut gone = Vec::new();
    for (name, vip) in &draft.state.vips {
        let Some(spec) = wanted.get(name.as_str()) else {
            gone.push(Change::VipRemoved { vip: name.clone() });
            continue;
        };
        let listed: BTreeSet<&str> = spec.backends.iter().map(|spec| spec.name.as_str()).collect();
        let missing = vip.backends.keys().filter(|backend| !listed.contains(backend.as_str()));
        gone.extend(
            missing.map(|backend| Change::BackendRemoved { vip: name.clone(), backend: backend.clone() }),
        );
    }
    let tenants: BTreeSet<&str> = (document.tenants.iter().map(|spec| spec.name.as_str()))
        .chain(document.vips.iter().map(|spec| spec.tenant.as_str()))
        .chain([DEFAULT_TENANT])
        .collect();
    let missing = draft.state.tenants.keys().filter(|tenant| !tenants.contains(tenant.as_str()));
    gone.extend(missing.map(|tenant| Change::TenantRemoved { tenant: tenant.clone() }));
    gone.into_iter().for_each(|change| draft.emit(change));
}

/// Removes what stands in the way under a wanted name: what a vip or a backend can never become in its life.
fn make_way(draft: &mut Draft, document: &Document) {
    let mut gone = Vec::new();
    for spec in &document.vips {
        let Some(vip) = draft.state.vips.get(&spec.name) else { continue };
        let served = vip::served(spec);
        let fixed = (vip.settings.mode, vip.settings.table_size);
        let differs = !vip.backends.is_empty() && Wish::from(spec).fixed_over_defaults() != fixed;
        if served != vip.served || spec.tenant != vip.tenant || differs {
            gone.push(Change::VipRemoved { vip: spec.name.clone() });
            continue;
        }
        for backend in &spec.backends {
            let is = vip.backends.get(&backend.name);
            let same = |is: &Backend| {
                is.address == backend.address.to_canonical()
                    && is.port == backend::port_of(vip, backend)
                    && is.backup == backend.backup
            };
            if is.is_some_and(|is| !same(is)) {
                let (vip, backend) = (spec.name.clone(), backend.name.clone());
                gone.push(Change::BackendRemoved { vip, backend });
            }
        }
    }
    gone.into_iter().for_each(|change| draft.emit(change));
}

/// Makes a vip that exists what the document says.
fn change_vip(draft: &mut Draft, spec: &VipSpec, prefix: &str) {
    let vip = draft.state.vips[&spec.name].clone();
    let served = vip::served(spec);
    if served != vip.served || spec.tenant != vip.tenant {
        let message = format!("vip `{}` serves {} for tenant `{}`", spec.name, vip.served, vip.tenant);
        let field = match (served, vip.served) {
            (wanted, is) if wanted.address != is.address => "address",
            (wanted, is) if wanted.port != is.port => "port",
            (wanted, is) if wanted.protocol != is.protocol => "protocol",
            _ => "tenant",
        };
        return draft.fault(Code::VipIdentity, path(prefix, field), message);
    }
    let settings = Wish::from(spec).beside(&vip.settings).over_defaults(draft, &served, prefix);
    vip::change(draft, &spec.name, &vip, settings, prefix);
    for (index, backend) in spec.backends.iter().enumerate() {
        if draft.is_full() {
            return;
        }
        let prefix = format!("{prefix}.backend[{index}]");
        match vip.backends.get(&backend.name) {
            Some(_) => change_backend(draft, &spec.name, backend, &prefix),
            None => backend::add(draft, &spec.name, backend, &prefix),
        }
    }
}

/// Makes a backend that exists what the document says.
fn change_backend(draft: &mut Draft, vip_name: &str, spec: &BackendSpec, prefix: &str) {
    let vip = &draft.state.vips[vip_name];
    let old = vip.backends[&spec.name].clone();
    if spec.address.to_canonical() != old.address || backend::port_of(vip, spec) != old.port {
        let message = format!("backend `{vip_name}/{}` is {} port {}", spec.name, old.address, old.port);
        let field = if spec.address.to_canonical() == old.address { "port" } else { "address" };
        return draft.fault(Code::BackendIdentity, path(prefix, field), message);
    }
    if spec.backup != old.backup {
        let is = if old.backup { "a backup" } else { "no backup" };
        let message = format!("backend `{vip_name}/{}` is {is}", spec.name);
        return draft.fault(Code::BackupFixed, path(prefix, "backup"), message);
    }
    backend::change(draft, vip_name, &spec.name, &old, (spec.weight, spec.intent), prefix);
}
