//! The probes of one tenant: a thread with a runtime of its own, and a bounded number of attempts under way. What one
//! tenant's backends cost in time, in places and in sockets is that tenant's own loss.
//!
//! One heap says who is due; a backend that is not being asked costs a line in it and no task. Every outcome goes
//! through [`Pool::take`]. Changes are published at once, and further ones together every [`PUBLISH_PAUSE`]: ten
//! thousand backends that flap cost no more than two hundred publications a second.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::ids::BackendId;
use lb_control::health::{Health, HealthTracker, Transition, Wait};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::board::{Board, Changed};
use super::plan::{Answer, Plan};
use super::tcp;
use super::via::Road;
use crate::clock::unix_ms;

/// Least time from one publication to the next.
const PUBLISH_PAUSE: Duration = Duration::from_millis(5);
/// Least time between two lines of the log that say that attempts could not be made.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);
/// Attempts that are due so soon after others began with each other: to wake up for each costs a tenth of a probe.
const TOGETHER: Duration = Duration::from_millis(8);
/// When to look again if nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// By which path a backend is asked.
#[derive(Clone, Debug)]
pub(super) enum Path {
    /// At its own address.
    Own,
    /// By the vip's own path.
    Vip(Road),
    /// At its own address, since there is none to ask from by the vip's path.
    Astray,
}

/// Whom to probe, and how.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The backend's own address, and the port to ask.
    pub(super) address: SocketAddr,
    pub(super) path: Path,
    pub(super) plan: Arc<Plan>,
    pub(super) vip: Arc<str>,
    pub(super) backend: Arc<str>,
}

impl Target {
    /// Whether it is asked in the same way: a plan is made once for a vip's settings.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.plan, &other.plan)
            && (self.address, &self.vip, &self.backend) == (other.address, &other.vip, &other.backend)
    }
}

/// What a pool is to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) targets: Arc<BTreeMap<BackendId, Target>>,
    /// Attempts under way at once; more wait, which stretches this tenant's intervals.
    pub(super) workers: usize,
    /// Sockets that may rest between attempts, of each family.
    pub(super) resting: usize,
}

/// A tenant's pool.
pub(super) struct Pool {
    board: Arc<Board>,
    workers: usize,
    watched: HashMap<BackendId, Watched>,
    due: BinaryHeap<Reverse<(Instant, u64, BackendId)>>,
    /// When those of them are due that wait for no others; some are void by now.
    pressing: BinaryHeap<Reverse<Instant>>,
    running: JoinSet<Done>,
    /// The number of the last turn that was given.
    turns: u64,
    /// When attempts began last.
    started: Instant,
    changes: Vec<Changed>,
    publish_at: Instant,
    complained: Option<Instant>,
    chance: RandomState,
}

/// A backend that is probed.
struct Watched {
    target: Target,
    tracker: HealthTracker,
    /// Its turn: what it waits for in the heap, or what is under way. Whatever bears another number is void.
    turn: u64,
    running: bool,
    /// When the last attempt began.
    began: Option<Instant>,
    /// Asked for while an attempt was under way.
    again: bool,
    /// Whether it has its place in the interval.
    placed: bool,
    /// Whether its turn is not one of the regular interval: it is in doubt, or asked for.
    pressing: bool,
}

struct Done {
    id: BackendId,
    turn: u64,
    took: Duration,
    answer: io::Result<Answer>,
}

