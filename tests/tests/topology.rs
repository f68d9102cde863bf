//! The test bench proved without a balancer: each layout carries real traffic when the plain kernel steers
//! a vip to one backend.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::capture::Capture;
use lb_tests::counters::interface_counters;
use lb_tests::netns::Hook;
use lb_tests::ping::ping;
use lb_tests::require_root;
use lb_tests::topology::{BackendSetup, ECHO_PORT, Layout, Tagging, Topology, TopologyBuilder, vip};
use lb_tests::traffic::{ask_once, download, echo_transfer, fetch, fetch_within};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Makes the node a plain router that sends the first vip to one backend.
fn steer(net: &Topology, backend: usize) {
    net.steer_by_kernel(0, &[backend]).unwrap();
}

/// Builds, steers to the second backend, and sees HTTP and UDP of both families answered by it.
fn check(builder: TopologyBuilder) -> Topology {
    let net = builder.build().unwrap();
    steer(&net, 1);
    for (http, echo) in [(net.vip4(80), net.vip4(ECHO_PORT)), (net.vip6(80), net.vip6(ECHO_PORT))] {
        let reply =
            fetch(net.client(), http, "/").unwrap_or_else(|error| panic!("{error:#}\n{}", net.describe()));
        assert_eq!((reply.status, reply.text().as_str(), reply.backend.as_deref()), (200, "b1", Some("b1")));
        assert_eq!(ask_once(net.client(), echo, 64, SECOND).unwrap(), "b1");
        assert_eq!(ask_once(net.client(), echo, 1000, SECOND).unwrap(), "b1");
    }
    net
}

fn client_seen(net: &Topology, vip: SocketAddr) -> IpAddr {
    fetch(net.client(), vip, "/client").unwrap().text().parse().unwrap()
}

#[test]
fn switched_with_direct_return() {
    require_root!("topology::switched_with_direct_return", "nginx", "curl");
    let net = check(Topology::builder());
    let client = net.clients()[0].addresses;
    assert_eq!(client_seen(&net, net.vip4(80)), IpAddr::from(client.v4));
    assert_eq!(client_seen(&net, net.vip6(80)), IpAddr::from(client.v6));

    // Replies go straight to the router: the node sees the requests only.
    let before = interface_counters(&net.node().ns, "eth0").unwrap();
    download(net.client(), net.vip4(80), net.file_bytes(), 10 * SECOND).unwrap();
    let after = interface_counters(&net.node().ns, "eth0").unwrap();
    assert!(after.rx_packets > before.rx_packets, "the requests pass the node");
    assert!(after.rx_bytes - before.rx_bytes < net.file_bytes() / 4, "the answer does not pass the node");
}

#[test]
fn routed_to_backends_one_hop_away() {
    require_root!("topology::routed_to_backends_one_hop_away", "nginx", "curl");
    // The plain kernel cannot steer past a router, so here the router does it: node and backends answer.
    let net = Topology::builder().layout(Layout::Routed).build().unwrap();
    let router = &net.router().unwrap().ns;
    let (vip, to) = (vip(0), net.backends()[2].addresses());
    let lines = format!("route add {}/32 via {}\nroute add {}/128 via {}\n", vip.v4, to.v4, vip.v6, to.v6);
    router.ip_batch(&lines).unwrap();
    for vip in [net.vip4(80), net.vip6(80)] {
        assert_eq!(fetch(net.client(), vip, "/").unwrap().text(), "b2");
    }
    for backend in net.backends() {
        for to in backend.addresses().both() {
            let answer = ping(&net.node().ns, to, 56, SECOND).unwrap();
            assert!(answer.is_some(), "node to {to}");
        }
    }
}

