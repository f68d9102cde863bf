//! A table on its way to another one, slot by slot: what comes back gently has a part of its slots, which grows, and each
//! slot moves once on the way.
//!
//! A slot's place in the order is its own and never changes, so what is revealed stays so as a share grows.

use super::tables::Candidate;
use lb_common::ids::BackendId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A table with its candidates: for each slot 1 + the index of its backend; empty if nobody wants slots.
pub(super) struct Pool<'a> {
    pub(super) candidates: &'a [Candidate],
    pub(super) table: &'a Arc<[u16]>,
}

/// The table of `whole` as far as it is revealed over `base`, the table of those who have their whole share. A slot
/// goes to its backend of `whole` when its place in the order comes before the share of that backend; one that only
/// moves because others come, when it comes before the least share of all.
pub(super) fn revealed(
    whole: &Pool<'_>,
    base: &Pool<'_>,
    share_permille: impl Fn(BackendId) -> Option<u16>,
) -> Arc<[u16]> {
    if base.table.is_empty() {
        return whole.table.clone();
    }
    let shares: Vec<Option<u16>> = whole.candidates.iter().map(|one| share_permille(one.id)).collect();
    let least = shares.iter().flatten().min().copied().unwrap_or(1_000);
    let numbers: BTreeMap<BackendId, u16> = whole.candidates.iter().map(|one| one.id).zip(1..).collect();
    let in_whole = |one: &Candidate| numbers.get(&one.id).copied().unwrap_or(0);
    let renamed: Vec<u16> = std::iter::once(0).chain(base.candidates.iter().map(in_whole)).collect();
    let slots = whole.table.iter().zip(base.table.iter()).zip(0_u32..);
    let slot = |((&new, &old), slot): ((&u16, &u16), u32)| {
        let share = usize::from(new).checked_sub(1).and_then(|index| shares[index]).unwrap_or(least);
        if place_permille(slot) < share { new } else { renamed[usize::from(old)] }
    };
    slots.map(slot).collect()
}

/// Where a slot stands in the order, permille: multiples of the golden ratio spread any run of slots evenly.
const fn place_permille(slot: u32) -> u16 {
    let fraction = slot.wrapping_mul(0x9e37_79b9);
    ((fraction as u64 * 1_000) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::super::desired::candidates;
    use super::super::tables::{Recipe, TableCache};
    use super::*;
    use crate::balancing::Algorithm;
    use crate::plan::testing::world;
    use crate::vip::Vip;

    /// A vip with these addresses in its pool.
    fn vip(algorithm: Algorithm, size: u32, addresses: &[&str]) -> Vip {
        let mut vip = Vip::clone(&world(addresses).vips["web"]);
        vip.settings.table_size = size;
        vip.settings.balancing.algorithm = algorithm;
        vip
    }

    /// The candidates of a vip that are `usable`, and their table.
    fn pool(vip: &Vip, usable: impl Fn(BackendId) -> bool) -> (Vec<Candidate>, Arc<[u16]>) {
        let mut candidates = candidates(vip, vip, usable);
        let recipe = Recipe::of(vip, &mut candidates);
        (candidates, TableCache::default().table(vip.id, recipe))
    }

    /// The addresses are in another order than the serials, so the table's order is not theirs.
    fn each_slot_moves_once(algorithm: Algorithm) {
        let size = 65_537;
        let vip = vip(algorithm, size, &["10.0.0.3", "10.0.0.9", "10.0.0.1", "10.0.0.2"]);
        let back = vip.backends["b0"].id;
        let ((all, whole), (others, base)) = (pool(&vip, |_| true), pool(&vip, |id| id != back));
        let number = 1 + all.iter().position(|one| one.id == back).unwrap() as u16;
        let at = |share| {
            let (whole, base) =
                (Pool { candidates: &all, table: &whole }, Pool { candidates: &others, table: &base });
            revealed(&whole, &base, |id| (id == back).then_some(share))
        };
        let own = |table: &[u16]| table.iter().filter(|one| **one == number).count();
        assert_eq!(own(&at(0)), 0);
        assert_eq!(at(1_000), whole);
        let mut moves = vec![0; size as usize];
        let mut before = at(0);
        for share in (50..=1_000).step_by(50) {
            let after = at(share);
            let expected = own(&whole) as f64 * f64::from(share) / 1_000.0;
            assert!((own(&after) as f64 / expected - 1.0).abs() < 0.1, "{share}: {}", own(&after));
            for (slot, (was, is)) in before.iter().zip(after.iter()).enumerate() {
                moves[slot] += u32::from(was != is);
            }
            before = after;
        }
        assert!(moves.iter().all(|moves| *moves <= 1));
        // Who is not on its way to another backend keeps its own, by whatever number.
        let address = |candidates: &[Candidate], one: u16| candidates[usize::from(one) - 1].id;
        let first = at(0);
        let mut kept = first.iter().zip(base.iter());
        assert!(kept.all(|(is, was)| address(&all, *is) == address(&others, *was)));
    }

    #[test]
    fn each_slot_moves_once_and_the_share_is_kept() {
        for algorithm in [Algorithm::Matching, Algorithm::Maglev] {
            each_slot_moves_once(algorithm);
        }
    }

    #[test]
    fn with_nobody_else_it_has_all_at_once() {
        let (all, whole) = pool(&vip(Algorithm::Matching, 251, &["10.0.0.3"]), |_| true);
        let nobody = Arc::default();
        let base = Pool { candidates: &[], table: &nobody };
        let revealed = revealed(&Pool { candidates: &all, table: &whole }, &base, |_| Some(100));
        assert_eq!(revealed, whole);
    }
}
