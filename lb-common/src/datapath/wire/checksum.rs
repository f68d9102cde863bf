//! The Internet checksum (RFC 1071) and its incremental change (RFC 1624).
//!
//! Units are summed as they lie in memory: the ones' complement sum does not care about byte order (RFC 1071, 2B).

use crate::addr::Addr;
use crate::be::Be16;

/// A ones' complement sum on its way.
#[derive(Clone, Copy, Debug)]
pub struct Sum(u64);

impl Sum {
    /// An empty sum, for a whole checksum.
    #[inline(always)]
    pub const fn start() -> Self {
        Self(0)
    }
    /// An empty change, for an incremental one.
    #[inline(always)]
    pub const fn change() -> Self {
        Self(0)
    }
    /// Adds a unit as it lies in memory.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, unit: u16) -> Self {
        Self(self.0 + unit as u64)
    }
    /// Adds two units as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn add32(self, units: u32) -> Self {
        Self(self.0 + units as u64)
    }
    /// Adds an address of either family: the constant words of a v4-mapped one are left out.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, addr: &Addr) -> Self {
        if addr.is_v4() {
            return self.add32(addr.0[3]);
        }
        self.add32(addr.0[0]).add32(addr.0[1]).add32(addr.0[2]).add32(addr.0[3])
    }
    /// One unit replaced by another: `~m + m'` (RFC 1624, equation 3).
    #[inline(always)]
    #[must_use]
    pub const fn replace(self, old: u16, new: u16) -> Self {
        self.add(!old).add(new)
    }
    /// Two units replaced.
    #[inline(always)]
    #[must_use]
    pub const fn replace32(self, old: u32, new: u32) -> Self {
        self.add32(!old).add32(new)
    }
    /// An address replaced by one of the same family.
    #[inline(always)]
    #[must_use]
    pub const fn replace_address(self, old: &Addr, new: &Addr) -> Self {
        if old.is_v4() {
            return self.replace32(old.0[3], new.0[3]);
        }
        self.replace32(old.0[0], new.0[0])
            .replace32(old.0[1], new.0[1])
            .replace32(old.0[2], new.0[2])
            .replace32(old.0[3], new.0[3])
    }
    /// Two sums in one.
    #[inline(always)]
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
    #[inline(always)]
    const fn fold(self) -> u16 {
        let mut sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }
    /// The checksum of what was added.
    #[inline(always)]
    pub const fn finish(self) -> Be16 {
        Be16::from_raw(!self.fold())
    }
    /// `checksum` with this change applied: `~(~HC + ~m + m')` (RFC 1624, equation 3).
    #[inline(always)]
    pub const fn apply(self, checksum: Be16) -> Be16 {
        self.add(!checksum.raw()).finish()
    }
}

/// The pseudo header of a transport checksum (RFC 9293 section 3.1, RFC 8200 section 8.1); `length` in bytes.
#[inline(always)]
pub const fn pseudo_header(src: &Addr, dst: &Addr, protocol: u8, length: u16) -> Sum {
    Sum::start().address(src).address(dst).add(Be16::new(protocol as u16).raw()).add(Be16::new(length).raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The checksum by the letter of RFC 1071, over bytes.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest::proptest! {
        #[test]
        fn sums_as_the_rfc_says(units in proptest::collection::vec(0u16.., 0..40)) {
            let bytes: Vec<u8> = units.iter().flat_map(|u| u.to_ne_bytes()).collect();
            let sum = units.iter().fold(Sum::start(), |sum, unit| sum.add(*unit));
            proptest::prop_assert_eq!(sum.finish().host(), plain(&bytes));
        }

        #[test]
        fn a_change_equals_summing_again(
            units in proptest::collection::vec(0u16.., 4..40), at in 0usize..3, new: u32,
        ) {
            let before = units.iter().fold(Sum::start(), |sum, unit| sum.add(*unit)).finish();
            let old = u32::from(units[at]) | u32::from(units[at + 1]) << 16;
            let mut changed = units.clone();
            changed[at] = new as u16;
            changed[at + 1] = (new >> 16) as u16;
            let after = changed.iter().fold(Sum::start(), |sum, unit| sum.add(*unit)).finish();
            let incremental = Sum::change().replace32(old, new).apply(before);
            // 0x0000 and 0xffff are both zero in ones' complement; RFC 1624 may give either for all-zero data.
            let zero = |c: Be16| if c.raw() == 0xffff { 0 } else { c.raw() };
            proptest::prop_assert_eq!(zero(incremental), zero(after));
        }
    }
}
