//! The past as people ask for it: history, blame, comparisons, looks back and ways back, also across a restart.

use std::path::Path;

use lb_control::command::{BypassSet, Command};
use lb_control::record::Record;
use lb_userspace::engine::{Request, fold};
use lb_userspace::journal::log::Limits;
use lb_userspace::journal::{EventStore, FileStore};

use crate::bench::{Bench, Ran, until};

/// A vip with two backends, of which the first was changed twice: revisions 1 to 5.
async fn changed() -> Bench {
    let bench = Bench::new();
    bench.with_web(2).await;
    bench.lb("backend weight web/b1 50").await.ok();
    bench.lb("backend drain web/b1").await.ok();
    bench
}

fn lines(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().map(str::trim).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_tells_what_was_and_what_became_of_it() {
    let bench = changed().await.restarted().await;
    let ran = bench.lb("history").await.ok();
    let told = lines(&ran);
    assert_eq!(told.len(), 6, "{ran:?}");
    assert!(
        told[0].starts_with("REV") && told[0].contains("WHEN (UTC)") && told[0].contains("WHO"),
        "{ran:?}"
    );
    assert!(told[1].contains("vip web made: 203.0.113.10:80/tcp tenant default mode l2"), "{ran:?}");
    assert!(told[2].contains("backend web/b1 made: 10.0.0.1 port 80 weight 100 enabled"), "{ran:?}");
    assert!(told[4].contains("backend web/b1: weight 100 -> 50"), "{ran:?}");
    assert!(told[5].starts_with('5') && told[5].contains("backend web/b1: intent enabled -> draining"));
    let ran = bench.lb("history backend web/b2").await.ok();
    assert!(lines(&ran).len() == 2 && ran.stdout.contains("10.0.0.2"), "{ran:?}");
    let json = bench.lb("--json history vip web --limit 2").await.ok().json();
    assert_eq!((&json["items"][0]["revision"], &json["before"]), (&4.into(), &4.into()), "{json}");
    let field = &json["items"][0]["lines"][0]["fields"][0];
    assert_eq!(
        (&field["name"], &field["from"], &field["to"]),
        (&"weight".into(), &"100".into(), &"50".into())
    );
    let json = bench.lb("--json history --before 4 --limit 2").await.ok().json();
    assert_eq!((&json["items"][0]["revision"], &json["items"][1]["revision"]), (&2.into(), &3.into()));
    assert_eq!(lines(&bench.lb("history --since 4").await.ok()).len(), 3);
    assert!(bench.lb("history --since now --until 1").await.ok().stdout.contains("nothing is known"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_past_are_known_and_close_ones_suggested() {
    let bench = changed().await;
    bench.lb("vip remove web --allow-disruption").await.ok();
    assert!(bench.lb("history vip web").await.ok().stdout.contains("vip web removed: 203.0.113.10:80/tcp"));
    for (words, code, hint) in [
        ("history vip wbe", "LB1002", "did you mean `web`"),
        ("history backend web/c1", "LB1003", "did you mean `web/b1`"),
        ("history tenant defalt", "LB1001", "did you mean `default`"),
        ("history pool web", "LB3022", "vip NAME"),
        ("blame vip web", "LB1002", "removed it at revision 6"),
        ("history --actor nobody-at-all", "LB3007", "never changed anything"),
        ("show vip web", "LB1002", "lb history vip web"),
        ("show --at 99", "LB3021", "the last is 6"),
        ("show --at yesterday", "LB3020", "neither a revision"),
        ("diff --from 2026-13-01", "LB3020", "10m ago"),
        ("rollback --to -1", "LB3013", "error"),
        ("projection rebuild inventry", "LB3023", "did you mean `inventory`"),
    ] {
        let ran = bench.lb(words).await;
        assert_ne!(ran.exit, 0, "{words}");
        assert!(ran.stderr.contains(code) && ran.stderr.contains(hint), "{words}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blame_names_the_last_change_of_each_field() {
    let bench = changed().await.restarted().await;
    let json = bench.lb("--json blame backend web/b1").await.ok().json();
    let of = |field: &str| {
        let items = json["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["field"] == field).unwrap();
        (item["value"].as_str().unwrap().to_owned(), item["was"].clone(), item["revision"].as_u64().unwrap())
    };
    assert_eq!(of("weight"), ("50".to_owned(), "100".into(), 4));
    assert_eq!(of("intent"), ("draining".to_owned(), "enabled".into(), 5));
    assert_eq!(of("address"), ("10.0.0.1".to_owned(), serde_json::Value::Null, 2));
    let ran = bench.lb("blame vip web window-s").await.ok();
    assert!(lines(&ran).len() == 2 && ran.stdout.contains("900"), "{ran:?}");
    let ran = bench.lb("blame vip web weight").await;
    assert!(ran.exit == 1 && ran.stderr.contains("LB3024"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_shown_as_it_was() {
    let bench = changed().await.restarted().await;
    let json = bench.lb("--json show --at 3").await.ok().json();
    let backend = |json: &serde_json::Value, index: usize| json["vips"][0]["backends"][index].clone();
    assert_eq!((&json["revision"], &backend(&json, 0)["weight"]), (&3.into(), &100.into()), "{json}");
    let json = bench.lb("--json show backend web/b1").await.ok().json();
    assert_eq!(
        (&backend(&json, 0)["weight"], &backend(&json, 0)["intent"]),
        (&50.into(), &"draining".into())
    );
    assert!(bench.lb("--json show --at 0").await.ok().json()["vips"].as_array().unwrap().is_empty());
    let at = bench.records()[3].at_ms;
    let time = lb_userspace::projection::moment::rfc3339(at);
    let json = bench.lb(&format!("--json show --at {time}")).await.ok().json();
    assert_eq!(backend(&json, 0)["weight"], 50, "{json}");
    assert!(bench.lb("--json show --at 1990-01-01").await.ok().json()["revision"] == 0);
    let text = bench.lb_with(&["show", "vip", "web", "--at", "0s ago"]).await.ok().stdout;
    assert!(text.contains("draining") && text.contains("mode l2, probe.kind none"), "{text}");
    let json = bench.lb("--json diff --from 3").await.ok().json();
    assert_eq!(json["items"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(json["items"][0]["text"], "weight 100 -> 50, intent enabled -> draining");
    let text = bench.lb("diff --from 1 --to 2").await.ok().stdout;
    assert!(text.contains("+ backend web/b1 made: 10.0.0.1"), "{text}");
    assert!(bench.lb("diff --from 5 --to 5").await.ok().stdout.contains("nothing differs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_brings_everything_back_and_leaves_the_history() {
    let bench = changed().await;
    bench.lb("tenant add acme").await.ok();
    let wanted = bench.lb("export").await.ok().stdout;
    let to = bench.records().last().unwrap().revision;
    // Everything that apply alone cannot take back: an address, a mode, a vip under the name of another, the bypass.
    bench.lb("backend remove web/b2 --allow-disruption").await.ok();
    bench.lb("backend add web/b2 10.0.0.99").await.ok();
    bench.lb("backend enable web/b1").await.ok();
    bench.lb("vip add dns 203.0.113.11:53/udp --tenant acme").await.ok();
    bench.lb("bypass on").await.ok();
    let before = bench.records().len();
    let ran = bench.lb(&format!("rollback --to {to} --dry-run")).await.ok();
    assert!(ran.stdout.contains("- vip dns removed") && ran.stdout.contains("dry run"), "{ran:?}");
    assert!(ran.stdout.contains("address 10.0.0.99 -> 10.0.0.2"), "{ran:?}");
    assert_eq!(bench.records().len(), before);
    let ran = bench.lb(&format!("rollback --to {to}")).await;
    assert!(ran.exit == 4 && ran.stderr.contains("LB1030"), "{ran:?}");
    assert_eq!(bench.records().len(), before, "nothing of it was done");
    let ran = bench.lb(&format!("rollback --to {to} --allow-disruption -m mistake")).await.ok();
    assert!(ran.stdout.contains("undo: lb rollback --to"), "{ran:?}");
    assert_eq!(bench.lb("export").await.ok().stdout, wanted);
    assert!(bench.lb("bypass status").await.ok().stdout.contains("is off"));
    assert_eq!(bench.records().len(), before + 1, "history stays, and grows by the one command");
    let bench = bench.restarted().await;
    assert_eq!(bench.lb("export").await.ok().stdout, wanted);
    let ran = bench.lb(&format!("rollback --to {to}")).await.ok();
    assert!(ran.stdout.contains("nothing differs"), "{ran:?}");
    // And back again, by the word that it gave.
    let json = bench.lb(&format!("--json rollback --to {} --allow-disruption", to + 5)).await.ok().json();
    assert_eq!(json["command"]["revision"], bench.records().last().unwrap().revision, "{json}");
    assert!(bench.lb("export").await.ok().stdout.contains("10.0.0.99"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_led_to_a_change_is_told_back_to_its_beginning() {
    let bench = changed().await;
    bench.submit(r#"{"kind":"bypass_set","on":true}"#, "mistake").await;
    let cause = bench.records().last().unwrap().clone();
    let request = Request {
        causation_id: Some(cause.command_id.clone()),
        correlation_id: Some(cause.correlation_id.clone()),
        ..Request::new(Command::BypassSet(BypassSet { on: false }), "tester")
    };
    bench.node.engine.submit(request).await.unwrap();
    until("the views", || bench.node.projections.model().revision() == cause.revision + 1).await;
    let json = bench.lb("--json history --why --limit 2").await.ok().json();
    let (first, second) = (&json["items"][0], &json["items"][1]);
    assert_eq!(first["correlation_id"], second["correlation_id"], "{json}");
    assert_eq!((&first["reason"], &second["causation_id"]), (&"mistake".into(), &first["command_id"]));
    assert_eq!(second["causes"][0]["command"]["revision"], first["revision"]);
    assert!(first["causes"].is_null() && first["causation_id"].is_null(), "a person asked for it: {json}");
    let text = bench.lb("history --why --limit 1").await.ok().stdout;
    assert!(text.contains("<- bypass_set by ") && text.contains("(mistake)"), "{text}");
    let json = bench.lb("--json blame bypass").await.ok().json();
    assert_eq!(json["items"][0]["revision"], cause.revision + 1, "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_while_it_answers_is_the_same() {
    let bench = changed().await;
    let json = bench.lb("--json projection rebuild").await.ok().json();
    for one in json["items"].as_array().unwrap() {
        assert_eq!((&one["same"], &one["records"], &one["revision"]), (&true.into(), &5.into(), &5.into()));
    }
    let ran = bench.lb("projection rebuild audit").await.ok();
    assert!(ran.stdout.contains("audit") && ran.stdout.contains("the same"), "{ran:?}");
    assert!(bench.lb("projection list").await.ok().stdout.contains("timeline"));
}

/// Has all that there is archived, as a daemon does that keeps little: one command more begins another segment, and a
/// snapshot is kept after it.
pub(crate) fn archive_all(state_dir: &Path) {
    let limits = Limits { segment_bytes: 1, retain_bytes: Some(0), ..Limits::default() };
    let mut store = FileStore::open_with(state_dir, limits).unwrap().store;
    let (log, latest) = (store.reader(), store.reader().latest().revision);
    let mut record = Record::clone(&log.read(latest - 1, 1).unwrap()[0]);
    (record.revision, record.key) = (latest + 1, None);
    store.append(latest, &[record.into()]).unwrap();
    let ledger = fold::latest(&*log).unwrap().ledger;
    store.save_snapshot(log.latest(), &ledger.to_snapshot()).unwrap();
    assert_eq!(std::fs::read_dir(state_dir.join("journal/archive")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_archived_is_still_told_and_what_was_taken_away_is_missed() {
    let bench = changed().await;
    let (before, blamed) = (bench.lb("history").await.ok(), bench.lb("blame vip web").await.ok());
    let bench = bench.restarted_after(archive_all).await;
    assert!(bench.lb("history").await.ok().stdout.starts_with(&before.stdout));
    assert_eq!(bench.lb("blame vip web").await.ok().stdout, blamed.stdout);
    bench.lb("backend enable web/b1").await.ok();
    assert!(bench.lb("show --at 3").await.ok().stdout.contains("b2"));

    let bench =
        bench.restarted_after(|dir| std::fs::remove_dir_all(dir.join("journal/archive")).unwrap()).await;
    bench.lb("backend drain web/b1").await.ok();
    let node = bench.node.clone();
    until("it is said", || node.projections.progress().fault.is_some()).await;
    let status = bench.lb("status").await.ok().stdout;
    assert!(status.contains("were archived"), "{status}");
}
