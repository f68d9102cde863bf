//! Ways to backends as people are told of them: known, unknown, and known from before.

use serde_json::Value;

use crate::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_leads_nowhere_any_more_is_told_while_packets_use_it() {
    let bench = Bench::new();
    bench.fake.add_device("eth7", 7);
    bench.lb("attach eth7").await.ok();
    bench.with_web(2).await;
    bench.lb("backend drain web/b2").await.ok();
    let status = bench.settled("b1", |one| one["way"]["known"] == true && one["share"] == 1.0).await;
    assert_eq!((&status["way"]["stale"], &status["way"]["why_not"]), (&Value::Null, &Value::Null));
    bench.lb("status --check").await.ok();
    let explained = bench.lb("explain 198.51.100.7:40001 web").await.ok().stdout;
    assert!(!explained.contains("from before"), "{explained}");

    bench.reach(None);
    let silent = bench.settled("b1", |one| one["way"]["stale"] != Value::Null).await;
    assert_eq!(silent["way"]["stale"], "its neighbour does not answer");
    assert_eq!((&silent["way"]["known"], &silent["share"]), (&true.into(), &1.0.into()), "packets go on");
    let ran = bench.lb("status --check").await;
    assert_eq!(ran.exit, 6, "{ran:?}");
    for words in [
        "02:00:00:00:00:09 (stale)",
        "its way is from before: its neighbour does not answer",
        "! backend web/b1: its way is from before, and used on: its neighbour does not answer",
        // Drained: no new flow depends on it.
        "- backend web/b2: its way is from before, and used on: its neighbour does not answer",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let explained = bench.lb("explain 198.51.100.7:40001 web").await.ok().stdout;
    let told =
        "But that way is from before, and used on: its neighbour does not answer, so the packet may be lost.";
    assert!(explained.contains(told), "{explained}");

    bench.all_reached();
    bench.settled("b1", |one| one["way"]["stale"] == Value::Null).await;
    bench.lb("status --check").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_without_a_way_is_not_called_usable() {
    let bench = Bench::new();
    bench.lb("vip add web 203.0.113.10:80/tcp --mode l2 --probe none").await.ok();
    // Nobody serves it, so the node answers, and sends nothing on.
    let explained = bench.lb("explain 198.51.100.7:40001 web").await.ok().stdout;
    assert!(
        explained.contains("The node answers it: nobody serves the vip: a new connection was refused"),
        "{explained}"
    );
    assert!(!explained.contains("sent on"), "{explained}");
    bench.lb("backend add web/b1 10.0.0.1").await.ok();
    let one = bench.settled("b1", |one| one["way"]["known"] == false).await;
    assert_eq!(one["why"], "has no probe; takes nothing until there is a way to it");
    bench.all_reached();
    let one = bench.settled("b1", |one| one["way"]["known"] == true).await;
    assert_eq!(one["why"], "has no probe, so it counts as usable");
}
