//! An IP address of either family in 16 bytes: IPv6 as it is, IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
//!
//! One width for both families keeps one key, one row and one path for both; the family is part of the value.

use crate::be::{Be16, Be32};
use bytemuck::{Pod, Zeroable};
use core::net::{IpAddr, Ipv6Addr};

/// The third word of a v4-mapped address, as it lies in memory.
const V4_MARK: u32 = 0x0000_ffff_u32.to_be();

/// An address in network byte order, four words as they lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// An IPv4 address from its field in a header.
    #[inline(always)]
    pub const fn v4(field: Be32) -> Self {
        Self([0, 0, V4_MARK, field.raw()])
    }
    /// An IPv6 address from its field in a header.
    #[inline(always)]
    pub fn v6(field: &[Be32; 4]) -> Self {
        Self([field[0].raw(), field[1].raw(), field[2].raw(), field[3].raw()])
    }
    /// Whether this is a v4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == V4_MARK
    }
    /// The field of an IPv4 header.
    #[inline(always)]
    pub const fn v4_field(&self) -> Be32 {
        Be32::from_raw(self.0[3])
    }
    /// The field of an IPv6 header.
    #[inline(always)]
    pub const fn v6_field(&self) -> [Be32; 4] {
        [
            Be32::from_raw(self.0[0]),
            Be32::from_raw(self.0[1]),
            Be32::from_raw(self.0[2]),
            Be32::from_raw(self.0[3]),
        ]
    }
    /// As the two words of a map row.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        [self.0[0] as u64 | (self.0[1] as u64) << 32, self.0[2] as u64 | (self.0[3] as u64) << 32]
    }
    /// From the two words of a map row.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self([words[0] as u32, (words[0] >> 32) as u32, words[1] as u32, (words[1] >> 32) as u32])
    }
    /// As the standard library's type; a v4-mapped address becomes IPv4.
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(bytemuck::cast::<[u32; 4], [u8; 16]>(self.0)).to_canonical()
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        let bytes = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self(bytemuck::cast(bytes))
    }
}

/// A hardware address in the low 48 bits, first octet lowest, as it lies in memory on a little-endian machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub u64);

impl Mac {
    /// From its three 16-bit groups as they lie in a frame.
    #[inline(always)]
    pub const fn from_field(field: &[Be16; 3]) -> Self {
        Self(field[0].raw() as u64 | (field[1].raw() as u64) << 16 | (field[2].raw() as u64) << 32)
    }
    /// As it lies in a frame.
    #[inline(always)]
    pub const fn field(self) -> [Be16; 3] {
        [
            Be16::from_raw(self.0 as u16),
            Be16::from_raw((self.0 >> 16) as u16),
            Be16::from_raw((self.0 >> 32) as u16),
        ]
    }
    /// From six octets.
    pub const fn from_octets(o: [u8; 6]) -> Self {
        Self(u64::from_le_bytes([o[0], o[1], o[2], o[3], o[4], o[5], 0, 0]))
    }
    /// As six octets.
    pub const fn octets(self) -> [u8; 6] {
        let b = self.0.to_le_bytes();
        [b[0], b[1], b[2], b[3], b[4], b[5]]
    }
    /// Broadcast or multicast: the group bit of the first octet (IEEE 802).
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0 & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_round_trip() {
        for text in ["203.0.113.10", "2001:db8::1", "::1", "0.0.0.0"] {
            let ip: IpAddr = text.parse().unwrap();
            let addr = Addr::from(ip);
            assert_eq!(addr.ip(), ip);
            assert_eq!(Addr::from_words(addr.words()), addr);
            assert_eq!(addr.is_v4(), ip.is_ipv4());
        }
        assert_eq!(Addr::v4(Be32::new(0xcb00_710a)).ip().to_string(), "203.0.113.10");
    }

    #[test]
    fn mac_round_trips() {
        let mac = Mac::from_octets([0x02, 1, 2, 3, 4, 5]);
        assert_eq!(mac.octets(), [0x02, 1, 2, 3, 4, 5]);
        assert_eq!(Mac::from_field(&mac.field()), mac);
        assert_eq!(bytemuck::bytes_of(&mac.field()), [0x02, 1, 2, 3, 4, 5]);
        assert!(!mac.is_group() && Mac::from_octets([0x33, 0x33, 0, 0, 0, 1]).is_group());
    }
}
