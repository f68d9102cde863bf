//! Probes by the vip's own path, against what probes to a backend's own address cannot see: a vip that is not on the backend,
//! a tunnel that it does not unwrap. With real programs, the balancer attached, IPv4 and IPv6.

use std::time::Duration;

use lb_control::health::Health;
use lb_control::vip::Mode;
use lb_tests::netns::Namespace;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{ECHO_PORT, Layout, Topology, vip};
use lb_tests::traffic::probed::{HTTP_PORT, HTTPS_PORT, Probed, TLS_NAME};
use lb_tests::wait::wait_until;

const DEADLINE: Duration = Duration::from_secs(10);
/// On the segment that node and router, and in the switched layout backends, are on.
const ADDRESSES: [&str; 4] = ["--probe-address", "10.60.0.9", "--probe-address", "fd00:60::9"];

/// The vips by their own path, each with the one backend and a probe of its own.
fn by_vip() -> Vec<(&'static str, String)> {
    let http = format!("--probe http --probe-port {HTTP_PORT} --probe-body well --probe-status 200");
    vec![
        ("tcp", format!("--probe tcp --probe-port {HTTP_PORT}")),
        ("http", http.clone()),
        ("http6", http),
        ("https", format!("--probe https --probe-port {HTTPS_PORT} --probe-host {TLS_NAME}")),
        ("tls6", format!("--probe tls --probe-port {HTTPS_PORT} --probe-sni {TLS_NAME}")),
        ("udp", format!("--probe udp --probe-port {ECHO_PORT} --probe-send ping --probe-expect pingb0")),
        ("udp6", format!("--probe udp --probe-port {ECHO_PORT} --probe-send ping --probe-expect pingb0")),
        // More than a window: the first 16 KiB of a body are waited for.
        ("file", "--probe http --probe-port 80 --probe-path /file --probe-body .".to_owned()),
        ("icmp", "--probe icmp".to_owned()),
        ("icmp6", "--probe icmp".to_owned()),
    ]
}

fn start(layout: Layout, mode: Mode, arguments: &[&str]) -> (Site, Probed) {
    let topology = Topology::builder().layout(layout).backends(1);
    let site = Site::builder(topology, mode).families(&Family::BOTH).kinds(&[Served::Echo]);
    let site = site.arguments(arguments).start().unwrap();
    let backend = &site.net.backends()[0];
    let probed = Probed::start(&backend.ns, backend.name(), site.net.dir()).unwrap();
    let word = if mode == Mode::L2 { "l2" } else { "ipip" };
    for (number, (name, probe)) in by_vip().into_iter().enumerate() {
        let port = 1_000 + number;
        let (at, address) = match name.ends_with('6') {
            false => (format!("{}:{port}/tcp", vip(0).v4), backend.addresses().v4.to_string()),
            true => (format!("[{}]:{port}/tcp", vip(0).v6), backend.addresses().v6.to_string()),
        };
        site.lb.lb(&format!("vip add {name} {at} --mode {word} {probe} --probe-via vip")).unwrap();
        site.lb.lb(&format!("backend add {name}/b0 {address}")).unwrap();
    }
    (site, probed)
}

/// Waits until exactly these of the vips by their own path are down and all other vips' backends up.
fn wait_down(site: &Site, what: &str, down: &[&str]) {
    let mut seen = Vec::new();
    let waited = wait_until(what, DEADLINE, || {
        let all = site.backends().unwrap().into_iter();
        seen = all.map(|one| (one.vip.clone(), one.health, one.why)).collect();
        seen.iter().all(|(vip, health, _)| {
            *health == if down.contains(&vip.as_str()) { Health::Down } else { Health::Up }
        })
    });
    let took = waited.unwrap_or_else(|error| panic!("{error}: {seen:#?}"));
    println!("{what}: down are {down:?}, after {} ms", took.as_millis());
}

fn all_by_vip() -> Vec<&'static str> {
    by_vip().into_iter().map(|(name, _)| name).collect()
}

