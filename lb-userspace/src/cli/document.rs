//! `lb apply`, `lb plan`, `lb export`: the configuration as a file.

use std::path::PathBuf;

use lb_control::command::{Apply as Command, Document};

use super::mutation::Flags;
use super::{Done, Session};
use crate::api::views::CommandView;
use crate::config::report::Report;
use crate::config::{self, Source};
use crate::problem::{Exit, Problem};

#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    #[command(flatten)]
    file: File,
    /// Do it even if it ends traffic.
    #[arg(long)]
    allow_disruption: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    #[command(flatten)]
    file: File,
}

#[derive(Debug, clap::Args)]
struct File {
    /// The file (TOML); `-` reads standard input.
    #[arg(short, long, value_name = "PATH")]
    file: PathBuf,
    /// Remove tenants, vips and backends that the file does not name.
    #[arg(long)]
    prune: bool,
}

pub(super) async fn apply(session: &mut Session<'_>, args: Apply) -> Done {
    let answer = send(session, "/v1/apply", &args.file, args.allow_disruption, Some(&args.flags)).await?;
    session.tell(&answer)
}

pub(super) async fn plan(session: &mut Session<'_>, args: Plan) -> Done {
    let answer = send(session, "/v1/plan", &args.file, false, None).await?;
    session.tell(&answer)?;
    if let Some(disruption) = &answer.disruption {
        session
            .out
            .warn(&format!("`lb apply` will refuse this without --allow-disruption: {}", disruption.message));
    }
    Ok((!answer.effects.lines.is_empty()).then_some(Exit::Changes))
}

pub(super) async fn export(session: &mut Session<'_>) -> Done {
    let document: Document = session.client.read("/v1/views/document").await?;
    if session.out.json {
        session.out.value(&document)?;
    } else {
        let text = config::text(&document)?;
        session.out.lines(&text);
    }
    Ok(None)
}

/// Sends a file; faults and rejections are shown at their places in it.
async fn send(
    session: &mut Session<'_>,
    path: &str,
    file: &File,
    allow_disruption: bool,
    flags: Option<&Flags>,
) -> Result<CommandView, Problem> {
    let source = Source::read(&file.file)?;
    let loaded = match source.parse() {
        Ok(loaded) => loaded,
        Err(report) => return Err(shown(session, &report)),
    };
    let (document, prune) = (loaded.document.clone(), file.prune);
    let command = Command { document, prune, allow_disruption, ..Command::default() };
    let answer = match flags {
        Some(flags) => session.send(path, &command, flags).await,
        None => session.client.send(path, &command).await,
    };
    match answer {
        Ok(answer) => Ok(answer),
        Err(problem) if problem.place.is_some() => Err(shown(session, &loaded.locate(problem))),
        Err(problem) => Err(problem),
    }
}

/// Shows the text with carets to people, and gives the problem for JSON and for the exit status.
fn shown(session: &mut Session<'_>, report: &Report) -> Problem {
    let problem = report.problem();
    if !session.out.json {
        let coloured = session.out.coloured;
        session.out.problem_laid_out(&report.text(coloured));
    }
    problem
}
