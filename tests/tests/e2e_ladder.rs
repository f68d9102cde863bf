//! The lower rungs of the ladder with real clients: what they are told while nobody serves, and who serves when nobody of a
//! pool can.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use lb_control::degradation::Rung;
use lb_control::health::Health;
use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Topology};
use lb_tests::traffic::{ConnectionPool, fetch, fetch_within};
use lb_tests::wait::wait_until;

const SECOND: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(20);
/// Far below a SYN's first repetition, far above what an answer of the next hop takes.
const AT_ONCE: Duration = Duration::from_millis(500);

fn rung(site: &Site, vip: &str) -> Rung {
    let status = site.status().unwrap();
    status.vips.iter().find(|one| one.name == vip).unwrap().ladder.rung
}

/// What becomes of a connection within so long.
fn connect(site: &Site, to: SocketAddr, within: Duration) -> Result<(), ErrorKind> {
    let connected = site.client().run(|| Ok(TcpStream::connect_timeout(&to, within).map(drop)));
    connected.unwrap().map_err(|error| error.kind())
}

/// What becomes of a datagram within so long.
fn send(site: &Site, to: SocketAddr, within: Duration) -> Result<(), ErrorKind> {
    let asked = site.client().run(|| {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(within))?;
        socket.connect(to)?;
        Ok(socket.send(b"ping").and_then(|_| socket.recv(&mut [0; 64])).map(drop))
    });
    asked.unwrap().map_err(|error| error.kind())
}

fn clients_are_refused_at_once(mode: Mode) {
    let setup = if mode == Mode::Nat { BackendSetup::Plain } else { BackendSetup::DirectReturn };
    let builder = Site::builder(Topology::builder().setup(setup).backends(1), mode);
    let mut site = builder.kinds(&[Served::Http, Served::Udp]).start().unwrap();
    let vips =
        Family::BOTH.map(|family| (family, site.vip(Served::Http, family), site.vip(Served::Udp, family)));
    for vip in vips.iter().flat_map(|(family, ..)| [format!("http{family}"), format!("udp{family}")]) {
        site.lb.lb(&format!("vip set {vip} --last-known-good false")).unwrap();
    }
    for (_, http, udp) in vips {
        assert_eq!((connect(&site, http, SECOND), send(&site, udp, SECOND)), (Ok(()), Ok(())));
    }
    site.net.backend_mut(0).kill();
    for (family, ..) in vips {
        for vip in [format!("http{family}"), format!("udp{family}")] {
            wait_until("nobody", DEADLINE, || rung(&site, &vip) == Rung::Nobody).unwrap();
        }
    }
    for (_, http, udp) in vips {
        let began = Instant::now();
        assert_eq!(connect(&site, http, 5 * SECOND), Err(ErrorKind::ConnectionRefused), "{http}");
        let curl = fetch(site.client(), http, "/").unwrap_err().to_string();
        assert!(curl.contains("curl: (7)"), "{curl}");
        assert_eq!(send(&site, udp, 5 * SECOND), Err(ErrorKind::ConnectionRefused), "{udp}");
        println!("{mode:?} {http}: refused twice and a datagram in {} us", began.elapsed().as_micros());
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
    assert!(site.packets("reset_replied").unwrap() >= 4);
    assert!(site.packets("unreachable_replied").unwrap() >= 2);
    let dropped = site.packets("no_backend").unwrap();

    for vip in ["http4", "udp4"] {
        site.lb.lb(&format!("vip set {vip} --fail-fast false")).unwrap();
    }
    let (_, http, udp) = vips[0];
    assert_eq!(connect(&site, http, SECOND / 2), Err(ErrorKind::TimedOut));
    assert!(matches!(send(&site, udp, SECOND / 2), Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)));
    assert!(site.packets("no_backend").unwrap() >= dropped + 2);

    site.net.backend_mut(0).start().unwrap();
    wait_until("it serves again", DEADLINE, || fetch_within(site.client(), http, "/", SECOND).is_ok())
        .unwrap();
}

#[test]
fn clients_of_a_vip_that_nobody_serves_are_refused_at_once() {
    require_root!("e2e_ladder::clients_of_a_vip_that_nobody_serves_are_refused_at_once", "nginx", "curl");
    clients_are_refused_at_once(Mode::L2);
}

#[test]
fn so_they_are_by_nat() {
    require_root!("e2e_ladder::so_they_are_by_nat", "nginx", "curl");
    clients_are_refused_at_once(Mode::Nat);
}

