//! What cannot be is refused with a stable code, an exit status and what to do, and changes nothing.

use std::process::Command;
use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::balancer::{Answer, Balancer};
use lb_tests::netns::{Hook, XDP_PASS};
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, Topology};
use lb_tests::traffic::{fetch, fetch_within};

const SECOND: Duration = Duration::from_secs(1);
fn site() -> Site {
    let builder = Site::builder(Topology::builder().backends(2), Mode::L2).families(&[Family::V4]);
    builder.kinds(&[Served::Http]).start().unwrap()
}

fn try_lb(lb: &Balancer, line: &str) -> Answer {
    lb.try_lb(&line.split_whitespace().collect::<Vec<_>>()).unwrap()
}

/// Refused with this status and code, and something to do about it; in JSON, too.
fn refused(lb: &Balancer, line: &str, status: i32, code: &str) -> String {
    let answer = try_lb(lb, line);
    assert_eq!(answer.status, Some(status), "lb {line}: {answer:?}");
    assert!(answer.stdout.is_empty(), "lb {line}: {answer:?}");
    assert!(answer.stderr.contains(code) && answer.stderr.contains("help: "), "lb {line}: {answer:?}");
    let json = try_lb(lb, &format!("--json {line}"));
    assert_eq!(json.status, Some(status), "lb --json {line}: {json:?}");
    let value: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!((&value["schema"], &value["error"]["code"]), (&"lb/v1".into(), &code.into()), "{value}");
    answer.stderr
}

/// Everything that a refused command must leave as it was.
fn state(site: &Site) -> (String, u64, Vec<String>) {
    let status = site.status().unwrap();
    let slots = status.vips.iter().map(|vip| format!("{} {:?}", vip.name, vip.slots)).collect();
    (site.lb.lb("export").unwrap(), status.revision, slots)
}

#[test]
fn wrong_words_change_nothing() {
    require_root!("e2e_refusals::wrong_words_change_nothing", "nginx", "curl");
    let site = site();
    let (lb, before) = (&site.lb, state(&site));
    for (line, status, code, words) in [
        ("vip show htp4", 1, "LB1002", "did you mean `http4`?"),
        ("vip remove htp4", 1, "LB1002", "did you mean `http4`?"),
        ("backend weight http4/b7 5", 1, "LB1003", "b7"),
        ("backend weight http4/b0 65536", 1, "LB1032", "65536"),
        ("backend weight b0 5", 2, "LB3006", "VIP/BACKEND"),
        ("vip add http4 203.0.113.10:81", 1, "LB1005", "http4"),
        ("vip add other 203.0.113.10:80", 1, "LB1008", "http4"),
        ("vip add Other 203.0.113.11:80", 1, "LB1010", "Other"),
        ("vip add other 203.0.113.300:80", 2, "LB3005", "203.0.113.300"),
        ("vip add other 203.0.113.11:65536", 2, "LB3005", "65536"),
        ("vip add other 127.0.0.1:80", 1, "LB1011", "127.0.0.1"),
        ("vip add other 203.0.113.11:80 --table-size 1000", 1, "LB1018", "1009"),
        ("vip add other 203.0.113.11:80 --tenant nobody", 1, "LB1001", "nobody"),
        ("backend add http4/b9 10.60.0.10", 1, "LB1007", "b0"),
        ("backend add http4/b9 203.0.113.10", 1, "LB1013", "203.0.113.10"),
        ("backend add http4/b9 fd00::1", 1, "LB1014", "fd00::1"),
        ("backend add http4/b9 10.60.0.99:81", 1, "LB1015", "81"),
        ("vip set http4 --mode nat", 1, "LB1020", "http4"),
        ("tenant remove nobody", 1, "LB1001", "nobody"),
        ("explain LB9999", 1, "LB3011", "LB9999"),
        ("attach no-such-dev", 4, "LB4009", "no-such-dev"),
        ("detach lo", 4, "LB4013", "lo"),
    ] {
        let said = refused(lb, line, status, code);
        assert!(said.contains(words), "lb {line}: {words} in {said}");
    }
    // What clap sees: the values that can be are listed, a near miss is named.
    for (line, words) in [
        ("vip add other 203.0.113.11:80 --mode dr", "[possible values: l2, ipip, nat]"),
        ("backend drian http4/b0", "similar subcommand exists: 'drain'"),
        ("vip add other 203.0.113.11:80 --windows-s 5", "--window-s"),
        ("backend weight http4/b0 many", "invalid value 'many'"),
    ] {
        let answer = try_lb(lb, line);
        assert_eq!(answer.status, Some(2), "lb {line}: {answer:?}");
        assert!(answer.stderr.contains(words), "lb {line}: {words} in {}", answer.stderr);
    }
    assert_eq!(state(&site), before);
}

