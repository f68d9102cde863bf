//! `cargo xtask demo`: a whole network in namespaces, real traffic through the real balancer, and things that
//! happen to it meanwhile; played from a timeline or from the keys of a terminal.
//!
//! ```text
//! keys or timeline -> conductor -> stage (network, lb)     what is done
//!                 observer -> board <- conductor           what is known
//! traffic + board -> tally -> screen, report               what came of it (account says whose fault)
//! ```
//! Nothing of the balancer is simulated here, and nothing is retried. The verdict is the exit code: 0 nothing
//! failed that should not have, 1 something did, 130 ended early by a signal.

pub mod account;
pub mod board;
pub mod cast;
pub mod conductor;
pub mod guide;
mod keys;
pub mod load;
pub mod observer;
mod picture;
mod rates;
pub mod report;
mod screen;
pub mod stage;
pub mod timeline;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use lb_userspace::api::client::Client;
use lb_userspace::api::views::{DropView, ListView};

use crate::balancer::view;
use crate::interrupt::Interrupt;
use crate::skip::obstacle;
use board::Board;
use cast::Mode;
use conductor::Conductor;
use guide::Guide;
use keys::Live;
use load::Traffic;
use observer::Observer;
use report::Report;
use screen::Footer;
use stage::Stage;
use timeline::SECONDS_MIN;

/// Exit code of a run that a signal ended, as after SIGINT.
const EXIT_INTERRUPTED: u8 = 130;
/// How long requests run without a terminal, seconds.
const SECONDS: u64 = 20;
/// How much longer a timeline may take on a machine that is too busy to play it in time.
const OVERTIME: Duration = Duration::from_secs(30);
/// How long a backend that joined is given to be used.
const SETTLING: Duration = Duration::from_secs(1);
/// Between two looks at clock and signals.
const TICK: Duration = Duration::from_millis(20);

/// See a load balancer at work: a network in namespaces, real requests, backends that die, drain and join.
///
/// On a terminal a live view with keys, without one a timeline. Needs root; leaves nothing behind.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask demo")]
pub struct Options {
    /// No screen and no keys: a timeline, with progress on stderr. The default without a terminal.
    #[arg(long)]
    pub headless: bool,
    /// How long requests run; 20 unless named, with a screen until a key ends it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(SECONDS_MIN..=3_600))]
    pub seconds: Option<u64>,
    /// Headless, and the last line of stdout is one JSON object.
    #[arg(long)]
    pub json: bool,
    /// How packets reach the backends.
    #[arg(long, value_enum, default_value = "l2")]
    pub mode: Mode,
}

impl Options {
    fn is_headless(&self) -> bool {
        let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        self.headless || self.json || !terminal
    }
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
    let board = Board::new();
    let (traffic, guide, stage) = match build(options, &board, &interrupt) {
        Ok(built) if !interrupt.is_requested() => built,
        Err(error) if !interrupt.is_requested() => return Err(error),
        // Ctrl-C on a terminal ends the programs in the namespaces too: what fails then, fails by it.
        _ => return tell_unbegun(options, &board),
    };
    board.lock().start = Instant::now();
    board.say("requests run: HTTP, UDP and long-lived TCP connections, IPv4 and IPv6");
    let client = stage.balancer().client();
    let observer = Observer::start(client.clone(), board.clone())?;
    let conductor = Conductor::start(stage, board.clone(), interrupt.clone())?;
    if options.is_headless() {
        play(options, &board, &conductor, &traffic, &interrupt);
    } else {
        let footer = Footer { hints: guide.commands().into() };
        let (mode, length) = (options.mode.word(), options.seconds.map(Duration::from_secs));
        let (conductor, traffic, interrupt) = (&conductor, &traffic, &interrupt);
        board.tell(false);
        Live { mode, board: &board, conductor, traffic, interrupt, footer, length }.show()?;
        board.tell(true);
    }
    let report = conclude(options, &board, traffic, &client, interrupt.is_requested())?;
    drop((observer, conductor));
    tell(options, &report)
}

/// Builds the network with its balancer, and starts the traffic.
fn build(options: &Options, board: &Board, interrupt: &Interrupt) -> Result<(Traffic, Guide, Stage)> {
    board.say(format!("building clients, router, balancer and backends; mode {}", options.mode.word()));
    let stage = Stage::build(options.mode, board)?;
    ensure!(!interrupt.is_requested(), "it was interrupted");
    let guide = Guide::write(&stage, &report_dir()?)?;
    Ok((Traffic::start(stage.net())?, guide, stage))
}

/// Tells that a signal ended it before there was anything to tell.
fn tell_unbegun(options: &Options, board: &Board) -> Result<ExitCode> {
    let report = Report::unbegun(options.mode, &board.read());
    report.problems.iter().for_each(|problem| eprintln!("  {problem}"));
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(ExitCode::from(EXIT_INTERRUPTED))
}

/// Ends the traffic, judges the run and writes the report.
fn conclude(
    options: &Options,
    board: &Board,
    traffic: Traffic,
    client: &Client,
    interrupted: bool,
) -> Result<Report> {
    let known = board.read();
    let tally = traffic.finish()?.tally(&known.kills);
    // Without a daemon nobody knows.
    let drops = view::<ListView<DropView>>(client, "/v1/views/drops").map(|list| list.items);
    Ok(Report::new(options.mode, interrupted, &known, tally, &drops.unwrap_or_default()))
}

/// Tells what came of it.
fn tell(options: &Options, report: &Report) -> Result<ExitCode> {
    let file = report.write(&report_dir()?)?;
    eprint!("\n{}", report.text());
    eprintln!("  report: {}", file.display());
    if options.json {
        println!("{}", serde_json::to_string(report)?);
    }
    Ok(match (report.interrupted, report.ok) {
        (true, _) => ExitCode::from(EXIT_INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}

/// Plays the timeline, to the end of its acts also where they take longer than they should.
fn play(options: &Options, board: &Board, conductor: &Conductor, traffic: &Traffic, interrupt: &Interrupt) {
    let length = Duration::from_secs(options.seconds.unwrap_or(SECONDS));
    let mut acts = timeline::acts(length).into_iter().peekable();
    let start = board.lock().start;
    let is_over = || {
        let time = start.elapsed();
        time >= length
            && (time >= length + OVERTIME || !conductor.is_busy() && board.lock().is_settled(SETTLING))
    };
    while !is_over() && !interrupt.wait(TICK) {
        while let Some((_, act)) = acts.next_if(|(at, _)| start.elapsed() >= *at) {
            conductor.ask(act);
        }
        say_farewells(board, traffic);
    }
}

/// Lets the users of draining backends finish whose time has come.
fn say_farewells(board: &Board, traffic: &Traffic) {
    let now = Instant::now();
    let due = board.lock().farewells.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>();
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
