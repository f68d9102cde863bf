//! Changes of the pool under live connections: none may break that the change does not name.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site, SiteBuilder};
use lb_tests::topology::{BackendSetup, Layout, Topology};
use lb_tests::traffic::{
    ConnectionPool, HttpLoad, LivePool, PoolReport, Reuse, RunningHttpLoad, RunningUdpLoad, UdpLoad,
};
use lb_tests::wait::wait_until;

const SECOND: Duration = Duration::from_secs(1);
/// Live connections.
const CONNECTIONS: usize = 500;
/// Long enough for every connection to send within it, short enough to wait for its end.
const WINDOW_S: u32 = 2;
/// Requests under way when a change happens.
const WORKERS: usize = 4;

/// A site in this mode, with a short window.
fn site(mode: Mode) -> SiteBuilder {
    let (layout, setup) = match mode {
        Mode::L2 => (Layout::Switched, BackendSetup::DirectReturn),
        Mode::Ipip => (Layout::Routed, BackendSetup::DirectReturn),
        Mode::Nat => (Layout::Switched, BackendSetup::Plain),
    };
    let builder = Site::builder(Topology::builder().layout(layout).setup(setup), mode);
    builder.families(&[Family::V4]).window_s(WINDOW_S)
}

/// Live connections, kept HTTP connections, new HTTP connections and UDP flows, all at once.
struct Traffic {
    pool: LivePool,
    kept: RunningHttpLoad,
    fresh: RunningHttpLoad,
    udp: RunningUdpLoad,
}

impl Traffic {
    fn start(site: &Site) -> Self {
        let http = HttpLoad::new(site.vip(Served::Http, Family::V4)).workers(WORKERS);
        let udp = UdpLoad::new(site.vip(Served::Udp, Family::V4)).flows(32);
        let pool = ConnectionPool::new(site.vip(Served::Echo, Family::V4), CONNECTIONS);
        let pool = pool.open(site.client()).unwrap();
        let kept = http.clone().workers(32).pause(SECOND / 20).start(site.client()).unwrap();
        let fresh = http.reuse(Reuse::PerRequest).start(site.client()).unwrap();
        Self { pool, kept, fresh, udp: udp.start(site.client()).unwrap() }
    }

    /// Waits until that many more new connections were answered, and everyone else was, too.
    fn go_on(&self, requests: u64) -> BTreeMap<String, u64> {
        let (fresh, kept, udp) = (self.fresh.snapshot(), self.kept.snapshot(), self.udp.snapshot());
        wait_until("more traffic", 20 * SECOND, || {
            self.fresh.snapshot().requests_ok >= fresh.requests_ok + requests
                && self.kept.snapshot().requests_ok >= kept.requests_ok + 64
                && self.udp.snapshot().answered >= udp.answered + 64
        })
        .unwrap();
        self.pool.wait_round(10 * SECOND).unwrap();
        let mut more = self.fresh.snapshot().per_backend;
        for (backend, count) in fresh.per_backend {
            *more.entry(backend).or_default() -= count;
        }
        more
    }

    /// Ends everything; nothing may have failed.
    fn finish_unbroken(self) -> PoolReport {
        let pool = self.pool.finish().unwrap();
        assert_eq!((pool.broken, pool.live), (0, CONNECTIONS), "{:?}", pool.failures);
        for load in [self.kept.finish().unwrap(), self.fresh.finish().unwrap()] {
            assert_eq!((load.requests_failed, load.connections_broken), (0, 0), "{:?}", load.failures);
        }
        let udp = self.udp.finish().unwrap();
        assert_eq!(udp.failures.len(), 0, "{:?}", udp.failures);
        pool
    }
}

/// Says the same of every vip's backend.
fn each_vip(site: &Site, verb: &str, backend: &str, more: &str) {
    for vip in ["http4", "echo4", "udp4"] {
        site.lb.lb(&format!("backend {verb} {vip}/{backend} {more}")).unwrap();
    }
}

