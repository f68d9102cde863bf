//! What is known of all backends' health: published whole, for whoever follows; each change is told to whoever keeps
//! observations, after it was published.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::ids::BackendId;
use lb_control::health::{Health, Transition};
use lb_control::observation::{Cause, Change, OBSERVATION_VERSION, Object, Observation};
use tokio::sync::watch;

/// What is known of a backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The health.
    pub health: Health,
    /// The change that led to it; `None`: it was adopted from the maps.
    pub last: Option<Transition>,
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
}

impl Board {
    /// A board with what is known already.
    pub(super) fn new(
        known: BTreeMap<BackendId, Health>,
        observe: Observe,
    ) -> (Self, watch::Receiver<SeenHealth>) {
        let known = known.into_iter().map(|(id, health)| (id, Seen { health, last: None })).collect();
        let (seen, follow) = watch::channel(Arc::new(known));
        (Self { seen, observe }, follow)
    }

    /// The health of a backend.
    pub(super) fn health(&self, id: BackendId) -> Health {
        self.seen.borrow().get(&id).map_or(Health::Unknown, |seen| seen.health)
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
        for changed in changes {
            let Transition { from, to, cause, .. } = changed.change;
            tracing::info!(backend = %changed.address, %from, %to, ?cause, evidence = changed.evidence, "health");
            (self.observe)(observation(changed));
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
