//! The configuration as a file on a live node, and the emergency bypass.

use std::time::Duration;

use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{Topology, vip};
use lb_tests::traffic::echo::EchoResponder;
use lb_tests::traffic::{ConnectionPool, HttpLoad, Reuse, ask_once, fetch};
use lb_tests::wait::wait_until;

const SECOND: Duration = Duration::from_secs(1);

fn site(kinds: &[Served]) -> Site {
    let builder = Site::builder(Topology::builder(), Mode::L2).families(&[Family::V4]);
    builder.kinds(kinds).start().unwrap()
}

/// Writes a file and runs `lb VERB -f` on it.
fn with_file(site: &Site, verb: &str, text: &str) -> lb_tests::balancer::Answer {
    let file = site.net.dir().join("wanted.toml");
    std::fs::write(&file, text).unwrap();
    let words: Vec<&str> = verb.split(' ').chain(["-f", file.to_str().unwrap()]).collect();
    site.lb.try_lb(&words).unwrap()
}

/// Replaces the first `from` behind the first `mark`.
fn after(text: &str, mark: &str, from: &str, to: &str) -> String {
    let at = text.find(mark).unwrap();
    let changed = text[at..].replacen(from, to, 1);
    assert_ne!(changed, text[at..], "{from} behind {mark} in {text}");
    format!("{}{changed}", &text[..at])
}

#[test]
fn a_file_is_planned_applied_and_exported_under_load() {
    require_root!("e2e_document::a_file_is_planned_applied_and_exported_under_load", "nginx", "curl");
    let site = site(&[Served::Http, Served::Echo]);
    let http = HttpLoad::new(site.vip(Served::Http, Family::V4)).reuse(Reuse::PerRequest);
    let http = http.start(site.client()).unwrap();
    let pool = ConnectionPool::new(site.vip(Served::Echo, Family::V4), 200).open(site.client()).unwrap();
    let first = site.lb.lb("export").unwrap();
    assert_eq!(with_file(&site, "plan", &first).status, Some(0));
    let answer = with_file(&site, "apply", &first);
    assert!(answer.is_success() && answer.stdout.contains("nothing to change"), "{answer:?}");
    let revision = site.status().unwrap().revision;

    // Another weight, another intent, another vip; and back again.
    let wanted = after(&first, "name = \"b0\"", "weight = 100", "weight = 250");
    let wanted = after(&wanted, "name = \"b2\"", "intent = \"enabled\"", "intent = \"draining\"");
    let wanted = format!("{wanted}\n[[vip]]\nname = \"new\"\naddress = \"203.0.113.99\"\nport = 443\n");
    let plan = with_file(&site, "plan", &wanted);
    assert_eq!(plan.status, Some(3), "{plan:?}");
    assert!(
        plan.stdout.contains("vip new would be created") && plan.stdout.contains("would move"),
        "{plan:?}"
    );
    assert_eq!(site.lb.lb("export").unwrap(), first);
    assert_eq!(site.status().unwrap().revision, revision);
    let answer = with_file(&site, "apply", &wanted);
    assert!(answer.is_success(), "{answer:?}");
    assert_eq!(site.status().unwrap().revision, revision + 3, "one revision for each thing that changed");
    assert_eq!(with_file(&site, "plan", &wanted).status, Some(0));
    let view = site.backend("echo4", "b0").unwrap();
    assert!((view.share - 250.0 / 350.0).abs() < 0.001, "{view:?}");
    let second = site.lb.lb("export").unwrap();
    assert!(with_file(&site, "apply --prune", &first).is_success());
    assert_eq!(site.lb.lb("export").unwrap(), first);
    assert!(with_file(&site, "apply", &second).is_success());
    assert_eq!(site.lb.lb("export").unwrap(), second);

    let seen = http.snapshot().requests_ok;
    wait_until("more requests", 10 * SECOND, || http.snapshot().requests_ok > seen + 200).unwrap();
    pool.wait_round(5 * SECOND).unwrap();
    assert_eq!(pool.finish().unwrap().broken, 0);
    assert_eq!(http.finish().unwrap().requests_failed, 0);
}

#[test]
fn a_file_with_errors_changes_nothing_and_shows_them_all() {
    require_root!("e2e_document::a_file_with_errors_changes_nothing_and_shows_them_all", "nginx", "curl");
    let site = site(&[Served::Http]);
    let (before, revision) = (site.lb.lb("export").unwrap(), site.status().unwrap().revision);
    let good = format!("{before}\n[[vip]]\nname = \"new\"\naddress = \"203.0.113.99\"\nport = 443\n");
    for (text, status, words) in [
        (
            format!("{good}wieght = 3\nmode = \"dr\"\n"),
            2,
            vec!["LB3003", "wieght", "LB3004", "l2", "wanted.toml:"],
        ),
        (format!("{good}[[vip]\n"), 2, vec!["LB3002", "wanted.toml:"]),
        (
            format!(
                "{good}[[vip.backend]]\nname = \"x\"\naddress = \"203.0.113.10\"\n[[vip.backend]]\nname = \"Y\"\naddress = \"10.0.0.1\"\n"
            ),
            1,
            vec!["LB1013", "LB1010", "wanted.toml:"],
        ),
    ] {
        for verb in ["plan", "apply", "apply --dry-run"] {
            let answer = with_file(&site, verb, &text);
            assert_eq!(answer.status, Some(status), "{verb}: {answer:?}");
            for word in &words {
                assert!(answer.stderr.contains(word), "{verb}: {word} in {}", answer.stderr);
            }
        }
    }
    assert_eq!(with_file(&site, "apply --prune", "").status, Some(4), "every vip would go");
    assert_eq!(site.lb.lb("export").unwrap(), before);
    assert_eq!(site.status().unwrap().revision, revision);
    assert_eq!(fetch(site.client(), site.vip(Served::Http, Family::V4), "/").unwrap().status, 200);
}

#[test]
fn the_bypass_lets_every_packet_pass_and_ends() {
    require_root!("e2e_document::the_bypass_lets_every_packet_pass_and_ends", "nginx", "curl");
    let mut site = site(&[Served::Http, Served::Echo, Served::Udp]);
    let node = &site.net.node().ns;
    node.ip_batch(&format!("addr add {}/32 dev lo\n", vip(0).v4)).unwrap();
    let _local = EchoResponder::start(node, "the node", 7).unwrap();
    let udp = site.vip(Served::Udp, Family::V4);
    let pool = ConnectionPool::new(site.vip(Served::Echo, Family::V4), 50).open(site.client()).unwrap();
    let asked = |site: &Site| ask_once(site.client(), udp, 100, SECOND).unwrap();
    assert_ne!(asked(&site), "the node");
    drop(pool);

    let said = site.lb.lb("bypass on").unwrap();
    assert!(said.contains("undo: lb bypass off"), "{said}");
    let before = site.reasons().unwrap();
    assert_eq!(asked(&site), "the node");
    let after = site.reasons().unwrap();
    assert!(after["bypass"] > before.get("bypass").copied().unwrap_or_default());
    assert_eq!(after["forwarded"], before["forwarded"]);
    let status = site.status().unwrap();
    assert!(
        status.bypass && !status.healthy && status.warnings[0].text.contains("lb bypass off"),
        "{status:?}"
    );
    // It outlives the daemon, as every command does.
    site.lb.kill();
    assert_eq!(asked(&site), "the node");
    site.lb.restart(&site.net).unwrap();
    assert_eq!(asked(&site), "the node");

    site.lb.lb("bypass off").unwrap();
    assert_ne!(asked(&site), "the node");
    assert!(site.status().unwrap().healthy);
}
