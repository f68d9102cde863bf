//! Measures the balancer and what it is compared with; see `docs/guide/benchmarks.md`. The last line of stdout is one
//! JSON object with the keys.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use lb_tests::bench::control::{self, ControlReport};
use lb_tests::bench::report::Report;
use lb_tests::bench::{Effort, failover, hash, http, path, rate, table};
use lb_tests::interrupt::Interrupt;
use lb_tests::sweep::sweep_own;

/// The daemon's, since the control plane's parts run in here as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure the balancer: cost of a packet, packets a second, HTTP, and the Maglev table; or its control plane.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// What to measure.
    #[arg(value_enum, default_value = "packets")]
    what: What,
    /// Two minutes instead of ten: ratios wobble by a tenth.
    #[arg(long)]
    quick: bool,
    /// No tables for people.
    #[arg(long)]
    json: bool,
    /// Measure these parts only, by name; `packets` has: path, hash, rate, http, table, failover; `control` has: store,
    /// node, change, probes.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// The packet path.
    Packets,
    /// Commands, queries, the log, how soon the maps follow, and what probing costs.
    Control,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Cost of a packet in the program.
    Path,
    /// Cost of a flow's hash, ours and a quicker one.
    Hash,
    /// Packets a second through the node.
    Rate,
    /// HTTP through the node.
    Http,
    /// The Maglev table.
    Table,
    /// A backend that fails.
    Failover,
}

/// Longest sleep between two looks at the signal.
const LOOK: Duration = Duration::from_secs(3_600);
/// Exit code of a run that a signal ended, as after SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// A signal ends the run at once, and what it made goes.
fn end_by_signal() -> Result<()> {
    let interrupt = Interrupt::install()?;
    let wait = move || {
        while !interrupt.wait(LOOK) {}
        sweep_own();
        std::process::exit(EXIT_INTERRUPTED);
    };
    std::thread::Builder::new().name("ending".to_owned()).spawn(wait).context("start a thread")?;
    Ok(())
}

fn main() -> Result<()> {
    lb_userspace::memory::give_back_at_once();
    let arguments = Arguments::parse();
    end_by_signal()?;
    let effort = if arguments.quick { Effort::Quick } else { Effort::Full };
    let mut report = Report::default();
    match arguments.what {
        What::Packets => packets(&mut report, effort, &parts(&arguments.only))?,
        What::Control => {
            let control = ControlReport::measure(effort, &parts::<control::Part>(&arguments.only))?;
            report.keys = control.keys();
            report.control = Some(control);
        }
    }
    let dir = report.write()?;
    if !arguments.json {
        report.show();
        eprintln!("\nAll of it: {}", dir.display());
    }
    println!("{}", report.line());
    Ok(())
}

/// The parts of these names, or the end: which there are depends on what is measured.
fn parts<P: clap::ValueEnum>(names: &[String]) -> Vec<P> {
    let all = || {
        P::value_variants().iter().filter_map(|part| Some(part.to_possible_value()?.get_name().to_owned()))
    };
    let part = |name: &String| {
        P::from_str(name, false).unwrap_or_else(|_| {
            let text =
                format!("there is no part `{name}` here; parts: {}", all().collect::<Vec<_>>().join(", "));
            Arguments::command().error(clap::error::ErrorKind::InvalidValue, text).exit()
        })
    };
    names.iter().map(part).collect()
}

fn packets(report: &mut Report, effort: Effort, only: &[Part]) -> Result<()> {
    let wanted = |part| only.is_empty() || only.contains(&part);
    if wanted(Part::Table) {
        report.keys.extend(table::run(effort));
    }
    if wanted(Part::Path) {
        report.path = path::run(effort)?;
        report.keys.extend(report.path.keys());
    }
    if wanted(Part::Hash) {
        report.hashes = hash::run(effort)?;
        report.keys.extend(hash::keys(&report.hashes));
    }
    if wanted(Part::Rate) {
        report.rates = rate::run(effort)?;
        report.keys.extend(rate::keys(&report.rates));
    }
    if wanted(Part::Failover) {
        report.failover = failover::run(effort)?;
        report.keys.extend(failover::keys(&report.failover));
    }
    if wanted(Part::Http) {
        (report.https, report.skipped) = http::run(effort)?;
        report.keys.extend(http::keys(&report.https));
    }
    Ok(())
}
