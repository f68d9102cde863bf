//! What there is: tenants, vips and backends as people named them. The answer to most questions, and, kept now and then,
//! the point that a look at the past starts from.
//!
//! It follows the same events as [`crate::state::State`] and holds nothing that only decisions need (serials to come,
//! indexes). A clone shares all that does not change with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::{Backend, BreakerOrder};
use crate::command::DEFAULT_TENANT;
use crate::event::{Change, Event};
use crate::record::Record;
use crate::state::DEFAULT_TENANT_ID;
use crate::tenant::TenantLimits;
use crate::vip::Vip;
use imbl::OrdMap;
use lb_common::ids::TenantId;

use super::Projection;

/// What there is, as of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Whether the emergency bypass is on.
    pub bypass: bool,
    /// The tenants, by name.
    pub tenants: BTreeMap<Arc<str>, KnownTenant>,
    /// Vips with their backends, by name.
    pub vips: OrdMap<Arc<str>, Arc<Vip>>,
    revision: u64,
    at_ms: u64,
}

/// A tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownTenant {
    /// Serial number.
    pub id: TenantId,
    /// What it may take of the node.
    pub limits: TenantLimits,
}

impl Default for Inventory {
    fn default() -> Self {
        let default = KnownTenant { id: DEFAULT_TENANT_ID, limits: TenantLimits::default() };
        let tenants = BTreeMap::from([(Arc::from(DEFAULT_TENANT), default)]);
        Self { bypass: false, tenants, vips: OrdMap::new(), revision: 0, at_ms: 0 }
    }
}

impl Projection for Inventory {
    const NAME: &'static str = "inventory";

    fn apply(&mut self, record: &Record) {
        for event in &record.events {
            self.take(event);
        }
        (self.revision, self.at_ms) = (record.revision, record.at_ms);
    }

    fn revision(&self) -> u64 {
        self.revision
    }
}

impl Inventory {
    /// When its last record was decided, milliseconds since the Unix epoch; 0 before the first.
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// A backend by the names of its vip and its own.
    pub fn backend(&self, vip: &str, backend: &str) -> Option<&Backend> {
        self.vips.get(vip)?.backends.get(backend)
    }

    /// Every backend with the names of its vip and its own.
    pub fn backends(&self) -> impl Iterator<Item = (&str, &Vip, &str, &Backend)> {
        self.vips.iter().flat_map(|(of, vip)| {
            vip.backends.iter().map(move |(name, backend)| (&**of, &**vip, name.as_str(), backend))
        })
    }

    fn take(&mut self, event: &Event) {
        self.revision += 1;
        let (revision, changed_ms) = (self.revision, event.at_ms);
        match &event.change {
            Change::TenantAdded { id, tenant } => {
                let new = KnownTenant { id: *id, limits: TenantLimits::default() };
                self.tenants.insert(tenant.as_str().into(), new);
            }
            Change::TenantLimitsChanged { tenant, limits } => {
                if let Some(tenant) = self.tenants.get_mut(tenant.as_str()) {
                    tenant.limits = **limits;
                }
            }
            Change::TenantRemoved { tenant } => {
                self.tenants.remove(tenant.as_str());
            }
            Change::VipAdded { id, vip, tenant, served, settings } => {
                let (id, tenant, served, settings) = (*id, tenant.clone(), *served, settings.clone());
                let backends = BTreeMap::new();
                let new = Vip { id, tenant, served, settings: *settings, backends, revision, changed_ms };
                self.vips.insert(vip.as_str().into(), Arc::new(new));
            }
            Change::VipSettingsChanged { vip, settings } => {
                self.change(vip, changed_ms, |of| of.settings = (**settings).clone());
            }
            Change::VipRemoved { vip } => {
                self.vips.remove(vip.as_str());
            }
            Change::BackendAdded { id, vip, backend, address, port, weight, intent, backup } => {
                let (id, address, port, weight, intent) = (*id, *address, *port, *weight, *intent);
                let backup = *backup;
                let breaker = BreakerOrder::default();
                let new =
                    Backend { id, address, port, weight, intent, backup, breaker, revision, changed_ms };
                self.change(vip, changed_ms, |of| {
                    of.backends.insert(backend.clone(), new);
                });
            }
            Change::BackendWeightChanged { vip, backend, weight } => {
                self.change_backend(vip, backend, changed_ms, |of| of.weight = *weight);
            }
            Change::BackendIntentChanged { vip, backend, intent } => {
                self.change_backend(vip, backend, changed_ms, |of| of.intent = *intent);
            }
            Change::BreakerTripped { vip, backend } | Change::BreakerReset { vip, backend } => {
                let tripped = matches!(event.change, Change::BreakerTripped { .. });
                let order = BreakerOrder { tripped, revision };
                self.change_backend(vip, backend, changed_ms, |of| of.breaker = order);
            }
            Change::BackendRemoved { vip, backend } => {
                self.change(vip, changed_ms, |of| {
                    of.backends.remove(backend);
                });
            }
            Change::BypassChanged { on } => self.bypass = *on,
            Change::CommandAccepted { .. } => {}
        }
    }

    fn change(&mut self, vip: &str, changed_ms: u64, change: impl FnOnce(&mut Vip)) {
        let Some(vip) = self.vips.get_mut(vip) else { return };
        let vip = Arc::make_mut(vip);
        change(vip);
        (vip.revision, vip.changed_ms) = (self.revision, changed_ms);
    }

    fn change_backend(
        &mut self,
        vip: &str,
        backend: &str,
        changed_ms: u64,
        change: impl FnOnce(&mut Backend),
    ) {
        let revision = self.revision;
        self.change(vip, changed_ms, |of| {
            let Some(backend) = of.backends.get_mut(backend) else { return };
            change(backend);
            (backend.revision, backend.changed_ms) = (revision, changed_ms);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::testing::{any_log, rebuilt};
    use crate::state::State;
    use proptest::prelude::*;

    proptest! {
        /// The inventory and the writer's state are two folds of one log: they agree at every revision.
        #[test]
        fn it_is_the_state_s_and_a_rebuild_s_at_every_revision(log in any_log()) {
            let (mut inventory, mut state) = (Inventory::default(), State::default());
            for (count, record) in log.iter().enumerate() {
                inventory.apply(record);
                record.events.iter().for_each(|event| state.apply(event));
                prop_assert_eq!(inventory.revision(), state.revision);
                prop_assert_eq!(inventory.bypass, state.bypass);
                let own = inventory.tenants.iter().map(|(name, of)| (&**name, of.id, of.limits));
                let tenants = state.tenants.iter().map(|(name, of)| (name.as_str(), of.id, of.limits));
                prop_assert!(own.eq(tenants));
                let own = inventory.vips.iter().map(|(name, vip)| (&**name, &**vip));
                prop_assert!(own.eq(state.vips.iter().map(|(name, vip)| (name.as_str(), &**vip))));
                if count % 8 == 0 {
                    prop_assert_eq!(&inventory, &rebuilt::<Inventory>(&log, record.revision));
                }
            }
        }
    }
}
