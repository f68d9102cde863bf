//! Links and neighbours as they are known, and what they make of a route: the way to a backend. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::abi::egress::Tags;
use lb_common::addr::Mac;
use lb_control::plan::Way;

use super::route::{Known, Route};
use crate::netlink::Link;

/// VLAN priority and drop bits are never set: 12 bits of id.
const VLAN_ID: u16 = 0xfff;

/// Links and neighbours, as the kernel last said.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) links: BTreeMap<u32, Link>,
    /// Next hops whose hardware address is known, by device and address.
    pub(super) neighbours: BTreeMap<(u32, IpAddr), Known>,
}

/// A way out of the node: the device below all VLANs, and the tags.
#[derive(Debug, PartialEq, Eq)]
struct Exit<'w> {
    device: &'w Link,
    tags: Tags,
}

impl World {
    /// The way to a backend that a route leads to; why not, in a few words.
    pub(super) fn way(&self, route: &Route) -> Result<Way, String> {
        let Route::Out { ifindex, next_hop, source, mtu } = route else {
            let Route::Refused(why) = route else { return Err(LOCAL.into()) };
            return Err(why.clone());
        };
        let link = self.links.get(ifindex).ok_or("its route leaves by a device that is gone")?;
        if !link.up {
            return Err(format!("`{}` is down", link.name));
        }
        let exit = self.exit(link)?;
        let source =
            source.ok_or_else(|| format!("the node has no address of its own on `{}`", link.name))?;
        let mtu = mtu.map_or(link.mtu, |of_route| of_route.min(link.mtu));
        Ok(Way {
            next_hop_mac: self.neighbours.get(&(*ifindex, *next_hop)).map(|known| known.mac),
            ifindex: exit.device.ifindex,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            source_mac: Mac::from_octets(link.mac),
            tags: exit.tags,
            source,
        })
    }

    /// Why the neighbour of a route is missing, for people.
    pub(super) fn silence(&self, route: &Route) -> Option<String> {
        let Route::Out { ifindex, next_hop, .. } = route else { return None };
        let name = self.links.get(ifindex).map_or("a device that is gone", |link| &link.name);
        let known = self.neighbours.contains_key(&(*ifindex, *next_hop));
        (!known).then(|| format!("neighbour {next_hop} does not answer on `{name}`"))
    }

    /// Whether the kernel is to be asked for a next hop now: `refresh` says that it is time for those that are known, too.
    pub(super) fn asks(&self, hop: (u32, IpAddr), refresh: bool) -> bool {
        self.neighbours.get(&hop).is_none_or(|known| refresh && !known.fixed)
    }

    /// Unfolds VLAN devices into the device below them and its tags.
    fn exit<'w>(&'w self, link: &'w Link) -> Result<Exit<'w>, String> {
        // Innermost tag first: that is how devices lie on each other.
        let mut vlans = Vec::new();
        let mut device = link;
        while let Some(vlan) = device.vlan {
            vlans.push(vlan);
            let lower = device.lower.and_then(|lower| self.links.get(&lower));
            device =
                lower.ok_or_else(|| format!("the device below the VLAN `{}` is not here", device.name))?;
            if vlans.len() > 2 {
                break;
            }
        }
        if !device.ethernet {
            return Err(format!("`{}` does not carry Ethernet frames", device.name));
        }
        let tags = match *vlans.as_slice() {
            [] => Tags::NONE,
            [(id, false)] => Tags::one(id & VLAN_ID),
            [(inner, false), (outer, true)] => Tags::two(outer & VLAN_ID, inner & VLAN_ID),
            _ => return Err(format!("`{}`: {STACK}", link.name)),
        };
        Ok(Exit { device, tags })
    }
}