#[test]
fn a_foreign_program_is_replaced_only_if_asked() {
    require_root!("e2e_refusals::a_foreign_program_is_replaced_only_if_asked", "nginx", "curl", "bpftool");
    let site = site();
    let (node, http) = (&site.net.node().ns, site.vip(Served::Http, Family::V4));
    let attached = || node.shell("ip link show eth0").unwrap();
    let is_balanced = || fetch_within(site.client(), http, "/", SECOND / 4).is_ok();
    site.lb.lb("detach eth0").unwrap();
    assert!(!is_balanced() && !attached().contains("xdp"));

    // One that is held by a link.
    let foreign = node.attach_program("eth0", Hook::Xdp, &XDP_PASS).unwrap();
    let before = attached();
    let said = refused(&site.lb, "attach eth0", 4, "LB4010");
    assert!(said.contains("eth0") && said.contains("--replace"), "{said}");
    assert_eq!(attached(), before);
    assert!(!is_balanced());
    site.lb.lb("attach eth0 --replace").unwrap();
    assert!(is_balanced());
    drop(foreign);
    assert!(is_balanced());
    site.lb.lb("detach eth0").unwrap();

    // One that was set as `ip link set xdp` sets it.
    let program = site.lb.pin_dir().join("balance");
    node.shell(&format!("bpftool net attach xdpdrv pinned {} dev eth0", program.display())).unwrap();
    let before = attached();
    refused(&site.lb, "attach eth0", 4, "LB4010");
    assert_eq!(attached(), before);
    site.lb.lb("attach eth0 --replace").unwrap();
    assert!(is_balanced());
    site.lb.lb("detach eth0").unwrap();
    assert!(!attached().contains("xdp"));
    site.lb.lb("attach eth0").unwrap();
    assert!(is_balanced());
}

#[test]
fn without_a_daemon_or_rights_one_sentence_says_what_to_do() {
    require_root!(
        "e2e_refusals::without_a_daemon_or_rights_one_sentence_says_what_to_do",
        "nginx",
        "curl",
        "setpriv"
    );
    let mut site = site();
    let nobody = |words: &[&str]| -> Answer {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(site.lb.binary());
        site.net.node().ns.output(command.arg("--socket").arg(site.lb.socket()).args(words)).unwrap().into()
    };
    let private = site.net.dir().join("private");
    let answer = nobody(&["status"]);
    assert_eq!(answer.status, Some(4), "{answer:?}");
    assert!(answer.stderr.contains("LB5003") && answer.stderr.contains("help: "), "{answer:?}");
    let answer =
        nobody(&["serve", "--state-dir", private.to_str().unwrap(), "--pin-dir", "/sys/fs/bpf/lb-none"]);
    assert_eq!(answer.status, Some(4), "{answer:?}");
    assert!(answer.stderr.contains("LB5005") || answer.stderr.contains("LB4002"), "{answer:?}");

    let elsewhere = private.to_str().unwrap().to_owned();
    let state_dir = site.net.dir().join("state2");
    let answer =
        try_lb(&site.lb, &format!("serve --state-dir {} --pin-dir {elsewhere}", state_dir.display()));
    assert_eq!(answer.status, Some(4), "{answer:?}");
    assert!(answer.stderr.contains("LB4003") && answer.stderr.contains("mount -t bpf"), "{answer:?}");

    site.lb.stop().unwrap();
    let said = refused(&site.lb, "status", 4, "LB5001");
    assert!(said.contains("lb serve"), "{said}");
    assert_eq!(fetch(site.client(), site.vip(Served::Http, Family::V4), "/").unwrap().status, 200);
}

