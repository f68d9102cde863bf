//! `bench control`: the control plane. What a durable command costs beside a bare write of the same bytes, how many
//! commands share one sync, how fast the log is read, what queries cost commands, and how soon the maps have a change.
//!
//! Each part in a file of its own: [`store`] works on the log alone, [`node`] on a real daemon over its socket,
//! [`change`] on a node within this process, since only there the moment of the acknowledgement can be seen, and
//! [`probes`] on the probes alone.

mod change;
mod node;
mod probes;
mod store;

use anyhow::Result;
use serde::Serialize;

use super::Effort;

/// Everything that was measured, for who reads the file.
#[derive(Debug, Default, Serialize)]
pub struct ControlReport {
    /// The log alone.
    pub store: store::StoreReport,
    /// The daemon over its socket.
    pub node: node::NodeReport,
    /// From the acknowledgement to the maps.
    pub change: change::ChangeReport,
    /// What probing costs.
    pub probes: probes::ProbeReport,
}

impl ControlReport {
    /// Measures all of it.
    ///
    /// # Errors
    /// When a log, a network or a daemon cannot be made.
    pub fn measure(effort: Effort) -> Result<Self> {
        Ok(Self {
            store: store::run(effort)?,
            node: node::run(effort)?,
            change: change::run(effort)?,
            probes: probes::run(effort)?,
        })
    }

    /// Measures what probing costs, and nothing else.
    ///
    /// # Errors
    /// When backends on loopback cannot be probed.
    pub fn of_probes(effort: Effort) -> Result<Self> {
        Ok(Self { probes: probes::run(effort)?, ..Self::default() })
    }

    /// The keys of the last line.
    pub fn keys(&self) -> Vec<(&'static str, Option<f64>)> {
        let Self { store, node, change, probes } = self;
        vec![
            ("append_ratio", Some(store.append_ratio)),
            ("group_commit_ratio", Some(node.group_commit_ratio)),
            ("replay_eps", Some(store.replay_eps)),
            ("replay_chain_eps", Some(store.replay_chain_eps)),
            ("snapshot_start_ratio", Some(store.snapshot_start_ratio)),
            ("query_interference", Some(node.query_interference)),
            ("inventory_ratio", Some(node.inventory_ratio)),
            ("change_to_kernel_ms", Some(change.change_to_kernel_ms)),
            ("state_mib", Some(node.state_mib)),
            ("probe_cpu_share", Some(probes.probe_cpu_share)),
        ]
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
