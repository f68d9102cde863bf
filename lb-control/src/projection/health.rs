//! What was observed of the backends: the health of each, since when, how often it changed, and what it was seen by. A
//! fold over observations, not over the log of intent: it moves no revision, and some observations may be missing.

use std::collections::BTreeMap;

use lb_common::ids::BackendId;

use crate::health::Health as Known;
use crate::observation::{Change, Object, Observation};

/// Backends that are kept; those with the lowest ids, which came first of all, go. Twice what a node can have, so that
/// those go that are no more.
const KEPT: usize = 2 * 65_535;

/// What was observed, as of a place in the node's journal of observations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// By the backend's id: a name may be another one's later.
    pub backends: BTreeMap<BackendId, Observed>,
    /// Observations that were made and not kept.
    pub suppressed: u64,
    seq: u64,
}

/// What was observed of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its vip's name then.
    pub vip: String,
    /// Its name then.
    pub backend: String,
    /// Its health.
    pub health: Known,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Changes that are known of.
    pub changes: u64,
    /// What it was seen by, for a person.
    pub evidence: String,
}

impl Health {
    /// The number of the last observation that was taken in; 0 at first.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes in an observation; one that was taken in before changes nothing.
    pub fn observe(&mut self, observation: &Observation) {
        if observation.seq <= self.seq {
            return;
        }
        self.seq = observation.seq;
        match (&observation.object, observation.change) {
            (_, Change::Suppressed { count }) => self.suppressed += count,
            (Object::Backend { id, vip, backend, .. }, Change::HealthChanged { to, .. }) => {
                let changes = self.backends.get(id).map_or(0, |known| known.changes) + 1;
                let (vip, backend, evidence) = (vip.clone(), backend.clone(), observation.evidence.clone());
                let since_ms = observation.at_ms;
                self.backends.insert(*id, Observed { vip, backend, health: to, since_ms, changes, evidence });
                if self.backends.len() > KEPT {
                    self.backends.pop_first();
                }
            }
            (Object::Node | Object::Vip { .. } | Object::Pool { .. }, Change::HealthChanged { .. })
            | (_, Change::BreakerChanged { .. } | Change::LadderChanged { .. }) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Outcome;
    use crate::observation::{Cause, OBSERVATION_VERSION};
    use proptest::prelude::*;

    fn observation(seq: u64, (id, to, count): (u32, Known, Option<u64>)) -> Observation {
        let backend = Object::Backend {
            id: BackendId(id),
            vip: "web".to_owned(),
            backend: format!("b{id}"),
            address: "10.0.0.1:80".parse().unwrap(),
        };
        let (object, change, cause) = match count {
            Some(count) => (Object::Node, Change::Suppressed { count }, Cause::Rate),
            None => {
                let cause = Cause::Probe { outcome: Outcome::Refused };
                (backend, Change::HealthChanged { from: Known::Unknown, to }, cause)
            }
        };
        Observation {
            v: OBSERVATION_VERSION,
            at_ms: seq * 10,
            seq,
            object,
            change,
            cause,
            evidence: format!("seen at {seq}"),
        }
    }

    proptest! {
        /// Equal to a rebuild at any place, and to a look for each backend's last observation; told twice is told once.
        #[test]
        fn it_is_a_rebuild_s_at_every_place(steps in proptest::collection::vec(
            (1_u32..5, prop_oneof![Just(Known::Up), Just(Known::Down)], proptest::option::weighted(0.1, 1_u64..9)),
            0..60,
        )) {
            let journal: Vec<Observation> =
                steps.iter().zip(1..).map(|(step, seq)| observation(seq, *step)).collect();
            let mut health = Health::default();
            for upto in 0..journal.len() {
                health.observe(&journal[upto]);
                health.observe(&journal[upto / 2]);
                let mut rebuilt = Health::default();
                journal[..=upto].iter().for_each(|one| rebuilt.observe(one));
                prop_assert_eq!(&health, &rebuilt);
                prop_assert_eq!(health.seq(), upto as u64 + 1);
            }
            for (id, known) in &health.backends {
                let own = |one: &&Observation| matches!(&one.object, Object::Backend { id: of, .. } if of == id);
                let last = journal.iter().rfind(own).unwrap();
                prop_assert_eq!(known.since_ms, last.at_ms);
                prop_assert_eq!(known.changes, journal.iter().filter(own).count() as u64);
            }
        }
    }
}
