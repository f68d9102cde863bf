//! Where a table lies in the one array of all slots: first fit over the extents in use, so that the same maps and
//! the same wish give the same place.

/// The extents in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extents {
    /// First index to number of slots; not overlapping.
    used: std::collections::BTreeMap<u32, u32>,
}