impl Pool {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self {
            board,
            workers: 1,
            watched: HashMap::new(),
            due: BinaryHeap::new(),
            pressing: BinaryHeap::new(),
            running: JoinSet::new(),
            turns: 0,
            started: Instant::now(),
            changes: Vec::new(),
            publish_at: Instant::now(),
            complained: None,
            chance: RandomState::new(),
        }
    }

    /// Probes until nobody says any more whom. `urgent`: backends to be asked now.
    pub(super) async fn run(
        mut self,
        mut wanted: watch::Receiver<Wanted>,
        mut urgent: mpsc::Receiver<BackendId>,
    ) {
        let first = wanted.borrow_and_update().clone();
        self.follow(first);
        loop {
            self.start_due();
            self.publish_due();
            let due = self.wakes_at();
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = wanted.borrow_and_update().clone();
                    self.follow(now);
                }
                Some(id) = urgent.recv() => self.hasten(id),
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    self.finish(done);
                    while let Some(done) = self.running.try_join_next() {
                        self.finish(done);
                    }
                }
                () = sleep_until(due), if self.running.len() < self.workers => {}
                () = sleep_until(self.publish_at), if !self.changes.is_empty() => {}
            }
        }
    }

    /// Probes whom it names, and nobody else.
    fn follow(&mut self, wanted: Wanted) {
        self.workers = wanted.workers.max(1);
        tcp::rest_at_most(wanted.resting);
        let targets = wanted.targets;
        self.watched.retain(|id, watched| targets.get(id).is_some_and(|target| target.is(&watched.target)));
        for (id, target) in &*targets {
            if self.watched.contains_key(id) {
                continue;
            }
            let tracker = HealthTracker::starting(self.board.health(*id));
            let (target, turn) = (target.clone(), 0);
            let new = Watched {
                target,
                tracker,
                turn,
                running: false,
                began: None,
                again: false,
                placed: false,
                pressing: true,
            };
            self.watched.insert(*id, new);
            self.put(*id, Instant::now());
        }
    }

    /// Gives a backend its next turn, instead of the one that it has.
    fn put(&mut self, id: BackendId, at: Instant) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        self.turns += 1;
        (watched.turn, watched.running) = (self.turns, false);
        self.due.push(Reverse((at, self.turns, id)));
        if watched.pressing {
            self.pressing.push(Reverse(at));
        }
    }

    /// Asks a backend now; not sooner after its last attempt than doubt would, so that no flood of suspicions makes a
    /// flood of probes.
    fn hasten(&mut self, id: BackendId) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        if watched.running {
            watched.again = true;
            return;
        }
        let doubt = Duration::from_millis(watched.target.plan.probe.doubt_interval_ms().into());
        let soonest = watched.began.map_or_else(Instant::now, |began| began + doubt);
        watched.pressing = true;
        self.put(id, soonest.max(Instant::now()));
    }

    /// When the next attempt is due. One of a regular interval waits for others; one that is in doubt does not.
    fn wakes_at(&self) -> Instant {
        let first = self.due.peek().map(|Reverse((at, ..))| *at);
        let pressing = self.pressing.peek().map(|Reverse(at)| *at);
        wakes_at(first, pressing, self.started).unwrap_or_else(|| Instant::now() + IDLE)
    }

    /// Starts the attempts whose time has come, as far as there are places.
    fn start_due(&mut self) {
        let now = Instant::now();
        while self.pressing.peek().is_some_and(|Reverse(at)| *at <= now) {
            self.pressing.pop();
        }
        while self.running.len() < self.workers {
            let Some(&Reverse((at, turn, id))) = self.due.peek() else { return };
            let Some(watched) = self.watched.get_mut(&id).filter(|watched| watched.turn == turn) else {
                self.due.pop();
                continue;
            };
            if at > now {
                return;
            }
            self.due.pop();
            (watched.running, watched.began, self.started) = (true, Some(now), now);
            let Target { plan, address, path, .. } = &watched.target;
            let (plan, address, path) = (plan.clone(), *address, path.clone());
            self.running.spawn(async move {
                let answer = match path {
                    Path::Vip(road) => Box::pin(plan.attempt_by(&road)).await,
                    Path::Own | Path::Astray => plan.attempt(address).await,
                };
                Done { id, turn, took: now.elapsed(), answer }
            });
        }
    }

    fn finish(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(done) => self.take(done),
            // A panic is a bug of ours: let it end the daemon as it would on any other thread.
            Err(error) => {
                if error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }

    /// Takes an outcome: the one place that all of them go through.
    fn take(&mut self, done: Done) {
        let Done { id, turn, took, answer } = done;
        // Of a backend that is gone, or is asked otherwise by now.
        let Some(watched) = self.watched.get_mut(&id).filter(|watched| watched.turn == turn) else { return };
        let probe = &watched.target.plan.probe;
        match answer {
            Ok(answer) => {
                self.board.feed(id, answer.outcome);
                if let Some(change) = watched.tracker.observe(probe, answer.outcome, unix_ms()) {
                    let Target { address, vip, backend, .. } = watched.target.clone();
                    let evidence = evidence(&watched.target, &change, &answer.detail);
                    self.changes.push(Changed { id, vip, backend, address, change, evidence });
                }
            }
            Err(error) => complain(&mut self.complained, &watched.target, &error),
        }
        let took_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let Wait { mut ms, mut spread_ms, mut regular } = watched.tracker.wait(probe, took_ms);
        if watched.again {
            (ms, spread_ms, regular) = (probe.doubt_interval_ms(), 0, false);
        } else if !watched.placed && watched.tracker.health() != Health::Unknown {
            // Backends that came together are spread over the whole interval from here on.
            spread_ms = ms;
        }
        (watched.again, watched.placed) = (false, watched.tracker.health() != Health::Unknown);
        watched.pressing = !regular;
        let wait = Duration::from_millis(ms.into()) - self.chance_of(spread_ms);
        self.put(id, Instant::now() + wait);
    }

    /// A random part of a time.
    fn chance_of(&self, ms: u32) -> Duration {
        let mut hasher = self.chance.build_hasher();
        hasher.write_u64(self.turns);
        Duration::from_millis(ms.into()).mul_f64(hasher.finish() as f64 / u64::MAX as f64)
    }

    fn publish_due(&mut self) {
        let now = Instant::now();
        if !self.changes.is_empty() && now >= self.publish_at {
            self.board.publish(std::mem::take(&mut self.changes));
            self.publish_at = now + PUBLISH_PAUSE;
        }
    }
}

