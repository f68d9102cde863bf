//! How to undo: for what happened, the commands that bring the former state back, ready to be typed.

use lb_control::backend::{Backend, Intent};
use lb_control::breaker::{BreakerSettings, BreakerWish};
use lb_control::degradation::LadderWish;
use lb_control::event::{Change, Event};
use lb_control::probe::ProbeWish;
use lb_control::state::State;
use lb_control::tenant::{Limit, TenantLimits};
use lb_control::vip::{Vip, VipSettings};

use super::views::{mode_word, tracking_word};

/// The commands, in the order in which they are to be given.
pub(super) fn undo(before: &State, events: &[Event]) -> Vec<String> {
    events.iter().rev().flat_map(|event| inverse(before, &event.change)).collect()
}

fn inverse(before: &State, change: &Change) -> Vec<String> {
    let line = |text: String| vec![text];
    match change {
        Change::TenantAdded { tenant, .. } => line(format!("lb tenant remove {tenant}")),
        Change::TenantRemoved { tenant } => {
            let was = before.tenants.get(tenant).map(|tenant| tenant.limits).unwrap_or_default();
            line(format!("lb tenant add {tenant}{}", limit_flags(&was, &TenantLimits::default())))
        }
        // The limits of a tenant that is new too go with it.
        Change::TenantLimitsChanged { tenant, limits } => match before.tenants.get(tenant) {
            Some(was) => line(format!("lb tenant set {tenant}{}", limit_flags(&was.limits, limits))),
            None => Vec::new(),
        },
        Change::VipAdded { vip, .. } => line(format!("lb vip remove {vip}")),
        Change::VipSettingsChanged { vip, settings } => match before.vips.get(vip) {
            Some(was) => line(format!("lb vip set {vip}{}", flags(&was.settings, settings))),
            None => Vec::new(),
        },
        Change::VipRemoved { vip } => before.vips.get(vip).map_or_else(Vec::new, |was| whole(vip, was)),
        // A backend of a vip that is new too goes with it.
        Change::BackendAdded { vip, backend, .. } if before.vips.contains_key(vip) => {
            line(format!("lb backend remove {vip}/{backend}"))
        }
        Change::BackendAdded { .. } => Vec::new(),
        Change::BackendWeightChanged { vip, backend, .. } => match before.backend(vip, backend) {
            Some(was) => line(format!("lb backend weight {vip}/{backend} {}", was.weight)),
            None => Vec::new(),
        },
        Change::BackendIntentChanged { vip, backend, .. } => match before.backend(vip, backend) {
            Some(was) => line(format!("lb backend {} {vip}/{backend}", verb(was.intent))),
            None => Vec::new(),
        },
        Change::BackendRemoved { vip, backend } => match (before.vips.get(vip), before.backend(vip, backend))
        {
            (Some(of), Some(was)) => backend_lines(vip, of, backend, was),
            _ => Vec::new(),
        },
        Change::BreakerTripped { vip, backend } => line(format!("lb breaker reset {vip}/{backend}")),
        Change::BreakerReset { vip, backend } => match before.backend(vip, backend) {
            Some(was) if was.breaker.tripped => line(format!("lb breaker trip {vip}/{backend}")),
            _ => Vec::new(),
        },
        Change::BypassChanged { on } => line(format!("lb bypass {}", if *on { "off" } else { "on" })),
        Change::CommandAccepted { .. } => Vec::new(),
    }
}

/// The flags that turn `from` into `to`.
fn limit_flags(to: &TenantLimits, from: &TenantLimits) -> String {
    let differs = Limit::ALL.into_iter().filter(|limit| to.of(*limit) != from.of(*limit));
    let flag = |limit: Limit| {
        let value = to.of(limit).map_or("unlimited".to_owned(), |value| value.to_string());
        format!(" --{} {value}", limit.name().replace('_', "-"))
    };
    differs.map(flag).collect()
}

/// A vip with its backends, as commands.
fn whole(name: &str, vip: &Vip) -> Vec<String> {
    let defaults = VipSettings::defaults(vip.served.protocol, vip.served.port, vip.settings.mode);
    let mode = mode_word(vip.settings.mode);
    let rest = flags(&vip.settings, &defaults);
    let first = format!("lb vip add {name} {} --tenant {} --mode {mode}{rest}", vip.served, vip.tenant);
    let backends = vip.backends.iter().flat_map(|(backend, was)| backend_lines(name, vip, backend, was));
    std::iter::once(first).chain(backends).collect()
}

