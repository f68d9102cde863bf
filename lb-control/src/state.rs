//! The state of intent: the fold of all events. No observation is in here, and no row number.
//!
//! [`State::apply`] is total: any event of any log can be applied, even one that [`crate::decide`] would never have
//! written; what does not fit changes nothing but the revision. Serials are never used again.
//!
//! A copy costs next to nothing: the maps are persistent ones, which share all that does not change, so that a command costs
//! a copy of the vip that it touches, however many others there are. The indexes and totals are not stored: they follow
//! from the vips.

use crate::backend::{Backend, BreakerOrder};
use crate::command::DEFAULT_TENANT;
use crate::event::{Change, Event};
use crate::tenant::TenantLimits;
use crate::vip::{Served, Vip, VipSettings};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use lb_common::ids::{BackendId, TenantId, VipId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use xxhash_rust::xxh64::xxh64;

/// Serial of the tenant [`DEFAULT_TENANT`].
pub const DEFAULT_TENANT_ID: TenantId = TenantId(1);

/// Vips with their backends, by name.
pub type Vips = OrdMap<String, Arc<Vip>>;

/// The state of intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct State {
    /// Number of events so far.
    pub revision: u64,
    /// Whether the emergency bypass is on.
    pub bypass: bool,
    /// Revision of the last event that turned it on or off.
    pub bypass_revision: u64,
    /// Tenants, by name.
    pub tenants: Arc<BTreeMap<String, Tenant>>,
    /// Vips with their backends, by name.
    pub vips: Vips,
    /// The next serials, never given before.
    pub next: NextSerials,
    /// Which vip serves what: an index over `vips`.
    #[serde(skip)]
    served: OrdMap<Served, String>,
    /// How many backends have an address: an index over `vips`.
    #[serde(skip)]
    backend_addresses: OrdMap<IpAddr, u32>,
    /// Sums over `vips`.
    #[serde(skip)]
    totals: Totals,
}

/// What is stored of a [`State`]: all but what follows from it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    revision: u64,
    bypass: bool,
    bypass_revision: u64,
    tenants: Arc<BTreeMap<String, Tenant>>,
    vips: Vips,
    next: NextSerials,
}

/// Sums over the vips of a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Distinct addresses of vips.
    pub addresses: u64,
    /// Backends.
    pub backends: u64,
    /// Slots of all tables.
    pub slots: u64,
}

/// A tenant as the log knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Serial number.
    pub id: TenantId,
    /// Revision of the last event that changed it; 0 for the one that always exists.
    pub revision: u64,
    /// What it may take of the node.
    #[serde(default, skip_serializing_if = "TenantLimits::is_empty")]
    pub limits: TenantLimits,
}

/// The serials that the next objects will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextSerials {
    /// Of the next tenant.
    pub tenant: TenantId,
    /// Of the next vip.
    pub vip: VipId,
    /// Of the next backend.
    pub backend: BackendId,
}

impl Default for State {
    fn default() -> Self {
        let default = Tenant { id: DEFAULT_TENANT_ID, revision: 0, limits: TenantLimits::default() };
        Stored {
            revision: 0,
            bypass: false,
            bypass_revision: 0,
            tenants: Arc::new(BTreeMap::from([(DEFAULT_TENANT.to_string(), default)])),
            vips: Vips::default(),
            next: NextSerials { tenant: TenantId(2), vip: VipId(1), backend: BackendId(1) },
        }
        .into()
    }
}

impl From<Stored> for State {
    /// Builds the indexes anew.
    fn from(stored: Stored) -> Self {
        let Stored { revision, bypass, bypass_revision, tenants, vips, next } = stored;
        let mut served = OrdMap::default();
        let mut backend_addresses = OrdMap::default();
        let mut totals = Totals::default();
        for (name, vip) in &vips {
            served.insert(vip.served, name.clone());
            vip.backends.values().for_each(|backend| note_address(&mut backend_addresses, backend.address));
            totals.backends += vip.backends.len() as u64;
            totals.slots += u64::from(vip.settings.table_size);
        }
        let mut last = None;
        for one in served.keys() {
            totals.addresses += u64::from(last.replace(one.address) != Some(one.address));
        }
        Self { revision, bypass, bypass_revision, tenants, vips, next, served, backend_addresses, totals }
    }
}

