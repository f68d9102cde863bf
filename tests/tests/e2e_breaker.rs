//! Circuit breakers and the degradation ladder with real backends: one that dies is tried with a few connections before it gets its share back, step by
//! step; one that a person tripped takes nothing new until it is reset.

use std::time::{Duration, Instant};

use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Topology};
use lb_tests::traffic::{ConnectionPool, HttpLoad, Reuse, fetch};
use lb_tests::wait::wait_until;
use lb_userspace::api::views::BackendView;

use lb_control::degradation::Rung;
use lb_control::health::Health;
use lb_control::vip::Mode;

const SECOND: Duration = Duration::from_secs(1);
/// New connections per second that a backend on trial is given.
const TRIAL_CPS: u64 = 5;

fn site(mode: Mode) -> Site {
    let setup = if mode == Mode::Nat { BackendSetup::Plain } else { BackendSetup::DirectReturn };
    let builder = Site::builder(Topology::builder().setup(setup), mode).families(&[Family::V4]);
    let site = builder.kinds(&[Served::Http, Served::Echo]).start().unwrap();
    let breaker = "--breaker-consecutive 3 --breaker-backoff-ms 500 --breaker-trial-successes 20 \
                   --breaker-slow-start-s 8 --breaker-floor-percent 20";
    let command = format!("vip set http4 --breaker-trial-cps {TRIAL_CPS} {breaker}");
    site.lb.lb(&command).unwrap();
    site
}

fn seen(site: &Site) -> BackendView {
    site.backend("http4", "b1").unwrap()
}

fn breaker(site: &Site) -> String {
    seen(site).breaker.unwrap_or_default()
}

fn one_comes_back_gently(mode: Mode) {
    let mut site = site(mode);
    let http = HttpLoad::new(site.vip(Served::Http, Family::V4)).timeout(SECOND);
    let load = http.reuse(Reuse::PerRequest).start(site.client()).unwrap();
    wait_until("load on all", 10 * SECOND, || load.snapshot().per_backend.len() == 3).unwrap();
    site.net.backend_mut(1).kill();
    wait_until("an open breaker", 20 * SECOND, || {
        let seen = seen(&site);
        seen.breaker.as_deref() == Some("open") && seen.health == Health::Down && seen.share == 0.0
    })
    .unwrap();
    let out = Instant::now();

    site.net.backend_mut(1).start().unwrap();
    let (before, began) = (load.snapshot(), Instant::now());
    let (mut tried, mut share) = (None, 0.0_f64);
    wait_until("the end of the trial", 60 * SECOND, || {
        let (snapshot, at) = (load.snapshot(), Instant::now());
        let seen = seen(&site);
        if seen.breaker.as_deref() == Some("half-open") {
            share = share.max(seen.share);
            tried = Some((snapshot, at));
        }
        tried.is_some() && seen.breaker.as_deref() == Some("closed")
    })
    .unwrap();
    let (snapshot, at) = tried.unwrap();
    let of = |snapshot: &lb_tests::traffic::HttpReport, name: &str| {
        snapshot.per_backend[name] - before.per_backend[name]
    };
    let (given, others) = (of(&snapshot, "b1"), of(&snapshot, "b0") + of(&snapshot, "b2"));
    let permitted = TRIAL_CPS as f64 * (at - began).as_secs_f64() + 3.0;
    println!("{mode:?}: {given} connections on trial of {permitted:.0} permitted, {others} to the others");
    // Without tokens it would be a fifteenth of all, more than a hundred.
    assert!(given >= 3 && given as f64 <= permitted, "{given} of {permitted}");
    assert!(others > 10 * given, "{others} to the others");
    assert!((0.05..0.08).contains(&share), "a fifth of a third: {share}");

    let mut shares = vec![share];
    wait_until("its whole share", 60 * SECOND, || {
        shares.push(seen(&site).share);
        shares.last().is_some_and(|share| *share > 0.33)
    })
    .unwrap();
    assert!(shares.is_sorted(), "{shares:?}");
    assert!(shares.iter().any(|share| (0.1..0.3).contains(share)), "no slow start: {shares:?}");
    let back = load.snapshot();
    wait_until("load on it again", 10 * SECOND, || {
        load.snapshot().per_backend["b1"] > back.per_backend["b1"] + 20
    })
    .unwrap();
    let end = load.finish().unwrap();
    // What had begun before it was out may end later.
    let late: Vec<_> = end.failures.iter().filter(|failure| failure.began > out).collect();
    assert!(late.is_empty(), "{late:?}");
    let told = [
        "breaker closed -> open",
        "breaker open -> half-open",
        "breaker half-open -> closed",
        "3 failures in a row",
    ];
    site.lb.history("backend http4/b1", &told).unwrap();
}

#[test]
fn a_killed_backend_is_tried_before_it_gets_its_share_back() {
    require_root!("e2e_breaker::a_killed_backend_is_tried_before_it_gets_its_share_back", "nginx", "curl");
    one_comes_back_gently(Mode::L2);
}

