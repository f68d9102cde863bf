//! What the balancer says about itself, against what really happened: explanations against real connections,
//! counts against the device's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::counters::interface_counters;
use lb_tests::netns::Namespace;
use lb_tests::ping::ping;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Layout, Topology};
use lb_tests::traffic::{HttpLoad, Reuse, UdpLoad, ask_once, fetch};
use lb_tests::wait::{wait_for, wait_until};
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);

/// A connection to the echo of a vip: the backend's name as it said itself.
struct Open {
    client: SocketAddr,
    backend: String,
    _stream: TcpStream,
}

fn open(client: &Namespace, vip: SocketAddr, count: usize) -> Vec<Open> {
    let one = |_| {
        client.run(|| {
            let stream = TcpStream::connect_timeout(&vip, SECOND)?;
            let mut backend = String::new();
            BufReader::new(stream.try_clone()?).read_line(&mut backend)?;
            Ok(Open { client: stream.local_addr()?, backend: backend.trim().to_owned(), _stream: stream })
        })
    };
    (0..count).map(one).collect::<anyhow::Result<_>>().unwrap()
}

/// Where `lb explain` says that a later segment of these connections goes; the choices that it names.
fn explained(site: &Site, connections: &[Open], vip: &str) -> BTreeMap<String, usize> {
    let mut choices = BTreeMap::new();
    for one in connections {
        let line = format!("explain {} {vip} --established", one.client);
        let json: Value = site.lb.lb_json(&line).unwrap();
        assert_eq!(json["schema"], "lb/v1");
        let story = json["story"].to_string();
        assert!(
            story.contains(&format!("It goes to backend {vip}/{} ", one.backend)),
            "{}: {story}",
            one.backend
        );
        let choice = json["detail"]["backend"]["choice"].as_str().unwrap_or_default().to_owned();
        *choices.entry(choice).or_default() += 1;
        let text = site.lb.lb(&line).unwrap();
        assert_eq!(text.lines().last(), Some("So it is sent to that backend (forwarded)."), "{text}");
    }
    choices
}

#[test]
fn explain_tells_where_real_connections_go() {
    require_root!("e2e_look::explain_tells_where_real_connections_go", "nginx", "curl");
    for (mode, layout, setup) in [
        (Mode::L2, Layout::Switched, BackendSetup::DirectReturn),
        (Mode::Nat, Layout::Direct, BackendSetup::Plain),
    ] {
        let network = Topology::builder().layout(layout).setup(setup);
        let site = Site::builder(network, mode).kinds(&[Served::Echo]).start().unwrap();
        for (family, vip) in Family::BOTH.into_iter().zip(["echo4", "echo6"]) {
            let older = open(site.client(), site.vip(Served::Echo, family), 12);
            let choices = explained(&site, &older, vip);
            let wanted = if mode == Mode::Nat { "remembered" } else { "slot" };
            assert_eq!(choices.keys().collect::<Vec<_>>(), [wanted], "{choices:?}");
            // After a change the older ones stay where they are, and new ones are remembered.
            site.lb.lb(&format!("backend weight {vip}/b0 10")).unwrap();
            let newer = open(site.client(), site.vip(Served::Echo, family), 12);
            let choices = explained(&site, &older, vip);
            assert!(mode == Mode::Nat || choices.contains_key("previous"), "{choices:?}");
            explained(&site, &newer, vip);
        }
    }
}

#[test]
fn explain_tells_what_nobody_forwards() {
    require_root!("e2e_look::explain_tells_what_nobody_forwards", "nginx", "curl");
    let site =
        Site::builder(Topology::builder().backends(1), Mode::L2).families(&[Family::V4]).start().unwrap();
    for (line, words) in [
        (
            "explain 198.51.100.7 203.0.113.10:81",
            "It passes to the node's own network stack: not to a vip (no_vip).",
        ),
        ("explain 198.51.100.7 203.0.113.10:80 --udp", "(no_vip)."),
        ("explain 198.51.100.7 udp4", "A UDP datagram from 198.51.100.7:40001 to 203.0.113.10:7"),
        ("explain LB1031", "LB1031: a table is full"),
    ] {
        let text = site.lb.lb(line).unwrap();
        assert!(text.contains(words), "lb {line}: {text}");
    }
    // A question is no traffic.
    for _ in 0..5 {
        site.lb.lb("explain 198.51.100.7 http4").unwrap();
    }
    assert_eq!(site.packets("forwarded").unwrap(), 0);
}

