//! `lb rollback`: what it says is what it does, and nothing besides.

use std::path::PathBuf;

use lb_userspace::engine::Request;
use lb_userspace::journal::Failing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::bench::{Bench, run};

impl Bench {
    fn latest(&self) -> u64 {
        self.records().last().unwrap().revision
    }

    fn is_tripped(&self, backend: &str) -> bool {
        self.node.engine.state().backend("web", backend).unwrap().breaker.tripped
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_brings_trips_back_both_ways() {
    let bench = Bench::new();
    bench.with_web(3).await;
    let closed = bench.latest();
    let ran = bench.lb("breaker trip web/b1").await.ok();
    assert!(ran.stdout.contains("backend web/b1 changed: breaker automatic -> tripped"), "{ran:?}");
    let tripped = bench.latest();
    let ran = bench.lb(&format!("rollback --to {closed}")).await.ok();
    assert!(ran.stdout.contains("breaker tripped -> automatic"), "{ran:?}");
    assert!(!bench.is_tripped("b1"));
    bench.lb(&format!("rollback --to {tripped}")).await.ok();
    assert!(bench.is_tripped("b1"));
    assert!(bench.lb("show").await.ok().stdout.contains("tripped"));
    // One that was removed meanwhile comes back as it was.
    let undo = bench.lb("backend remove web/b1").await.ok().stdout;
    assert!(undo.contains("lb breaker trip web/b1"), "{undo}");
    bench.lb(&format!("rollback --to {tripped}")).await.ok();
    assert!(bench.is_tripped("b1") && !bench.is_tripped("b2"));
    let ran = bench.lb(&format!("rollback --to {tripped}")).await.ok();
    assert!(ran.stdout.contains("nothing differs"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_then_makes_the_backend_of_now_give_way() {
    let bench = Bench::new();
    bench.with_web(1).await;
    bench.lb("backend add web/b2 10.0.0.2 --backup").await.ok();
    let then = bench.latest();
    bench.lb("backend remove web/b2").await.ok();
    bench.lb("backend add web/b2 10.0.0.2").await.ok();
    bench.lb(&format!("rollback --to {then}")).await.ok();
    assert!(bench.node.engine.state().backend("web", "b2").unwrap().backup);
    let shown = bench.lb(&format!("show --at {then}")).await.ok().stdout;
    assert!(shown.contains("enabled, backup"), "{shown}");
}

/// A socket before the daemon's: as an `apply` comes by, somebody else is quicker.
fn overtaken(bench: &Bench) -> PathBuf {
    let path = bench.socket().with_extension("overtaken");
    let (listener, daemon) = (UnixListener::bind(&path).unwrap(), bench.socket().to_owned());
    let engine = bench.node.engine.clone();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = UnixStream::connect(&daemon).await.unwrap();
            let mut asked = vec![0; 65_536];
            let length = near.read(&mut asked).await.unwrap();
            if asked.starts_with(b"POST /v1/apply ") {
                let quicker = r#"{"kind":"backend_set","vip":"web","name":"b2","weight":7}"#;
                engine.submit(Request::new(serde_json::from_str(quicker).unwrap(), "bob")).await.unwrap();
            }
            far.write_all(&asked[..length]).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_did_between_the_plan_and_the_command_is_not_undone_unseen() {
    let bench = Bench::new();
    bench.with_web(2).await;
    let then = bench.latest();
    bench.lb("backend weight web/b1 50").await.ok();
    let (socket, to) = (overtaken(&bench).display().to_string(), then.to_string());
    let ran = run(&["lb", "--socket", &socket, "rollback", "--to", &to]).await;
    assert!(ran.exit == 4 && ran.stderr.contains("LB1035"), "{ran:?}");
    let weight = |backend: &str| bench.node.engine.state().backend("web", backend).unwrap().weight;
    assert_eq!((weight("b1"), weight("b2")), (50, 7), "nothing was done");
    let ran = bench.lb(&format!("rollback --to {to}")).await.ok();
    assert!(ran.stdout.contains("weight 7 -> 100"), "{ran:?}");
    assert_eq!((weight("b1"), weight("b2")), (100, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_in_doubt_says_its_key_and_takes_it() {
    let (bench, store) = Bench::in_memory();
    bench.with_web(2).await;
    let then = bench.latest();
    bench.lb("backend weight web/b1 50").await.ok();
    store.fail(Failing::UnknownLost);
    let ran = bench.lb(&format!("rollback --to {then}")).await;
    store.fail(Failing::No);
    assert!(ran.exit == 1 && ran.stderr.contains("LB5016"), "{ran:?}");
    let key = ran.stderr.split("--key ").nth(1).and_then(|rest| rest.split(':').next()).unwrap();
    bench.lb(&format!("rollback --to {then} --key {key}")).await.ok();
    let record = bench.records().last().unwrap().clone();
    assert_eq!(record.key.as_ref().map(|own| own.key.as_str()), Some(key));
    assert_eq!(bench.node.engine.state().backend("web", "b1").unwrap().weight, 100);
}
