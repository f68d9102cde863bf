//! Files: plan, apply, export; faults at their places.

use crate::bench::Bench;

const FILE: &str = r#"
[[tenant]]
name = "acme"

[[vip]]
name = "web"
tenant = "acme"
address = "203.0.113.10"
port = 80
mode = "l2"
window_s = 120
probe = { kind = "none" }

  [[vip.backend]]
  name = "b1"
  address = "10.0.0.1"

  [[vip.backend]]
  name = "b2"
  address = "10.0.0.2"
  weight = 50
  intent = "draining"

[[vip]]
name = "dns"
address = "2001:db8::10"
port = 53
protocol = "udp"
mode = "nat"
probe = { kind = "tcp", port = 8053, fall = 5 }

  [[vip.backend]]
  name = "b1"
  address = "fd00::1"
  port = 5353
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_planned_applied_and_exported_again() {
    let bench = Bench::new();
    let file = bench.file(FILE);
    let ran = bench.lb(&format!("plan -f {file}")).await;
    assert_eq!(ran.exit, 3, "{ran:?}");
    assert!(ran.stdout.contains("vip web would be created"), "{ran:?}");
    assert!(bench.records().is_empty());
    let ran = bench.lb(&format!("apply -f {file}")).await.ok();
    assert!(ran.stdout.contains("backend web/b2 created: 10.0.0.2 port 80 weight 50 draining"), "{ran:?}");
    assert_eq!(bench.records().len(), 1, "one command is one record");
    assert_eq!(bench.lb(&format!("plan -f {file}")).await.exit, 0);
    let exported = bench.lb("export").await.ok().stdout;
    let other = Bench::new();
    let file = other.file(&exported);
    other.lb(&format!("apply -f {file}")).await.ok();
    assert_eq!(other.lb("export").await.ok().stdout, exported);
    let ran = other.lb(&format!("apply -f {file} --prune")).await.ok();
    assert!(ran.stdout.contains("nothing to change"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_what_serves_needs_a_word_more() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let empty = bench.file("");
    let ran = bench.lb(&format!("plan -f {empty} --prune")).await;
    assert_eq!(ran.exit, 3, "{ran:?}");
    assert!(ran.stderr.contains("--allow-disruption"), "{ran:?}");
    let ran = bench.lb(&format!("apply -f {empty} --prune")).await;
    assert_eq!(ran.exit, 4, "{ran:?}");
    assert!(ran.stderr.contains("LB1030"), "{ran:?}");
    assert!(bench.node.engine.state().vips.contains_key("web"));
    bench.lb(&format!("apply -f {empty} --prune --allow-disruption")).await.ok();
    assert!(bench.node.engine.state().vips.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_rejects_is_shown_at_its_place_in_the_file() {
    let bench = Bench::new();
    let text = FILE.replace("203.0.113.10", "127.0.0.1").replace("10.0.0.2", "127.0.0.2");
    let file = bench.file(&text);
    let ran = bench.lb(&format!("apply -f {file}")).await;
    assert_eq!(ran.exit, 1, "{ran:?}");
    assert!(ran.stderr.contains("LB1011") && ran.stderr.contains("LB1012"), "all at once: {ran:?}");
    assert!(ran.stderr.contains("lb.toml:8:11") && ran.stderr.contains("lb.toml:20:13"), "{ran:?}");
    let ran = bench.lb(&format!("--json apply -f {file}")).await;
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["place"], format!("{file}:8:11"));
    assert_eq!(error["error"]["also"][0]["code"], "LB1012");
    assert!(bench.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_change_is_shown_where_the_file_says_otherwise() {
    let bench = Bench::new();
    let file = bench.file(FILE);
    bench.lb(&format!("apply -f {file}")).await.ok();
    for (was, is, code, place) in [
        ("203.0.113.10", "203.0.113.11", "LB1021", ":8:11"),
        ("port = 80", "port = 81", "LB1021", ":9:8"),
        ("protocol = \"udp\"", "protocol = \"tcp\"", "LB1021", ":28:12"),
        ("tenant = \"acme\"", "tenant = \"default\"", "LB1021", ":7:10"),
        ("10.0.0.2", "10.0.0.3", "LB1022", ":20:13"),
        ("port = 5353", "port = 5354", "LB1022", ":35:10"),
    ] {
        let file = bench.file(&FILE.replacen(was, is, 1));
        let ran = bench.lb(&format!("--json apply -f {file}")).await;
        let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        let found = (&error["error"]["code"], &error["error"]["place"]);
        assert_eq!(found, (&code.into(), &format!("{file}{place}").into()), "{is}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_named() {
    let bench = Bench::new();
    let ran = bench.lb("apply -f /nowhere/lb.toml").await;
    assert_eq!(ran.exit, 2);
    assert!(ran.stderr.contains("cannot read /nowhere/lb.toml") && ran.stderr.contains("LB3001"), "{ran:?}");
}
