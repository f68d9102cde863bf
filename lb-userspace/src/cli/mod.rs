//! The command line: one file per noun. `lb serve` is the daemon; all else are clients of it.
//!
//! stdout is data, stderr is talk. Every command takes `--json`; every change takes `--dry-run` and says what it did,
//! the revision and how to undo it. Exit status: 0 done, else [`crate::problem::Exit`]. No text from outside reaches
//! the terminal with its control characters ([`crate::terminal`]).

mod backend;
mod balancing;
mod blame;
mod breaker;
mod breaker_flags;
mod bypass;
mod decap;
mod device;
mod diff;
mod document;
mod drops;
mod explain;
mod history;
mod ladder_flags;
mod limits;
mod log;
mod mutation;
mod number;
mod object;
mod output;
mod projection;
mod rollback;
mod selftest;
mod serve;
mod show;
mod status;
mod tenant;
mod text;
mod vip;
mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::api::client::Client;
use crate::problem::{Code, Exit, Problem};
use output::Output;

/// Where the daemon listens unless told otherwise.
pub const SOCKET: &str = "/run/lb/lb.sock";

/// Switchyard, a layer-4 load balancer in XDP. `lb serve` is the daemon; every other command talks to it.
#[derive(Debug, Parser)]
#[command(name = "lb", version, arg_required_else_help = true)]
struct Cli {
    /// The daemon's socket.
    #[arg(long, global = true, env = "LB_SOCKET", default_value = SOCKET, value_name = "PATH")]
    socket: PathBuf,
    /// Print JSON (docs/guide/api.md) instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one lives")]
enum Noun {
    /// Run the daemon.
    Serve(serve::Args),
    /// Put the balancer on a device.
    Attach(device::Attach),
    /// Take the balancer off a device.
    Detach(device::Detach),
    /// Show the node: devices, vips, backends, drops, and what needs a person.
    Status(status::Args),
    /// Vips: address, port and protocol that are served.
    #[command(subcommand)]
    Vip(vip::Verb),
    /// Backends of a vip.
    #[command(subcommand)]
    Backend(backend::Verb),
    /// Circuit breakers of backends: what they do, and orders to them.
    #[command(subcommand)]
    Breaker(breaker::Verb),
    /// Tenants: whom vips belong to.
    #[command(subcommand)]
    Tenant(tenant::Verb),
    /// Bring about what a file says.
    Apply(document::Apply),
    /// Show what `apply` would do; exit status 3 if it would do anything.
    Plan(document::Plan),
    /// Print the configuration as a file that `apply` takes.
    Export,
    /// Show who changed what, when and why.
    History(history::Args),
    /// Show what people want there to be: now, or as it was then.
    Show(show::Args),
    /// Show what lies between two points in the past.
    Diff(diff::Args),
    /// Show who set each field last, when and why.
    Blame(blame::Args),
    /// Bring back what was wanted at a point in the past; the history stays.
    Rollback(rollback::Args),
    /// Show every change as it happens.
    Watch(watch::Args),
    /// The log itself: its end, its wholeness, its records. Needs no daemon.
    Log(log::Args),
    /// The read side: what questions are answered from.
    #[command(subcommand)]
    Projection(projection::Verb),
    /// Show what became of packets, by reason.
    Drops(drops::Args),
    /// Tell the story of a packet from CLIENT to VIP, or explain a code such as LB1002 or a reason such as no_vip.
    Explain(explain::Args),
    /// Run known packets through the loaded program.
    Selftest,
    /// The emergency bypass: every packet passes untouched.
    #[command(subcommand)]
    Bypass(bypass::Verb),
    /// On a backend: take the outer header off tunnelled packets (mode ipip). Needs no daemon.
    Decap(decap::Args),
}

/// What a command needs to do its work.
struct Session<'a> {
    client: Client,
    socket: PathBuf,
    out: Output<'a>,
}

/// What a command comes to: exit status 0, or another one that is no error.
type Done = Result<Option<Exit>, Problem>;

/// Every command with its flags, for the manual and its test.
pub fn grammar() -> clap::Command {
    let mut command = <Cli as clap::CommandFactory>::command();
    command.build();
    command
}

/// Runs a command line and gives its exit status.
pub async fn run<A: Into<OsString> + Clone>(
    args: impl IntoIterator<Item = A>,
    stdout: &mut (dyn Write + Send),
    stderr: &mut (dyn Write + Send),
    coloured: bool,
) -> u8 {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let json = args.iter().any(|arg| arg == "--json");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error, json, stdout, stderr),
    };
    let out = Output::new(stdout, stderr, cli.json, coloured);
    let mut session = Session { client: Client::new(&cli.socket), socket: cli.socket, out };
    match dispatch(&mut session, cli.noun).await {
        Ok(exit) => exit.map_or(0, |exit| exit as u8),
        Err(problem) => {
            session.out.problem(&problem);
            problem.exit() as u8
        }
    }
}

/// Help that was asked for goes to stdout; anything else is wrong usage, with a code as every error has.
fn not_parsed(error: &clap::Error, json: bool, stdout: &mut dyn Write, stderr: &mut dyn Write) -> u8 {
    let text = crate::terminal::clean_lines(&error.to_string());
    if !error.use_stderr() {
        let _ = stdout.write_all(text.as_bytes());
        return 0;
    }
    // Only a command line that says nothing at all is answered by its help alone.
    let code = Code::Usage;
    let _ = if json {
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let body = serde_json::json!({ "schema": crate::api::SCHEMA, "error": Problem::new(code, message) });
        writeln!(stderr, "{body}")
    } else if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        stderr.write_all(text.as_bytes())
    } else {
        writeln!(stderr, "{}\n  code: {code}", text.trim_end())
    };
    Exit::Usage as u8
}

async fn dispatch(session: &mut Session<'_>, noun: Noun) -> Done {
    match noun {
        Noun::Serve(args) => serve::run(session, args).await,
        Noun::Attach(args) => device::attach(session, args).await,
        Noun::Detach(args) => device::detach(session, args).await,
        Noun::Status(args) => status::run(session, args).await,
        Noun::Vip(verb) => vip::run(session, verb).await,
        Noun::Backend(verb) => backend::run(session, verb).await,
        Noun::Breaker(verb) => breaker::run(session, verb).await,
        Noun::Tenant(verb) => tenant::run(session, verb).await,
        Noun::Apply(args) => document::apply(session, args).await,
        Noun::Plan(args) => document::plan(session, args).await,
        Noun::Export => document::export(session).await,
        Noun::History(args) => history::run(session, args).await,
        Noun::Show(args) => show::run(session, args).await,
        Noun::Diff(args) => diff::run(session, args).await,
        Noun::Blame(args) => blame::run(session, args).await,
        Noun::Rollback(args) => rollback::run(session, args).await,
        Noun::Watch(args) => watch::run(session, args).await,
        Noun::Log(args) => log::run(session, args).await,
        Noun::Projection(verb) => projection::run(session, verb).await,
        Noun::Drops(args) => drops::run(session, args).await,
        Noun::Explain(args) => explain::run(session, args).await,
        Noun::Selftest => selftest::run(session).await,
        Noun::Bypass(verb) => bypass::run(session, verb).await,
        Noun::Decap(args) => decap::run(session, args).await,
    }
}
