//! What the maps should hold: rows and tables by serial numbers. Row numbers are found by [`super::diff`].

use super::diff::Problem;
use super::op::{EgressContent, Key};
use super::reveal::{Pool, revealed};
use super::standing::{self, Breaking, Standing};
use super::tables::{Candidate, Recipe, TableCache};
use crate::backend::{Backend, Intent};
use crate::code::Code;
use crate::degradation::{Footing, Member, Rung, climb};
use crate::health::Health;
use crate::probe::ProbeKind;
use crate::state::{DEFAULT_TENANT_ID, State};
use crate::tenant::TenantLimits;
use crate::vip::{Mode, Tracking, Vip, VipSettings};
use lb_common::abi::backend::Control;
use lb_common::abi::egress::Tags;
use lb_common::abi::vip::Policy;
use lb_common::addr::Mac;
use lb_common::ids::{BackendId, TenantId, VipId};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The resolved way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Hardware address of the next hop; `None`: its neighbour is not resolved, the last known one stays in use.
    pub next_hop_mac: Option<Mac>,
    /// Interface index of the device that frames leave by (of a VLAN, the device below it).
    pub ifindex: u32,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Our own MAC on it.
    pub source_mac: Mac,
    /// VLAN tags.
    pub tags: Tags,
    /// Our own address towards the backend, of the backend's family.
    pub source: IpAddr,
}

impl Way {
    /// Its egress row.
    pub const fn egress(&self) -> EgressContent {
        EgressContent { ifindex: self.ifindex, mtu: self.mtu, source_mac: self.source_mac, tags: self.tags }
    }
}

/// A device that packets come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Its own MAC.
    pub mac: Mac,
}

/// What was observed of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Health by backend; absent = unknown.
    pub health: BTreeMap<BackendId, Health>,
    /// When the probes of a backend that is down took it down, which it had passed until then, milliseconds on the clock of
    /// whoever keeps the health; absent = it is not, or was never seen to pass.
    pub fell_ms: BTreeMap<BackendId, u64>,
    /// Breakers by backend; absent = closed, with the whole share.
    pub breakers: BTreeMap<BackendId, Breaking>,
    /// Ways by backend; absent = not resolved (yet): what its row has stays.
    pub ways: BTreeMap<BackendId, Way>,
    /// Backends to which no way was ever known: they take no new flows yet, however healthy.
    pub unreached: BTreeSet<BackendId>,
    /// Devices that the program is attached to, by interface index.
    pub devices: BTreeMap<u32, Device>,
}

/// What the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Whether every packet passes.
    pub bypass: bool,
    /// Tenants whose limits meet packets.
    pub tenants: BTreeMap<TenantId, DesiredTenant>,
    /// Vips.
    pub vips: BTreeMap<VipId, DesiredVip>,
    /// Devices that packets come in by.
    pub devices: BTreeMap<u32, Device>,
    /// What cannot be as it is wanted.
    pub problems: Vec<Problem>,
}

/// A tenant's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredTenant {
    /// Its name, for people.
    pub name: String,
    /// Its limits.
    pub limits: TenantLimits,
}

/// A vip's row and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredVip {
    /// Its name, for people.
    pub name: String,
    /// Serial of its tenant.
    pub tenant: TenantId,
    /// What it serves.
    pub key: Key,
    /// Its live settings.
    pub policy: Policy,
    /// Whether new flows are refused while nobody serves them.
    pub refuses: bool,
    /// The vip whose backends may be among the candidates.
    pub lender: Option<VipId>,
    /// Where it stands on its ladder.
    pub footing: Footing,
    /// The window of a slot that changes, seconds.
    pub window_s: u32,
    /// Its backends.
    pub backends: BTreeMap<BackendId, DesiredBackend>,
    /// Slots of its table.
    pub table_size: u32,
    /// The backends that take new flows, in the order of the table.
    pub candidates: Vec<BackendId>,
    /// For each slot 1 + the index of its backend in `candidates`; 0 = none. Empty = all 0.
    pub table: Arc<[u16]>,
}

/// A backend's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredBackend {
    /// Its name, for people.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port, host order; 0 = as in the packet.
    pub port: u16,
    /// How packets reach it.
    pub mode: Mode,
    /// [`Control::ALIVE`] and [`Control::NEW`].
    pub flags: u64,
    /// On trial: new connections per second that the data plane may give it; 0 = no limit.
    pub trial_cps: u16,
    /// Its weight, if packets need to know; else 0.
    pub weight: u16,
    /// The way to it, if it is known.
    pub way: Option<Way>,
}

/// What the maps should hold, given intent and observation. Tables are taken from `tables` where nothing that makes
/// them has changed.
pub fn desired(state: &State, observed: &Observed, tables: &mut TableCache) -> Desired {
    let lives: BTreeSet<VipId> = state.vips.values().map(|vip| vip.id).collect();
    tables.retain(|vip| lives.contains(&vip));
    let all: Vec<_> = state.vips.iter().map(|(name, vip)| (name.as_str(), &**vip)).collect();
    desired_of(&all, state, observed, tables)
}

