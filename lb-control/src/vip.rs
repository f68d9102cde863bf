//! A vip: address, port and protocol that are served, and how. Its pool is the backends in it.

use crate::backend::Backend;
use crate::balancing::Balancing;
use crate::breaker::BreakerSettings;
use crate::degradation::LadderSettings;
use crate::probe::{Probe, ProbeKind};
pub use lb_common::abi::backend::Mode;
pub use lb_common::abi::vip::Tracking;
use lb_common::ids::VipId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Transport protocol of a vip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What a vip serves: what no other vip may serve at the same time. Never changes in a vip's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Served {
    /// Address, never a v4-mapped one.
    pub address: IpAddr,
    /// Port; 0 = every port that no other vip serves.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}:{}/{}", self.port, self.protocol),
            IpAddr::V6(v6) => write!(f, "[{v6}]:{}/{}", self.port, self.protocol),
        }
    }
}

/// How a vip is served: what may change while it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipSettings {
    /// How packets reach its backends. Changes only while it has none.
    pub mode: Mode,
    /// Which flows are remembered; always [`Tracking::Always`] in mode nat.
    pub tracking: Tracking,
    /// UDP: a flow never seen goes to the slot's new backend at once, not to the former one.
    pub udp_stateless: bool,
    /// How long a slot that changed still sends older flows to its former backend, seconds. A connection that is
    /// idle for longer than this may break when its slot moves.
    pub window_s: u32,
    /// After how long without a packet a remembered flow may be forgotten, seconds.
    pub idle_s: u16,
    /// Slots of its table, a prime. Changes only while it has no backends.
    pub table_size: u32,
    /// How its backends are probed.
    pub probe: Probe,
    /// When a breaker keeps a backend out, and how it comes back.
    #[serde(default = "BreakerSettings::off", skip_serializing_if = "BreakerSettings::is_as_of_old")]
    pub breaker: BreakerSettings,
    /// How new flows are spread over its backends.
    #[serde(default, skip_serializing_if = "Balancing::is_of_old")]
    pub balancing: Balancing,
    /// What is done when nobody of its pool and backups can serve.
    #[serde(default = "LadderSettings::of_old", skip_serializing_if = "LadderSettings::is_of_old")]
    pub ladder: LadderSettings,
}

impl VipSettings {
    /// The defaults: mode nat, since it works with any backend; a window of 900 s for TCP and 30 s for UDP; an idle
    /// time of 900 s and 60 s; 65,537 slots, matched; a TCP probe for TCP vips on one port.
    pub fn defaults(protocol: Protocol, port: u16, mode: Mode) -> Self {
        let (window_s, idle_s) = match protocol {
            Protocol::Tcp => (900, 900),
            Protocol::Udp => (30, 60),
        };
        let probed = protocol == Protocol::Tcp && port != 0;
        Self {
            mode,
            tracking: if mode == Mode::Nat { Tracking::Always } else { Tracking::Auto },
            udp_stateless: false,
            window_s,
            idle_s,
            table_size: lb_common::limits::SLOTS_PER_VIP,
            probe: Probe::of_kind(if probed { ProbeKind::Tcp } else { ProbeKind::None }),
            breaker: BreakerSettings::DEFAULT,
            balancing: Balancing::new(),
            ladder: LadderSettings::DEFAULT,
        }
    }
}

/// A vip as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// Serial number.
    pub id: VipId,
    /// Name of its tenant.
    pub tenant: String,
    /// What it serves.
    #[serde(flatten)]
    pub served: Served,
    /// How.
    #[serde(flatten)]
    pub settings: VipSettings,
    /// Its pool, by name.
    pub backends: BTreeMap<String, Backend>,
    /// Revision of the last event that changed the vip or one of its backends.
    pub revision: u64,
    /// When that was, milliseconds since the Unix epoch.
    pub changed_ms: u64,
}
