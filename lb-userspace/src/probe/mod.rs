//! Probes: asks every backend whether it answers, each at its own pace, and publishes what changed.
//!
//! Which backends, and how: the published state says. What follows from the answers: `lb_control::health` says. What
//! is done about it: the reconciler's business. Health is never in the log of intent: a change is published first, and
//! then told to whoever keeps observations.

pub mod tcp;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_common::ids::BackendId;
use lb_control::health::{Health, HealthTracker, Outcome, Transition};
use lb_control::observation::{Cause, Change, OBSERVATION_VERSION, Object, Observation};
use lb_control::probe::{Probe, ProbeKind};
use lb_control::state::State;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::breakers::Feed;
use crate::engine::Published;
use crate::vital;

/// Default number of probes under way at once; more wait, which stretches their intervals.
pub const CONCURRENCY: usize = 1_024;

/// What is known of a backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The health.
    pub health: Health,
    /// The change that led to it; `None`: it was adopted from the maps.
    pub last: Option<Transition>,
}

/// Health by backend; absent = unknown.
pub type SeenHealth = Arc<BTreeMap<BackendId, Seen>>;

/// Who keeps what was observed; must not wait.
pub type Observe = Arc<dyn Fn(Observation) + Send + Sync>;

/// Whom to probe, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    address: SocketAddr,
    probe: Probe,
    vip: String,
    backend: String,
}

/// Starts probing as the published states say, until they end. `adopted`: the health that the maps of a former
/// daemon imply, which holds until a probe says otherwise. `feed` is told what became of every probe.
pub fn start(
    states: watch::Receiver<Published>,
    adopted: BTreeMap<BackendId, Health>,
    concurrency: usize,
    observe: Observe,
    feed: Feed,
) -> watch::Receiver<SeenHealth> {
    let seen = adopted.into_iter().map(|(id, health)| (id, Seen { health, last: None })).collect();
    let (seen, follow) = watch::channel(Arc::new(seen));
    let prober = Prober {
        seen: Arc::new(seen),
        places: Arc::new(Semaphore::new(concurrency)),
        observe,
        feed,
        tasks: BTreeMap::new(),
    };
    vital::task(prober.run(states));
    follow
}

struct Prober {
    seen: Arc<watch::Sender<SeenHealth>>,
    places: Arc<Semaphore>,
    observe: Observe,
    feed: Feed,
    tasks: BTreeMap<BackendId, (Target, AbortHandle)>,
}

impl Prober {
    async fn run(mut self, mut states: watch::Receiver<Published>) {
        loop {
            let state = states.borrow_and_update().clone();
            self.follow(&state);
            if states.changed().await.is_err() {
                break;
            }
        }
        self.tasks.values().for_each(|(_, task)| task.abort());
    }

    /// Probes whom the state names, and nobody else.
    fn follow(&mut self, state: &State) {
        let wanted = targets(state);
        self.tasks.retain(|id, (target, task)| {
            let keep = wanted.get(id) == Some(target);
            if !keep {
                task.abort();
            }
            keep
        });
        self.seen.send_if_modified(|seen| {
            let gone = seen.keys().any(|id| !wanted.contains_key(id));
            if gone {
                Arc::make_mut(seen).retain(|id, _| wanted.contains_key(id));
            }
            gone
        });
        for (id, target) in wanted {
            self.tasks.entry(id).or_insert_with(|| {
                let task = Pace {
                    id,
                    target: target.clone(),
                    seen: self.seen.clone(),
                    places: self.places.clone(),
                    observe: self.observe.clone(),
                    feed: self.feed.clone(),
                };
                (target, vital::task(task.run()))
            });
        }
    }
}

/// Backends that have a probe.
fn targets(state: &State) -> BTreeMap<BackendId, Target> {
    let target = |(vip_name, vip, name, backend): (
        &str,
        &lb_control::vip::Vip,
        &str,
        &lb_control::backend::Backend,
    )| {
        let probe = vip.settings.probe;
        let port = probe.port.unwrap_or(backend.port);
        let address = SocketAddr::new(backend.address, port);
        let (vip, name) = (vip_name.to_owned(), name.to_owned());
        (probe.kind == ProbeKind::Tcp).then_some((backend.id, Target { address, probe, vip, backend: name }))
    };
    state.backends().filter_map(target).collect()
}

/// The probes of one backend.
struct Pace {
    id: BackendId,
    target: Target,
    seen: Arc<watch::Sender<SeenHealth>>,
    places: Arc<Semaphore>,
    observe: Observe,
    feed: Feed,
}

impl Pace {
    async fn run(self) {
        let known = self.seen.borrow().get(&self.id).map_or(Health::Unknown, |seen| seen.health);
        let mut tracker = HealthTracker::starting(known);
        loop {
            let began = Instant::now();
            if let Some(outcome) = self.ask().await {
                if let Some(change) = tracker.observe(&self.target.probe, outcome, now_ms()) {
                    self.publish(change);
                }
                (self.feed)(self.id, outcome);
            }
            let wait = Duration::from_millis(u64::from(tracker.next_probe_after_ms(&self.target.probe)));
            tokio::time::sleep_until((began + jittered(wait)).into()).await;
        }
    }

