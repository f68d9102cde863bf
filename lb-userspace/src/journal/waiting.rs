//! Observations that wait to be written: a line for each vip, and each line in its turn.
//!
//! So a vip whose backends all flap takes no place from another vip's one change. Of a line the breakers and the ladder
//! go first, which are few and say most. When there is no room, only a line that is shorter than its share gets longer;
//! what the others lose is counted, and told in its turn as one observation of the vip's pool. Memory: what
//! [`Waiting::new`] is told, and a few times that if ever more vips come while nothing is taken.
//!
//! Not here: who writes, and when (`observation.rs`).

use std::collections::{HashMap, VecDeque};

use lb_control::observation::{Cause, Change, OBSERVATION_VERSION, Object, Observation};

use crate::clock::unix_ms;

/// All lines.
#[derive(Debug)]
pub(super) struct Waiting {
    lines: HashMap<String, Line>,
    /// The lines that are not empty, by vip, in the order of their turns.
    turns: VecDeque<String>,
    count: usize,
    most: usize,
    /// Observations that ever came.
    arrivals: u64,
}

/// What waits of one vip (of the node, without one), each with its number in the order of arrival.
#[derive(Debug, Default)]
struct Line {
    first: VecDeque<(u64, Observation)>,
    then: VecDeque<(u64, Observation)>,
    /// Observations for which there was no room.
    lost: u64,
}

impl Line {
    fn len(&self) -> usize {
        self.first.len() + self.then.len()
    }
}

/// The vip that an observation is of; empty: the node.
fn vip(object: &Object) -> &str {
    match object {
        Object::Node => "",
        Object::Vip { vip, .. } | Object::Pool { vip } | Object::Backend { vip, .. } => vip,
    }
}

fn goes_first(change: Change) -> bool {
    matches!(change, Change::BreakerChanged { .. } | Change::LadderChanged { .. })
}

impl Waiting {
    /// Room for so many.
    pub(super) fn new(most: usize) -> Self {
        let (lines, turns) = Default::default();
        Self { lines, turns, count: 0, most, arrivals: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Takes an observation in, or counts it.
    pub(super) fn push(&mut self, observation: Observation) {
        self.arrivals += 1;
        let name = vip(&observation.object).to_owned();
        let line = self.lines.entry(name.clone()).or_insert_with(|| {
            self.turns.push_back(name);
            Line::default()
        });
        let full = self.count >= self.most && line.len() >= (self.most / self.turns.len()).max(1);
        let first = goes_first(observation.change);
        let room = !full || first && line.then.pop_back().is_some();
        line.lost += u64::from(full);
        if room {
            self.count += usize::from(!full);
            let queue = if first { &mut line.first } else { &mut line.then };
            queue.push_back((self.arrivals, observation));
        }
    }

    /// The next so many, each line in its turn; in the order in which they came, and after them what was lost.
    pub(super) fn take(&mut self, batch: usize) -> Vec<Observation> {
        let mut taken: Vec<(u64, Observation)> = Vec::new();
        while taken.len() < batch {
            let Some(name) = self.turns.pop_front() else { break };
            let Some(line) = self.lines.get_mut(&name) else { continue };
            if line.lost > 0 {
                taken.push((u64::MAX, suppressed(&name, std::mem::take(&mut line.lost))));
            } else {
                let next = line.first.pop_front().or_else(|| line.then.pop_front());
                self.count -= usize::from(next.is_some());
                taken.extend(next);
            }
            if line.len() > 0 {
                self.turns.push_back(name);
            } else {
                self.lines.remove(&name);
            }
        }
        taken.sort_by_key(|(arrival, _)| *arrival);
        taken.into_iter().map(|(_, observation)| observation).collect()
    }
}

fn suppressed(vip: &str, count: u64) -> Observation {
    let object = if vip.is_empty() { Object::Node } else { Object::Pool { vip: vip.to_owned() } };
    Observation {
        v: OBSERVATION_VERSION,
        at_ms: unix_ms(),
        seq: 0,
        object,
        change: Change::Suppressed { count },
        cause: Cause::Rate,
        evidence: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::ids::{BackendId, VipId};
    use lb_control::degradation::Rung;
    use lb_control::health::{Health, Outcome};

    fn down(vip: &str, at_ms: u64) -> Observation {
        Observation {
            v: 1,
            at_ms,
            seq: 0,
            object: Object::Backend {
                id: BackendId(1),
                vip: vip.to_owned(),
                backend: "b1".to_owned(),
                address: "10.0.0.1:80".parse().unwrap(),
            },
            change: Change::HealthChanged { from: Health::Up, to: Health::Down },
            cause: Cause::Probe { outcome: Outcome::Timeout },
            evidence: String::new(),
        }
    }

    fn stepped(vip: &str, at_ms: u64) -> Observation {
        let object = Object::Vip { id: VipId(1), vip: vip.to_owned() };
        let change = Change::LadderChanged { from: Rung::Pool, to: Rung::Nobody };
        Observation { object, change, cause: Cause::Pool, ..down(vip, at_ms) }
    }

    /// What each of some vips had written of it: observations, and what was lost.
    fn of(vip_name: &str, kept: &[Observation]) -> (u64, u64) {
        let own = kept.iter().filter(|one| vip(&one.object) == vip_name);
        own.fold((0, 0), |(kept, lost), one| match one.change {
            Change::Suppressed { count } => (kept, lost + count),
            _ => (kept + 1, lost),
        })
    }

    #[test]
    fn one_vips_storm_costs_another_nothing() {
        let mut waiting = Waiting::new(40);
        (0..10_000).for_each(|at_ms| waiting.push(down("storm", at_ms)));
        waiting.push(down("calm", 10_000));
        waiting.push(stepped("storm", 10_001));
        let batch = waiting.take(8);
        assert_eq!(batch.len(), 8);
        assert_eq!(of("calm", &batch), (1, 0), "its turn comes in the first batch");
        let (kept, lost) = of("storm", &batch);
        assert_eq!((kept, lost), (6, 10_000 - 39), "and what was lost is told of whom it was");
        assert!(batch.iter().any(|one| goes_first(one.change)), "the ladder goes first");
        let times: Vec<u64> = batch[..7].iter().map(|one| one.at_ms).collect();
        assert!(times.is_sorted(), "{times:?}");
        let rest = std::iter::from_fn(|| Some(waiting.take(8)).filter(|batch| !batch.is_empty()));
        assert_eq!(of("storm", &rest.flatten().collect::<Vec<_>>()), (34, 0), "and nothing is told twice");
        assert!(waiting.is_empty() && waiting.lines.is_empty());
    }

    #[test]
    fn more_vips_than_room_have_a_place_each_and_a_turn_each() {
        let mut waiting = Waiting::new(10);
        for at_ms in 0..5 {
            (0..30).for_each(|vip| waiting.push(down(&format!("v{vip}"), at_ms)));
        }
        let batches: Vec<Vec<Observation>> = (0..8).map(|_| waiting.take(10)).collect();
        let all = batches.concat();
        let total = (0..30).map(|vip| of(&format!("v{vip}"), &all)).fold((0, 0), |sum, one| {
            assert!(one.0 >= 1, "nobody is without a place");
            (sum.0 + one.0, sum.1 + one.1)
        });
        assert_eq!(total.0 + total.1, 150);
        assert!(total.0 <= 40 && waiting.is_empty(), "{total:?}");
    }
}
