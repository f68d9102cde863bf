//! The lower rungs of the ladder with real clients: what they are told while nobody serves, and who serves when nobody of a
//! pool can.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use lb_control::degradation::Rung;
use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Topology};
use lb_tests::traffic::{fetch, fetch_within};
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
    let vips = Family::BOTH.map(|family| (family, site.vip(Served::Http, family), site.vip(Served::Udp, family)));
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
    wait_until("it serves again", DEADLINE, || fetch_within(site.client(), http, "/", SECOND).is_ok()).unwrap();
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
