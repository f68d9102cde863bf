//! The flow table: set-associative, four entries to a cache line, shared by all CPUs.
//!
//! An entry is one word for compare-and-swap, [`Entry`], and one advisory word, [`Trace`]. An entry is found by the
//! bucket (low bits of the flow hash), the slot (high bits) and the tag (28 bits from the 20th on): with a million buckets and
//! a table of the default size the whole 64-bit keyed hash, so that two flows share an entry only if their hashes are equal;
//! with fewer buckets or slots, the bits that these have in common. Who writes: the data plane; the daemon's sweep deletes.

use super::word::{Word, field};
use crate::limits::FLOW_WAYS;

/// How much an entry is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryState {
    /// No entry.
    Free = 0,
    /// Made by a packet of an older connection or by UDP, not seen again since: cheap to make, first to go.
    Probation = 1,
    /// Made by a SYN that nothing confirmed yet.
    Syn = 2,
    /// The client closed; kept for the last packets.
    Closing = 3,
    /// Seen again: not given up before it is idle for its vip's time.
    Confirmed = 4,
    /// The same, and one of its backend's `connections`.
    Counted = 5,
    /// No flow: what backend a source address was given.
    Affinity = 6,
}

/// An entry's word.
///
/// | bits | field |
/// |---|---|
/// | 0-15 | backend row |
/// | 16-18 | [`EntryState`] |
/// | 19-35 | slot number within the vip's table |
/// | 36-63 | tag: bits 20-47 of the flow hash |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Entry(pub u64);

impl Entry {
    /// The bits that tell one flow from another: slot and tag.
    const IDENTITY: u64 = !0 << 19;

    /// Packs an entry of the flow with this hash in this slot.
    #[inline(always)]
    pub const fn new(hash: u64, slot: u32, backend: u16, state: EntryState) -> Self {
        Self(backend as u64 | (state as u64) << 16 | (slot as u64 & 0x1_ffff) << 19 | (hash >> 20) << 36)
    }
    /// Whether two entries, neither free, are of the same flow.
    #[inline(always)]
    pub const fn same_flow(self, other: Self) -> bool {
        (self.0 ^ other.0) & Self::IDENTITY == 0
    }
    /// Backend row.
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        self.0 as u16
    }
    /// State.
    #[inline(always)]
    pub const fn state(self) -> EntryState {
        match field(self.0, 16, 3) {
            0 => EntryState::Free,
            1 => EntryState::Probation,
            2 => EntryState::Syn,
            3 => EntryState::Closing,
            5 => EntryState::Counted,
            6 => EntryState::Affinity,
            _ => EntryState::Confirmed,
        }
    }
    /// Whether it is a flow's: neither free nor a source address's.
    #[inline(always)]
    pub const fn is_flow(self) -> bool {
        !matches!(field(self.0, 16, 3), 0 | 6)
    }
    /// Whether it is one of its backend's `connections`.
    #[inline(always)]
    pub const fn is_counted(self) -> bool {
        field(self.0, 16, 3) == EntryState::Counted as u64
    }
    /// Slot number within the vip's table.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        field(self.0, 19, 17) as u32
    }
    /// The same entry in another state.
    #[inline(always)]
    pub const fn with_state(self, state: EntryState) -> Self {
        Self(self.0 & !(7 << 16) | (state as u64) << 16)
    }
}

/// An entry's advisory word: when it was last seen, seconds since boot (bits 0-31), and the SYN's sequence number
/// in host order (32-63). Written after the entry without a lock; a reader that meets it in between is wrong about
/// an age or a sequence number for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Trace(pub u64);

impl Trace {
    /// Packs a trace.
    #[inline(always)]
    pub const fn new(seen_s: u32, isn: u32) -> Self {
        Self(seen_s as u64 | (isn as u64) << 32)
    }
    /// Last packet, seconds since boot.
    #[inline(always)]
    pub const fn seen_s(self) -> u32 {
        self.0 as u32
    }
    /// The SYN's sequence number.
    #[inline(always)]
    pub const fn isn(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// Seconds since the last packet; a trace from another CPU's next second counts as now.
    #[inline(always)]
    pub const fn age_s(self, now_s: u32) -> u32 {
        let age = now_s.wrapping_sub(self.seen_s());
        if age > i32::MAX as u32 { 0 } else { age }
    }
}

/// A bucket: one cache line.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub struct FlowBucket {
    /// Entries.
    pub entries: [Word; FLOW_WAYS],
    /// The entries' traces.
    pub traces: [Word; FLOW_WAYS],
}

const _: () = assert!(size_of::<FlowBucket>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_fields() {
        let hash = 0xdead_beef_cafe_f00d;
        let entry = Entry::new(hash, 131_070, 65_535, EntryState::Closing);
        assert_eq!((entry.backend(), entry.slot(), entry.state()), (65_535, 131_070, EntryState::Closing));
        assert!(entry.same_flow(entry.with_state(EntryState::Confirmed)));
        assert_eq!(entry.with_state(EntryState::Syn).state(), EntryState::Syn);
        assert!(!entry.same_flow(Entry::new(hash, 131_069, 65_535, EntryState::Closing)));
        assert!(!entry.same_flow(Entry::new(hash ^ 1 << 20, 131_070, 65_535, EntryState::Closing)));
        assert!(!entry.same_flow(Entry::new(hash ^ 1 << 47, 131_070, 65_535, EntryState::Closing)));
    }

    #[test]
    fn an_age_is_never_negative() {
        assert_eq!(Trace::new(10, 7).age_s(15), 5);
        assert_eq!(Trace::new(16, 7).age_s(15), 0);
        assert_eq!(Trace::new(10, 7).isn(), 7);
    }
}
