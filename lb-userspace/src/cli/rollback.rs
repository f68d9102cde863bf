//! `lb rollback`: brings back what people wanted at a point in the past, by commands like any others: what was done since
//! stays in the history, and so does the rollback. What was removed since and comes back is new: it has another id, and
//! its flows of then are over.

use std::collections::BTreeMap;

use lb_control::command::{Apply, BackendSpec, BypassSet, Command, Document, VipSpec};
use serde::Serialize;
use uuid::Uuid;

use super::diff::{between, lines};
use super::object::{query, when};
use super::text::several;
use super::{Done, Session};
use crate::api::client::{Client, encoded};
use crate::api::envelope::Envelope;
use crate::api::views::CommandView;
use crate::api::views::past::{DiffView, InventoryView};
use crate::problem::{Code, Exit, Problem};

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
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    dry_run: bool,
    from: &'a crate::api::views::past::PointView,
    to: &'a crate::api::views::past::PointView,
    correlation_id: Option<String>,
    items: &'a [crate::api::views::past::LineView],
    commands: Vec<CommandView>,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let mut diff = between(&session.client, "now", &args.to).await?;
    // Another one, and yet as it was: nothing that a command could bring back.
    diff.items.retain(|line| line.change != "replaced" || !line.fields.is_empty());
    let commands = compensation(&session.client, &diff, args.allow_disruption).await?;
    if !session.out.json {
        told(session, &diff, commands.len());
    }
    let refused = rehearse(session, &commands, args.allow_disruption).await.err();
    if args.dry_run || commands.is_empty() {
        if let Some(problem) = refused {
            session.out.warn(&format!("`lb rollback` would be refused: {}", problem.message));
        }
        return report(session, &diff, None, Vec::new(), args.dry_run);
    }
    if let Some(problem) = refused {
        return Err(problem);
    }
    let reason = args.reason.unwrap_or_else(|| format!("rollback to revision {}", diff.to.revision));
    let (chain, mut cause, mut answers) = (Uuid::now_v7().to_string(), None::<String>, Vec::new());
    for (command, number) in commands.iter().zip(1..) {
        let envelope = Envelope {
            key: Some(format!("{chain}-{number}")),
            reason: Some(reason.clone()),
            correlation_id: Some(chain.clone()),
            causation_id: cause,
            ..Envelope::default()
        };
        let (client, out) = (session.client.clone(), &mut session.out);
        let sent = send(&client, command, "", &envelope, |text| out.say(text)).await;
        let answer = sent.map_err(|problem| stuck(problem, &answers))?;
        if !session.out.json {
            session.out.line(&format!("revision {}", answer.revision));
        }
        cause = Some(answer.command_id.clone());
        answers.push(answer);
    }
    if !session.out.json {
        session.out.line(&format!("undo: lb rollback --to {}", diff.from.revision));
    }
    report(session, &diff, Some(chain), answers, false)
}

fn report(
    session: &mut Session<'_>,
    diff: &DiffView,
    correlation_id: Option<String>,
    commands: Vec<CommandView>,
    dry_run: bool,
) -> Done {
    let applied = commands.iter().all(|command| command.applied);
    if session.out.json {
        let (schema, from, to, items) = (crate::api::SCHEMA, &diff.from, &diff.to, &diff.items);
        session.out.value(&Report { schema, dry_run, from, to, correlation_id, items, commands })?;
    } else if dry_run {
        session.out.line("dry run: nothing was changed");
    } else if !applied {
        session.out.warn("accepted and durable, but not in the maps yet; `lb status` says why");
    }
    Ok((!applied).then_some(Exit::Error))
}

