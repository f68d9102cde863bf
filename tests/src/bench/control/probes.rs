//! What probing costs: 10,000 backends by TCP every two seconds, on loopback addresses that one listener answers for.
//!
//! Counted is the time on a CPU of the threads that probe. The kernel's part of both ends of a connection on loopback is
//! in it, so it is too much rather than too little.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::ids::{BackendId, VipId};
use lb_control::event::{Change, EVENT_VERSION, Event};
use lb_control::health::{Health, Outcome};
use lb_control::probe::{Probe, ProbeKind};
use lb_control::state::State;
use lb_control::vip::{Mode, Protocol, Served, VipSettings};
use lb_userspace::probe;
use serde::Serialize;
use tokio::sync::watch;

use crate::bench::Effort;
use crate::wait::wait_until;

const BACKENDS: u32 = 10_000;
const INTERVAL: Duration = Duration::from_secs(2);
/// Until all are up, on a machine that is busy.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct ProbeReport {
    /// Time on a CPU of the threads that probe, over the time that passed: 1 is one CPU.
    pub probe_cpu_share: f64,
    /// Probes a second that were answered.
    pub probes_per_s: f64,
    /// Time on a CPU for one probe, microseconds.
    pub probe_us: f64,
}

/// Measures it.
pub(super) fn run(effort: Effort) -> Result<ProbeReport> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listen")?;
    let port = listener.local_addr().context("the listener's address")?.port();
    let answered = Arc::new(AtomicU64::new(0));
    let counting = answered.clone();
    let feed = Arc::new(move |_, outcome| {
        counting.fetch_add(u64::from(outcome == Outcome::Success), Ordering::Relaxed);
    });
    let (_states, follow) = watch::channel(state(port));
    let probes = probe::start(follow, BTreeMap::new(), probe::CONCURRENCY, Arc::new(|_| ()), feed, None);
    let up = || probes.seen.borrow().values().filter(|seen| seen.health == Health::Up).count();
    wait_until("every backend up", START_DEADLINE, || up() == BACKENDS as usize)?;
    // By then they are spread over the interval.
    std::thread::sleep(INTERVAL);
    let (cpu, arrived, began) = (on_cpu()?, answered.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(effort.probing());
    let time = began.elapsed();
    let (cpu, arrived) = (on_cpu()? - cpu, answered.load(Ordering::Relaxed) - arrived);
    ensure!(up() == BACKENDS as usize, "backends on loopback went down");
    let wanted = f64::from(BACKENDS) * time.as_secs_f64() / INTERVAL.as_secs_f64();
    ensure!(arrived as f64 > wanted * 0.95, "{arrived} probes instead of {wanted:.0}");
    Ok(ProbeReport {
        probe_cpu_share: cpu.as_secs_f64() / time.as_secs_f64(),
        probes_per_s: arrived as f64 / time.as_secs_f64(),
        probe_us: cpu.as_secs_f64() * 1e6 / arrived as f64,
    })
}

fn state(port: u16) -> Arc<State> {
    let served = Served { address: [203, 0, 113, 1].into(), port: 80, protocol: Protocol::Tcp };
    let mut settings = VipSettings::defaults(Protocol::Tcp, 80, Mode::Nat);
    let interval_ms = INTERVAL.as_millis() as u32;
    settings.probe = Probe { interval_ms, timeout_ms: interval_ms / 2, ..Probe::of_kind(ProbeKind::Tcp) };
    let (vip, tenant) = ("many".to_owned(), "default".to_owned());
    let first = Change::VipAdded { id: VipId(1), vip, tenant, served, settings: Box::new(settings) };
    let backend = |number: u32| Change::BackendAdded {
        id: BackendId(number),
        vip: "many".to_owned(),
        backend: format!("b{number}"),
        address: [127, 1, (number / 250) as u8, (number % 250) as u8 + 1].into(),
        port,
        weight: 100,
        intent: Default::default(),
        backup: false,
    };
    let changes = std::iter::once(first).chain((1..=BACKENDS).map(backend));
    let events: Vec<_> = changes.map(|change| Event { v: EVENT_VERSION, at_ms: 0, change }).collect();
    Arc::new(State::replay(&events))
}

/// Time on a CPU of the threads that probe, so far.
fn on_cpu() -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir("/proc/self/task").context("list the threads")? {
        let thread = thread.context("list the threads")?.path();
        let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        if read("comm").starts_with("probe") {
            let first = read("schedstat").split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
            sum += first.context("schedstat has the time on a CPU first")?;
        }
    }
    Ok(Duration::from_nanos(sum))
}
