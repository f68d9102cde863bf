//! When backends are asked, what becomes of the answers, and that tenants do not wait for each other.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_common::ids::{BackendId, VipId};
use lb_control::event::{Change as Decided, EVENT_VERSION, Event};
use lb_control::health::{Health, Outcome};
use lb_control::observation::Cause;
use lb_control::probe::{Probe, ProbeKind};
use lb_control::state::State;
use lb_control::vip::{Mode, Protocol, Served, VipSettings};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::super::{CONCURRENCY, Observe, Seen, SeenHealth, start};
use crate::engine::Published;

const B1: BackendId = BackendId(1);
const DEADLINE: Duration = Duration::from_secs(10);

/// A tenant's vip, and where its backends are.
struct Of {
    tenant: &'static str,
    probe: Probe,
    backends: Vec<SocketAddr>,
}

fn quick() -> Probe {
    Probe { interval_ms: 50, timeout_ms: 40, ..Probe::of_kind(ProbeKind::Tcp) }
}

/// A state in which each of these has a vip; backends are numbered from 1 on, in order.
fn state(of: &[Of]) -> Published {
    let mut changes = Vec::new();
    let mut next = 1;
    for (number, Of { tenant, probe, backends }) in (1..).zip(of) {
        let served =
            Served { address: "203.0.113.10".parse().unwrap(), port: 80 + number, protocol: Protocol::Tcp };
        let settings =
            VipSettings { probe: probe.clone(), ..VipSettings::defaults(Protocol::Tcp, 80, Mode::L2) };
        let (vip, id) = (format!("web{number}"), VipId(number.into()));
        changes.push(Decided::VipAdded {
            id,
            vip: vip.clone(),
            tenant: (*tenant).to_owned(),
            served,
            settings: Box::new(settings),
        });
        for at in backends {
            let (address, port): (IpAddr, u16) = (at.ip(), at.port());
            let (id, backend) = (BackendId(next), format!("b{next}"));
            let (weight, intent) = (100, Default::default());
            changes.push(Decided::BackendAdded {
                id,
                vip: vip.clone(),
                backend,
                address,
                port,
                weight,
                intent,
                backup: false,
            });
            next += 1;
        }
    }
    let events: Vec<_> =
        changes.into_iter().map(|change| Event { v: EVENT_VERSION, at_ms: 0, change }).collect();
    Arc::new(State::replay(&events))
}

fn one(target: SocketAddr) -> Published {
    state(&[Of { tenant: "default", probe: quick(), backends: vec![target] }])
}

fn unfed() -> crate::breakers::Feed {
    Arc::new(|_, _| ())
}

fn unheard() -> Observe {
    Arc::new(|_| ())
}

