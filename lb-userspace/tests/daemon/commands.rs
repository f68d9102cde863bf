//! Commands in their envelopes: keys, expected revisions, reasons, and answers that were lost.

use lb_userspace::journal::Failing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::bench::{Bench, run};
use crate::past::archive_all;

const WEB: &str =
    r#"{"kind": "vip_add", "name": "web", "address": "203.0.113.10", "port": 80, "mode": "l2"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_the_first_answer_also_after_a_restart() {
    let bench = Bench::new();
    let (status, head, first) = bench.post("/v1/commands", "idempotency-key: k\r\n", WEB).await;
    assert_eq!((status, &first["revision"]), (200, &1.into()), "{first}");
    assert!(head.to_lowercase().contains("etag: \"1\""), "{head}");
    let spaced = WEB.replace(": ", ":");
    let (status, _, again) = bench.post("/v1/commands", "idempotency-key: k\r\n", &spaced).await;
    assert_eq!((status, &again), (200, &first));
    let other = WEB.replace("web", "other");
    let (status, _, refused) = bench.post("/v1/commands", "idempotency-key: k\r\n", &other).await;
    assert_eq!((status, &refused["error"]["code"]), (422, &"LB1034".into()), "{refused}");
    let bench = bench.restarted().await;
    let (status, _, again) = bench.post("/v1/commands", "idempotency-key: k\r\n", WEB).await;
    assert_eq!(status, 200, "{again}");
    for field in ["command_id", "revision", "events", "effects", "undo"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    assert_eq!(bench.records().len(), 1);
    // One that is older than the answers that are kept.
    for round in 0..300 {
        bench.submit(&format!(r#"{{"kind":"bypass_set","on":{}}}"#, round % 2 == 0), "").await;
    }
    let (_, _, again) = bench.post("/v1/commands", "idempotency-key: k\r\n", WEB).await;
    assert_eq!((&again["effects"], &again["undo"]), (&first["effects"], &first["undo"]));
    assert_eq!(first["undo"][0], "lb vip remove web");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_record_was_taken_away_still_says_that_it_was_applied() {
    let bench = Bench::new();
    bench.post("/v1/commands", "idempotency-key: k\r\n", WEB).await;
    let bench = bench.restarted_after(archive_all).await;
    let (status, ..) = bench.post("/v1/commands", "idempotency-key: k\r\n", WEB).await;
    assert_eq!(status, 200, "the archive is read");
    let bench =
        bench.restarted_after(|dir| std::fs::remove_dir_all(dir.join("journal/archive")).unwrap()).await;
    let (status, _, answer) = bench.post("/v1/commands", "idempotency-key: k\r\n", WEB).await;
    assert_eq!((status, &answer["error"]["code"]), (410, &"LB1095".into()), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("applied at revision 1") && message.contains("archived"), "{message}");
    let help = answer["error"]["help"].as_str().unwrap();
    assert!(help.contains("in force") && !help.to_lowercase().contains("nothing"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_twice_at_once_is_applied_once() {
    let bench = Bench::new();
    let post = || bench.post("/v1/commands", "idempotency-key: k\r\n", WEB);
    let (one, two, three) = tokio::join!(post(), post(), post());
    assert_eq!((one.0, two.0, three.0), (200, 200, 200));
    assert!(one.2["command_id"] == two.2["command_id"] && two.2["events"] == three.2["events"]);
    assert_eq!(bench.records().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn if_match_refuses_what_rests_on_an_older_revision() {
    let bench = Bench::new();
    bench.with_web(2).await;
    let weight =
        |weight| format!(r#"{{"kind": "backend_set", "vip": "web", "name": "b1", "weight": {weight}}}"#);
    let (status, head, _) = bench.post("/v1/commands", "if-match: \"2\"\r\n", &weight(50)).await;
    assert!(status == 200 && head.to_lowercase().contains("etag: \"4\""), "{head}");
    let (status, _, refused) = bench.post("/v1/commands", "if-match: \"2\"\r\n", &weight(60)).await;
    assert_eq!((status, &refused["error"]["code"]), (412, &"LB1035".into()), "{refused}");
    assert_eq!(refused["error"]["related"], "4", "the present one");
    let ran = bench.lb("backend weight web/b1 60 --if-match 2").await;
    assert_eq!(ran.exit, 4, "{ran:?}");
    assert!(ran.stderr.contains("backend web/b1 is at revision 4, not at 2"), "{ran:?}");
    bench.lb("backend weight web/b1 60 --if-match 4").await.ok();
    let (status, _, refused) = bench.post("/v1/commands", "if-match: *\r\n", &weight(70)).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &"LB3007".into()), "{refused}");
    assert_eq!(bench.records().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_why_and_what_led_to_it_are_in_the_journal() {
    let bench = Bench::new();
    bench.lb_with(&["vip", "add", "web", "203.0.113.10:80/tcp", "-m", "schöner Grund"]).await.ok();
    let headers = "lb-reason: by hand\r\nlb-correlation-id: chain\r\nlb-causation-id: cause\r\n";
    bench.post("/v1/commands", headers, r#"{"kind": "tenant_add", "name": "acme"}"#).await;
    let file = bench.file("[[tenant]]\nname = \"red\"\n");
    bench.lb_with(&["apply", "-f", &file, "-m", "from the file"]).await.ok();
    let records = bench.records();
    let reasons: Vec<_> = records.iter().map(|record| record.reason.as_deref().unwrap_or_default()).collect();
    assert_eq!(reasons, ["schöner Grund", "by hand", "from the file"]);
    assert_eq!(
        (records[1].correlation_id.as_str(), records[1].causation_id.as_deref()),
        ("chain", Some("cause"))
    );
    assert!(records[0].key.is_some() && records[1].key.is_none() && records[2].key.is_some());
    assert!(records.iter().all(|record| record.actor == records[0].actor && record.at_ms > 0));
    let ran = bench.lb_with(&["tenant", "add", "blue", "-m", "two\nlines"]).await;
    assert_eq!((ran.exit, bench.records().len()), (2, 3), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_waits_for_the_disk_alone_does_not_wait_for_the_maps() {
    let bench = Bench::new();
    let node = bench.node.clone();
    crate::bench::until("the first pass is done", || node.standing.borrow().passes > 0).await;
    bench.fake.fail_after(Some(0));
    let (status, _, answer) = bench.post("/v1/commands?wait=durable", "", WEB).await;
    assert_eq!((status, &answer["applied"], &answer["revision"]), (200, &false.into(), &1.into()));
    let (status, ..) = bench.post("/v1/commands?wait=never", "", WEB).await;
    assert_eq!(status, 400);
}

/// A socket before the daemon's that loses the first answer, after the daemon gave it.
fn forgetful(bench: &Bench) -> std::path::PathBuf {
    let path = bench.socket().with_extension("forgetful");
    let (listener, daemon) = (UnixListener::bind(&path).unwrap(), bench.socket().to_owned());
    tokio::spawn(async move {
        for number in 0.. {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = UnixStream::connect(&daemon).await.unwrap();
            if number > 0 {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
                continue;
            }
            let (mut asked, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
            let length = near.read(&mut asked).await.unwrap();
            far.write_all(&asked[..length]).await.unwrap();
            // A head and a body may come in two pieces.
            if !String::from_utf8_lossy(&asked[..length]).contains('{') {
                let more = near.read(&mut asked).await.unwrap();
                far.write_all(&asked[..more]).await.unwrap();
            }
            assert!(far.read(&mut answer).await.unwrap() > 0);
        }
    });
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_answer_was_lost_is_asked_again_and_applied_once() {
    let bench = Bench::new();
    let socket = forgetful(&bench).display().to_string();
    let ran = run(&["lb", "--socket", &socket, "vip", "add", "web", "203.0.113.10:80/tcp"]).await.ok();
    assert!(ran.stderr.contains("asking again with the same key (2 of 6)"), "{ran:?}");
    assert!(
        ran.stdout.contains("vip web created") && ran.stdout.contains("undo: lb vip remove web"),
        "{ran:?}"
    );
    assert_eq!(bench.records().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_outcome_is_not_known_is_asked_again_and_applied_once() {
    let (bench, store) = Bench::in_memory();
    store.fail(Failing::UnknownKept);
    let (status, _, answer) = bench.post("/v1/commands", "idempotency-key: k\r\n", WEB).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &"LB5016".into()), "{answer}");
    let asking = bench.lb("tenant add acme");
    let recovering = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        store.fail(Failing::No);
    };
    let (ran, ()) = tokio::join!(asking, recovering);
    assert!(ran.ok().stderr.contains("LB5016"));
    assert_eq!(bench.records().len(), 2);
    store.fail(Failing::Refused);
    let ran = bench.lb("tenant add blue").await;
    assert!(ran.exit == 1 && ran.stderr.contains("LB5008") && !ran.stderr.contains("again with"), "{ran:?}");
    assert_eq!(bench.records().len(), 2);
    bench.lb("vip list").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_nothing_is_asked_again() {
    let ran = run(&["lb", "--socket", "/nowhere/lb.sock", "tenant", "add", "acme"]).await;
    assert!(ran.exit == 4 && ran.stderr.contains("LB5001") && !ran.stderr.contains("again with"), "{ran:?}");
}
