//! `lb rollback`: brings back what people wanted at a point in the past, by one command like any other: what was done since
//! stays in the history, and so does the rollback. What was removed since and comes back is new: it has another id, and
//! its flows of then are over.

use lb_control::command::{Apply, Document};
use serde::Serialize;

use super::diff::{between, lines};
use super::mutation::Flags;
use super::object::{query, when};
use super::text::several;
use super::{Done, Session};
use crate::api::client::{Client, encoded};
use crate::api::views::CommandView;
use crate::api::views::past::{DiffView, InventoryView};
use crate::problem::{Exit, Problem};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Back to this point: a revision, a time (UTC), or a distance such as `10m ago`.
    #[arg(long, value_name = "TIME|REV")]
    to: String,
    /// Only say what it would do.
    #[arg(long)]
    dry_run: bool,
    /// Do it even if it ends traffic.
    #[arg(long)]
    allow_disruption: bool,
    /// Why, for the history.
    #[arg(short = 'm', long, value_name = "WHY")]
    reason: Option<String>,
    /// Idempotency key: a rollback that is repeated with its key is done once. A new one unless named.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    dry_run: bool,
    from: &'a crate::api::views::past::PointView,
    to: &'a crate::api::views::past::PointView,
    items: &'a [crate::api::views::past::LineView],
    /// What was done; `null`: nothing.
    command: Option<CommandView>,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let mut diff = between(&session.client, "now", &args.to).await?;
    // Another one, and yet as it was: nothing that a command could bring back.
    diff.items.retain(|line| line.change != "replaced" || !line.fields.is_empty());
    let command = compensation(&session.client, &diff, args.allow_disruption).await?;
    if !session.out.json {
        told(session, &diff);
    }
    let Some(command) = command else { return report(session, &diff, None, args.dry_run) };
    let reason = args.reason.unwrap_or_else(|| format!("rollback to revision {}", diff.to.revision));
    // What somebody did since the comparison is in no plan that was shown, and is not rolled back with the rest.
    let if_match = Some(diff.from.revision);
    let flags = Flags { dry_run: args.dry_run, reason: Some(reason), if_match, key: args.key };
    // The larger limit of a whole configuration is the path's.
    match session.send("/v1/apply", &command, &flags).await {
        Err(problem) if args.dry_run => {
            session.out.warn(&format!("`lb rollback` would be refused: {}", problem.message));
            report(session, &diff, None, true)
        }
        sent => report(session, &diff, Some(sent?), args.dry_run),
    }
}

fn report(session: &mut Session<'_>, diff: &DiffView, command: Option<CommandView>, dry_run: bool) -> Done {
    let done = command.filter(|_| !dry_run);
    let applied = done.as_ref().is_none_or(|command| command.applied);
    if session.out.json {
        let (schema, from, to, items) = (crate::api::SCHEMA, &diff.from, &diff.to, &diff.items);
        session.out.value(&Report { schema, dry_run, from, to, items, command: done })?;
        return Ok((!applied).then_some(Exit::Error));
    }
    if let Some(command) = done {
        session.out.line(&format!("revision {}", command.revision));
        session.out.line(&format!("undo: lb rollback --to {}", diff.from.revision));
    } else if dry_run {
        session.out.line("dry run: nothing was changed");
    }
    if !applied {
        session.out.warn("accepted and durable, but not in the maps yet; `lb status` says why");
    }
    Ok((!applied).then_some(Exit::Error))
}

fn told(session: &mut Session<'_>, diff: &DiffView) {
    let then = diff.to.at.as_deref().map_or_else(|| "the beginning".to_owned(), |at| when(at) + " UTC");
    session.out.heading(&format!("to go back to revision {} ({then})", diff.to.revision));
    if diff.items.is_empty() {
        session.out.line("  nothing differs: nothing to do");
        return;
    }
    lines(session, &diff.items);
    let again = diff.items.iter().filter(|line| line.change == "made" && line.object != "bypass").count();
    if again > 0 {
        let they = if again == 1 {
            "it has a new id and none of its"
        } else {
            "they have new ids and none of their"
        };
        session.out.line(&format!("  {} comes back: {they} former flows", several(again, "object")));
    }
}

/// The command that leads from the first point of a comparison to the second; `None`: nothing differs.
async fn compensation(
    client: &Client,
    diff: &DiffView,
    allow_disruption: bool,
) -> Result<Option<Apply>, Problem> {
    if diff.items.is_empty() {
        return Ok(None);
    }
    let then = diff.to.revision.to_string();
    let document: Document =
        client.read(&query("/v1/views/document", &[("at", Some(encoded(&then)))])).await?;
    let past: InventoryView = client.read(&query("/v1/views/inventory", &[("at", Some(then))])).await?;
    let backends = past.vips.iter().flat_map(|vip| &vip.backends).filter(|backend| backend.tripped);
    let trips = Some(backends.map(|backend| format!("{}/{}", backend.vip, backend.name)).collect());
    let bypass = Some(past.bypass);
    Ok(Some(Apply { document, prune: true, replace: true, bypass, trips, allow_disruption }))
}