/// Puts both vips on lo, or takes them off.
fn vips_on_lo(namespace: &Namespace, verb: &str) {
    for (line, address) in [("ip", format!("{}/32", vip(0).v4)), ("ip -6", format!("{}/128", vip(0).v6))] {
        namespace.shell(&format!("{line} addr {verb} {address} dev lo")).unwrap();
    }
}

/// Everything that a direct-return site can be sick of. The vips of the site itself are probed at the backend's own address.
fn course(mut site: Site, probed: Probed) {
    wait_down(&site, "all is well", &[]);
    vips_on_lo(&site.net.backends()[0].ns, "del");
    wait_down(&site, "the backend lacks the vips", &all_by_vip());
    site.lb.history("", &["no answer in 150 ms; 2 probes in a row, by the vip's path"]).unwrap();
    vips_on_lo(&site.net.backends()[0].ns, "add");
    wait_down(&site, "the backend has the vips", &[]);

    probed.answer_500(true).unwrap();
    wait_down(&site, "it answers 500", &["http", "http6", "https"]);
    site.lb.history("", &["status 500; 2 probes in a row, by the vip's path"]).unwrap();
    probed.answer_500(false).unwrap();
    wait_down(&site, "it answers 200", &[]);

    vips_on_lo(&site.net.node().ns, "add");
    drop(probed);
    wait_down(&site, "nginx is killed", &["tcp", "http", "http6", "https", "tls6"]);
    site.net.backend_mut(0).kill();
    let killed = ["tcp", "http", "http6", "https", "tls6", "udp", "udp6", "file", "echo4", "echo6"];
    wait_down(&site, "all programs are killed", &killed);
    site.net.backend_mut(0).start().unwrap();
    let backend = &site.net.backends()[0];
    let _probed = Probed::start(&backend.ns, backend.name(), site.net.dir()).unwrap();
    wait_down(&site, "the node has the vips, and all is well", &[]);
}

#[test]
fn a_backend_without_the_vip_is_down_although_its_own_address_answers() {
    require_root!(
        "e2e_probe_via::a_backend_without_the_vip_is_down_although_its_own_address_answers",
        "nginx"
    );
    let (site, probed) = start(Layout::Switched, Mode::L2, &ADDRESSES);
    course(site, probed);
}

#[test]
fn a_backend_that_does_not_unwrap_is_down_although_its_own_address_answers() {
    require_root!(
        "e2e_probe_via::a_backend_that_does_not_unwrap_is_down_although_its_own_address_answers",
        "nginx"
    );
    let (mut site, probed) = start(Layout::Routed, Mode::Ipip, &ADDRESSES);
    wait_down(&site, "all is well", &[]);
    site.end_decap(0);
    wait_down(&site, "nobody unwraps", &all_by_vip());
    site.start_decap(0).unwrap();
    course(site, probed);
}

