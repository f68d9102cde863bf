//! `lb status`: one look at the node.

use lb_control::backend::Intent;
use lb_control::degradation::{Footing, Rung};
use lb_control::health::Health;

use super::text::{count, duration, packet_rate, rate, several, share};
use super::{Done, Session};
use crate::api::views::{BackendView, DeviceView, StatusView, VipView, mode_word, tracking_word};
use crate::problem::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End with exit status 6 if something urgent is wrong.
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let view: StatusView = session.client.read("/v1/views/status").await?;
    if session.out.json {
        session.out.value(&view)?;
    } else {
        people(session, &view);
    }
    Ok((args.check && !view.healthy).then_some(Exit::Unhealthy))
}

fn people(session: &mut Session<'_>, view: &StatusView) {
    let node = &view.node;
    let maps = if view.applied_revision == view.revision {
        "in the maps".to_owned()
    } else {
        format!("the maps hold {}", view.applied_revision)
    };
    session.out.heading(&format!("node {}", node.name));
    session.out.line(&format!(
        "  lb {}, process {}, up {}; revision {}, {maps}; {} tracked flows, {} NAT flows",
        node.version,
        node.pid,
        duration(node.uptime_s),
        view.revision,
        count(view.reconcile.tracked_flows),
        count(view.reconcile.nat_flows)
    ));
    let behind = view.projections.iter().map(|one| one.lag_ms).max().unwrap_or(0);
    session.out.line(&format!(
        "  views as of {} UTC, {} ms behind the log; {} operations of drift put right",
        super::object::when(&view.as_of),
        count(behind),
        count(view.reconcile.drift_operations)
    ));
    devices(session, &view.devices);
    for vip in &view.vips {
        session.out.line("");
        self::vip(session, vip);
    }
    session.out.line("");
    session.out.heading("drops in the last minute");
    if view.drops.is_empty() {
        session.out.line("  none");
    } else {
        super::drops::table(session, &view.drops);
    }
    if !view.warnings.is_empty() {
        session.out.line("");
        session.out.heading("warnings");
    }
    for warning in &view.warnings {
        let mark = if warning.urgent { session.out.styled("31;1", "!") } else { "-".to_owned() };
        session.out.marked(&mark, &format!("{}: {}", warning.object, warning.text));
    }
}

fn devices(session: &mut Session<'_>, devices: &[DeviceView]) {
    if devices.is_empty() {
        session.out.line("  no device is attached");
    }
    for device in devices {
        let state = match device.mtu {
            Some(mtu) => format!("MTU {mtu}"),
            None => "vanished".to_owned(),
        };
        session.out.line(&format!("  attached to {}, {}, {state}", device.name, device.mode));
    }
}

/// A vip: a line on it, a line on its slots, a table of its backends; of those that are well nothing needs a why.
pub(super) fn vip(session: &mut Session<'_>, vip: &VipView) {
    session.out.heading(&format!("vip {}  {}", vip.name, vip.serves));
    session.out.line(&format!(
        "  mode {}, tracking {}, tenant {}; {}",
        mode_word(vip.settings.mode),
        tracking_word(vip.settings.tracking),
        vip.tenant,
        rate(&vip.traffic)
    ));
    let slots = &vip.slots;
    let empty = if slots.empty > 0 {
        format!(", {} without a backend", count(u64::from(slots.empty)))
    } else {
        String::new()
    };
    session.out.line(&format!(
        "  {} slots: {} moving, {} pinned{empty}",
        count(u64::from(slots.count)),
        count(u64::from(slots.moving)),
        count(u64::from(slots.pinned))
    ));
    if let Some(text) = footing(vip) {
        session.out.line(&format!("  {text}"));
    }
    if vip.backends.is_empty() {
        session.out.line("  no backends");
    } else {
        let told = |backend: &BackendView| {
            let well = backend.intent == Intent::Enabled
                && backend.health == Health::Up
                && backend.way.stale.is_none()
                && matches!(backend.breaker.as_deref(), None | Some("closed"));
            BackendView { why: if well { String::new() } else { backend.why.clone() }, ..backend.clone() }
        };
        backends(session, &vip.backends.iter().map(told).collect::<Vec<_>>());
    }
}

/// Who serves a vip, where it is not its whole pool.
fn footing(vip: &VipView) -> Option<String> {
    let serving = || vip.backends.iter().filter(|one| one.share > 0.0).count();
    match vip.ladder {
        Footing { partial: false, .. } => None,
        Footing { rung: Rung::Pool, .. } => {
            let pool = vip.backends.iter().filter(|one| !one.backup).count();
            Some(format!("partial: {} of {pool} serve", serving()))
        }
        Footing { rung: Rung::Backups, .. } => {
            Some(format!("partial: nobody of the pool serves, {} do", several(serving(), "backup")))
        }
        Footing { rung: Rung::Fallback, .. } => {
            let fallback = vip.settings.ladder.fallback.as_deref().unwrap_or("another vip");
            Some(format!("partial: nobody of the pool serves, the pool of {fallback} does"))
        }
        Footing { rung: Rung::LastKnownGood, .. } => {
            Some(format!("partial: nobody passes its probes, {} serving on (last known good)", serving()))
        }
        Footing { rung: Rung::Nobody, .. } => Some("nobody serves".to_owned()),
    }
}

/// Backends, one a line; intent, health and breaker are three things and three columns.
pub(super) fn backends(session: &mut Session<'_>, backends: &[BackendView]) {
    let row = |backend: &BackendView| {
        let way = match (&backend.way.device, &backend.way.next_hop) {
            (Some(device), Some(next_hop)) if backend.way.known => {
                let source = backend.way.source.map_or_else(String::new, |source| format!(" from {source}"));
                let stale = if backend.way.stale.is_some() { " (stale)" } else { "" };
                format!("{device} {next_hop}{source}{stale}")
            }
            _ => format!("none: {}", backend.way.why_not.as_deref().unwrap_or("not in the maps yet")),
        };
        vec![
            format!("{}/{}", backend.vip, backend.name),
            backend.address.clone(),
            if backend.backup { format!("{}, backup", backend.intent) } else { backend.intent.to_string() },
            backend.health.to_string(),
            backend.breaker.clone().unwrap_or_else(|| "-".to_owned()),
            backend.weight.to_string(),
            share(backend.share),
            count(backend.tracked_flows),
            packet_rate(backend.traffic.rate_pps),
            way,
            backend.why.clone(),
        ]
    };
    let headings = [
        "backend", "address", "intent", "health", "breaker", "weight", "slots", "tracked", "rate", "way",
        "why",
    ];
    session.out.table(&headings, backends.iter().map(row).collect());
}
