//! `lb vip add|set`: the flags that say how new flows are spread, and how that is shown.

use lb_control::balancing::{Algorithm, Balancing, BalancingWish};

use super::number::whole;

/// The algorithms, as words of the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum AlgorithmWord {
    /// By a hash of the 5-tuple, over the table that moves least.
    Matching,
    /// By a hash of the 5-tuple, over a Maglev table.
    Maglev,
    /// By a hash of the client's address.
    SourceHash,
    /// The same, and a client keeps its backend for a time when the pool changes.
    SourceAffinity,
    /// One backend after the other, whatever they weigh.
    RoundRobin,
    /// One backend after the other, each as often as its weight asks.
    WeightedRoundRobin,
    /// Of two backends drawn by weight, the one with fewer connections for its weight.
    LeastConnections,
}

#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct BalancingFlags {
    /// How new flows are spread over its backends; matching unless named.
    #[arg(long)]
    algorithm: Option<AlgorithmWord>,
    /// How long a client keeps its backend after its last packet (source_affinity), seconds; 1 to 65535; 600 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = whole::<u32>("from 1 to 65535"))]
    affinity_s: Option<u32>,
    /// How long a remembered SYN that nothing followed is kept, seconds; 1 to 255; 30 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = whole::<u32>("from 1 to 255"))]
    syn_s: Option<u32>,
    /// How long a remembered flow whose client closed is kept, seconds; 1 to 255; 10 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = whole::<u32>("from 1 to 255"))]
    closing_s: Option<u32>,
}

impl BalancingFlags {
    /// What is wished, if anything is.
    pub(super) fn wish(&self) -> Option<BalancingWish> {
        let algorithm = self.algorithm.map(|word| match word {
            AlgorithmWord::Matching => Algorithm::Matching,
            AlgorithmWord::Maglev => Algorithm::Maglev,
            AlgorithmWord::SourceHash => Algorithm::SourceHash,
            AlgorithmWord::SourceAffinity => Algorithm::SourceAffinity,
            AlgorithmWord::RoundRobin => Algorithm::RoundRobin,
            AlgorithmWord::WeightedRoundRobin => Algorithm::WeightedRoundRobin,
            AlgorithmWord::LeastConnections => Algorithm::LeastConnections,
        });
        let Self { affinity_s, syn_s, closing_s, .. } = *self;
        let wish = BalancingWish { algorithm, affinity_s, syn_s, closing_s };
        (wish != BalancingWish::default()).then_some(wish)
    }
}

/// The algorithm, for people.
pub(super) fn text(balancing: &Balancing) -> String {
    match balancing.algorithm {
        Algorithm::SourceAffinity => format!("source_affinity for {} s", balancing.affinity_s),
        algorithm => algorithm.name().to_owned(),
    }
}
