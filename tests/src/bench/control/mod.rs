//! `bench control`: the control plane. What a durable command costs beside a bare write of the same bytes, how many
//! commands share one sync, how fast the log is read, what queries cost commands, and how soon the maps have a change.
//!
//! Each part in a file of its own: [`store`] works on the log alone, [`node`] on a real daemon over its socket,
//! [`change`] on a node within this process, since only there the moment of the acknowledgement can be seen, and
//! [`probes`] on the probes alone.

mod change;
mod node;
mod probes;
mod slow_disk;
mod store;

use anyhow::Result;
use serde::Serialize;

use super::Effort;

/// Everything that was measured, for who reads the file; what was not asked for is `None`.
#[derive(Debug, Default, Serialize)]
pub struct ControlReport {
    /// The log alone.
    pub store: Option<store::StoreReport>,
    /// The daemon over its socket.
    pub node: Option<node::NodeReport>,
    /// From the acknowledgement to the maps.
    pub change: Option<change::ChangeReport>,
    /// What probing costs.
    pub probes: Option<probes::ProbeReport>,
}

/// A part that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The log alone: appends, replay, a start from a snapshot.
    Store,
    /// The daemon over its socket: commands, queries, memory.
    Node,
    /// From the acknowledgement of a change to the maps.
    Change,
    /// What probing costs.
    Probes,
}

impl ControlReport {
    /// Measures these parts; none named: all.
    ///
    /// # Errors
    /// When a log, a network or a daemon cannot be made.
    pub fn measure(effort: Effort, only: &[Part]) -> Result<Self> {
        let wanted = |part| only.is_empty() || only.contains(&part);
        Ok(Self {
            store: wanted(Part::Store).then(|| store::run(effort)).transpose()?,
            node: wanted(Part::Node).then(|| node::run(effort)).transpose()?,
            change: wanted(Part::Change).then(|| change::run(effort)).transpose()?,
            probes: wanted(Part::Probes).then(|| probes::run(effort)).transpose()?,
        })
    }

    /// The keys of the last line.
    pub fn keys(&self) -> Vec<(&'static str, Option<f64>)> {
        let Self { store, node, change, probes } = self;
        let store = store.iter().flat_map(|store| {
            [
                ("append_ratio", store.append_ratio),
                ("replay_eps", store.replay_eps),
                ("replay_chain_eps", store.replay_chain_eps),
                ("snapshot_start_ratio", store.snapshot_start_ratio),
            ]
        });
        let node = node.iter().flat_map(|node| {
            [
                ("group_commit_ratio_as_is", node.group_commit_as_is.ratio),
                ("query_interference", node.query_interference),
                ("inventory_ratio", node.inventory_ratio),
                ("state_mib", node.state_mib),
            ]
        });
        let slow = self.node.iter().filter_map(|node| node.group_commit.as_ref());
        let slow = slow.map(|slow| ("group_commit_ratio", slow.ratio));
        let change = change.iter().map(|change| ("change_to_kernel_ms", change.change_to_kernel_ms));
        let probes = probes.iter().map(|probes| ("probe_cpu_share", probes.probe_cpu_share));
        let all = store.chain(node).chain(slow).chain(change).chain(probes);
        all.map(|(key, value)| (key, Some(value))).collect()
    }
}

/// The value that a share of all is at or below.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let index = (values.len() as f64 * share).ceil() as usize;
    values.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_values_that_were_there() {
        let mut values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&mut values, 0.5), 2.0);
        assert_eq!(quantile(&mut values, 0.99), 4.0);
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
