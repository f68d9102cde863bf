//! Memory that the daemon needs no more: it goes back to the system.
//!
//! The allocator keeps what was freed for a while and looks again only when the same thread frees more. The daemon's many
//! threads are idle most of the time, and what a large command once took stayed with them: three times what is in use.

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// `mi_option_purge_delay` of mimalloc.h: how long what was freed is kept, milliseconds.
const PURGE_DELAY: mi_option_t = 15;

/// From now on, whole pages that were freed go back to the system at once.
///
/// To be called before there are other threads. Does nothing in a process whose allocator is another one.
pub fn give_back_at_once() {
    // SAFETY: it stores a number in an option that exists, and nobody else reads it meanwhile: there is one thread.
    unsafe { mi_option_set(PURGE_DELAY, 0) }
}
