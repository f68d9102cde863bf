//! Paths that take smaller packets than the ends think: who is told, by whom, and that it works then.

use std::net::SocketAddr;
use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Layout, Topology, TopologyBuilder};
use lb_tests::traffic::{ask_once, download, echo_transfer};

const SECOND: Duration = Duration::from_secs(1);
const FILE_BYTES: u64 = 20 << 20;

/// The MTU that the client has learnt for a vip, by its route cache.
fn learnt_mtu(site: &Site, vip: SocketAddr) -> Option<u32> {
    let route = site.client().shell(&format!("ip route get {}", vip.ip())).unwrap();
    let mut words = route.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

/// A hop before the clients is narrower than both ends think. It tells the sender, which to it is the vip.
fn a_narrow_path_to_clients(builder: TopologyBuilder, mode: Mode, crossed: bool) {
    let builder = Site::builder(builder.path_mtu(1300).file_bytes(FILE_BYTES), mode);
    let builder = if crossed { builder.crossed() } else { builder };
    let site = builder.kinds(&[Served::Http, Served::Echo]).start().unwrap();
    for family in Family::BOTH {
        let before = site.packets("icmp_error_forwarded").unwrap();
        // Several connections, so that several backends have to be told.
        for _ in 0..4 {
            download(site.client(), site.vip(Served::Http, family), FILE_BYTES, 20 * SECOND).unwrap();
        }
        echo_transfer(site.client(), site.vip(Served::Echo, family), 1 << 20, 5 * SECOND).unwrap();
        let after = site.packets("icmp_error_forwarded").unwrap();
        assert!(after > before, "IPv{family}: no backend was told");
    }
    assert_eq!(site.packets("icmp_quote").unwrap(), 0);
}

#[test]
fn a_backend_hears_of_a_narrow_path_by_l2() {
    require_root!("e2e_mtu::a_backend_hears_of_a_narrow_path_by_l2", "nginx", "curl");
    a_narrow_path_to_clients(Topology::builder(), Mode::L2, false);
}

#[test]
fn a_backend_hears_of_a_narrow_path_by_ipip() {
    require_root!("e2e_mtu::a_backend_hears_of_a_narrow_path_by_ipip", "nginx", "curl");
    a_narrow_path_to_clients(Topology::builder().layout(Layout::Routed), Mode::Ipip, false);
    a_narrow_path_to_clients(Topology::builder().layout(Layout::Routed), Mode::Ipip, true);
}

#[test]
fn a_backend_hears_of_a_narrow_path_by_nat() {
    require_root!("e2e_mtu::a_backend_hears_of_a_narrow_path_by_nat", "nginx", "curl");
    a_narrow_path_to_clients(Topology::builder().setup(BackendSetup::Plain), Mode::Nat, false);
}

/// What is too big on the way to a backend, the client hears of from the vip; then all of it arrives.
fn a_narrow_way_to_backends(builder: TopologyBuilder, mode: Mode, crossed: bool, told: [u32; 2]) {
    let builder = Site::builder(builder.backends(2), mode);
    let builder = if crossed { builder.crossed() } else { builder };
    let site = builder.kinds(&[Served::Echo, Served::Udp]).start().unwrap();
    for (family, told) in Family::BOTH.into_iter().zip(told) {
        let (tcp, udp) = (site.vip(Served::Echo, family), site.vip(Served::Udp, family));
        let headers = if family == Family::V4 { 28 } else { 48 };
        let before = site.packets("too_big_replied").unwrap();
        // One datagram that just fits, and one that is too large by one byte. Translated answers come back over
        // the node, in one piece; an answer is longer by the backend's name.
        let name_bytes = if mode == Mode::Nat { "b0".len() } else { 0 };
        ask_once(site.client(), udp, told as usize - headers - name_bytes, SECOND).unwrap();
        assert_eq!(site.packets("too_big_replied").unwrap(), before);
        assert_eq!(learnt_mtu(&site, udp), None);
        assert!(ask_once(site.client(), udp, told as usize - headers + 1, SECOND / 4).is_err());
        assert_eq!(site.packets("too_big_replied").unwrap(), before + 1);
        assert_eq!(learnt_mtu(&site, udp), Some(told), "IPv{family}");
        echo_transfer(site.client(), tcp, 4 << 20, 5 * SECOND).unwrap();
    }
}

#[test]
fn a_client_hears_of_a_narrow_way_by_l2() {
    require_root!("e2e_mtu::a_client_hears_of_a_narrow_way_by_l2", "nginx", "curl");
    for layout in [Layout::Switched, Layout::Direct] {
        a_narrow_way_to_backends(
            Topology::builder().layout(layout).backend_mtu(1400),
            Mode::L2,
            false,
            [1400, 1400],
        );
    }
}

#[test]
fn a_client_hears_of_a_narrow_way_by_nat() {
    require_root!("e2e_mtu::a_client_hears_of_a_narrow_way_by_nat", "nginx", "curl");
    for layout in [Layout::Switched, Layout::Direct] {
        let builder = Topology::builder().layout(layout).setup(BackendSetup::Plain).backend_mtu(1400);
        a_narrow_way_to_backends(builder, Mode::Nat, false, [1400, 1400]);
    }
}

#[test]
fn a_client_hears_of_the_room_that_a_tunnel_takes() {
    require_root!("e2e_mtu::a_client_hears_of_the_room_that_a_tunnel_takes", "nginx", "curl");
    let routed = || Topology::builder().layout(Layout::Routed);
    // The way takes what the cables take: the outer header is what makes it too big. TCP alone finds out too.
    a_narrow_way_to_backends(routed(), Mode::Ipip, false, [1480, 1460]);
    a_narrow_way_to_backends(routed(), Mode::Ipip, true, [1460, 1480]);
    a_narrow_way_to_backends(Topology::builder().backend_mtu(1400), Mode::Ipip, false, [1380, 1360]);
}

#[test]
fn tcp_alone_learns_the_room_that_a_tunnel_takes() {
    require_root!("e2e_mtu::tcp_alone_learns_the_room_that_a_tunnel_takes", "nginx", "curl");
    let builder = Site::builder(Topology::builder().layout(Layout::Routed).backends(2), Mode::Ipip);
    let site = builder.kinds(&[Served::Echo]).start().unwrap();
    for (family, told) in Family::BOTH.into_iter().zip([1480, 1460]) {
        let vip = site.vip(Served::Echo, family);
        assert_eq!(learnt_mtu(&site, vip), None);
        echo_transfer(site.client(), vip, 4 << 20, 5 * SECOND).unwrap();
        assert_eq!(learnt_mtu(&site, vip), Some(told));
    }
}