/// A backend without a probe whose host is gone: packets go on to where it was, since nobody says otherwise.
#[test]
fn a_next_hop_that_fell_silent_is_told() {
    require_root!("e2e_look::a_next_hop_that_fell_silent_is_told", "nginx", "curl");
    let builder = Site::builder(Topology::builder().backends(2), Mode::L2).families(&[Family::V4]);
    let site = builder.kinds(&[Served::Http]).start().unwrap();
    site.lb.lb("vip set http4 --probe none").unwrap();
    site.lb.lb("status --check").unwrap();
    let (gone, node) = (&site.net.backends()[0], &site.net.node().ns);
    gone.ns.shell("ip link set eth0 down").unwrap();
    node.shell(&format!("ip neigh flush to {}", gone.addresses().v4)).unwrap();
    let stale = || site.backend("http4", "b0").unwrap().way.stale;
    wait_until("the silence", 20 * SECOND, || stale().is_some()).unwrap();
    let silent = site.backend("http4", "b0").unwrap();
    assert!(silent.way.known && silent.share > 0.3, "{silent:?}");
    let answer = site.lb.try_lb(&["status", "--check"]).unwrap();
    assert_eq!(answer.status, Some(6), "{answer:?}");
    for words in ["(stale)", "its way is from before: its neighbour does not answer", "! backend http4/b0: "]
    {
        assert!(answer.stdout.contains(words), "{words}: {}", answer.stdout);
    }
    assert!(!answer.stdout.contains("! backend http4/b1: "), "{}", answer.stdout);

    gone.ns.shell("ip link set eth0 up").unwrap();
    wait_until("its answer", 20 * SECOND, || stale().is_none()).unwrap();
    site.lb.lb("status --check").unwrap();
}

/// Samples of the metrics: name and labels, value.
fn scrape(site: &Site) -> BTreeMap<String, u64> {
    let text = site.lb.metrics().unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    samples.map(sample).collect()
}

fn sum(samples: &BTreeMap<String, u64>, family: &str) -> u64 {
    samples.iter().filter(|(name, _)| name.starts_with(&format!("{family}{{"))).map(|(_, value)| value).sum()
}

/// A scrape, and what the device had received at that very time: nothing came in between.
fn scrape_with_device(site: &Site) -> (BTreeMap<String, u64>, u64, u64) {
    let received = || interface_counters(&site.net.node().ns, "eth0").unwrap();
    let quiet = || {
        let before = received();
        let samples = scrape(site);
        (received().rx_packets == before.rx_packets).then_some((samples, before.rx_packets, before.rx_bytes))
    };
    wait_for("a quiet moment", 10 * SECOND, quiet).unwrap().0
}

