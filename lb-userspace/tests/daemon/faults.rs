//! What goes wrong: a data plane that fails, a daemon that is not there, requests that are not of their form.

use lb_control::code::Code;
use lb_control::plan::{Op, Slots};
use lb_userspace::dataplane::Dataplane;

use crate::bench::{Bench, run, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_maps_refuse_is_durable_said_and_tried_again() {
    let bench = Bench::new();
    let node = bench.node.clone();
    until("the first pass is done", || node.standing.borrow().passes > 0).await;
    bench.fake.fail_after(Some(0));
    let ran = bench.lb("vip add web 203.0.113.10:80/tcp --mode l2").await;
    assert_eq!(ran.exit, 1, "{ran:?}");
    assert!(ran.stderr.contains("durable, but not in the maps yet"), "{ran:?}");
    assert_eq!(bench.records().len(), 1);
    let status = bench.lb("status").await.ok().stdout;
    assert!(status.contains("not in the maps yet") && status.contains("the maps hold 0"), "{status}");
    assert_eq!(bench.lb("status --check").await.exit, 6);
    let (status, _) = bench.http("GET /readyz HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status, 503);
    bench.fake.fail_after(None);
    until("the maps have it", || node.standing.borrow().revision == 1).await;
    assert_eq!(bench.fake.read().unwrap().vips.len(), 1);
    assert!(node.standing.borrow().fault.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_s_problem_is_its_own_and_holds_nobody_up() {
    let bench = Bench::new();
    for words in [
        "vip add web 203.0.113.10:80/tcp --mode l2 --probe none",
        "backend add web/b1 10.0.0.5",
        "backend add web/b2 10.0.0.6",
        "vip add nat 203.0.113.11:80/tcp --mode nat --probe none",
        "backend add nat/a 10.0.0.7",
        "backend add nat/b 10.0.0.8",
        "vip add other 203.0.113.12:80/tcp --mode l2 --probe none",
    ] {
        bench.lb(words).await.ok();
    }
    bench.all_reached();
    // The node's own address towards the backends becomes a vip's.
    bench.lb("vip add own 10.0.0.1:443/tcp --mode l2 --probe none").await.ok();
    let node = bench.node.clone();
    until("it is a problem", || node.standing.borrow().problems.len() == 2).await;
    let partial = node.standing.borrow().partial_passes;
    bench.lb("backend weight web/b1 50").await.ok();
    assert!(node.standing.borrow().partial_passes > partial, "nobody reads all maps back for it");
    assert_eq!(node.standing.borrow().problems.len(), 2, "and they are told on");
    let document = r#"{"document":{"vip":[{"name":"web","address":"203.0.113.10","port":80,"mode":"l2","window_s":77}]}}"#;
    let (_, _, answer) = bench.post("/v1/apply", "", document).await;
    assert_eq!((&answer["applied"], &answer["pending"]), (&true.into(), &serde_json::json!([])), "{answer}");
    // Whose it is is told so, the same by both ways to wait.
    let ran = bench.lb("backend weight nat/a 50").await;
    assert!(ran.exit == 1 && ran.stderr.contains("LB2006") && ran.stderr.contains("nat/a"), "{ran:?}");
    assert!(!ran.stderr.contains("nat/b"), "{ran:?}");
    for weight in [50, 51] {
        let set = format!(r#"{{"kind":"backend_set","vip":"nat","name":"a","weight":{weight}}}"#);
        let (_, _, answer) = bench.post("/v1/commands", "", &set).await;
        assert_eq!(answer["applied"], false, "also if it changes nothing: {answer}");
        let (_, _, answer) = bench.post("/v1/commands?wait=durable", "", &set).await;
        assert_eq!(answer["applied"], false, "{answer}");
    }
    assert!(bench.lb("status").await.ok().stdout.contains("LB2006"), "the node's people see it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_writes_to_the_maps_is_put_right_and_counted() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let node = bench.node.clone();
    let passes = node.standing.borrow().passes;
    until("a quiet pass", || node.standing.borrow().passes > passes + 1).await;
    assert_eq!(node.standing.borrow().drift_ops, 0);
    let before = bench.fake.read().unwrap().keys;
    let key = *before.keys().find(|key| !key.is_mark()).unwrap();
    bench.fake.apply(&[Op::RemoveVipKey { key }]).unwrap();
    until("it is put right", || bench.fake.read().unwrap().keys == before).await;
    until("it is counted", || node.standing.borrow().drift_ops > 0).await;
    assert!(bench.lb("status").await.ok().stdout.contains("something else wrote to the maps"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_in_the_maps_only_when_every_slot_is() {
    let bench = Bench::new();
    bench.with_web(3).await;
    bench.lb("backend weight web/b1 0").await.ok();
    let node = bench.node.clone();
    let row = |name: &str| {
        let id = node.engine.state().backend("web", name).unwrap().id;
        let actual = bench.fake.read().unwrap();
        *actual.backends.iter().find(|(_, content)| content.id == id).unwrap().0
    };
    let b1 = row("b1");
    let slots_of_b1 = || {
        let actual = bench.fake.read().unwrap();
        let (first, count) = actual.vips.values().next().unwrap().extent;
        (first..first + count).filter(|index| actual.slots.slot(*index).current() == b1).count()
    };
    assert_eq!(slots_of_b1(), 0);
    // The sweep is quicker: the plan is made again before the command is answered.
    bench.fake.lose_races(2);
    bench.lb("backend weight web/b1 100").await.ok();
    assert!(slots_of_b1() > 20_000);
    // It is quicker every time: that is said, and nothing claims that the maps hold the revision.
    let revision = node.standing.borrow().revision;
    bench.fake.lose_races(u32::MAX);
    let ran = bench.lb("backend weight web/b1 0").await;
    assert!(ran.exit == 1 && ran.stderr.contains("durable, but not in the maps yet"), "{ran:?}");
    assert_eq!(node.standing.borrow().revision, revision);
    assert_eq!(node.standing.borrow().fault.as_ref().unwrap().code, Code::SlotsContended);
    bench.fake.lose_races(0);
    until("the maps have it", || node.standing.borrow().revision == revision + 1).await;
    assert_eq!(slots_of_b1(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_one_sentence_says_how_to_start_it() {
    let ran = run(&["lb", "--socket", "/nowhere/lb.sock", "status"]).await;
    assert_eq!(ran.exit, 4);
    assert!(ran.stderr.contains("lb serve") && ran.stderr.contains("LB5001"), "{ran:?}");
    assert!(ran.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_words_are_usage_and_close_ones_are_suggested() {
    let bench = Bench::new();
    let ran = bench.lb("vip ad web 203.0.113.10:80/tcp").await;
    assert_eq!(ran.exit, 2);
    assert!(ran.stderr.contains("'add'"), "{ran:?}");
    let ran = bench.lb("vip add web 203.0.113.10:80/tcp --mode l3").await;
    assert_eq!(ran.exit, 2);
    assert!(ran.stderr.contains("l2, ipip, nat") && ran.stderr.contains("LB3013"), "{ran:?}");
    let ran = bench.lb("--json vip add web 203.0.113.10:80/tcp --window-s -5").await;
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((ran.exit, &error["error"]["code"]), (2, &"LB3013".into()));
    let ran = bench.lb("decap --peer 10.0.0.1").await;
    assert_eq!(ran.exit, 2, "{ran:?}");
    bench.lb("explain no_backend").await.ok();
    let ran = bench.lb("explain no_backends").await;
    assert!(ran.stderr.contains("`no_backend`?"), "{ran:?}");
    let ran = bench.lb("explain LB1000").await;
    assert_eq!(ran.exit, 1);
    assert!(ran.stderr.contains("LB3011"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_cannot_steer_the_terminal() {
    let bench = Bench::new();
    for words in [["vip", "show", "web\x1b[2J"], ["tenant", "add", "a\x1b]0;x\x07"], ["vip", "\x1b[31m", "x"]]
    {
        let ran = bench.lb_with(&words).await;
        assert_ne!(ran.exit, 0);
        assert!(!ran.stderr.contains('\x1b') && !ran.stderr.contains('\x07'), "{ran:?}");
    }
    let file = bench.file("[[vip]]\nname = \"we\x07b\"\n");
    let ran = bench.lb(&format!("apply -f {file}")).await;
    assert!(ran.exit != 0 && !ran.stderr.contains('\x07'), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_of_their_form_are_refused() {
    let bench = Bench::new();
    let post = |path: &str, length: usize, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: lb\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let body = r#"{"kind": "vip_ad"}"#;
    let (status, answer) = bench.http(&post("/v1/commands", body.len(), body)).await;
    assert_eq!(status, 400);
    assert!(answer.contains("LB3007") && answer.contains("vip_add"), "{answer}");
    let body = r#"{"kind": "tenant_add", "name": "a", "colour": "red"}"#;
    let (status, answer) = bench.http(&post("/v1/commands", body.len(), body)).await;
    assert_eq!(status, 400, "{answer}");
    let query = "/v1/explain?client=192.0.2.1&vip=web&udp=banana";
    let request = format!("GET {query} HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n\r\n");
    let (status, answer) = bench.http(&request).await;
    assert_eq!(status, 400);
    assert!(answer.contains("LB3007") && answer.contains("udp"), "{answer}");
    let body = " ".repeat(1_100_000);
    let (status, answer) = bench.http(&post("/v1/commands", body.len(), &body)).await;
    assert_eq!(status, 413);
    assert!(answer.contains("LB3008"), "{answer}");
    let (status, answer) =
        bench.http("GET /v2/views HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status, 404);
    assert!(answer.contains("LB3010"), "{answer}");
    assert!(bench.records().is_empty());
}
