//! What the traffic of clients says against a backend: it is probed at once, long before its turn; and however much is said,
//! nothing else follows.

use std::time::{Duration, Instant};

use lb_control::health::Health;
use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Topology};
use lb_tests::traffic::{HttpLoad, Reuse, RunningHttpLoad};
use lb_tests::wait::wait_until;
use lb_userspace::api::views::BackendView;

const SECOND: Duration = Duration::from_secs(1);
/// Far less than the interval of the probes here.
const SOON: Duration = Duration::from_secs(10);
/// A probe a minute, of which one that fails is enough: only a suspicion can be quick.
const RARELY: &str = "--probe-interval-ms 60000 --probe-fall 1 --probe-retries 0";

fn site(mode: Mode) -> Site {
    let setup = if mode == Mode::Nat { BackendSetup::Plain } else { BackendSetup::DirectReturn };
    let builder = Site::builder(Topology::builder().setup(setup), mode).families(&[Family::V4]);
    // A short window, so that slots come to rest.
    let site = builder.kinds(&[Served::Http]).window_s(1).start().unwrap();
    site.lb.lb(&format!("vip set http4 {RARELY}")).unwrap();
    site
}

fn load(site: &Site) -> RunningHttpLoad {
    let load = HttpLoad::new(site.vip(Served::Http, Family::V4)).reuse(Reuse::PerRequest);
    load.timeout(SECOND / 4).start(site.client()).unwrap()
}

fn seen(site: &Site) -> BackendView {
    site.backend("http4", "b1").unwrap()
}

/// One fails under load; what is said against it. Its turn to be probed comes once a minute, and may come just then: so again.
fn found_by_its_traffic(mode: Mode, fail: impl Fn(&mut Site)) -> String {
    (0..3).find_map(|_| suspected(mode, &fail)).expect("its turn came first three times")
}

fn suspected(mode: Mode, fail: impl Fn(&mut Site)) -> Option<String> {
    let mut site = site(mode);
    let load = load(&site);
    wait_until("load on all", SOON, || load.snapshot().per_backend.len() == 3).unwrap();
    let flowing = load.snapshot().requests_ok;
    wait_until("much of it", SOON, || load.snapshot().requests_ok > flowing + 500).unwrap();
    let before: Vec<_> = site.backends().unwrap().into_iter().map(|one| one.suspicion).collect();
    assert!(before.iter().all(String::is_empty), "nothing is wrong yet: {before:?}");

    fail(&mut site);
    let began = Instant::now();
    let mut said = String::new();
    wait_until("it is out", SOON, || {
        let seen = seen(&site);
        said = if seen.suspicion.is_empty() { std::mem::take(&mut said) } else { seen.suspicion };
        seen.health == Health::Down
    })
    .unwrap();
    if said.is_empty() {
        println!("{mode:?}: out by its turn");
        return None;
    }
    println!("{mode:?}: out after {} ms, probed once a minute: {said}", began.elapsed().as_millis());
    let well = |one: &BackendView| one.name == "b1" || (one.health == Health::Up && one.share > 0.4);
    wait_until("the others", SOON, || site.backends().unwrap().iter().all(well)).unwrap();
    Some(said)
}

#[test]
fn one_that_falls_silent_is_found_by_its_traffic() {
    require_root!("e2e_suspects::one_that_falls_silent_is_found_by_its_traffic", "nginx", "curl");
    let said = found_by_its_traffic(Mode::L2, |site| site.net.backends()[1].cut().unwrap());
    assert!(said.contains("were followed by"), "{said}");
}

#[test]
fn one_that_refuses_is_found_by_nat() {
    require_root!("e2e_suspects::one_that_refuses_is_found_by_nat", "nginx", "curl");
    let said = found_by_its_traffic(Mode::Nat, |site| site.net.backend_mut(1).kill());
    assert!(said.contains("it refused"), "{said}");
}