impl State {
    /// The state after all of `events`.
    pub fn replay<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut state = Self::default();
        events.into_iter().for_each(|event| state.apply(event));
        state
    }

    /// Takes one event in.
    pub fn apply(&mut self, event: &Event) {
        self.revision += 1;
        let at = Stamp { revision: self.revision, changed_ms: event.at_ms };
        match &event.change {
            Change::TenantAdded { id, tenant } => self.add_tenant(*id, tenant, at),
            Change::TenantRemoved { tenant } => drop(Arc::make_mut(&mut self.tenants).remove(tenant)),
            Change::TenantLimitsChanged { tenant, limits } => self.limit_tenant(tenant, at, **limits),
            Change::VipAdded { id, vip, tenant, served, settings } => {
                self.next.vip = self.next.vip.max(VipId(id.0.saturating_add(1)));
                self.add_vip(vip, at.vip(*id, tenant, *served, (**settings).clone()));
            }
            Change::VipSettingsChanged { vip, settings } => {
                self.set_settings(vip, at, (**settings).clone());
            }
            Change::VipRemoved { vip } => self.remove_vip(vip),
            Change::BackendAdded { id, vip, backend, address, port, weight, intent, backup } => {
                self.next.backend = self.next.backend.max(BackendId(id.0.saturating_add(1)));
                let (Stamp { revision, changed_ms }, id) = (at, *id);
                let (address, port, weight, intent, backup) = (*address, *port, *weight, *intent, *backup);
                let breaker = BreakerOrder::default();
                let new =
                    Backend { id, address, port, weight, intent, backup, breaker, revision, changed_ms };
                self.add_backend(vip, backend, at, new);
            }
            Change::BackendWeightChanged { vip, backend, weight } => {
                self.change_backend(vip, backend, at, |b| b.weight = *weight);
            }
            Change::BackendIntentChanged { vip, backend, intent } => {
                self.change_backend(vip, backend, at, |b| b.intent = *intent);
            }
            Change::BreakerTripped { vip, backend } => self.order_breaker(vip, backend, at, true),
            Change::BreakerReset { vip, backend } => self.order_breaker(vip, backend, at, false),
            Change::BackendRemoved { vip, backend } => {
                self.remove_backend(vip, backend, at);
            }
            Change::BypassChanged { on } => (self.bypass, self.bypass_revision) = (*on, at.revision),
            Change::CommandAccepted { .. } => {}
        }
    }

    /// Hash (xxh64) over the whole state in its canonical form, compact JSON with ordered keys.
    pub fn digest(&self) -> u64 {
        let canonical =
            serde_json::to_vec(self).expect("the state has string keys only and writing to memory");
        xxh64(&canonical, 0)
    }

    /// The vip that serves exactly this.
    pub fn vip_serving(&self, served: &Served) -> Option<(&str, &Vip)> {
        let name = self.served.get(served)?;
        self.vips.get(name).map(|vip| (name.as_str(), &**vip))
    }
    /// The vips of an address, by what they serve.
    pub fn vips_at(&self, address: IpAddr) -> impl Iterator<Item = (&Served, &str)> {
        let first = Served { address, port: 0, protocol: crate::vip::Protocol::Tcp };
        let of_address = move |(served, _): &(&Served, &String)| served.address == address;
        self.served.range(first..).take_while(of_address).map(|(served, name)| (served, name.as_str()))
    }
    /// Whether some vip has this address.
    pub fn is_vip_address(&self, address: IpAddr) -> bool {
        self.vips_at(address).next().is_some()
    }
    /// A backend by the names of its vip and its own.
    pub fn backend(&self, vip: &str, backend: &str) -> Option<&Backend> {
        self.vips.get(vip)?.backends.get(backend)
    }
    /// Whether some backend has this address.
    pub fn is_backend_address(&self, address: IpAddr) -> bool {
        self.backend_addresses.contains_key(&address)
    }
    /// Names, in order, of the vips that are not the same in another state: there or here alone, or with something else in
    /// them. It takes as long as they are many, if the one state came from the other.
    pub fn vips_unlike<'s>(&'s self, other: &'s Self) -> impl Iterator<Item = &'s str> {
        self.vips.diff(&other.vips).map(|item| match item {
            DiffItem::Add(name, _) | DiffItem::Remove(name, _) | DiffItem::Update { new: (name, _), .. } => {
                name.as_str()
            }
        })
    }
    /// Every backend with the names of its vip and its own.
    pub fn backends(&self) -> impl Iterator<Item = (&str, &Vip, &str, &Backend)> {
        self.vips.iter().flat_map(|(vip_name, vip)| {
            vip.backends
                .iter()
                .map(move |(name, backend)| (vip_name.as_str(), &**vip, name.as_str(), backend))
        })
    }

    /// Sums over the vips.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn add_tenant(&mut self, id: TenantId, tenant: &str, at: Stamp) {
        self.next.tenant = self.next.tenant.max(TenantId(id.0.saturating_add(1)));
        let new = Tenant { id, revision: at.revision, limits: TenantLimits::default() };
        Arc::make_mut(&mut self.tenants).insert(tenant.to_string(), new);
    }

    fn limit_tenant(&mut self, tenant: &str, at: Stamp, limits: TenantLimits) {
        if let Some(tenant) = Arc::make_mut(&mut self.tenants).get_mut(tenant) {
            (tenant.limits, tenant.revision) = (limits, at.revision);
        }
    }

    fn add_vip(&mut self, name: &str, vip: Vip) {
        if self.served.get(&vip.served).is_some_and(|holder| holder != name) {
            return;
        }
        self.remove_vip(name);
        self.totals.addresses += u64::from(!self.is_vip_address(vip.served.address));
        self.totals.slots += u64::from(vip.settings.table_size);
        self.served.insert(vip.served, name.to_string());
        self.vips.insert(name.to_string(), Arc::new(vip));
    }

    fn remove_vip(&mut self, name: &str) {
        let Some(vip) = self.vips.get(name).cloned() else { return };
        self.vips.remove(name);
        self.served.remove(&vip.served);
        self.totals.addresses -= u64::from(!self.is_vip_address(vip.served.address));
        self.totals.slots -= u64::from(vip.settings.table_size);
        self.totals.backends -= vip.backends.len() as u64;
        vip.backends.values().for_each(|backend| self.forget_address(backend.address));
    }

    fn set_settings(&mut self, name: &str, at: Stamp, settings: VipSettings) {
        let (mut was, slots) = (None, settings.table_size);
        self.change_vip(name, at, |vip| was = Some(std::mem::replace(&mut vip.settings, settings)));
        if let Some(was) = was {
            self.totals.slots = self.totals.slots - u64::from(was.table_size) + u64::from(slots);
        }
    }

    fn add_backend(&mut self, vip: &str, name: &str, at: Stamp, backend: Backend) {
        self.remove_backend(vip, name, at);
        if self.vips.contains_key(vip) {
            note_address(&mut self.backend_addresses, backend.address);
            self.totals.backends += 1;
        }
        self.change_vip(vip, at, |vip| {
            vip.backends.insert(name.to_string(), backend);
        });
    }

    fn remove_backend(&mut self, vip: &str, name: &str, at: Stamp) {
        let mut gone = None;
        self.change_vip(vip, at, |vip| gone = vip.backends.remove(name));
        if let Some(backend) = gone {
            self.totals.backends -= 1;
            self.forget_address(backend.address);
        }
    }

    fn forget_address(&mut self, address: IpAddr) {
        match self.backend_addresses.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.backend_addresses.remove(&address)),
        }
    }

    fn change_vip(&mut self, name: &str, at: Stamp, change: impl FnOnce(&mut Vip)) {
        if let Some(vip) = self.vips.get_mut(name) {
            let vip = Arc::make_mut(vip);
            change(vip);
            (vip.revision, vip.changed_ms) = (at.revision, at.changed_ms);
        }
    }

    fn order_breaker(&mut self, vip: &str, name: &str, at: Stamp, tripped: bool) {
        self.change_backend(vip, name, at, |backend| {
            backend.breaker = BreakerOrder { tripped, revision: at.revision };
        });
    }

    fn change_backend(&mut self, vip: &str, name: &str, at: Stamp, change: impl FnOnce(&mut Backend)) {
        self.change_vip(vip, at, |vip| {
            if let Some(backend) = vip.backends.get_mut(name) {
                change(backend);
                (backend.revision, backend.changed_ms) = (at.revision, at.changed_ms);
            }
        });
    }
}

