//! The Maglev table builder (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4) with weights that are exact to a slot.
//!
//! Each backend has a permutation of the slots from two hashes of its identity; in turns, weighted by credit, each
//! takes the next slot of its permutation that is still empty, until it has its quota. The quotas are the weights'
//! shares of the table by the largest remainder, so no backend is a whole slot away from its share. The table
//! depends on the set of backends alone, neither on their order nor on their row numbers.
//!
//! No allocation and no I/O: the caller gives the table and the candidates.

use xxhash_rust::xxh64::xxh64;

/// A backend that wants slots.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    key: u64,
    skip_seed: u64,
    weight: u32,
    row: u16,
    /// Next slot of the permutation.
    cursor: u32,
    skip: u32,
    quota: u32,
    taken: u32,
    credit: u32,
}

impl Candidate {
    /// A backend by its identity (the same octets on every node: address and port), its row and its weight.
    pub fn new(identity: &[u8], row: u16, weight: u16) -> Self {
        Self {
            key: xxh64(identity, 0),
            skip_seed: xxh64(identity, 1),
            weight: weight.into(),
            row,
            cursor: 0,
            skip: 1,
            quota: 0,
            taken: 0,
            credit: 0,
        }
    }
    /// How many slots the last [`build`] gave it.
    pub const fn quota(&self) -> u32 {
        self.quota
    }
    /// Its row.
    pub const fn row(&self) -> u16 {
        self.row
    }

    fn prepare(&mut self, size: u32) {
        self.cursor = (self.key % u64::from(size)) as u32;
        self.skip = (self.skip_seed % u64::from(size.max(2) - 1)) as u32 + 1;
        (self.taken, self.credit) = (0, 0);
    }

    /// Takes the next slot of its permutation that is still empty; the caller knows that there is one.
    fn take(&mut self, table: &mut [u16]) {
        let size = table.len() as u32;
        loop {
            let slot = self.cursor as usize;
            self.cursor += self.skip;
            if self.cursor >= size {
                self.cursor -= size;
            }
            if table[slot] == 0 {
                table[slot] = self.row;
                self.taken += 1;
                return;
            }
        }
    }
}

/// Fills `table`, whose length must be a prime, with the rows of `candidates` (row 0 is "none"); with 0 where
/// nobody has a weight. Leaves the candidates sorted by identity, with their quotas.
pub fn build(table: &mut [u16], candidates: &mut [Candidate]) {
    table.fill(0);
    candidates.sort_unstable_by_key(|c| (c.key, c.skip_seed));
    give_quotas(table.len() as u64, candidates);
    let heaviest = candidates.iter().map(|c| c.weight).max().unwrap_or(0);
    candidates.iter_mut().for_each(|c| c.prepare(table.len() as u32));
    let mut left: u64 = candidates.iter().map(|c| u64::from(c.quota)).sum();
    while left > 0 {
        for c in candidates.iter_mut() {
            c.credit += c.weight;
            if c.credit >= heaviest && c.taken < c.quota {
                c.credit -= heaviest;
                c.take(table);
                left -= 1;
            }
        }
    }
}

/// Shares the slots by weight; the slots that rounding down leaves go to the largest remainders, ties to the
/// smaller identity. Every weight's exact share is at most one slot away.
fn give_quotas(slots: u64, candidates: &mut [Candidate]) {
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    if total == 0 {
        candidates.iter_mut().for_each(|c| c.quota = 0);
        return;
    }
    let remainder = |c: &Candidate| slots * u64::from(c.weight) % total;
    candidates.iter_mut().for_each(|c| c.quota = (slots * u64::from(c.weight) / total) as u32);
    let given: u64 = candidates.iter().map(|c| u64::from(c.quota)).sum();
    let left = (slots - given) as usize;
    candidates.sort_unstable_by_key(|c| (core::cmp::Reverse(remainder(c)), c.key, c.skip_seed));
    candidates[..left].iter_mut().for_each(|c| c.quota += 1);
    candidates.sort_unstable_by_key(|c| (c.key, c.skip_seed));
}

