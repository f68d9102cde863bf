//! Who set what: of every field of what there is the last change, with the record that made it; and of every actor how
//! often and when. The answer to `lb blame`.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::blame::{Act, Fields, MADE};
use super::field::{self, Field};
use super::object::Object;
use super::{Projection, inventory};
use crate::backend::BreakerOrder;
use crate::command::DEFAULT_TENANT;
use crate::event::Change;
use crate::record::Record;
use crate::tenant::TenantLimits;

/// Who set what, as of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// The actors, by name.
    pub actors: BTreeMap<Arc<str>, Acts>,
    vips: OrdMap<Arc<str>, Arc<VipFields>>,
    tenants: BTreeMap<Arc<str>, Fields>,
    bypass: Fields,
    revision: u64,
}

/// What an actor did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acts {
    /// Accepted commands.
    pub commands: u64,
    /// Events that followed from them.
    pub events: u64,
    /// When the last one was decided, milliseconds since the Unix epoch.
    pub last_ms: u64,
    /// Revision after the last one.
    pub last_revision: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct VipFields {
    own: Fields,
    backends: BTreeMap<Arc<str>, Fields>,
}

impl Projection for Audit {
    const NAME: &'static str = "audit";

    fn apply(&mut self, record: &Record) {
        self.revision = record.revision;
        let act = Arc::new(Act {
            revision: record.revision,
            at_ms: record.at_ms,
            actor: record.actor.clone(),
            command: record.command.clone(),
            command_id: record.command_id.clone(),
            reason: record.reason.clone(),
        });
        record.events.iter().for_each(|event| self.take(&event.change, &act));
        if !self.actors.contains_key(record.actor.as_str()) {
            self.actors.insert(record.actor.as_str().into(), Acts::default());
        }
        if let Some(acts) = self.actors.get_mut(record.actor.as_str()) {
            acts.commands += 1;
            acts.events += record.events.len() as u64;
            (acts.last_ms, acts.last_revision) = (record.at_ms, record.revision);
        }
    }

    fn revision(&self) -> u64 {
        self.revision
    }
}

impl Audit {
    /// Who set the fields of something that there is.
    pub fn blame(&self, object: &Object) -> Option<&Fields> {
        match object {
            Object::Bypass => Some(&self.bypass),
            Object::Tenant(name) => self.tenants.get(name),
            Object::Vip(name) => self.vips.get(name).map(|vip| &vip.own),
            Object::Backend(vip, name) => self.vips.get(vip)?.backends.get(name),
        }
    }

    fn take(&mut self, change: &Change, act: &Arc<Act>) {
        match change {
            Change::TenantAdded { tenant, .. } => {
                let fields = Fields::made(field::limits(&TenantLimits::default()), act);
                self.tenants.insert(tenant.as_str().into(), fields);
            }
            Change::TenantLimitsChanged { tenant, limits } => {
                if let Some(fields) = self.tenants.get_mut(tenant.as_str()) {
                    fields.set_all(field::limits(limits), act);
                }
            }
            Change::TenantRemoved { tenant } => drop(self.tenants.remove(tenant.as_str())),
            Change::VipAdded { vip, tenant, served, settings, .. } => {
                let own = Fields::made(field::vip(served, tenant, settings), act);
                let fields = VipFields { own, backends: BTreeMap::new() };
                self.vips.insert(vip.as_str().into(), Arc::new(fields));
            }
            Change::VipSettingsChanged { vip, settings } => {
                self.change(vip, |of| of.own.set_all(field::settings(settings), act));
            }
            Change::VipRemoved { vip } => drop(self.vips.remove(vip.as_str())),
            Change::BackendAdded { vip, backend, address, port, weight, intent, backup, .. } => {
                let fields = Fields::made(
                    field::backend(*address, *port, *weight, *intent, *backup, BreakerOrder::default()),
                    act,
                );
                self.change(vip, |of| drop(of.backends.insert(backend.as_str().into(), fields)));
            }
            Change::BackendWeightChanged { vip, backend, weight } => {
                self.change_backend(vip, backend, "weight", &weight.to_string(), act);
            }
            Change::BackendIntentChanged { vip, backend, intent } => {
                self.change_backend(vip, backend, "intent", &intent.to_string(), act);
            }
            Change::BreakerTripped { vip, backend } => {
                self.change_backend(vip, backend, "breaker", &field::breaker_order(true), act);
            }
            Change::BreakerReset { vip, backend } => {
                self.change_backend(vip, backend, "breaker", &field::breaker_order(false), act);
            }
            Change::BackendRemoved { vip, backend } => {
                self.change(vip, |of| drop(of.backends.remove(backend.as_str())));
            }
            Change::BypassChanged { on } => {
                self.bypass.set("bypass", Some(if *on { "on" } else { "off" }), act);
            }
            Change::CommandAccepted { .. } => {}
        }
    }

