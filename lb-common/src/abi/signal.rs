//! What traffic by itself says of a backend: counters by backend row and kind, one for each CPU. Written by the data plane.

/// Kinds of a backend's signals; the counter of one is at `row * SIGNALS_PER_BACKEND + kind`. The first two
/// and the last count packets of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// A SYN was sent to it.
    Syn = 0,
    /// The same SYN was sent to it again: nobody answered the first. Counted where new flows are remembered.
    Repeated = 1,
    /// It answered a SYN with a reset. Seen where its answers come this way (mode nat).
    Reset = 2,
    /// It, or a router on the way, said that it cannot be reached. Seen where its answers come this way.
    Unreachable = 3,
    /// As [`Signal::Repeated`], of a flow that nobody remembers, but that is sampled: counts one in
    /// [`SYN_SAMPLE`](crate::limits::SYN_SAMPLE) of them.
    SampledRepeated = 4,
}

/// Counters of a backend.
pub const SIGNALS_PER_BACKEND: u32 = 5;

impl Signal {
    /// The index of a backend's counter.
    #[inline(always)]
    pub const fn index(self, row: u32) -> u32 {
        row.wrapping_mul(SIGNALS_PER_BACKEND) + self as u32
    }
}