/// Whether the probes of all backends are dropped by them; packets of clients are not.
fn drop_probes(site: &Site, drop: bool) {
    for backend in site.net.backends() {
        let node = site.net.node().addresses.v4;
        let lines = [
            "table inet deaf".to_owned(),
            "chain inet deaf c { type filter hook input priority 0 ; }".to_owned(),
            format!("rule inet deaf c ip saddr {node} tcp dport 80 drop"),
        ];
        if drop {
            lines.iter().for_each(|line| drop_output(backend.ns.shell(&format!("nft add {line}"))));
        } else {
            drop_output(backend.ns.shell("nft delete table inet deaf"));
        }
    }
}

fn drop_output(output: anyhow::Result<String>) {
    output.map(drop).unwrap();
}

#[test]
fn those_that_were_last_known_good_serve_on_when_only_the_probes_fail() {
    require_root!(
        "e2e_ladder::those_that_were_last_known_good_serve_on_when_only_the_probes_fail",
        "nginx",
        "curl",
        "nft"
    );
    let builder = Site::builder(Topology::builder(), Mode::L2).families(&[Family::V4]);
    let site = builder.kinds(&[Served::Http]).start().unwrap();
    let http = site.vip(Served::Http, Family::V4);
    let served = |site: &Site| {
        let names = (0..60).map(|_| fetch_within(site.client(), http, "/", SECOND).unwrap().text());
        names.collect::<BTreeSet<_>>().len()
    };
    assert_eq!(served(&site), 3);
    drop_probes(&site, true);
    wait_until("last known good", DEADLINE, || rung(&site, "http4") == Rung::LastKnownGood).unwrap();
    wait_until("all of them", DEADLINE, || served(&site) == 3).unwrap();
    let backends = site.backends().unwrap();
    assert!(backends.iter().all(|one| one.health == Health::Down && one.share > 0.3), "{backends:#?}");
    let status = site.lb.try_lb(&["status", "--check"]).unwrap();
    println!("{}", status.stdout);
    assert_eq!(status.status, Some(6));
    for text in ["last known good", "partial"] {
        assert!(status.stdout.contains(text), "{text}: {}", status.stdout);
    }
    assert!(site.lb.metrics().unwrap().contains("lb_vip_ladder{vip=\"http4\"} 3"));

    site.lb.lb("vip set http4 --last-known-good false").unwrap();
    wait_until("nobody", DEADLINE, || rung(&site, "http4") == Rung::Nobody).unwrap();
    assert_eq!(connect(&site, http, 5 * SECOND), Err(ErrorKind::ConnectionRefused));
    drop_probes(&site, false);
    wait_until("the pool", DEADLINE, || rung(&site, "http4") == Rung::Pool).unwrap();
    let steps = ["pool -> last known good", "last known good -> nobody", "nobody -> pool"];
    site.lb.history("vip http4", &steps).unwrap();
}

fn another_pool_serves(mode: Mode) {
    let setup = if mode == Mode::Nat { BackendSetup::Plain } else { BackendSetup::DirectReturn };
    let builder = Site::builder(Topology::builder().setup(setup), mode).families(&[Family::V4]);
    let mut site = builder.kinds(&[Served::Http]).start().unwrap();
    let http = site.vip(Served::Http, Family::V4);
    let spare = site.net.backends()[2].addresses().v4;
    let word = if mode == Mode::Nat { "nat" } else { "l2" };
    site.lb.lb("backend remove http4/b2").unwrap();
    site.lb
        .lb(&format!("vip add spare {}:8080/tcp --mode {word} --probe tcp --probe-port 80", http.ip()))
        .unwrap();
    let port = if mode == Mode::Nat { ":80" } else { "" };
    site.lb.lb(&format!("backend add spare/b2 {spare}{port}")).unwrap();
    site.lb.lb("vip set http4 --fallback spare").unwrap();
    let refused = site.lb.try_lb(&["vip", "remove", "spare", "--allow-disruption"]).unwrap();
    assert!(refused.stderr.contains("LB1080"), "{refused:?}");
    wait_until("the spare", DEADLINE, || site.backend("spare", "b2").unwrap().share > 0.9).unwrap();
    let name = |site: &Site| fetch(site.client(), http, "/").map(|reply| reply.text());
    assert!((0..20).all(|_| name(&site).unwrap() != "b2"));

    (0..2).for_each(|index| site.net.backend_mut(index).kill());
    wait_until("the fallback", DEADLINE, || rung(&site, "http4") == Rung::Fallback).unwrap();
    assert!((0..20).all(|_| name(&site).unwrap() == "b2"));
    assert_eq!(rung(&site, "spare"), Rung::Pool);
    let status = site.lb.try_lb(&["status", "--check"]).unwrap();
    println!("{}", status.stdout);
    assert!(
        status.stdout.contains("partial: nobody of the pool serves, the pool of spare does"),
        "{}",
        status.stdout
    );
    assert!(site.lb.metrics().unwrap().contains("lb_vip_ladder{vip=\"http4\"} 2"));

    site.net.backend_mut(2).kill();
    wait_until("who was last good", DEADLINE, || rung(&site, "http4") == Rung::LastKnownGood).unwrap();
    site.net.backend_mut(2).start().unwrap();
    wait_until("the fallback again", DEADLINE, || rung(&site, "http4") == Rung::Fallback).unwrap();
    (0..2).for_each(|index| site.net.backend_mut(index).start().unwrap());
    wait_until("the pool", 3 * DEADLINE, || rung(&site, "http4") == Rung::Pool).unwrap();
    wait_until("only the pool", DEADLINE, || (0..20).all(|_| name(&site).unwrap() != "b2")).unwrap();
    let steps = ["pool -> fallback", "fallback -> last known good", "fallback -> pool"];
    let history = site.lb.history("vip http4", &steps).unwrap();
    assert!(history.contains("new flows go to the pool of vip spare"), "{history}");
}

