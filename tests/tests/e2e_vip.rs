//! Kinds of vips: all ports of an address, weights, and the ways of tracking.

use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::balancer::Balancer;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, ECHO_PORT, Topology, vip};
use lb_tests::traffic::{ConnectionPool, HttpLoad, Reuse, UdpLoad, ask_once, echo_transfer, fetch};
use lb_tests::wait::wait_until;

const SECOND: Duration = Duration::from_secs(1);

/// Adds a vip with backends by the commands that a person would type, and waits until they serve.
fn add(lb: &Balancer, net: &Topology, name: &str, served: &str, settings: &str, backends: &[usize]) {
    lb.lb(&format!("vip add {name} {served} {settings}")).unwrap();
    for index in backends {
        let backend = &net.backends()[*index];
        let address = backend.addresses();
        let address = if served.starts_with('[') { address.v6.to_string() } else { address.v4.to_string() };
        lb.lb(&format!("backend add {name} {} {address} --wait --timeout-s 10", backend.name())).unwrap();
    }
}

#[test]
fn one_vip_serves_all_ports_and_others_take_theirs() {
    require_root!("e2e_vip::one_vip_serves_all_ports_and_others_take_theirs", "nginx", "curl");
    for (mode, setup) in [("l2", BackendSetup::DirectReturn), ("nat", BackendSetup::Plain)] {
        let net = Topology::builder().vips(2).http_ports(&[80, 8080, 8443]).setup(setup).build().unwrap();
        let lb = Balancer::start(&net).unwrap();
        lb.lb("attach eth0").unwrap();
        let settings = format!("--mode {mode}");
        let (v4, v6) = (vip(1).v4, vip(1).v6);
        for (family, served) in [("4", v4.to_string()), ("6", format!("[{v6}]"))] {
            add(&lb, &net, &format!("all{family}"), &format!("{served}:0/tcp"), &settings, &[0, 1]);
            add(&lb, &net, &format!("any{family}"), &format!("{served}:0/udp"), &settings, &[0, 1]);
            add(&lb, &net, &format!("own{family}"), &format!("{served}:8443/tcp"), &settings, &[2]);
        }
        for address in vip(1).both() {
            for port in [80, 8080] {
                let load = HttpLoad::new((address, port).into()).reuse(Reuse::PerRequest);
                let load = load.start(net.client()).unwrap();
                wait_until("requests", 10 * SECOND, || load.snapshot().requests_ok > 100).unwrap();
                let report = load.finish().unwrap();
                assert_eq!(report.requests_failed, 0, "{:?}", report.failures);
                assert_eq!(report.per_backend.keys().collect::<Vec<_>>(), ["b0", "b1"]);
            }
            for _ in 0..10 {
                assert_eq!(fetch(net.client(), (address, 8443).into(), "/").unwrap().text(), "b2");
            }
            echo_transfer(net.client(), (address, ECHO_PORT).into(), 1 << 20, 5 * SECOND).unwrap();
            ask_once(net.client(), (address, ECHO_PORT).into(), 1000, SECOND).unwrap();
            // No vip there: the backend's kernel refuses, not the node's.
            assert!(fetch(net.client(), (address, 9999).into(), "/").is_err());
        }
    }
}

#[test]
fn new_flows_follow_the_weights() {
    require_root!("e2e_vip::new_flows_follow_the_weights", "nginx", "curl");
    let net = Topology::builder().build().unwrap();
    let lb = Balancer::start(&net).unwrap();
    lb.lb("attach eth0").unwrap();
    let served = format!("{}", net.vip4(80));
    add(&lb, &net, "web", &served, "--mode l2", &[0, 1, 2]);
    for (name, weight) in [("b0", 100), ("b1", 300), ("b2", 600)] {
        lb.lb(&format!("backend weight web/{name} {weight}")).unwrap();
    }
    let load = HttpLoad::new(net.vip4(80)).reuse(Reuse::PerRequest).pause(Duration::from_millis(1));
    let load = load.start(net.client()).unwrap();
    wait_until("requests", 20 * SECOND, || load.snapshot().requests_ok > 2000).unwrap();
    let report = load.finish().unwrap();
    assert_eq!(report.requests_failed, 0);
    for (name, share) in [("b0", 0.1), ("b1", 0.3), ("b2", 0.6)] {
        let got = report.per_backend[name] as f64 / report.requests_ok as f64;
        // More than 4.5 standard deviations of 2,000 draws.
        assert!((got - share).abs() < 0.05, "{name}: {got}, not {share}: {:?}", report.per_backend);
    }
}

