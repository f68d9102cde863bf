//! Memory that the daemon needs no more: it goes back to the system.
//!
//! The allocator keeps what was freed for a while and looks again only when the same thread frees more. The daemon's many
//! threads are idle most of the time, and what a large command once took stayed with them: three times what is in use.

use libmimalloc_sys::{_mi_option_last, mi_option_set, mi_option_t};

/// `mi_option_purge_delay` of mimalloc.h: how long what was freed is kept, milliseconds.
const PURGE_DELAY: mi_option_t = 15;
const _: () = assert!(_mi_option_last == 38, "another version of mimalloc: look up its options' numbers");

/// What a person may have said of it themselves.
const BY_HAND: &str = "MIMALLOC_PURGE_DELAY";

/// From now on, whole pages that were freed go back to the system at once, unless a person said otherwise.
///
/// To be called before there are other threads: with them it does nothing, nor in a process with another allocator.
pub fn give_back_at_once() {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone && std::env::var_os(BY_HAND).is_none() {
        // SAFETY: it stores a number in an option that exists, and nobody else reads it meanwhile: there is one thread.
        unsafe { mi_option_set(PURGE_DELAY, 0) }
    }
}
