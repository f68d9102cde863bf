//! The breakers of all backends: fed by whoever saw a success or a failure, moved on by time, published when one changes.
//!
//! What follows from a signal: `lb_control::breaker` says. What is done about an open one: the plan's business. A change
//! takes effect first and is then told to whoever keeps observations. Orders of people come with the published states.
//!
//! Feeding one costs a lock held for microseconds, whatever the number of backends. Only those that are not closed, or come
//! back gently, are looked at as time passes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lb_common::ids::BackendId;
use lb_control::backend::{Backend, BreakerOrder};
use lb_control::breaker::{Breaker, BreakerSettings, BreakerState, Turn, TurnCause};
use lb_control::health::Outcome;
use lb_control::observation::{Cause, Change, OBSERVATION_VERSION, Object, Observation};
use lb_control::plan::Breaking;
use lb_control::probe::ProbeKind;
use lb_control::state::State;
use lb_control::vip::Vip;
use tokio::sync::watch;

use crate::clock::unix_ms;
use crate::engine::Published;
use crate::probe::Observe;
use crate::vital;

/// How often time is looked at: the grain of a slow start, and of a trial that time begins.
const TICK: Duration = Duration::from_millis(250);

/// A breaker that is not closed, comes back gently, or was otherwise since the daemon started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenBreaker {
    /// What the plan needs of it.
    pub breaking: Breaking,
    /// The last change, for a person.
    pub why: String,
    /// When that was, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How often it has opened since the daemon started.
    pub openings: u64,
}

/// Breakers by backend; absent = closed ever since the daemon started.
pub type SeenBreakers = Arc<BTreeMap<BackendId, SeenBreaker>>;

/// Takes what became of a probe, or of another sign of life; must not wait.
pub type Feed = Arc<dyn Fn(BackendId, Outcome) + Send + Sync>;

/// The breakers; clones share them.
#[derive(Clone)]
pub struct Breakers(Arc<Shared>);

struct Shared {
    guarded: Mutex<Guarded>,
    seen: watch::Sender<SeenBreakers>,
    observe: Observe,
    epoch: Instant,
    seeds: RandomState,
}

#[derive(Default)]
struct Guarded {
    breakers: BTreeMap<BackendId, One>,
    /// Those that time changes.
    awake: BTreeSet<BackendId>,
}

/// A backend's breaker with what it needs to be told of.
struct One {
    breaker: Breaker,
    settings: BreakerSettings,
    probed: bool,
    order: BreakerOrder,
    vip: String,
    backend: String,
    address: SocketAddr,
}

/// Starts the breakers of the published states' backends, until the states end. `adopted`: those that a former daemon left
/// open.
pub fn start(states: watch::Receiver<Published>, adopted: BTreeSet<BackendId>, observe: Observe) -> Breakers {
    let (seen, _) = watch::channel(SeenBreakers::default());
    let (epoch, seeds) = (Instant::now(), RandomState::new());
    let shared = Shared { guarded: Mutex::default(), seen, observe, epoch, seeds };
    let breakers = Breakers(Arc::new(shared));
    let state = states.borrow().clone();
    breakers.follow_state(&State::default(), &state, &adopted);
    vital::spawn_async("breakers", breakers.clone().run(states, state));
    breakers
}

impl Breakers {
    /// What is published.
    pub fn follow(&self) -> watch::Receiver<SeenBreakers> {
        self.0.seen.subscribe()
    }

    /// Takes what became of a probe, or of another sign of life.
    pub fn observe(&self, id: BackendId, outcome: Outcome) {
        let (now_ms, seed) = (self.now_ms(), self.seed(id));
        let mut guarded = self.guarded();
        let Some(one) = guarded.breakers.get_mut(&id) else { return };
        let success = outcome == Outcome::Success;
        let turn = one.breaker.observe(&one.settings, success, now_ms, seed);
        let last = if success { String::new() } else { format!(", the last: {outcome:?}").to_lowercase() };
        if let Some(turn) = turn {
            self.turned(&mut guarded, id, turn, &last);
        }
    }

    /// The feed of whoever sees outcomes.
    pub fn feed(&self) -> Feed {
        let breakers = self.clone();
        Arc::new(move |id, outcome| breakers.observe(id, outcome))
    }

