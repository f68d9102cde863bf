//! A table on its way to another one, slot by slot: what comes back gently has a part of its slots, which grows, and each
//! slot moves once on the way.
//!
//! A slot's place in the order is its own and never changes, so what is revealed stays so as a share grows.

use super::tables::Candidate;
use lb_common::ids::BackendId;
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
    let in_whole = |one: &Candidate| {
        let index = whole.candidates.binary_search_by_key(&one.id, |candidate| candidate.id);
        index.map_or(0, |index| 1 + index as u16)
    };
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
    use super::super::tables::build;
    use super::*;

    const SIZE: u32 = 65_537;
    const BACK: BackendId = BackendId(3);

    fn candidates(ids: &[u32]) -> Vec<Candidate> {
        ids.iter().map(|id| Candidate::new(BackendId(*id), [10, 0, 0, *id as u8].into(), 80, 100)).collect()
    }

    #[test]
    fn each_slot_moves_once_and_the_share_is_kept() {
        let (all, others) = (candidates(&[1, 2, 3, 4]), candidates(&[1, 2, 4]));
        let (whole, base) = (build(SIZE, &all), build(SIZE, &others));
        let at = |share| {
            let (whole, base) =
                (Pool { candidates: &all, table: &whole }, Pool { candidates: &others, table: &base });
            revealed(&whole, &base, |id| (id == BACK).then_some(share))
        };
        let own = |table: &[u16]| table.iter().filter(|one| **one == 3).count();
        assert_eq!(own(&at(0)), 0);
        assert_eq!(at(1_000), whole);
        let mut moves = vec![0; SIZE as usize];
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
    }

    #[test]
    fn with_nobody_else_it_has_all_at_once() {
        let all = candidates(&[3]);
        let (whole, nobody) = (build(251, &all), Arc::default());
        let base = Pool { candidates: &[], table: &nobody };
        let revealed = revealed(&Pool { candidates: &all, table: &whole }, &base, |_| Some(100));
        assert_eq!(revealed, whole);
    }
}