/// Direct return, slots at rest: nobody remembers a SYN and nobody sees its answer, and what lives on sends packets enough.
#[test]
fn one_that_takes_no_connections_is_found_by_a_sample_of_their_syns() {
    let name = "e2e_suspects::one_that_takes_no_connections_is_found_by_a_sample_of_their_syns";
    require_root!(name, "nginx", "curl", "nft");
    let site = site(Mode::L2);
    wait_until("slots at rest", 2 * SOON, || {
        let slots = site.status().unwrap().vips[0].slots;
        slots.moving + slots.pinned == 0
    })
    .unwrap();
    let vip = site.vip(Served::Http, Family::V4);
    let kept = HttpLoad::new(vip).workers(24).pause(SECOND / 500).start(site.client()).unwrap();
    wait_until("load on all", SOON, || kept.snapshot().per_backend.len() == 3).unwrap();
    let drop_syns = format!("rule inet deaf c ip daddr {} tcp flags & (syn | ack) == syn drop", vip.ip());
    for line in ["table inet deaf", "chain inet deaf c { type filter hook input priority 0 ; }", &drop_syns] {
        site.net.backends()[1].ns.shell(&format!("nft add {line}")).unwrap();
    }
    // Each comes to that backend in the end, and waits while its SYN is sent again after 1, 3 and 7 seconds.
    let began = Instant::now();
    let patient = HttpLoad::new(vip).reuse(Reuse::PerRequest).workers(400);
    let patient = patient.pause(SECOND / 5).timeout(8 * SECOND).start(site.client()).unwrap();
    let mut said = String::new();
    wait_until("a suspicion", 3 * SOON, || {
        said = seen(&site).suspicion;
        !said.is_empty()
    })
    .unwrap();
    println!("suspect after {} ms: {said}", began.elapsed().as_millis());
    assert!(said.contains("came again within a second, unanswered, in a sample of one flow in 64"), "{said}");
    // Its probes, to its own address, are answered: nothing follows.
    wait_until("a generation of them", 2 * SOON, || patient.snapshot().requests_failed > 200).unwrap();
    for one in site.backends().unwrap() {
        let stands = (one.health, one.breaker.as_deref(), one.share > 0.3, one.suspicion.is_empty());
        assert_eq!(stands, (Health::Up, Some("closed"), true, one.name != "b1"), "{one:?}");
    }
    patient.finish().unwrap();
    let kept = kept.finish().unwrap();
    assert_eq!((kept.requests_failed, kept.connections_broken), (0, 0), "{:?}", kept.failures);
}

#[test]
fn no_suspicion_takes_anybody_out() {
    require_root!("e2e_suspects::no_suspicion_takes_anybody_out", "nginx", "curl", "nft");
    let site = site(Mode::L2);
    let told = || site.lb.lb("history backend http4/b1").unwrap();
    wait_until("its first answer in the history", SOON, || told().contains("unknown -> up")).unwrap();
    let history = told();
    // Clients that begin connections and hear no answer: to the node as a flood of forged SYNs.
    for line in [
        "table inet deaf",
        "chain inet deaf c { type filter hook input priority 0 ; }",
        "rule inet deaf c tcp sport 80 drop",
    ] {
        site.client().shell(&format!("nft add {line}")).unwrap();
    }
    let load = load(&site);
    wait_until("suspicions", SOON, || {
        site.backends().unwrap().iter().all(|one| one.suspicion.contains("were followed by"))
    })
    .unwrap();
    let show = site.lb.lb("breaker show http4").unwrap();
    println!("{show}");
    assert!(show.contains("SYNs of clients within a second"), "{show}");
    assert!(site.lb.metrics().unwrap().contains("lb_backend_suspect{vip=\"http4\",backend=\"b1\"} 1"));
    let failed = load.snapshot().requests_failed;
    wait_until("many more", 2 * SOON, || load.snapshot().requests_failed > failed + 150).unwrap();
    for one in site.backends().unwrap() {
        assert!(!one.suspicion.is_empty(), "{one:?}");
        let stands = (one.health, one.breaker.as_deref(), one.share > 0.3);
        assert_eq!(stands, (Health::Up, Some("closed"), true), "{one:?}");
    }
    assert_eq!(site.lb.lb("history backend http4/b1").unwrap(), history);

    load.finish().unwrap();
    site.client().shell("nft delete table inet deaf").unwrap();
    wait_until("it is forgotten", 2 * SOON, || {
        site.backends().unwrap().iter().all(|one| one.suspicion.is_empty())
    })
    .unwrap();
}
