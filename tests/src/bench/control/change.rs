//! From the acknowledgement of a change to the moment when the kernel's maps hold it.
//!
//! The node is one within this process, with the real data plane: over the socket the answer waits for the maps, so the
//! acknowledgement could not be told from their change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use lb_common::addr::Mac;
use lb_control::command::{Apply, Command};
use lb_control::plan::Way;
use lb_userspace::api::Node;
use lb_userspace::dataplane::Options;
use lb_userspace::dataplane::kernel::Kernel;
use lb_userspace::engine::Request;
use lb_userspace::engine::fold::Folded;
use lb_userspace::journal::FileStore;
use lb_userspace::reconcile::Ways;
use lb_userspace::serve;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::node::{VIPS, change, document};
use super::quantile;
use crate::bench::Effort;
use crate::scratch::ScratchDir;
use crate::sweep::PinDir;

/// Longest wait for the maps.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct ChangeReport {
    /// Median, milliseconds.
    pub change_to_kernel_ms: f64,
    /// 99th percentile, milliseconds.
    pub change_to_kernel_p99_ms: f64,
}

/// Measures it.
pub(super) fn run(effort: Effort) -> Result<ChangeReport> {
    let (scratch, pins) = (ScratchDir::create()?, PinDir::claim()?);
    let runtime = Runtime::new().context("start a runtime")?;
    let times = runtime.block_on(measure(effort, &scratch, &pins));
    runtime.shutdown_timeout(PATIENCE);
    let mut times = times?;
    Ok(ChangeReport {
        change_to_kernel_ms: quantile(&mut times, 0.5),
        change_to_kernel_p99_ms: quantile(&mut times, 0.99),
    })
}

async fn measure(effort: Effort, scratch: &ScratchDir, pins: &PinDir) -> Result<Vec<f64>> {
    let (ways, follow) = watch::channel(Ways::default());
    let node = node(scratch, pins, follow)?;
    let fill = Command::Apply(Apply { document: document(), ..Apply::default() });
    submit(&node, fill).await?;
    ways.send_replace(reached(&node));
    in_maps(&node).await?;
    let mut times = Vec::new();
    for round in 0..effort.control_requests() {
        submit(&node, change(round as usize % VIPS, (round as usize / VIPS) as u64)).await?;
        let acknowledged = Instant::now();
        in_maps(&node).await?;
        times.push(acknowledged.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn node(scratch: &ScratchDir, pins: &PinDir, ways: watch::Receiver<Ways>) -> Result<Arc<Node>> {
    let options = Options { pin_dir: pins.path().to_owned(), ..Options::default() };
    let (kernel, _) = Kernel::open(&options).context("load the data plane")?;
    let loaded = FileStore::open(scratch.path()).context("make a log")?;
    let start = serve::Start {
        folded: Folded::default(),
        store: loaded.store,
        dataplane: Arc::new(kernel),
        watch_ways: Box::new(|_| Ok(ways)),
        probe_addresses: Default::default(),
        probe_concurrency: 8,
        commands_per_s: None,
        resync: Duration::from_secs(3_600),
        notes: Vec::new(),
        observations: None,
    };
    serve::start(start).map_err(|problem| anyhow!("start a node: {problem}"))
}

async fn submit(node: &Node, command: Command) -> Result<()> {
    let accepted = node.engine.submit(Request::new(command, "bench")).await;
    accepted.map(drop).map_err(|problem| anyhow!("{problem}"))
}

/// Waits until the maps hold the newest revision.
async fn in_maps(node: &Node) -> Result<()> {
    let (revision, mut standing) = (node.engine.state().revision, node.standing.clone());
    let arrived = standing.wait_for(|standing| standing.revision >= revision);
    let arrived = tokio::time::timeout(PATIENCE, arrived).await.context("the maps do not follow")?;
    arrived.context("the reconciler ended")?;
    Ok(())
}

/// Every backend is reached by the loopback device: nothing is attached, so nothing leaves.
fn reached(node: &Node) -> Ways {
    let way = Way {
        next_hop_mac: Some(Mac::from_octets([2, 0, 0, 0, 0, 9])),
        ifindex: 1,
        mtu: 1_500,
        source_mac: Mac::from_octets([2, 0, 0, 0, 0, 7]),
        tags: Default::default(),
        source: [10, 77, 0, 254].into(),
    };
    let state = node.engine.state();
    let ways: BTreeMap<_, _> = state.backends().map(|(.., backend)| (backend.id, Ok(way))).collect();
    Arc::new(ways)
}
