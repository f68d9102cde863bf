//! What the kernel and user space share: map layouts, identifiers, limits, reasons, the flow hash, the Maglev
//! table builder and the packet path itself.
//!
//! Invariants:
//! - no `unsafe`, no allocation, no I/O, no clock: time and tables enter through [`datapath::tables::Tables`];
//! - the very code that runs in XDP is an ordinary library here, so it is tested, fuzzed and explained on the host;
//! - every layout in [`abi`] is `repr(C)` and made of integers or [`abi::word::Word`]s only.
#![cfg_attr(not(any(test, feature = "host")), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod addr;
pub mod be;
pub mod datapath;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod maglev;
pub mod reason;
