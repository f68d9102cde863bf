//! The projections themselves: how far each is, and to build one anew.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::super::params::Params;
use super::super::views::ProjectionView;
use super::super::views::past::RebuiltView;
use super::super::{Node, SCHEMA, blocking, parsed};
use super::answer::{basis, unread};
use crate::clock::unix_ms;
use crate::problem::{Code, Problem};
use crate::projection::{Model, NAMES, Rebuilt};
use crate::suggest;

/// Body of `POST /v1/projections/rebuild`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Rebuild {
    /// The projection; none: each.
    #[serde(default)]
    pub name: Option<String>,
}

pub(in crate::api) async fn projections(
    State(node): State<Arc<Node>>,
    mut params: Params,
) -> Result<Response, Problem> {
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    Ok(basis.mixed(&basis.list(views(&node, &basis.model))))
}

/// How far each projection of a model is.
pub(super) fn views(node: &Node, model: &Model) -> Vec<ProjectionView> {
    let now_ms = unix_ms();
    let view = |(name, revision): (&str, u64)| ProjectionView {
        name: name.to_owned(),
        revision,
        lag_ms: node.projections.lag_ms(revision, now_ms),
    };
    model.revisions().into_iter().map(view).collect()
}

pub(in crate::api) async fn rebuild(
    State(node): State<Arc<Node>>,
    body: Bytes,
) -> Result<Json<super::super::views::ListView<RebuiltView>>, Problem> {
    let Rebuild { name } = if body.is_empty() { Rebuild::default() } else { parsed(&body)? };
    if let Some(name) = &name
        && !NAMES.contains(&name.as_str())
    {
        let hint = suggest::hint(name, NAMES);
        return Err(Problem::new(Code::UnknownProjection, format!("there is no projection `{name}`{hint}")));
    }
    let projections = node.projections.clone();
    let rebuilt = blocking(move || projections.rebuild(name.as_deref())).await?.map_err(unread)?;
    let view = |one: Rebuilt| RebuiltView {
        name: one.name.to_owned(),
        records: one.records,
        took_ms: one.took.as_millis() as u64,
        revision: one.revision,
        same: one.same,
    };
    let reading = node.projections.read().await;
    Ok(Json(super::super::views::ListView {
        schema: SCHEMA.to_owned(),
        revision: reading.model.revision(),
        as_of: crate::projection::moment::rfc3339(reading.as_of_ms),
        lag_ms: reading.lag_ms,
        items: rebuilt.into_iter().map(view).collect(),
    }))
}