#[test]
fn direct_cables_with_replies_over_the_node() {
    require_root!("topology::direct_cables_with_replies_over_the_node", "nginx", "curl");
    let net = check(Topology::builder().layout(Layout::Direct).clients(2).backends(4));
    assert_eq!(net.node().uplinks, ["eth0", "eth1"]);
    let second = &net.clients()[1].ns;
    assert_eq!(fetch(second, net.vip4(80), "/").unwrap().text(), "b1");
    assert_eq!(fetch(second, net.vip6(80), "/").unwrap().text(), "b1");
    let sent = interface_counters(&net.backends()[1].ns, "eth0").unwrap();
    assert!(sent.tx_packets > 0 && sent.rx_packets > 0);
    assert_eq!(interface_counters(&net.node().ns, "b3").unwrap().tx_dropped, 0);
}

#[test]
fn plain_backends_behind_kernel_nat() {
    require_root!("topology::plain_backends_behind_kernel_nat", "nginx", "curl", "nft");
    let net = Topology::builder().setup(BackendSetup::Plain).build().unwrap();
    let (node, to) = (net.node(), net.backends()[0].addresses());
    node.ns.write_sysctls(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]).unwrap();
    for rule in [
        "add table inet nat".to_owned(),
        "add chain inet nat pre { type nat hook prerouting priority -100 ; }".to_owned(),
        "add chain inet nat post { type nat hook postrouting priority 100 ; }".to_owned(),
        format!("add rule inet nat pre ip daddr {} dnat ip to {}", vip(0).v4, to.v4),
        format!("add rule inet nat pre ip6 daddr {} dnat ip6 to {}", vip(0).v6, to.v6),
        "add rule inet nat post masquerade".to_owned(),
    ] {
        node.ns.shell(&format!("nft {rule}")).unwrap();
    }
    assert_eq!(client_seen(&net, net.vip4(80)), IpAddr::from(node.addresses.v4));
    assert_eq!(client_seen(&net, net.vip6(80)), IpAddr::from(node.addresses.v6));
}

#[test]
fn tagged_uplink() {
    require_root!("topology::tagged_uplink", "nginx", "curl", "tcpdump");
    for (tagging, words) in [
        (Tagging::Vlan(100), vec!["vlan 100"]),
        (Tagging::QinQ { outer: 200, inner: 30 }, vec!["vlan 200", "vlan 30"]),
    ] {
        let net = Topology::builder().tagging(tagging).backends(2).file_bytes(1 << 20).build().unwrap();
        steer(&net, 1);
        let capture = Capture::start(&net.node().ns, net.node().uplink(), "").unwrap();
        for vip in [net.vip4(80), net.vip6(80)] {
            assert_eq!(fetch(net.client(), vip, "/").unwrap().text(), "b1");
        }
        let backend = echo_transfer(net.client(), net.vip4(ECHO_PORT), 1 << 20, 5 * SECOND).unwrap();
        assert_eq!(backend, "b1");
        let text = capture.stop_as_text().unwrap();
        for word in words {
            assert!(text.contains(word), "{word} in {}", &text[..text.len().min(2000)]);
        }
    }
}

#[test]
fn tagged_direct_cables() {
    require_root!("topology::tagged_direct_cables", "nginx", "curl");
    for tagging in [Tagging::Vlan(7), Tagging::QinQ { outer: 8, inner: 9 }] {
        let net = check(Topology::builder().layout(Layout::Direct).tagging(tagging).backends(2));
        let backend = echo_transfer(net.client(), net.vip6(ECHO_PORT), 1 << 20, 5 * SECOND).unwrap();
        assert_eq!(backend, "b1");
    }
}

#[test]
fn low_path_mtu_works_by_icmp_only() {
    require_root!("topology::low_path_mtu_works_by_icmp_only", "nginx", "curl", "nft");
    let bytes = 50 << 20;
    let net = check(Topology::builder().path_mtu(1300).file_bytes(bytes).backends(2));
    let router = &net.router().unwrap().ns;
    for rule in [
        "add table inet deaf",
        "add chain inet deaf out { type filter hook output priority 0 ; }",
        "add rule inet deaf out icmp type destination-unreachable drop",
        "add rule inet deaf out icmpv6 type packet-too-big drop",
    ] {
        router.shell(&format!("nft {rule}")).unwrap();
    }
    for vip in [net.vip4(80), net.vip6(80)] {
        let stalled = download(net.client(), vip, bytes, SECOND);
        assert!(stalled.is_err(), "without ICMP a download over {vip} must stall");
    }
    router.shell("nft delete table inet deaf").unwrap();
    for (http, echo) in [(net.vip4(80), net.vip4(ECHO_PORT)), (net.vip6(80), net.vip6(ECHO_PORT))] {
        assert_eq!(download(net.client(), http, bytes, MINUTE).unwrap(), "b1");
        assert_eq!(echo_transfer(net.client(), echo, 1 << 20, 5 * SECOND).unwrap(), "b1");
    }
}

