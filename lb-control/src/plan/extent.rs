//! Where a table lies in the one array of all slots: first fit over the extents in use, so that the same maps and
//! the same wish give the same place.

use std::collections::BTreeMap;

/// The extents in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Extents {
    /// First index to number of slots.
    used: BTreeMap<u32, u32>,
}

impl Extents {
    /// Those that are in use.
    pub(super) fn of(used: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut extents = Self::default();
        used.for_each(|extent| extents.occupy(extent));
        extents
    }

    /// Notes an extent that is in use. Of two that begin together the longer counts.
    fn occupy(&mut self, (first, count): (u32, u32)) {
        let longest = self.used.entry(first).or_default();
        *longest = count.max(*longest);
    }

    /// Takes the first gap of `count` slots among `slots`; `None` if there is none.
    pub(super) fn take(&mut self, count: u32, slots: u32) -> Option<(u32, u32)> {
        let mut start = 0_u64;
        for (&first, &used) in &self.used {
            if start + u64::from(count) <= u64::from(first) {
                break;
            }
            start = start.max(u64::from(first) + u64::from(used));
        }
        if start + u64::from(count) > u64::from(slots) {
            return None;
        }
        let extent = (u32::try_from(start).ok()?, count);
        self.occupy(extent);
        Some(extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gap_that_is_large_enough_is_taken() {
        let mut extents = Extents::default();
        assert_eq!(extents.take(251, 1_000), Some((0, 251)));
        assert_eq!(extents.take(251, 1_000), Some((251, 251)));
        assert_eq!(extents.take(499, 1_000), None);
        assert_eq!(extents.take(498, 1_000), Some((502, 498)));

        let mut extents = Extents::default();
        extents.occupy((10, 10));
        extents.occupy((40, 10));
        assert_eq!(extents.take(11, 60), Some((20, 11)));
        assert_eq!(extents.take(10, 60), Some((0, 10)));
        assert_eq!(extents.take(10, 60), Some((50, 10)));
        assert_eq!(extents.take(10, 60), None);
    }

    #[test]
    fn overlapping_and_endless_extents_of_damaged_maps_are_survived() {
        let mut extents = Extents::default();
        extents.occupy((0, 100));
        extents.occupy((0, 10));
        extents.occupy((50, 10));
        assert_eq!(extents.take(5, 200), Some((100, 5)));
        extents.occupy((u32::MAX, u32::MAX));
        assert_eq!(extents.take(5, 200), Some((105, 5)));
        assert_eq!(extents.take(u32::MAX, u32::MAX), None);
    }
}
