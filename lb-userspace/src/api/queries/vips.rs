//! Vips and backends as people see them: intent from the inventory, health from the probes, slots, ways and traffic from
//! what the maps held after the last pass.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::abi::slot::Phase;
use lb_common::abi::tenant::{BEGUN, REFUSALS};
use lb_common::ids::{BackendId, VipId};
use lb_common::reason::Reason;
use lb_control::backend::{Backend, Intent};
use lb_control::breaker::BreakerState;
use lb_control::health::{Health, Outcome};
use lb_control::plan::{Actual, Slots};
use lb_control::probe::ProbeKind;
use lb_control::vip::{Mode, Tracking, Vip};

use super::super::Node;
use super::super::views::{
    BackendView, SlotsView, TenantDropView, TenantUsageView, TrafficView, VipView, WayView,
};
use super::{traffic, way};
use crate::breakers::{SeenBreaker, SeenBreakers};
use crate::clock::unix_ms;
use crate::dataplane::{Counters, LiveSlots};
use crate::probe::{Seen, SeenHealth};
use crate::projection::Model;
use crate::reconcile::{Standing, Ways};
use crate::samples::Samples;
use crate::suspects::{Suspect, Suspects};

/// Everything that a view reads, taken once so that it is of one moment.
pub(super) struct Snapshot {
    pub(super) model: Arc<Model>,
    pub(super) standing: Standing,
    pub(super) ways: Ways,
    health: SeenHealth,
    breakers: SeenBreakers,
    suspects: Suspects,
    samples: Samples,
    now_s: u32,
    vip_rows: BTreeMap<VipId, u16>,
    backend_rows: BTreeMap<BackendId, u16>,
}

impl Snapshot {
    pub(super) fn of(node: &Node, model: &Arc<Model>) -> Self {
        let standing = node.standing.borrow().clone();
        let actual = standing.actual.as_deref();
        let vip_rows = actual.map(|actual| actual.vips.iter().map(|(row, vip)| (vip.id, *row)).collect());
        let backend_rows =
            actual.map(|actual| actual.backends.iter().map(|(row, one)| (one.id, *row)).collect());
        Self {
            model: model.clone(),
            ways: node.ways.borrow().clone(),
            health: node.health.borrow().clone(),
            breakers: node.breakers.borrow().clone(),
            suspects: node.suspects.borrow().clone(),
            samples: node.samples.borrow().clone().and_now(&*node.dataplane),
            now_s: node.dataplane.now_s(),
            vip_rows: vip_rows.unwrap_or_default(),
            backend_rows: backend_rows.unwrap_or_default(),
            standing,
        }
    }

    pub(super) fn samples(&self) -> &Samples {
        &self.samples
    }

    fn actual(&self) -> Option<&Actual<LiveSlots>> {
        self.standing.actual.as_deref()
    }

    pub(super) fn vips(&self) -> Vec<VipView> {
        self.model.inventory.vips.iter().map(|(name, vip)| self.vip(name, vip)).collect()
    }

    pub(super) fn vip_traffic(&self, id: VipId) -> TrafficView {
        let row = self.vip_rows.get(&id);
        traffic(&self.samples, |counters| {
            row.and_then(|row| counters.vips.get(row)).copied().unwrap_or_default()
        })
    }

    /// What a tenant takes, if it has a row.
    pub(super) fn tenant_usage(&self, name: &str) -> Option<TenantUsageView> {
        let id = self.model.inventory.tenants.get(name)?.id;
        let row = self.actual()?.tenants.values().find(|row| row.id == id)?;
        let of = |counters: &Counters| counters.tenants.get(&id).copied().unwrap_or_default();
        let now = of(&self.samples.newest());
        let begun = |counters: &Counters| of(counters).counts.0[BEGUN as usize];
        let drop = |(number, reason): (usize, Reason)| TenantDropView {
            reason: reason.name().to_owned(),
            traffic: traffic(&self.samples, |counters| of(counters).counts.0[number]),
        };
        let drops = REFUSALS.into_iter().enumerate().map(drop);
        let cap = |cap: u32| (cap != 0).then_some(cap);
        Some(TenantUsageView {
            passed: traffic(&self.samples, |counters| of(counters).counts.passed()),
            new_connections: now.counts.begun(),
            new_connections_per_s: self.samples.rate(begun).pps,
            connections: now.connections,
            connections_max: cap(row.limits.caps.connections()),
            nat_ports: now.nat_ports,
            nat_ports_max: cap(row.limits.caps.nat_ports()),
            drops: drops.filter(|drop| drop.traffic.packets != 0).collect(),
        })
    }