fn told(session: &mut Session<'_>, diff: &DiffView, commands: usize) {
    let then = diff.to.at.as_deref().map_or_else(|| "the beginning".to_owned(), |at| when(at) + " UTC");
    session.out.heading(&format!("back to revision {} ({then})", diff.to.revision));
    if commands == 0 {
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
    session.out.line(&format!("  by {}", several(commands, "command")));
}

/// A chain that broke off: what of it was done.
fn stuck(problem: Problem, done: &[CommandView]) -> Problem {
    let Some(last) = done.last() else { return problem };
    let help = format!(
        "Part of the rollback was done, up to revision {}; run it again when this is mended.",
        last.revision
    );
    problem.with_help(help)
}

/// Whether the commands will be taken, before any is sent. Where something must go first, what comes after it cannot be
/// rehearsed, so that the way is only gone with the word that allows all of it.
async fn rehearse(
    session: &mut Session<'_>,
    commands: &[Command],
    allow_disruption: bool,
) -> Result<(), Problem> {
    let mut applies = commands.iter().filter(|command| matches!(command, Command::Apply(_)));
    let Some(first) = applies.next() else { return Ok(()) };
    if applies.next().is_some() && !allow_disruption {
        let text = "something has the name of what was another: it goes first, and its flows end";
        return Err(Problem::new(Code::Disruption, text).with_help("Say --allow-disruption if it is meant."));
    }
    let none = Envelope::default();
    send(&session.client.clone(), first, "?dry_run=true", &none, |_| ()).await.map(drop)
}

async fn send(
    client: &Client,
    command: &Command,
    query: &str,
    envelope: &Envelope,
    say: impl FnMut(&str),
) -> Result<CommandView, Problem> {
    // The larger limit of a whole configuration is the path's.
    match command {
        Command::Apply(apply) => client.send_in(&format!("/v1/apply{query}"), envelope, apply, say).await,
        other => client.send_in(&format!("/v1/commands{query}"), envelope, other, say).await,
    }
}

/// The commands that lead from the first point of a comparison to the second.
async fn compensation(
    client: &Client,
    diff: &DiffView,
    allow_disruption: bool,
) -> Result<Vec<Command>, Problem> {
    if diff.items.is_empty() {
        return Ok(Vec::new());
    }
    let (now, then) = (diff.from.revision, diff.to.revision);
    let at = |revision: u64| query("/v1/views/document", &[("at", Some(encoded(&revision.to_string())))]);
    let present: Document = client.read(&at(now)).await?;
    let wanted: Document = client.read(&at(then)).await?;
    let past: InventoryView =
        client.read(&query("/v1/views/inventory", &[("at", Some(then.to_string()))])).await?;
    let mut commands = Vec::new();
    let bypass = diff.items.iter().any(|line| line.object == "bypass");
    // First on, last off: what follows may be disruptive.
    if bypass && past.bypass {
        commands.push(Command::BypassSet(BypassSet { on: true }));
    }
    let apply = |document| Command::Apply(Apply { document, prune: true, allow_disruption });
    if let Some(without) = without_conflicts(&present, &wanted) {
        commands.push(apply(without));
    }
    if diff.items.iter().any(|line| line.object != "bypass") {
        commands.push(apply(wanted));
    }
    if bypass && !past.bypass {
        commands.push(Command::BypassSet(BypassSet { on: false }));
    }
    Ok(commands)
}

/// What there is without what stands in the way under a name that is wanted for something else: an address that was
/// another one, a mode that a vip with backends cannot change. None: nothing does.
fn without_conflicts(present: &Document, wanted: &Document) -> Option<Document> {
    let then: BTreeMap<&str, &VipSpec> = wanted.vips.iter().map(|vip| (vip.name.as_str(), vip)).collect();
    let mut vips = Vec::new();
    for vip in &present.vips {
        let Some(was) = then.get(vip.name.as_str()) else {
            vips.push(vip.clone());
            continue;
        };
        if vip_conflicts(vip, was) {
            continue;
        }
        let mut kept = vip.clone();
        kept.backends.retain(|backend| !backend_conflicts(backend, vip, was));
        vips.push(kept);
    }
    let without = Document { tenants: present.tenants.clone(), vips };
    (without != *present).then_some(without)
}

fn vip_conflicts(is: &VipSpec, was: &VipSpec) -> bool {
    let identity = |vip: &VipSpec| (vip.address, vip.port, vip.protocol, vip.tenant.clone());
    let fixed = |vip: &VipSpec| (vip.mode, vip.table_size);
    identity(is) != identity(was) || (!is.backends.is_empty() && fixed(is) != fixed(was))
}

fn backend_conflicts(is: &BackendSpec, vip: &VipSpec, was: &VipSpec) -> bool {
    let port = |backend: &BackendSpec, of: &VipSpec| backend.port.unwrap_or(of.port);
    let was_so = was.backends.iter().find(|backend| backend.name == is.name);
    was_so.is_some_and(|other| other.address != is.address || port(other, was) != port(is, vip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::vip::{Mode, Protocol};

    fn document(mode: Mode, address: &str, backends: &[(&str, &str)]) -> Document {
        let mut vip = VipSpec::new("web", address.parse().unwrap(), 80, Protocol::Tcp);
        vip.mode = Some(mode);
        vip.backends = backends
            .iter()
            .map(|(name, address)| BackendSpec::new(*name, address.parse().unwrap()))
            .collect();
        Document { tenants: Vec::new(), vips: vec![vip] }
    }

    #[test]
    fn only_what_cannot_become_what_it_was_goes_first() {
        let two = [("b1", "10.0.0.1"), ("b2", "10.0.0.2")];
        let then = document(Mode::L2, "203.0.113.1", &two);
        assert_eq!(without_conflicts(&then, &then), None);
        let fewer = document(Mode::L2, "203.0.113.1", &two[..1]);
        assert_eq!(without_conflicts(&fewer, &then), None, "what is missing is added");
        let moved = document(Mode::L2, "203.0.113.1", &[("b1", "10.0.0.9"), two[1]]);
        let kept = without_conflicts(&moved, &then).unwrap();
        assert_eq!(kept, document(Mode::L2, "203.0.113.1", &two[1..]));
        let elsewhere = document(Mode::L2, "203.0.113.2", &two);
        assert!(without_conflicts(&elsewhere, &then).unwrap().vips.is_empty());
        let nat = document(Mode::Nat, "203.0.113.1", &two);
        assert!(without_conflicts(&nat, &then).unwrap().vips.is_empty());
        assert_eq!(without_conflicts(&document(Mode::Nat, "203.0.113.1", &[]), &then), None);
    }
}
