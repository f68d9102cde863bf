//! Bad input is bounded, answered and harmless: whatever is sent, the next one who asks is answered, and nothing changes.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::bench::Bench;

/// A well-behaved client is answered while others misbehave.
async fn is_answered(bench: &Bench) {
    let asked = bench.lb("vip list");
    tokio::time::timeout(Duration::from_secs(15), asked).await.expect("is answered in time").ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_their_size_are_refused() {
    let bench = Bench::new();
    for (path, mib) in [("/v1/commands", 2), ("/v1/apply", 65), ("/v1/plan", 65)] {
        let body = " ".repeat(mib * 1024 * 1024);
        let (status, _, answer) = bench.post(path, "", &body).await;
        assert_eq!((status, &answer["error"]["code"]), (413, &"LB3008".into()), "{path}: {answer}");
    }
    is_answered(&bench).await;
    assert!(bench.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_document_of_nonsense_is_answered_briefly_while_others_are_served() {
    let bench = Bench::new();
    let many = vec![r#"{"name": "Bad Name"}"#; 500_000].join(",");
    let body = format!(r#"{{"document": {{"tenant": [{many}]}}}}"#);
    let (nonsense, ()) = tokio::join!(bench.post("/v1/apply", "", &body), is_answered(&bench));
    let (status, _, answer) = nonsense;
    assert_eq!(status, 409, "{}", answer["error"]["message"]);
    assert_eq!(answer["error"]["also"].as_array().map(Vec::len), Some(99));
    assert!(bench.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_deep_strange_or_unknown_is_refused() {
    let bench = Bench::new();
    let deep = "[".repeat(200_000);
    let nested = format!(r#"{{"kind": "apply", "document": {}}}"#, r#"{"tenant": ["#.repeat(5_000));
    for body in [
        "",
        "nonsense",
        "\u{0}",
        &deep,
        &nested,
        r#"{"kind": "format_disk"}"#,
        r#"{"kind": "tenant_add", "name": "a", "name": "b"}"#,
        r#"{"kind": "tenant_add", "name": 5}"#,
        r#"{"kind": "backend_set", "vip": "web", "name": "b1", "weight": -1}"#,
        r#"{"kind": "backend_set", "vip": "web", "name": "b1", "weight": 1e99}"#,
    ] {
        let (status, _, answer) = bench.post("/v1/commands", "", body).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!((status, &answer["error"]["code"]), (400, &"LB3007".into()), "{shown}: {answer}");
    }
    let (status, _, answer) = bench.post("/v1/apply", "", &deep).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &"LB3007".into()), "{answer}");
    let long = "k".repeat(20_000);
    for headers in ["idempotency-key: a b\r\n".to_owned(), format!("lb-reason: {long}\r\n")] {
        let (status, ..) =
            bench.post("/v1/commands", &headers, r#"{"kind": "bypass_set", "on": true}"#).await;
        assert_eq!(status, 400);
    }
    let (status, _) = bench.http("THIS IS NO HTTP\r\n\r\n").await;
    assert_eq!(status, 400);
    is_answered(&bench).await;
    assert!(bench.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_body_changes_nothing_and_holds_nobody_up() {
    let bench = Bench::new();
    let half =
        b"POST /v1/commands HTTP/1.1\r\nhost: lb\r\ncontent-length: 42\r\n\r\n{\"kind\": \"bypass_set\",";
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = UnixStream::connect(bench.socket()).await.unwrap();
        stream.write_all(half).await.unwrap();
        open.push(stream);
    }
    is_answered(&bench).await;
    for mut stream in open {
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.is_empty() || answer.contains(" 400 "), "{answer}");
    }
    is_answered(&bench).await;
    assert!(bench.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_hold_nobody_up() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(8_192).min(hard), hard).unwrap();
    let bench = Bench::new();
    let mut idle = Vec::new();
    while idle.len() < 1_000 {
        match UnixStream::connect(bench.socket()).await {
            Ok(mut stream) => {
                // Some say nothing, some begin a head.
                if idle.len() % 2 == 0 {
                    let _ = stream.write_all(b"GET /v1/views/vips HT").await;
                }
                idle.push(stream);
            }
            // The kernel's queue is full for a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        if idle.len() % 250 == 0 {
            is_answered(&bench).await;
        }
    }
    is_answered(&bench).await;
    bench.lb("tenant add acme").await.ok();
    drop(idle);
    assert_eq!(bench.records().len(), 1);
}