const LOCAL: &str = "it is an address of this node itself, and the balancer sends to other hosts only";
const STACK: &str = "only one 802.1Q tag, or an 802.1Q tag within an 802.1ad one, can be written";

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, name: &str) -> Link {
        Link {
            name: name.into(),
            ifindex,
            up: true,
            ethernet: true,
            mtu: 1500,
            mac: [2; 6],
            ..Link::default()
        }
    }

    fn vlan(ifindex: u32, name: &str, lower: u32, id: u16, outer: bool) -> Link {
        Link { vlan: Some((id, outer)), lower: Some(lower), kind: "vlan".into(), ..link(ifindex, name) }
    }

    fn out(ifindex: u32) -> Route {
        Route::Out {
            ifindex,
            next_hop: "10.0.0.3".parse().unwrap(),
            source: Some("10.0.0.1".parse().unwrap()),
            mtu: None,
        }
    }

    fn world(links: Vec<Link>) -> World {
        let links = links.into_iter().map(|link| (link.ifindex, link)).collect();
        World { links, neighbours: BTreeMap::new() }
    }

    #[test]
    fn a_neighbour_makes_the_way_whole() {
        let mut world = world(vec![link(2, "eth0")]);
        let way = world.way(&out(2)).unwrap();
        assert_eq!((way.next_hop_mac, way.ifindex, way.mtu), (None, 2, 1500));
        assert_eq!(world.silence(&out(2)).unwrap(), "neighbour 10.0.0.3 does not answer on `eth0`");
        let mac = Mac::from_octets([2, 0, 0, 0, 0, 3]);
        world.neighbours.insert((2, "10.0.0.3".parse().unwrap()), Known { mac, fixed: false });
        assert_eq!(world.way(&out(2)).unwrap().next_hop_mac, Some(mac));
        assert_eq!(world.silence(&out(2)), None);
    }

    #[test]
    fn what_was_set_by_hand_is_not_asked_for() {
        let mut world = world(vec![link(2, "eth0")]);
        let hop = (2, "10.0.0.3".parse().unwrap());
        let asks = |world: &World| (world.asks(hop, false), world.asks(hop, true));
        assert_eq!(asks(&world), (true, true));
        let mac = Mac::from_octets([2, 0, 0, 0, 0, 3]);
        world.neighbours.insert(hop, Known { mac, fixed: false });
        assert_eq!(asks(&world), (false, true));
        world.neighbours.insert(hop, Known { mac, fixed: true });
        assert_eq!(asks(&world), (false, false));
    }

    #[test]
    fn vlans_unfold_outermost_first() {
        let mut lower = link(2, "eth0");
        lower.mtu = 9000;
        let world = world(vec![
            lower,
            vlan(3, "eth0.7", 2, 7, false),
            vlan(4, "s", 2, 100, true),
            vlan(5, "c", 4, 9, false),
        ]);
        let way = world.way(&out(3)).unwrap();
        assert_eq!((way.ifindex, way.mtu, way.tags), (2, 1500, Tags::one(7)));
        assert_eq!(world.way(&out(5)).unwrap().tags, Tags::two(100, 9));
        assert!(world.way(&out(4)).unwrap_err().contains("802.1ad"));
    }

    #[test]
    fn a_way_that_cannot_be_says_why() {
        let mut down = link(3, "eth1");
        down.up = false;
        let tun = Link { ethernet: false, ..link(4, "tun0") };
        let world = world(vec![down, tun]);
        for (route, words) in [
            (out(2), "gone"),
            (out(3), "`eth1` is down"),
            (out(4), "`tun0` does not carry"),
            (Route::Local, "of this node itself"),
            (Route::Refused("no route".into()), "no route"),
        ] {
            let why = world.way(&route).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn a_route_may_be_narrower_than_its_device() {
        let world = world(vec![link(2, "eth0")]);
        let Route::Out { ifindex, next_hop, source, .. } = out(2) else { unreachable!() };
        for (of_route, mtu) in [(1400, 1400), (9000, 1500)] {
            let route = Route::Out { ifindex, next_hop, source, mtu: Some(of_route) };
            assert_eq!(world.way(&route).unwrap().mtu, mtu);
        }
    }
}