#[test]
fn a_full_map_refuses_and_changes_nothing() {
    require_root!("e2e_refusals::a_full_map_refuses_and_changes_nothing", "nginx", "curl");
    let builder = Site::builder(Topology::builder().backends(2), Mode::L2).families(&[Family::V4]);
    let builder = builder.kinds(&[Served::Http, Served::Echo]);
    let arguments = ["--max-vips", "2", "--max-backends", "5", "--max-slots", "150000"];
    let mut site = builder.arguments(&arguments).start().unwrap();
    let before = state(&site);
    for (line, words) in [
        ("vip add third 203.0.113.11:80", "--max-vips"),
        ("vip add third 203.0.113.11:80 --table-size 251", "--max-vips"),
    ] {
        let said = refused(&site.lb, line, 1, "LB1031");
        assert!(said.contains("vip") && said.contains(words), "{said}");
        assert_eq!(state(&site), before);
    }
    site.lb.lb("backend add http4/b2 10.60.0.12").unwrap();
    let before = state(&site);
    let said = refused(&site.lb, "backend add http4/b3 10.60.0.13", 1, "LB1031");
    assert!(said.contains("backend"), "{said}");
    assert_eq!(state(&site), before);
    // Room again, and it is taken.
    site.lb.lb("vip remove echo4 --allow-disruption").unwrap();
    let said = refused(&site.lb, "vip add third 203.0.113.11:80 --table-size 131071", 1, "LB1031");
    assert!(said.contains("slots"), "{said}");
    site.lb.lb("vip add third 203.0.113.11:80 --mode l2").unwrap();
    // The rows of removed backends are free again when no flow can name them any more: the answer waits for it.
    site.lb.lb("backend add third/b3 10.60.0.13").unwrap();
    site.lb.lb("backend remove http4/b2").unwrap();
    site.lb.lb("backend add third/b4 10.60.0.14").unwrap();
    site.lb.lb("backend add third/b5 10.60.0.15").unwrap();
    assert_eq!(site.status().unwrap().reconcile.pending, []);

    // The maps keep their sizes, whatever the next daemon is told.
    let kept = |site: &Site| {
        let told = site.status().unwrap().warnings.into_iter().map(|one| one.text);
        told.filter(|text| text.starts_with("the maps keep the sizes")).collect::<Vec<_>>()
    };
    assert_eq!(kept(&site), [""; 0]);
    site.lb.kill();
    let arguments = ["--max-vips", "9", "--max-backends", "5", "--max-slots", "150000"];
    site.lb.restart_with(&site.net, &arguments).unwrap();
    let [told] = &kept(&site)[..] else { panic!("{:?}", kept(&site)) };
    assert!(told.ends_with(": --max-vips 2, not 9"), "{told}");
    assert!(site.lb.log().contains("--max-vips 2, not 9"));
    assert_eq!(fetch(site.client(), site.vip(Served::Http, Family::V4), "/").unwrap().status, 200);
}

#[test]
fn a_device_that_nat_replies_miss_is_warned_of() {
    require_root!("e2e_refusals::a_device_that_nat_replies_miss_is_warned_of", "nginx", "curl");
    let network = Topology::builder().layout(lb_tests::topology::Layout::Direct).setup(BackendSetup::Plain);
    let builder = Site::builder(network.backends(1), Mode::Nat).families(&[Family::V4]);
    let site = builder.kinds(&[Served::Http]).start().unwrap();
    let http = site.vip(Served::Http, Family::V4);
    let status = site.status().unwrap();
    assert!(status.healthy, "{:?}", status.warnings);
    site.lb.lb("detach b0").unwrap();
    assert!(fetch_within(site.client(), http, "/", SECOND / 4).is_err());
    let status = site.status().unwrap();
    let warned = status.warnings.iter().any(|one| one.urgent && one.text.contains("lb attach b0"));
    assert!(!status.healthy && warned, "{:?}", status.warnings);
    site.lb.lb("attach b0").unwrap();
    assert!(site.status().unwrap().healthy);
    assert_eq!(fetch(site.client(), http, "/").unwrap().status, 200);
}
