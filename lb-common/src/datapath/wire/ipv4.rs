//! IPv4 (RFC 791).

use super::checksum::Sum;
use crate::be::{Be16, Be32};
use bytemuck::{Pod, Zeroable};

/// An IPv4 header without options, 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (high 4 bits) and header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN (2).
    pub tos: u8,
    /// Length of header and data, bytes.
    pub total_length: Be16,
    /// Identification, for fragments.
    pub id: Be16,
    /// Flags (3 bits) and fragment offset in 8 bytes.
    pub fragment: Be16,
    /// Time to live, hops.
    pub ttl: u8,
    /// Protocol number of the data.
    pub protocol: u8,
    /// Checksum of the header.
    pub checksum: Be16,
    /// Source address.
    pub src: Be32,
    /// Destination address.
    pub dst: Be32,
}

/// Size of [`Ipv4`].
pub const IPV4: u16 = 20;
/// Don't fragment.
pub const DF: u16 = 0x4000;
/// More fragments.
pub const MF: u16 = 0x2000;
/// Fragment offset.
pub const OFFSET: u16 = 0x1fff;

const _: () = assert!(size_of::<Ipv4>() == 20);

impl Ipv4 {
    /// Length of header and options, bytes, as the header says.
    #[inline(always)]
    pub const fn header_length(&self) -> u16 {
        (self.version_ihl & 0xf) as u16 * 4
    }
    /// Whether this is a fragment, first or later.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment.host() & (MF | OFFSET) != 0
    }
    /// Whether the sender forbids fragmenting.
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        self.fragment.host() & DF != 0
    }
    /// The TTL and protocol as the 16-bit unit of the checksum that they lie in.
    #[inline(always)]
    const fn ttl_unit(&self) -> u16 {
        u16::from_ne_bytes([self.ttl, self.protocol])
    }
    /// Takes one hop off, keeping the checksum right (RFC 1624, equation 3).
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        self.set_ttl(self.ttl.wrapping_sub(1));
    }
    /// Replaces DSCP and ECN, keeping the checksum right.
    #[inline(always)]
    pub fn set_tos(&mut self, tos: u8) {
        let old = u16::from_ne_bytes([self.version_ihl, self.tos]);
        self.tos = tos;
        let new = u16::from_ne_bytes([self.version_ihl, tos]);
        self.checksum = Sum::change().replace(old, new).apply(self.checksum);
    }
    /// Replaces the TTL, keeping the checksum right.
    #[inline(always)]
    pub fn set_ttl(&mut self, ttl: u8) {
        let old = self.ttl_unit();
        self.ttl = ttl;
        self.checksum = Sum::change().replace(old, self.ttl_unit()).apply(self.checksum);
    }
    /// Fills the checksum of a header without options.
    #[inline(always)]
    pub fn seal(&mut self) {
        self.checksum = Be16::from_raw(0);
        let mut sum = Sum::start();
        let units: &[u16; 10] = bytemuck::cast_ref(self);
        for unit in units {
            sum = sum.add(*unit);
        }
        self.checksum = sum.finish();
    }
}