    fn vip(&self, name: &str, vip: &Vip) -> VipView {
        let (slots, by_row) = self.slots(vip.id);
        let backend = |(own, backend): (&String, &Backend)| {
            let row = self.backend_rows.get(&backend.id);
            let taken = row.and_then(|row| by_row.get(row)).copied().unwrap_or_default();
            self.backend(name, vip, own, backend, &taken)
        };
        VipView {
            name: name.to_owned(),
            tenant: vip.tenant.clone(),
            serves: vip.served.to_string(),
            settings: vip.settings.clone(),
            revision: vip.revision,
            ladder: self.standing.footings.get(&vip.id).copied().unwrap_or_default(),
            slots: SlotsView { count: vip.settings.table_size, ..slots },
            traffic: self.vip_traffic(vip.id),
            backends: vip.backends.iter().map(backend).collect(),
        }
    }

    /// A vip's slots, and what each backend row has of them.
    fn slots(&self, id: VipId) -> (SlotsView, BTreeMap<u16, Taken>) {
        let (mut view, mut by_row) = (SlotsView::default(), BTreeMap::<u16, Taken>::new());
        let found = self.vip_rows.get(&id).zip(self.actual());
        let Some((row, actual)) = found else { return (view, by_row) };
        let (first, count) = actual.vips[row].extent;
        view.count = count;
        for index in first..first.saturating_add(count) {
            let slot = actual.slots.slot(index);
            match slot.phase(self.now_s) {
                Phase::Stable => {}
                Phase::Moving => {
                    view.moving += 1;
                    let taken = by_row.entry(slot.previous()).or_default();
                    taken.former += 1;
                    taken.former_left_s = taken.former_left_s.max(slot.deadline_s() - self.now_s);
                }
                Phase::Pinned => view.pinned += 1,
            }
            match slot.current() {
                0 => view.empty += 1,
                row => by_row.entry(row).or_default().current += 1,
            }
        }
        by_row.values_mut().for_each(|taken| taken.of = view.count);
        (view, by_row)
    }

    fn backend(
        &self,
        vip_name: &str,
        vip: &Vip,
        name: &str,
        backend: &Backend,
        taken: &Taken,
    ) -> BackendView {
        let row = self.backend_rows.get(&backend.id);
        let seen = self.health.get(&backend.id);
        let seen_breaker = self.breakers.get(&backend.id);
        let breaker = seen_breaker.map_or(BreakerState::Closed, |seen| seen.breaking.state);
        let on = vip.settings.breaker.is_on();
        let tracked_flows = row.and_then(|row| self.standing.swept.flows.get(row)).copied().unwrap_or(0);
        let content = row.zip(self.actual()).map(|(row, actual)| (actual, &actual.backends[row]));
        let way = way::view(self.ways.get(&backend.id), content);
        let port = (vip.settings.mode == Mode::Nat && backend.port != 0).then_some(backend.port);
        BackendView {
            name: name.to_owned(),
            vip: vip_name.to_owned(),
            address: match port {
                Some(port) => SocketAddr::new(backend.address, port).to_string(),
                None => backend.address.to_string(),
            },
            weight: backend.weight,
            intent: backend.intent,
            health: seen.map_or(Health::Unknown, |seen| seen.health),
            backup: backend.backup,
            breaker: (on || breaker != BreakerState::Closed).then(|| breaker.to_string()),
            suspicion: self.suspects.get(&backend.id).map_or_else(String::new, suspicion),
            breaker_why: seen_breaker.map_or_else(String::new, breaker_why),
            why: why(vip, backend, (seen, way.known), taken, tracked_flows)
                + all_the_same(seen, taken)
                + &apart(seen_breaker)
                + &from_before(&way),
            way,
            share: f64::from(taken.current) / f64::from(taken.of.max(1)),
            former_slots: taken.former,
            former_left_s: taken.former_left_s,
            drained: backend.intent != Intent::Enabled
                && taken.current == 0
                && (taken.former == 0 || remembers(vip))
                && tracked_flows == 0,
            tracked_flows,
            traffic: traffic(&self.samples, |counters| {
                row.and_then(|row| counters.backends.get(row)).copied().unwrap_or_default()
            }),
            revision: backend.revision,
        }
    }
}