async fn becomes(seen: &mut watch::Receiver<SeenHealth>, wanted: Option<Health>) {
    let found = seen.wait_for(|seen| seen.get(&B1).map(|seen| seen.health) == wanted);
    tokio::time::timeout(DEADLINE, found).await.expect("in time").expect("it runs");
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_listener_is_up_and_when_it_goes_it_is_down_and_when_it_comes_it_is_up() {
    let (listener, address) = listener().await;
    let (publisher, states) = watch::channel(one(address));
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let observe: Observe = Arc::new(move |one| keep.lock().unwrap().push(one));
    let mut seen = start(states, BTreeMap::new(), 8, observe, unfed(), None).seen;
    becomes(&mut seen, Some(Health::Up)).await;
    drop(listener);
    becomes(&mut seen, Some(Health::Down)).await;
    assert_eq!(seen.borrow()[&B1].last.unwrap().cause, Outcome::Refused);
    let _listener = TcpListener::bind(address).await.unwrap();
    becomes(&mut seen, Some(Health::Up)).await;
    publisher.send(Arc::new(State::default())).unwrap();
    becomes(&mut seen, None).await;
    // A change is told after it was published.
    let told_all = async {
        while kept.lock().unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, told_all).await.expect("three changes");
    let kept = kept.lock().unwrap();
    let told: Vec<String> = kept.iter().map(|one| format!("{} {}", one.object, one.change)).collect();
    assert_eq!(told, ["web1/b1 unknown -> up", "web1/b1 up -> down", "web1/b1 down -> up"]);
    assert_eq!(kept[1].cause, Cause::Probe { outcome: Outcome::Refused });
    assert_eq!(kept[1].evidence, "refused; 2 probes in a row");
}

#[tokio::test]
async fn an_adopted_health_holds_until_the_probe_says_otherwise() {
    let (listener, address) = listener().await;
    drop(listener);
    let (_publisher, states) = watch::channel(one(address));
    let mut seen = start(states, BTreeMap::from([(B1, Health::Up)]), 8, unheard(), unfed(), None).seen;
    assert_eq!(seen.borrow()[&B1], Seen { health: Health::Up, last: None });
    becomes(&mut seen, Some(Health::Down)).await;
}

#[tokio::test]
async fn who_is_suspected_is_asked_at_once_and_no_flood_of_suspicions_asks_more_often_than_doubt_does() {
    let (listener, address) = listener().await;
    let hourly = Probe { interval_ms: 3_600_000, timeout_ms: 1_000, fall: 1, ..quick() };
    let (answered, feed) = answered();
    let (publisher, states) =
        watch::channel(state(&[Of { tenant: "a", probe: hourly, backends: vec![address] }]));
    let probes = start(states, BTreeMap::new(), 8, unheard(), feed, None);
    let mut seen = probes.seen.clone();
    becomes(&mut seen, Some(Health::Up)).await;
    for _ in 0..10_000 {
        probes.now.probe(B1);
        probes.now.probe(BackendId(77));
        tokio::task::yield_now().await;
    }
    // A doubt of this probe lasts three minutes.
    assert!(answered.load(Ordering::Relaxed) <= 2);
    let quick = Probe { interval_ms: 1_200, ..quick() };
    publisher.send_replace(state(&[Of {
        tenant: "a",
        probe: Probe { fall: 1, ..quick },
        backends: vec![address],
    }]));
    drop(listener);
    let down = async {
        loop {
            probes.now.probe(B1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = down => {}
        () = becomes(&mut seen, Some(Health::Down)) => {}
    }
}

/// Counts the probes that are answered.
fn answered() -> (Arc<AtomicU64>, crate::breakers::Feed) {
    let count = Arc::new(AtomicU64::new(0));
    let counting = count.clone();
    let feed = Arc::new(move |_, outcome| {
        counting.fetch_add(u64::from(outcome == Outcome::Success), Ordering::Relaxed);
    });
    (count, feed)
}

/// By how much a count grows in a time, once it has begun to.
async fn growth(count: &AtomicU64, time: Duration) -> u64 {
    while count.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = count.load(Ordering::Relaxed);
    tokio::time::sleep(time).await;
    count.load(Ordering::Relaxed) - before
}

/// Something whose kernel answers no SYN: its queue is full. It is so as long as what is returned lives.
async fn silent() -> (SocketAddr, impl Drop) {
    struct Kept(#[expect(dead_code, reason = "it is open")] TcpListener, Vec<TcpStream>);
    impl Drop for Kept {
        fn drop(&mut self) {
            self.1.clear();
        }
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        kept.push(stream);
    }
    (address, Kept(listener, kept))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ten_thousand_dead_backends_of_a_tenant_leave_the_cadence_of_another_as_it_was() {
    let mut listeners = Vec::new();
    for _ in 0..10 {
        listeners.push(listener().await);
    }
    let (dead, _kept) = silent().await;
    let well = |tenant| {
        let probe = Probe { interval_ms: 200, timeout_ms: 150, ..quick() };
        Of { tenant, probe, backends: listeners.iter().map(|(_, address)| *address).collect() }
    };
    let slow = Probe { interval_ms: 1_000, timeout_ms: 900, ..quick() };
    let sick = |tenant| Of { tenant, probe: slow.clone(), backends: vec![dead; 10_000] };
    let time = Duration::from_secs(4);
    let per_backend = async |of: &[Of]| {
        let (answered, feed) = answered();
        let (_publisher, states) = watch::channel(state(of));
        let _probes = start(states, BTreeMap::new(), CONCURRENCY, unheard(), feed, None);
        growth(&answered, time).await as f64 / listeners.len() as f64
    };
    let alone = per_backend(&[well("b")]).await;
    let beside = per_backend(&[well("b"), sick("a")]).await;
    // What the pools are for: in one pool with them, they wait.
    let together = per_backend(&[well("b"), sick("b")]).await;
    println!("probes of a backend in {time:?}: alone {alone}, beside {beside}, in one pool {together}");
    assert!(alone >= 19.0 && (0.9..=1.1).contains(&(beside / alone)), "{beside} instead of {alone}");
    assert!(together < alone / 2.0, "{together}: nothing to keep apart");
}
