//! The write side: commands to the writer, then the wait until the maps have it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use lb_control::command::{Apply, Command};
use lb_control::plan::{ObjectChange, Observed, PlanSummary, summarise};
use serde::Deserialize;

use super::peer::Actor;
use super::undo::undo;
use super::views::{CommandView, EffectView, EffectsView, MovedView};
use super::{Node, SCHEMA, asked, blocking, parsed};
use crate::engine::{Accepted, Request};
use crate::problem::{Code, Problem};
use crate::reconcile::Standing;

/// How long an answer waits for the maps.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Query of a command.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Options {
    /// Only say what it would do.
    dry_run: bool,
}

pub(super) async fn command(
    State(node): State<Arc<Node>>,
    Extension(actor): Extension<Actor>,
    query: Result<Query<Options>, QueryRejection>,
    body: Bytes,
) -> Result<Json<CommandView>, Problem> {
    run(node, actor, parsed(&body)?, asked(query)?.dry_run).await
}

pub(super) async fn apply(
    State(node): State<Arc<Node>>,
    Extension(actor): Extension<Actor>,
    query: Result<Query<Options>, QueryRejection>,
    body: Bytes,
) -> Result<Json<CommandView>, Problem> {
    run(node, actor, Command::Apply(parsed::<Apply>(&body)?), asked(query)?.dry_run).await
}

/// As `apply?dry_run=true`, and never refused for the disruption that it shows.
pub(super) async fn plan(
    State(node): State<Arc<Node>>,
    Extension(actor): Extension<Actor>,
    body: Bytes,
) -> Result<Json<CommandView>, Problem> {
    let document = parsed::<Apply>(&body)?;
    let (engine, asked) = (node.engine.clone(), Command::Apply(document.clone()));
    let refused = blocking(move || engine.rehearse(&asked)).await?.err();
    let disruption = refused.filter(|problem| problem.is(Code::Disruption));
    let allowed = Command::Apply(Apply { allow_disruption: true, ..document });
    let Json(view) = run(node, actor, allowed, true).await?;
    Ok(Json(CommandView { disruption, ..view }))
}

async fn run(
    node: Arc<Node>,
    actor: Actor,
    command: Command,
    dry_run: bool,
) -> Result<Json<CommandView>, Problem> {
    let accepted = if dry_run {
        let engine = node.engine.clone();
        blocking(move || engine.rehearse(&command)).await??
    } else {
        node.engine.submit(Request::new(command, actor.0)).await?
    };
    let pending = if dry_run { Vec::new() } else { in_maps(&node, accepted.after.revision).await };
    let health = node.health.borrow().clone();
    let view = blocking(move || {
        let health = health.iter().map(|(id, seen)| (*id, seen.health)).collect();
        let observed = Observed { health, ..Observed::default() };
        let effects = effects(summarise(&accepted.before, &accepted.after, &observed));
        view(&accepted, effects, pending, dry_run)
    });
    Ok(Json(view.await??))
}

fn view(
    accepted: &Accepted,
    effects: EffectsView,
    pending: Vec<Problem>,
    dry_run: bool,
) -> Result<CommandView, Problem> {
    let events: Result<_, _> = accepted.events.iter().map(serde_json::to_value).collect();
    Ok(CommandView {
        schema: SCHEMA.to_owned(),
        command_id: accepted.command_id.clone(),
        dry_run,
        revision: accepted.after.revision,
        events: events.map_err(|error| Problem::bug(error.to_string()))?,
        effects,
        undo: undo(&accepted.before, &accepted.events),
        applied: !dry_run && pending.is_empty(),
        pending,
        disruption: None,
    })
}

/// Waits until the maps hold a revision; what is in the way if they do not in time.
async fn in_maps(node: &Node, revision: u64) -> Vec<Problem> {
    let mut standing = node.standing.clone();
    let arrived = standing.wait_for(|standing| standing.revision >= revision);
    match tokio::time::timeout(APPLY_TIMEOUT, arrived).await {
        Ok(Ok(standing)) => pending(&standing),
        _ => {
            let standing = node.standing.borrow();
            let mut pending = pending(&standing);
            if pending.is_empty() {
                pending.push(Problem::new(Code::Pending, "the maps are still being changed"));
            }
            pending
        }
    }
}

/// Why the maps are not as they should be.
pub(super) fn pending(standing: &Standing) -> Vec<Problem> {
    let fault = standing.fault.iter().cloned().map(Problem::from);
    let full = standing
        .problems
        .iter()
        .map(|problem| Problem::new(problem.code, problem.code.short()).at(problem.object.clone()));
    fault.chain(full).collect()
}

fn effects(summary: PlanSummary) -> EffectsView {
    let line = |line: lb_control::plan::Line| EffectView {
        change: match line.change {
            ObjectChange::Created => "created",
            ObjectChange::Changed => "changed",
            ObjectChange::Removed => "removed",
        }
        .to_owned(),
        object: line.object,
        text: line.text,
    };
    let moved = |moved: lb_control::plan::SlotsMoved| MovedView {
        vip: moved.vip,
        moved: moved.moved,
        slots: moved.slots,
        share: moved.share,
    };
    EffectsView {
        lines: summary.lines.into_iter().map(line).collect(),
        slots: summary.slots.into_iter().map(moved).collect(),
    }
}