    async fn run(self, mut states: watch::Receiver<Published>, mut followed: Published) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let state = states.borrow_and_update().clone();
                    self.follow_state(&followed, &state, &BTreeSet::new());
                    followed = state;
                }
                _ = tick.tick() => self.tick(),
            }
        }
    }

    /// Guards whom the state names, as it says, and nobody else. `was`: the state that it followed before; only vips that
    /// differ are looked at.
    fn follow_state(&self, was: &State, state: &State, adopted: &BTreeSet<BackendId>) {
        let mut guarded = self.guarded();
        let mut gone = BTreeSet::new();
        for name in was.vips_unlike(state) {
            let before = was.vips.get(name).into_iter().flat_map(|vip| vip.backends.values());
            gone.extend(before.map(|backend| backend.id));
            let Some(vip) = state.vips.get(name) else { continue };
            for (own, backend) in &vip.backends {
                gone.remove(&backend.id);
                self.follow_one(&mut guarded, (name, vip), (own, backend), adopted);
            }
        }
        for id in &gone {
            guarded.breakers.remove(id);
            guarded.awake.remove(id);
        }
        self.0.seen.send_if_modified(|seen| {
            let told = gone.iter().any(|id| seen.contains_key(id));
            if told {
                Arc::make_mut(seen).retain(|id, _| !gone.contains(id));
            }
            told
        });
    }

    fn follow_one(
        &self,
        guarded: &mut Guarded,
        vip: (&str, &Vip),
        (name, backend): (&str, &Backend),
        adopted: &BTreeSet<BackendId>,
    ) {
        let now_ms = self.now_ms();
        let turn = match guarded.breakers.get_mut(&backend.id) {
            Some(one) => one.ordered(vip.1, backend, now_ms),
            None => {
                let adopted = adopted.contains(&backend.id).then(|| self.seed(backend.id));
                let one = One::new(vip, (name, backend), adopted, now_ms);
                let state = one.breaker.state();
                guarded.breakers.insert(backend.id, one);
                (state != BreakerState::Closed).then(|| {
                    let cause = TurnCause::Operator;
                    Turn { from: state, to: state, cause, at_ms: now_ms, backoff_ms: 0 }
                })
            }
        };
        if let Some(turn) = turn {
            self.turned(guarded, backend.id, turn, "");
        }
    }

    /// What time brings: trials that nothing else begins, and slow starts.
    fn tick(&self) {
        let now_ms = self.now_ms();
        let mut guarded = self.guarded();
        for id in guarded.awake.clone() {
            let Some(one) = guarded.breakers.get_mut(&id) else { continue };
            match one.breaker.tick(&one.settings, one.probed, now_ms) {
                Some(turn) => self.turned(&mut guarded, id, turn, ""),
                None => self.share(&mut guarded, id, now_ms),
            }
        }
    }

    /// Publishes how far a slow start is.
    fn share(&self, guarded: &mut Guarded, id: BackendId, now_ms: u64) {
        let Some(one) = guarded.breakers.get(&id) else { return };
        let breaking = one.breaking(now_ms);
        if breaking.state == BreakerState::Closed && breaking.share_permille >= 1_000 {
            guarded.awake.remove(&id);
        }
        self.0.seen.send_if_modified(|seen| {
            let changed = seen.get(&id).is_some_and(|seen| seen.breaking != breaking);
            if changed && let Some(seen) = Arc::make_mut(seen).get_mut(&id) {
                seen.breaking = breaking;
            }
            changed
        });
    }

    /// Publishes a turn, then tells of it.
    fn turned(&self, guarded: &mut Guarded, id: BackendId, turn: Turn, last: &str) {
        let Some(one) = guarded.breakers.get(&id) else { return };
        let (breaking, why, at_ms) = (one.breaking(turn.at_ms), one.why(&turn, last), unix_ms());
        guarded.awake.insert(id);
        self.0.seen.send_modify(|seen| {
            let openings = seen.get(&id).map_or(0, |seen| seen.openings);
            let openings = openings + u64::from(turn.to == BreakerState::Open && turn.from != turn.to);
            let seen_now = SeenBreaker { breaking, why: why.clone(), at_ms, openings };
            Arc::make_mut(seen).insert(id, seen_now);
        });
        if turn.from == turn.to {
            return;
        }
        let Some(one) = guarded.breakers.get(&id) else { return };
        tracing::info!(backend = %one.address, from = %turn.from, to = %turn.to, why, "breaker");
        let (vip, backend, address) = (one.vip.clone(), one.backend.clone(), one.address);
        (self.0.observe)(Observation {
            v: OBSERVATION_VERSION,
            at_ms,
            seq: 0,
            object: Object::Backend { id, vip, backend, address },
            change: Change::BreakerChanged { from: turn.from, to: turn.to },
            cause: Cause::Breaker { turn: turn.cause },
            evidence: why,
        });
    }

    fn guarded(&self) -> MutexGuard<'_, Guarded> {
        self.0.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The breakers' own clock, which never goes back, milliseconds.
    fn now_ms(&self) -> u64 {
        self.0.epoch.elapsed().as_millis() as u64
    }

    fn seed(&self, id: BackendId) -> u64 {
        self.0.seeds.hash_one(id.0)
    }
}

