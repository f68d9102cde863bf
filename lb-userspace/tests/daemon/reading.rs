//! How answers of readers behave over HTTP: what is unchanged, what is waited for, what follows as it happens.

use std::time::{Duration, Instant};

use lb_control::observation::Observation;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::bench::{Bench, until};

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n{headers}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_alone_tells_is_unchanged_until_it_changes() {
    let bench = Bench::new();
    bench.with_web(1).await;
    for path in [
        "inventory",
        "document",
        "history",
        "audit",
        "inventory?vip=web",
        "blame?object=vip%20web",
        "diff?from=1",
    ] {
        let path = format!("/v1/views/{path}");
        let (status, _) = bench.http(&get(&path, "if-none-match: \"1\"\r\n")).await;
        assert_eq!(status, 200, "{path}");
        let (status, body) = bench.http(&get(&path, "if-none-match: \"9\", W/\"2\"\r\n")).await;
        assert_eq!((status, body.as_str()), (304, ""), "{path}");
    }
    // Packets and health are other ones at every moment.
    let (status, _) = bench.http(&get("/v1/views/vips", "if-none-match: W/\"2\"\r\n")).await;
    assert_eq!(status, 200);
    bench.lb("backend weight web/b1 3").await.ok();
    let (status, body) = bench.http(&get("/v1/views/inventory", "if-none-match: W/\"2\"\r\n")).await;
    assert!(
        status == 200 && body.contains("\"revision\":3,\"as_of\":\"2") && body.contains("\"lag_ms\":0"),
        "{body}"
    );
    let (status, body) = bench.http(&get("/v1/views/backends?at=2", "")).await;
    assert!(status == 200 && body.contains("\"weight\":100"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_shown_as_json_names_its_schema() {
    let bench = Bench::new();
    bench.with_web(1).await;
    bench.lb("tenant add acme --vips 3").await.ok();
    for words in [
        "status",
        "vip list",
        "vip show web",
        "backend list",
        "breaker show",
        "tenant list",
        "tenant show acme",
        "tenant top --once",
        "drops",
        "explain 198.51.100.7:40001 web",
        "explain LB1002",
        "bypass status",
        "selftest",
    ] {
        let shown = bench.lb(&format!("--json {words}")).await.ok().json();
        assert_eq!(shown["schema"], "lb/v1", "{words}: {shown}");
    }
    let shown = bench.lb("--json tenant show acme").await.ok().json();
    assert_eq!((&shown["name"], &shown["limits"]["vips"]), (&"acme".into(), &3.into()), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_waited_for_and_not_for_ever() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let begin = Instant::now();
    let (status, body) = bench.http(&get("/v1/views/vips?min_revision=3&timeout_ms=200", "")).await;
    assert!(status == 504 && body.contains("LB5030"), "{body}");
    assert!(begin.elapsed() >= Duration::from_millis(200));
    let request = get("/v1/views/inventory?min_revision=3&timeout_ms=20000", "");
    let asked = bench.http(&request);
    let changed = async { bench.lb("backend weight web/b1 3").await.ok() };
    let ((status, body), _) = tokio::join!(asked, changed);
    assert!(status == 200 && body.contains("\"revision\":3"), "{body}");
    for (query, hint) in [
        ("min_revision=x", "cannot be `x`"),
        ("timeout_ms=99999", "30000 at most"),
        ("min_revison=3", "did you mean `min_revision`"),
        ("min_revision=1&min_revision=2", "twice"),
    ] {
        let (status, body) = bench.http(&get(&format!("/v1/views/status?{query}"), "")).await;
        assert!(status == 400 && body.contains(hint), "{query}: {body}");
    }
}

/// The lines of a stream of events.
struct Stream(BufReader<tokio::net::UnixStream>);

impl Stream {
    async fn open(bench: &Bench, path: &str, headers: &str) -> Self {
        let mut stream = tokio::net::UnixStream::connect(bench.socket()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: lb\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(BufReader::new(stream))
    }

    /// The next line that begins so.
    async fn line(&mut self, start: &str) -> String {
        let reading = async {
            loop {
                let mut line = String::new();
                let read = self.0.read_line(&mut line).await.unwrap();
                assert!(read > 0, "the stream ended before `{start}`");
                if line.starts_with(start) {
                    return line.trim_end().to_owned();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading)
            .await
            .unwrap_or_else(|_| panic!("no `{start}`"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_they_happen_and_go_on_where_one_was() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let mut stream = Stream::open(&bench, "/v1/events?after=1&heartbeat_s=1", "").await;
    assert_eq!(stream.line("id:").await, "id: 2");
    assert!(stream.line(": heartbeat").await.contains("heartbeat"));
    bench.lb("backend weight web/b1 3").await.ok();
    assert_eq!(stream.line("id:").await, "id: 3");
    drop(stream);
    bench.lb("backend weight web/b1 4").await.ok();
    // The header of one who comes back counts more than the address that it began with.
    let mut stream = Stream::open(&bench, "/v1/events?after=0", "last-event-id: 3\r\n").await;
    let record = stream.line("data:").await;
    assert!(record.contains("\"revision\":4") && record.contains("\"weight\":4"), "{record}");
    let (status, body) = bench.http(&get("/v1/events?after=5", "")).await;
    assert!(status == 404 && body.contains("LB3021"), "{body}");
    let ran = bench.lb("watch --after 2 --count 2").await.ok();
    assert!(
        ran.stdout.contains("backend web/b1 weight 3") && ran.stdout.contains("backend web/b1 weight 4"),
        "{ran:?}"
    );
    let ran = bench.lb("--json watch --after 3 --count 1").await.ok();
    assert_eq!(ran.json()["revision"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_observed_comes_between_the_records_for_who_asks() {
    let bench = Bench::observing();
    bench.with_web(1).await;
    let observation: Observation = serde_json::from_str(
        r#"{"v":1,"at_ms":1700000000000,"object":{"object":"backend","id":1,"vip":"web","backend":"b1",
            "address":"10.0.0.1:80"},"change":{"kind":"health_changed","from":"up","to":"down"},
            "cause":{"cause":"probe","outcome":"refused"},"evidence":"3 in a row"}"#,
    )
    .unwrap();
    let mut stream = Stream::open(&bench, "/v1/events?after=1&observations=true", "").await;
    let mut other = Stream::open(&bench, "/v1/events?after=1", "").await;
    let socket = bench.socket().display().to_string();
    let words = ["lb", "--socket", &socket, "watch", "--after", "1", "--count", "2"];
    let watching = crate::bench::run(&words);
    let node = bench.node.clone();
    let happening = async {
        assert_eq!(stream.line("id:").await, "id: 2");
        until("all follow", || node.followers.count() == 3).await;
        node.observations.as_ref().unwrap().record(observation);
        // The reconciler may have seen the vip get its first backend meanwhile.
        loop {
            assert_eq!(stream.line("event: o").await, "event: observation");
            if stream.line("data:").await.contains(r#""evidence":"3 in a row""#) {
                break;
            }
        }
        bench.lb("backend weight web/b1 3").await.ok();
        assert_eq!(stream.line("id:").await, "id: 3");
    };
    let (ran, ()) = tokio::join!(watching, happening);
    let ran = ran.ok();
    assert!(ran.stdout.contains("seen  backend web/b1: up -> down  (3 in a row)"), "{ran:?}");
    // Two records, the observation, and what the reconciler saw of the vip that got its first backend.
    let lines: Vec<&str> = ran.stdout.lines().filter(|line| !line.contains("seen  vip web")).collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert_eq!(
        (other.line("event:").await, other.line("event:").await),
        ("event: record".into(), "event: record".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_goes_on_after_a_restart() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let socket = bench.socket().display().to_string();
    let words = ["lb", "--socket", &socket, "watch", "--after", "0", "--count", "3"];
    let watching = crate::bench::run(&words);
    let node = bench.node.clone();
    let restarting = async {
        until("it follows", || node.followers.count() == 1).await;
        let bench = bench.restarted().await;
        bench.lb("backend weight web/b1 9").await.ok();
        bench
    };
    let (ran, _bench) = tokio::join!(watching, restarting);
    let ran = ran.ok();
    assert_eq!(ran.stdout.lines().count(), 3, "each once: {ran:?}");
    assert!(ran.stdout.contains("weight 9") && ran.stderr.contains("trying again"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_read_is_let_go_and_told_where_to_go_on() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let mut slow = Stream::open(&bench, "/v1/events", "").await;
    let node = bench.node.clone();
    until("it follows", || node.followers.count() == 1).await;
    // More than the queue and the socket hold.
    let reason = "x".repeat(900);
    for round in 0..1_500_u32 {
        let body = format!(
            "{{\"kind\":\"backend_set\",\"vip\":\"web\",\"name\":\"b1\",\"weight\":{}}}",
            round % 7 + 1
        );
        bench.submit(&body, &reason).await;
    }
    let mut last = 0;
    loop {
        let line = slow.line("").await;
        if let Some(id) = line.strip_prefix("id: ") {
            last = id.parse().unwrap();
        }
        if line == "event: overflow" {
            break;
        }
    }
    let told = slow.line("data:").await;
    assert_eq!(told, format!("data: {{\"resume_after\":{last}}}"));
    assert!(last < bench.node.log.latest().revision);
    let mut again = Stream::open(&bench, &format!("/v1/events?after={last}"), "").await;
    assert_eq!(again.line("id:").await, format!("id: {}", last + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_are_few_enough_to_leave_room_for_commands() {
    let bench = Bench::new();
    let mut streams = Vec::new();
    for _ in 0..lb_userspace::api::stream::FOLLOWERS {
        streams.push(Stream::open(&bench, "/v1/events", "").await);
    }
    let node = bench.node.clone();
    until("all follow", || node.followers.count() == lb_userspace::api::stream::FOLLOWERS).await;
    let (status, body) = bench.http(&get("/v1/events", "")).await;
    assert!(status == 429 && body.contains("LB5031"), "{body}");
    bench.with_web(1).await;
    drop(streams);
    until("all are gone", || node.followers.count() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_side_is_in_the_metrics_and_the_status() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let json = bench.lb("--json status").await.ok().json();
    assert_eq!((&json["lag_ms"], &json["projections"][0]["revision"]), (&0.into(), &2.into()), "{json}");
    assert!(bench.lb("status").await.ok().stdout.contains("0 ms behind the log"));
    let (_, metrics) = bench.http(&get("/metrics", "")).await;
    for wanted in [
        r#"lb_projection_revision{projection="inventory"} 2"#,
        r#"lb_projection_behind{projection="timeline"} 0"#,
        "lb_projection_records_total 2",
        "lb_projection_lag_ms ",
        "lb_reconcile_passes_total ",
        "lb_reconcile_partial_passes_total ",
        "lb_reconcile_last_pass_us ",
        "lb_log_segments 1",
        "lb_log_appends_total 2",
        "lb_log_records_total 2",
        "lb_event_followers 0",
    ] {
        assert!(metrics.contains(wanted), "{wanted}: {metrics}");
    }
}
