//! `lb serve`: the daemon's settings.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lb_common::limits;
use tracing_subscriber::EnvFilter;

use super::number::{whole, within};
use super::{Done, Session};
use crate::dataplane::Capacities;
use crate::probe::via::Addresses;
use crate::problem::{Code, Problem};
use crate::serve::{Settings, serve};
use crate::{journal, probe, reconcile};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the journal.
    #[arg(long, value_name = "PATH", default_value = "/var/lib/lb")]
    state_dir: PathBuf,
    /// Archive the journal's oldest segments while those before its oldest snapshot take more, MiB. Without it all stay.
    #[arg(long, allow_negative_numbers = true, value_name = "MIB", value_parser = whole::<u64>("of MiB from 0 on"))]
    journal_retain_mib: Option<u64>,
    /// Directory of the pinned data plane, in a BPF file system; one for each node.
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf/lb")]
    pin_dir: PathBuf,
    /// A file as for `lb apply`, for the first start only: later starts go by the journal.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Vips, at most (1 to 65536). This and the other --max-… hold from the first start until the pin directory is removed.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", default_value_t = limits::VIPS, value_parser = whole::<u32>("from 1 to 65536"))]
    max_vips: u32,
    /// Backends of all vips together, at most (1 to 65535).
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", default_value_t = limits::BACKENDS - 1, value_parser = whole::<u32>("from 1 to 65535"))]
    max_backends: u32,
    /// Slots of all vips' tables together, at most (251 to 268435456); 8 bytes each.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", default_value_t = limits::SLOTS, value_parser = whole::<u32>("from 251 to 268435456"))]
    max_slots: u32,
    /// Flows that can be remembered, at most (to 134217728); 16 bytes each; rounded up to a power of two.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", default_value_t = limits::FLOW_BUCKETS * limits::FLOW_WAYS as u32, value_parser = whole::<u32>("from 1 to 134217728"))]
    max_flows: u32,
    /// NAT flows of each protocol, at most (to 8388608); 128 bytes each; rounded up to a power of two.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", default_value_t = limits::NAT_PLANES * limits::NAT_PORTS, value_parser = whole::<u32>("from 1 to 8388608"))]
    max_nat_flows: u32,
    /// The node's own source addresses towards backends, at most (1 to 16).
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", default_value_t = limits::SOURCES, value_parser = whole::<u32>("from 1 to 16"))]
    max_sources: u32,
    /// Probes under way at once, 1 or more; others wait.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", default_value_t = probe::CONCURRENCY, value_parser = whole::<usize>("from 1 on"))]
    probe_concurrency: usize,
    /// Address that probes by the vips' own paths are asked from; nobody may have it, this node neither. One of each family.
    #[arg(long, value_name = "ADDRESS")]
    probe_address: Vec<IpAddr>,
    /// Commands a second that one user may send, 1 or more; without it, as many as can be written.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = within::<1, 100_000>)]
    commands_per_s: Option<u32>,
    /// How often the maps are compared with what they should hold when nothing changes, seconds (1 to 86400).
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", default_value_t = reconcile::RESYNC_S, value_parser = within::<1, 86_400>)]
    resync_s: u32,
    /// Answer /readyz, /healthz and /metrics over TCP too, for who is on another machine.
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let settings = settings(session.socket.clone(), args)?;
    let filter = EnvFilter::try_from_env("LB_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    serve(settings).await.map(|()| None)
}

/// What the data plane can hold is checked where it is made; here only what has another unit there.
fn settings(socket: PathBuf, args: Args) -> Result<Settings, Problem> {
    if args.probe_concurrency == 0 {
        return Err(Problem::new(Code::DaemonConfig, "--probe-concurrency must be at least 1"));
    }
    let mut capacities = Capacities::default();
    capacities.limits.vips = args.max_vips;
    // A vip has a key, and the mark of its address another; a source address has one.
    capacities.limits.vip_keys = args.max_vips.saturating_mul(2).saturating_add(args.max_sources);
    capacities.limits.backends = args.max_backends;
    capacities.limits.slots = args.max_slots;
    capacities.limits.sources = args.max_sources;
    capacities.flow_buckets = power_of_two(args.max_flows.div_ceil(limits::FLOW_WAYS as u32));
    capacities.nat_planes = power_of_two(args.max_nat_flows.div_ceil(limits::NAT_PORTS));
    Ok(Settings {
        socket,
        state_dir: args.state_dir,
        journal: journal::log::Limits {
            retain_bytes: args.journal_retain_mib.map(|mib| mib.saturating_mul(1 << 20)),
            ..Default::default()
        },
        pin_dir: args.pin_dir,
        first_config: args.config,
        capacities,
        probe_concurrency: args.probe_concurrency,
        probe_addresses: Addresses::new(&args.probe_address)?,
        commands_per_s: args.commands_per_s,
        resync: Duration::from_secs(u64::from(args.resync_s)),
        health_listen: args.health_listen,
    })
}

/// The next power of two; the largest there is for what lies beyond.
fn power_of_two(number: u32) -> u32 {
    number.checked_next_power_of_two().unwrap_or(1 << 31)
}
