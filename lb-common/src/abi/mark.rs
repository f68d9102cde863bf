//! Marks of SYNs: one flow in [`SYN_SAMPLE`] leaves one, so that a SYN that comes again is seen where nobody remembers flows.
//! Written and read by the data plane alone.
//!
//! A place of the map belongs to whoever came last: there is no age, no lock and nothing to sweep. A mark is one word, so it is
//! whole; one that is lost to another flow's costs one sign.

use crate::limits::{SYN_MARKS, SYN_SAMPLE};

/// A SYN as its place remembers it. Never 0, which is an empty place: a backend's row is not.
///
/// | bits | field |
/// |---|---|
/// | 0-15 | row of the backend that it was sent to |
/// | 16-31 | bits 32-47 of the flow hash |
/// | 32-63 | its sequence number, host order |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

/// Bits of the flow hash below a place's number.
const BELOW: u32 = u32::BITS - SYN_SAMPLE.ilog2() - SYN_MARKS.ilog2();

const _: () = assert!(SYN_SAMPLE.is_power_of_two() && SYN_MARKS.is_power_of_two());

impl Mark {
    /// Packs the mark of a SYN.
    #[inline(always)]
    pub const fn new(hash: u64, backend_row: u16, isn: u32) -> Self {
        Self(backend_row as u64 | (hash >> 32 & 0xffff) << 16 | (isn as u64) << 32)
    }
    /// The place of a flow's marks, below [`SYN_MARKS`]; `None` for a flow that leaves none. A sampled flow is one whose bits
    /// 26-31 of the hash are 0: neither slots nor buckets are chosen by them, so every backend's flows are sampled alike.
    #[inline(always)]
    pub const fn place(hash: u64) -> Option<u32> {
        let place = hash as u32 >> BELOW;
        if place < SYN_MARKS { Some(place) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flow_in_so_many_is_sampled_whatever_its_slot_and_bucket() {
        for (slot, bucket) in [(0_u64, 0_u64), (0x7fff, 0x3fff), (0xffff, 0x2aaa)] {
            // Bits 14 to 31, all of them once: six say whether, twelve say where.
            let hash = |middle: u64| slot << 48 | middle << 14 | bucket;
            let places: std::vec::Vec<u32> =
                (0..1 << 18).filter_map(|middle| Mark::place(hash(middle))).collect();
            assert_eq!(places, (0..SYN_MARKS).collect::<std::vec::Vec<_>>());
        }
    }

    #[test]
    fn a_mark_tells_flow_backend_and_number_apart() {
        let mark = Mark::new(0x1234_5678_0000_0000, 7, 9);
        assert_eq!(mark.0, 0x0000_0009_5678_0007);
        assert_ne!(mark, Mark::new(0x1234_5679_0000_0000, 7, 9));
        assert_ne!(mark, Mark::new(0x1234_5678_0000_0000, 8, 9));
        assert_ne!(mark, Mark::new(0x1234_5678_0000_0000, 7, 10));
    }
}
