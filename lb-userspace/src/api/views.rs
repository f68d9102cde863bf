//! The answers to readers: names, not serials and rows; UTC; integers with their unit in the name. The shapes are
//! public (docs/guide/api.md) and change only with [`super::SCHEMA`].

pub mod past;

use std::net::IpAddr;

use lb_control::backend::Intent;
use lb_control::degradation::Footing;
use lb_control::event::Event;
use lb_control::health::Health;
use lb_control::tenant::TenantLimits;
use lb_control::vip::{Mode, Tracking, VipSettings};
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The whole node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// [`super::SCHEMA`].
    pub schema: String,
    /// Whether nothing needs a person: no warning says so.
    pub healthy: bool,
    /// The node.
    pub node: NodeView,
    /// Revision of the state of intent.
    pub revision: u64,
    /// When that was all that was durable, RFC 3339.
    pub as_of: String,
    /// How long what it lacks has been durable, milliseconds; 0: it lacks nothing.
    pub lag_ms: u64,
    /// Revision that the maps hold.
    pub applied_revision: u64,
    /// Whether every packet passes untouched.
    pub bypass: bool,
    /// Devices that the program is attached to.
    pub devices: Vec<DeviceView>,
    /// Vips, by name.
    pub vips: Vec<VipView>,
    /// Drops within the last minute.
    pub drops: Vec<DropView>,
    /// What a person should know, most urgent first.
    pub warnings: Vec<WarningView>,
    /// How the maps are kept as they should be.
    pub reconcile: ReconcileView,
    /// How far the projections are.
    pub projections: Vec<ProjectionView>,
}

/// How far a projection of the log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectionView {
    /// Its name.
    pub name: String,
    /// The revision that it has come to.
    pub revision: u64,
    /// How long what it lacks has been durable, milliseconds; 0: it lacks nothing.
    pub lag_ms: u64,
}

/// The node and its daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// Host name.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Since the daemon started, seconds. Forwarding may be older.
    pub uptime_s: u64,
}

/// A device that the program is attached to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// `native` or `generic`.
    pub mode: String,
    /// Why this mode.
    pub why: String,
    /// Whether the device is there.
    pub present: bool,
    /// Largest IP packet, bytes, if it is there.
    pub mtu: Option<u16>,
}

/// A vip with its backends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VipView {
    /// Its name.
    pub name: String,
    /// Its tenant.
    pub tenant: String,
    /// What it serves, `ADDRESS:PORT/PROTOCOL`.
    pub serves: String,
    /// Its settings.
    pub settings: VipSettings,
    /// Revision of its last change.
    pub revision: u64,
    /// Who serves it: `pool`, `backups`, `fallback`, `last_known_good` or `nobody`; and whether only a part of the pool serves, or none of it.
    #[serde(default)]
    pub ladder: Footing,
    /// Slots of its table and what they do.
    pub slots: SlotsView,
    /// Packets and bytes.
    pub traffic: TrafficView,
    /// Its pool, by name.
    pub backends: Vec<BackendView>,
}

/// The slots of a vip's table.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SlotsView {
    /// All.
    pub count: u32,
    /// Within the window after a change.
    pub moving: u32,
    /// Past it, with flows that are remembered.
    pub pinned: u32,
    /// Without a backend.
    pub empty: u32,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct TrafficView {
    /// Since the maps were made.
    pub packets: u64,
    /// Since the maps were made.
    pub bytes: u64,
    /// Within the last seconds, packets per second.
    pub rate_pps: f64,
    /// Within the last seconds, bits per second.
    pub rate_bps: f64,
}

/// A backend: what is intended with it, what is observed of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendView {
    /// Its name, unique in its vip.
    pub name: String,
    /// The vip's name.
    pub vip: String,
    /// `ADDRESS` or, if it has a port, `ADDRESS:PORT`.
    pub address: String,
    /// Its weight.
    pub weight: u16,
    /// What people intend.
    pub intent: Intent,
    /// What its probe says.
    pub health: Health,
    /// Whether it serves only when nobody of the pool does.
    #[serde(default)]
    pub backup: bool,
    /// The circuit breaker's state: `closed`, `open`, `half-open`; `null`: it is off, and nobody tripped it.
    pub breaker: Option<String>,
    /// The breaker's last change, one sentence; empty: there was none since the daemon started.
    #[serde(default)]
    pub breaker_why: String,
    /// What the traffic of its clients says against it, one sentence; empty: nothing within the last seconds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suspicion: String,
    /// Why health and intent have it as it is, one sentence.
    pub why: String,
    /// Whether its way is known.
    pub way: WayView,
    /// Slots that send it new flows, their share of the table, 0 to 1.
    pub share: f64,
    /// Slots within their window that send it the flows that began before.
    pub former_slots: u32,
    /// Until the last of those windows is over, seconds.
    #[serde(default)]
    pub former_left_s: u32,
    /// Whether it takes no new flows and none is left.
    pub drained: bool,
    /// Flows that are remembered for it, as of the last sweep; flows of stable slots are not counted.
    pub tracked_flows: u64,
    /// Packets and bytes.
    pub traffic: TrafficView,
    /// Revision of its last change.
    pub revision: u64,
}

/// The way to a backend.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WayView {
    /// Whether packets are sent.
    pub known: bool,
    /// Device that they leave by.
    pub device: Option<String>,
    /// MAC of the next hop.
    pub next_hop: Option<String>,
    /// The node's own address on that way: the outer source of tunnels, and whom a backend sees in mode nat.
    pub source: Option<IpAddr>,
    /// Why it is not known.
    pub why_not: Option<String>,
    /// Known from before, and used on, but why it may lead nowhere now.
    #[serde(default)]
    pub stale: Option<String>,
}

