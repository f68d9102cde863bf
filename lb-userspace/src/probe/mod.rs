//! Probes: asks every backend whether it answers, each at its own pace, and publishes what changed.
//!
//! Which backends, and how: the published state says. What follows from the answers: `lb_control::health` says. What
//! is done about it: the reconciler's business. Health is never in the log of intent: a change is published first, and
//! then told to whoever keeps observations.
//!
//! In order: [`pools`] follows the states and gives each tenant a [`pool`] on a thread of its own, which asks by the
//! [`plan`] of each vip (one file for each kind of probe; [`via`] for those that go by the vip's own path) and writes changes on the [`board`]. Nothing of it runs on the
//! runtime of the API, nor the reverse.

mod board;
mod goal;
mod http;
mod icmp;
pub mod plan;
mod pool;
mod pools;
mod tcp;
pub mod tls;
mod udp;
pub mod via;

pub use board::{Observe, Seen, SeenHealth};

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::ids::BackendId;
use lb_control::health::Health;
use tokio::sync::{mpsc, watch};

use crate::breakers::Feed;
use crate::engine::Published;
use crate::vital;
use board::Board;
use pools::{Pools, Size};
use via::Station;

/// Default number of a tenant's attempts under way at once; more wait, which stretches that tenant's intervals.
pub const CONCURRENCY: usize = 1_024;
/// Backends that may wait to be asked at once out of turn.
const URGENT: usize = 4_096;

/// The probes of a node.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Health by backend.
    pub seen: watch::Receiver<SeenHealth>,
    /// For whoever suspects a backend.
    pub now: ProbeNow,
}

/// Asks for probes out of turn.
#[derive(Clone, Debug)]
pub struct ProbeNow(mpsc::Sender<BackendId>);

impl ProbeNow {
    /// Has a backend probed now instead of when its turn comes, but not sooner after its last probe than a doubt would.
    /// Never waits; a backend that has no probe, or one too many at once, is passed over: its turn comes anyway.
    pub fn probe(&self, id: BackendId) {
        let _ = self.0.try_send(id);
    }
}

/// Starts probing as the published states say, until they end. `adopted`: the health that the maps of a former
/// daemon imply, which holds until a probe says otherwise. `feed` is told how every attempt ended; `station` asks by the
/// vips' own paths.
pub fn start(
    states: watch::Receiver<Published>,
    adopted: BTreeMap<BackendId, Health>,
    concurrency: usize,
    observe: Observe,
    feed: Feed,
    station: Option<Arc<Station>>,
) -> Probes {
    let (board, seen) = Board::new(adopted, observe, feed);
    let (urgent, urgents) = mpsc::channel(URGENT);
    let pools = Pools::new(Arc::new(board), Size::new(concurrency), station);
    vital::spawn_async("probes", pools.run(states, urgents));
    Probes { seen, now: ProbeNow(urgent) }
}

#[cfg(test)]
mod tests;