    fn change(&mut self, vip: &str, change: impl FnOnce(&mut VipFields)) {
        if let Some(fields) = self.vips.get_mut(vip) {
            change(Arc::make_mut(fields));
        }
    }

    fn change_backend(&mut self, vip: &str, backend: &str, name: &str, value: &str, act: &Arc<Act>) {
        self.change(vip, |of| {
            if let Some(fields) = of.backends.get_mut(backend) {
                fields.set(name, Some(value), act);
            }
        });
    }
}

/// Whether what is blamed is what there is; for tests and for checks of a rebuild.
pub fn agrees(audit: &Audit, inventory: &inventory::Inventory) -> bool {
    let same = |fields: &Fields, wanted: Vec<Field>| {
        let own = fields.iter().filter(|(name, _)| *name != MADE);
        let own = own.filter_map(|(name, of)| Some((name, of.value.as_deref()?)));
        let own: BTreeMap<&str, &str> = own.collect();
        own == wanted.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    };
    let limits = |name: &Arc<str>, limits| {
        // The one that always exists is blamed on nobody until it changes.
        audit
            .tenants
            .get(name)
            .map_or(&**name == DEFAULT_TENANT, |fields| same(fields, field::limits(limits)))
    };
    inventory.tenants.iter().all(|(name, tenant)| limits(name, &tenant.limits))
        && audit.vips.len() == inventory.vips.len()
        && inventory.vips.iter().all(|(name, vip)| {
            let Some(fields) = audit.vips.get(name) else { return false };
            same(&fields.own, field::vip(&vip.served, &vip.tenant, &vip.settings))
                && fields.backends.len() == vip.backends.len()
                && vip.backends.iter().all(|(name, of)| {
                    fields.backends.get(name.as_str()).is_some_and(|fields| {
                        same(
                            fields,
                            field::backend(of.address, of.port, of.weight, of.intent, of.backup, of.breaker),
                        )
                    })
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::inventory::Inventory;
    use crate::projection::testing::{any_log, rebuilt};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_blamed_is_what_there_is_at_every_revision(log in any_log()) {
            let (mut audit, mut inventory) = (Audit::default(), Inventory::default());
            for record in &log {
                audit.apply(record);
                inventory.apply(record);
                prop_assert!(agrees(&audit, &inventory));
                prop_assert_eq!(&audit, &rebuilt::<Audit>(&log, record.revision));
                let commands: u64 = audit.actors.values().map(|acts| acts.commands).sum();
                prop_assert_eq!(commands as usize, log.iter().filter(|one| one.revision <= record.revision).count());
            }
        }

        /// The blamed record is the last one that changed the value, found by looking at every inventory.
        #[test]
        fn the_last_change_of_a_weight_is_blamed(log in any_log()) {
            let (mut audit, mut inventory) = (Audit::default(), Inventory::default());
            let mut last: BTreeMap<(String, String), (u32, u16, u64)> = BTreeMap::new();
            for record in &log {
                audit.apply(record);
                inventory.apply(record);
                for (vip, _, name, backend) in inventory.backends() {
                    let now = (backend.id.0, backend.weight);
                    let known = last.get(&(vip.to_owned(), name.to_owned()));
                    if known.is_none_or(|(id, weight, _)| (*id, *weight) != now) {
                        last.insert((vip.to_owned(), name.to_owned()), (now.0, now.1, record.revision));
                    }
                }
            }
            for (vip, _, name, _) in inventory.backends() {
                let object = Object::Backend(vip.into(), name.into());
                let blamed = &audit.blame(&object).unwrap().get("weight").unwrap();
                prop_assert_eq!(blamed.by.revision, last[&(vip.to_owned(), name.to_owned())].2);
            }
        }
    }
}
