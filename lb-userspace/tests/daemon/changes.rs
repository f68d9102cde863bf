//! Changes: accepted ones are in the journal and in the maps, others change nothing; each can be undone.

use std::time::Duration;

use lb_common::abi::slot::Phase;
use lb_control::plan::Slots;
use lb_userspace::dataplane::Dataplane;

use crate::bench::{Bench, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_reaches_the_maps_before_it_is_answered() {
    let bench = Bench::new();
    bench.lb("tenant add acme").await.ok();
    let ran =
        bench.lb("--json vip add web 203.0.113.10:80/tcp --mode l2 --tenant acme --probe none").await.ok();
    let answer = ran.json();
    assert_eq!((&answer["schema"], &answer["applied"]), (&"lb/v1".into(), &true.into()));
    assert_eq!(answer["events"][0]["change"]["kind"], "vip_added");
    let ran = bench.lb("backend add web b1 10.0.0.1 --weight 7").await.ok();
    assert!(ran.stdout.contains("backend web/b1 created: 10.0.0.1 port 80 weight 7 enabled"), "{ran:?}");
    let actual = bench.fake.read().unwrap();
    assert_eq!((actual.vips.len(), actual.backends.len()), (1, 1));
    let (row, vip) = actual.vips.iter().next().unwrap();
    assert_eq!(actual.keys[&vip.key].row(), u32::from(*row));
    let revisions: Vec<u64> = bench.records().iter().map(|record| record.revision).collect();
    assert_eq!(revisions, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_command_changes_nothing_and_says_what_to_do() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let before = (bench.records().len(), bench.node.engine.state());
    for (words, code, exit) in [
        ("vip add web 203.0.113.11:80/tcp", "LB1005", 1),
        ("vip add other 203.0.113.10:80/tcp", "LB1008", 1),
        ("vip add other 127.0.0.1:80/tcp", "LB1011", 1),
        ("vip add other 203.0.113.11:80/tcp --tenant acme", "LB1001", 1),
        ("vip set web --table-size 1000", "LB1018", 1),
        ("backend add web/b1 10.0.0.9", "LB1006", 1),
        ("backend weight web/b1 70000", "LB1032", 1),
        ("backend drain web/b1", "LB1030", 4),
        ("backend drain wbe/b1", "LB1002", 1),
        ("backend drain web", "LB3006", 2),
        ("backend add web/b2 ten.example", "LB3005", 2),
        ("vip show wbe", "LB1002", 1),
        ("backend list wbe", "LB1002", 1),
        ("attach nosuch0", "LB4009", 4),
    ] {
        let ran = bench.lb(words).await;
        assert_eq!(ran.exit, exit, "{words}: {ran:?}");
        assert!(ran.stderr.contains(&format!("code: {code}")), "{words}: {ran:?}");
        assert!(ran.stderr.contains("help: ") && ran.stdout.is_empty(), "{words}: {ran:?}");
    }
    assert_eq!((bench.records().len(), bench.node.engine.state()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_and_changes_nothing() {
    let bench = Bench::new();
    bench.with_web(2).await;
    let before = bench.records().len();
    let ran = bench.lb("backend add web/b3 10.0.0.3 --dry-run").await.ok();
    assert!(ran.stdout.contains("backend web/b3 would be created"), "{ran:?}");
    assert!(ran.stdout.contains("slots of vip web would move (33"), "{ran:?}");
    assert!(ran.stdout.contains(" %) once backend web/b3 serves; flows that began before"), "{ran:?}");
    assert!(ran.stdout.contains("dry run: nothing was changed"), "{ran:?}");
    let ran = bench.lb("backend weight web/b1 50 --dry-run").await.ok();
    assert!(ran.stdout.contains(" %); flows that began before"), "{ran:?}");
    assert_eq!(bench.records().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_refuses_what_the_command_would() {
    let bench = Bench::new();
    bench.with_web(2).await;
    let before = bench.records().len();
    let long = "x".repeat(1_025);
    for (flags, exit) in [
        (["-m", "two\nlines"], 2),
        (["-m", &long], 2),
        (["--key", "two words"], 2),
        (["--if-match", "1"], 4),
        (["--if-match", "-1"], 2),
    ] {
        let words = [&["backend", "weight", "web/b1", "50"][..], &flags].concat();
        let rehearsed = bench.lb_with(&[&words[..], &["--dry-run"]].concat()).await;
        let refused = bench.lb_with(&words).await;
        assert_eq!((rehearsed.exit, &rehearsed.stderr), (exit, &refused.stderr), "{flags:?}: {rehearsed:?}");
        assert_eq!(refused.exit, exit, "{flags:?}: {refused:?}");
    }
    assert_eq!(bench.records().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_number_is_told_with_the_range() {
    let bench = Bench::new();
    for (words, range) in [
        ("backend add web/b1 10.0.0.1 --weight -1", "from 0 to 65535"),
        ("backend weight web/b1 many", "from 0 to 65535"),
        ("vip set web --probe-rise 300", "from 1 to 100"),
        ("vip set web --breaker-trial-cps 1.5", "from 1 to 65535"),
        ("vip set web --syn-s -1", "from 1 to 255"),
        ("serve --max-vips -1", "from 1 to 65536"),
        ("serve --commands-per-s 0", "from 1 to 100000"),
        ("history --limit -5", "from 1 to 1000"),
        ("watch --count 0", "from 1 to 4294967295"),
        ("tenant top --every-ms 1", "from 100 to 3600000"),
        ("backend drain web/b1 --wait --timeout-s -1", "from 0 to 31536000"),
    ] {
        let told = format!(": it is a whole number {range}");
        let ran = bench.lb(words).await;
        assert!(ran.exit == 2 && ran.stderr.contains(&told), "{words}: {ran:?}");
        assert!(ran.stderr.contains("code: LB3013"), "{words}: {ran:?}");
        let ran = bench.lb(&format!("--json {words}")).await;
        let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().ends_with(&told[2..]), "{words}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_undo_a_change_undoes_it() {
    let bench = Bench::new();
    bench.lb("tenant add acme").await.ok();
    bench.with_web(3).await;
    bench.lb("vip add dns [2001:db8::10]:53/udp --mode ipip --window-s 60 --tenant acme").await.ok();
    bench.lb("backend add dns/b1 2001:db8::1 --weight 9").await.ok();
    let exported = bench.lb("export").await.ok().stdout;
    for words in [
        "backend weight web/b1 7",
        "backend drain web/b1",
        "backend disable web/b1",
        "backend remove web/b2",
        "backend add web/b9 10.0.0.9",
        "vip set web --window-s 30 --probe tcp --probe-fall 5",
        "vip remove dns --allow-disruption",
        "tenant add other",
        "bypass on",
    ] {
        let answer = bench.lb(&format!("--json {words}")).await.ok().json();
        assert_eq!(answer["applied"], true, "{words}");
        for undo in answer["undo"].as_array().unwrap() {
            bench.lb(undo.as_str().unwrap().strip_prefix("lb ").unwrap()).await.ok();
        }
        assert_eq!(bench.lb("export").await.ok().stdout, exported, "{words}");
    }
    assert!(bench.lb("bypass status").await.ok().stdout.contains("is off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_waited_for_until_its_window_is_over() {
    let bench = Bench::new();
    bench.with_web(2).await;
    bench.fake.set_now_s(10_000);
    let ran = bench.lb("backend drain web/b1 --wait --timeout-s 1").await;
    assert_eq!(ran.exit, 5, "{ran:?}");
    assert!(ran.stderr.contains("backend web/b1 is not drained after 1 s"), "{ran:?}");
    assert_eq!(ran.stderr.matches("slots within their window").count(), 1, "{ran:?}");
    assert!(ran.stderr.contains("LB5012"), "{ran:?}");
    let ran = bench.lb("--json backend drain web/b1 --wait --timeout-s 1").await;
    assert!(ran.stderr.contains("is not drained after 1 s: backend web/b1 still has"), "{ran:?}");
    let moving = |actual: &lb_control::plan::Actual<_>, now_s| {
        let slots: &lb_userspace::dataplane::LiveSlots = &actual.slots;
        (0..65_537).filter(|index| slots.slot(*index).phase(now_s) == Phase::Moving).count()
    };
    assert!(moving(&bench.fake.read().unwrap(), 10_000) > 30_000);
    let waiting = async { bench.lb("backend drain web/b1 --wait --timeout-s 20").await };
    let passing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        bench.fake.set_now_s(20_000);
    };
    let (ran, ()) = tokio::join!(waiting, passing);
    assert!(ran.ok().stderr.contains("backend web/b1 is drained"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_adopts_journal_and_maps() {
    let bench = Bench::new();
    bench.with_web(2).await;
    bench.lb("backend drain web/b2").await.ok();
    let (exported, before) = (bench.lb("export").await.ok().stdout, bench.fake.read().unwrap());
    let bench = bench.restarted().await;
    let node = bench.node.clone();
    until("the first pass is done", || node.standing.borrow().passes > 0).await;
    assert_eq!(bench.lb("export").await.ok().stdout, exported);
    let after = bench.fake.read().unwrap();
    assert_eq!((after.vips, after.keys), (before.vips, before.keys));
    assert_eq!(after.backends, before.backends, "ways are not known yet, so the known ones stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_journal_is_no_wish_to_remove_every_vip() {
    let bench = Bench::new();
    bench.with_web(1).await;
    let start = lb_userspace::serve::Start {
        folded: Default::default(),
        store: lb_userspace::journal::MemoryStore::default(),
        dataplane: bench.fake.clone(),
        watch_ways: Box::new(|_| Ok(tokio::sync::watch::channel(Default::default()).1)),
        probe_concurrency: 1,
        probe_addresses: Default::default(),
        commands_per_s: None,
        resync: Duration::from_secs(10),
        observations: None,
        notes: Vec::new(),
    };
    let problem = lb_userspace::serve::start(start).err().unwrap();
    assert_eq!(problem.code, "LB5015");
    assert_eq!(bench.fake.read().unwrap().vips.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_table_refuses_what_is_too_much_and_gives_the_room_of_what_went() {
    let bench = Bench::with_room_for(2);
    bench.with_web(2).await;
    let before = (bench.records().len(), bench.node.engine.state());
    let ran = bench.lb("backend add web/b3 10.0.0.3").await;
    assert_eq!(ran.exit, 1, "{ran:?}");
    assert!(ran.stderr.contains("3 backends are more than the 2 that fit (--max-backends)"), "{ran:?}");
    assert_eq!((bench.records().len(), bench.node.engine.state()), before);
    // Each time the row is the one of a backend that packets were sent to until now.
    for number in 3..7 {
        bench.lb(&format!("backend remove web/b{}", number - 2)).await.ok();
        let ran = bench.lb(&format!("--json backend add web/b{number} 10.0.0.{number}")).await.ok();
        let answer = ran.json();
        assert_eq!((&answer["applied"], answer["pending"].as_array().unwrap().len()), (&true.into(), 0));
        bench.all_reached();
        let name = format!("b{number}");
        bench.settled(&name, |one| one["share"].as_f64() > Some(0.4)).await;
    }
}