fn evidence(target: &Target, change: &Transition, detail: &str) -> String {
    let probe = &target.plan.probe;
    let enough = if change.to == Health::Up { probe.rise } else { probe.fall };
    let counted = match change {
        // The first answer of a backend that nothing is known of is enough.
        Transition { from: Health::Unknown, to: Health::Up, .. } => {
            "the first probe that was answered".to_owned()
        }
        _ if enough == 1 => "1 probe".to_owned(),
        _ => format!("{enough} probes in a row"),
    };
    let path = match target.path {
        Path::Own => "",
        Path::Vip(_) => ", by the vip's path",
        Path::Astray => ", not by the vip's path: no address to ask from (LB5033)",
    };
    if detail.is_empty() { format!("{counted}{path}") } else { format!("{detail}; {counted}{path}") }
}

/// When to look again, of when the first attempt of all is due, and of those that wait for no others, and of when others were
/// last started.
fn wakes_at(first: Option<Instant>, pressing: Option<Instant>, started: Instant) -> Option<Instant> {
    let together = first.map(|first| first.max(started + TOGETHER));
    together.into_iter().chain(pressing).min()
}

/// Says now and then that attempts could not be made.
fn complain(last: &mut Option<Instant>, target: &Target, error: &io::Error) {
    let now = Instant::now();
    if last.is_none_or(|last| now >= last + COMPLAINT_PAUSE) {
        *last = Some(now);
        tracing::warn!(%error, backend = %target.address, "could not probe; this says nothing of the backend");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_attempts_wait_for_each_other_and_one_in_doubt_for_none() {
        let started = Instant::now();
        let at = |ms: u64| Some(started + Duration::from_millis(ms));
        assert_eq!(wakes_at(at(1), None, started), Some(started + TOGETHER));
        assert_eq!(wakes_at(at(50), None, started), at(50));
        assert_eq!(wakes_at(at(1), at(3), started), at(3), "behind a regular one that is due before");
        assert_eq!(wakes_at(at(3), at(3), started), at(3));
        assert_eq!(wakes_at(None, None, started), None);
    }
}