#[test]
fn another_vips_pool_serves_when_nobody_of_ones_own_can() {
    require_root!("e2e_ladder::another_vips_pool_serves_when_nobody_of_ones_own_can", "nginx", "curl");
    another_pool_serves(Mode::L2);
}

#[test]
fn so_it_does_by_nat() {
    require_root!("e2e_ladder::so_it_does_by_nat", "nginx", "curl");
    another_pool_serves(Mode::Nat);
}

/// One backend is drained and lives, then the other fails: the slots that were the first one's lead older flows to it still,
/// and new ones to the fallback. The sweep, once a second, must know them for flows of this vip.
#[test]
fn what_began_on_the_fallback_stays_while_a_drained_backend_lives() {
    require_root!("e2e_ladder::what_began_on_the_fallback_stays_while_a_drained_backend_lives");
    let builder = Site::builder(Topology::builder(), Mode::L2).families(&[Family::V4]);
    let mut site = builder.kinds(&[Served::Echo]).start().unwrap();
    let echo = site.vip(Served::Echo, Family::V4);
    let (ip, port, spare) = (echo.ip(), echo.port(), site.net.backends()[2].addresses().v4);
    site.lb.lb("backend remove echo4/b2").unwrap();
    site.lb.lb(&format!("vip add spare {ip}:8080/tcp --mode l2 --probe tcp --probe-port {port}")).unwrap();
    site.lb.lb(&format!("backend add spare/b2 {spare}")).unwrap();
    site.lb.lb("vip set echo4 --fallback spare").unwrap();
    wait_until("the spare", DEADLINE, || site.backend("spare", "b2").unwrap().share > 0.9).unwrap();
    let older = ConnectionPool::new(echo, 40).open(site.client()).unwrap();
    let stays = older.snapshot().live_per_backend["b0"];

    site.lb.lb("backend drain echo4/b0").unwrap();
    wait_until("drained", DEADLINE, || site.backend("echo4", "b0").unwrap().share == 0.0).unwrap();
    site.net.backend_mut(1).kill();
    wait_until("the fallback", DEADLINE, || rung(&site, "echo4") == Rung::Fallback).unwrap();
    let newer = ConnectionPool::new(echo, 60).open(site.client()).unwrap();
    let began = Instant::now();
    while began.elapsed() < 4 * SECOND {
        newer.wait_round(DEADLINE).unwrap();
    }
    let seen = newer.snapshot();
    assert_eq!((seen.live, seen.broken, seen.live_per_backend["b2"]), (60, 0, 60), "{seen:?}");
    assert_eq!(older.snapshot().live_per_backend["b0"], stays);

    site.net.backend_mut(1).start().unwrap();
    wait_until("the pool", DEADLINE, || rung(&site, "echo4") == Rung::Pool).unwrap();
    let began = Instant::now();
    while began.elapsed() < 3 * SECOND {
        newer.wait_round(DEADLINE).unwrap();
    }
    let seen = newer.finish().unwrap();
    assert_eq!((seen.live, seen.broken), (60, 0), "{seen:?}");
}
