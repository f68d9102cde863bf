//! What each tenant has: its vips and how many backends they have, and how often it was changed. The quotas of a tenant
//! are measured by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::Projection;
use crate::command::DEFAULT_TENANT;
use crate::event::Change;
use crate::record::Record;

/// What the tenants have, as of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantUsage {
    /// By name.
    pub tenants: BTreeMap<Arc<str>, Arc<Usage>>,
    /// Which tenant has a vip.
    owners: OrdMap<Arc<str>, Arc<str>>,
    revision: u64,
}

/// What a tenant has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its vips, and the number of each one's backends.
    pub vips: OrdMap<Arc<str>, usize>,
    /// Records that touched it or its vips.
    pub changes: u64,
    /// When the last one was decided, milliseconds since the Unix epoch.
    pub changed_ms: u64,
    /// Revision of the last one.
    pub revision: u64,
}

impl Usage {
    /// Backends of all its vips.
    pub fn backends(&self) -> usize {
        self.vips.values().sum()
    }
}

impl Default for TenantUsage {
    fn default() -> Self {
        let tenants = BTreeMap::from([(Arc::from(DEFAULT_TENANT), Arc::default())]);
        Self { tenants, owners: OrdMap::new(), revision: 0 }
    }
}

impl Projection for TenantUsage {
    const NAME: &'static str = "tenant_usage";

    fn apply(&mut self, record: &Record) {
        self.revision = record.revision;
        record.events.iter().for_each(|event| self.take(&event.change, record));
    }

    fn revision(&self) -> u64 {
        self.revision
    }
}

impl TenantUsage {
    fn take(&mut self, change: &Change, record: &Record) {
        match change {
            Change::TenantAdded { tenant, .. } => {
                self.tenants.entry(tenant.as_str().into()).or_default();
                self.change(tenant, record, |_| {});
            }
            Change::TenantLimitsChanged { tenant, .. } => self.change(tenant, record, |_| {}),
            Change::TenantRemoved { tenant } => drop(self.tenants.remove(tenant.as_str())),
            Change::VipAdded { vip, tenant, .. } => {
                self.give_up(vip, record);
                self.owners.insert(vip.as_str().into(), tenant.as_str().into());
                self.change(tenant, record, |usage| {
                    usage.vips.insert(vip.as_str().into(), 0);
                });
            }
            Change::VipRemoved { vip } => self.give_up(vip, record),
            Change::BackendAdded { vip, .. } => self.change_vip(vip, record, |count| *count += 1),
            Change::BackendRemoved { vip, .. } => {
                self.change_vip(vip, record, |count| *count = count.saturating_sub(1))
            }
            Change::VipSettingsChanged { vip, .. }
            | Change::BackendWeightChanged { vip, .. }
            | Change::BackendIntentChanged { vip, .. }
            | Change::BreakerTripped { vip, .. }
            | Change::BreakerReset { vip, .. } => self.change_vip(vip, record, |_| {}),
            Change::BypassChanged { .. } | Change::CommandAccepted { .. } => {}
        }
    }

    fn give_up(&mut self, vip: &str, record: &Record) {
        if let Some(owner) = self.owners.remove(vip) {
            self.change(&owner, record, |usage| {
                usage.vips.remove(vip);
            });
        }
    }

    fn change_vip(&mut self, vip: &str, record: &Record, change: impl FnOnce(&mut usize)) {
        let Some(owner) = self.owners.get(vip).cloned() else { return };
        self.change(&owner, record, |usage| {
            if let Some(count) = usage.vips.get_mut(vip) {
                change(count);
            }
        });
    }

    /// Changes a tenant, and counts the record for it once.
    fn change(&mut self, tenant: &str, record: &Record, change: impl FnOnce(&mut Usage)) {
        let Some(usage) = self.tenants.get_mut(tenant) else { return };
        let usage = Arc::make_mut(usage);
        change(usage);
        if usage.revision != record.revision {
            usage.changes += 1;
            (usage.revision, usage.changed_ms) = (record.revision, record.at_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::testing::{any_log, rebuilt};
    use crate::state::State;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_counts_what_the_state_has_at_every_revision(log in any_log()) {
            let (mut usage, mut state) = (TenantUsage::default(), State::default());
            for record in &log {
                usage.apply(record);
                record.events.iter().for_each(|event| state.apply(event));
                prop_assert!(usage.tenants.keys().map(|name| &**name).eq(state.tenants.keys()));
                for (name, own) in &usage.tenants {
                    let vips = state.vips.iter().filter(|(_, vip)| vip.tenant == **name);
                    let counts: Vec<(&str, usize)> =
                        vips.map(|(vip, of)| (vip.as_str(), of.backends.len())).collect();
                    let held: Vec<(&str, usize)> = own.vips.iter().map(|(vip, of)| (&**vip, *of)).collect();
                    prop_assert_eq!(held, counts);
                }
                prop_assert_eq!(&usage, &rebuilt::<TenantUsage>(&log, record.revision));
            }
        }
    }
}