/// Slots of a backend.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// Those that send it new flows.
    current: u32,
    /// Those within their window that send it older flows.
    former: u32,
    /// Until the last of those windows is over, seconds.
    former_left_s: u32,
    /// All slots of the vip's table.
    of: u32,
}

/// Whether every flow of the vip is in a table, so that none is left when the table has none.
fn remembers(vip: &Vip) -> bool {
    vip.settings.mode == Mode::Nat || vip.settings.tracking == Tracking::Always
}

/// Why a backend takes flows or not, one sentence.
fn why(
    vip: &Vip,
    backend: &Backend,
    (seen, reached): (Option<&Seen>, bool),
    taken: &Taken,
    tracked_flows: u64,
) -> String {
    let health = match seen {
        _ if vip.settings.probe.kind == ProbeKind::None && !reached => {
            "has no probe; takes nothing until there is a way to it".to_owned()
        }
        _ if vip.settings.probe.kind == ProbeKind::None => "has no probe, so it counts as usable".to_owned(),
        None => "no probe has answered yet".to_owned(),
        Some(Seen { health, last: None }) => format!("was {health} before the restart, not probed since"),
        Some(Seen { health: Health::Up, last: Some(last) }) => format!("answers, for {}", since(last.at_ms)),
        Some(Seen { last: Some(last), .. }) => format!("{}, for {}", cause(last.cause), since(last.at_ms)),
    };
    match backend.intent {
        Intent::Enabled if backend.weight == 0 => format!("weight 0: takes no new flows; {health}"),
        Intent::Enabled => health,
        Intent::Draining => {
            let older = match taken.former_left_s {
                0 => String::new(),
                left_s => format!(" older ones find it for another {left_s} s,"),
            };
            format!("draining: takes no new flows,{older} {tracked_flows} tracked left; {health}")
        }
        Intent::Disabled => format!("disabled: takes nothing; {health}"),
    }
}

/// That a backend serves although its probes fail, behind the rest of a sentence.
fn all_the_same(seen: Option<&Seen>, taken: &Taken) -> &'static str {
    let down = seen.is_some_and(|seen| seen.health == Health::Down);
    if down && taken.current > 0 { "; serves all the same, as last known good" } else { "" }
}

/// What a breaker keeps from its backend, behind the rest of a sentence; nothing if it keeps nothing.
fn apart(seen: Option<&SeenBreaker>) -> String {
    match seen {
        Some(seen) if seen.breaking.state != BreakerState::Closed => {
            format!("; breaker {}: {}", seen.breaking.state, breaker_why(seen))
        }
        Some(seen) if seen.breaking.share_permille < 1_000 => {
            format!("; comes back gently, {} % of its share", seen.breaking.share_permille / 10)
        }
        _ => String::new(),
    }
}

/// That its way may lead nowhere now, behind the rest of a sentence.
fn from_before(way: &WayView) -> String {
    way.stale.as_ref().map_or_else(String::new, |why| format!("; its way is from before: {why}"))
}

/// What speaks against a backend, and for how long.
fn suspicion(suspect: &Suspect) -> String {
    format!("{}, first {} ago", suspect.evidence, since(suspect.since_ms))
}

/// A breaker's last change and how long ago it was.
fn breaker_why(seen: &SeenBreaker) -> String {
    format!("{}, {} ago", seen.why, since(seen.at_ms))
}

fn cause(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "answers",
        Outcome::Refused => "refuses the probe's connection",
        Outcome::Timeout => "does not answer the probe in time",
        Outcome::Unreachable => "cannot be reached by the probe",
        Outcome::TlsFailed => "fails the probe's TLS handshake",
        Outcome::Malformed => "answers the probe with something else than its protocol",
        Outcome::WrongStatus => "answers the probe with a status that is not wanted",
        Outcome::WrongBody => "answers the probe with a body that does not match",
        Outcome::WrongAnswer => "answers the probe with something else than expected",
    }
}

/// How long ago, in the largest unit that tells something.
fn since(at_ms: u64) -> String {
    let ago = unix_ms().saturating_sub(at_ms) / 1_000;
    match ago {
        0..=119 => format!("{ago} s"),
        120..=7_199 => format!("{} min", ago / 60),
        7_200..=172_799 => format!("{} h", ago / 3_600),
        _ => format!("{} days", ago / 86_400),
    }
}

/// A device's name now, or its number.
pub(in crate::api) fn device_name(ifindex: u32) -> String {
    let name = nix::net::if_::if_indextoname(ifindex);
    name.map_or_else(|_| format!("device {ifindex}"), |name| name.to_string_lossy().into_owned())
}
