//! Tables, kept while nothing that makes them changes: building one is the costly part of planning. A table is built
//! once, however many vips have the same pool: a pool on hundreds of ports is one table.

use crate::backend::Backend;
use crate::balancing::{Builder, Contender};
use crate::vip::Vip;
use lb_common::addr::Addr;
use lb_common::ids::{BackendId, VipId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// A backend that wants slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its serial; says nothing to the table.
    pub(super) id: BackendId,
    contender: Contender,
}

impl Candidate {
    /// A backend of a vip. Where the table may be another vip's too, a port counts only if it is not the vip's own.
    pub(super) fn new(vip: &Vip, backend: &Backend) -> Self {
        let algorithm = vip.settings.balancing.algorithm;
        let shared = algorithm.builder() != Builder::Maglev && backend.port == vip.served.port;
        let port = if shared { 0 } else { backend.port };
        let mut identity = [0; 18];
        let words = Addr::from(backend.address).words();
        identity[..8].copy_from_slice(&words[0].to_le_bytes());
        identity[8..16].copy_from_slice(&words[1].to_le_bytes());
        identity[16..].copy_from_slice(&port.to_be_bytes());
        Self { id: backend.id, contender: Contender { identity, weight: algorithm.weight(backend.weight) } }
    }
}

/// All that a table depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Recipe {
    builder: Builder,
    size: u32,
    /// In order of identity.
    contenders: Vec<Contender>,
}

impl Recipe {
    /// The table of a vip whose new flows these `candidates` take, which are put in the order of the table.
    pub(super) fn of(vip: &Vip, candidates: &mut [Candidate]) -> Self {
        candidates.sort_unstable_by_key(|candidate| candidate.contender);
        Self {
            builder: vip.settings.balancing.algorithm.builder(),
            size: vip.settings.table_size,
            contenders: candidates.iter().map(|candidate| candidate.contender).collect(),
        }
    }
    /// For each slot 1 + the index of its backend; empty if nobody wants slots. Another table may make it quicker.
    fn build(&self, before: Option<(&Self, &[u16])>) -> Arc<[u16]> {
        let like = |(recipe, _): &(&Self, _)| recipe.builder == self.builder && recipe.size == self.size;
        let table = match before.filter(like) {
            Some((recipe, table)) => {
                self.builder.rebuild(self.size, &self.contenders, table, &recipe.contenders)
            }
            None => self.builder.build(self.size, &self.contenders),
        };
        table.into()
    }
}

/// Tables by what they depend on, and which of them each vip has.
#[derive(Clone, Debug, Default)]
pub struct TableCache {
    tables: BTreeMap<Arc<Recipe>, Arc<[u16]>>,
    vips: BTreeMap<VipId, Arc<Recipe>>,
    /// How many tables were built.
    pub(super) built: u64,
}

impl TableCache {
    /// The table of a vip; built only if no vip has it, or had it the last time.
    pub(super) fn table(&mut self, vip: VipId, recipe: Recipe) -> Arc<[u16]> {
        if let Some((recipe, table)) = self.tables.get_key_value(&recipe) {
            self.vips.insert(vip, recipe.clone());
            return table.clone();
        }
        let before = self.vips.get(&vip).and_then(|had| Some((&**had, &**self.tables.get(had)?)));
        let table = recipe.build(before);
        self.built += 1;
        let recipe = Arc::new(recipe);
        self.tables.insert(recipe.clone(), table.clone());
        self.vips.insert(vip, recipe);
        table
    }
    /// Forgets the tables of vips that are gone, and those that no vip has any more.
    pub(super) fn retain(&mut self, lives: impl Fn(VipId) -> bool) {
        self.vips.retain(|vip, _| lives(*vip));
        // One reference is the table's own.
        self.tables.retain(|recipe, _| Arc::strong_count(recipe) > 1);
    }
}

/// Tables of late that a memo keeps: two for each of 64 who change vips at once; 131 kB each at the usual size.
const MEMO: usize = 128;

/// Tables of late, for any number of threads: what a change does to the slots is told from the tables before and after
/// it, and the one before was mostly the one after the last change.
#[derive(Debug, Default)]
pub struct TableMemo(Mutex<VecDeque<(Recipe, Arc<[u16]>)>>);