/// The same for some vips of a state alone, each with its name.
pub(super) fn desired_of(
    vips: &[(&str, &Vip)],
    state: &State,
    observed: &Observed,
    tables: &mut TableCache,
) -> Desired {
    let (observed, problems) = without_vip_sources(vips, state, observed);
    let (bypass, devices) = (state.bypass, observed.devices.clone());
    let vips = vips.iter().map(|&(name, vip)| {
        let tenant = state.tenants.get(&vip.tenant);
        let id = tenant.map_or(DEFAULT_TENANT_ID, |tenant| tenant.id);
        let counts_flows = tenant.is_some_and(|tenant| tenant.limits.counts_flows());
        let mut desired = desired_vip((name, vip), id, lender(vip, state), &observed, tables);
        if counts_flows && vip.settings.tracking == Tracking::Auto {
            desired.policy = desired.policy.with_tracking(Tracking::Always);
        }
        (vip.id, desired)
    });
    Desired { bypass, tenants: tenants(state), vips: vips.collect(), devices, problems }
}

/// Where vips stand, and who takes their new flows.
pub type Footings = BTreeMap<VipId, (Footing, Vec<BackendId>)>;

impl Desired {
    /// Where its vips stand.
    pub fn footings(&self) -> Footings {
        self.vips.iter().map(|(id, vip)| (*id, (vip.footing, vip.candidates.clone()))).collect()
    }
}

/// The tenants whose limits meet packets. What only counts flows needs them remembered: a vip that remembers what moved
/// remembers all of them then, and one that remembers none is not limited by it.
fn tenants(state: &State) -> BTreeMap<TenantId, DesiredTenant> {
    let limited = state.tenants.iter().filter(|(_, tenant)| tenant.limits.meets_packets());
    limited
        .map(|(name, tenant)| (tenant.id, DesiredTenant { name: name.clone(), limits: tenant.limits }))
        .collect()
}

/// A way by NAT whose source address is a vip's is none: the vip would take replies to it for clients' packets. The
/// backend takes no new flows, and what its row has stays.
fn without_vip_sources<'o>(
    vips: &[(&str, &Vip)],
    state: &State,
    observed: &'o Observed,
) -> (Cow<'o, Observed>, Vec<Problem>) {
    let (mut observed, mut problems) = (Cow::Borrowed(observed), Vec::new());
    for (vip_name, vip) in vips.iter().filter(|(_, vip)| vip.settings.mode == Mode::Nat) {
        for (name, backend) in &vip.backends {
            if observed.ways.get(&backend.id).is_some_and(|way| state.is_vip_address(way.source)) {
                let observed = observed.to_mut();
                observed.ways.remove(&backend.id);
                observed.unreached.insert(backend.id);
                let object = format!("backend {vip_name}/{name}");
                problems.push(Problem { code: Code::SourceIsVip, object });
            }
        }
    }
    (observed, problems)
}

/// The vip on whose pool a vip falls back.
pub(super) fn lender<'s>(vip: &Vip, state: &'s State) -> Option<&'s Vip> {
    state.vips.get(vip.settings.ladder.fallback.as_ref()?).map(|vip| &**vip)
}

fn desired_vip(
    (name, vip): (&str, &Vip),
    tenant: TenantId,
    lender: Option<&Vip>,
    observed: &Observed,
    tables: &mut TableCache,
) -> DesiredVip {
    let settings = &vip.settings;
    let standings = standings(vip, observed);
    let (footing, serving) = stands(vip, lender, observed, &standings);
    let takes = |id: BackendId| serving.contains(&id);
    let (mut candidates, shares) = match lender {
        // Their share of what comes from here is that of what comes to them.
        Some(lender) if footing.rung == Rung::Fallback => {
            (candidates(vip, lender, takes), Cow::Owned(self::standings(lender, observed)))
        }
        _ => (candidates(vip, vip, takes), Cow::Borrowed(&standings)),
    };
    let recipe = Recipe::of(vip, &mut candidates);
    let algorithm = settings.balancing.algorithm;
    let backends = vip.backends.iter().map(|(name, backend)| {
        let content = DesiredBackend {
            name: name.clone(),
            address: backend.address,
            port: if settings.mode == Mode::Nat { backend.port } else { 0 },
            mode: settings.mode,
            flags: flags(settings, backend, observed, takes(backend.id)),
            trial_cps: standings.get(&backend.id).map_or(0, |standing| standing.trial_cps()),
            weight: if algorithm.weighs() { backend.weight } else { 0 },
            way: observed.ways.get(&backend.id).copied(),
        };
        (backend.id, content)
    });
    DesiredVip {
        name: name.to_string(),
        tenant,
        key: Key::of(&vip.served),
        policy: Policy::new(
            settings.tracking,
            settings.udp_stateless,
            settings.mode == Mode::Nat,
            settings.idle_s,
        )
        .with_pick(algorithm.pick())
        .with_timeouts(settings.balancing.timeouts()),
        refuses: settings.ladder.fail_fast,
        lender: lender.map(|lender| lender.id),
        footing,
        window_s: settings.window_s,
        backends: backends.collect(),
        table_size: settings.table_size,
        table: table(vip, recipe, &candidates, &shares, tables),
        candidates: candidates.iter().map(|candidate| candidate.id).collect(),
    }
}

