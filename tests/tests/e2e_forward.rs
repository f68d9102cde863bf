//! Real traffic through the real balancer, in each mode and each layout that carries it: HTTP and UDP over both
//! families, all backends used, a large download intact.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::counters::protocol_counter;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site, SiteBuilder};
use lb_tests::topology::{BackendSetup, Layout, Topology, TopologyBuilder};
use lb_tests::traffic::{HttpLoad, Reuse, UdpLoad, Wrk, download, echo_transfer, fetch};
use lb_tests::wait::wait_until;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const FILE_BYTES: u64 = 50 << 20;

fn network(layout: Layout, setup: BackendSetup) -> TopologyBuilder {
    Topology::builder().layout(layout).setup(setup).file_bytes(FILE_BYTES)
}

/// Starts it and sends every kind of traffic through it.
fn check(builder: SiteBuilder) -> Site {
    let site = builder.start().unwrap();
    for family in Family::BOTH {
        let http = site.vip(Served::Http, family);
        let reply = fetch(site.client(), http, "/").unwrap_or_else(|error| panic!("{http}: {error:#}"));
        assert!(site.net.backend_names().contains(&reply.text()), "{reply:?}");
        steady(&site, family);
        let backend = download(site.client(), http, FILE_BYTES, MINUTE).unwrap();
        assert!(site.net.backend_names().contains(&backend));
        echo_transfer(site.client(), site.vip(Served::Echo, family), 4 << 20, 5 * SECOND).unwrap();
    }
    for host in site.net.backends().iter().map(|one| &one.ns).chain([site.client()]) {
        assert_eq!(protocol_counter(host, "Tcp", "InCsumErrors").unwrap(), 0);
        assert_eq!(protocol_counter(host, "Udp", "InCsumErrors").unwrap(), 0);
    }
    site
}

/// Kept connections, new connections and UDP flows at the same time: all answered, by all backends.
fn steady(site: &Site, family: Family) {
    let http = site.vip(Served::Http, family);
    let kept = HttpLoad::new(http).workers(8).start(site.client()).unwrap();
    let fresh = HttpLoad::new(http).workers(4).reuse(Reuse::PerRequest).start(site.client()).unwrap();
    let udp = UdpLoad::new(site.vip(Served::Udp, family)).flows(32).start(site.client()).unwrap();
    wait_until("requests of each kind", 10 * SECOND, || {
        kept.snapshot().requests_ok >= 200
            && fresh.snapshot().requests_ok >= 200
            && udp.snapshot().answered >= 200
    })
    .unwrap();
    let (kept, fresh, udp) = (kept.finish().unwrap(), fresh.finish().unwrap(), udp.finish().unwrap());
    assert_eq!(
        (kept.requests_failed, kept.connections_broken, kept.connections_opened),
        (0, 0, 8),
        "{kept:?}"
    );
    assert_eq!((fresh.requests_failed, fresh.connections_broken), (0, 0), "{fresh:?}");
    assert_eq!((udp.failures.len(), udp.flows_moved), (0, 0), "{udp:?}");
    assert_eq!(udp.sent, udp.answered);
    assert_eq!(fresh.per_backend.len(), site.net.backends().len(), "{:?}", fresh.per_backend);
    let fair = fresh.requests_ok as f64 / fresh.per_backend.len() as f64;
    let even = fresh.per_backend.values().all(|count| (*count as f64 - fair).abs() < fair / 2.0);
    assert!(even, "{:?}", fresh.per_backend);
}

#[test]
fn l2_on_one_segment() {
    require_root!("e2e_forward::l2_on_one_segment", "nginx", "curl", "wrk");
    let site = check(Site::builder(network(Layout::Switched, BackendSetup::DirectReturn), Mode::L2));
    let report = Wrk::new(site.vip(Served::Http, Family::V4)).connections(16).duration(SECOND);
    let report = report.run(site.client()).unwrap();
    assert_eq!(report.errors(), 0, "{report:?}");
    assert!(report.requests > 0);
}

#[test]
fn l2_on_cables_of_their_own() {
    require_root!("e2e_forward::l2_on_cables_of_their_own", "nginx", "curl");
    check(Site::builder(network(Layout::Direct, BackendSetup::DirectReturn), Mode::L2));
}

#[test]
fn ipip_in_the_same_family() {
    require_root!("e2e_forward::ipip_in_the_same_family", "nginx", "curl");
    check(Site::builder(network(Layout::Routed, BackendSetup::DirectReturn), Mode::Ipip));
}

#[test]
fn ipip_in_the_other_family() {
    require_root!("e2e_forward::ipip_in_the_other_family", "nginx", "curl");
    check(Site::builder(network(Layout::Routed, BackendSetup::DirectReturn), Mode::Ipip).crossed());
}

#[test]
fn nat_on_one_segment() {
    require_root!("e2e_forward::nat_on_one_segment", "nginx", "curl", "wrk");
    let site = check(Site::builder(network(Layout::Switched, BackendSetup::Plain), Mode::Nat));
    let report = Wrk::new(site.vip(Served::Http, Family::V6)).connections(16).duration(SECOND);
    let report = report.reuse(Reuse::PerRequest).run(site.client()).unwrap();
    assert_eq!(report.status_errors, 0, "{report:?}");
    assert!(report.requests > 0);
}

#[test]
fn nat_to_backends_one_hop_away() {
    require_root!("e2e_forward::nat_to_backends_one_hop_away", "nginx", "curl");
    check(Site::builder(network(Layout::Routed, BackendSetup::Plain), Mode::Nat));
}

#[test]
fn nat_on_cables_of_their_own() {
    require_root!("e2e_forward::nat_on_cables_of_their_own", "nginx", "curl");
    let mut site = check(Site::builder(network(Layout::Direct, BackendSetup::Plain), Mode::Nat));
    half_close(&mut site);
}

/// A client that has said all that it has to say is answered, however long the backend takes.
fn half_close(site: &mut Site) {
    let vip = site.vip(Served::Echo, Family::V4);
    let connect = || Ok(BufReader::new(TcpStream::connect_timeout(&vip, 5 * SECOND)?));
    let mut client = site.client().run(connect).unwrap();
    client.get_ref().set_read_timeout(Some(10 * SECOND)).unwrap();
    let mut name = String::new();
    client.read_line(&mut name).unwrap();
    let at = site.net.backends().iter().position(|one| one.name() == name.trim()).unwrap();
    site.net.backend_mut(at).pause().unwrap();
    client.get_mut().write_all(b"and that is all").unwrap();
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    // The silence is what is tested: several sweeps pass in it.
    std::thread::sleep(5 * SECOND);
    site.net.backend_mut(at).resume().unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "and that is all");
}
