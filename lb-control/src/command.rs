//! What people can ask for. Commands name things as people do: tenants and vips by name, backends by name within
//! their vip. Their JSON is the HTTP API, their TOML (a [`Document`]) the file of `lb apply`.
//!
//! Nothing is validated here beyond the shape: that is [`crate::decide`]'s, which knows the state.

use crate::backend::Intent;
use crate::balancing::BalancingWish;
use crate::breaker::BreakerWish;
use crate::degradation::LadderWish;
use crate::probe::ProbeWish;
use crate::tenant::{Limit, TenantLimits};
use crate::vip::{Mode, Protocol, Tracking};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The tenant that vips belong to which name none. It always exists.
pub const DEFAULT_TENANT: &str = "default";
/// A backend's weight unless it names one.
pub const DEFAULT_WEIGHT: u32 = 100;

/// A wish to change something: `{"kind": "vip_add", "name": "web", …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Makes a tenant.
    TenantAdd(TenantSpec),
    /// Changes limits of a tenant.
    TenantSet(TenantSet),
    /// Removes a tenant that has no vips.
    TenantRemove(TenantRemove),
    /// Makes a vip, with the backends that it names.
    VipAdd(VipSpec),
    /// Changes settings of a vip.
    VipSet(VipSet),
    /// Removes a vip and its backends.
    VipRemove(VipRemove),
    /// Adds a backend to a vip.
    BackendAdd(BackendAdd),
    /// Changes weight or intent of a backend.
    BackendSet(BackendSet),
    /// Removes a backend; flows that it still has end. Drain it first to keep them.
    BackendRemove(BackendRemove),
    /// Opens a backend's breaker until it is reset.
    BreakerTrip(BreakerTrip),
    /// Closes a backend's breaker, whatever opened it.
    BreakerReset(BreakerReset),
    /// Turns the emergency bypass on or off: every packet passes untouched.
    BypassSet(BypassSet),
    /// Brings about what a document says.
    Apply(Apply),
}

/// A tenant, in commands and documents: its name beside its limits. A limit that is absent is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSpec {
    /// Its name.
    pub name: String,
    /// What it may take of the node.
    #[serde(flatten)]
    pub limits: TenantLimits,
}

impl TenantSpec {
    /// A tenant without limits.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), limits: TenantLimits::default() }
    }
}

/// Changes to a tenant's limits: its name beside the limits that change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSet {
    /// Its name.
    pub name: String,
    /// The new values; `null` = no limit from now on.
    #[serde(flatten)]
    pub limits: BTreeMap<Limit, Option<u64>>,
}

/// Removal of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRemove {
    /// Its name.
    pub name: String,
}

/// A vip, in commands and documents. What is absent has its default ([`crate::vip::VipSettings::defaults`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipSpec {
    /// Its name, unique on the node.
    pub name: String,
    /// Name of its tenant.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The address that clients use.
    pub address: IpAddr,
    /// The port that clients use; 0 = every port that no other vip of the address serves.
    pub port: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// How packets reach its backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Which flows are remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,
    /// See [`crate::vip::VipSettings::udp_stateless`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_stateless: Option<bool>,
    /// See [`crate::vip::VipSettings::window_s`], seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u32>,
    /// See [`crate::vip::VipSettings::idle_s`], seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<u32>,
    /// See [`crate::vip::VipSettings::table_size`], slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_size: Option<u32>,
    /// How its backends are probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeWish>,
    /// When a breaker keeps a backend out, and how it comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerWish>,
    /// How new flows are spread over its backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancing: Option<BalancingWish>,
    /// What is done when nobody of its pool and backups can serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<LadderWish>,
    /// Its pool.
    #[serde(default, rename = "backend", skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendSpec>,
}

impl VipSpec {
    /// A vip with every default.
    pub fn new(name: impl Into<String>, address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self {
            name: name.into(),
            tenant: default_tenant(),
            address,
            port,
            protocol,
            mode: None,
            tracking: None,
            udp_stateless: None,
            window_s: None,
            idle_s: None,
            table_size: None,
            probe: None,
            breaker: None,
            balancing: None,
            ladder: None,
            backends: Vec::new(),
        }
    }
}

/// A backend, in commands and documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Its name, unique in the vip.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; absent = the vip's. Another one only in mode nat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share of new flows relative to the others, 0 to 65,535.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// What is intended with it.
    #[serde(default)]
    pub intent: Intent,
    /// Whether it serves only when nobody of the pool does. Never changes in its life.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
}

impl BackendSpec {
    /// A backend with every default.
    pub fn new(name: impl Into<String>, address: IpAddr) -> Self {
        Self {
            name: name.into(),
            address,
            port: None,
            weight: DEFAULT_WEIGHT,
            intent: Intent::Enabled,
            backup: false,
        }
    }
}

