//! One aligned 64-bit word of a map row: written whole, read whole.
//!
//! On the host it is an atomic. The BPF target has no atomic load below its newest instruction set, so there it is a
//! plain cell between compiler fences: one aligned 8-byte load or store, which the kernel's JITs keep whole.

#[cfg(target_arch = "bpf")]
use core::cell::Cell;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::AtomicU64;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
#[cfg(target_arch = "bpf")]
use core::sync::atomic::{Ordering::SeqCst, compiler_fence};

/// A word. Unordered (`Relaxed`) access suffices: each word is complete in itself, and what belongs together is
/// published by the one word that is written last.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word(Inner);

#[cfg(not(target_arch = "bpf"))]
type Inner = AtomicU64;
#[cfg(target_arch = "bpf")]
type Inner = Cell<u64>;

#[cfg(not(target_arch = "bpf"))]
impl Word {
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
    /// Adds to it, wrapping around.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change as u64, AcqRel);
    }
    /// Replaces `old` by `new` if it is still there.
    pub fn compare_swap(&self, old: u64, new: u64) -> bool {
        self.0.compare_exchange(old, new, AcqRel, Relaxed).is_ok()
    }
}

#[cfg(target_arch = "bpf")]
impl Word {
    /// Reads it.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        let value = self.0.get();
        compiler_fence(SeqCst);
        value
    }
    /// Writes it.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        self.0.set(value);
        compiler_fence(SeqCst);
    }
    /// Where it lies: the kernel side swaps it by an instruction of its own.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut u64 {
        self.0.as_ptr()
    }
}

impl Word {
    /// A word with a value.
    pub const fn new(value: u64) -> Self {
        Self(Inner::new(value))
    }
}

/// The bits `[shift, shift + width)` of a word.
#[inline(always)]
pub const fn field(word: u64, shift: u32, width: u32) -> u64 {
    word >> shift & ((1 << width) - 1)
}
