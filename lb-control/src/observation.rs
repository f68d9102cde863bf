//! What a node saw, as opposed to what people asked for: health, breakers and the ladder.
//!
//! Observations never enter the log of intent: what flaps may neither fill it nor move its revision. A node keeps them
//! in a bounded journal of its own, from which some may be missing ([`Change::Suppressed`] says how many). They take
//! effect before they are written.

use std::fmt;
use std::net::SocketAddr;

use lb_common::ids::{BackendId, VipId};
use serde::{Deserialize, Serialize};

use crate::breaker::{BreakerState, TurnCause};
use crate::degradation::Rung;
use crate::health::{Health, Outcome};

/// Version of the observations that this build writes.
pub const OBSERVATION_VERSION: u16 = 1;

/// One observation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Version of its form, [`OBSERVATION_VERSION`] when written.
    pub v: u16,
    /// When, milliseconds since the Unix epoch. A label: `seq` orders observations, not times.
    pub at_ms: u64,
    /// Its place in the node's journal, ascending; the journal gives it.
    #[serde(default)]
    pub seq: u64,
    /// Of what.
    pub object: Object,
    /// What changed.
    pub change: Change,
    /// What led to it.
    pub cause: Cause,
    /// What it was seen by, for a person: `10.0.0.1:80 refused, after 3 probes`; empty if there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
}

/// What was observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "snake_case")]
pub enum Object {
    /// The node itself.
    Node,
    /// A vip.
    Vip {
        /// Serial number.
        id: VipId,
        /// Name.
        vip: String,
    },
    /// The backends of a vip together.
    Pool {
        /// Name of the vip then.
        vip: String,
    },
    /// A backend.
    Backend {
        /// Serial number.
        id: BackendId,
        /// Name of its vip then.
        vip: String,
        /// Name.
        backend: String,
        /// Where it was probed.
        address: SocketAddr,
    },
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// A backend's health.
    HealthChanged {
        /// What it was.
        from: Health,
        /// What it is.
        to: Health,
    },
    /// A backend's breaker.
    BreakerChanged {
        /// What it was.
        from: BreakerState,
        /// What it is.
        to: BreakerState,
    },
    /// Where a vip stands on its ladder.
    LadderChanged {
        /// The rung that it stood on.
        from: Rung,
        /// The rung that it stands on.
        to: Rung,
    },
    /// Observations that were made and not kept: there were too many.
    Suppressed {
        /// How many.
        count: u64,
    },
}

/// What led to an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// An active probe ended so.
    Probe {
        /// How.
        outcome: Outcome,
    },
    /// A breaker turned.
    Breaker {
        /// Why.
        turn: TurnCause,
    },
    /// Who of a pool can serve.
    Pool,
    /// More was observed in a time than is kept.
    Rate,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("the node"),
            Self::Vip { vip, .. } | Self::Pool { vip } => f.write_str(vip),
            Self::Backend { vip, backend, .. } => write!(f, "{vip}/{backend}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LadderChanged { from, to } => write!(f, "{from} -> {to}"),
            Self::BreakerChanged { from, to } => write!(f, "{from} -> {to}"),
            Self::HealthChanged { from, to } => write!(f, "{from} -> {to}"),
            Self::Suppressed { count } => write!(f, "{count} observations were not kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_version_1_wrote_is_read() {
        let stored = r#"{"v":1,"at_ms":1700000000000,"seq":7,
            "object":{"object":"backend","id":3,"vip":"web","backend":"b1","address":"10.0.0.1:80"},
            "change":{"kind":"health_changed","from":"up","to":"down"},
            "cause":{"cause":"probe","outcome":"refused"},"evidence":"3 in a row"}"#;
        let read: Observation = serde_json::from_str(stored).unwrap();
        assert_eq!(read.change, Change::HealthChanged { from: Health::Up, to: Health::Down });
        assert_eq!(read.change.to_string(), "up -> down");
        assert_eq!(read.object.to_string(), "web/b1");
        let again: Observation = serde_json::from_slice(&serde_json::to_vec(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }
}
