//! What a person can ask for: the algorithm and its times. What each needs of the vip, and the table that it rests on.

use super::Builder;
use lb_common::abi::vip::{Pick, Timeouts};
use lb_common::limits::{CLOSING_TIMEOUT_S, SYN_TIMEOUT_S};
use serde::{Deserialize, Serialize};

/// How long a source address keeps its backend unless the vip says otherwise, seconds.
const AFFINITY_S: u16 = 600;

/// How new flows are spread over backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// By a hash of the 5-tuple, over the table that moves least. The default of new vips.
    Matching,
    /// By a hash of the 5-tuple, over a Maglev table: shares exact to a slot, more slots that move.
    Maglev,
    /// By a hash of the client's address.
    SourceHash,
    /// The same, and a client keeps its backend for a time when the pool changes.
    SourceAffinity,
    /// One backend after the other, whatever they weigh.
    RoundRobin,
    /// One backend after the other, each as often as its weight asks, as evenly spread as can be.
    WeightedRoundRobin,
    /// Of two backends drawn by weight, the one with fewer connections for its weight.
    LeastConnections,
}

impl Algorithm {
    /// Every algorithm, in the order of the manual.
    pub const ALL: [Self; 7] = [
        Self::Matching,
        Self::Maglev,
        Self::SourceHash,
        Self::SourceAffinity,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
    ];

    /// Its name, as in files and commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matching => "matching",
            Self::Maglev => "maglev",
            Self::SourceHash => "source_hash",
            Self::SourceAffinity => "source_affinity",
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastConnections => "least_connections",
        }
    }
    /// What packets do.
    pub const fn pick(self) -> Pick {
        match self {
            Self::Matching | Self::Maglev => Pick::Flow,
            Self::SourceHash => Pick::Source,
            Self::SourceAffinity => Pick::Affinity,
            Self::RoundRobin | Self::WeightedRoundRobin => Pick::Turn,
            Self::LeastConnections => Pick::Least,
        }
    }
    /// Whether a flow's backend is not its slot's: every flow must be remembered.
    pub const fn picks(self) -> bool {
        matches!(self.pick(), Pick::Affinity | Pick::Turn | Pick::Least)
    }
    /// Whether a flow's slot is that of its source address alone.
    pub const fn by_source(self) -> bool {
        matches!(self.pick(), Pick::Source | Pick::Affinity)
    }
    /// Whether packets need to know what each backend weighs.
    pub const fn weighs(self) -> bool {
        matches!(self.pick(), Pick::Least)
    }
    /// The table that it rests on.
    pub const fn builder(self) -> Builder {
        match self {
            Self::Maglev => Builder::Maglev,
            Self::RoundRobin | Self::WeightedRoundRobin => Builder::Turns,
            _ => Builder::Matching,
        }
    }
    /// What a backend of this weight, not 0, weighs to the table.
    pub const fn weight(self, weight: u16) -> u16 {
        match self {
            Self::RoundRobin => 1,
            _ => weight,
        }
    }
}

/// How a vip balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balancing {
    /// How new flows are spread over backends.
    pub algorithm: Algorithm,
    /// How long a source address keeps its backend after its last packet ([`Algorithm::SourceAffinity`]), seconds.
    pub affinity_s: u16,
    /// How long a remembered SYN that nothing followed is kept, seconds.
    pub syn_s: u8,
    /// How long a remembered flow whose client closed is kept after its last packet, seconds.
    pub closing_s: u8,
}

impl Default for Balancing {
    /// What a log from before there was a choice means.
    fn default() -> Self {
        Self { algorithm: Algorithm::Maglev, ..Self::new() }
    }
}

impl Balancing {
    /// The defaults of a new vip.
    pub const fn new() -> Self {
        Self {
            algorithm: Algorithm::Matching,
            affinity_s: AFFINITY_S,
            syn_s: SYN_TIMEOUT_S as u8,
            closing_s: CLOSING_TIMEOUT_S as u8,
        }
    }
    /// Whether it is what a log means that says nothing about it.
    pub fn is_of_old(&self) -> bool {
        *self == Self::default()
    }
    /// As packets are told.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            syn_s: self.syn_s,
            closing_s: self.closing_s,
            affinity_s: if self.algorithm.pick() == Pick::Affinity { self.affinity_s } else { 0 },
        }
    }
}

/// A wish about it: what is absent keeps its value, or its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalancingWish {
    /// As [`Balancing::algorithm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// As [`Balancing::affinity_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_s: Option<u32>,
    /// As [`Balancing::syn_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_s: Option<u32>,
    /// As [`Balancing::closing_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closing_s: Option<u32>,
}

impl BalancingWish {
    /// What must be wished to get from `from` to `to`.
    pub fn between(from: &Balancing, to: &Balancing) -> Self {
        let differs = |to: u32, from: u32| (to != from).then_some(to);
        Self {
            algorithm: (to.algorithm != from.algorithm).then_some(to.algorithm),
            affinity_s: differs(to.affinity_s.into(), from.affinity_s.into()),
            syn_s: differs(to.syn_s.into(), from.syn_s.into()),
            closing_s: differs(to.closing_s.into(), from.closing_s.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_log_and_of_files() {
        for algorithm in Algorithm::ALL {
            assert_eq!(serde_json::to_value(algorithm).unwrap(), algorithm.name());
        }
    }

    #[test]
    fn packets_are_told_of_affinity_only_where_it_is_asked_for() {
        let told = |balancing: Balancing| balancing.timeouts();
        assert_eq!(told(Balancing::new()), Timeouts::default());
        let all = Balancing { algorithm: Algorithm::SourceAffinity, affinity_s: 7, syn_s: 3, closing_s: 4 };
        assert_eq!(told(all), Timeouts { syn_s: 3, closing_s: 4, affinity_s: 7 });
    }
}
