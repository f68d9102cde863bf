//! One aligned 64-bit word of a map row: written whole, read whole.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A word. `Relaxed` suffices: each word is complete in itself, and what belongs together is published by the
/// one word that is written last.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word(AtomicU64);

impl Word {
    /// A word with a value.
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
    /// Reads it.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }
    /// Writes it.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
    /// The atomic itself: the kernel side swaps it by an instruction of its own, the host by the standard library.
    #[inline(always)]
    pub const fn atomic(&self) -> &AtomicU64 {
        &self.0
    }
    /// Replaces `old` by `new` if it is still there, on the host. (The BPF target has no such method; see
    /// [`crate::datapath::tables::Tables::compare_swap`].)
    #[cfg(not(target_arch = "bpf"))]
    pub fn compare_swap(&self, old: u64, new: u64) -> bool {
        self.0.compare_exchange(old, new, Ordering::AcqRel, Relaxed).is_ok()
    }
}

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::Ordering;

/// The bits `[shift, shift + width)` of a word.
#[inline(always)]
pub const fn field(word: u64, shift: u32, width: u32) -> u64 {
    word >> shift & ((1 << width) - 1)
}
