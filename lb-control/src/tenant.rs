//! What a tenant may take of the node, as people say it: limits, their ranges and what they come to in the data plane.
//!
//! Not here: who enforces them. Rates and caps of traffic are the data plane's (`lb_common::datapath::bulkhead`), quotas
//! [`crate::decide`]'s, the rate of commands the daemon's.

use lb_common::limits::TENANT_RATE_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A limit of a tenant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Packets a second to its vips.
    PacketsPerS,
    /// Bits a second to its vips, of frames as they arrive.
    BitsPerS,
    /// New connections a second: TCP SYNs, and UDP flows that are remembered.
    NewConnectionsPerS,
    /// How much may come at once, milliseconds of each rate.
    BurstMs,
    /// Entries of the flow table; its vips remember every flow then.
    Connections,
    /// The same as a share of the flow table, percent.
    FlowSharePercent,
    /// NAT ports, as a share of all, percent.
    NatSharePercent,
    /// Vips.
    Vips,
    /// Backends of all its vips.
    Backends,
    /// Commands a second that touch it.
    CommandsPerS,
    /// Probes of its backends at the same time.
    ProbeWorkers,
}

/// What comes at once unless a tenant says otherwise, milliseconds of its rates: a round trip over the longest paths, so
/// that a TCP sender's window is no burst.
pub const BURST_MS: u64 = 100;

impl Limit {
    /// Every limit, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::PacketsPerS,
        Self::BitsPerS,
        Self::NewConnectionsPerS,
        Self::BurstMs,
        Self::Connections,
        Self::FlowSharePercent,
        Self::NatSharePercent,
        Self::Vips,
        Self::Backends,
        Self::CommandsPerS,
        Self::ProbeWorkers,
    ];

    /// Its name, as in commands and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PacketsPerS => "packets_per_s",
            Self::BitsPerS => "bits_per_s",
            Self::NewConnectionsPerS => "new_connections_per_s",
            Self::BurstMs => "burst_ms",
            Self::Connections => "connections",
            Self::FlowSharePercent => "flow_share_percent",
            Self::NatSharePercent => "nat_share_percent",
            Self::Vips => "vips",
            Self::Backends => "backends",
            Self::CommandsPerS => "commands_per_s",
            Self::ProbeWorkers => "probe_workers",
        }
    }

    /// Its smallest and largest value.
    pub const fn range(self) -> (u64, u64) {
        match self {
            Self::PacketsPerS | Self::BitsPerS | Self::NewConnectionsPerS => (1, TENANT_RATE_MAX),
            Self::BurstMs => (1, 10_000),
            Self::Connections => (1, u32::MAX as u64),
            Self::FlowSharePercent | Self::NatSharePercent => (1, 100),
            Self::Vips | Self::Backends => (0, u32::MAX as u64),
            Self::CommandsPerS => (1, 100_000),
            Self::ProbeWorkers => (1, 1_000),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The limits of a tenant; what is absent has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<Limit, u64>", into = "BTreeMap<Limit, u64>")]
pub struct TenantLimits([Option<u64>; Limit::ALL.len()]);

impl From<BTreeMap<Limit, u64>> for TenantLimits {
    fn from(values: BTreeMap<Limit, u64>) -> Self {
        values.into_iter().fold(Self::default(), |limits, (limit, value)| limits.with(limit, Some(value)))
    }
}

impl From<TenantLimits> for BTreeMap<Limit, u64> {
    fn from(limits: TenantLimits) -> Self {
        limits.iter().collect()
    }
}

impl TenantLimits {
    /// Whether there is no limit at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
    /// One limit; `None` = there is none.
    pub const fn of(&self, limit: Limit) -> Option<u64> {
        self.0[limit as usize]
    }
    /// The same with another value of one.
    #[must_use]
    pub const fn with(mut self, limit: Limit, value: Option<u64>) -> Self {
        self.0[limit as usize] = value;
        self
    }
    /// The limits that there are, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Limit, u64)> {
        let values = self.0;
        Limit::ALL.into_iter().filter_map(move |limit| Some((limit, values[limit as usize]?)))
    }
    /// How much may come at once, milliseconds of each rate.
    pub fn burst_ms(&self) -> u64 {
        self.of(Limit::BurstMs).unwrap_or(BURST_MS)
    }
    /// Whether the data plane has something to do for it.
    pub fn meets_packets(&self) -> bool {
        const OF_PACKETS: [Limit; 6] = [
            Limit::PacketsPerS,
            Limit::BitsPerS,
            Limit::NewConnectionsPerS,
            Limit::Connections,
            Limit::FlowSharePercent,
            Limit::NatSharePercent,
        ];
        OF_PACKETS.into_iter().any(|limit| self.of(limit).is_some())
    }
    /// Whether its flows must be counted, and so remembered.
    pub fn counts_flows(&self) -> bool {
        self.of(Limit::Connections).is_some() || self.of(Limit::FlowSharePercent).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_they_are_named() {
        let limits = TenantLimits::default().with(Limit::BitsPerS, Some(8_000)).with(Limit::Vips, Some(0));
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(text, r#"{"bits_per_s":8000,"vips":0}"#);
        assert_eq!(serde_json::from_str::<TenantLimits>(&text).unwrap(), limits);
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, number);
            assert_eq!(serde_json::to_value(limit).unwrap(), limit.name());
            assert!(limit.range().0 < limit.range().1);
        }
    }

    #[test]
    fn quotas_alone_do_not_meet_packets() {
        let quotas = TenantLimits::default().with(Limit::Vips, Some(3)).with(Limit::BurstMs, Some(5));
        assert!(!quotas.meets_packets() && !quotas.counts_flows() && !quotas.is_empty());
        let share = quotas.with(Limit::FlowSharePercent, Some(3));
        assert!(share.meets_packets() && share.counts_flows());
    }
}
