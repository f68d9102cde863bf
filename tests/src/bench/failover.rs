//! What a backend that fails costs: one of four is killed, hung, made to answer 500, or made deaf, under requests that
//! open a connection each. How many requests failed, when the last of them began, and how long until it serves again.
//!
//! Two loads at once: `wrk`, for the pressure, and one of our own that remembers every failure and gives up after
//! [`TIMEOUT`], so that there is always somebody who tries. All settings of the probe are the defaults but one: it is
//! of kind `http`, since the kernel of a process that hangs answers for it. Of the breaker's, the slow start alone is
//! shorter, because every case begins when it is over: one that fails while it is tried costs next to nothing.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lb_control::health::Health;
use lb_control::vip::Mode;
use lb_userspace::api::views::BackendView;
use serde::Serialize;

use super::{Effort, median};
use crate::site::{Family, Served, Site};
use crate::topology::{Layout, Topology, vip};
use crate::traffic::probed::{HTTP_PORT, Probed};
use crate::traffic::{HttpLoad, HttpReport, Reuse, RunningHttpLoad, Wrk};
use crate::wait::wait_until;

/// Backends of the vip.
pub const BACKENDS: usize = 4;
/// The one that fails.
const VICTIM: usize = 1;
/// Name of the vip.
const VIP: &str = "shop";
/// How long a request may take: many times what one takes here.
const TIMEOUT: Duration = Duration::from_millis(250);
const WORKERS: usize = 32;
const WRK_CONNECTIONS: usize = 8;
/// How long the load runs on after the backend was taken out.
const AFTER: Duration = Duration::from_millis(700);
const DEADLINE: Duration = Duration::from_secs(15);
/// Longest wait for whole shares: a trial and a slow start on a busy machine.
const WHOLE: Duration = Duration::from_secs(30);
/// From one look at the answers of the others to the next.
const LOOK: Duration = Duration::from_millis(5);

/// How a backend fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// SIGKILL: its kernel refuses.
    Kill,
    /// SIGSTOP: its kernel takes connections, nobody answers.
    Hang,
    /// It answers 500.
    Error,
    /// Whatever comes in is dropped.
    Blackhole,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Hang, Self::Error, Self::Blackhole];
}

/// What one failure cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were answered, meanwhile and for a while after.
    pub answered: u64,
    /// From the failure to when the last request that failed began, milliseconds; 0 if none did.
    pub last_failure_ms: f64,
    /// The longest time without an answer of the other backends, milliseconds.
    pub others_stall_ms: f64,
    /// From its mending to its first answer, milliseconds.
    pub recovery_ms: f64,
}

/// Medians and the worst of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Failover {
    /// How it failed.
    pub case: Case,
    /// Median over the rounds of each number.
    pub median: Cost,
    /// The latest last failure of a round, milliseconds.
    pub worst_ms: f64,
    /// The rounds.
    pub rounds: Vec<Cost>,
}

/// Measures every case.
///
/// # Errors
/// When a network cannot be made, or a backend is not taken out or back in time.
pub fn run(effort: Effort) -> Result<Vec<Failover>> {
    let mut stand = Stand::open()?;
    let of_case = |case| {
        let rounds = (0..effort.failover_rounds()).map(|_| stand.fail(case)).collect::<Result<Vec<_>>>();
        Ok(summary(case, rounds.with_context(|| format!("{case:?}"))?))
    };
    Case::ALL.into_iter().map(of_case).collect()
}

/// The keys of the last line.
pub fn keys(all: &[Failover]) -> Vec<(&'static str, Option<f64>)> {
    let last = |case| all.iter().find(|one| one.case == case).map(|one| one.median.last_failure_ms);
    vec![
        ("failover_kill_ms", last(Case::Kill)),
        ("failover_hang_ms", last(Case::Hang)),
        ("failover_error_ms", last(Case::Error)),
        ("failover_blackhole_ms", last(Case::Blackhole)),
    ]
}

fn summary(case: Case, rounds: Vec<Cost>) -> Failover {
    let of = |value: fn(&Cost) -> f64| median(&mut rounds.iter().map(value).collect::<Vec<_>>());
    let median = Cost {
        failed: of(|cost| cost.failed as f64) as u64,
        answered: of(|cost| cost.answered as f64) as u64,
        last_failure_ms: of(|cost| cost.last_failure_ms),
        others_stall_ms: of(|cost| cost.others_stall_ms),
        recovery_ms: of(|cost| cost.recovery_ms),
    };
    let worst_ms = rounds.iter().map(|cost| cost.last_failure_ms).fold(0.0, f64::max);
    Failover { case, median, worst_ms, rounds }
}

/// A site with four backends that can fail.
pub struct Stand {
    probed: BTreeMap<usize, Probed>,
    site: Site,
}

