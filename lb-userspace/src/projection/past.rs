//! Inventories of the past, kept now and then so that a look back starts near its goal. They share what did not change,
//! so one costs little more than what changed since the one before.

use std::collections::BTreeMap;

use lb_control::projection::Projection;
use lb_control::projection::inventory::Inventory;

/// Records between two kept inventories, as long as all find room.
const EVERY: u64 = 1_024;
/// Inventories that are kept. With twice as many every second one goes, and the distance doubles: a look back into a log
/// of N records reads at most N / KEPT or EVERY of them.
const KEPT: usize = 64;

/// The kept inventories.
#[derive(Debug)]
pub(super) struct Past {
    every: u64,
    /// Records since the last kept one.
    since: u64,
    kept: BTreeMap<u64, Inventory>,
}

impl Default for Past {
    fn default() -> Self {
        Self { every: EVERY, since: 0, kept: BTreeMap::new() }
    }
}

impl Past {
    /// Hears of every record, after it was taken in.
    pub(super) fn note(&mut self, inventory: &Inventory) {
        self.since += 1;
        if self.since < self.every {
            return;
        }
        self.since = 0;
        self.kept.insert(inventory.revision(), inventory.clone());
        if self.kept.len() >= 2 * KEPT {
            let mut odd = false;
            self.kept.retain(|_, _| {
                odd = !odd;
                !odd
            });
            self.every *= 2;
        }
    }

    /// The nearest one at or before a revision; the empty one before all.
    pub(super) fn before(&self, revision: u64) -> Inventory {
        self.kept.range(..=revision).next_back().map(|(_, inventory)| inventory.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::event::{Change, EVENT_VERSION, Event};
    use lb_control::record::Record;

    #[test]
    fn the_way_back_stays_short_and_few_are_kept() {
        let (mut past, mut inventory) = (Past::default(), Inventory::default());
        let records = 300_000;
        for revision in 1..=records {
            let change = Change::BypassChanged { on: revision % 2 == 0 };
            inventory.apply(&Record {
                v: 1,
                revision,
                at_ms: 0,
                actor: String::new(),
                command: String::new(),
                command_id: String::new(),
                correlation_id: String::new(),
                causation_id: None,
                key: None,
                reason: None,
                events: vec![Event { v: EVENT_VERSION, at_ms: 0, change }],
            });
            past.note(&inventory);
        }
        assert!(past.kept.len() < 2 * KEPT, "{}", past.kept.len());
        assert!(past.every <= EVERY.max(2 * records / KEPT as u64), "{}", past.every);
        for revision in (0..=records).step_by(997) {
            let near = past.before(revision);
            assert!(near.revision() <= revision && revision - near.revision() <= past.every);
            assert_eq!(near.bypass, near.revision() % 2 == 0 && near.revision() > 0);
        }
    }
}
