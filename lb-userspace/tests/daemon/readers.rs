//! What readers see: status, lists, drops, explanations, metrics; as text and as JSON.

use lb_common::reason::Reason;

use crate::bench::{Bench, until};

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_intent_health_and_breaker_apart() {
    let bench = Bench::new();
    bench.fake.add_device("eth7", 7);
    bench.lb("attach eth7").await.ok();
    bench.with_web(3).await;
    bench.lb("backend drain web/b3").await.ok();
    let node = bench.node.clone();
    until("ways are in the maps", || {
        let actual = node.standing.borrow().actual.clone();
        actual.is_some_and(|actual| actual.backends.values().all(|backend| backend.next_hop.is_known()))
    })
    .await;
    let text = bench.lb("status").await.ok().stdout;
    for wanted in
        ["vip web  203.0.113.10:80/tcp", "mode l2", "attached to eth7", "INTENT", "HEALTH", "BREAKER"]
    {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let json = bench.lb("--json status").await.ok().json();
    let backends = json["vips"][0]["backends"].as_array().unwrap();
    assert_eq!(backends[2]["intent"], "draining");
    assert_eq!(
        (&backends[0]["health"], &backends[0]["breaker"]),
        (&"unknown".into(), &serde_json::Value::Null)
    );
    let share = |index: usize| backends[index]["share"].as_f64().unwrap();
    assert!((share(0) - 0.5).abs() < 0.01 && (share(1) - 0.5).abs() < 0.01 && share(2) == 0.0, "{json}");
    assert_eq!(backends[0]["way"]["known"], true);
    assert_eq!((&json["healthy"], &json["revision"]), (&true.into(), &json["applied_revision"]), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_person_is_a_warning() {
    let bench = Bench::new();
    bench.lb("vip add web 203.0.113.10:80/tcp --probe none").await.ok();
    let warnings = |json: &serde_json::Value| json["warnings"].to_string();
    let json = bench.lb("--json status").await.ok().json();
    assert!(warnings(&json).contains("no device is attached"), "{json}");
    assert!(warnings(&json).contains("it has no backend"), "{json}");
    bench.lb("backend add web/b1 10.0.0.1").await.ok();
    bench.all_reached();
    let json = bench.lb("--json status").await.ok().json();
    assert!(warnings(&json).contains("which is not attached, so nobody translates them"), "{json}");
    bench.lb("bypass on").await.ok();
    let json = bench.lb("--json status").await.ok().json();
    assert!(json["warnings"].to_string().contains("the emergency bypass is on"), "{json}");
    assert_eq!(json["healthy"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_and_metrics_add_up() {
    let bench = Bench::new();
    bench.with_web(1).await;
    for _ in 0..3 {
        bench.fake.add_count(Reason::NoBackend, Some(0), None, 60);
    }
    bench.fake.add_count(Reason::NoVip, None, None, 60);
    let text = bench.lb("drops").await.ok().stdout;
    assert!(text.contains("no_backend") && !text.contains("no_vip"), "{text}");
    assert!(text.contains("4 packets seen"), "{text}");
    assert!(bench.lb("drops --all").await.ok().stdout.contains("no_vip"));
    let (status, metrics) =
        bench.http("GET /metrics HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status, 200);
    for wanted in [
        r#"lb_reason_packets_total{reason="no_backend",class="drop"} 3"#,
        r#"lb_backend_packets_total{vip="web",backend="b1"} 0"#,
        r#"lb_tenant_bytes_total{tenant="default"} "#,
        "lb_revision 2",
    ] {
        assert!(metrics.contains(wanted), "{wanted}: {metrics}");
    }
    assert!(metrics.contains("# EOF"), "OpenMetrics ends so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_s_story_has_names() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let node = bench.node.clone();
    until("the way is in the maps", || {
        let actual = node.standing.borrow().actual.clone();
        actual.is_some_and(|actual| actual.backends.values().all(|backend| backend.next_hop.is_known()))
    })
    .await;
    let story = bench.lb("explain 198.51.100.7:40001 web").await.ok().stdout;
    for wanted in ["for vip web", "backend web/b1", "of 65537", "So it is sent to that backend (forwarded)."]
    {
        assert!(story.contains(wanted), "{wanted}: {story}");
    }
    let json = bench.lb("--json explain 198.51.100.7 203.0.113.10:81").await.ok().json();
    assert_eq!(json["detail"]["reason"], "no_vip");
    let ran = bench.lb("explain 198.51.100.7 wbe").await;
    assert!(ran.exit == 1 && ran.stderr.contains("did you mean `web`"), "{ran:?}");
    let text = bench.lb("explain LB1002").await.ok().stdout;
    assert!(text.starts_with("LB1002: there is no such vip\n"), "{text}");
}