/// How many slots differ between two tables of the same size.
pub fn disruption(before: &[u16], after: &[u16]) -> usize {
    before.iter().zip(after).filter(|(a, b)| a != b).count()
}

/// The smallest prime that is at least `count`: table sizes must be primes, so that every skip is a permutation.
pub fn prime_at_least(count: u32) -> u32 {
    (count.max(2)..).find(|&n| is_prime(n)).unwrap_or(2)
}

/// Whether `n` is a prime.
pub fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const SIZE: usize = 65_537;

    fn pool(weights: &[u16]) -> Vec<Candidate> {
        let named = |(i, &w): (usize, &u16)| Candidate::new(&(i as u64).to_be_bytes(), i as u16 + 1, w);
        weights.iter().enumerate().map(named).collect()
    }

    fn table(size: usize, mut candidates: Vec<Candidate>) -> Vec<u16> {
        let mut table = vec![0; size];
        build(&mut table, &mut candidates);
        table
    }

    fn counts(table: &[u16], backends: usize) -> Vec<usize> {
        let mut counts = vec![0; backends + 1];
        table.iter().for_each(|&row| counts[row as usize] += 1);
        counts
    }

    #[test]
    fn nobody_leaves_the_table_empty() {
        assert!(table(SIZE, vec![]).iter().all(|&row| row == 0));
        assert!(table(SIZE, pool(&[0, 0])).iter().all(|&row| row == 0));
    }

    #[test]
    fn a_zero_weight_gets_no_slot_and_more_backends_than_slots_is_fine() {
        assert_eq!(counts(&table(SIZE, pool(&[1, 0, 1])), 3)[2], 0);
        let crowded = counts(&table(251, pool(&[1; 400])), 400);
        assert_eq!((crowded[0], *crowded.iter().max().unwrap()), (0, 1));
    }

    proptest::proptest! {
        #[test]
        fn every_share_is_exact_to_a_slot(weights in proptest::collection::vec(0u16.., 1..40)) {
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            proptest::prop_assume!(total > 0);
            let counts = counts(&table(2_003, pool(&weights)), weights.len());
            proptest::prop_assert_eq!(counts[0], 0);
            for (i, &weight) in weights.iter().enumerate() {
                let share = 2_003.0 * f64::from(weight) / total as f64;
                proptest::prop_assert!((counts[i + 1] as f64 - share).abs() < 1.0);
            }
        }

        #[test]
        fn neither_order_nor_row_numbers_matter(
            weights in proptest::collection::vec(1u16.., 2..20), turn in 0usize..20,
        ) {
            let straight = table(2_003, pool(&weights));
            let mut turned = pool(&weights);
            turned.rotate_left(turn % weights.len());
            proptest::prop_assert_eq!(&table(2_003, turned), &straight);
            let mut renumbered = pool(&weights);
            renumbered.iter_mut().for_each(|c| c.row += 100);
            let shifted: Vec<u16> = table(2_003, renumbered).iter().map(|row| row - 100).collect();
            proptest::prop_assert_eq!(shifted, straight);
        }
    }

    #[test]
    fn few_slots_move_when_one_of_ten_leaves() {
        let before = table(SIZE, pool(&[1; 10]));
        let after = table(SIZE, pool(&[1; 10]).into_iter().filter(|c| c.row != 4).collect());
        let moved = disruption(&before, &after) as f64 / (SIZE as f64 / 10.0);
        assert!((1.0..1.2).contains(&moved), "moved {moved} times the ideal share");
    }

    #[test]
    fn primes() {
        assert_eq!(prime_at_least(65_530), 65_537);
        assert!(is_prime(131_071) && !is_prime(65_535) && !is_prime(1));
    }
}