impl Stand {
    /// Builds it, and returns when all backends serve.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn open() -> Result<Self> {
        let topology = Topology::builder().layout(Layout::Direct).backends(BACKENDS);
        let site =
            Site::builder(topology, Mode::L2).families(&[Family::V4]).kinds(&[Served::Echo]).start()?;
        let mut probed = BTreeMap::new();
        for (index, backend) in site.net.backends().iter().enumerate() {
            probed.insert(index, Probed::start(&backend.ns, backend.name(), site.net.dir())?);
        }
        site.lb.lb(&format!("vip add {VIP} {}:{HTTP_PORT}/tcp --mode l2 --probe http --breaker-slow-start-s 1", vip(0).v4))?;
        for backend in site.net.backends() {
            site.lb.lb(&format!("backend add {VIP}/{} {}", backend.name(), backend.addresses().v4))?;
        }
        let stand = Self { probed, site };
        stand.site.wait_serving()?;
        Ok(stand)
    }

    /// Has one fail and mends it.
    ///
    /// # Errors
    /// When it is not taken out or back in time.
    pub fn fail(&mut self, case: Case) -> Result<Cost> {
        self.wait_whole()?;
        let (target, client) = (self.site.net.vip4(HTTP_PORT), self.site.client());
        let load = HttpLoad::new(target).workers(WORKERS).reuse(Reuse::PerRequest).timeout(TIMEOUT);
        let load = load.start(client)?;
        wait_until("load on all", DEADLINE, || load.snapshot().per_backend.len() == BACKENDS)?;
        let before = load.snapshot();
        ensure!(before.requests_failed == 0, "requests failed before: {:?}", before.failures.first());
        let wrk = Wrk::new(target).connections(WRK_CONNECTIONS).reuse(Reuse::PerRequest);
        let pressing = {
            let wrk = wrk.duration(Duration::from_secs(2));
            let namespace = self.site.client();
            thread::scope(|scope| {
                let pressing = scope.spawn(move || wrk.run(namespace));
                let seen = Self::break_and_watch(&self.site, &mut self.probed, &load, case);
                (pressing.join(), seen)
            })
        };
        let (began, others_stall) = pressing.1?;
        // Hung, its connections never end, which wrk may find to be no result at all: it is there for the pressure.
        drop(pressing.0.map_err(|_| anyhow!("a panic in wrk"))?);
        let mended = Instant::now();
        let served = load.snapshot().per_backend.get(&victim()).copied().unwrap_or_default();
        self.mend(case)?;
        let again = || load.snapshot().per_backend.get(&victim()).is_some_and(|now| *now > served);
        wait_until("an answer of it", DEADLINE, again)?;
        let recovery = mended.elapsed();
        let report = load.finish()?;
        Ok(cost(&before, &report, began, others_stall, recovery))
    }

    /// Waits until each has its share, whatever failed before; what its breaker remembers of it is forgotten.
    fn wait_whole(&self) -> Result<()> {
        self.site.lb.lb(&format!("breaker reset {VIP}/{}", victim()))?;
        let whole = |one: &BackendView| {
            one.breaker.as_deref() == Some("closed") && one.share * BACKENDS as f64 > 0.95
        };
        wait_until("whole shares", WHOLE, || {
            self.site.backends().is_ok_and(|all| all.iter().filter(|one| one.vip == VIP).all(whole))
        })?;
        Ok(())
    }

    /// Breaks it; returns when, and the longest time without an answer of the others until it was out for a while.
    fn break_and_watch(
        site: &Site,
        probed: &mut BTreeMap<usize, Probed>,
        load: &RunningHttpLoad,
        case: Case,
    ) -> Result<(Instant, Duration)> {
        let began = Instant::now();
        match case {
            Case::Kill => drop(probed.remove(&VICTIM)),
            Case::Hang => probed.get_mut(&VICTIM).context("it runs")?.pause()?,
            Case::Error => probed.get(&VICTIM).context("it runs")?.answer_500(true)?,
            Case::Blackhole => site.net.backends()[VICTIM].cut()?,
        }
        let others = || {
            let seen = load.snapshot().per_backend;
            seen.iter().filter(|(name, _)| **name != victim()).map(|(_, count)| count).sum::<u64>()
        };
        let (mut answered, mut at, mut stall) = (others(), began, Duration::ZERO);
        let mut out = None;
        while out.is_none_or(|out: Instant| out.elapsed() < AFTER) {
            ensure!(began.elapsed() < DEADLINE, "it was not taken out");
            thread::sleep(LOOK);
            let now = others();
            if now > answered {
                (answered, at) = (now, Instant::now());
            }
            stall = stall.max(at.elapsed());
            // A question to the daemon costs it time that it needs now: one every so often.
            if out.is_none() && began.elapsed().as_millis() % 100 < 10 && is_down(site)? {
                out = Some(Instant::now());
            }
        }
        Ok((began, stall))
    }

    fn mend(&mut self, case: Case) -> Result<()> {
        match case {
            Case::Kill => {
                let backend = &self.site.net.backends()[VICTIM];
                let again = Probed::start(&backend.ns, backend.name(), self.site.net.dir())?;
                self.probed.insert(VICTIM, again);
                Ok(())
            }
            Case::Hang => self.probed.get_mut(&VICTIM).context("it runs")?.resume(),
            Case::Error => self.probed.get(&VICTIM).context("it runs")?.answer_500(false),
            Case::Blackhole => self.site.net.backends()[VICTIM].mend(),
        }
    }
}

fn victim() -> String {
    format!("b{VICTIM}")
}

fn is_down(site: &Site) -> Result<bool> {
    Ok(site.backend(VIP, &victim())?.health == Health::Down)
}

fn cost(
    before: &HttpReport,
    after: &HttpReport,
    began: Instant,
    stall: Duration,
    recovery: Duration,
) -> Cost {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let last = after.failures.iter().map(|failure| failure.began.saturating_duration_since(began)).max();
    Cost {
        failed: after.requests_failed - before.requests_failed,
        answered: after.requests_ok - before.requests_ok,
        last_failure_ms: last.map_or(0.0, ms),
        others_stall_ms: ms(stall),
        recovery_ms: ms(recovery),
    }
}
