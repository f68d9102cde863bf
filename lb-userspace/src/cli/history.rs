//! `lb history`: who changed what, when and why.

use super::number::whole;
use super::object::{named, query, when};
use super::{Done, Session};
use crate::api::client::encoded;
use crate::api::views::past::{CauseView, EntryView, HistoryView, LineView, ObservationView};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only of this object: `vip NAME` (its backends too), `backend VIP/NAME`, `tenant NAME` (its vips too) or `bypass`.
    #[arg(num_args = 0..=2, value_names = ["KIND", "NAME"])]
    object: Vec<String>,
    /// Only from this point on: a time (UTC), `2h ago`, or a revision.
    #[arg(long, value_name = "TIME|REV")]
    since: Option<String>,
    /// Only up to this point.
    #[arg(long, value_name = "TIME|REV")]
    until: Option<String>,
    /// Only what this user changed.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// The last so many, 1 to 1000.
    #[arg(long, value_name = "COUNT", default_value_t = 50, allow_negative_numbers = true, value_parser = whole::<usize>("from 1 to 1000"))]
    limit: usize,
    /// Only before this revision: to turn pages back.
    #[arg(long, value_name = "REV", allow_negative_numbers = true, value_parser = whole::<u64>("from 0 on"))]
    before: Option<u64>,
    /// Show what led to each, back to the command or the observation that it began with.
    #[arg(long)]
    why: bool,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let object = if args.object.is_empty() { None } else { Some(named(&args.object)?) };
    let encoded = |text: Option<String>| text.map(|text| encoded(&text));
    let path = query(
        "/v1/views/history",
        &[
            ("object", object),
            ("since", encoded(args.since)),
            ("until", encoded(args.until)),
            ("actor", encoded(args.actor)),
            ("before", args.before.map(|before| before.to_string())),
            ("limit", Some(args.limit.to_string())),
            ("why", args.why.then(|| "true".to_owned())),
        ],
    );
    let view: HistoryView = session.client.read(&path).await?;
    if session.out.json {
        session.out.value(&view)?;
        return Ok(None);
    }
    if view.items.is_empty() && view.observations.is_empty() {
        session.out.line(&format!("nothing is known of that, up to revision {}", view.revision));
        return Ok(None);
    }
    session.out.table(&["rev", "when (UTC)", "who", "what", "why"], rows(&view));
    if let Some(before) = view.before {
        session.out.say(&format!("there is more before: --before {before}"));
    }
    Ok(None)
}

/// Rows of records in the order of revisions, and between them what was observed before the next of them was decided.
fn rows(view: &HistoryView) -> Vec<Vec<String>> {
    let (mut rows, mut observed) = (Vec::new(), view.observations.iter().peekable());
    for record in &view.items {
        while let Some(earlier) = observed.next_if(|one| one.at < record.act.at) {
            rows.push(observation(earlier));
        }
        rows.extend(entry(record));
    }
    rows.extend(observed.map(observation));
    rows
}

/// What was observed has no revision: nobody asked for it.
fn observation(one: &ObservationView) -> Vec<String> {
    let what = format!("{}: {}", one.object, one.text);
    vec!["-".to_owned(), when(&one.at), "observed".to_owned(), what, one.evidence.clone()]
}

/// A row for each line of a record; what it says of itself stands in the first.
fn entry(entry: &EntryView) -> Vec<Vec<String>> {
    let act = &entry.act;
    let mut whats: Vec<String> = entry.lines.iter().map(said).collect();
    if whats.is_empty() {
        whats.push(format!("{}: it was so already", act.command));
    }
    whats.extend(entry.causes.iter().map(cause));
    let of_record = [act.revision.to_string(), when(&act.at), act.actor.clone()];
    let row = |(index, what): (usize, String)| {
        let [revision, at, actor] = if index == 0 { of_record.clone() } else { <[String; 3]>::default() };
        let why = act.reason.clone().filter(|_| index == 0).unwrap_or_default();
        vec![revision, at, actor, what, why]
    };
    whats.into_iter().enumerate().map(row).collect()
}

/// A line in words.
pub(super) fn said(line: &LineView) -> String {
    let text = if line.text.is_empty() { String::new() } else { format!(": {}", line.text) };
    let verb = if line.change == "changed" { String::new() } else { format!(" {}", line.change) };
    format!("{}{verb}{text}", line.object)
}

fn cause(cause: &CauseView) -> String {
    match &cause.command {
        Some(act) => {
            let why = act.reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            format!("  <- {} by {} at revision {}{why}", act.command, act.actor, act.revision)
        }
        None => format!("  <- {}, which this log does not hold", cause.id),
    }
}