/// Packets under one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropView {
    /// The reason's name.
    pub reason: String,
    /// What it means and what to do.
    pub text: String,
    /// `drop`, `pass` or `forward`.
    pub class: String,
    /// Packets since the maps were made.
    pub packets: u64,
    /// Packets within the last minute.
    pub last_minute_packets: u64,
    /// Within the last seconds, packets per second.
    pub rate_pps: f64,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningView {
    /// What it is about: `node`, `device NAME`, `vip NAME` or `backend VIP/NAME`.
    pub object: String,
    /// What is wrong and what to do.
    pub text: String,
    /// Whether packets are lost, or will be, unless somebody acts.
    pub urgent: bool,
}

/// How the maps are kept as they should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReconcileView {
    /// Comparisons so far.
    pub passes: u64,
    /// Operations that were needed although nothing had changed.
    pub drift_operations: u64,
    /// Entries of the flow table, as of the last sweep.
    pub tracked_flows: u64,
    /// Flows of the NAT table, as of the last sweep.
    pub nat_flows: u64,
    /// Why the maps are not as they should be.
    pub pending: Vec<Problem>,
}

/// Every list comes in this.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListView<T> {
    /// [`super::SCHEMA`].
    pub schema: String,
    /// Revision of what it shows.
    pub revision: u64,
    /// When that was all that was durable, RFC 3339.
    pub as_of: String,
    /// How long what it lacks has been durable, milliseconds; 0: it lacks nothing.
    pub lag_ms: u64,
    /// The things.
    pub items: Vec<T>,
}

/// A tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TenantView {
    /// Its name.
    pub name: String,
    /// Its vips.
    pub vips: Vec<String>,
    /// Backends of all its vips.
    pub backends: usize,
    /// Commands that touched it or its vips.
    pub changes: u64,
    /// Packets and bytes of its vips.
    pub traffic: TrafficView,
    /// What it may take of the node.
    #[serde(default)]
    pub limits: TenantLimits,
    /// What it takes, if its limits meet packets.
    #[serde(default)]
    pub usage: Option<TenantUsageView>,
}

/// What a tenant takes whose limits meet packets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TenantUsageView {
    /// What the limits let through.
    pub passed: TrafficView,
    /// New connections that the limits let through, since they were set.
    pub new_connections: u64,
    /// Of late, connections a second.
    pub new_connections_per_s: f64,
    /// Entries of the flow table.
    pub connections: u64,
    /// How many it may have; `null` = as many as there are.
    pub connections_max: Option<u32>,
    /// NAT ports.
    pub nat_ports: u64,
    /// How many it may have; `null` = as many as there are.
    pub nat_ports_max: Option<u32>,
    /// What the limits dropped, by reason; one that dropped nothing is absent.
    pub drops: Vec<TenantDropView>,
}

/// What a tenant's limits dropped for one reason.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TenantDropView {
    /// The reason's name.
    pub reason: String,
    /// Since the limits were set.
    pub traffic: TrafficView,
}

/// The answer to a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandView {
    /// [`super::SCHEMA`].
    pub schema: String,
    /// Its id; empty for a dry run.
    pub command_id: String,
    /// Whether it only said what it would do.
    pub dry_run: bool,
    /// Revision of the state after it.
    pub revision: u64,
    /// What happened, in the form of the journal.
    pub events: Vec<Event>,
    /// What changed, for people.
    pub effects: EffectsView,
    /// Commands that bring the former state back, in order.
    pub undo: Vec<String>,
    /// Whether the maps have it.
    pub applied: bool,
    /// Why not, if they have not.
    pub pending: Vec<Problem>,
    /// A plan only: why `apply` would refuse it without `allow_disruption`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<Problem>,
}

/// What a change does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EffectsView {
    /// Objects that are made, changed or removed.
    pub lines: Vec<EffectView>,
    /// Vips whose slots move.
    pub slots: Vec<MovedView>,
}

/// One object that a change touches.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EffectView {
    /// `created`, `changed` or `removed`.
    pub change: String,
    /// `tenant NAME`, `vip NAME`, `backend VIP/NAME` or `bypass`.
    pub object: String,
    /// What exactly.
    pub text: String,
}

/// How many slots of a vip move.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MovedView {
    /// Name of the vip.
    pub vip: String,
    /// Slots that move.
    pub moved: u32,
    /// Slots of its table.
    pub slots: u32,
    /// Their share, 0 to 1.
    pub share: f64,
}

/// What would happen to a packet, in plain words and in detail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainView {
    /// [`super::SCHEMA`].
    pub schema: String,
    /// The story, a sentence a line.
    pub story: Vec<String>,
    /// The packet path's own words.
    pub detail: serde_json::Value,
}

/// Known packets through the loaded program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelftestView {
    /// [`super::SCHEMA`].
    pub schema: String,
    /// Whether all agree.
    pub ok: bool,
    /// Each.
    pub checks: Vec<CheckView>,
}

/// One known packet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckView {
    /// What was sent.
    pub name: String,
    /// What should become of it.
    pub expected: String,
    /// What became of it.
    pub found: String,
    /// Whether they agree.
    pub ok: bool,
}

/// The answer to an attachment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachView {
    /// [`super::SCHEMA`].
    pub schema: String,
    /// The device.
    pub device: DeviceView,
    /// What may go wrong there.
    pub warnings: Vec<String>,
}

/// A word for a mode.
pub fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::L2 => "l2",
        Mode::Ipip => "ipip",
        Mode::Nat => "nat",
    }
}

/// A word for a way of tracking.
pub fn tracking_word(tracking: Tracking) -> &'static str {
    match tracking {
        Tracking::Auto => "auto",
        Tracking::Always => "always",
        Tracking::Never => "never",
    }
}
