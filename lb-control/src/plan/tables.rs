//! Maglev tables, kept while nothing that makes them changes: building one is the costly part of planning.

use lb_common::addr::Addr;
use lb_common::ids::{BackendId, VipId};
use lb_common::maglev;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// A backend that wants slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its serial; says nothing to the table.
    pub(super) id: BackendId,
    /// Address and port: the same on every node.
    identity: [u8; 18],
    weight: u16,
}

impl Candidate {
    /// A backend by its address, port and weight.
    pub(super) fn new(id: BackendId, address: IpAddr, port: u16, weight: u16) -> Self {
        let mut identity = [0; 18];
        let words = Addr::from(address).words();
        identity[..8].copy_from_slice(&words[0].to_le_bytes());
        identity[8..16].copy_from_slice(&words[1].to_le_bytes());
        identity[16..].copy_from_slice(&port.to_be_bytes());
        Self { id, identity, weight }
    }
}

/// Builds the table of `candidates`: for each slot 1 + the index of its backend. Empty if nobody wants slots.
pub(super) fn build(size: u32, candidates: &[Candidate]) -> Arc<[u16]> {
    if candidates.is_empty() {
        return Arc::default();
    }
    let mut table = vec![0; size as usize];
    let numbered = candidates.iter().zip(1_u16..);
    let mut wanting: Vec<_> =
        numbered.map(|(c, row)| maglev::Candidate::new(&c.identity, row, c.weight)).collect();
    maglev::build(&mut table, &mut wanting);
    table.into()
}

/// A table with the candidates and the size that it was built from.
#[derive(Clone, Debug)]
struct Built {
    candidates: Vec<Candidate>,
    size: u32,
    table: Arc<[u16]>,
}

/// Tables by vip, each with what it was built from.
#[derive(Clone, Debug, Default)]
pub struct TableCache {
    tables: BTreeMap<VipId, Built>,
    /// Tables without the backends that come back gently, of vips that have some.
    bases: BTreeMap<VipId, Built>,
}

impl TableCache {
    /// The table of a vip, built only if its candidates or its size changed.
    pub(super) fn table(&mut self, vip: VipId, size: u32, candidates: &[Candidate]) -> Arc<[u16]> {
        kept(&mut self.tables, vip, size, candidates)
    }

    /// The table of those of a vip's candidates that have their whole share.
    pub(super) fn base_table(&mut self, vip: VipId, size: u32, candidates: &[Candidate]) -> Arc<[u16]> {
        kept(&mut self.bases, vip, size, candidates)
    }
    /// Forgets the tables of vips that are gone.
    pub(super) fn retain(&mut self, lives: impl Fn(VipId) -> bool) {
        self.tables.retain(|vip, _| lives(*vip));
        self.bases.retain(|vip, _| lives(*vip));
    }
}

/// The table of a vip, built only if its candidates or its size changed.
fn kept(tables: &mut BTreeMap<VipId, Built>, vip: VipId, size: u32, candidates: &[Candidate]) -> Arc<[u16]> {
    let same = |built: &&Built| built.candidates == candidates && built.size == size;
    if let Some(built) = tables.get(&vip).filter(same) {
        return built.table.clone();
    }
    let table = build(size, candidates);
    tables.insert(vip, Built { candidates: candidates.to_vec(), size, table: table.clone() });
    table
}

/// Tables of late that a memo keeps: two for each of 64 who change vips at once; 131 kB each at the usual size.
const MEMO: usize = 128;

/// Tables of late, for any number of threads: what a change does to the slots is told from the tables before and after
/// it, and the one before was mostly the one after the last change.
#[derive(Debug, Default)]
pub struct TableMemo(Mutex<VecDeque<Built>>);

impl TableMemo {
    /// The table of these candidates. Nobody waits while another one's is built.
    pub(super) fn table(&self, size: u32, candidates: &[Candidate]) -> Arc<[u16]> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |built: &&Built| built.size == size && built.candidates == candidates;
        if let Some(built) = known().iter().find(same) {
            return built.table.clone();
        }
        let table = build(size, candidates);
        let mut known = known();
        known.push_front(Built { candidates: candidates.to_vec(), size, table: table.clone() });
        known.truncate(MEMO);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_built_once_and_again_when_a_weight_changes() {
        let candidate = |id, weight| Candidate::new(BackendId(id), [10, 0, 0, id as u8].into(), 80, weight);
        let mut cache = TableCache::default();
        let first = cache.table(VipId(1), 251, &[candidate(1, 1), candidate(2, 1)]);
        assert!(Arc::ptr_eq(&first, &cache.table(VipId(1), 251, &[candidate(1, 1), candidate(2, 1)])));
        let heavier = cache.table(VipId(1), 251, &[candidate(1, 3), candidate(2, 1)]);
        assert!(heavier.iter().filter(|&&one| one == 1).count() > 180);
        assert!(cache.table(VipId(1), 251, &[]).is_empty());
    }

    #[test]
    fn a_memo_gives_the_same_tables_and_is_bounded() {
        let candidates = |weight| vec![Candidate::new(BackendId(1), [10, 0, 0, 1].into(), 80, weight)];
        let memo = TableMemo::default();
        let first = memo.table(251, &candidates(1));
        assert_eq!(first, build(251, &candidates(1)));
        assert!(Arc::ptr_eq(&first, &memo.table(251, &candidates(1))));
        assert_eq!(memo.table(257, &candidates(1)).len(), 257);
        for weight in 2..MEMO as u16 + 2 {
            memo.table(251, &candidates(weight));
        }
        assert!(!Arc::ptr_eq(&first, &memo.table(251, &candidates(1))), "the oldest is forgotten");
    }
}
