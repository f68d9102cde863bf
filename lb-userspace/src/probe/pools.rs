//! Which tenant's pool probes which backends, and how large each pool is. Follows the published states.
//!
//! A pool is a bulkhead: it has a thread, timers and places of its own. What pools have in common is the process's
//! descriptors, so no pool gets more places than its share of them ([`Size`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::ids::BackendId;
use lb_control::state::{State, Tenant};
use lb_control::tenant::Limit;
use lb_control::vip::Vip;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};

use super::board::Board;
use super::plan::Plan;
use super::pool::{Pool, Target, Wanted};
use super::tls::Roots;
use crate::engine::Published;
use crate::vital;

/// Descriptors that are left to everything else: journal, maps, netlink, the API's connections.
const RESERVED_DESCRIPTORS: usize = 1_024;
/// Backends of one tenant that may wait to be asked at once out of turn.
const URGENT: usize = 1_024;
/// Places that a pool has at least.
const WORKERS_MIN: usize = 8;

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

    /// Attempts of one tenant under way at once, if so many tenants have pools: the one place that decides it. `limit`: the
    /// tenant's own, if it has one.
    fn workers(self, limit: Option<u64>, pools: usize) -> usize {
        let share = self.descriptors / pools.max(1);
        let places = self.concurrency.min(share.max(WORKERS_MIN));
        limit.map_or(places, |limit| places.min(usize::try_from(limit).unwrap_or(usize::MAX)))
    }
}

/// The pools.
pub(super) struct Pools {
    board: Arc<Board>,
    size: Size,
    roots: Roots,
    vips: BTreeMap<String, Probed>,
    pools: BTreeMap<String, Handle>,
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

impl Pools {
    pub(super) fn new(board: Arc<Board>, size: Size) -> Self {
        let (roots, vips, pools, tenants) = Default::default();
        Self { board, size, roots, vips, pools, tenants }
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
        let mut pools = self.pools.values();
        if let Some(pool) = pools.find(|pool| pool.wanted.borrow().targets.contains_key(&id)) {
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
        for tenant in &touched {
            let targets = self.targets(tenant);
            if targets.is_empty() {
                self.pools.remove(tenant);
                continue;
            }
            let pool = self.pools.entry(tenant.clone()).or_insert_with(|| start_pool(tenant, &self.board));
            pool.wanted.send_modify(|wanted| wanted.targets = Arc::new(targets));
        }
        let count = self.pools.len();
        for (tenant, pool) in &self.pools {
            let limit = self.tenants.get(tenant).and_then(|tenant| tenant.limits.of(Limit::ProbeWorkers));
            let workers = self.size.workers(limit, count);
            pool.wanted.send_if_modified(|wanted| std::mem::replace(&mut wanted.workers, workers) != workers);
        }
        let probed = |pool: &Handle| pool.wanted.borrow().targets.keys().copied().collect::<Vec<_>>();
        let all: BTreeSet<BackendId> = self.pools.values().flat_map(probed).collect();
        self.board.keep(|id| all.contains(&id));
    }

    /// Makes plans for what is new; the tenants whose vips or backends changed.
    fn look_at(&mut self, state: &State) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        self.vips.retain(|name, probed| {
            let stays = state.vips.contains_key(name);
            if !stays {
                touched.insert(probed.vip.tenant.clone());
            }
            stays
        });
        for (name, vip) in &state.vips {
            let known = self.vips.get(name);
            if known.is_some_and(|known| Arc::ptr_eq(&known.vip, vip)) {
                continue;
            }
            let same = known.filter(|known| known.vip.settings.probe == vip.settings.probe);
            let plan = match same {
                Some(known) => known.plan.clone(),
                None => Plan::new(&vip.settings.probe, &self.roots).map(Arc::new),
            };
            // A vip that was removed and made anew between two looks may have another tenant.
            touched.extend(known.map(|known| known.vip.tenant.clone()));
            touched.insert(vip.tenant.clone());
            self.vips.insert(name.clone(), Probed { vip: vip.clone(), plan });
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
                    plan: plan.clone(),
                    vip: vip_name.clone(),
                    backend: own.as_str().into(),
                };
                targets.insert(backend.id, target);
            }
        }
        targets
    }
}

fn start_pool(tenant: &str, board: &Arc<Board>) -> Handle {
    let (wanted, wants) = watch::channel(Wanted::default());
    let (urgent, urgents) = mpsc::channel(URGENT);
    let pool = Pool::new(board.clone());
    vital::spawn_async(&format!("probe-{tenant}"), pool.run(wants, urgents));
    Handle { wanted, urgent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::decide::{Now, decide};
    use lb_control::limits::Limits;

    #[test]
    fn many_pools_share_the_descriptors_and_each_can_work() {
        let size = Size { concurrency: 1_024, descriptors: 4_096 };
        assert_eq!(
            [0, 1, 4, 8, 10_000].map(|pools| size.workers(None, pools)),
            [1_024, 1_024, 1_024, 512, 8]
        );
        let limited = [(Some(1), 1), (Some(600), 1), (Some(600), 8), (Some(5), 10_000)];
        assert_eq!(limited.map(|(limit, pools)| size.workers(limit, pools)), [1, 600, 512, 5]);
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
        let mut pools = Pools::new(Arc::new(board), Size { concurrency: 64, descriptors: 4_096 });
        after(r#"{"kind":"vip_add","name":"web","address":"203.0.113.10","port":80,"mode":"l2"}"#);
        let begun = after(r#"{"kind":"backend_add","vip":"web","name":"b1","address":"192.0.2.1"}"#);
        let limited = after(r#"{"kind":"tenant_set","name":"default","probe_workers":3}"#);
        let freed = after(r#"{"kind":"tenant_set","name":"default","probe_workers":null}"#);
        for (state, places) in [(begun, 64), (limited, 3), (freed, 64)] {
            pools.follow(&state);
            assert_eq!(pools.pools["default"].wanted.borrow().workers, places);
        }
    }
}
