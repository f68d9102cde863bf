//! Puts the daemon together: locks, journal, data plane, probes, reconciler, socket; and takes it apart in order.
//!
//! Ending leaves everything attached and pinned: packets go on without the daemon, and the next one adopts them.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::limits::NAT_PORTS;
use lb_control::limits::{flow_entries, nat_ports};
use lb_control::plan::{Actual, adopted_breakers, adopted_health};
use lb_control::state::State;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::api::connections::Socket;
use crate::api::rates::CommandRates;
use crate::api::stream::Followers;
use crate::api::{self, Node, public};
use crate::dataplane::kernel::Kernel;
use crate::dataplane::{Capacities, Dataplane, LiveSlots, Options, Origin};
use crate::engine::fold::{self, Folded};
use crate::engine::{Engine, Published, Request};
use crate::journal::lock::{DirectoryLock, LockError};
use crate::journal::log::Limits;
use crate::journal::observation::{self, ObservationJournal};
use crate::journal::{EventStore, FILE_NAME, FileStore, Loaded, LogFiles, StoreError, Verification};
use crate::probe::via::Addresses;
use crate::problem::{Code, Problem};
use crate::reconcile::{self, Inputs, Standing, Ways};
use crate::{breakers, config, neighbour, probe, projection, samples, suspects, vital};

/// For everything that follows the writer to end with it.
const GRACE: Duration = Duration::from_secs(1);

/// How the daemon runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The local socket.
    pub socket: PathBuf,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// Sizes of the journal.
    pub journal: Limits,
    /// Where the data plane is pinned.
    pub pin_dir: PathBuf,
    /// A document for the first start; later starts go by the journal.
    pub first_config: Option<PathBuf>,
    /// Capacities of a new data plane.
    pub capacities: Capacities,
    /// Probes under way at once.
    pub probe_concurrency: usize,
    /// What probes by the vips' own paths are asked from.
    pub probe_addresses: Addresses,
    /// Commands a second of one actor; `None` = as many as the writer takes.
    pub commands_per_s: Option<u32>,
    /// From one comparison of the maps to the next when nothing changes.
    pub resync: Duration,
    /// Where `/readyz`, `/healthz` and `/metrics` are answered over TCP; `None`: nowhere.
    pub health_listen: Option<SocketAddr>,
}

/// Starts to look for the ways to the backends of the published states.
pub type WatchWays = Box<dyn FnOnce(watch::Receiver<Published>) -> std::io::Result<watch::Receiver<Ways>>>;

/// What a daemon starts from.
pub struct Start<S> {
    /// What the journal folds to.
    pub folded: Folded,
    /// The journal.
    pub store: S,
    /// The maps.
    pub dataplane: Arc<dyn Dataplane>,
    /// Who watches routes and neighbours: starts with the published states, gives the ways to their backends.
    pub watch_ways: WatchWays,
    /// Probes under way at once.
    pub probe_concurrency: usize,
    /// What probes by the vips' own paths are asked from.
    pub probe_addresses: Addresses,
    /// Commands a second of one actor; `None` = as many as the writer takes.
    pub commands_per_s: Option<u32>,
    /// From one comparison of the maps to the next when nothing changes.
    pub resync: Duration,
    /// Where observations are kept; `None`: nowhere.
    pub observations: Option<ObservationJournal>,
    /// What a person should know of the start.
    pub notes: Vec<String>,
}

/// Starts everything behind the routes.
///
/// # Errors
/// The maps cannot be read, or hold vips that the journal does not know of at all.
pub fn start<S: EventStore + 'static>(start: Start<S>) -> Result<Arc<Node>, Problem> {
    let actual = start.dataplane.read()?;
    let state = &start.folded.ledger.state;
    refuse_lost_journal(state, &actual)?;
    let adopted = adopted_health(state, &actual);
    let log = start.store.reader();
    let projections = projection::start(log.clone(), start.observations.clone());
    let engine = Engine::start(start.folded, actual.limits, start.store);
    let observations = start.observations;
    let keep = observations.clone();
    let observe: probe::Observe = Arc::new(move |seen| {
        if let Some(journal) = &keep {
            journal.record(seen);
        }
    });
    let breakers = breakers::start(engine.follow(), adopted_breakers(&actual), observe.clone());
    let (concurrency, feed) = (start.probe_concurrency, breakers.feed());
    let ways = (start.watch_ways)(engine.follow());
    let ways =
        ways.map_err(|error| Problem::new(Code::KernelCall, format!("could not open netlink: {error}")))?;
    let station = probe::via::open(start.probe_addresses, ways.clone())?;
    let probes = probe::start(engine.follow(), adopted, concurrency, observe.clone(), feed, station);
    let breakers = breakers.follow();
    let nudge = Arc::new(Notify::new());
    let inputs = Inputs {
        states: engine.follow(),
        health: probes.seen.clone(),
        breakers: breakers.clone(),
        ways: ways.clone(),
        observe,
        nudge: nudge.clone(),
        resync: start.resync,
    };
    let standing = reconcile::start(start.dataplane.clone(), inputs);
    let samples = samples::start(start.dataplane.clone());
    let suspects = suspects::start(start.dataplane.clone(), engine.follow(), probes.now);
    let (dataplane, started, notes) = (start.dataplane, Instant::now(), start.notes);
    Ok(Arc::new(Node {
        engine,
        log,
        projections,
        followers: Followers::default(),
        observations,
        dataplane,
        rates: CommandRates::new(start.commands_per_s),
        tables: Default::default(),
        standing,
        health: probes.seen,
        breakers,
        suspects,
        ways,
        probe_addresses: start.probe_addresses,
        samples,
        nudge,
        started,
        notes,
    }))
}