/// Changes to a vip; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipSet {
    /// Its name.
    pub name: String,
    /// New mode; only while the vip has no backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// New tracking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,
    /// New choice for unknown UDP flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_stateless: Option<bool>,
    /// New window, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u32>,
    /// New idle time, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<u32>,
    /// New table size, slots; only while the vip has no backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_size: Option<u32>,
    /// Changes to the probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeWish>,
    /// Changes to the breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerWish>,
    /// Changes to how new flows are spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancing: Option<BalancingWish>,
    /// Changes to its ladder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<LadderWish>,
    /// Do it even if it ends traffic.
    #[serde(default)]
    pub allow_disruption: bool,
}

/// Removal of a vip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipRemove {
    /// Its name.
    pub name: String,
    /// Do it even if it ends traffic: needed while the vip has enabled backends.
    #[serde(default)]
    pub allow_disruption: bool,
}

/// A new backend of a vip: the backend's fields beside the vip's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendAdd {
    /// Name of the vip.
    pub vip: String,
    /// Its name, unique in the vip.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; absent = the vip's. Another one only in mode nat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share of new flows relative to the others, 0 to 65,535.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// What is intended with it.
    #[serde(default)]
    pub intent: Intent,
    /// Whether it serves only when nobody of the pool does. Never changes in its life.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
}

/// Changes to a backend; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSet {
    /// Name of the vip.
    pub vip: String,
    /// Name of the backend.
    pub name: String,
    /// New weight, 0 to 65,535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// New intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// Do it even if it ends traffic: needed for the last enabled backend of a pool.
    #[serde(default)]
    pub allow_disruption: bool,
}

/// Removal of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendRemove {
    /// Name of the vip.
    pub vip: String,
    /// Name of the backend.
    pub name: String,
    /// Do it even if it ends traffic: needed for the last enabled backend of a pool.
    #[serde(default)]
    pub allow_disruption: bool,
}

/// Opens a breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerTrip {
    /// Name of the vip.
    pub vip: String,
    /// Name of the backend.
    pub name: String,
    /// Do it even if it ends traffic: needed for the last enabled backend of a pool.
    #[serde(default)]
    pub allow_disruption: bool,
}

/// Closes a breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerReset {
    /// Name of the vip.
    pub vip: String,
    /// Name of the backend.
    pub name: String,
}

/// The emergency bypass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BypassSet {
    /// Whether every packet passes untouched.
    pub on: bool,
}

/// A document to bring about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// What shall be.
    pub document: Document,
    /// Whether tenants, vips and backends that the document does not name are removed. Otherwise they stay.
    #[serde(default)]
    pub prune: bool,
    /// Whether what has a name of the document and can never become what that says (it has another address, another mode
    /// with backends in it) makes way. Otherwise the document is rejected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Whether the emergency bypass shall be on; absent: it stays as it is. It is turned on before all else, off after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypass: Option<bool>,
    /// The backends, as `VIP/NAME`, whose breakers shall be tripped, and no others; absent: each stays as it is ordered. A
    /// document says nothing of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trips: Option<BTreeSet<String>>,
    /// Do it even if it ends traffic.
    #[serde(default)]
    pub allow_disruption: bool,
}

/// A desired state: `[[tenant]]`, `[[vip]]` and, within, `[[vip.backend]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Tenants.
    #[serde(default, rename = "tenant", skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantSpec>,
    /// Vips with their backends.
    #[serde(default, rename = "vip", skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<VipSpec>,
}

fn default_tenant() -> String {
    DEFAULT_TENANT.to_string()
}

fn default_weight() -> u32 {
    DEFAULT_WEIGHT
}

impl BackendAdd {
    /// The backend without the vip's name.
    pub fn spec(&self) -> BackendSpec {
        BackendSpec {
            name: self.name.clone(),
            address: self.address,
            port: self.port,
            weight: self.weight,
            intent: self.intent,
            backup: self.backup,
        }
    }
}

impl Command {
    /// Digest (xxh64) of its canonical form, compact JSON; 16 hexadecimal digits. Two commands of one digest are the same
    /// wish, however they were written down. It guards an actor against a mistake of his own, not against an attacker.
    pub fn digest(&self) -> String {
        let canonical = serde_json::to_vec(self).expect("string keys only, and written to memory");
        format!("{:016x}", xxhash_rust::xxh64::xxh64(&canonical, 0))
    }

    /// Its kind, as in JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TenantAdd(_) => "tenant_add",
            Self::TenantSet(_) => "tenant_set",
            Self::TenantRemove(_) => "tenant_remove",
            Self::VipAdd(_) => "vip_add",
            Self::VipSet(_) => "vip_set",
            Self::VipRemove(_) => "vip_remove",
            Self::BackendAdd(_) => "backend_add",
            Self::BackendSet(_) => "backend_set",
            Self::BackendRemove(_) => "backend_remove",
            Self::BreakerTrip(_) => "breaker_trip",
            Self::BreakerReset(_) => "breaker_reset",
            Self::BypassSet(_) => "bypass_set",
            Self::Apply(_) => "apply",
        }
    }
}