#[test]
fn lower_mtu_to_the_backends() {
    require_root!("topology::lower_mtu_to_the_backends", "nginx", "curl");
    for layout in [Layout::Switched, Layout::Direct] {
        let net = check(Topology::builder().layout(layout).backend_mtu(1400).backends(2));
        for echo in [net.vip4(ECHO_PORT), net.vip6(ECHO_PORT)] {
            assert_eq!(echo_transfer(net.client(), echo, 1 << 20, 5 * SECOND).unwrap(), "b1");
        }
        let (node, to) = (&net.node().ns, net.backends()[1].addresses());
        match layout {
            Layout::Switched => {
                assert!(node.shell(&format!("ip route get {}", to.v4)).unwrap().contains("mtu 1400"))
            }
            _ => assert!(node.shell("ip link show b1").unwrap().contains("mtu 1400")),
        }
    }
}

/// An XDP program that gives IPv4 packets for the first vip, with that many `tags`, the MAC address of `b1`,
/// sends them on as `exit` says, and leaves everything else alone: the smallest balancer there is.
fn balance_to_b1(tags: u16, exit: Exit) -> Vec<u64> {
    let op = |code: u64, to: u64, from: u64, offset: u16, value: u32| {
        code | to << 8 | from << 12 | u64::from(offset) << 16 | u64::from(value) << 32
    };
    let ether_type = 12 + 4 * tags;
    let destination = ether_type + 18;
    let vip = u32::from_ne_bytes(vip(0).v4.octets());
    // 02:00:00:80:01:01 (b1) and 02:00:00:61:00:01 (the node, or the switch learns wrong).
    let (to, from) = ([2, 0, 0, 0x80, 1, 1, 2, 0], [0, 0x61, 0, 1]);
    let half = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    let last = match exit {
        Exit::Bounce => vec![op(0xb7, 0, 0, 0, 3)], // XDP_TX
        Exit::Redirect(ifindex) => {
            vec![op(0xb7, 1, 0, 0, ifindex), op(0xb7, 2, 0, 0, 0), op(0x85, 0, 0, 0, 23)] // bpf_redirect
        }
    };
    let to_pass = |from: u16| 13 + u16::try_from(last.len()).unwrap() - from;
    let mut program = vec![
        op(0x61, 2, 1, 0, 0),                          // r2 = data
        op(0x61, 3, 1, 4, 0),                          // r3 = data_end
        op(0xbf, 4, 2, 0, 0),                          // r4 = r2
        op(0x07, 4, 0, 0, u32::from(destination) + 4), // r4 += end of the IPv4 header
        op(0x2d, 4, 3, to_pass(4), 0),                 // if r4 > r3 pass
        op(0x69, 5, 2, ether_type, 0),                 // r5 = EtherType
        op(0x55, 5, 0, to_pass(6), 0x0008),            // if not IPv4 pass
        op(0x61, 5, 2, destination, 0),                // r5 = destination
        op(0xb4, 4, 0, 0, vip),                        // r4 = vip
        op(0x5d, 5, 4, to_pass(9), 0),                 // if r5 != r4 pass
        op(0x62, 2, 0, 0, half(&to[..4])),
        op(0x62, 2, 0, 4, half(&to[4..])),
        op(0x62, 2, 0, 8, half(&from)),
    ];
    program.extend(last);
    // r0 = XDP_PASS is where the checks above lead.
    program.extend([op(0x95, 0, 0, 0, 0), op(0xb7, 0, 0, 0, 2), op(0x95, 0, 0, 0, 0)]);
    program
}

