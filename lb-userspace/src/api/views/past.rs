//! The answers about what people decided, now and before: pure intent, told by the log alone. Times are RFC 3339, UTC.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_control::backend::Intent;
use lb_control::event::Event;
use lb_control::tenant::TenantLimits;
use lb_control::vip::VipSettings;
use serde::{Deserialize, Serialize};

/// What there is, or was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InventoryView {
    /// [`crate::api::SCHEMA`].
    pub schema: String,
    /// Revision of what it shows.
    pub revision: u64,
    /// When that was all that was durable, or the time that was asked for.
    pub as_of: String,
    /// How long what it lacks has been durable, milliseconds; 0: it lacks nothing.
    pub lag_ms: u64,
    /// When the last record in it was decided; `null` before the first.
    pub changed_at: Option<String>,
    /// Whether the emergency bypass is on.
    pub bypass: bool,
    /// Names of the tenants.
    pub tenants: Vec<String>,
    /// What tenants may take of the node, by name; one without limits is absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, TenantLimits>,
    /// Vips, by name.
    pub vips: Vec<VipIntentView>,
}

/// A vip as people want it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipIntentView {
    /// Its name.
    pub name: String,
    /// Its tenant.
    pub tenant: String,
    /// What it serves, `ADDRESS:PORT/PROTOCOL`.
    pub serves: String,
    /// Its settings.
    pub settings: VipSettings,
    /// Its pool, by name.
    pub backends: Vec<BackendIntentView>,
    /// Revision of its last change.
    pub revision: u64,
    /// When that was.
    pub changed_at: String,
}

/// A backend as people want it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendIntentView {
    /// Its name, unique in its vip.
    pub name: String,
    /// The vip's name.
    pub vip: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its weight.
    pub weight: u16,
    /// What people intend.
    pub intent: Intent,
    /// Whether it serves only when nobody of the pool does.
    #[serde(default)]
    pub backup: bool,
    /// Whether a person tripped its breaker.
    #[serde(default)]
    pub tripped: bool,
    /// Revision of its last change.
    pub revision: u64,
    /// When that was.
    pub changed_at: String,
}

/// Records of the log, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryView {
    /// [`crate::api::SCHEMA`].
    pub schema: String,
    /// Revision of the log that was looked through.
    pub revision: u64,
    /// When that was all that was durable.
    pub as_of: String,
    /// How long what it lacks has been durable, milliseconds; 0: it lacks nothing.
    pub lag_ms: u64,
    /// Ask with `before` of this for those before them; `null`: there are none.
    pub before: Option<u64>,
    /// The records.
    pub items: Vec<EntryView>,
    /// What the node observed in the same time, oldest first; some may be missing.
    #[serde(default)]
    pub observations: Vec<ObservationView>,
}

/// Something that the node observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservationView {
    /// Its number in the node's journal of observations.
    pub seq: u64,
    /// When.
    pub at: String,
    /// `backend VIP/NAME` or `node`.
    pub object: String,
    /// What changed, in words.
    pub text: String,
    /// What it was seen by; empty if there is nothing to say.
    pub evidence: String,
}

/// What is observed of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// The vip's name.
    pub vip: String,
    /// Its name.
    pub backend: String,
    /// Its health, as the node knows it now.
    pub health: lb_control::health::Health,
    /// Since when; none: it was adopted from the maps, and no observation of it is kept.
    pub since: Option<String>,
    /// Changes that are known of.
    pub changes: u64,
    /// What it was seen by; empty if that is not kept.
    pub evidence: String,
}

/// A record and what it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// Who, when and why.
    #[serde(flatten)]
    pub act: ActView,
    /// What changed; empty: it was so already.
    pub lines: Vec<LineView>,
    /// With `why`: what led to it, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<CauseView>,
}

/// Who, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActView {
    /// Revision after it.
    pub revision: u64,
    /// When it was decided.
    pub at: String,
    /// Who asked.
    pub actor: String,
    /// What was asked, as the `kind` of a command.
    pub command: String,
    /// The command's id.
    pub command_id: String,
    /// Id of the command that its chain began with.
    pub correlation_id: String,
    /// Id of what led to it; `null`: a person.
    pub causation_id: Option<String>,
    /// Why, in the words of whoever asked.
    pub reason: Option<String>,
}

/// One step of a chain of causes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseView {
    /// Its id.
    pub id: String,
    /// The command, if the log holds it.
    pub command: Option<ActView>,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineView {
    /// `made`, `changed`, `replaced` or `removed`.
    pub change: String,
    /// `tenant NAME`, `vip NAME`, `backend VIP/NAME` or `bypass`.
    pub object: String,
    /// The fields that differ; all that it has of an object that was made or removed.
    pub fields: Vec<FieldView>,
    /// The same in words.
    pub text: String,
}

/// A field before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldView {
    /// Its name.
    pub name: String,
    /// Before; `null`: there was none.
    pub from: Option<String>,
    /// After; `null`: there is none.
    pub to: Option<String>,
}

/// What lies between two points in the past.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiffView {
    /// [`crate::api::SCHEMA`].
    pub schema: String,
    /// Revision of the second point.
    pub revision: u64,
    /// When the view was all that was durable.
    pub as_of: String,
    /// How long what it lacks has been durable, milliseconds; 0: it lacks nothing.
    pub lag_ms: u64,
    /// The first point.
    pub from: PointView,
    /// The second.
    pub to: PointView,
    /// What differs.
    pub items: Vec<LineView>,
}

/// A point in the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointView {
    /// The revision.
    pub revision: u64,
    /// When its last record was decided; `null` before the first.
    pub at: Option<String>,
}

/// The last change of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlameView {
    /// The field; `made` is the object itself.
    pub field: String,
    /// What it is; `null`: it was unset, and is as it is by default.
    pub value: Option<String>,
    /// What it was; `null`: it was not set, or the object was new.
    pub was: Option<String>,
    /// Revision of the change.
    pub revision: u64,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// What was asked.
    pub command: String,
    /// The command's id.
    pub command_id: String,
    /// Why.
    pub reason: Option<String>,
}

/// What an actor did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorView {
    /// The name.
    pub actor: String,
    /// Accepted commands.
    pub commands: u64,
    /// Events that followed from them.
    pub events: u64,
    /// When the last was decided.
    pub last_at: String,
    /// Revision after the last.
    pub last_revision: u64,
}

/// A rebuilt projection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuiltView {
    /// Its name.
    pub name: String,
    /// Records that it was built from.
    pub records: u64,
    /// How long it took, milliseconds; the old one answered meanwhile.
    pub took_ms: u64,
    /// The revision that it has come to.
    pub revision: u64,
    /// Whether it is what the old one was.
    pub same: bool,
}

/// A record as `/v1/events` sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordView {
    /// Who, when and why.
    #[serde(flatten)]
    pub act: ActView,
    /// What happened, in the form of the journal.
    pub events: Vec<Event>,
}
