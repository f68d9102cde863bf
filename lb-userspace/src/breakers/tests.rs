//! Breakers as they are published: turns, orders, slow starts, and a storm that slows and fills nothing.

use super::*;
use crate::journal::observation::{Limits, ObservationJournal};
use lb_common::ids::VipId;
use lb_control::event::{Change as Decided, EVENT_VERSION, Event};
use lb_control::vip::{Mode, Protocol, Served, VipSettings};

const B1: BackendId = BackendId(1);

/// A state with so many backends, and what was ordered of the first.
fn state(backends: u32, orders: &[Decided]) -> Published {
    let served = Served { address: [203, 0, 113, 10].into(), port: 80, protocol: Protocol::Tcp };
    let mut settings = VipSettings::defaults(Protocol::Tcp, 80, Mode::L2);
    (settings.breaker.backoff_ms, settings.breaker.slow_start_s) = (100, 1);
    let (vip, tenant) = ("web".to_owned(), "default".to_owned());
    let vip_added = Decided::VipAdded { id: VipId(1), vip, tenant, served, settings: Box::new(settings) };
    let added = (1..=backends).map(|number| Decided::BackendAdded {
        id: BackendId(number),
        vip: "web".to_owned(),
        backend: format!("b{number}"),
        address: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
        port: 80,
        weight: 100,
        intent: Default::default(),
        backup: false,
    });
    let changes = std::iter::once(vip_added).chain(added).chain(orders.iter().cloned());
    let events: Vec<Event> = changes.map(|change| Event { v: EVENT_VERSION, at_ms: 0, change }).collect();
    Arc::new(State::replay(&events))
}

fn order(tripped: bool) -> Decided {
    let (vip, backend) = ("web".to_owned(), "b1".to_owned());
    if tripped { Decided::BreakerTripped { vip, backend } } else { Decided::BreakerReset { vip, backend } }
}

type Told = Arc<Mutex<Vec<String>>>;

fn telling() -> (Told, Observe) {
    let told = Told::default();
    let keep = told.clone();
    let observe = move |one: Observation| keep.lock().unwrap().push(format!("{} {}", one.object, one.change));
    (told, Arc::new(observe))
}

async fn becomes(seen: &mut watch::Receiver<SeenBreakers>, wanted: impl Fn(&SeenBreaker) -> bool) {
    let found = seen.wait_for(|seen| seen.get(&B1).is_some_and(&wanted));
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("in time").expect("it runs");
}

#[tokio::test]
async fn failures_open_it_successes_try_and_close_it_and_it_comes_back_gently() {
    let (told, observe) = telling();
    let (_publisher, states) = watch::channel(state(2, &[]));
    let breakers = start(states, BTreeSet::new(), observe);
    let mut seen = breakers.follow();
    (0..5).for_each(|_| breakers.observe(B1, Outcome::Refused));
    becomes(&mut seen, |one| one.breaking.state == BreakerState::Open && one.openings == 1).await;
    assert!(
        seen.borrow()[&B1].why.starts_with("5 failures in a row, the last: refused; tried again in 0.1 s")
    );
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while seen.borrow().get(&B1).is_none_or(|one| one.breaking.state != BreakerState::Closed) {
        assert!(tokio::time::Instant::now() < until, "{:?}", seen.borrow());
        breakers.observe(B1, Outcome::Success);
        tokio::task::yield_now().await;
    }
    becomes(&mut seen, |one| (101..1_000).contains(&one.breaking.share_permille)).await;
    becomes(&mut seen, |one| one.breaking.share_permille == 1_000).await;
    let told = told.lock().unwrap().clone();
    assert_eq!(told, ["web/b1 closed -> open", "web/b1 open -> half-open", "web/b1 half-open -> closed"]);
}

#[tokio::test]
async fn an_order_takes_effect_once_and_a_restart_keeps_it_without_telling_it_again() {
    let (told, observe) = telling();
    let (publisher, states) = watch::channel(state(1, &[]));
    let breakers = start(states, BTreeSet::new(), observe);
    let mut seen = breakers.follow();
    publisher.send(state(1, &[order(true)])).unwrap();
    becomes(&mut seen, |one| one.breaking.state == BreakerState::Open).await;
    (0..10).for_each(|_| breakers.observe(B1, Outcome::Success));
    assert_eq!(seen.borrow()[&B1].breaking.state, BreakerState::Open);
    publisher.send(state(1, &[order(true), order(false)])).unwrap();
    becomes(&mut seen, |one| one.breaking.state == BreakerState::Closed).await;
    // It is told after it is published, on another thread.
    let both = ["web/b1 closed -> open", "web/b1 open -> closed"];
    let deadline = Instant::now() + Duration::from_secs(10);
    while *told.lock().unwrap() != both {
        assert!(Instant::now() < deadline, "{:?}", told.lock().unwrap());
        tokio::task::yield_now().await;
    }
    let (told, observe) = telling();
    let (_publisher, states) = watch::channel(state(1, &[order(true)]));
    let breakers = start(states, BTreeSet::new(), observe);
    assert_eq!(breakers.follow().borrow()[&B1].breaking.state, BreakerState::Open);
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_former_daemon_left_open_is_open_until_it_is_tried() {
    let (_told, observe) = telling();
    let (_publisher, states) = watch::channel(state(2, &[]));
    let breakers = start(states, BTreeSet::from([B1]), observe);
    let seen = breakers.follow();
    assert_eq!(seen.borrow()[&B1].breaking.state, BreakerState::Open);
    assert_eq!(seen.borrow().len(), 1);
}

/// Ten thousand backends that fail and answer in turn: every signal is taken in microseconds, what is kept is bounded,
/// and the last state of each is right.
#[tokio::test]
async fn ten_thousand_that_flap_slow_nothing_and_fill_nothing() {
    const BACKENDS: u32 = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { file_bytes: 1 << 20, files: 4, ..Limits::default() };
    let journal = ObservationJournal::open(directory.path(), limits).unwrap();
    let keep = journal.clone();
    let (_publisher, states) = watch::channel(state(BACKENDS, &[]));
    let breakers = start(states, BTreeSet::new(), Arc::new(move |one| keep.record(one)));
    let seen = breakers.follow();
    let (began, rounds) = (Instant::now(), 4);
    for _ in 0..rounds {
        for id in (1..=BACKENDS).map(BackendId) {
            (0..5).for_each(|_| breakers.observe(id, Outcome::Timeout));
            breakers.observe(id, Outcome::Success);
        }
        // A reader that holds on to what it read.
        drop(seen.borrow().clone());
    }
    let each = began.elapsed() / (rounds * BACKENDS * 6);
    assert!(each < Duration::from_micros(100), "{each:?} a signal");
    assert_eq!(seen.borrow().len(), BACKENDS as usize);
    assert!(seen.borrow().values().all(|one| one.breaking.state != BreakerState::Closed));
    journal.close();
    let kept: u64 = std::fs::read_dir(directory.path().join(crate::journal::observation::FOLDER))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(kept <= 5 << 20, "{kept} bytes");
}
