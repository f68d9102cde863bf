//! Which tenant's pool probes which backends, and how large each pool is. Follows the published states.
//!
//! A pool is a bulkhead: it has a thread, timers and places of its own. What pools have in common is the process's
//! descriptors, so no pool gets more places than its share of them, and there are no more pools than can work ([`Size`]).
//! Tenants beyond that share one, and so do those for whom none can be started: they are probed, without a bulkhead
//! between them and without their own limits, until there is a pool for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::ids::BackendId;
use lb_control::backend::Backend;
use lb_control::probe::Via;
use lb_control::state::{State, Tenant};
use lb_control::tenant::Limit;
use lb_control::vip::Vip;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};

use super::board::Board;
use super::plan::Plan;
use super::pool::{Path, Pool, Target, Wanted};
use super::tls::Roots;
use super::via::{Road, Station};
use crate::engine::Published;
use crate::vital;

/// Descriptors that are left to everything else: journal, maps, netlink, the API's connections.
const RESERVED_DESCRIPTORS: usize = 1_024;
/// Backends of one tenant that may wait to be asked at once out of turn.
const URGENT: usize = 1_024;
/// Places that a pool has at least.
const WORKERS_MIN: usize = 8;
/// Descriptors that a pool's runtime takes.
const RUNTIME_DESCRIPTORS: usize = 4;
/// Pools at most: each is a thread, and systems commonly let a process have some 4,900.
const POOLS_MAX: usize = 1_024;

/// Sockets of each family that rest in a pool between attempts, at most: those that end in one moment and are needed in the next.
const RESTING_MAX: usize = 32;

/// How large pools may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Attempts of one tenant under way at once, as it is set.
    concurrency: usize,
    /// Descriptors for the attempts of all.
    descriptors: usize,
}

impl Size {
    /// Takes as many descriptors as the process may have: an attempt needs one.
    pub(super) fn new(concurrency: usize) -> Self {
        let descriptors = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((_, hard)) if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
            Ok((soft, _)) => soft,
            Err(_) => 0,
        };
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        Self { concurrency, descriptors: descriptors.saturating_sub(RESERVED_DESCRIPTORS) }
    }

    /// Tenants that can have a pool of their own.
    fn pools(self) -> usize {
        POOLS_MAX.min(self.descriptors / (WORKERS_MIN + RUNTIME_DESCRIPTORS))
    }

    /// Attempts of one tenant under way at once, if so many tenants have pools: the one place that decides it. `limit`: the
    /// tenant's own, if it has one.
    fn workers(self, limit: Option<u64>, pools: usize) -> usize {
        let share = self.descriptors / pools.max(1);
        // An eighth is for sockets that rest: of two families, a sixteenth of the places each.
        let places = self.concurrency.min((share - share / 8).max(WORKERS_MIN));
        limit.map_or(places, |limit| places.min(usize::try_from(limit).unwrap_or(usize::MAX)))
    }
}

/// The pools.
pub(super) struct Pools {
    board: Arc<Board>,
    size: Size,
    station: Option<Arc<Station>>,
    roots: Roots,
    /// The state that it looked at last.
    followed: State,
    vips: BTreeMap<String, Probed>,
    pools: BTreeMap<String, Handle>,
    /// The pool of tenants without one. There from the start: when it is needed, it could not be had.
    shared: Handle,
    /// Whom it probes, by tenant.
    sharing: BTreeMap<String, BTreeMap<BackendId, Target>>,
    start: StartPool,
    /// How many share a pool, as the daemon's own log says.
    said: usize,
    /// The tenants as they were last looked at: their limits say how large pools are.
    tenants: Arc<BTreeMap<String, Tenant>>,
}

/// A vip as it was last looked at.
struct Probed {
    vip: Arc<Vip>,
    /// `None`: it has no probe.
    plan: Option<Arc<Plan>>,
}

/// A pool that runs; it ends when this is dropped.
struct Handle {
    wanted: watch::Sender<Wanted>,
    urgent: mpsc::Sender<BackendId>,
}

/// Starts a pool with a name.
type StartPool = fn(&str, &Arc<Board>) -> io::Result<Handle>;

impl Handle {
    fn probes(&self, id: BackendId) -> bool {
        self.wanted.borrow().targets.contains_key(&id)
    }

