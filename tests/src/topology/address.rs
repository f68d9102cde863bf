//! The address plan: who has which IPv4 and IPv6 address, MAC and prefix. Pure arithmetic, nothing is set.
//!
//! Vips come from the documentation prefixes, everything else is private. Indexes count from 0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Vips of the tests, IPv4.
pub const VIP4_PREFIX: &str = "203.0.113.0/24";
/// Vips of the tests, IPv6.
pub const VIP6_PREFIX: &str = "2001:db8:f::/48";
/// All client networks, IPv4.
pub(crate) const CLIENTS4: &str = "10.50.0.0/16";
/// All client networks, IPv6.
pub(crate) const CLIENTS6: &str = "fd00:50::/32";

/// Most backends, clients or vips that the plan has room for, each.
pub const MEMBERS_MAX: usize = 200;

/// One address of each family on the same link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The /24 and the /64 around them.
    pub(crate) fn networks(&self) -> (String, String) {
        let [a, b, c, _] = self.v4.octets();
        let [e, f, g, h, ..] = self.v6.segments();
        let net6 = Ipv6Addr::new(e, f, g, h, 0, 0, 0, 0);
        (format!("{a}.{b}.{c}.0/24"), format!("{net6}/64"))
    }
}

/// The `index`-th vip.
#[must_use]
pub fn vip(index: usize) -> Pair {
    let low = octet(10 + index);
    Pair {
        v4: Ipv4Addr::new(203, 0, 113, low),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, low.into()),
    }
}

/// A client, on a link of its own.
pub(crate) fn client(index: usize) -> Pair {
    pair(50, index, 2)
}

/// The first hop of a client.
pub(crate) fn client_gateway(index: usize) -> Pair {
    pair(50, index, 1)
}

/// The low-MTU link: the side of the edge.
pub(crate) fn edge() -> Pair {
    pair(51, 0, 2)
}

/// The low-MTU link: the side of the router.
pub(crate) fn edge_gateway() -> Pair {
    pair(51, 0, 1)
}

/// The router on the fabric.
pub(crate) fn fabric_gateway() -> Pair {
    pair(60, 0, 1)
}

/// The node on the fabric.
pub(crate) fn node() -> Pair {
    pair(60, 0, 2)
}

/// A backend on the node's segment.
pub(crate) fn switched_backend(index: usize) -> Pair {
    pair(60, 0, 10 + index)
}

/// The router on the backends' own segment.
pub(crate) fn backends_gateway() -> Pair {
    pair(70, 0, 1)
}

/// A backend behind the router.
pub(crate) fn routed_backend(index: usize) -> Pair {
    pair(70, 0, 10 + index)
}

/// A backend on its own cable to the node.
pub(crate) fn direct_backend(index: usize) -> Pair {
    pair(80, index, 2)
}

/// The node on the cable to that backend.
pub(crate) fn direct_gateway(index: usize) -> Pair {
    pair(80, index, 1)
}

/// A fixed, locally administered MAC address: `link` says which kind of cable, `end` which plug.
pub(crate) fn mac(link: u8, index: usize, end: u8) -> String {
    format!("02:00:00:{link:02x}:{:02x}:{end:02x}", octet(index))
}

fn pair(net: u8, subnet: usize, host: usize) -> Pair {
    let (subnet, host) = (octet(subnet), octet(host));
    Pair {
        v4: Ipv4Addr::new(10, net, subnet, host),
        // The decimal digits of the IPv4 net read as the IPv6 group: 10.50.x -> fd00:50:x.
        v6: Ipv6Addr::new(0xfd00, hex_digits(net), hex_digits(subnet), 0, 0, 0, 0, hex_digits(host)),
    }
}

fn hex_digits(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

fn octet(number: usize) -> u8 {
    u8::try_from(number).expect("MEMBERS_MAX keeps every number below 256")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_read_alike() {
        assert_eq!(client(3).v4.to_string(), "10.50.3.2");
        assert_eq!(client(3).v6.to_string(), "fd00:50:3::2");
        assert_eq!(switched_backend(190).v6.to_string(), "fd00:60::200");
        assert_eq!(vip(0).v4.to_string(), "203.0.113.10");
        assert_eq!(client(3).networks(), ("10.50.3.0/24".to_owned(), "fd00:50:3::/64".to_owned()));
    }
}
