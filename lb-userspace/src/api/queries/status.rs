//! The status of the node: everything that one look should tell, and what a person should do about it.

use std::collections::BTreeSet;

use lb_common::reason::{Class, Reason};
use lb_control::backend::Intent;
use lb_control::degradation::Rung;
use lb_control::health::Health;
use lb_control::probe::{ProbeKind, Via};
use lb_control::vip::Mode;

use super::super::commands::pending;
use super::super::node::device_view;
use super::super::views::{BackendView, NodeView, ReconcileView, StatusView, VipView, WarningView};
use super::super::{Node, SCHEMA};
use super::answer::Basis;
use super::vips::{Snapshot, device_name};
use super::{drop_view, projections};
use crate::journal::Verification;
use crate::journal::observation::ObservationJournal;

pub(super) fn view(node: &Node, basis: &Basis) -> StatusView {
    let snapshot = Snapshot::of(node, &basis.model);
    let vips = snapshot.vips();
    let drops = Reason::ALL.iter().filter(|reason| reason.class() == Class::Drop);
    let drops = drops.map(|reason| drop_view(snapshot.samples(), *reason));
    let warnings = warnings(node, &snapshot, &vips);
    let standing = &snapshot.standing;
    StatusView {
        schema: SCHEMA.to_owned(),
        healthy: !warnings.iter().any(|warning| warning.urgent),
        node: NodeView {
            name: host_name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: node.started.elapsed().as_secs(),
        },
        revision: basis.revision,
        as_of: basis.as_of(),
        lag_ms: basis.lag_ms,
        applied_revision: standing.revision,
        bypass: snapshot.model.inventory.bypass,
        devices: standing.attached.iter().map(device_view).collect(),
        drops: drops.filter(|view| view.last_minute_packets > 0).collect(),
        warnings,
        reconcile: ReconcileView {
            passes: standing.passes,
            drift_operations: standing.drift_ops,
            tracked_flows: standing.swept.tracked_flows,
            nat_flows: standing.swept.nat_flows,
            pending: pending(standing, |_| true),
        },
        projections: projections::views(node, &basis.model),
        vips,
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "this node".to_owned(), |name| name.trim().to_owned())
}

fn warnings(node: &Node, snapshot: &Snapshot, vips: &[VipView]) -> Vec<WarningView> {
    let mut warnings = Vec::new();
    about_node(node, snapshot, vips, &mut warnings);
    about_devices(snapshot, &mut warnings);
    for vip in vips {
        about_vip(snapshot, vip, &mut warnings);
        about_probe(node, snapshot, vip, &mut warnings);
    }
    warnings.sort_by_key(|warning| !warning.urgent);
    warnings
}

fn warn(warnings: &mut Vec<WarningView>, urgent: bool, object: impl Into<String>, text: impl Into<String>) {
    warnings.push(WarningView { object: object.into(), text: text.into(), urgent });
}

fn about_node(node: &Node, snapshot: &Snapshot, vips: &[VipView], warnings: &mut Vec<WarningView>) {
    let standing = &snapshot.standing;
    if snapshot.model.inventory.bypass {
        warn(
            warnings,
            true,
            "node",
            "the emergency bypass is on: nothing is balanced; `lb bypass off` ends it",
        );
    }
    for problem in pending(standing, |_| true) {
        let object = problem.place.clone().unwrap_or_else(|| "node".into());
        let help = problem.help.clone().unwrap_or_default();
        warn(warnings, true, object, format!("not in the maps yet: {problem}. {help}"));
    }
    if standing.attached.is_empty() && !vips.is_empty() {
        warn(warnings, true, "node", "no device is attached, so no packet is balanced: `lb attach DEVICE`");
    }
    if standing.drift_ops > 0 {
        let text = format!(
            "something else wrote to the maps: {} operations put them right since the daemon started",
            standing.drift_ops
        );
        warn(warnings, false, "node", text);
    }
    if let Some(fault) = node.projections.progress().fault {
        let text = format!("the log cannot be read, so views stay as they are: {fault}; `lb log verify`");
        warn(warnings, true, "log", text);
    }
    for note in &node.notes {
        warn(warnings, false, "node", note.clone());
    }
    about_journal(node, warnings);
}

fn about_journal(node: &Node, warnings: &mut Vec<WarningView>) {
    match node.log.verification() {
        Verification::Damaged { segment, offset, whole, reason } => {
            let text = format!(
                "{} is damaged at byte {offset}, after revision {whole}: {reason}. The daemon does not need it now; put \
                 back a copy of the file, or ask `lb explain LB5009`",
                segment.display()
            );
            warn(warnings, true, "journal", text);
        }
        Verification::Unreadable { reason } => {
            warn(warnings, true, "journal", format!("its older segments could not be verified: {reason}"));
        }
        Verification::Pending | Verification::Running { .. } | Verification::Whole { .. } => {}
    }
    if let Some(fault) = node.observations.as_ref().and_then(ObservationJournal::fault) {
        warn(warnings, true, "journal", fault);
    }
}

