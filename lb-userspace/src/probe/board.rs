//! What is known of all backends' health: published whole, for whoever follows; each change is told to whoever keeps
//! observations, after it was published.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::ids::BackendId;
use lb_control::health::{Health, Outcome, Transition};
use lb_control::observation::{Cause, Change, OBSERVATION_VERSION, Object, Observation};
use tokio::sync::watch;

use crate::breakers::Feed;
/// Changes of one publication that the daemon's own log shows: thousands at once would drown what else it says.
const LINES_MAX: usize = 16;

/// What is known of a backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The health.
    pub health: Health,
    /// The change that led to it; `None`: it was adopted from the maps.
    pub last: Option<Transition>,
}

impl Seen {
    /// When probes took it down, which it had passed until then, milliseconds since the Unix epoch; none: it is not, or
    /// never did.
    pub fn fell_ms(&self) -> Option<u64> {
        match self.last {
            Some(Transition { from: Health::Up, to: Health::Down, at_ms, .. }) => Some(at_ms),
            _ => None,
        }
    }
}

/// Health by backend; absent = unknown.
pub type SeenHealth = Arc<BTreeMap<BackendId, Seen>>;

/// Who keeps what was observed; must not wait.
pub type Observe = Arc<dyn Fn(Observation) + Send + Sync>;

/// A change of a backend's health, and whose it is.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) id: BackendId,
    pub(super) vip: Arc<str>,
    pub(super) backend: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) change: Transition,
    pub(super) evidence: String,
}

/// The board.
pub(super) struct Board {
    seen: watch::Sender<SeenHealth>,
    observe: Observe,
    feed: Feed,
}

impl Board {
    /// A board with what is known already.
    pub(super) fn new(
        known: BTreeMap<BackendId, Health>,
        observe: Observe,
        feed: Feed,
    ) -> (Self, watch::Receiver<SeenHealth>) {
        let known = known.into_iter().map(|(id, health)| (id, Seen { health, last: None })).collect();
        let (seen, follow) = watch::channel(Arc::new(known));
        (Self { seen, observe, feed }, follow)
    }

    /// The health of a backend.
    pub(super) fn health(&self, id: BackendId) -> Health {
        self.seen.borrow().get(&id).map_or(Health::Unknown, |seen| seen.health)
    }

    /// Tells how an attempt ended.
    pub(super) fn feed(&self, id: BackendId, outcome: Outcome) {
        (self.feed)(id, outcome);
    }

    /// Forgets those that are not wanted any more.
    pub(super) fn keep(&self, wanted: impl Fn(BackendId) -> bool) {
        self.seen.send_if_modified(|seen| {
            let gone = seen.keys().any(|id| !wanted(*id));
            if gone {
                Arc::make_mut(seen).retain(|id, _| wanted(*id));
            }
            gone
        });
    }

    /// Publishes changes, all at once.
    pub(super) fn publish(&self, changes: Vec<Changed>) {
        self.seen.send_modify(|seen| {
            let seen = Arc::make_mut(seen);
            for Changed { id, change, .. } in &changes {
                seen.insert(*id, Seen { health: change.to, last: Some(*change) });
            }
        });
        let unsaid = changes.len().saturating_sub(LINES_MAX);
        for (index, changed) in changes.into_iter().enumerate() {
            if index < LINES_MAX {
                let Transition { from, to, cause, .. } = changed.change;
                let (address, evidence) = (changed.address, changed.evidence.as_str());
                tracing::info!(backend = %address, %from, %to, ?cause, evidence, "health");
            }
            (self.observe)(observation(changed));
        }
        if unsaid > 0 {
            tracing::info!(count = unsaid, "further backends changed their health; `lb history` has them");
        }
    }
}

fn observation(changed: Changed) -> Observation {
    let Changed { id, vip, backend, address, change, evidence } = changed;
    Observation {
        v: OBSERVATION_VERSION,
        at_ms: change.at_ms,
        seq: 0,
        object: Object::Backend { id, vip: vip.to_string(), backend: backend.to_string(), address },
        change: Change::HealthChanged { from: change.from, to: change.to },
        cause: Cause::Probe { outcome: change.cause },
        evidence,
    }
}
