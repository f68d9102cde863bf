//! Headers as they lie in a frame, one file per protocol: `repr(C)`, alignment 2, integers in network order.
//! Only layouts, constants and arithmetic; what to make of a header is the stages' business.

pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod transport;