/// The backends of a pool that people want to take new flows, and that are `usable`, in the table of a vip.
pub(super) fn candidates(vip: &Vip, pool: &Vip, usable: impl Fn(BackendId) -> bool) -> Vec<Candidate> {
    let wanted =
        pool.backends.values().filter(|backend| backend.effective_weight() > 0 && usable(backend.id));
    wanted.map(|backend| Candidate::new(vip, backend)).collect()
}

fn standings(vip: &Vip, observed: &Observed) -> BTreeMap<BackendId, Standing> {
    standing::standings(vip, observed, |id| healthy(&vip.settings, observed, id))
}

/// Whom a vip lends to others: its pool, as long as that serves.
fn lent(lender: &Vip, observed: &Observed) -> BTreeSet<BackendId> {
    match stands(lender, None, observed, &standings(lender, observed)) {
        (Footing { rung: Rung::Pool, .. }, serving) => serving,
        _ => BTreeSet::new(),
    }
}

fn stands(
    vip: &Vip,
    lender: Option<&Vip>,
    observed: &Observed,
    standings: &BTreeMap<BackendId, Standing>,
) -> (Footing, BTreeSet<BackendId>) {
    let out = |id| matches!(standings.get(&id), Some(Standing::Out { .. }));
    let may_panic = |id| vip.settings.ladder.last_known_good && !observed.unreached.contains(&id);
    let fell_ms = |id| observed.fell_ms.get(&id).copied().filter(|_| may_panic(id));
    let lent = || lender.map(|lender| lent(lender, observed)).unwrap_or_default();
    ladder(vip, |id| usable(&vip.settings, observed, id) && !out(id), lent, fell_ms)
}

/// Where a vip stands when those serve who can, and who does. `lent`: whom another vip lends; `fell_ms`: as
/// [`Member::fell_ms`].
pub(super) fn ladder(
    vip: &Vip,
    can: impl Fn(BackendId) -> bool,
    lent: impl FnOnce() -> BTreeSet<BackendId>,
    fell_ms: impl Fn(BackendId) -> Option<u64>,
) -> (Footing, BTreeSet<BackendId>) {
    let wanted = vip.backends.values().filter(|backend| backend.effective_weight() > 0);
    let member = |one: &Backend| {
        let (id, backup, serves) = (one.id, one.backup, can(one.id));
        Member { id, backup, serves, fell_ms: fell_ms(id).filter(|_| !serves) }
    };
    let members: Vec<Member> = wanted.map(member).collect();
    let lent = if members.iter().any(|one| one.serves) { BTreeSet::new() } else { lent() };
    climb(&members, &lent, vip.settings.probe.together_ms())
}

/// The table of a vip's candidates; of those that come back gently as far as they have come.
fn table(
    vip: &Vip,
    recipe: Recipe,
    candidates: &[Candidate],
    standings: &BTreeMap<BackendId, Standing>,
    tables: &mut TableCache,
) -> Arc<[u16]> {
    let table = tables.table(vip.id, recipe);
    let share = |id: BackendId| match standings.get(&id) {
        Some(Standing::Part { share_permille, .. }) => Some(*share_permille),
        _ => None,
    };
    if candidates.iter().all(|one| share(one.id).is_none()) {
        tables.forget_base(vip.id);
        return table;
    }
    let mut base: Vec<Candidate> = candidates.iter().filter(|one| share(one.id).is_none()).copied().collect();
    let recipe = Recipe::of(vip, &mut base);
    let base_table = tables.base_table(vip.id, recipe);
    let (whole, base) = (Pool { candidates, table: &table }, Pool { candidates: &base, table: &base_table });
    revealed(&whole, &base, share)
}

/// Whether probes let new flows go to a backend.
fn healthy(settings: &VipSettings, observed: &Observed, id: BackendId) -> bool {
    settings.probe.kind == ProbeKind::None || observed.health.get(&id) == Some(&Health::Up)
}

/// Whether new flows may go to a backend as far as its health and the way to it are concerned.
fn usable(settings: &VipSettings, observed: &Observed, id: BackendId) -> bool {
    healthy(settings, observed, id) && !observed.unreached.contains(&id)
}

fn flags(settings: &VipSettings, backend: &Backend, observed: &Observed, takes: bool) -> u64 {
    let down =
        settings.probe.kind != ProbeKind::None && observed.health.get(&backend.id) == Some(&Health::Down);
    if backend.intent == Intent::Disabled || (down && !takes) {
        0
    } else if backend.effective_weight() > 0 && takes {
        Control::ALIVE | Control::NEW
    } else {
        Control::ALIVE
    }
}
