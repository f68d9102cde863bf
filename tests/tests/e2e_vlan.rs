//! Clients behind a tagged cable: tags are read past, taken off where the way to the backend has none, and put on
//! again on everything that the balancer itself sends back.

use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::capture::Capture;
use lb_tests::ping::ping;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Layout, Tagging, Topology};
use lb_tests::traffic::{ask_once, download, echo_transfer, fetch};

const SECOND: Duration = Duration::from_secs(1);
const FILE_BYTES: u64 = 4 << 20;

fn tagged(tagging: Tagging, mode: Mode) {
    let setup = if mode == Mode::Nat { BackendSetup::Plain } else { BackendSetup::DirectReturn };
    let network = Topology::builder().layout(Layout::Direct).tagging(tagging).setup(setup);
    let network = network.backend_mtu(1400).backends(2).file_bytes(FILE_BYTES);
    let site = Site::builder(network, mode).start().unwrap();
    for family in Family::BOTH {
        let http = site.vip(Served::Http, family);
        assert_eq!(fetch(site.client(), http, "/").unwrap().status, 200);
        download(site.client(), http, FILE_BYTES, 10 * SECOND).unwrap();
        echo_transfer(site.client(), site.vip(Served::Echo, family), 1 << 20, 5 * SECOND).unwrap();
        let udp = site.vip(Served::Udp, family);
        ask_once(site.client(), udp, 1000, SECOND).unwrap();
        // The balancer's own answers: a tag that is lost is a frame that is lost.
        assert!(ping(site.client(), http.ip(), 1000, SECOND).unwrap().is_some());
        assert!(ask_once(site.client(), udp, 1440, SECOND / 4).is_err());
        let route = site.client().shell(&format!("ip route get {}", udp.ip())).unwrap();
        assert!(route.contains("mtu 1400"), "{route}");
    }
    assert_eq!(site.packets("too_big_replied").unwrap(), 2);
    assert_eq!(site.packets("echo_replied").unwrap(), 2);
}

#[test]
fn one_tag() {
    require_root!("e2e_vlan::one_tag", "nginx", "curl");
    tagged(Tagging::Vlan(100), Mode::L2);
    tagged(Tagging::Vlan(7), Mode::Nat);
}

#[test]
fn two_tags() {
    require_root!("e2e_vlan::two_tags", "nginx", "curl");
    tagged(Tagging::QinQ { outer: 200, inner: 30 }, Mode::L2);
    tagged(Tagging::QinQ { outer: 8, inner: 9 }, Mode::Nat);
}

#[test]
fn translated_replies_carry_the_tag_of_the_requests() {
    require_root!("e2e_vlan::translated_replies_carry_the_tag_of_the_requests", "nginx", "curl", "tcpdump");
    let network = Topology::builder().layout(Layout::Direct).tagging(Tagging::Vlan(100));
    let network = network.setup(BackendSetup::Plain).backends(1);
    let builder = Site::builder(network, Mode::Nat).families(&[Family::V4]).kinds(&[Served::Http]);
    let site = builder.start().unwrap();
    let capture = Capture::start(site.client(), "eth0", "").unwrap();
    fetch(site.client(), site.vip(Served::Http, Family::V4), "/").unwrap();
    let text = capture.stop_as_text().unwrap();
    let replies: Vec<&str> = text.lines().filter(|line| line.contains("203.0.113.10.80 >")).collect();
    assert!(!replies.is_empty(), "{text}");
    assert!(
        text.lines().filter(|line| line.contains("ethertype 802.1Q")).all(|line| line.contains("vlan 100"))
    );
    assert!(text.contains("vlan 100"), "{text}");
}