/// Waits until the windows of all vips' slots are over.
fn windows_over(site: &Site) {
    wait_until("the windows' end", 10 * SECOND, || {
        site.status().unwrap().vips.iter().all(|vip| vip.slots.moving == 0)
    })
    .unwrap();
}

/// A fourth backend comes to three: it gets its share of what is new, and nothing else moves, neither within the
/// window nor after it.
fn a_fourth_backend(mode: Mode) {
    let mut site = site(mode).start().unwrap();
    let traffic = Traffic::start(&site);
    traffic.go_on(100);
    let index = site.add_host().unwrap();
    let host = &site.net.backends()[index];
    let line = format!("{} {} --wait --timeout-s 10", host.name(), site.address(host, Family::V4));
    for vip in ["http4", "echo4", "udp4"] {
        site.lb.lb(&format!("backend add {vip} {line}")).unwrap();
    }
    let more = traffic.go_on(400);
    assert!((50..200).contains(&more["b3"]), "{more:?}");
    windows_over(&site);
    traffic.go_on(100);
    let moved = traffic.udp.snapshot().flows_moved;
    assert_eq!(moved, 0);
    let pool = traffic.finish_unbroken();
    assert_eq!(pool.live_per_backend.len(), 3, "{:?}", pool.live_per_backend);
}

#[test]
fn a_fourth_backend_breaks_no_connection_by_l2() {
    require_root!("e2e_change::a_fourth_backend_breaks_no_connection_by_l2", "nginx", "curl");
    a_fourth_backend(Mode::L2);
}

#[test]
fn a_fourth_backend_breaks_no_connection_by_ipip() {
    require_root!("e2e_change::a_fourth_backend_breaks_no_connection_by_ipip", "nginx", "curl");
    a_fourth_backend(Mode::Ipip);
}

#[test]
fn a_fourth_backend_breaks_no_connection_by_nat() {
    require_root!("e2e_change::a_fourth_backend_breaks_no_connection_by_nat", "nginx", "curl");
    a_fourth_backend(Mode::Nat);
}

/// A drained backend gets nothing new and keeps what it has; when that has ended, it is drained and can go.
fn drain(mode: Mode) {
    let site = site(mode).start().unwrap();
    let traffic = Traffic::start(&site);
    traffic.go_on(100);
    let before = traffic.pool.snapshot().live_per_backend;
    assert!(before["b1"] > 0);
    each_vip(&site, "drain", "b1", "");
    let more = traffic.go_on(300);
    assert!(more.get("b1").is_none_or(|count| *count <= WORKERS as u64), "{more:?}");
    windows_over(&site);
    assert!(traffic.go_on(100).get("b1").is_none_or(|count| *count == 0));
    assert_eq!(traffic.pool.snapshot().live_per_backend, before);
    let view = site.backend("echo4", "b1").unwrap();
    assert!(!view.drained && view.share == 0.0 && view.tracked_flows as usize >= before["b1"], "{view:?}");
    let answer = site.lb.try_lb(&["backend", "drain", "echo4/b1", "--wait", "--timeout-s", "1"]).unwrap();
    assert_eq!(answer.status, Some(5), "{answer:?}");
    assert!(answer.stderr.contains("tracked flows") && answer.stderr.contains("LB"), "{answer:?}");

    traffic.finish_unbroken();
    let answer = site.lb.try_lb(&["backend", "drain", "echo4/b1", "--wait", "--timeout-s", "30"]).unwrap();
    assert!(answer.is_success() && answer.stderr.contains("echo4/b1 is drained"), "{answer:?}");
    site.lb.lb("backend remove echo4/b1").unwrap();
    assert!(site.backend("echo4", "b1").is_err());
}

#[test]
fn a_drain_breaks_no_connection_by_l2() {
    require_root!("e2e_change::a_drain_breaks_no_connection_by_l2", "nginx", "curl");
    drain(Mode::L2);
}

