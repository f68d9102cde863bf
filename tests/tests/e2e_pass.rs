//! What is not ours goes on working: the node's own kinds and connections, ARP and ND, ICMP, ports of a vip's
//! address that no vip serves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::ping::ping;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site, SiteBuilder};
use lb_tests::topology::{BackendSetup, ECHO_PORT, Topology, vip};
use lb_tests::traffic::echo::EchoResponder;
use lb_tests::traffic::{ask_once, echo_transfer, fetch, fetch_within};

const SECOND: Duration = Duration::from_secs(1);
const SSH_PORT: u16 = 22;

fn nat_site() -> SiteBuilder {
    Site::builder(Topology::builder().backends(2).setup(BackendSetup::Plain), Mode::Nat)
}

/// TCP and UDP to a responder, as the one who answers under `name`.
fn reaches(site: &Site, to: SocketAddr, name: &str) {
    assert_eq!(echo_transfer(site.client(), to, 1 << 20, 5 * SECOND).unwrap(), name);
    assert_eq!(ask_once(site.client(), to, 1000, SECOND).unwrap(), name);
}

#[test]
fn the_node_itself_is_reached_as_before() {
    require_root!("e2e_pass::the_node_itself_is_reached_as_before", "nginx", "curl");
    let site = nat_site().kinds(&[Served::Http]).start().unwrap();
    let node = site.net.node();
    let _ssh = EchoResponder::start(&node.ns, "the node", SSH_PORT).unwrap();
    for address in node.addresses.both() {
        reaches(&site, SocketAddr::new(address, SSH_PORT), "the node");
        // Fragments, too.
        for payload_bytes in [56, 1400, 4000] {
            let answer = ping(site.client(), address, payload_bytes, SECOND).unwrap();
            assert!(answer.is_some(), "{address} with {payload_bytes} bytes");
        }
        let closed = fetch_within(site.client(), SocketAddr::new(address, 81), "/", SECOND).unwrap_err();
        assert!(closed.to_string().contains("Failed to connect"), "{closed:#}");
    }
    assert!(site.packets("no_vip").unwrap() > 100);
}

#[test]
fn the_node_itself_reaches_others_as_before() {
    require_root!("e2e_pass::the_node_itself_reaches_others_as_before", "nginx", "curl");
    // The path to the client is narrow: errors about the node's own connections have to reach the node.
    let network = Topology::builder().path_mtu(1300).backends(2).setup(BackendSetup::Plain);
    let site = Site::builder(network, Mode::Nat).kinds(&[Served::Http]).start().unwrap();
    let node = &site.net.node().ns;
    let _listener = EchoResponder::start(site.client(), "the client", SSH_PORT).unwrap();
    let before = site.packets("icmp_error_forwarded").unwrap();
    for address in site.net.clients()[0].addresses.both() {
        let to = SocketAddr::new(address, SSH_PORT);
        assert_eq!(echo_transfer(node, to, 1 << 20, 5 * SECOND).unwrap(), "the client");
        let route = node.shell(&format!("ip route get {address}")).unwrap();
        assert!(route.contains("mtu 1300"), "{route}");
        assert!(ping(node, address, 56, SECOND).unwrap().is_some());
    }
    assert!(site.packets("icmp_other").unwrap() >= 2);
    assert_eq!(site.packets("icmp_error_forwarded").unwrap(), before);
    // Even to the port of a backend that packets are translated to.
    for backend in site.net.backends() {
        for address in backend.addresses().both() {
            let echo = SocketAddr::new(address, ECHO_PORT);
            assert_eq!(echo_transfer(node, echo, 1 << 20, 5 * SECOND).unwrap(), backend.name());
            let reply = fetch(node, SocketAddr::new(address, 80), "/").unwrap();
            assert_eq!(reply.text(), backend.name());
        }
    }
}

#[test]
fn other_ports_of_a_vip_are_the_kernels() {
    require_root!("e2e_pass::other_ports_of_a_vip_are_the_kernels", "nginx", "curl");
    let site = nat_site().kinds(&[Served::Http]).start().unwrap();
    let node = &site.net.node().ns;
    let (v4, v6) = (vip(0).v4, vip(0).v6);
    node.ip_batch(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n")).unwrap();
    let _local = EchoResponder::start(node, "the node", SSH_PORT).unwrap();
    // A port that a vip serves is never the node's, even if somebody listens there.
    let _shadowed = EchoResponder::start(node, "shadowed", 80).unwrap();
    for (family, address) in [(Family::V4, IpAddr::from(v4)), (Family::V6, IpAddr::from(v6))] {
        reaches(&site, SocketAddr::new(address, SSH_PORT), "the node");
        let reply = fetch(site.client(), site.vip(Served::Http, family), "/").unwrap();
        assert!(site.net.backend_names().contains(&reply.text()));
        // The vip serves TCP; UDP on the same port is another matter.
        assert_eq!(ask_once(site.client(), SocketAddr::new(address, 80), 8, SECOND).unwrap(), "shadowed");
    }
}

#[test]
fn a_vip_answers_pings_and_neighbours_are_found() {
    require_root!("e2e_pass::a_vip_answers_pings_and_neighbours_are_found", "nginx", "curl");
    let site = nat_site().kinds(&[Served::Http]).start().unwrap();
    for family in Family::BOTH {
        let http = site.vip(Served::Http, family);
        let before = site.packets("echo_replied").unwrap();
        for payload_bytes in [0, 56, 1400] {
            assert!(ping(site.client(), http.ip(), payload_bytes, SECOND).unwrap().is_some());
        }
        assert_eq!(site.packets("echo_replied").unwrap(), before + 3);
        // ARP and ND in both directions, from nothing.
        let router = &site.net.router().unwrap().ns;
        for namespace in [router, &site.net.node().ns] {
            namespace.shell("ip neigh flush all").unwrap();
        }
        assert_eq!(fetch(site.client(), http, "/").unwrap().status, 200);
    }
    assert!(site.packets("not_ip").unwrap() > 0);
}

#[test]
fn fragments_to_a_vip_are_counted_and_dropped() {
    require_root!("e2e_pass::fragments_to_a_vip_are_counted_and_dropped", "nginx", "curl");
    let site = nat_site().kinds(&[Served::Udp]).start().unwrap();
    for family in Family::BOTH {
        let before = site.packets("fragment").unwrap();
        assert!(ask_once(site.client(), site.vip(Served::Udp, family), 4000, SECOND / 4).is_err());
        assert_eq!(site.packets("fragment").unwrap(), before + 3, "IPv{family}");
    }
}
