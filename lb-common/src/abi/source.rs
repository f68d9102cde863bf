//! The node's own addresses: outer source of tunnels, source of NAT. A number, once given, keeps its address while
//! any backend row names it.

use super::word::Word;
use crate::addr::Addr;

/// One source address. Written by the daemon before a backend names it.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SourceRow {
    /// The address; all 0 = free.
    pub addr: [Word; 2],
}

const _: () = assert!(size_of::<SourceRow>() == 16);

impl SourceRow {
    /// The address.
    #[inline(always)]
    pub fn address(&self) -> Addr {
        Addr::from_words([self.addr[0].load(), self.addr[1].load()])
    }
}