#[test]
fn a_drain_breaks_no_connection_by_nat() {
    require_root!("e2e_change::a_drain_breaks_no_connection_by_nat", "nginx", "curl");
    drain(Mode::Nat);
}

#[test]
fn weights_change_and_come_back_under_live_connections() {
    require_root!("e2e_change::weights_change_and_come_back_under_live_connections", "nginx", "curl");
    let site = site(Mode::L2).start().unwrap();
    let traffic = Traffic::start(&site);
    traffic.go_on(100);
    // Again and again within one window: `current` changes, the connections' own backend stays.
    for (weight, share) in [(800, 0.8), (0, 0.0), (300, 0.6), (100, 1.0 / 3.0)] {
        for vip in ["http4", "echo4", "udp4"] {
            site.lb.lb(&format!("backend weight {vip}/b0 {weight}")).unwrap();
            let view = site.backend(vip, "b0").unwrap();
            assert!((view.share - share).abs() < 0.001, "{} for weight {weight}", view.share);
        }
        let more = traffic.go_on(300);
        let sum: u64 = more.values().sum();
        let got = more.get("b0").copied().unwrap_or_default() as f64 / sum as f64;
        assert!((got - share).abs() < 0.12, "{more:?} for weight {weight}");
    }
    windows_over(&site);
    traffic.go_on(100);
    traffic.finish_unbroken();
}

#[test]
fn a_disabled_backend_gets_nothing_at_once_and_comes_back() {
    require_root!("e2e_change::a_disabled_backend_gets_nothing_at_once_and_comes_back", "nginx", "curl");
    let site = site(Mode::L2).start().unwrap();
    let traffic = Traffic::start(&site);
    traffic.go_on(100);
    let before = traffic.pool.snapshot().live_per_backend;
    each_vip(&site, "disable", "b1", "");
    // Its connections end, and only its.
    wait_until("the end of its connections", 5 * SECOND, || traffic.pool.snapshot().broken == before["b1"])
        .unwrap();
    assert!(traffic.go_on(300).get("b1").is_none_or(|count| *count == 0));
    let pool = traffic.pool.snapshot();
    assert!(pool.failures.iter().all(|one| one.backend.as_deref() == Some("b1")), "{:?}", pool.failures);
    assert_eq!(pool.broken, before["b1"]);
    for (backend, live) in &pool.live_per_backend {
        assert_eq!(*live, if backend == "b1" { 0 } else { before[backend] });
    }
    // A flow that was waiting for its answer goes on when that is given up.
    wait_until("its flows elsewhere", 5 * SECOND, || traffic.udp.snapshot().flows_moved > 0).unwrap();
    let udp = traffic.udp.snapshot();
    assert!(udp.failures.len() <= 32, "{udp:?}");
    each_vip(&site, "enable", "b1", "--wait --timeout-s 10");
    assert!(traffic.go_on(300)["b1"] > 30);
    assert_eq!(traffic.pool.snapshot().broken, before["b1"]);
}

#[test]
fn the_last_backend_is_taken_away_only_if_it_is_meant() {
    require_root!("e2e_change::the_last_backend_is_taken_away_only_if_it_is_meant", "nginx", "curl");
    let builder = Site::builder(Topology::builder().backends(1), Mode::L2);
    let site = builder.families(&[Family::V4]).kinds(&[Served::Http]).start().unwrap();
    let before = site.lb.lb("export").unwrap();
    for line in ["backend drain http4/b0", "backend remove http4/b0", "vip remove http4"] {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = site.lb.try_lb(&words).unwrap();
        assert_eq!(answer.status, Some(4), "{line}: {answer:?}");
        assert!(
            answer.stderr.contains("LB1030") && answer.stderr.contains("--allow-disruption"),
            "{answer:?}"
        );
    }
    assert_eq!(site.lb.lb("export").unwrap(), before);
    site.lb.lb("vip remove http4 --allow-disruption").unwrap();
    assert!(site.status().unwrap().vips.is_empty());
}
