//! The daemon comes and goes, packets do not: killed, stopped, started again, and a second one refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use lb_common::abi;
use lb_control::vip::Mode;
use lb_tests::process::Process;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::sweep::PinDir;
use lb_tests::topology::{BackendSetup, Topology};
use lb_tests::traffic::{
    ConnectionPool, HttpLoad, LivePool, Reuse, RunningHttpLoad, RunningUdpLoad, UdpLoad, fetch,
};
use lb_tests::wait::wait_until;

const SECOND: Duration = Duration::from_secs(1);
/// Slots that are compared: those of the vips.
const SLOTS: u32 = 3 * lb_common::limits::SLOTS_PER_VIP;

fn site(mode: Mode) -> Site {
    let setup = if mode == Mode::Nat { BackendSetup::Plain } else { BackendSetup::DirectReturn };
    let builder = Site::builder(Topology::builder().setup(setup), mode).families(&[Family::V4]);
    builder.window_s(60).start().unwrap()
}

/// Traffic of every kind, none of which may notice anything.
struct Traffic {
    pool: LivePool,
    http: [RunningHttpLoad; 2],
    udp: RunningUdpLoad,
}

impl Traffic {
    fn start(site: &Site) -> Self {
        let http = HttpLoad::new(site.vip(Served::Http, Family::V4)).workers(8);
        let pool = ConnectionPool::new(site.vip(Served::Echo, Family::V4), 300);
        let fresh = http.clone().reuse(Reuse::PerRequest).start(site.client()).unwrap();
        Self {
            pool: pool.open(site.client()).unwrap(),
            http: [http.start(site.client()).unwrap(), fresh],
            // As patient as the others: an answer that is late on a busy machine is no lost one.
            udp: UdpLoad::new(site.vip(Served::Udp, Family::V4))
                .timeout(5 * SECOND)
                .start(site.client())
                .unwrap(),
        }
    }

    /// Waits for more of every kind.
    fn go_on(&self) {
        let counts = || {
            let http = self.http.iter().map(|load| load.snapshot().requests_ok);
            http.chain([self.udp.snapshot().answered]).collect::<Vec<u64>>()
        };
        let before = counts();
        wait_until("more traffic", 10 * SECOND, || {
            counts().iter().zip(&before).all(|(now, before)| *now >= before + 200)
        })
        .unwrap();
        self.pool.wait_round(10 * SECOND).unwrap();
    }

    fn finish_unharmed(self) {
        let pool = self.pool.finish().unwrap();
        assert_eq!((pool.live, pool.broken), (300, 0), "{:?}", pool.failures);
        for load in self.http {
            let load = load.finish().unwrap();
            assert_eq!((load.requests_failed, load.connections_broken), (0, 0), "{:?}", load.failures);
        }
        let udp = self.udp.finish().unwrap();
        assert_eq!((udp.failures.len(), udp.flows_moved), (0, 0), "{:?}", udp.failures);
    }
}

fn pinned<T: aya::Pod>(pin_dir: &Path, name: &str) -> Array<MapData, T> {
    Array::try_from(Map::Array(MapData::from_pin(pin_dir.join(name)).unwrap())).unwrap()
}

/// The hash key that flows are hashed with, as the maps have it, and every slot.
fn data_plane(site: &Site) -> (Vec<u64>, Vec<u64>) {
    let config = pinned::<[u64; 4]>(site.lb.pin_dir(), abi::CONFIG.name).get(&0, 0).unwrap();
    let slots = pinned::<u64>(site.lb.pin_dir(), abi::SLOTS.name);
    let slots: Vec<u64> = (0..SLOTS).map(|index| slots.get(&index, 0).unwrap()).collect();
    assert!(slots.iter().all(|slot| *slot != 0), "the vips' slots lie elsewhere");
    (config[2..].to_vec(), slots)
}

/// Ends the daemon under load while slots move, starts it again, and sees that nobody noticed.
fn without_its_daemon(mode: Mode, end: fn(&mut Site)) {
    let mut site = site(mode);
    let traffic = Traffic::start(&site);
    // Drained: there are slots whose older connections go elsewhere than new ones.
    for vip in ["http4", "echo4", "udp4"] {
        site.lb.lb(&format!("backend drain {vip}/b1")).unwrap();
    }
    traffic.go_on();
    let (before, document, revision) =
        (data_plane(&site), site.lb.lb("export").unwrap(), site.status().unwrap().revision);
    let moving = |site: &Site| -> BTreeMap<String, u32> {
        site.status().unwrap().vips.into_iter().map(|vip| (vip.name, vip.slots.moving)).collect()
    };
    let (moving_before, forwarded) = (moving(&site), site.packets("forwarded").unwrap());
    assert!(moving_before["echo4"] > 20_000, "{moving_before:?}");

    end(&mut site);
    traffic.go_on();
    let refused = site.lb.try_lb(&["status"]).unwrap();
    assert_eq!(refused.status, Some(4), "{refused:?}");
    assert!(data_plane(&site) == before, "the data plane changed without a daemon");
    site.lb.restart(&site.net).unwrap();
    traffic.go_on();

    assert!(data_plane(&site) == before, "the next daemon changed slots or key");
    assert_eq!(moving(&site), moving_before);
    assert_eq!(site.lb.lb("export").unwrap(), document);
    let status = site.status().unwrap();
    assert_eq!(
        (status.revision, status.applied_revision, status.reconcile.drift_operations),
        (revision, revision, 0)
    );
    assert_eq!(status.devices.len(), 1);
    assert!(site.packets("forwarded").unwrap() > forwarded, "counts go on");
    assert!(site.lb.log().contains("adopted the data plane that runs"), "{}", site.lb.log());

    // And it is in charge.
    for vip in ["http4", "echo4", "udp4"] {
        site.lb.lb(&format!("backend enable {vip}/b1 --wait --timeout-s 10")).unwrap();
    }
    let seen = traffic.http[1].snapshot().per_backend.get("b1").copied().unwrap_or_default();
    wait_until("new connections to it", 10 * SECOND, || {
        traffic.http[1].snapshot().per_backend["b1"] > seen + 20
    })
    .unwrap();
    traffic.go_on();
    traffic.finish_unharmed();
}