#[test]
fn tracking_is_as_the_vip_wants_it() {
    require_root!("e2e_vip::tracking_is_as_the_vip_wants_it", "nginx", "curl");
    let builder = Site::builder(Topology::builder(), Mode::L2).families(&[Family::V4]);
    let site = builder.kinds(&[Served::Echo]).window_s(1).start().unwrap();
    let echo = site.vip(Served::Echo, Family::V4);
    // The first backend to answer its probe had all slots: those that the others took are moving for a window.
    wait_until("nothing moves", 20 * SECOND, || {
        let slots = site.status().unwrap().vips[0].slots;
        slots.moving + slots.pinned == 0
    })
    .unwrap();
    let tracked = || site.backends().unwrap().iter().map(|one| one.tracked_flows).sum::<u64>();
    // auto: nothing is remembered while nothing moves.
    let auto = ConnectionPool::new(echo, 100).open(site.client()).unwrap();
    auto.wait_round(5 * SECOND).unwrap();
    assert_eq!(tracked(), 0);
    // always: these and all that come.
    site.lb.lb("vip set echo4 --tracking always").unwrap();
    let always = ConnectionPool::new(echo, 100).open(site.client()).unwrap();
    wait_until("all remembered", 5 * SECOND, || tracked() == 200).unwrap();
    assert_eq!(auto.finish().unwrap().broken, 0);
    // never: a change moves what it moves.
    let answer = site.lb.try_lb(&["vip", "set", "echo4", "--tracking", "never"]).unwrap();
    assert_eq!(answer.status, Some(4), "{answer:?}");
    site.lb.lb("vip set echo4 --tracking never --allow-disruption").unwrap();
    let before = always.wait_round(5 * SECOND).unwrap();
    assert_eq!(before.broken, 0);
    site.lb.lb("backend weight echo4/b0 0").unwrap();
    wait_until("its connections moved", 5 * SECOND, || {
        always.snapshot().broken >= before.live_per_backend["b0"]
    })
    .unwrap();
}

#[test]
fn udp_flows_stay_within_the_window_unless_stateless() {
    require_root!("e2e_vip::udp_flows_stay_within_the_window_unless_stateless", "nginx", "curl");
    let builder = Site::builder(Topology::builder(), Mode::L2).families(&[Family::V4]);
    let site = builder.kinds(&[Served::Udp]).window_s(30).start().unwrap();
    let flows = UdpLoad::new(site.vip(Served::Udp, Family::V4)).flows(60);
    let flows = flows.start(site.client()).unwrap();
    let go_on = || {
        let seen = flows.snapshot().answered;
        wait_until("answers", 5 * SECOND, || flows.snapshot().answered > seen + 300).unwrap();
    };
    go_on();
    site.lb.lb("backend weight udp4/b0 10").unwrap();
    go_on();
    assert_eq!(flows.snapshot().flows_moved, 0);
    site.lb.lb("vip set udp4 --udp-stateless true").unwrap();
    site.lb.lb("backend weight udp4/b1 1000").unwrap();
    go_on();
    // Those that are remembered stay, too: only what was never seen goes to the new backend at once.
    let report = flows.snapshot();
    assert_eq!(report.failures.len(), 0, "{:?}", report.failures);
    let late = UdpLoad::new(site.vip(Served::Udp, Family::V4)).flows(60).start(site.client()).unwrap();
    wait_until("answers", 5 * SECOND, || late.snapshot().answered > 300).unwrap();
    let late = late.finish().unwrap();
    assert_eq!((late.flows_moved, late.failures.len()), (0, 0));
    assert!(late.per_backend["b1"] * 10 > late.answered * 7, "{:?}", late.per_backend);
}
