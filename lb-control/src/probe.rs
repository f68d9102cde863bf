//! How a backend is probed: settings only; what follows from the answers is in [`crate::health`].
//!
//! The defaults take a killed backend (its kernel answers RST) out within 700 ms: at most 500 ms until the next
//! probe, then two more 100 ms apart, since a probe that leaves a doubt is repeated sooner
//! ([`Probe::doubt_interval_ms`]). One that is silent is out within 500 + 3 x 500 + 2 x 100 = 2,200 ms.

use serde::{Deserialize, Serialize};

/// Default time between two probes, milliseconds.
pub const INTERVAL_MS: u32 = 500;
/// Default time after which a probe counts as failed, milliseconds.
pub const TIMEOUT_MS: u32 = 500;
/// Default number of successes in a row that bring a backend that is down up again.
pub const RISE: u8 = 2;
/// Default number of failures in a row that take a backend out. Three, so that single lost packets do not: at 1 %
/// loss three in a row are one in a million.
pub const FALL: u8 = 3;

/// What kind of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// No probe: the backend counts as usable. The default of UDP vips and of vips on all ports.
    None,
    /// A TCP connection is opened and closed. The default of TCP vips.
    Tcp,
}

/// How the backends of a vip are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What kind of probe.
    pub kind: ProbeKind,
    /// Time between two probes, milliseconds.
    pub interval_ms: u32,
    /// Time after which a probe counts as failed, milliseconds.
    pub timeout_ms: u32,
    /// Successes in a row that bring a backend that is down up again.
    pub rise: u8,
    /// Failures in a row that take a backend out.
    pub fall: u8,
    /// Port to probe; none: the backend's port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
}

impl Probe {
    /// The defaults of a kind.
    pub const fn of_kind(kind: ProbeKind) -> Self {
        Self { kind, interval_ms: INTERVAL_MS, timeout_ms: TIMEOUT_MS, rise: RISE, fall: FALL, port: None }
    }
    /// Time between two probes while one more answer may change a backend's health, milliseconds: a fifth of the
    /// interval, and at least 10.
    pub const fn doubt_interval_ms(&self) -> u32 {
        let fifth = self.interval_ms / 5;
        if fifth < 10 { 10 } else { fifth }
    }
}

/// A wish about the probe: what is absent keeps its value, or its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeWish {
    /// As [`Probe::kind`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<ProbeKind>,
    /// As [`Probe::interval_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
    /// As [`Probe::timeout_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// As [`Probe::rise`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u8>,
    /// As [`Probe::fall`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<u8>,
    /// As [`Probe::port`]; 0 = the backend's port again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ProbeWish {
    /// The probe that results from this wish over `base`.
    pub fn over(&self, base: Probe) -> Probe {
        Probe {
            kind: self.kind.unwrap_or(base.kind),
            interval_ms: self.interval_ms.unwrap_or(base.interval_ms),
            timeout_ms: self.timeout_ms.unwrap_or(base.timeout_ms),
            rise: self.rise.unwrap_or(base.rise),
            fall: self.fall.unwrap_or(base.fall),
            port: self.port.map_or(base.port, |port| (port != 0).then_some(port)),
        }
    }
}
