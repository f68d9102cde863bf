//! Traffic proved without a balancer: the loads count what happens when backends fail in each way, come back
//! and are added, with the plain kernel as the one who steers.

use std::time::Duration;

use lb_tests::counters::protocol_counter;
use lb_tests::require_root;
use lb_tests::topology::{ECHO_PORT, Layout, Topology};
use lb_tests::traffic::{
    ConnectionPool, HttpLoad, Reuse, Stage, UdpLoad, Wrk, ask_once, fetch, fetch_within,
};
use lb_tests::wait::wait_until;

const SECOND: Duration = Duration::from_secs(1);

/// Two backends, the vip steered to the second.
fn two_backends() -> Topology {
    let net = Topology::builder().backends(2).build().unwrap();
    steer(&net, 1);
    net
}

fn steer(net: &Topology, backend: usize) {
    net.steer_by_kernel(0, &[backend]).unwrap();
}

#[test]
fn backends_fail_in_each_way_and_come_back() {
    require_root!("traffic::backends_fail_in_each_way_and_come_back", "nginx", "curl", "nft");
    let short = Duration::from_millis(300);
    let mut net = two_backends();
    let (vip, echo) = (net.vip4(80), net.vip4(ECHO_PORT));

    net.backend_mut(1).kill();
    let error = fetch(net.client(), vip, "/").unwrap_err().to_string();
    assert!(error.contains("refused") || error.contains("connect"), "{error}");
    assert!(ask_once(net.client(), echo, 8, short).is_err());
    net.backend_mut(1).start().unwrap();
    assert_eq!(fetch(net.client(), vip, "/").unwrap().text(), "b1");

    net.backend_mut(1).pause().unwrap();
    let error = fetch_within(net.client(), vip, "/", short).unwrap_err().to_string();
    assert!(error.contains("timed out"), "{error}");
    assert!(ask_once(net.client(), echo, 8, short).is_err());
    net.backend_mut(1).resume().unwrap();
    assert_eq!(fetch(net.client(), vip, "/").unwrap().text(), "b1");

    net.backends()[1].cut().unwrap();
    assert!(fetch_within(net.client(), vip, "/", short).is_err());
    net.backends()[1].mend().unwrap();
    assert_eq!(fetch(net.client(), vip, "/").unwrap().text(), "b1");

    assert_eq!(net.add_backend().unwrap().name(), "b2");
    steer(&net, 2);
    assert_eq!(fetch(net.client(), vip, "/").unwrap().text(), "b2");
    assert_eq!(fetch(net.client(), net.vip6(80), "/").unwrap().text(), "b2");
    assert_eq!(ask_once(net.client(), echo, 8, SECOND).unwrap(), "b2");
}

#[test]
fn loads_count_what_happens() {
    require_root!("traffic::loads_count_what_happens", "nginx", "curl");
    let mut net = two_backends();
    let pool = ConnectionPool::new(net.vip4(ECHO_PORT), 500).open(net.client()).unwrap();
    let kept = HttpLoad::new(net.vip4(80)).workers(4).start(net.client()).unwrap();
    let fresh = HttpLoad::new(net.vip6(80)).workers(4).reuse(Reuse::PerRequest).start(net.client()).unwrap();
    let udp = UdpLoad::new(net.vip6(ECHO_PORT)).start(net.client()).unwrap();
    let report = pool.wait_round(10 * SECOND).unwrap();
    assert_eq!((report.live, report.broken, report.per_backend.get("b1")), (500, 0, Some(&500)));
    wait_until("requests of each kind", 10 * SECOND, || {
        kept.snapshot().requests_ok >= 100
            && fresh.snapshot().requests_ok >= 100
            && udp.snapshot().answered >= 100
    })
    .unwrap();
    let seen = kept.snapshot();
    assert_eq!((seen.connections_opened, seen.connections_broken), (4, 0), "{seen:?}");
    assert!(fresh.snapshot().connections_opened >= 100);
    assert_eq!((kept.snapshot().requests_failed, fresh.snapshot().requests_failed), (0, 0));

    // Now b1 dies under load, and the others take over.
    net.backend_mut(1).kill();
    wait_until("every loss seen", 10 * SECOND, || {
        pool.snapshot().broken == 500
            && kept.snapshot().requests_failed > 0
            && fresh.snapshot().requests_failed > 0
            && !udp.snapshot().failures.is_empty()
    })
    .unwrap();
    steer(&net, 0);
    wait_until("b0 answering", 10 * SECOND, || {
        kept.snapshot().per_backend.contains_key("b0")
            && fresh.snapshot().per_backend.contains_key("b0")
            && udp.snapshot().per_backend.contains_key("b0")
    })
    .unwrap();
    let (pool, kept, fresh, udp) =
        (pool.finish().unwrap(), kept.finish().unwrap(), fresh.finish().unwrap(), udp.finish().unwrap());
    assert_eq!((pool.opened, pool.live, pool.broken), (500, 0, 500));
    assert_eq!(pool.failures[0].backend.as_deref(), Some("b1"));
    // A dying process may close a connection before its listener, which then takes one more.
    assert!((4..=8).contains(&kept.connections_broken), "{kept:?}");
    assert!(fresh.failures.iter().any(|failure| failure.stage == Stage::Connect), "{:?}", fresh.failures);
    assert!(udp.flows_moved > 0 && udp.answered < udp.sent);
    assert_eq!(kept.per_backend.values().sum::<u64>(), kept.requests_ok);
    assert_eq!(protocol_counter(&net.backends()[0].ns, "Tcp", "InCsumErrors").unwrap(), 0);
}

#[test]
fn wrk_measures() {
    require_root!("traffic::wrk_measures", "nginx", "curl", "wrk");
    let net = Topology::builder().layout(Layout::Direct).backends(4).build().unwrap();
    net.steer_by_kernel(0, &[0, 1, 2, 3]).unwrap();
    let load = HttpLoad::new(net.vip4(80)).reuse(Reuse::PerRequest).start(net.client()).unwrap();
    wait_until("every backend", 10 * SECOND, || load.snapshot().per_backend.len() == 4).unwrap();
    assert_eq!(load.finish().unwrap().requests_failed, 0);
    let wrk = Wrk::new(net.vip4(80)).connections(8).duration(SECOND);
    let report = wrk.run(net.client()).unwrap();
    assert!(report.requests > 0 && report.requests_per_s > 0.0 && report.latency_p99_us > 0.0, "{report:?}");
    assert_eq!(report.errors(), 0);
    let report = wrk.reuse(Reuse::PerRequest).run(net.client()).unwrap();
    assert!(report.requests > 0);
    assert_eq!(report.status_errors, 0);
}
