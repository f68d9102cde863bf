//! What happened: the log's content. Past tense, versioned, each complete in itself and none a whole state.
//!
//! Time is the event's own; [`crate::state::State::apply`] reads no clock.

use crate::backend::Intent;
use crate::tenant::TenantLimits;
use crate::vip::{Served, VipSettings};
use lb_common::ids::{BackendId, TenantId, VipId};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Version of the events that this build writes.
pub const EVENT_VERSION: u16 = 4;

/// One event: `{"v": 4, "at_ms": …, "change": {"kind": "vip_added", "of": {…}}}`. The kind stands before what depends on
/// it, so that a reader of a long log never has to keep fields aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Version of its form, [`EVENT_VERSION`] when written.
    pub v: u16,
    /// When it was decided, milliseconds since the Unix epoch. A label: revisions order events, not times.
    pub at_ms: u64,
    /// What happened.
    pub change: Change,
}

/// What happened. Names stand beside serials so that a person can read the log. What is large and seldom is boxed: a long
/// log is read by moving these about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "of", rename_all = "snake_case")]
pub enum Change {
    /// A tenant was made.
    TenantAdded {
        /// Serial number.
        id: TenantId,
        /// Name.
        tenant: String,
    },
    /// A tenant was removed.
    TenantRemoved {
        /// Name.
        tenant: String,
    },
    /// A tenant's limits were replaced.
    TenantLimitsChanged {
        /// Name.
        tenant: String,
        /// The limits, all of them.
        limits: Box<TenantLimits>,
    },
    /// A vip was made, without backends.
    VipAdded {
        /// Serial number.
        id: VipId,
        /// Name.
        vip: String,
        /// Name of its tenant.
        tenant: String,
        /// What it serves.
        served: Served,
        /// How.
        settings: Box<VipSettings>,
    },
    /// A vip's settings were replaced.
    VipSettingsChanged {
        /// Name.
        vip: String,
        /// The settings, all of them.
        settings: Box<VipSettings>,
    },
    /// A vip was removed, with its backends.
    VipRemoved {
        /// Name.
        vip: String,
    },
    /// A backend was added to a vip.
    BackendAdded {
        /// Serial number.
        id: BackendId,
        /// Name of the vip.
        vip: String,
        /// Name.
        backend: String,
        /// Address.
        address: IpAddr,
        /// Port.
        port: u16,
        /// Weight.
        weight: u16,
        /// Intent.
        intent: Intent,
        /// Whether it serves only when nobody of the pool does.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        backup: bool,
    },
    /// A backend got another weight.
    BackendWeightChanged {
        /// Name of the vip.
        vip: String,
        /// Name.
        backend: String,
        /// The new weight.
        weight: u16,
    },
    /// A backend got another intent.
    BackendIntentChanged {
        /// Name of the vip.
        vip: String,
        /// Name.
        backend: String,
        /// The new intent.
        intent: Intent,
    },
    /// A person opened a backend's breaker, until it is reset.
    BreakerTripped {
        /// Name of the vip.
        vip: String,
        /// Name.
        backend: String,
    },
    /// A person closed a backend's breaker, whatever had opened it.
    BreakerReset {
        /// Name of the vip.
        vip: String,
        /// Name.
        backend: String,
    },
    /// A backend was removed.
    BackendRemoved {
        /// Name of the vip.
        vip: String,
        /// Name.
        backend: String,
    },
    /// The emergency bypass was turned on or off.
    BypassChanged {
        /// Whether every packet passes untouched.
        on: bool,
    },
    /// A command was accepted that asked for what was so already.
    CommandAccepted {
        /// Kind of the command, as [`crate::command::Command::kind`].
        command: String,
    },
}

impl Change {
    /// Name of the vip that it is about, or whose pool it is about.
    pub fn vip(&self) -> Option<&str> {
        match self {
            Self::VipAdded { vip, .. }
            | Self::VipSettingsChanged { vip, .. }
            | Self::VipRemoved { vip }
            | Self::BackendAdded { vip, .. }
            | Self::BackendWeightChanged { vip, .. }
            | Self::BackendIntentChanged { vip, .. }
            | Self::BreakerTripped { vip, .. }
            | Self::BreakerReset { vip, .. }
            | Self::BackendRemoved { vip, .. } => Some(vip),
            Self::TenantAdded { .. }
            | Self::TenantRemoved { .. }
            | Self::TenantLimitsChanged { .. }
            | Self::BypassChanged { .. }
            | Self::CommandAccepted { .. } => None,
        }
    }
}
