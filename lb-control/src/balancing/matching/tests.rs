//! The laws of the table: which they are stands in the names.

use super::*;
use std::collections::BTreeSet;

const SIZE: u32 = 65_537;

fn contender(name: u32, weight: u16) -> Contender {
    let mut identity = [0; 18];
    identity[8..12].copy_from_slice(&name.to_be_bytes());
    Contender { identity, weight }
}

/// Contenders in order of identity.
fn pool(of: &[(u32, u16)]) -> Vec<Contender> {
    let mut pool: Vec<_> = of.iter().map(|&(name, weight)| contender(name, weight)).collect();
    pool.sort_unstable_by_key(|one| one.identity);
    pool
}

fn equals(backends: u32) -> Vec<Contender> {
    pool(&(0..backends).map(|name| (name, 100)).collect::<Vec<_>>())
}

/// For each slot the name of its backend.
fn named(table: &[u16], pool: &[Contender]) -> Vec<[u8; 18]> {
    table.iter().map(|&one| pool[usize::from(one) - 1].identity).collect()
}

fn moved(before: (&[u16], &[Contender]), after: (&[u16], &[Contender])) -> usize {
    let pairs = named(before.0, before.1).into_iter().zip(named(after.0, after.1));
    pairs.filter(|(was, is)| was != is).count()
}

fn counts(table: &[u16], backends: usize) -> Vec<usize> {
    let mut counts = vec![0; backends + 1];
    table.iter().for_each(|&one| counts[usize::from(one)] += 1);
    counts
}

/// No slot and backend would rather have each other than what they have, and nobody has more than its quota.
fn assert_stable(size: u32, table: &[u16], pool: &[Contender]) {
    let market = Market::new(size, pool);
    let offer = |slot: usize| market.offer_to(usize::from(table[slot]) - 1, slot);
    let slots: Vec<Offer> = (0..table.len()).map(offer).collect();
    for bidder in 0..pool.len() {
        let of = |slot: &usize| usize::from(table[*slot]) == bidder + 1;
        let held: Vec<usize> = (0..table.len()).filter(of).collect();
        let quota = market.bidders[bidder].quota;
        assert!(held.len() <= quota, "{bidder} has {} of {quota}", held.len());
        let worst = held.iter().map(|&slot| slots[slot]).max();
        let limit = if held.len() < quota { FREE } else { worst.unwrap_or(0) };
        let envied = (0..table.len()).find(|&slot| {
            let offer = market.offer_to(bidder, slot);
            offer < slots[slot] && offer < limit
        });
        assert_eq!(envied, None, "slot and backend {bidder} would rather have each other");
    }
}

#[test]
fn nobody_leaves_the_table_empty_and_one_takes_it_all() {
    assert_eq!(counts(&build(251, &[]), 0), [251]);
    assert_eq!(counts(&build(251, &equals(1)), 1), [0, 251]);
    assert_eq!(build(251, &equals(3)), rebuild(251, &equals(3), &[], &[]));
    assert_eq!(rebuild(251, &[], &build(251, &equals(1)), &equals(1)), [0; 251]);
}

#[test]
fn a_visitor_comes_to_every_slot_once() {
    let market = Market::new(257, &equals(3));
    for bidder in 0..3 {
        let mut visitor = Bidder::new(257, &equals(3)[bidder], 0);
        let mut seen = BTreeSet::new();
        for rank in 0..257 {
            assert_eq!(market.offer(bidder, rank), market.offer_to(bidder, visitor.next as usize));
            seen.insert(visitor.next);
            visitor.step(257);
        }
        assert_eq!(seen.len(), 257);
    }
}

#[test]
fn more_backends_than_slots_is_fine() {
    let crowded = counts(&build(251, &equals(400)), 400);
    assert_eq!((crowded[0], crowded.iter().max()), (0, Some(&1)));
}

/// Random pools: names and weights.
fn pools() -> impl proptest::strategy::Strategy<Value = Vec<(u32, u16)>> {
    let one = (0_u32..1_000, proptest::prop_oneof![Just(100_u16), 1_u16..300, 1_u16..]);
    proptest::collection::vec(one, 1..60).prop_map(|mut pool| {
        pool.sort_unstable();
        pool.dedup_by_key(|(name, _)| *name);
        pool
    })
}