impl One {
    fn new(
        (vip_name, vip): (&str, &Vip),
        (name, backend): (&str, &Backend),
        adopted: Option<u64>,
        now_ms: u64,
    ) -> Self {
        let settings = vip.settings.breaker;
        let mut breaker = match adopted {
            Some(seed) if settings.is_on() => Breaker::adopted(&settings, now_ms, seed),
            _ => Breaker::default(),
        };
        if backend.breaker.tripped {
            breaker.trip(now_ms);
        }
        Self {
            breaker,
            settings,
            probed: vip.settings.probe.kind != ProbeKind::None,
            order: backend.breaker,
            vip: vip_name.to_owned(),
            backend: name.to_owned(),
            address: SocketAddr::new(backend.address, backend.port),
        }
    }

    /// Takes the settings, and what a person ordered since.
    fn ordered(&mut self, vip: &Vip, backend: &Backend, now_ms: u64) -> Option<Turn> {
        self.settings = vip.settings.breaker;
        self.probed = vip.settings.probe.kind != ProbeKind::None;
        if backend.breaker == self.order {
            return None;
        }
        self.order = backend.breaker;
        if self.order.tripped {
            self.breaker.trip(now_ms)
        } else {
            self.breaker.reset(&self.settings, now_ms)
        }
    }

    fn breaking(&self, now_ms: u64) -> Breaking {
        Breaking {
            state: self.breaker.state(),
            opened_ms: self.breaker.opened_ms(),
            share_permille: self.breaker.share_permille(&self.settings, now_ms),
        }
    }

    /// A turn in words, for people.
    fn why(&self, turn: &Turn, last: &str) -> String {
        let settings = &self.settings;
        let cause = match turn.cause {
            TurnCause::InARow => format!("{} failures in a row{last}", settings.consecutive),
            TurnCause::Ratio => {
                let (percent, window_s) = (settings.ratio_percent, settings.window_s);
                format!("{percent} % or more failed within {window_s} s{last}")
            }
            TurnCause::TrialPassed if self.probed => {
                format!("{} successes in a row while it was tried", settings.trial_successes)
            }
            TurnCause::TrialFailed => format!("it failed while it was tried{last}"),
            TurnCause::Operator if turn.from == turn.to && !self.order.tripped => {
                "open as the former daemon left it".to_owned()
            }
            other => other.to_string(),
        };
        match turn.to {
            BreakerState::Open if turn.backoff_ms > 0 => {
                format!("{cause}; tried again in {:.1} s at the earliest", turn.backoff_ms as f64 / 1_000.0)
            }
            BreakerState::HalfOpen => format!("{cause}; at most {} new connections/s", settings.trial_cps),
            BreakerState::Closed if settings.slow_start_s > 0 => {
                format!("{cause}; its whole share in {} s", settings.slow_start_s)
            }
            BreakerState::Open if self.order.tripped => format!("{cause}, until `lb breaker reset`"),
            _ => cause,
        }
    }
}

#[cfg(test)]
mod tests;
