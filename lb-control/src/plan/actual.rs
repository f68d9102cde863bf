//! What the maps hold, as read back from the kernel: only rows in use, with the serials that sit in them, so that a
//! daemon that starts adopts what runs.

use super::desired::Device;
use super::op::{BackendContent, EgressContent, Key, VipContent};
use super::tenants::TenantContent;
use crate::backend::Intent;
use crate::health::Health;
use crate::limits::Limits;
use crate::state::State;
use imbl::{OrdMap, OrdSet};
use lb_common::abi::slot::{Phase, Slot};
use lb_common::abi::vip::VipEntry;
use lb_common::ids::BackendId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A vip row in use: the same as [`VipContent`].
pub type ActualVip = VipContent;

/// Reads slots; in the daemon from the memory-mapped map.
pub trait Slots {
    /// The slot at an index over all tables. An index beyond the map gives an empty stable slot.
    fn slot(&self, index: u32) -> Slot;
}

impl Slots for [Slot] {
    fn slot(&self, index: u32) -> Slot {
        self.get(index as usize).copied().unwrap_or_default()
    }
}

impl Slots for Vec<Slot> {
    fn slot(&self, index: u32) -> Slot {
        self.as_slice().slot(index)
    }
}

impl<S: Slots> Slots for &S {
    fn slot(&self, index: u32) -> Slot {
        (**self).slot(index)
    }
}

/// Rows with what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Backend rows.
    pub backends: BTreeMap<u16, BackendId>,
    /// Egress rows.
    pub egresses: BTreeMap<u16, EgressContent>,
}

/// What a whole scan of the flow and NAT tables found. It serves one [`super::diff`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The rows that were unnamed ([`unnamed`]) when the scan began, at least one grace period after the plan that
    /// left them so: only these can be proven free.
    pub watched: Rows,
    /// Those of them that entries name: backend rows in the flow or the NAT table, egress rows in the NAT table, as
    /// the way back.
    pub referenced: Rows,
}

impl Sweep {
    /// Whether a backend row with this backend in it is proven free.
    pub(super) fn frees_backend(&self, row: u16, id: BackendId) -> bool {
        self.watched.backends.get(&row) == Some(&id) && !self.referenced.backends.contains_key(&row)
    }
    /// Whether an egress row with this content is proven free.
    pub(super) fn frees_egress(&self, row: u16, content: &EgressContent) -> bool {
        self.watched.egresses.get(&row) == Some(content) && !self.referenced.egresses.contains_key(&row)
    }
}

/// What the maps hold.
#[derive(Clone, Debug, Default)]
pub struct Actual<S> {
    /// Capacities of the maps.
    pub limits: Limits,
    /// The bypass word.
    pub bypass: bool,
    /// Vip rows in use.
    pub vips: OrdMap<u16, ActualVip>,
    /// Keys of the vip hash.
    pub keys: OrdMap<Key, VipEntry>,
    /// Tenant rows in use (`identity` is not 0).
    pub tenants: OrdMap<u16, TenantContent>,
    /// Backend rows in use (`identity` is not 0).
    pub backends: OrdMap<u16, BackendContent>,
    /// The same by their vips: the row of each one's vip, and its own ([`pools`]). A row keeps its vip until it is free.
    pub pools: OrdSet<(u16, u16)>,
    /// Egress rows in use (`device` is not 0).
    pub egresses: BTreeMap<u16, EgressContent>,
    /// Interface index to its untagged egress row.
    pub ports: BTreeMap<u32, u16>,
    /// Source numbers in use.
    pub sources: BTreeMap<u8, IpAddr>,
    /// All slots.
    pub slots: S,
    /// The last sweep; `None`: there was none yet, so nothing can be freed that entries may name.
    pub sweep: Option<Sweep>,
}

/// Backend rows by the rows of their vips.
pub fn pools(backends: &OrdMap<u16, BackendContent>) -> OrdSet<(u16, u16)> {
    backends.iter().map(|(row, content)| (content.control.vip_row(), *row)).collect()
}