#[test]
fn every_packet_of_the_device_is_under_one_reason() {
    require_root!("e2e_look::every_packet_of_the_device_is_under_one_reason", "nginx", "curl");
    let site = Site::builder(Topology::builder(), Mode::L2).start().unwrap();
    let (before, packets_before, bytes_before) = scrape_with_device(&site);
    for family in Family::BOTH {
        let http = HttpLoad::new(site.vip(Served::Http, family)).reuse(Reuse::PerRequest);
        let http = http.start(site.client()).unwrap();
        let udp = UdpLoad::new(site.vip(Served::Udp, family)).start(site.client()).unwrap();
        wait_until("traffic", 10 * SECOND, || {
            http.snapshot().requests_ok > 300 && udp.snapshot().answered > 300
        })
        .unwrap();
        assert_eq!(http.finish().unwrap().requests_failed, 0);
        udp.finish().unwrap();
        ping(site.client(), site.vip(Served::Http, family).ip(), 56, SECOND).unwrap().unwrap();
        assert!(ask_once(site.client(), site.vip(Served::Udp, family), 4000, SECOND / 10).is_err());
    }
    let (after, packets_after, bytes_after) = scrape_with_device(&site);
    let grown = |family: &str| sum(&after, family) - sum(&before, family);
    assert!(packets_after - packets_before > 4000);
    assert_eq!(grown("lb_reason_packets_total"), packets_after - packets_before);
    // The kernel counts a frame of a veth without its Ethernet header.
    let headers = 14 * (packets_after - packets_before);
    assert_eq!(grown("lb_reason_bytes_total"), bytes_after - bytes_before + headers);
    // What went to a backend is under its vip, its tenant and the backend.
    let forwarded = |samples: &BTreeMap<String, u64>| samples["lb_reason_packets_total{reason=\"forwarded\",class=\"forward\"}"];
    let forwarded = forwarded(&after) - forwarded(&before);
    assert!(forwarded > 3000);
    assert_eq!(grown("lb_backend_packets_total"), forwarded);
    assert_eq!(grown("lb_vip_packets_total"), grown("lb_tenant_packets_total"));
    assert_eq!(grown("lb_vip_packets_total"), forwarded);
    for family in ["http4", "http6", "udp4", "udp6"] {
        let name = format!("lb_vip_packets_total{{vip=\"{family}\",tenant=\"default\"}}");
        assert!(after[&name] > before[&name] + 300, "{name}");
    }
    assert_eq!(after["lb_reason_packets_total{reason=\"fragment\",class=\"drop\"}"], 6);
    assert_eq!(after["lb_attached_devices"], 1);
    // The same by the command line.
    let drops: Value = site.lb.lb_json("drops --all").unwrap();
    let seen: u64 =
        drops["items"].as_array().unwrap().iter().map(|one| one["packets"].as_u64().unwrap()).sum();
    assert!(seen >= sum(&after, "lb_reason_packets_total"));
    let drops: Value = site.lb.lb_json("drops").unwrap();
    let fragments = drops["items"].as_array().unwrap().iter().find(|one| one["reason"] == "fragment");
    assert_eq!(fragments.unwrap()["packets"], 6);
}

#[test]
fn a_live_node_tests_itself_without_harm() {
    require_root!("e2e_look::a_live_node_tests_itself_without_harm", "nginx", "curl");
    let site = Site::builder(Topology::builder(), Mode::L2).families(&[Family::V4]).start().unwrap();
    let load = HttpLoad::new(site.vip(Served::Http, Family::V4)).reuse(Reuse::PerRequest);
    let load = load.start(site.client()).unwrap();
    for _ in 0..10 {
        let json: Value = site.lb.lb_json("selftest").unwrap();
        assert_eq!((&json["schema"], &json["ok"]), (&Value::from("lb/v1"), &Value::from(true)), "{json}");
        assert!(json["checks"].as_array().unwrap().len() >= 4, "{json}");
    }
    assert!(site.lb.lb("selftest").unwrap().contains("were answered as they should be"));
    wait_until("traffic", 10 * SECOND, || load.snapshot().requests_ok > 300).unwrap();
    let report = load.finish().unwrap();
    assert_eq!(report.requests_failed, 0, "{:?}", report.failures);
}

#[test]
fn every_command_speaks_json_and_text() {
    require_root!("e2e_look::every_command_speaks_json_and_text", "nginx", "curl");
    let site = Site::builder(Topology::builder(), Mode::Nat).start().unwrap();
    fetch(site.client(), site.vip(Served::Http, Family::V4), "/").ok();
    for line in [
        "status",
        "status --check",
        "vip list",
        "vip show http4",
        "backend list",
        "backend list http6",
        "tenant list",
        "drops",
        "drops --all",
        "bypass status",
        "selftest",
        "explain 198.51.100.7 http4",
        "explain LB1002",
    ] {
        let json: Value = site.lb.lb_json(line).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        assert_eq!(json["schema"], "lb/v1", "{line}: {json}");
        let text = site.lb.lb(line).unwrap();
        assert!(!text.trim().is_empty() && !text.contains("\x1b["), "{line}: {text}");
    }
    let status = site.lb.lb("status").unwrap();
    for words in
        ["attached to eth0, native", "vip http4  203.0.113.10:80/tcp", "http4/b0", "enabled", "up", "33.3 %"]
    {
        assert!(status.contains(words), "{words} in {status}");
    }
}