use proptest::prelude::{Just, Strategy};

proptest::proptest! {
    #[test]
    fn the_matching_is_stable_and_every_slot_taken(of in pools()) {
        let pool = pool(&of);
        let table = build(1_009, &pool);
        proptest::prop_assert!(table.iter().all(|&one| one != 0));
        assert_stable(1_009, &table, &pool);
    }

    #[test]
    fn nobody_has_more_than_its_share_and_the_slack(of in pools()) {
        let pool = pool(&of);
        let total: f64 = of.iter().map(|(_, weight)| f64::from(*weight)).sum();
        // The slack grows only where rounding leaves too few slots: at most by one for each backend.
        let sum: usize = quotas(1_009, &pool).iter().sum();
        proptest::prop_assert!(sum as f64 <= 1_009.0 * SLACK * MORE_SLACK + pool.len() as f64);
        let counts = counts(&build(1_009, &pool), pool.len());
        if quotas_suffice(&pool) {
            for (one, count) in pool.iter().zip(&counts[1..]) {
                let share = 1_009.0 * f64::from(one.weight) / total;
                proptest::prop_assert!(*count as f64 <= (share * SLACK).ceil());
            }
        }
    }

    #[test]
    fn a_change_found_step_by_step_is_the_table_built_anew(
        of in pools(), removed in 0_usize..60, added in 1_000_u32..1_010, weight in 1_u16..300, which in 0_u8..4,
    ) {
        let before = pool(&of);
        let mut now = of.clone();
        match which {
            0 => now.push((added, weight)),
            1 if now.len() > 1 => drop(now.remove(removed % of.len())),
            2 => now[removed % of.len()].1 = weight,
            _ => (now[0].1, now[of.len() / 2].1) = (weight, 7),
        }
        let after = pool(&now);
        let table = build(1_009, &before);
        proptest::prop_assert_eq!(step(1_009, &after, &table, &before), build(1_009, &after));
    }
}

fn quotas_suffice(pool: &[Contender]) -> bool {
    let total: f64 = pool.iter().map(|one| f64::from(one.weight)).sum();
    let quota = |one: &Contender| {
        (1_009.0 * f64::from(one.weight) / total * SLACK + fraction(xxh64(&one.identity, 3))) as usize
    };
    pool.iter().map(quota).sum::<usize>() >= 1_009
}

/// As [`rebuild`], however much changed.
fn step(size: u32, contenders: &[Contender], before: &[u16], were: &[Contender]) -> Vec<u16> {
    let kept = kept(were, contenders);
    let mut market = Market::new(size, contenders);
    market.adopt(before, &kept);
    market.reconsider(&quotas(size, were), &kept);
    market.table()
}

#[test]
fn a_thousand_backends_change_step_by_step_into_the_table_built_anew() {
    let before = equals(1_000);
    let table = build(SIZE, &before);
    let mut after = before.clone();
    after.remove(345);
    after[600].weight = 150;
    after.push(contender(5_000, 100));
    assert_eq!(rebuild(SIZE, &after, &table, &before), build(SIZE, &after));
}

#[test]
fn one_of_ten_that_leaves_moves_hardly_more_than_its_own_slots() {
    let (before, mut after) = (equals(10), equals(10));
    let gone = after.remove(4);
    let tables = (build(SIZE, &before), build(SIZE, &after));
    let had = named(&tables.0, &before).iter().filter(|one| **one == gone.identity).count();
    let moved = moved((&tables.0, &before), (&tables.1, &after));
    assert!((had..had + had / 20).contains(&moved), "{moved} slots moved for {had}");
}

#[test]
fn at_a_thousand_the_fullest_has_four_percent_more_than_the_mean() {
    let counts = counts(&build(SIZE, &equals(1_000)), 1_000);
    let mean = f64::from(SIZE) / 1_000.0;
    let [fullest, emptiest] = [counts[1..].iter().max(), counts[1..].iter().min()].map(Option::unwrap);
    assert!(*fullest as f64 / mean <= 1.04, "fullest {fullest}");
    assert!(*emptiest as f64 / mean >= 0.5, "emptiest {emptiest}");
}