impl TableMemo {
    /// The tables before and after a change. Nobody waits while another one's is built.
    pub(super) fn tables(&self, before: Recipe, after: Recipe) -> (Arc<[u16]>, Arc<[u16]>) {
        let first = self.table(before.clone(), None);
        let second = self.table(after, Some((&before, &first)));
        (first, second)
    }
    fn table(&self, recipe: Recipe, before: Option<(&Recipe, &[u16])>) -> Arc<[u16]> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = known().iter().find(|(known, _)| *known == recipe) {
            return table.clone();
        }
        let table = recipe.build(before);
        let mut known = known();
        known.push_front((recipe, table.clone()));
        known.truncate(MEMO);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{accept, world};
    use crate::plan::{Observed, desired};
    use crate::state::State;

    fn recipe(weight: u16) -> Recipe {
        let contenders = vec![Contender { identity: [7; 18], weight }];
        Recipe { builder: Builder::Matching, size: 251, contenders }
    }

    #[test]
    fn a_memo_gives_the_same_tables_and_is_bounded() {
        let memo = TableMemo::default();
        let first = memo.table(recipe(1), None);
        assert_eq!(first, recipe(1).build(None));
        assert!(Arc::ptr_eq(&first, &memo.tables(recipe(1), recipe(2)).0));
        for weight in 3..MEMO as u16 + 2 {
            memo.table(recipe(weight), None);
        }
        assert!(!Arc::ptr_eq(&first, &memo.table(recipe(1), None)), "the oldest is forgotten");
    }

    /// A pool of three on so many ports, in mode l2 or nat, where a backend's port is its vip's.
    fn ports(ports: u16) -> State {
        let mut state = world(&[]);
        for port in 0..ports {
            let mode = if port % 2 == 0 { "l2" } else { "nat" };
            let backends: Vec<String> = (1..4)
                // The order of serials is another one in each vip.
                .map(|at| (at + port) % 3 + 1)
                .map(|at| format!(r#"{{"name":"b{at}","address":"10.0.0.{at}"}}"#))
                .collect();
            let backends = backends.join(",");
            accept(
                &mut state,
                &format!(
                    r#"{{"kind":"vip_add","name":"v{port}","address":"203.0.113.20","port":{},"mode":"{mode}","table_size":1009,
                    "probe":{{"kind":"none"}},"backend":[{backends}]}}"#,
                    port + 1000
                ),
            );
        }
        state
    }

    #[test]
    fn a_pool_on_400_ports_is_one_table_and_one_more_for_each_change_of_it() {
        let mut state = ports(400);
        let mut tables = TableCache::default();
        let first = desired(&state, &Observed::default(), &mut tables);
        // The vip `web` has no backends: nobody's table.
        assert_eq!(tables.built, 2);
        desired(&state, &Observed::default(), &mut tables);
        assert_eq!(tables.built, 2);
        for port in 0..400 {
            accept(
                &mut state,
                &format!(r#"{{"kind":"backend_set","vip":"v{port}","name":"b2","weight":50}}"#),
            );
        }
        let second = desired(&state, &Observed::default(), &mut tables);
        assert_eq!(tables.built, 3);
        let of = |desired: &crate::plan::Desired| {
            let vips = desired.vips.values().filter(|vip| !vip.table.is_empty());
            let names = vips.map(|vip| {
                let of = |one: &u16| vip.backends[&vip.candidates[usize::from(*one) - 1]].address;
                vip.table.iter().map(of).collect::<Vec<_>>()
            });
            names.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((of(&first), of(&second)), (1, 1), "and it is the same table by addresses, too");
        desired(&state, &Observed::default(), &mut tables);
        assert_eq!(tables.tables.len(), 2, "what no vip has is forgotten");
    }

    #[test]
    fn another_algorithm_or_size_is_another_table() {
        let mut state = ports(1);
        let mut tables = TableCache::default();
        for algorithm in ["matching", "maglev", "round_robin", "least_connections"] {
            accept(
                &mut state,
                &format!(
                    r#"{{"kind":"vip_set","name":"v0","balancing":{{"algorithm":"{algorithm}"}},
                    "allow_disruption":true}}"#
                ),
            );
            desired(&state, &Observed::default(), &mut tables);
        }
        assert_eq!(tables.built, 1 + 4, "but a weighted hash and fewest connections rest on the same");
    }
}
