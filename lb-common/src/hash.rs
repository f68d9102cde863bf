//! The keyed flow hash: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
//!
//! A PRF under a secret 128-bit key, so that nobody outside can aim flows at one backend or one bucket.
//! The message is exactly what `SipHasher13` would hash: source address, destination address (4 or 16 octets
//! each), source port, destination port, protocol; the tests compare with an independent implementation.

use crate::addr::Addr;
use crate::be::Be16;

/// The secret key, two little-endian words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKey(pub [u64; 2]);

/// What a flow is: the 5-tuple as the client's packets carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple {
    /// The client's address.
    pub src: Addr,
    /// The vip's address.
    pub dst: Addr,
    /// The client's port.
    pub src_port: Be16,
    /// The vip's port.
    pub dst_port: Be16,
    /// IP protocol number.
    pub protocol: u8,
}

struct Sip([u64; 4]);

impl Sip {
    #[inline(always)]
    fn new(key: HashKey) -> Self {
        let [k0, k1] = key.0;
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }
    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }
    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

/// Hashes a flow. The upper 32 bits choose the slot, the lower ones bucket and tag of the flow table.
#[inline(always)]
pub fn flow_hash(key: HashKey, tuple: &Tuple) -> u64 {
    let ports = tuple.src_port.raw() as u64 | (tuple.dst_port.raw() as u64) << 16;
    let tail = ports | (tuple.protocol as u64) << 32;
    let mut sip = Sip::new(key);
    if tuple.dst.is_v4() {
        sip.absorb(tuple.src.0[3] as u64 | (tuple.dst.0[3] as u64) << 32);
        sip.absorb(tail | 13 << 56);
    } else {
        for address in [&tuple.src, &tuple.dst] {
            let words = address.words();
            sip.absorb(words[0]);
            sip.absorb(words[1]);
        }
        sip.absorb(tail | 37 << 56);
    }
    sip.finish()
}

/// Which of `count` slots a hash falls into, without a division (Lemire, "Fast random integer generation in an
/// interval", 2019): the upper 32 bits of the hash scaled to the range.
#[inline(always)]
pub const fn slot_of(hash: u64, count: u32) -> u32 {
    (((hash >> 32) * count as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;
    use core::net::IpAddr;
    use siphasher::sip::SipHasher13;
    use std::vec::Vec;

    fn reference(key: HashKey, src: IpAddr, dst: IpAddr, ports: (u16, u16), protocol: u8) -> u64 {
        let mut bytes = Vec::new();
        for ip in [src, dst] {
            match ip {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend(ports.0.to_be_bytes());
        bytes.extend(ports.1.to_be_bytes());
        bytes.push(protocol);
        let mut hasher = SipHasher13::new_with_keys(key.0[0], key.0[1]);
        hasher.write(&bytes);
        hasher.finish()
    }

    proptest::proptest! {
        #[test]
        fn equals_siphash_1_3(
            k in proptest::array::uniform2(0u64..), v4: (u32, u32), v6: (u128, u128),
            ports: (u16, u16), protocol: u8,
        ) {
            let key = HashKey(k);
            let pairs: [(IpAddr, IpAddr); 2] = [
                (core::net::Ipv4Addr::from(v4.0).into(), core::net::Ipv4Addr::from(v4.1).into()),
                (core::net::Ipv6Addr::from(v6.0).into(), core::net::Ipv6Addr::from(v6.1 | 1 << 127).into()),
            ];
            for (src, dst) in pairs {
                let tuple = Tuple {
                    src: src.into(), dst: dst.into(),
                    src_port: Be16::new(ports.0), dst_port: Be16::new(ports.1), protocol,
                };
                proptest::prop_assert_eq!(flow_hash(key, &tuple), reference(key, src, dst, ports, protocol));
            }
        }
    }

    #[test]
    fn slots_stay_in_range_and_cover_it() {
        assert_eq!(slot_of(0, 65_537), 0);
        assert_eq!(slot_of(u64::MAX, 65_537), 65_536);
        let mut seen = [false; 7];
        for i in 0..7u64 {
            seen[slot_of((i << 32) * (u32::MAX as u64 / 7 + 1), 7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
    }
}
