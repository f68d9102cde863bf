//! `lb projection`: how far the read side is, and to build it anew.

use clap::Subcommand;
use serde_json::json;

use super::text::count;
use super::{Done, Session};
use crate::api::views::past::RebuiltView;
use crate::api::views::{ListView, ProjectionView};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show the projections and how far each is.
    List,
    /// Build a projection, or each, anew from the whole log, while the old one answers.
    Rebuild {
        /// Its name.
        name: Option<String>,
    },
}

pub(super) async fn run(session: &mut Session<'_>, verb: Verb) -> Done {
    match verb {
        Verb::List => list(session).await,
        Verb::Rebuild { name } => rebuild(session, name).await,
    }
}

async fn list(session: &mut Session<'_>) -> Done {
    let list: ListView<ProjectionView> = session.client.read("/v1/views/projections").await?;
    if session.out.json {
        session.out.value(&list)?;
        return Ok(None);
    }
    let row = |one: &ProjectionView| {
        vec![one.name.clone(), count(one.revision), format!("{} ms", count(one.lag_ms))]
    };
    session.out.table(&["projection", "revision", "behind"], list.items.iter().map(row).collect());
    Ok(None)
}

async fn rebuild(session: &mut Session<'_>, name: Option<String>) -> Done {
    let body = json!({ "name": name });
    let list: ListView<RebuiltView> = session.client.send("/v1/projections/rebuild", &body).await?;
    if session.out.json {
        session.out.value(&list)?;
        return Ok(None);
    }
    let row = |one: &RebuiltView| {
        vec![
            one.name.clone(),
            count(one.records),
            format!("{} ms", count(one.took_ms)),
            count(one.revision),
            if one.same { "the same" } else { "DIFFERENT" }.to_owned(),
        ]
    };
    let headings = ["projection", "records", "took", "revision", "as the old one"];
    session.out.table(&headings, list.items.iter().map(row).collect());
    Ok(None)
}
