//! The write side: commands to the writer, then the wait until the maps have it.
//!
//! Nothing in here makes one client wait for another: what a change means for people is worked out in a thread that may
//! block, beside the wait for the maps, and one pass of the reconciler serves all who wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::{Extension, Json};
use lb_control::command::{Apply, Command};
use lb_control::plan::{self, ObjectChange, Observed, PlanSummary, summarise_with};
use serde::Deserialize;

use super::concern::{Concern, passes};
use super::envelope::Envelope;
use super::peer::Actor;
use super::undo::undo;
use super::views::{CommandView, EffectView, EffectsView, MovedView};
use super::{Node, SCHEMA, asked, blocking, parsed};
use crate::engine::{Accepted, Rehearsed, Request, States, fold};
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
    /// What the answer waits for.
    wait: Wait,
}

/// What the answer to a command waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wait {
    /// It is durable, and in the maps, or it is known why not.
    #[default]
    Maps,
    /// It is durable. What it means for people is left out.
    Durable,
}

/// The answer to a command, with the revision of what it touched as `ETag`.
type Answer = ([(HeaderName, String); 1], Json<CommandView>);

pub(super) async fn command(
    State(node): State<Arc<Node>>,
    Extension(actor): Extension<Actor>,
    query: Result<Query<Options>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Answer, Problem> {
    run(node, asked(query)?, Envelope::of(&headers)?.around(parsed(&body)?, actor.0)).await
}

pub(super) async fn apply(
    State(node): State<Arc<Node>>,
    Extension(actor): Extension<Actor>,
    query: Result<Query<Options>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Answer, Problem> {
    let (options, envelope) = (asked(query)?, Envelope::of(&headers)?);
    run(node, options, envelope.around(Command::Apply(document(body).await?), actor.0)).await
}

/// As `apply?dry_run=true`, and never refused for the disruption that it shows.
pub(super) async fn plan(State(node): State<Arc<Node>>, body: Bytes) -> Result<Json<CommandView>, Problem> {
    let document = document(body).await?;
    let (engine, asked) = (node.engine.clone(), Command::Apply(document.clone()));
    let refused = blocking(move || engine.rehearse(&asked)).await?.err();
    let disruption = refused.filter(|problem| problem.is(Code::Disruption));
    let allowed = Command::Apply(Apply { allow_disruption: true, ..document });
    let Json(view) = rehearse(node, allowed).await?;
    Ok(Json(CommandView { disruption, ..view }))
}

/// A whole document takes seconds to read, at its largest: not in the runtime's threads.
async fn document(body: Bytes) -> Result<Apply, Problem> {
    blocking(move || parsed(&body)).await?
}

async fn run(node: Arc<Node>, options: Options, request: Request) -> Result<Answer, Problem> {
    node.rates.admit(&node.engine.state(), &request, Instant::now())?;
    if options.dry_run {
        node.engine.check_match(&request)?;
        let touched = lb_control::decide::touched(&node.engine.state(), &request.command).revision;
        return Ok((etag(touched), rehearse(node, request.command).await?));
    }
    let concern = Concern::of(&request.command);
    let accepted = node.engine.submit(request).await?;
    let (etag, concern) = (etag(accepted.touched), concern.with(&accepted.record.events));
    if options.wait == Wait::Durable {
        let standing = node.standing.borrow();
        let arrived = standing.revision >= accepted.record.revision;
        let applied = arrived && pending(&standing, |problem| concern.has(problem)).is_empty();
        drop(standing);
        return Ok((etag, Json(view(accepted, EffectsView::default(), (applied, Vec::new())))));
    }
    let accepted = Accepted { states: states(&node, &accepted).await?, ..accepted };
    let effects = async {
        match accepted.states.clone() {
            Some(states) => effects_of(&node, states).await,
            None => Ok(EffectsView::default()),
        }
    };
    let (pending, effects) = tokio::join!(in_maps(&node, accepted.record.revision, &concern), effects);
    Ok((etag, Json(view(accepted, effects?, (pending.is_empty(), pending)))))
}

/// The states around a command. Of one that is long past, or of before a restart, the log tells them; `None`: it does not
/// reach back that far.
async fn states(node: &Arc<Node>, accepted: &Accepted) -> Result<Option<States>, Problem> {
    if accepted.states.is_some() {
        return Ok(accepted.states.clone());
    }
    let (log, record) = (node.log.clone(), accepted.record.clone());
    blocking(move || fold::around(&*log, &record).ok()).await
}

fn etag(revision: u64) -> [(HeaderName, String); 1] {
    [(header::ETAG, format!("\"{revision}\""))]
}

/// What a command would do.
async fn rehearse(node: Arc<Node>, command: Command) -> Result<Json<CommandView>, Problem> {
    let engine = node.engine.clone();
    let Rehearsed { events, states } = blocking(move || engine.rehearse(&command)).await??;
    Ok(Json(CommandView {
        schema: SCHEMA.to_owned(),
        command_id: String::new(),
        dry_run: true,
        revision: states.after.revision,
        undo: undo(&states.before, &events),
        events,
        effects: effects_of(&node, states).await?,
        applied: false,
        pending: Vec::new(),
        disruption: None,
    }))
}

fn view(accepted: Accepted, effects: EffectsView, (applied, pending): (bool, Vec<Problem>)) -> CommandView {
    let Accepted { record, states, .. } = accepted;
    CommandView {
        schema: SCHEMA.to_owned(),
        command_id: record.command_id.clone(),
        dry_run: false,
        revision: record.revision,
        events: record.events.clone(),
        effects,
        undo: states.map_or_else(Vec::new, |states| undo(&states.before, &record.events)),
        applied,
        pending,
        disruption: None,
    }
}

/// What a change means for people: tables are built for it, which takes milliseconds.
async fn effects_of(node: &Node, states: States) -> Result<EffectsView, Problem> {
    let (seen, tables) = (node.health.borrow().clone(), node.tables.clone());
    blocking(move || {
        let both = [&states.before, &states.after];
        let differ = states.before.vips_unlike(&states.after);
        let vips = differ.flat_map(|name| both.into_iter().filter_map(|state| state.vips.get(name)));
        let ids = vips.flat_map(|vip| vip.backends.values()).map(|backend| backend.id);
        let health = ids.filter_map(|id| Some((id, seen.get(&id)?.health))).collect();
        let observed = Observed { health, ..Observed::default() };
        effects(summarise_with(&states.before, &states.after, &observed, &tables))
    })
    .await
}

/// Waits until the maps hold a revision; what is in the way of what it is about, or of all, if they do not in time.
async fn in_maps(node: &Node, revision: u64, concern: &Concern) -> Vec<Problem> {
    let own = |problem: &plan::Problem| concern.has(problem);
    let mut standing = node.standing.clone();
    // Rows of what was removed a moment ago are free a sweep later: the answer waits for them, too.
    let awaits_rows = |standing: &Standing| standing.problems.iter().any(|one| own(one) && passes(one));
    let arrived = standing.wait_for(|standing| standing.revision >= revision && !awaits_rows(standing));
    match tokio::time::timeout(APPLY_TIMEOUT, arrived).await {
        Ok(Ok(standing)) => pending(&standing, own),
        _ => {
            let standing = node.standing.borrow();
            let mut pending = pending(&standing, own);
            if pending.is_empty() {
                pending.push(Problem::new(Code::Pending, "the maps are still being changed"));
            }
            pending
        }
    }
}

/// Why the maps are not as they should be: a fault, which concerns all, and of the problems those that are asked for.
pub(super) fn pending(standing: &Standing, which: impl Fn(&plan::Problem) -> bool) -> Vec<Problem> {
    let fault = standing.fault.iter().cloned().map(Problem::from);
    let full = standing
        .problems
        .iter()
        .filter(|problem| which(problem))
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
