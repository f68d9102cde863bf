//! Backends that die, in each way: found soon, the others untouched, and taken back when they return.

use std::time::{Duration, Instant};

use lb_control::health::Health;
use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Topology};
use lb_tests::traffic::{ConnectionPool, HttpLoad, Reuse, fetch, fetch_within};
use lb_tests::wait::wait_until;
use lb_userspace::api::views::BackendView;

const SECOND: Duration = Duration::from_secs(1);

fn site(mode: Mode) -> Site {
    let setup = if mode == Mode::Nat { BackendSetup::Plain } else { BackendSetup::DirectReturn };
    let builder = Site::builder(Topology::builder().setup(setup), mode).families(&[Family::V4]);
    builder.kinds(&[Served::Http, Served::Echo]).start().unwrap()
}

fn health(site: &Site, backend: &str) -> Health {
    site.backend("http4", backend).unwrap().health
}

/// Down, and no slot names it any more.
fn is_out(site: &Site, backend: &str) -> bool {
    let seen = site.backend("http4", backend).unwrap();
    seen.health == Health::Down && seen.share == 0.0
}

/// How long a change takes on this machine at the moment, from the command to the maps and back: it is slower with every
/// other load, and a detection, which ends with the same, is slower with it.
fn pace(site: &Site) -> Duration {
    let start = Instant::now();
    for weight in [90, 100] {
        site.lb.lb(&format!("backend weight http4/b1 {weight}")).unwrap();
        assert!(!is_out(site, "b1"));
    }
    start.elapsed()
}

/// Breaks one of three backends under load and mends it again.
fn one_of_three_fails(mode: Mode, detected_within: Duration, fail: fn(&mut Site), mend: fn(&mut Site)) {
    let mut site = site(mode);
    let http = HttpLoad::new(site.vip(Served::Http, Family::V4)).timeout(SECOND);
    let kept = http.clone().start(site.client()).unwrap();
    let fresh = http.reuse(Reuse::PerRequest).start(site.client()).unwrap();
    let pool = ConnectionPool::new(site.vip(Served::Echo, Family::V4), 300).open(site.client()).unwrap();
    let before = pool.wait_round(10 * SECOND).unwrap().live_per_backend;
    wait_until("load on all", 10 * SECOND, || fresh.snapshot().per_backend.len() == 3).unwrap();
    assert_eq!(fresh.snapshot().requests_failed + kept.snapshot().requests_failed, 0);

    let pace = pace(&site);
    let failed = Instant::now();
    fail(&mut site);
    wait_until("detection", 10 * SECOND, || is_out(&site, "b1")).unwrap();
    let took = failed.elapsed();
    println!("{mode:?}: taken out after {} ms, pace {} ms", took.as_millis(), pace.as_millis());
    assert!(took < detected_within + pace, "{took:?} at a pace of {pace:?}");
    let detected = Instant::now();
    let seen = fresh.snapshot().requests_ok;
    wait_until("load after it", 10 * SECOND, || {
        fresh.snapshot().requests_ok > seen + 200 && pool.snapshot().broken == before["b1"]
    })
    .unwrap();

    // Whatever failed had begun before it was taken out, or was on a connection to it.
    let (fresh_seen, kept_seen, pool_seen) =
        (fresh.snapshot(), kept.snapshot(), pool.wait_round(10 * SECOND));
    assert!(fresh_seen.requests_failed > 0);
    for failure in &fresh_seen.failures {
        assert!(failure.began < detected, "{failure:?}");
        assert!(failure.backend.as_deref().is_none_or(|name| name == "b1"), "{failure:?}");
    }
    for failure in kept_seen.failures.iter().filter(|failure| failure.began >= detected) {
        assert_eq!(failure.backend.as_deref(), Some("b1"), "{failure:?}");
    }
    let pool_seen = pool_seen.unwrap();
    assert!(pool_seen.failures.iter().all(|failure| failure.backend.as_deref() == Some("b1")));
    assert_eq!(
        (pool_seen.live_per_backend["b0"], pool_seen.live_per_backend["b2"]),
        (before["b0"], before["b2"])
    );

    mend(&mut site);
    wait_until("its return", 10 * SECOND, || health(&site, "b1") == Health::Up).unwrap();
    let back = fresh.snapshot();
    wait_until("load on it again", 10 * SECOND, || {
        fresh.snapshot().per_backend["b1"] > back.per_backend["b1"] + 20
    })
    .unwrap();
    // A request that met the death may fail as late as its own time runs out.
    for failure in &fresh.finish().unwrap().failures {
        assert!(failure.began < detected, "{failure:?}");
    }
    let pool_end = pool.finish().unwrap();
    assert_eq!(pool_end.live_per_backend, pool_seen.live_per_backend);
}

#[test]
fn a_killed_backend_is_out_within_a_second() {
    require_root!("e2e_failure::a_killed_backend_is_out_within_a_second", "nginx", "curl");
    for mode in [Mode::L2, Mode::Nat] {
        one_of_three_fails(
            mode,
            SECOND,
            |site| site.net.backend_mut(1).kill(),
            |site| site.net.backend_mut(1).start().unwrap(),
        );
    }
}

#[test]
fn a_silent_backend_is_out_within_three_seconds() {
    require_root!("e2e_failure::a_silent_backend_is_out_within_three_seconds", "nginx", "curl", "nft");
    one_of_three_fails(
        Mode::L2,
        3 * SECOND,
        |site| site.net.backends()[1].cut().unwrap(),
        |site| site.net.backends()[1].mend().unwrap(),
    );
}

#[test]
fn without_any_backend_packets_have_a_reason() {
    require_root!("e2e_failure::without_any_backend_packets_have_a_reason", "nginx", "curl");
    let mut site = site(Mode::L2);
    // The ladder's lower rungs have tests of their own (e2e_ladder).
    site.lb.lb("vip set http4 --last-known-good false --fail-fast false").unwrap();
    (0..3).for_each(|index| site.net.backend_mut(index).kill());
    let out = |one: &BackendView| one.health == Health::Down && (one.vip != "http4" || one.share == 0.0);
    wait_until("all down", 5 * SECOND, || site.backends().unwrap().iter().all(out)).unwrap();
    let http = site.vip(Served::Http, Family::V4);
    let reasons = |site: &Site| site.packets("no_backend").unwrap() + site.packets("backend_dead").unwrap();
    let before = reasons(&site);
    assert!(fetch_within(site.client(), http, "/", SECOND / 2).is_err());
    assert!(reasons(&site) > before);
    let answer = site.lb.try_lb(&["status", "--check"]).unwrap();
    assert_eq!(answer.status, Some(6), "{answer:?}");
    assert!(answer.stdout.contains("no backend takes new flows"), "{}", answer.stdout);
    let story = site.lb.lb("explain 198.51.100.7 http4").unwrap();
    assert!(story.contains("which no backend has") && story.contains("(no_backend)"), "{story}");
    let drops = site.lb.lb("drops").unwrap();
    assert!(drops.contains("no_backend"), "{drops}");

    site.net.backend_mut(2).start().unwrap();
    wait_until("its return", 5 * SECOND, || health(&site, "b2") == Health::Up).unwrap();
    assert_eq!(fetch(site.client(), http, "/").unwrap().text(), "b2");
}