    fn take(&self, targets: BTreeMap<BackendId, Target>) {
        self.wanted.send_modify(|wanted| wanted.targets = Arc::new(targets));
    }

    fn resize(&self, workers: usize, resting: usize) {
        self.wanted.send_if_modified(|wanted| {
            let old = (wanted.workers, wanted.resting);
            (wanted.workers, wanted.resting) = (workers, resting);
            old != (workers, resting)
        });
    }
}

impl Pools {
    pub(super) fn new(board: Arc<Board>, size: Size, station: Option<Arc<Station>>) -> Self {
        let shared = start_pool("shared", &board).expect("a daemon that starts can have a pool");
        let (roots, followed, vips, pools, sharing, tenants) = Default::default();
        Self {
            board,
            size,
            station,
            roots,
            followed,
            vips,
            pools,
            shared,
            sharing,
            start: start_pool,
            said: 0,
            tenants,
        }
    }

    /// Follows the states until they end. `urgent`: backends to be asked now.
    pub(super) async fn run(
        mut self,
        mut states: watch::Receiver<Published>,
        mut urgent: mpsc::Receiver<BackendId>,
    ) {
        let first = states.borrow_and_update().clone();
        self.follow(&first);
        loop {
            tokio::select! {
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let state = states.borrow_and_update().clone();
                    self.follow(&state);
                }
                Some(id) = urgent.recv() => self.hasten(id),
            }
        }
    }

    fn hasten(&self, id: BackendId) {
        let mut pools = self.pools.values().chain([&self.shared]);
        if let Some(pool) = pools.find(|pool| pool.probes(id)) {
            // One that is full has more urgent work than it can do; each waits for its turn then.
            let _ = pool.urgent.try_send(id);
        }
    }

    /// Tells the pools what is new; those whose vips are as they were are left alone.
    fn follow(&mut self, state: &State) {
        let touched = self.look_at(state);
        if touched.is_empty() && Arc::ptr_eq(&self.tenants, &state.tenants) {
            return;
        }
        self.tenants = state.tenants.clone();
        let mut shared = false;
        for tenant in touched {
            let targets = self.targets(&tenant);
            if targets.is_empty() {
                self.pools.remove(&tenant);
                shared |= self.sharing.remove(&tenant).is_some();
            } else if let Some(pool) = self.pools.get(&tenant) {
                pool.take(targets);
            } else {
                self.sharing.insert(tenant, targets);
                shared = true;
            }
        }
        let before = self.sharing.len();
        self.give_pools();
        if shared || self.sharing.len() != before {
            self.shared
                .take(self.sharing.values().flatten().map(|(id, target)| (*id, target.clone())).collect());
        }
        self.resize();
        let probed = |pool: &Handle| pool.wanted.borrow().targets.keys().copied().collect::<Vec<_>>();
        let all: BTreeSet<BackendId> = self.pools.values().chain([&self.shared]).flat_map(probed).collect();
        self.board.keep(|id| all.contains(&id));
    }

    /// Gives tenants without a pool one of their own, as long as there are some to have.
    fn give_pools(&mut self) {
        let (most, mut refused) = (self.size.pools(), None);
        while self.pools.len() < most
            && let Some((tenant, _)) = self.sharing.first_key_value()
        {
            match (self.start)(tenant, &self.board) {
                Ok(pool) => {
                    let Some((tenant, targets)) = self.sharing.pop_first() else { return };
                    pool.take(targets);
                    self.pools.insert(tenant, pool);
                }
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let (sharing, own) = (self.sharing.len(), self.pools.len());
        if sharing > 0 && sharing != self.said {
            tracing::warn!(
                sharing,
                own,
                ?refused,
                "more tenants are probed than have a pool: the rest share one"
            );
        }
        self.said = sharing;
    }

    /// Tells each pool how many attempts it may have under way.
    fn resize(&self) {
        let count = self.pools.len() + usize::from(!self.sharing.is_empty());
        for (tenant, pool) in &self.pools {
            let limit = self.tenants.get(tenant).and_then(|tenant| tenant.limits.of(Limit::ProbeWorkers));
            let workers = self.size.workers(limit, count);
            pool.resize(workers, RESTING_MAX.min(workers / 16));
        }
        // What rests knows of whom it asked: several tenants share nothing of that.
        self.shared.resize(self.size.workers(None, count), 0);
    }

    /// Makes plans for what is new; the tenants whose targets changed.
    fn look_at(&mut self, state: &State) -> BTreeSet<String> {
        let followed = std::mem::replace(&mut self.followed, state.clone());
        let mut touched = BTreeSet::new();
        for name in followed.vips_unlike(state) {
            let known = self.vips.remove(name);
            let is = state.vips.get(name);
            if known.as_ref().zip(is).is_none_or(|(known, vip)| !same_targets(&known.vip, vip)) {
                // A vip that was removed and made anew between two looks may have another tenant.
                touched.extend(known.as_ref().map(|known| known.vip.tenant.clone()));
                touched.extend(is.map(|vip| vip.tenant.clone()));
            }
            let Some(vip) = is else { continue };
            let same = known.filter(|known| known.vip.settings.probe == vip.settings.probe);
            let plan = match same {
                Some(known) => known.plan,
                None => Plan::new(&vip.settings.probe, &self.roots).map(Arc::new),
            };
            self.vips.insert(name.to_owned(), Probed { vip: vip.clone(), plan });
        }
        touched
    }

    /// Whom a tenant's pool probes.
    fn targets(&self, tenant: &str) -> BTreeMap<BackendId, Target> {
        let mut targets = BTreeMap::new();
        for (name, Probed { vip, plan }) in self.vips.iter().filter(|(_, probed)| probed.vip.tenant == tenant)
        {
            let Some(plan) = plan else { continue };
            let vip_name: Arc<str> = name.as_str().into();
            for (own, backend) in &vip.backends {
                let port = plan.probe.port.unwrap_or(backend.port);
                let target = Target {
                    address: (backend.address, port).into(),
                    path: self.path(vip, backend, port),
                    plan: plan.clone(),
                    vip: vip_name.clone(),
                    backend: own.as_str().into(),
                };
                targets.insert(backend.id, target);
            }
        }
        targets
    }

    /// By which path a backend of a vip is asked at a port.
    fn path(&self, vip: &Vip, backend: &Backend, port: u16) -> Path {
        let Via::Vip = vip.settings.probe.via else { return Path::Own };
        let (to, mode) = ((vip.served.address, port).into(), vip.settings.mode);
        let road =
            self.station.as_ref().and_then(|own| Road::new(own, to, backend.id, backend.address, mode));
        road.map_or(Path::Astray, Path::Vip)
    }
}

/// Whether the same backends are to be asked in the same way: weights, intents and much else are nothing to a probe.
fn same_targets(one: &Vip, other: &Vip) -> bool {
    fn asked<'b>((name, backend): (&'b String, &'b Backend)) -> (&'b str, BackendId, IpAddr, u16) {
        (name, backend.id, backend.address, backend.port)
    }
    one.tenant == other.tenant
        && (one.served, one.settings.mode) == (other.served, other.settings.mode)
        && one.settings.probe == other.settings.probe
        && one.backends.iter().map(asked).eq(other.backends.iter().map(asked))
}