/// A journal that was lost looks like a wish to remove every vip. It is none.
fn refuse_lost_journal(state: &State, actual: &Actual<LiveSlots>) -> Result<(), Problem> {
    if state.revision > 0 || actual.vips.is_empty() {
        return Ok(());
    }
    let text = format!("the maps serve {} vips, but the journal is empty", actual.vips.len());
    Err(Problem::new(Code::JournalLost, text))
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// It cannot start; nothing that runs was touched then.
pub async fn serve(settings: Settings) -> Result<(), Problem> {
    let Settings { socket, state_dir, journal, pin_dir, first_config, capacities, .. } = settings;
    let (probe_concurrency, resync) = (settings.probe_concurrency, settings.resync);
    let (commands_per_s, probe_addresses) = (settings.commands_per_s, settings.probe_addresses);
    let _held = hold(&state_dir)?;
    let Loaded { store, .. } = open_journal(&state_dir, journal)?;
    let folded = fold::latest(&*store.reader()).map_err(|error| journal_problem(&error, &state_dir))?;
    let notes = [store.notes(), &folded.passed_over, &probe_addresses.notes()].concat();
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    tracing::info!(revision = folded.ledger.state.revision, replayed = folded.replayed, "read the journal");
    // Before anything is touched.
    probe_addresses.check(&folded.ledger.state)?;
    let first =
        first_config.filter(|_| folded.ledger.state.revision == 0).map(|path| document(&path)).transpose()?;
    let (kernel, origin) = Kernel::open(&Options { pin_dir, capacities, ..Options::default() })?;
    match origin {
        Origin::Made => tracing::info!("made a new data plane"),
        Origin::Adopted => tracing::info!("adopted the data plane that runs"),
        Origin::Upgraded => tracing::info!("adopted the data plane that runs, with this binary's program"),
    }
    let dataplane: Arc<dyn Dataplane> = Arc::new(kernel);
    let kept = kept_sizes(&capacities, &dataplane.read()?.limits);
    kept.iter().for_each(|note| tracing::warn!("{note}"));
    let notes = notes.into_iter().chain(kept).collect();
    let watch_ways = Box::new(neighbour::start);
    let observations = ObservationJournal::open(&state_dir, observation::Limits::default())
        .map_err(|error| Problem::bug(format!("cannot start a thread: {error}")))?;
    let (files, kept) = (store.files(), observations.clone());
    let observations = Some(observations);
    let node = start(Start {
        folded,
        store,
        dataplane,
        watch_ways,
        probe_concurrency,
        probe_addresses,
        commands_per_s,
        resync,
        observations,
        notes,
    })?;
    vital::spawn("verify-journal", move || verify_older(&files));
    if let Some(loaded) = first {
        apply_first(&node, loaded).await?;
    }
    if let Some(address) = settings.health_listen {
        let listener = public::bind(address).await?;
        tokio::spawn(public::answer(listener, node.clone()));
    }
    let socket = Socket::bind(&socket)?;
    let (end, ends) = watch::channel(false);
    let (mut ways, standing) = (node.ways.clone(), node.standing.clone());
    let answering = tokio::spawn(socket.answer(api::router(node), ends));
    first_pass(standing).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("ready");
    told_to_end().await?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("ending; forwarding goes on");
    end.send_replace(true);
    answering.await.map_err(|error| Problem::bug(error.to_string()))?;
    // The last route is gone, so the writer ends, and with it all that follows it; this is the last to hear.
    let ended = async { while ways.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(GRACE, ended).await;
    kept.close();
    Ok(())
}

/// What was asked for with `--max-…` and is otherwise in the maps: they keep the sizes that they were made with.
fn kept_sizes(asked: &Capacities, has: &lb_control::limits::Limits) -> Option<String> {
    let wanted = &asked.limits;
    let ports = |planes: u32| nat_ports(planes.saturating_mul(2 * NAT_PORTS));
    let nat_flows = |ports_has: u32| ports_has / ports(1) * NAT_PORTS;
    let usual = Capacities::default();
    let sizes = [
        ("--max-vips", wanted.vips, usual.limits.vips, has.vips),
        ("--max-backends", wanted.backends, usual.limits.backends, has.backends),
        ("--max-slots", wanted.slots, usual.limits.slots, has.slots),
        ("--max-flows", flow_entries(asked.flow_buckets), flow_entries(usual.flow_buckets), has.flow_entries),
        (
            "--max-nat-flows",
            nat_flows(ports(asked.nat_planes)),
            nat_flows(ports(usual.nat_planes)),
            nat_flows(has.nat_ports),
        ),
        ("--max-sources", wanted.sources, usual.limits.sources, has.sources),
    ];
    // What is as it is by default was mostly not asked for.
    let other = sizes.into_iter().filter(|(_, asked, usual, has)| asked != usual && asked != has);
    let other: Vec<String> =
        other.map(|(flag, asked, _, has)| format!("{flag} {has}, not {asked}")).collect();
    let text = "the maps keep the sizes that they were made with, until their pin directory is removed";
    (!other.is_empty()).then(|| format!("{text}: {}", other.join("; ")))
}

/// Goes through what the start did not read; `lb status` shows what came of it.
fn verify_older(files: &LogFiles) {
    match files.verify_older(|_| ControlFlow::Continue(())) {
        Verification::Damaged { segment, offset, reason, .. } => {
            tracing::error!("{}: damaged at byte {offset}: {reason}", segment.display());
        }
        Verification::Unreadable { reason } => tracing::error!("the journal could not be verified: {reason}"),
        Verification::Pending | Verification::Running { .. } | Verification::Whole { .. } => {}
    }
}

/// Until the maps were compared once, or could not be: then the status says why, and it is tried again.
async fn first_pass(mut standing: watch::Receiver<Standing>) {
    let _ = standing.wait_for(|standing| standing.passes > 0 || standing.fault.is_some()).await;
}

/// The state directory, made if it is not there, for this daemon alone.
fn hold(state_dir: &Path) -> Result<DirectoryLock, Problem> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(state_dir);
    made.map_err(|error| {
        Problem::new(Code::StateDir, format!("cannot make {}: {error}", state_dir.display()))
    })?;
    DirectoryLock::take(state_dir).map_err(|error| match error {
        LockError::Held { .. } => Problem::new(Code::StateHeld, error.to_string()),
        LockError::Io { .. } => Problem::new(Code::StateDir, error.to_string()),
    })
}

fn open_journal(state_dir: &Path, limits: Limits) -> Result<Loaded, Problem> {
    FileStore::open_with(state_dir, limits).map_err(|error| journal_problem(&error, state_dir))
}

fn journal_problem(error: &StoreError, state_dir: &Path) -> Problem {
    Problem::new(error.code(), error.to_string()).at(state_dir.join(FILE_NAME).display().to_string())
}

fn document(path: &Path) -> Result<config::Loaded, Problem> {
    config::Source::read(path)?.parse().map_err(|report| report.problem())
}

/// The document of a first start becomes the first command.
async fn apply_first(node: &Node, loaded: config::Loaded) -> Result<(), Problem> {
    let apply = lb_control::command::Apply { document: loaded.document.clone(), ..Default::default() };
    let command = lb_control::command::Command::Apply(apply);
    let applied = node.engine.submit(Request::new(command, "lb serve --config")).await;
    applied.map(drop).map_err(|problem| loaded.locate(problem).problem())
}

async fn told_to_end() -> Result<(), Problem> {
    let listen =
        |kind| signal(kind).map_err(|error| Problem::bug(format!("cannot watch for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_the_maps_do_not_have_are_told() {
        let (mut asked, mut has) = (Capacities::default(), Capacities::default().limits);
        assert_eq!(kept_sizes(&asked, &has), None);
        (has.vips, has.backends) = (2, 2);
        assert_eq!(kept_sizes(&asked, &has), None, "nobody asked for anything");
        asked.limits.vips = 9;
        asked.flow_buckets = 1_024;
        let told = kept_sizes(&asked, &has).unwrap();
        assert!(told.contains(": --max-vips 2, not 9; --max-flows "), "{told}");
        assert!(!told.contains("--max-nat-flows") && !told.contains("--max-backends"), "{told}");
    }
}