#[test]
fn killed_under_load_by_l2() {
    require_root!("e2e_daemon::killed_under_load_by_l2", "nginx", "curl");
    without_its_daemon(Mode::L2, |site| site.lb.kill());
}

#[test]
fn killed_under_load_by_nat() {
    require_root!("e2e_daemon::killed_under_load_by_nat", "nginx", "curl");
    without_its_daemon(Mode::Nat, |site| site.lb.kill());
}

#[test]
fn stopped_under_load() {
    require_root!("e2e_daemon::stopped_under_load", "nginx", "curl");
    without_its_daemon(Mode::L2, |site| site.lb.stop().unwrap());
}

#[test]
fn what_changed_meanwhile_is_found_by_the_next_daemon() {
    require_root!("e2e_daemon::what_changed_meanwhile_is_found_by_the_next_daemon", "nginx", "curl");
    let mut site = site(Mode::L2);
    site.lb.kill();
    site.net.backend_mut(0).kill();
    site.lb.restart(&site.net).unwrap();
    wait_until("b0 to be out", 5 * SECOND, || site.backend("http4", "b0").unwrap().share == 0.0).unwrap();
    let load = HttpLoad::new(site.vip(Served::Http, Family::V4)).reuse(Reuse::PerRequest);
    let load = load.start(site.client()).unwrap();
    wait_until("requests", 10 * SECOND, || load.snapshot().requests_ok > 200).unwrap();
    let report = load.finish().unwrap();
    assert_eq!(report.requests_failed, 0, "{:?}", report.failures);
    assert!(!report.per_backend.contains_key("b0"));
}

#[test]
fn a_second_daemon_is_refused_and_changes_nothing() {
    require_root!("e2e_daemon::a_second_daemon_is_refused_and_changes_nothing", "nginx", "curl");
    let site = site(Mode::L2);
    let other_pins = PinDir::claim().unwrap();
    let (state_dir, socket) = (site.net.dir().join("other-state"), site.net.dir().join("other.sock"));
    let own = (site.lb.socket(), site.lb.state_dir(), site.lb.pin_dir());
    let before = data_plane(&site);
    for (name, socket, state_dir, pin_dir, code) in [
        ("state", socket.as_path(), own.1, other_pins.path(), "LB5004"),
        ("pins", socket.as_path(), state_dir.as_path(), own.2, "LB4004"),
        ("socket", own.0, state_dir.as_path(), other_pins.path(), "LB5007"),
        ("all", own.0, own.1, own.2, "LB5004"),
    ] {
        let mut command = Command::new(site.lb.binary());
        command.arg("--socket").arg(socket).arg("serve").arg("--state-dir").arg(state_dir);
        command.arg("--pin-dir").arg(pin_dir);
        let log = format!("second-{name}");
        let mut second = Process::spawn(&site.net.node().ns, &log, command, site.net.dir()).unwrap();
        let status = second.wait(10 * SECOND).unwrap();
        let said = second.stderr_text();
        assert_eq!(status.code(), Some(4), "{name}: {said}");
        assert!(said.contains(code), "{name}: {code} in {said}");
    }
    assert!(data_plane(&site) == before);
    assert_eq!(site.status().unwrap().devices.len(), 1);
    assert_eq!(fetch(site.client(), site.vip(Served::Http, Family::V4), "/").unwrap().status, 200);
}

#[test]
fn the_last_command_survives_a_kill() {
    require_root!("e2e_daemon::the_last_command_survives_a_kill", "nginx", "curl");
    let mut site = site(Mode::L2);
    for weight in [7, 70, 700] {
        site.lb.lb(&format!("backend weight http4/b2 {weight}")).unwrap();
        let before = site.lb.lb("export").unwrap();
        site.lb.kill();
        site.lb.restart(&site.net).unwrap();
        assert_eq!(site.lb.lb("export").unwrap(), before);
        assert_eq!(site.backend("http4", "b2").unwrap().weight, weight);
    }
}
