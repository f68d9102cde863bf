//! Integers in network byte order, as they stand in a frame. Network order exists only inside these types.
//!
//! Alignment is 2: every header in an Ethernet frame starts at an even offset, and the BPF target loads a
//! 2-aligned `u16` at once where it would load an unaligned one byte by byte.

use bytemuck::{Pod, Zeroable};

/// A 16-bit integer in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// From host order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }
    /// In host order.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }
    /// The two bytes as they lie in memory, for hashing, comparing and checksums.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// From the two bytes as they lie in memory.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
}

/// A 32-bit integer in network byte order, aligned to 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Be32([Be16; 2]);

impl Be32 {
    /// From host order.
    #[inline(always)]
    pub const fn new(value: u32) -> Self {
        Self([Be16::new((value >> 16) as u16), Be16::new(value as u16)])
    }
    /// In host order.
    #[inline(always)]
    pub const fn host(self) -> u32 {
        (self.0[0].host() as u32) << 16 | self.0[1].host() as u32
    }
    /// The four bytes as they lie in memory.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        // Memory order: the first half is the low one on a little-endian machine.
        if cfg!(target_endian = "little") {
            self.0[0].raw() as u32 | (self.0[1].raw() as u32) << 16
        } else {
            (self.0[0].raw() as u32) << 16 | self.0[1].raw() as u32
        }
    }
    /// From the four bytes as they lie in memory.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        let (low, high) = (raw as u16, (raw >> 16) as u16);
        if cfg!(target_endian = "little") {
            Self([Be16::from_raw(low), Be16::from_raw(high)])
        } else {
            Self([Be16::from_raw(high), Be16::from_raw(low)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_network_order() {
        assert_eq!(bytemuck::bytes_of(&Be16::new(0x0102)), [1, 2]);
        assert_eq!(bytemuck::bytes_of(&Be32::new(0x0102_0304)), [1, 2, 3, 4]);
        assert_eq!(Be32::new(0x0102_0304).host(), 0x0102_0304);
        assert_eq!(Be32::from_raw(Be32::new(7).raw()).host(), 7);
        assert_eq!(Be32::new(0x0102_0304).raw().to_ne_bytes(), [1, 2, 3, 4]);
    }
}