#[test]
fn so_it_is_by_nat() {
    require_root!("e2e_breaker::so_it_is_by_nat", "nginx", "curl");
    one_comes_back_gently(Mode::Nat);
}

#[test]
fn what_a_person_tripped_keeps_its_connections_and_takes_no_new_ones_over_a_restart() {
    require_root!(
        "e2e_breaker::what_a_person_tripped_keeps_its_connections_and_takes_no_new_ones_over_a_restart",
        "nginx",
        "curl"
    );
    let mut site = site(Mode::L2);
    let pool = ConnectionPool::new(site.vip(Served::Echo, Family::V4), 100).open(site.client()).unwrap();
    let before = pool.wait_round(10 * SECOND).unwrap().live_per_backend;
    let http = HttpLoad::new(site.vip(Served::Http, Family::V4)).timeout(SECOND);
    let load = http.reuse(Reuse::PerRequest).start(site.client()).unwrap();
    wait_until("load on all", 10 * SECOND, || load.snapshot().per_backend.len() == 3).unwrap();
    for vip in ["http4", "echo4"] {
        site.lb.lb(&format!("breaker trip {vip}/b1 -m maintenance")).unwrap();
    }
    let out = |site: &Site| breaker(site) == "open" && seen(site).share == 0.0;
    wait_until("no slot", 10 * SECOND, || out(&site)).unwrap();
    assert_eq!(seen(&site).health, Health::Up, "health is another column");
    site.lb.stop().unwrap();
    site.lb.restart(&site.net).unwrap();
    wait_until("the same after a restart", 10 * SECOND, || out(&site)).unwrap();
    let (one, others) = (load.snapshot().per_backend["b1"], load.snapshot().requests_ok);
    wait_until("load on the others", 20 * SECOND, || load.snapshot().requests_ok > others + 300).unwrap();
    // A request that was under way when the trip came.
    assert!(load.snapshot().per_backend["b1"] <= one + 8);
    assert_eq!(pool.wait_round(10 * SECOND).unwrap().live_per_backend, before);

    site.lb.lb("breaker reset http4/b1").unwrap();
    wait_until("its return", 30 * SECOND, || breaker(&site) == "closed" && seen(&site).share > 0.33).unwrap();
    assert_eq!(load.finish().unwrap().requests_failed, 0);
    site.lb.history("backend http4/b1", &["maintenance", "tripped"]).unwrap();
    let show = site.lb.lb("breaker show http4").unwrap();
    assert!(show.contains("ordered by a person"), "{show}");
}

/// The rung of the vip, and whether it is served in part.
fn ladder(site: &Site) -> (Rung, bool) {
    let status = site.status().unwrap();
    let vip = status.vips.iter().find(|vip| vip.name == "http4").unwrap();
    (vip.ladder.rung, vip.ladder.partial)
}

#[test]
fn backups_serve_when_the_pool_is_dead_and_leave_when_it_is_back() {
    require_root!(
        "e2e_breaker::backups_serve_when_the_pool_is_dead_and_leave_when_it_is_back",
        "nginx",
        "curl"
    );
    let mut site = site(Mode::L2);
    let address = seen(&site).address;
    site.lb.lb("backend remove http4/b1").unwrap();
    site.lb.lb(&format!("backend add http4/spare {address} --backup")).unwrap();
    let spare = |site: &Site| site.backend("http4", "spare").unwrap();
    wait_until("a healthy backup", 20 * SECOND, || spare(&site).health == Health::Up).unwrap();
    wait_until("the whole pool", 20 * SECOND, || ladder(&site) == (Rung::Pool, false)).unwrap();
    assert_eq!(spare(&site).share, 0.0);
    let http = site.vip(Served::Http, Family::V4);
    assert!((0..20).all(|_| fetch(site.client(), http, "/").unwrap().text() != "b1"));

    site.net.backend_mut(0).kill();
    wait_until("a part of the pool", 20 * SECOND, || ladder(&site) == (Rung::Pool, true)).unwrap();
    site.net.backend_mut(2).kill();
    wait_until("the backup", 20 * SECOND, || ladder(&site) == (Rung::Backups, true)).unwrap();
    assert_eq!(fetch(site.client(), http, "/").unwrap().text(), "b1");
    let status = site.lb.try_lb(&["status", "--check"]).unwrap();
    assert_eq!(status.status, Some(6), "{status:?}");
    assert!(
        status.stdout.contains("its backups do") && status.stdout.contains("partial"),
        "{}",
        status.stdout
    );
    site.net.backend_mut(1).kill();
    wait_until("nobody is left", 20 * SECOND, || ladder(&site).0 == Rung::LastKnownGood).unwrap();

    for index in 0..3 {
        site.net.backend_mut(index).start().unwrap();
    }
    wait_until("the pool", 60 * SECOND, || ladder(&site) == (Rung::Pool, false)).unwrap();
    assert_ne!(fetch(site.client(), http, "/").unwrap().text(), "b1");
    site.lb.history("vip http4", &["pool -> backups", "backups -> last known good"]).unwrap();
    assert!(site.lb.metrics().unwrap().contains("lb_vip_ladder{vip=\"http4\"} 0"));
}