/// One more backend has an address.
fn note_address(addresses: &mut OrdMap<IpAddr, u32>, address: IpAddr) {
    match addresses.get_mut(&address) {
        Some(count) => *count += 1,
        None => drop(addresses.insert(address, 1)),
    }
}

/// Revision and time of the event that is being applied.
#[derive(Clone, Copy)]
struct Stamp {
    revision: u64,
    changed_ms: u64,
}

impl Stamp {
    fn vip(self, id: VipId, tenant: &str, served: Served, settings: VipSettings) -> Vip {
        let Self { revision, changed_ms } = self;
        Vip {
            id,
            tenant: tenant.to_string(),
            served,
            settings,
            backends: BTreeMap::new(),
            revision,
            changed_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EVENT_VERSION;
    use crate::vip::{Mode, Protocol, VipSettings};
    use proptest::prelude::*;

    fn happen(state: &mut State, change: Change) {
        state.apply(&Event { v: EVENT_VERSION, at_ms: 5, change });
    }

    fn added(vip: &str, id: u32, address: [u8; 4]) -> Change {
        let served = Served { address: address.into(), port: 80, protocol: Protocol::Tcp };
        let settings = Box::new(VipSettings::defaults(Protocol::Tcp, 80, Mode::L2));
        Change::VipAdded { id: VipId(id), vip: vip.into(), tenant: DEFAULT_TENANT.into(), served, settings }
    }

    fn joined(vip: &str, backend: &str, id: u32, address: [u8; 4]) -> Change {
        let (vip, backend, address) = (vip.to_string(), backend.to_string(), address.into());
        let (port, weight, intent) = (80, 100, crate::backend::Intent::Enabled);
        let backup = false;
        Change::BackendAdded { id: BackendId(id), vip, backend, address, port, weight, intent, backup }
    }

    #[test]
    fn events_that_fit_nothing_change_nothing_but_the_revision() {
        let mut state = State::default();
        let (vip, backend) = ("x".to_string(), "y".to_string());
        for change in [
            Change::TenantRemoved { tenant: vip.clone() },
            Change::VipRemoved { vip: vip.clone() },
            Change::BackendRemoved { vip: vip.clone(), backend: backend.clone() },
            Change::BackendWeightChanged { vip: vip.clone(), backend, weight: 3 },
        ] {
            happen(&mut state, change);
        }
        assert_eq!(state, State { revision: 4, ..State::default() });
        happen(&mut state, joined("x", "y", 9, [10, 0, 0, 1]));
        assert_eq!(state.next.backend, BackendId(10));
        assert!(!state.is_backend_address([10, 0, 0, 1].into()));
    }

    #[test]
    fn the_indexes_follow_what_is_replaced_and_removed() {
        let mut state = State::default();
        happen(&mut state, added("a", 1, [203, 0, 113, 1]));
        happen(&mut state, joined("a", "b", 1, [10, 0, 0, 1]));
        happen(&mut state, joined("a", "b", 2, [10, 0, 0, 2]));
        assert!(!state.is_backend_address([10, 0, 0, 1].into()));
        assert!(state.is_backend_address([10, 0, 0, 2].into()));
        assert_eq!(state.vips_at([203, 0, 113, 1].into()).map(|(_, name)| name).collect::<Vec<_>>(), ["a"]);
        happen(&mut state, added("a", 2, [203, 0, 113, 2]));
        assert_eq!(state.vips_at([203, 0, 113, 1].into()).count(), 0);
        assert!(!state.is_backend_address([10, 0, 0, 2].into()));
        happen(&mut state, Change::VipRemoved { vip: "a".into() });
        assert_eq!(state.vips_at([203, 0, 113, 2].into()).count(), 0);
    }

    #[test]
    fn what_two_states_do_not_share_is_what_differs() {
        let mut state = State::default();
        for number in 0..200 {
            happen(&mut state, added(&format!("v{number:03}"), number + 1, [203, 0, 113, number as u8]));
        }
        let before = state.clone();
        assert_eq!(before.vips_unlike(&state).count(), 0);
        happen(&mut state, joined("v100", "b", 1, [10, 0, 0, 1]));
        happen(&mut state, Change::VipRemoved { vip: "v007".into() });
        happen(&mut state, added("v200", 500, [203, 0, 114, 1]));
        happen(
            &mut state,
            Change::BackendWeightChanged { vip: "v008".into(), backend: "none".into(), weight: 3 },
        );
        assert_eq!(before.vips_unlike(&state).collect::<Vec<_>>(), ["v007", "v008", "v100", "v200"]);
        assert_eq!(state.vips_unlike(&before).count(), 4);
        // Made anew from a snapshot it shares nothing, and is the same all the same.
        let again: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
        assert_eq!(again.vips_unlike(&state).count(), 0);
    }

    proptest! {
        /// Whatever was changed on a copy of many, what differs is what a look at all of them finds: at the beginning and the
        /// end of what is shared as in its middle.
        #[test]
        fn what_differs_is_what_a_walk_over_all_finds(
            count in 0_u32..600,
            steps in prop::collection::vec((0_u8..4, 0_u32..640), 0..12),
        ) {
            let mut state = State::default();
            let add = |state: &mut State, number: u32| {
                let change = added(&format!("v{number:03}"), number + 1, [203, 0, (number / 250) as u8, (number % 250) as u8]);
                happen(state, change);
            };
            (0..count).for_each(|number| add(&mut state, number));
            let before = state.clone();
            for (step, number) in steps {
                let (vip, near) = (format!("v{number:03}"), number / 16 * 16);
                match step {
                    0 => add(&mut state, number),
                    1 => happen(&mut state, Change::VipRemoved { vip }),
                    2 => happen(&mut state, joined(&vip, "b", number, [10, 0, 0, 1])),
                    _ => happen(&mut state, joined(&format!("v{near:03}"), "b", number, [10, 0, 0, 1])),
                }
            }
            let names: std::collections::BTreeSet<&str> = before.vips.keys().chain(state.vips.keys()).map(String::as_str).collect();
            let differ: Vec<&str> = names.into_iter().filter(|name| before.vips.get(*name) != state.vips.get(*name)).collect();
            prop_assert_eq!(before.vips_unlike(&state).collect::<Vec<_>>(), differ.clone());
            prop_assert_eq!(state.vips_unlike(&before).collect::<Vec<_>>(), differ);
        }
    }

    #[test]
    fn a_digest_tells_states_apart_and_time_is_the_events() {
        let mut state = State::default();
        let empty = state.digest();
        happen(&mut state, added("a", 1, [203, 0, 113, 1]));
        assert_ne!(state.digest(), empty);
        assert_eq!((state.vips["a"].changed_ms, state.vips["a"].revision), (5, 1));
    }
}