    async fn ask(&self) -> Option<Outcome> {
        let _place = self.places.acquire().await.ok()?;
        let timeout = Duration::from_millis(u64::from(self.target.probe.timeout_ms));
        match tcp::probe(self.target.address, timeout).await {
            Ok(outcome) => Some(outcome),
            Err(error) => {
                tracing::warn!(%error, backend = %self.target.address, "could not probe");
                None
            }
        }
    }

    fn publish(&self, change: Transition) {
        tracing::info!(backend = %self.target.address, from = %change.from, to = %change.to, cause = ?change.cause, "health");
        self.seen.send_modify(|seen| {
            Arc::make_mut(seen).insert(self.id, Seen { health: change.to, last: Some(change) });
        });
        (self.observe)(self.observation(change));
    }

    fn observation(&self, change: Transition) -> Observation {
        let Target { address, probe, vip, backend } = self.target.clone();
        let enough = if change.to == Health::Up { probe.rise } else { probe.fall };
        let evidence = match change {
            // The first answer of a backend that nothing is known of is enough.
            Transition { from: Health::Unknown, to: Health::Up, .. } => {
                "the first probe that was answered".to_owned()
            }
            _ => format!("{enough} probes in a row"),
        };
        Observation {
            v: OBSERVATION_VERSION,
            at_ms: change.at_ms,
            seq: 0,
            object: Object::Backend { id: self.id, vip, backend, address },
            change: Change::HealthChanged { from: change.from, to: change.to },
            cause: Cause::Probe { outcome: change.cause },
            evidence,
        }
    }
}

/// The time less up to a tenth of it, so that probes do not march in step.
fn jittered(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    time - time.mul_f64(0.1 * (random as f64 / u64::MAX as f64))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::event::{Change as Decided, EVENT_VERSION, Event};
    use lb_control::vip::{Mode, Protocol, Served, VipSettings};
    use std::net::IpAddr;
    use std::sync::Mutex;
    use tokio::net::TcpListener;

    const B1: BackendId = BackendId(1);

    fn state_with(port: u16) -> Published {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let served = Served { address: "203.0.113.10".parse().unwrap(), port, protocol: Protocol::Tcp };
        let mut settings = VipSettings::defaults(Protocol::Tcp, port, Mode::L2);
        settings.probe.interval_ms = 50;
        let (vip, tenant) = ("web".to_owned(), "default".to_owned());
        let changes = [
            Decided::VipAdded { id: lb_common::ids::VipId(1), vip: vip.clone(), tenant, served, settings },
            Decided::BackendAdded {
                id: B1,
                vip,
                backend: "b1".to_owned(),
                address: loopback,
                port,
                weight: 100,
                intent: Default::default(),
                backup: false,
            },
        ];
        let events = changes.map(|change| Event { v: EVENT_VERSION, at_ms: 0, change });
        Arc::new(State::replay(&events))
    }

    async fn becomes(seen: &mut watch::Receiver<SeenHealth>, wanted: Option<Health>) {
        let found = seen.wait_for(|seen| seen.get(&B1).map(|seen| seen.health) == wanted);
        tokio::time::timeout(Duration::from_secs(10), found).await.expect("in time").expect("it runs");
    }

    #[tokio::test]
    async fn a_listener_is_up_and_when_it_goes_it_is_down_and_when_it_comes_it_is_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (publisher, states) = watch::channel(state_with(address.port()));
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = kept.clone();
        let observe: Observe = Arc::new(move |one| keep.lock().unwrap().push(one));
        let mut seen = start(states, BTreeMap::new(), 8, observe, Arc::new(|_, _| ()));
        becomes(&mut seen, Some(Health::Up)).await;
        drop(listener);
        becomes(&mut seen, Some(Health::Down)).await;
        assert_eq!(seen.borrow()[&B1].last.unwrap().cause, Outcome::Refused);
        let _listener = TcpListener::bind(address).await.unwrap();
        becomes(&mut seen, Some(Health::Up)).await;
        publisher.send(Arc::new(State::default())).unwrap();
        becomes(&mut seen, None).await;
        let kept = kept.lock().unwrap();
        let told: Vec<String> = kept.iter().map(|one| format!("{} {}", one.object, one.change)).collect();
        assert_eq!(told, ["web/b1 unknown -> up", "web/b1 up -> down", "web/b1 down -> up"]);
        assert_eq!(kept[1].cause, Cause::Probe { outcome: Outcome::Refused });
    }

    #[tokio::test]
    async fn an_adopted_health_holds_until_the_probe_says_otherwise() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (_publisher, states) = watch::channel(state_with(port));
        let mut seen = start(states, BTreeMap::from([(B1, Health::Up)]), 8, Arc::new(|_| ()), Arc::new(|_, _| ()));
        assert_eq!(seen.borrow()[&B1], Seen { health: Health::Up, last: None });
        becomes(&mut seen, Some(Health::Down)).await;
    }

    #[test]
    fn jitter_shortens_by_at_most_a_tenth() {
        let second = Duration::from_secs(1);
        assert!(
            (0..1_000).map(|_| jittered(second)).all(|time| time <= second && time >= second.mul_f64(0.9))
        );
    }
}
