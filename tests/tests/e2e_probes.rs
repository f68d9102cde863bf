//! Probes of every kind against programs that run, are told to be sick, hang, refuse, reset, or are cut off; and what
//! failures cost while traffic runs. IPv4 and IPv6.

use std::time::{Duration, Instant};

use lb_control::health::Health;
use lb_control::vip::Mode;
use lb_tests::bench::failover::{Case, Stand};
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{ECHO_PORT, Layout, Topology, vip};
use lb_tests::traffic::probed::{HTTP_PORT, HTTPS_PORT, Probed, TLS_NAME};
use lb_tests::traffic::{HttpLoad, Reuse};
use lb_tests::wait::wait_until;

const DEADLINE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// The vips, each with the one backend and a probe of its own.
fn vips() -> Vec<(&'static str, String)> {
    let http = format!("--probe http --probe-port {HTTP_PORT} --probe-body well");
    vec![
        ("tcp", format!("--probe tcp --probe-port {HTTP_PORT}")),
        ("http", http.clone()),
        ("http6", http),
        (
            "https",
            format!("--probe https --probe-port {HTTPS_PORT} --probe-host {TLS_NAME} --probe-status 200"),
        ),
        ("tls", format!("--probe tls --probe-port {HTTPS_PORT} --probe-sni {TLS_NAME}")),
        ("udp", format!("--probe udp --probe-port {ECHO_PORT} --probe-send ping --probe-expect pingb0")),
        ("icmp", "--probe icmp".to_owned()),
        ("icmp6", "--probe icmp".to_owned()),
    ]
}

fn kinds_site() -> (Site, Probed) {
    let topology = Topology::builder().layout(Layout::Direct).backends(1);
    let site = Site::builder(topology, Mode::L2).families(&Family::BOTH).kinds(&[Served::Echo]);
    let site = site.start().unwrap();
    let backend = &site.net.backends()[0];
    let probed = Probed::start(&backend.ns, backend.name(), site.net.dir()).unwrap();
    for (number, (name, probe)) in vips().into_iter().enumerate() {
        let port = 1_000 + number;
        let (at, address) = match name.ends_with('6') {
            false => (format!("{}:{port}/tcp", vip(0).v4), backend.addresses().v4.to_string()),
            true => (format!("[{}]:{port}/tcp", vip(0).v6), backend.addresses().v6.to_string()),
        };
        site.lb.lb(&format!("vip add {name} {at} --mode l2 {probe}")).unwrap();
        site.lb.lb(&format!("backend add {name}/b0 {address}")).unwrap();
    }
    (site, probed)
}

/// Waits until exactly these are down and all others up.
fn wait_down(site: &Site, what: &str, down: &[&str]) {
    let mut seen = Vec::new();
    let waited = wait_until(what, DEADLINE, || {
        let all =
            site.backends().unwrap().into_iter().filter(|one| vips().iter().any(|(vip, _)| one.vip == *vip));
        seen = all.map(|one| (one.vip.clone(), one.health, one.why)).collect();
        seen.iter().all(|(vip, health, _)| {
            *health == if down.contains(&vip.as_str()) { Health::Down } else { Health::Up }
        })
    });
    waited.unwrap_or_else(|error| panic!("{error}: {seen:#?}"));
    println!("{what}: down are {down:?}");
}

#[test]
fn every_kind_of_probe_sees_what_it_looks_at() {
    require_root!("e2e_probes::every_kind_of_probe_sees_what_it_looks_at", "nginx", "nft");
    let (mut site, mut probed) = kinds_site();
    wait_down(&site, "all is well", &[]);
    probed.answer_500(true).unwrap();
    wait_down(&site, "it answers 500", &["http", "http6", "https"]);
    site.lb.history("", &["status 500; 2 probes in a row"]).unwrap();
    let why = site.backend("http", "b0").unwrap().why;
    assert!(why.contains("a status that is not wanted"), "{why}");
    probed.answer_500(false).unwrap();
    wait_down(&site, "well again", &[]);
    probed.pause().unwrap();
    wait_down(&site, "it hangs", &["http", "http6", "https", "tls"]);
    probed.resume().unwrap();
    wait_down(&site, "it goes on", &[]);
    let reject = format!("rule inet r c tcp dport {{ {HTTP_PORT}, {HTTPS_PORT} }} reject with tcp reset");
    for what in ["table inet r", "chain inet r c { type filter hook input priority 0 ; }", &reject] {
        site.net.backends()[0].ns.shell(&format!("nft add {what}")).unwrap();
    }
    wait_down(&site, "it resets", &["tcp", "http", "http6", "https", "tls"]);
    site.net.backends()[0].ns.shell("nft delete table inet r").unwrap();
    wait_down(&site, "it takes connections", &[]);
    drop(probed);
    wait_down(&site, "nginx is killed", &["tcp", "http", "http6", "https", "tls"]);
    let backend = &site.net.backends()[0];
    let _probed = Probed::start(&backend.ns, backend.name(), site.net.dir()).unwrap();
    wait_down(&site, "nginx is back", &[]);
    site.net.backend_mut(0).kill();
    wait_down(&site, "the echo is killed", &["udp"]);
    site.net.backend_mut(0).start().unwrap();
    wait_down(&site, "the echo is back", &[]);
    site.net.backends()[0].cut().unwrap();
    wait_down(&site, "it is cut off", &vips().iter().map(|(name, _)| *name).collect::<Vec<_>>());
    site.net.backends()[0].mend().unwrap();
    wait_down(&site, "it is reached again", &[]);
    // Nobody whom this node trusts has signed its certificate.
    site.lb.lb("vip set tls --probe-verify true").unwrap();
    wait_down(&site, "it must be trusted", &["tls"]);
    let why = site.backend("tls", "b0").unwrap().why;
    assert!(why.contains("TLS handshake"), "{why}");
}