impl<S: Slots> Actual<S> {
    /// Which backend rows slots name, as `current` or as `previous` within the window, by row number.
    pub(super) fn named_by_slots(&self, now_s: u32) -> Vec<bool> {
        let mut named = vec![false; usize::from(u16::MAX) + 1];
        for vip in self.vips.values() {
            let (first, count) = vip.extent;
            let last = first.saturating_add(count).min(self.limits.slots);
            for index in first..last {
                let slot = self.slots.slot(index);
                named[usize::from(slot.current())] = true;
                if slot.phase(now_s) == Phase::Moving {
                    named[usize::from(slot.previous())] = true;
                }
            }
        }
        named
    }
}

/// The rows that a sweep which begins now can prove free: dead backends that nobody wants and no slot names, and
/// ways out that no backend and no port names. `actual` is what the last plan, which was made for `state`, left.
pub fn unnamed<S: Slots>(state: &State, actual: &Actual<S>, now_s: u32) -> Rows {
    let wanted: BTreeSet<_> = state.backends().map(|(.., backend)| (backend.id, backend.address)).collect();
    // Of two rows of one backend the lower is its own.
    let mut first = BTreeSet::new();
    let own = |content: &BackendContent| {
        let identity = (content.id, content.address);
        wanted.contains(&identity) && first.insert(identity)
    };
    let own: Vec<bool> = actual.backends.values().map(own).collect();
    let dead = |(content, own): (&BackendContent, &bool)| !own && !content.control.alive();
    let mut backends: BTreeMap<u16, BackendId> = actual
        .backends
        .iter()
        .zip(&own)
        .filter(|((_, content), own)| dead((content, own)))
        .map(|((row, c), _)| (*row, c.id))
        .collect();
    if !backends.is_empty() {
        let named = actual.named_by_slots(now_s);
        backends.retain(|row, _| !named[usize::from(*row)]);
    }
    let used: BTreeSet<u16> = actual
        .backends
        .iter()
        .filter(|(row, content)| content.next_hop.is_known() && !backends.contains_key(*row))
        .map(|(_, content)| content.next_hop.egress())
        .chain(actual.ports.values().copied())
        .collect();
    let egresses = actual.egresses.iter().filter(|(row, _)| !used.contains(*row));
    Rows { backends, egresses: egresses.map(|(row, content)| (*row, *content)).collect() }
}

/// The health that the maps of a former daemon imply, for a daemon that starts: what takes new flows is up; what is
/// alive although it was to take none (draining, weight 0) is up as well, since an unknown backend gets its next
/// probe at once anyway and keeps its flows; what is dead although it is not disabled is down; the rest is unknown.
pub fn adopted_health<S>(state: &State, actual: &Actual<S>) -> BTreeMap<BackendId, Health> {
    let rows: BTreeMap<_, _> =
        actual.backends.values().map(|row| ((row.id, row.address), row.control)).collect();
    let known = state.backends().filter_map(|(_, _, _, backend)| {
        let control = rows.get(&(backend.id, backend.address))?;
        let health = match backend.intent {
            _ if control.takes_new() => Health::Up,
            Intent::Disabled => return None,
            _ if !control.alive() => Health::Down,
            _ if backend.effective_weight() == 0 => Health::Up,
            _ => return None,
        };
        Some((backend.id, health))
    });
    known.collect()
}

/// The backends whose breakers a former daemon left other than closed, as their rows say.
pub fn adopted_breakers<S>(actual: &Actual<S>) -> BTreeSet<BackendId> {
    let rows = actual.backends.values().filter(|row| row.trial_cps > 0);
    rows.map(|row| row.id).collect()
}

impl Device {
    /// Its untagged egress row.
    pub fn egress(&self, ifindex: u32) -> EgressContent {
        EgressContent {
            ifindex,
            mtu: self.mtu,
            source_mac: self.mac,
            tags: lb_common::abi::egress::Tags::NONE,
        }
    }
}
