//! `cargo xtask demo`: a whole network in namespaces, real traffic through the real balancer, and things that
//! happen to it meanwhile; played from a timeline or from the keys of a terminal.
//!
//! ```text
//! keys or timeline -> conductor -> stage (network, lb)     what is done
//!                 observer -> board <- conductor           what is known
//! traffic + board -> tally -> screen, report               what came of it (account says whose fault)
//! ```
//! Nothing of the balancer is simulated here, and nothing is retried. The verdict is the exit code: 0 nothing
//! failed that should not have, 1 something did, 130 ended early.

pub mod account;
pub mod board;
pub mod cast;
pub mod conductor;
pub mod load;
pub mod observer;
pub mod report;
pub mod stage;
pub mod timeline;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;

use lb_userspace::api::views::{DropView, ListView};

use crate::balancer::view;
use crate::interrupt::Interrupt;
use crate::skip::obstacle;
use board::Board;
use cast::Mode;
use conductor::Conductor;
use load::Traffic;
use observer::Observer;
use report::Report;
use stage::Stage;
use timeline::SECONDS_MIN;

/// Exit code of a run that somebody ended early, as after SIGINT.
const EXIT_INTERRUPTED: u8 = 130;
/// Between two looks at clock and signals.
const TICK: Duration = Duration::from_millis(20);

/// See a load balancer at work: a network in namespaces, real requests, backends that die, drain and join.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask demo")]
pub struct Options {
    /// No screen and no keys: a timeline, with progress on stderr. The default without a terminal.
    #[arg(long)]
    pub headless: bool,
    /// How long requests run, headless.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(SECONDS_MIN..=3_600))]
    pub seconds: u64,
    /// The last line of stdout is one JSON object. Headless.
    #[arg(long)]
    pub json: bool,
    /// How packets reach the backends.
    #[arg(long, value_enum, default_value = "l2")]
    pub mode: Mode,
}

/// Runs the demo to its end.
///
/// # Errors
/// When it cannot be set up. What was set up is removed, whatever happens.
pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(why) = obstacle(&["nginx"]) {
        bail!("the demo cannot run: {why}");
    }
    let interrupt = Interrupt::install()?;
    let headless = options.headless || options.json || !std::io::stdout().is_terminal();
    let board = Board::new(true);
    board.say(format!(
        "building the network: clients, router, balancer, three backends; mode {}",
        options.mode.word()
    ));
    let stage = Stage::build(options.mode, &board)?;
    let traffic = Traffic::start(stage.net())?;
    board.lock().start = Instant::now();
    board.say("requests run: HTTP kept alive and one a connection, datagrams, long-lived connections; IPv4 and IPv6");
    let client = stage.balancer().client();
    let observer = Observer::start(client.clone(), board.clone())?;
    let conductor = Conductor::start(stage, board.clone(), interrupt.clone())?;
    let _ = headless;
    play(options, &board, &conductor, &traffic, &interrupt);
    let interrupted = interrupt.is_requested();
    let known = board.read();
    let tally = traffic.finish()?.tally(&known.kills);
    let drops = view::<ListView<DropView>>(&client, "/v1/views/drops").map(|list| list.items);
    let report = Report::new(options.mode, interrupted, &known, tally, &drops.unwrap_or_default());
    drop((observer, conductor));
    let file = report.write(&report_dir()?)?;
    eprint!("\n{}", report.text());
    eprintln!("  report: {}", file.display());
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(match (interrupted, report.ok) {
        (true, _) => ExitCode::from(EXIT_INTERRUPTED),
        (false, ok) => {
            if ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    })
}

/// Plays the timeline.
fn play(options: &Options, board: &Board, conductor: &Conductor, traffic: &Traffic, interrupt: &Interrupt) {
    let length = Duration::from_secs(options.seconds);
    let mut acts = timeline::acts(length).into_iter().peekable();
    let start = board.lock().start;
    while start.elapsed() < length && !interrupt.wait(TICK) {
        while let Some((_, act)) = acts.next_if(|(at, _)| start.elapsed() >= *at) {
            conductor.ask(act);
        }
        say_farewells(board, traffic);
    }
}

/// Lets the users of draining backends finish whose time has come.
fn say_farewells(board: &Board, traffic: &Traffic) {
    let mut known = board.lock();
    let now = Instant::now();
    let (due, later) = known.farewells.drain(..).partition(|(at, _)| *at <= now);
    known.farewells = later;
    drop(known);
    let due: Vec<(Instant, String)> = due;
    for (_, backend) in due {
        let count = traffic.retire(&backend);
        board.say(format!("{backend}: the users of its {count} long-lived connections finish"));
    }
}

/// `target/demo` of the build that this program is of.
fn report_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("path of this program")?;
    Ok(own.ancestors().nth(2).context("this program lies in target")?.join("demo"))
}
