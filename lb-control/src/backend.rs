//! A backend: one address and port in the pool of one vip, and what people intend with it. What is observed of it
//! (health) is never in here.

use lb_common::ids::BackendId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// What people intend with a backend. Whether it is healthy is another matter, and another type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Takes new flows.
    #[default]
    Enabled,
    /// Takes no new flows; keeps those that it has.
    Draining,
    /// Takes nothing; its flows are ended.
    Disabled,
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        })
    }
}

/// What a person last ordered of a backend's breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerOrder {
    /// Open until it is reset.
    pub tripped: bool,
    /// Revision of the event that tripped or reset it last; 0: none did.
    pub revision: u64,
}

impl BreakerOrder {
    /// Whether nobody ever ordered anything.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A backend as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Serial number.
    pub id: BackendId,
    /// Its address, never a v4-mapped one.
    pub address: IpAddr,
    /// Its port; the vip's own except in mode nat; 0 where the vip serves all ports and so does it.
    pub port: u16,
    /// Its share of new flows, relative to the others of the pool; 0 = none.
    pub weight: u16,
    /// What people intend with it.
    pub intent: Intent,
    /// What a person last ordered of its breaker.
    #[serde(default, skip_serializing_if = "BreakerOrder::is_none")]
    pub breaker: BreakerOrder,
    /// Revision of the last event that changed it.
    pub revision: u64,
    /// When that was, milliseconds since the Unix epoch.
    pub changed_ms: u64,
}

impl Backend {
    /// The weight that counts: 0 unless it is enabled, and 0 while a person keeps its breaker open.
    pub fn effective_weight(&self) -> u16 {
        if self.intent == Intent::Enabled && !self.breaker.tripped { self.weight } else { 0 }
    }
}