fn about_devices(snapshot: &Snapshot, warnings: &mut Vec<WarningView>) {
    for device in &snapshot.standing.attached {
        let object = format!("device {}", device.name);
        if device.device.is_none() {
            warn(warnings, true, &object, "the device has vanished; it is attached again when it comes back");
            continue;
        }
        for text in &device.warnings {
            warn(warnings, false, &object, text.clone());
        }
    }
}

fn about_vip(snapshot: &Snapshot, vip: &VipView, warnings: &mut Vec<WarningView>) {
    let object = format!("vip {}", vip.name);
    let enabled =
        || vip.backends.iter().filter(|backend| backend.intent == Intent::Enabled && backend.weight > 0);
    let probed = vip.settings.probe.kind != ProbeKind::None;
    let usable = enabled().filter(|backend| !probed || backend.health == Health::Up).count();
    match vip.ladder.rung {
        _ if vip.backends.is_empty() => warn(warnings, false, &object, "it has no backend: `lb backend add`"),
        Rung::Backups => warn(warnings, true, &object, "nobody of its pool serves: its backups do"),
        Rung::Fallback => {
            let fallback = vip.settings.ladder.fallback.as_deref().unwrap_or("another vip");
            let text = format!("nobody of its pool and backups serves: the pool of {fallback} does");
            warn(warnings, true, &object, text);
        }
        Rung::LastKnownGood => {
            let text = "nobody passes its probes: those that did last serve on, as last known good";
            warn(warnings, true, &object, text);
        }
        _ if usable == 0 => {
            let text = "no backend takes new flows: each is down, not probed yet or not enabled";
            warn(warnings, true, &object, text);
        }
        Rung::Pool | Rung::Nobody => {}
    }
    for backend in enabled() {
        let object = format!("backend {}/{}", vip.name, backend.name);
        if backend.health == Health::Down {
            warn(warnings, false, &object, format!("down: {}", backend.why));
        }
        if !backend.suspicion.is_empty() {
            let text = format!("suspect, probed at once: {}", backend.suspicion);
            warn(warnings, false, &object, text);
        }
        if let Some(state @ ("open" | "half-open")) = backend.breaker.as_deref() {
            warn(warnings, false, &object, format!("breaker {state}: {}", backend.breaker_why));
        }
        if !backend.way.known {
            let why = backend.way.why_not.as_deref().unwrap_or("not in the maps yet");
            warn(warnings, !probed || backend.health == Health::Up, &object, format!("no way to it: {why}"));
        }
    }
    for backend in &vip.backends {
        about_stale_way(vip, backend, warnings);
    }
    if vip.settings.mode == Mode::Nat {
        about_replies(snapshot, vip, warnings);
    }
}

/// A way from before is used on, whoever answers there. It is urgent while new flows go there and no probe sees the
/// silence: they are lost. Of one that its probe took out, that warning tells.
fn about_stale_way(vip: &VipView, backend: &BackendView, warnings: &mut Vec<WarningView>) {
    let Some(why) = &backend.way.stale else { return };
    let probed = vip.settings.probe.kind != ProbeKind::None;
    let urgent = backend.share > 0.0 && !probed;
    if backend.health == Health::Down && !urgent {
        return;
    }
    if urgent || backend.intent == Intent::Enabled || backend.former_slots > 0 {
        let object = format!("backend {}/{}", vip.name, backend.name);
        warn(warnings, urgent, object, format!("its way is from before, and used on: {why}"));
    }
}

/// A probe by the vip's own path needs an address to ask from.
fn about_probe(node: &Node, snapshot: &Snapshot, vip: &VipView, warnings: &mut Vec<WarningView>) {
    let Some(of) = snapshot.model.inventory.vips.get(vip.name.as_str()) else { return };
    if vip.settings.probe.via == Via::Vip && node.probe_addresses.like(of.served.address).is_none() {
        let text = "its probes go to its backends' own addresses, not by its own path: the node has no address of its \
                    family to ask from (LB5033); `lb serve --probe-address`";
        warn(warnings, false, format!("vip {}", vip.name), text);
    }
}

/// Mode nat: replies must come in by a device with the program, or nobody translates them.
fn about_replies(snapshot: &Snapshot, vip: &VipView, warnings: &mut Vec<WarningView>) {
    let attached: BTreeSet<u32> = snapshot.standing.attached.iter().map(|device| device.ifindex).collect();
    let Some(of) = snapshot.model.inventory.vips.get(vip.name.as_str()) else { return };
    for (name, backend) in &of.backends {
        if let Some(Ok(way)) = snapshot.ways.get(&backend.id)
            && !attached.contains(&way.ifindex)
        {
            let device = device_name(way.ifindex);
            let text = format!(
                "its replies come in by {device}, which is not attached, so nobody translates them: `lb attach {device}`"
            );
            warn(warnings, true, format!("backend {}/{name}", vip.name), text);
        }
    }
}