#[test]
fn what_a_failing_backend_costs() {
    require_root!("e2e_probes::what_a_failing_backend_costs", "nginx", "nft", "wrk");
    let mut stand = Stand::open().unwrap();
    for case in Case::ALL {
        let cost = stand.fail(case).unwrap();
        println!("{case:?}: {cost:?}");
        // What an idle machine reaches is the benchmark's; here others may be at work.
        let within_ms = if matches!(case, Case::Kill | Case::Error) { 1_000.0 } else { 2_500.0 };
        assert!(cost.failed > 0 && cost.last_failure_ms < within_ms, "{case:?}: {cost:?}");
        assert!(cost.others_stall_ms < 1_000.0, "{case:?}: {cost:?}");
    }
}

#[test]
fn one_that_flaps_half_of_them_and_all_of_them() {
    require_root!("e2e_probes::one_that_flaps_half_of_them_and_all_of_them", "nginx");
    let topology = Topology::builder().layout(Layout::Direct).backends(4);
    let site = Site::builder(topology, Mode::L2).families(&[Family::V4]).kinds(&[Served::Http]);
    let mut site = site.start().unwrap();
    let load = HttpLoad::new(site.vip(Served::Http, Family::V4)).reuse(Reuse::PerRequest).timeout(SECOND / 4);
    let load = load.start(site.client()).unwrap();
    wait_until("load on all", DEADLINE, || load.snapshot().per_backend.len() == 4).unwrap();
    let health = |site: &Site, index: usize| site.backend("http4", &format!("b{index}")).unwrap().health;

    for _ in 0..5 {
        let began = Instant::now();
        site.net.backend_mut(1).kill();
        wait_until("out", DEADLINE, || health(&site, 1) == Health::Down).unwrap();
        site.net.backend_mut(1).start().unwrap();
        wait_until("in again", DEADLINE, || health(&site, 1) == Health::Up).unwrap();
        wait_until("the second is over", DEADLINE, || began.elapsed() >= SECOND).unwrap();
    }
    let flapped = load.snapshot();
    println!("five flaps: {} of {} requests failed", flapped.requests_failed, flapped.requests_ok);
    assert!(flapped.requests_failed > 0 && flapped.requests_failed < flapped.requests_ok / 10);

    let (began, before) = (Instant::now(), load.snapshot());
    (0..2).for_each(|index| site.net.backend_mut(index).kill());
    wait_until("both out", DEADLINE, || (0..2).all(|index| health(&site, index) == Health::Down)).unwrap();
    let (out, seen) = (began.elapsed(), load.snapshot().requests_ok);
    wait_until("load on the others", DEADLINE, || load.snapshot().requests_ok > seen + 200).unwrap();
    let half = load.snapshot().requests_failed - before.requests_failed;
    println!("half: {half} requests failed, out after {} ms", out.as_millis());

    (2..4).for_each(|index| site.net.backend_mut(index).kill());
    wait_until("all out", DEADLINE, || (0..4).all(|index| health(&site, index) == Health::Down)).unwrap();
    let (began, before) = (Instant::now(), load.snapshot().requests_ok);
    (0..4).for_each(|index| site.net.backend_mut(index).start().unwrap());
    wait_until("an answer", DEADLINE, || load.snapshot().requests_ok > before).unwrap();
    println!("all: answers again {} ms after they were started", began.elapsed().as_millis());
    wait_until("all in", DEADLINE, || (0..4).all(|index| health(&site, index) == Health::Up)).unwrap();
}