fn start_pool(name: &str, board: &Arc<Board>) -> io::Result<Handle> {
    let (wanted, wants) = watch::channel(Wanted::default());
    let (urgent, urgents) = mpsc::channel(URGENT);
    let pool = Pool::new(board.clone());
    vital::try_spawn_async(&format!("probe-{name}"), pool.run(wants, urgents))?;
    Ok(Handle { wanted, urgent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::decide::{Now, decide};
    use lb_control::limits::Limits;

    #[test]
    fn many_pools_share_the_descriptors_and_each_can_work() {
        let size = Size { concurrency: 1_024, descriptors: 4_096 };
        assert_eq!([0, 1, 4, 8, 10_000].map(|pools| size.workers(None, pools)), [1_024, 1_024, 896, 448, 8]);
        let limited = [(Some(1), 1), (Some(600), 1), (Some(600), 8), (Some(5), 10_000)];
        assert_eq!(limited.map(|(limit, pools)| size.workers(limit, pools)), [1, 600, 448, 5]);
    }

    #[tokio::test]
    async fn a_tenants_limit_on_probes_is_its_pools_size_and_changes_live() {
        let mut state = State::default();
        let mut after = |text: &str| {
            let command = serde_json::from_str(text).unwrap();
            let events = decide(&state, &Limits::default(), Now(0), &command).unwrap();
            events.iter().for_each(|event| state.apply(event));
            state.clone()
        };
        let (board, _seen) = Board::new(BTreeMap::new(), Arc::new(|_| ()), Arc::new(|_, _| ()));
        let mut pools = Pools::new(Arc::new(board), Size { concurrency: 64, descriptors: 4_096 }, None);
        after(r#"{"kind":"vip_add","name":"web","address":"203.0.113.10","port":80,"mode":"l2"}"#);
        let begun = after(r#"{"kind":"backend_add","vip":"web","name":"b1","address":"192.0.2.1"}"#);
        let limited = after(r#"{"kind":"tenant_set","name":"default","probe_workers":3}"#);
        let freed = after(r#"{"kind":"tenant_set","name":"default","probe_workers":null}"#);
        for (state, places) in [(begun, 64), (limited, 3), (freed, 64)] {
            pools.follow(&state);
            assert_eq!(pools.pools["default"].wanted.borrow().workers, places);
        }
    }

    /// Tenants `t1`, `t2`, …, each with a vip and a backend.
    fn tenants(count: usize) -> State {
        let mut state = State::default();
        let mut run = |text: String| {
            let command = serde_json::from_str(&text).unwrap();
            let events = decide(&state, &Limits::default(), Now(0), &command).unwrap();
            events.iter().for_each(|event| state.apply(event));
        };
        for n in 1..=count {
            run(format!(r#"{{"kind":"tenant_add","name":"t{n}"}}"#));
            run(format!(
                r#"{{"kind":"vip_add","name":"v{n}","tenant":"t{n}","address":"203.0.113.{n}","port":80,"mode":"l2",
                    "backend":[{{"name":"b","address":"192.0.2.{n}"}}]}}"#
            ));
        }
        state
    }

    fn probed(pools: &Pools) -> (Vec<String>, usize, usize) {
        let own = pools.pools.values().map(|pool| pool.wanted.borrow().targets.len()).sum();
        (pools.pools.keys().cloned().collect(), own, pools.shared.wanted.borrow().targets.len())
    }

    #[tokio::test]
    async fn more_tenants_than_pools_share_one_until_there_is_another() {
        let (board, _seen) = Board::new(BTreeMap::new(), Arc::new(|_| ()), Arc::new(|_, _| ()));
        let descriptors = 3 * (WORKERS_MIN + RUNTIME_DESCRIPTORS);
        let mut pools = Pools::new(Arc::new(board), Size { concurrency: 64, descriptors }, None);
        let mut state = tenants(5);
        pools.follow(&state);
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(probed(&pools), (own(&["t1", "t2", "t3"]), 3, 2));
        assert_eq!(pools.shared.wanted.borrow().workers, 8, "it works, and is one of four");
        let gone =
            serde_json::from_str(r#"{"kind":"vip_remove","name":"v2","allow_disruption":true}"#).unwrap();
        let events = decide(&state, &Limits::default(), Now(0), &gone).unwrap();
        events.iter().for_each(|event| state.apply(event));
        pools.follow(&state);
        assert_eq!(probed(&pools), (own(&["t1", "t3", "t4"]), 3, 1));
    }

    #[tokio::test]
    async fn a_pool_that_cannot_be_started_ends_nothing_and_is_tried_again() {
        let (board, _seen) = Board::new(BTreeMap::new(), Arc::new(|_| ()), Arc::new(|_, _| ()));
        let mut pools = Pools::new(Arc::new(board), Size { concurrency: 64, descriptors: 4_096 }, None);
        pools.start = |_, _| Err(io::Error::from_raw_os_error(nix::libc::EAGAIN));
        pools.follow(&tenants(3));
        assert_eq!(probed(&pools), (Vec::new(), 0, 3), "they are probed all the same");
        pools.start = start_pool;
        pools.follow(&tenants(4));
        assert_eq!((probed(&pools).1, probed(&pools).2), (4, 0));
    }
}