/// How the smallest balancer sends.
enum Exit {
    /// Back out of the device it came in by.
    Bounce,
    /// Out of the device with this index.
    Redirect(u32),
}

#[test]
fn what_xdp_sends_arrives() {
    require_root!("topology::what_xdp_sends_arrives", "nginx", "curl");
    let qinq = Tagging::QinQ { outer: 200, inner: 30 };
    for (tagging, tags) in [(Tagging::Untagged, 0), (Tagging::Vlan(100), 1), (qinq, 2)] {
        let net = Topology::builder().tagging(tagging).backends(2).build().unwrap();
        assert!(fetch_within(net.client(), net.vip4(80), "/", Duration::from_millis(200)).is_err());
        let node = net.node();
        let link =
            node.ns.attach_program(node.uplink(), Hook::Xdp, &balance_to_b1(tags, Exit::Bounce)).unwrap();
        let reply = fetch(net.client(), net.vip4(80), "/");
        let reply = reply.unwrap_or_else(|error| panic!("{tagging:?}: {error:#}\n{}", net.describe()));
        assert_eq!(reply.text(), "b1");
        assert_eq!(ask_once(net.client(), net.vip4(ECHO_PORT), 1000, SECOND).unwrap(), "b1");
        let backend = echo_transfer(net.client(), net.vip4(ECHO_PORT), 4 << 20, 5 * SECOND).unwrap();
        assert_eq!(backend, "b1");
        // The node itself is reached as before, and nothing is left of the program afterwards.
        assert!(ping(net.client(), node.addresses.v4.into(), 1400, SECOND).unwrap().is_some());
        drop(link);
        assert!(fetch_within(net.client(), net.vip4(80), "/", Duration::from_millis(200)).is_err());
    }
}

#[test]
fn what_xdp_redirects_arrives() {
    require_root!("topology::what_xdp_redirects_arrives", "nginx", "curl");
    for (tagging, tags) in [(Tagging::Untagged, 0), (Tagging::Vlan(100), 1)] {
        let net = Topology::builder().layout(Layout::Direct).tagging(tagging).backends(2).build().unwrap();
        let node = net.node();
        let index = node.ns.run(|| Ok(nix::net::if_::if_nametoindex("b1")?)).unwrap();
        let program = balance_to_b1(tags, Exit::Redirect(index));
        let _link = node.ns.attach_program(node.uplink(), Hook::Xdp, &program).unwrap();
        if tags > 0 {
            // The way in is tagged, the cables to the backends are not: what is sent on as it came is lost.
            assert!(fetch_within(net.client(), net.vip4(80), "/", Duration::from_millis(200)).is_err());
            continue;
        }
        assert_eq!(fetch(net.client(), net.vip4(80), "/").unwrap().text(), "b1");
        let backend = echo_transfer(net.client(), net.vip4(ECHO_PORT), 4 << 20, 5 * SECOND).unwrap();
        assert_eq!(backend, "b1");
    }
}

#[test]
fn a_lost_tag_shows() {
    require_root!("topology::a_lost_tag_shows", "nginx", "curl");
    let net = Topology::builder().tagging(Tagging::Vlan(100)).backends(1).build().unwrap();
    let node = net.node();
    let reached = || ping(net.client(), node.addresses.v4.into(), 8, Duration::from_millis(200)).unwrap();
    assert!(reached().is_some());
    // Runs after the plug's own program: takes its tag off again.
    let strip = [0x16bf, 0x61bf, 19 << 32 | 0x85, 0xb7, 0x95];
    let link = node.ns.attach_program(node.uplink(), Hook::Egress, &strip).unwrap();
    assert_eq!(reached(), None);
    drop(link);
    assert!(reached().is_some());
}

#[test]
fn sysfs_is_that_of_the_namespace() {
    require_root!("topology::sysfs_is_that_of_the_namespace", "nginx");
    let net = Topology::builder().backends(0).build().unwrap();
    net.node().ns.write_sysfs("class/net/eth0/threaded", "1").unwrap();
    assert!(net.node().ns.write_sysfs("class/net/p-node/threaded", "1").is_err());
}
