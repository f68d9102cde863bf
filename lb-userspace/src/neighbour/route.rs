//! The kernel's own answer to "how does a packet reach this address?", and its neighbours.

use std::io::Result;
use std::net::IpAddr;

use lb_common::addr::Mac;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::Netlink;

/// Where a packet to an address goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Out of a device.
    Out {
        /// The device's index.
        ifindex: u32,
        /// The gateway, or the address itself.
        next_hop: IpAddr,
        /// Our own address that the packet would carry.
        source: Option<IpAddr>,
        /// MTU of the route, if it has one of its own, bytes.
        mtu: Option<u32>,
    },
    /// To the node itself.
    Local,
    /// Nowhere; why.
    Refused(String),
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// What a route that throws packets away without a word is called.
pub(super) const BLACKHOLE: &str = "its route is a blackhole";

/// Asks the kernel for the route to an address.
pub(super) fn look_up(netlink: &mut Netlink, to: IpAddr) -> Route {
    let mut question = RouteMessage::default();
    question.header.address_family = family(to);
    question.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    question.attributes.push(RouteAttribute::Destination(to.into()));
    match netlink.ask(RouteNetlinkMessage::GetRoute(question), 0) {
        Ok(answers) => answers.into_iter().find_map(|answer| of(answer, to)).unwrap_or_else(no_route),
        Err(error) => refused(&error),
    }
}

fn no_route() -> Route {
    Route::Refused("no route".into())
}

/// The kernel answers with an error where a route is of a kind that sends nothing (`fib_props` in Linux).
fn refused(error: &std::io::Error) -> Route {
    match error.raw_os_error() {
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => no_route(),
        Some(libc::EINVAL) => Route::Refused(BLACKHOLE.into()),
        Some(libc::EACCES) => Route::Refused("its route is prohibited".into()),
        _ => Route::Refused(format!("no route: {error}")),
    }
}

fn of(answer: RouteNetlinkMessage, to: IpAddr) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Anycast => return Some(Route::Local),
        kind => return Some(Route::Refused(format!("its route is of the kind {kind:?}"))),
    }
    let (mut ifindex, mut next_hop, mut source, mut mtu) = (None, to, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(address) => next_hop = ip(address)?,
            RouteAttribute::Via(RouteVia::Inet6(address)) => next_hop = (*address).into(),
            RouteAttribute::Via(RouteVia::Inet(address)) => next_hop = (*address).into(),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Route::Out { ifindex: ifindex?, next_hop, source, mtu })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its hardware address.
    pub(super) mac: Mac,
    /// Whether somebody set it by hand, or the device has no such question: it is not asked for.
    pub(super) fixed: bool,
}

/// A neighbour's device and address, with what is known of it if that is usable.
pub(super) type Neighbour = ((u32, IpAddr), Option<Known>);

/// What a message says about a neighbour, if it is one of an IP address. `gone`: it was deleted.
pub(super) fn neighbour(message: &NeighbourMessage, gone: bool) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::from(*v6)),
            NeighbourAttribute::LinkLayerAddress(octets) => {
                mac = octets.as_slice().try_into().ok().map(Mac::from_octets);
            }
            _ => {}
        }
    }
    let state = message.header.state;
    let usable = !gone && !matches!(state, NeighbourState::Failed | NeighbourState::Incomplete);
    let fixed = matches!(state, NeighbourState::Permanent | NeighbourState::Noarp);
    let known = mac.filter(|mac| usable && mac.0 != 0).map(|mac| Known { mac, fixed });
    Some(((message.header.ifindex, address?), known))
}

/// All neighbours.
///
/// # Errors
/// As the kernel says.
pub(super) fn neighbours(netlink: &mut Netlink) -> Result<Vec<Neighbour>> {
    let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let answers = netlink.ask(question, NLM_F_DUMP)?;
    let found = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(message, false),
        _ => None,
    });
    Ok(found.collect())
}

/// Has the kernel ask for a neighbour (ARP or ND), or ask again whether it is still there, as if it had something
/// to send. Never for one that is fixed: the kernel takes the question for leave to forget what was set by hand.
///
/// # Errors
/// As the kernel says.
pub(super) fn solicit(netlink: &mut Netlink, ifindex: u32, next_hop: IpAddr) -> Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(next_hop);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    let address = match next_hop {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes.push(NeighbourAttribute::Destination(address));
    netlink.ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_ACK).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_itself_is_local() {
        let mut netlink = Netlink::new().unwrap();
        assert_eq!(look_up(&mut netlink, "127.0.0.1".parse().unwrap()), Route::Local);
    }

    #[test]
    fn a_neighbour_that_failed_has_no_usable_address() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        let ip = "10.0.0.3".parse().unwrap();
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 3]));
        let mac = Mac::from_octets([2, 0, 0, 0, 0, 3]);
        let (asked, fixed) = (Some(Known { mac, fixed: false }), Some(Known { mac, fixed: true }));
        for (state, gone, expected) in [
            (NeighbourState::Reachable, false, asked),
            (NeighbourState::Stale, false, asked),
            (NeighbourState::Permanent, false, fixed),
            (NeighbourState::Noarp, false, fixed),
            (NeighbourState::Permanent, true, None),
            (NeighbourState::Reachable, true, None),
            (NeighbourState::Failed, false, None),
            (NeighbourState::Incomplete, false, None),
        ] {
            message.header.state = state;
            assert_eq!(neighbour(&message, gone), Some(((3, ip.into()), expected)));
        }
    }
}
