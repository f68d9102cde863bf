//! Which addresses a vip or a backend may have. A backend on the node itself, on a link-local service or on a group
//! address would make the balancer, or its probes, reach what no client should reach through it.

use super::draft::Draft;
use crate::code::Code;
use std::net::IpAddr;

/// Notes a fault if the address of a vip or a backend is none that clients or the balancer could send to.
pub(super) fn check(draft: &mut Draft, code: Code, address: IpAddr, place: impl Into<String>) {
    if let Some(what) = unusable(address) {
        draft.fault(code, place, format!("{address} is {what}"));
    }
}

/// What makes an address unusable.
fn unusable(address: IpAddr) -> Option<&'static str> {
    let (link_local, broadcast, this_network) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast(), v4.octets()[0] == 0),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false, false),
    };
    let reserved = matches!(address, IpAddr::V4(v4) if v4.octets()[0] >= 240);
    match () {
        () if address.is_unspecified() => Some("the unspecified address"),
        () if address.is_loopback() => Some("a loopback address"),
        () if address.is_multicast() => Some("a multicast address"),
        () if link_local => Some("a link-local address"),
        () if broadcast => Some("the broadcast address"),
        () if this_network || reserved => Some("a reserved address"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::unusable;

    #[test]
    fn only_unicast_addresses_of_others_are_usable() {
        for good in ["192.0.2.1", "10.0.0.1", "100.64.0.1", "2001:db8::1", "fd00::1"] {
            assert_eq!(unusable(good.parse().unwrap()), None, "{good}");
        }
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(unusable(bad.parse().unwrap()).is_some(), "{bad}");
        }
    }
}