fn backend_lines(vip_name: &str, vip: &Vip, name: &str, backend: &Backend) -> Vec<String> {
    let address = match (backend.address, backend.port == vip.served.port) {
        (address, true) => address.to_string(),
        (address, false) => std::net::SocketAddr::new(address, backend.port).to_string(),
    };
    let mut text = format!("lb backend add {vip_name}/{name} {address} --weight {}", backend.weight);
    if backend.intent != Intent::Enabled {
        text.push_str(&format!(" --intent {}", backend.intent));
    }
    if backend.backup {
        text.push_str(" --backup");
    }
    let trip = backend.breaker.tripped.then(|| format!("lb breaker trip {vip_name}/{name}"));
    std::iter::once(text).chain(trip).collect()
}

/// The flags that turn `from` into `to`.
fn flags(to: &VipSettings, from: &VipSettings) -> String {
    let mut text = String::new();
    let mut flag = |differs: bool, name: &str, value: String| {
        if differs {
            text.push_str(&format!(" --{name} {value}"));
        }
    };
    flag(to.mode != from.mode, "mode", mode_word(to.mode).to_owned());
    flag(to.tracking != from.tracking, "tracking", tracking_word(to.tracking).to_owned());
    flag(to.udp_stateless != from.udp_stateless, "udp-stateless", to.udp_stateless.to_string());
    flag(to.window_s != from.window_s, "window-s", to.window_s.to_string());
    flag(to.idle_s != from.idle_s, "idle-s", to.idle_s.to_string());
    flag(to.table_size != from.table_size, "table-size", to.table_size.to_string());
    let (balancing, before) = (&to.balancing, &from.balancing);
    let algorithm = balancing.algorithm;
    flag(algorithm != before.algorithm, "algorithm", algorithm.name().to_owned());
    flag(balancing.affinity_s != before.affinity_s, "affinity-s", balancing.affinity_s.to_string());
    flag(balancing.syn_s != before.syn_s, "syn-s", balancing.syn_s.to_string());
    flag(balancing.closing_s != before.closing_s, "closing-s", balancing.closing_s.to_string());
    let ladder = LadderWish::between(&to.ladder, &from.ladder);
    flag(ladder.fail_fast.is_some(), "fail-fast", to.ladder.fail_fast.to_string());
    let good = to.ladder.last_known_good;
    flag(ladder.last_known_good.is_some(), "last-known-good", good.to_string());
    flag(ladder.fallback.is_some(), "fallback", quoted(ladder.fallback.as_deref().unwrap_or_default()));
    let wish = ProbeWish::between(&to.probe, &from.probe);
    let mut probe = |name: &str, value: Option<String>| {
        flag(value.is_some(), name, value.as_deref().map(quoted).unwrap_or_default());
    };
    probe("probe", wish.kind.map(|kind| kind.to_string()));
    probe("probe-interval-ms", wish.interval_ms.map(|ms| ms.to_string()));
    probe("probe-timeout-ms", wish.timeout_ms.map(|ms| ms.to_string()));
    probe("probe-rise", wish.rise.map(|count| count.to_string()));
    probe("probe-fall", wish.fall.map(|count| count.to_string()));
    probe("probe-retries", wish.retries.map(|count| count.to_string()));
    probe("probe-port", wish.port.map(|port| port.to_string()));
    probe("probe-via", wish.via.map(|via| via.to_string()));
    probe("probe-path", wish.path);
    probe("probe-host", wish.host);
    probe("probe-status", wish.status);
    probe("probe-body", wish.body);
    probe("probe-sni", wish.sni);
    probe("probe-verify", wish.verify.map(|on| on.to_string()));
    probe("probe-send", wish.send);
    probe("probe-expect", wish.expect);
    text + &breaker_flags(&to.breaker, &from.breaker)
}

/// The flags that turn one breaker's settings into another's.
fn breaker_flags(to: &BreakerSettings, from: &BreakerSettings) -> String {
    let wish = serde_json::to_value(BreakerWish::between(to, from)).unwrap_or_default();
    let named = wish.as_object().into_iter().flatten();
    named.map(|(name, value)| format!(" --breaker-{} {value}", name.replace('_', "-"))).collect()
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn verb(intent: Intent) -> &'static str {
    match intent {
        Intent::Enabled => "enable",
        Intent::Draining => "drain",
        Intent::Disabled => "disable",
    }
}
