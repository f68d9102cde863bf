//! `lb diff`: what lies between two points in the past.

use super::history::said;
use super::object::{query, when};
use super::{Done, Session};
use crate::api::client::{Client, encoded};
use crate::api::views::past::{DiffView, LineView, PointView};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// From this point: a revision, a time (UTC), or a distance such as `1h ago`.
    #[arg(long, value_name = "TIME|REV")]
    from: String,
    /// To this one.
    #[arg(long, value_name = "TIME|REV", default_value = "now")]
    to: String,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let view = between(&session.client, &args.from, &args.to).await?;
    if session.out.json {
        session.out.value(&view)?;
        return Ok(None);
    }
    session.out.heading(&format!("from {} to {}", point(&view.from), point(&view.to)));
    if view.items.is_empty() {
        session.out.line("  nothing differs");
    }
    lines(session, &view.items);
    Ok(None)
}

/// Asks for what lies between two points.
pub(super) async fn between(
    client: &Client,
    from: &str,
    to: &str,
) -> Result<DiffView, crate::problem::Problem> {
    let words = [("from", Some(encoded(from))), ("to", Some(encoded(to)))];
    client.read(&query("/v1/views/diff", &words)).await
}

/// `+` what is new, `-` what is gone, `~` what is other.
pub(super) fn lines(session: &mut Session<'_>, lines: &[LineView]) {
    for line in lines {
        let (sign, style) = match line.change.as_str() {
            "made" => ("+", "32"),
            "removed" => ("-", "31"),
            _ => ("~", "33"),
        };
        let sign = session.out.styled(style, sign);
        session.out.marked(&sign, &said(line));
    }
}

fn point(point: &PointView) -> String {
    match &point.at {
        Some(at) => format!("revision {} ({} UTC)", point.revision, when(at)),
        None => format!("revision {} (the beginning)", point.revision),
    }
}
