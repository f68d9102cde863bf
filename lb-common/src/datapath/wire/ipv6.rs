//! IPv6 and its extension headers (RFC 8200).

use crate::be::{Be16, Be32};
use bytemuck::{Pod, Zeroable};

/// An IPv6 header, 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_label: Be32,
    /// Length of what follows this header, bytes.
    pub payload_length: Be16,
    /// Type of the next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [Be32; 4],
    /// Destination address.
    pub dst: [Be32; 4],
}

/// The start of an extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Extension {
    /// Type of the next header.
    pub next_header: u8,
    /// Length of this one in units of 8 bytes, without the first 8.
    pub length_8: u8,
}

/// Size of [`Ipv6`].
pub const IPV6: u16 = 40;
/// Hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Routing.
pub const ROUTING: u8 = 43;
/// Fragment.
pub const FRAGMENT: u8 = 44;
/// Destination options.
pub const DESTINATION: u8 = 60;

const _: () = assert!(size_of::<Ipv6>() == 40);

impl Ipv6 {
    /// Traffic class: DSCP (6 bits) and ECN (2).
    #[inline(always)]
    pub const fn class(&self) -> u8 {
        (self.version_class_label.host() >> 20) as u8
    }
}
