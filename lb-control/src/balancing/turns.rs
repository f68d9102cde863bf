//! The table of turns: backends follow each other as smoothly as their weights allow, so that one slot after the other
//! is a weighted round robin.
//!
//! Backend `b` of weight `w` is due at times `(k + 1/2) / w`, for its turn `k`, and the earliest is next: the method
//! of Sainte-Laguë, by which each part of the sequence is shared as its weights say, as nearly as whole turns can.
//! Numbers are exact.

use super::Contender;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When a backend is due: `half_turns / weight`, earlier ones first, ties by identity.
#[derive(PartialEq, Eq)]
struct Due {
    half_turns: u64,
    weight: u64,
    index: u16,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (mine, others) = (self.half_turns * other.weight, other.half_turns * self.weight);
        mine.cmp(&others).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Builds the table of contenders, which are in order of identity, none of weight 0: for each slot 1 + the index of
/// its backend, 0 without any.
pub fn build(size: u32, contenders: &[Contender]) -> Vec<u16> {
    let due =
        |(one, index): (&Contender, u16)| Reverse(Due { half_turns: 1, weight: one.weight.into(), index });
    let mut waiting: BinaryHeap<_> = contenders.iter().zip(0_u16..).map(due).collect();
    let turn = |_| {
        let Some(mut next) = waiting.peek_mut() else { return 0 };
        next.0.half_turns += 2;
        next.0.index + 1
    };
    (0..size).map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(weights: &[u16]) -> Vec<Contender> {
        let contender = |(at, &weight): (usize, &u16)| Contender { identity: [at as u8; 18], weight };
        weights.iter().enumerate().map(contender).collect()
    }

    #[test]
    fn equals_follow_each_other_and_heavy_ones_are_spread() {
        assert_eq!(build(7, &pool(&[9, 9, 9])), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(build(7, &pool(&[5, 1, 1])), [1, 1, 1, 2, 3, 1, 1]);
        assert_eq!(build(3, &[]), [0, 0, 0]);
    }

    proptest::proptest! {
        #[test]
        fn every_beginning_is_shared_by_weight(weights in proptest::collection::vec(1_u16..500, 1..9)) {
            let table = build(2_003, &pool(&weights));
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            let mut counts = vec![0_u64; weights.len()];
            for (turns, &one) in (1_u64..).zip(&table) {
                counts[usize::from(one) - 1] += 1;
                for (count, &weight) in counts.iter().zip(&weights) {
                    let share = (turns * u64::from(weight)) as f64 / total as f64;
                    proptest::prop_assert!((*count as f64 - share).abs() <= 2.0, "{count} of {share}");
                }
            }
        }
    }
}