/// A counter of a namespace's network stack.
fn counted(name: &str, at: &Namespace) -> u64 {
    let told = at.shell(&format!("nstat -asz {name}")).unwrap();
    let line = told.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_node_that_forwards_leaves_the_answers_alone_behind_a_blackhole() {
    require_root!("e2e_probe_via::a_node_that_forwards_leaves_the_answers_alone_behind_a_blackhole", "nginx");
    // On the cable to the backend, whose way to everybody else is the node.
    let own = ["--probe-address", "10.80.0.9", "--probe-address", "fd00:80::9"];
    let (mut site, _probed) = start(Layout::Direct, Mode::L2, &own);
    wait_down(&site, "all is well", &[]);
    let warned = |site: &Site| {
        let told = site.status().unwrap().warnings.into_iter().map(|one| one.text);
        told.filter(|text| text.contains("blackhole")).collect::<Vec<_>>()
    };
    let both = warned(&site);
    assert!(both.len() == 2 && both[0].contains("10.80.0.9") && both[1].contains("fd00:80::9"), "{both:?}");

    let (node, backend) = (&site.net.node().ns, &site.net.backends()[0].ns);
    let forwarded = || counted("IpForwDatagrams", node) + counted("Ip6OutForwDatagrams", node);
    let before = forwarded();
    wait_until("answers that the node forwards", DEADLINE, || forwarded() > before).unwrap();

    for line in ["ip route add blackhole 10.80.0.9/32", "ip -6 route add blackhole fd00:80::9/128"] {
        node.shell(line).unwrap();
    }
    site.lb.stop().unwrap();
    site.lb.restart(&site.net).unwrap();
    assert_eq!(warned(&site), [""; 0]);
    let before = (forwarded(), counted("IcmpInEchos", backend), counted("Icmp6InEchos", backend));
    wait_until("probes of both families", DEADLINE, || {
        let echoes = (counted("IcmpInEchos", backend), counted("Icmp6InEchos", backend));
        echoes.0 >= before.1 + 5 && echoes.1 >= before.2 + 5
    })
    .unwrap();
    assert_eq!(forwarded(), before.0, "the node forwards answers to probes");
    wait_down(&site, "all is well", &[]);
}

#[test]
fn without_an_address_to_ask_from_backends_are_asked_at_their_own_and_it_is_said() {
    require_root!(
        "e2e_probe_via::without_an_address_to_ask_from_backends_are_asked_at_their_own_and_it_is_said",
        "nginx"
    );
    // Of one family only.
    let (site, _probed) = start(Layout::Switched, Mode::L2, &ADDRESSES[..2]);
    wait_down(&site, "all is well", &[]);
    let astray = |name: &str| name.ends_with('6');
    vips_on_lo(&site.net.backends()[0].ns, "del");
    let down: Vec<_> = all_by_vip().into_iter().filter(|name| !astray(name)).collect();
    wait_down(&site, "the backend lacks the vips", &down);
    let said = "not by the vip's path: no address to ask from (LB5033)";
    site.lb.history("backend http6/b0", &[said]).unwrap();
    let warnings = site.status().unwrap().warnings;
    let warned = warnings.iter().filter(|one| one.text.contains("LB5033")).map(|one| one.object.clone());
    let wanted: Vec<_> = by_vip().into_iter().filter(|(name, _)| astray(name)).collect();
    let mut wanted: Vec<_> = wanted.into_iter().map(|(name, _)| format!("vip {name}")).collect();
    let mut warned: Vec<_> = warned.collect();
    warned.sort();
    wanted.sort();
    assert_eq!(warned, wanted);

    let nat = ["vip", "add", "nat", "203.0.113.10:99/tcp", "--mode", "nat", "--probe-via", "vip"];
    let refused = site.lb.try_lb(&nat).unwrap();
    assert!(!refused.is_success() && refused.stderr.contains("LB1068"), "{refused:?}");
    let own = site.net.node().addresses.v4.to_string();
    for (address, why) in [(&*own, "on `eth0`"), ("203.0.113.10", "a vip's"), ("::1", "no host")] {
        let mut serve = std::process::Command::new(site.lb.binary());
        serve.arg("--socket").arg(site.net.dir().join("other.sock")).arg("serve");
        let state = if why == "a vip's" { copied_state(&site) } else { site.net.dir().join("other") };
        serve.arg("--state-dir").arg(state).arg("--pin-dir").arg(site.lb.pin_dir());
        let output = site.net.node().ns.output(serve.args(["--probe-address", address])).unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains("LB3036") && told.contains(why), "{told}");
    }
}

/// The daemon's journal, for another daemon.
fn copied_state(site: &Site) -> std::path::PathBuf {
    let copy = site.net.dir().join("copy");
    let mut command = std::process::Command::new("cp");
    let copied = command.arg("-r").arg(site.lb.state_dir()).arg(&copy).status().unwrap();
    assert!(copied.success());
    copy
}
