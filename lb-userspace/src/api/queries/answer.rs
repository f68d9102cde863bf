//! What all answers of readers have in common: what they are answered from, how fresh it must be, how old it may be, and
//! whether the asker has it already.
//!
//! An answer that the log alone tells has its revision as `ETag`, and is 304 to one who has that. An answer that holds
//! what was observed (health, ways, packets) has none: it is another one at every moment.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lb_control::projection::Projection;
use lb_control::projection::inventory::Inventory;
use serde::Serialize;

use super::super::params::Params;
use super::super::views::ListView;
use super::super::{Node, SCHEMA, blocking};
use crate::clock::unix_ms;
use crate::journal::StoreError;
use crate::problem::{Code, Problem};
use crate::projection::moment::{Moment, rfc3339};
use crate::projection::{Model, Reading};

/// How long `min_revision` waits unless `timeout_ms` says otherwise, milliseconds.
const PATIENCE_MS: u64 = 5_000;
/// The longest that it may, milliseconds: within what a client waits for an answer.
const PATIENCE_MAX_MS: u64 = 30_000;

/// The revision of an answer's body, since a configuration file has no room for it.
const REVISION: HeaderName = HeaderName::from_static("lb-revision");
/// When that was all that was durable.
const AS_OF: HeaderName = HeaderName::from_static("lb-as-of");
/// How far it is behind, milliseconds.
const LAG_MS: HeaderName = HeaderName::from_static("lb-lag-ms");

/// What an answer is made from.
pub(super) struct Basis {
    /// The projections.
    pub(super) model: Arc<Model>,
    /// Revision of what is shown.
    pub(super) revision: u64,
    /// When that was all that was durable, or the time asked for, milliseconds since the Unix epoch.
    as_of_ms: u64,
    /// How far it is behind, milliseconds.
    pub(super) lag_ms: u64,
    /// Whether a point in the past was asked for.
    pub(super) past: bool,
}

/// Takes `min_revision` and `timeout_ms` of a query, and waits as they say.
pub(super) async fn basis(node: &Node, params: &mut Params) -> Result<Basis, Problem> {
    let min_revision: Option<u64> = params.parsed("min_revision")?;
    let patience_ms = params.parsed("timeout_ms")?.unwrap_or(PATIENCE_MS);
    if patience_ms > PATIENCE_MAX_MS {
        let text = format!("`timeout_ms` is {patience_ms}, and can be {PATIENCE_MAX_MS} at most");
        return Err(Problem::new(Code::BadRequest, text).at("query"));
    }
    let Some(wanted) = min_revision else { return Ok(Basis::of(node.projections.read().await)) };
    let read = node.projections.read_from(wanted, Duration::from_millis(patience_ms)).await;
    read.map(Basis::of).map_err(|behind| {
        let text = format!(
            "revision {wanted} was not reached within {patience_ms} ms; the views are at {}",
            behind.revision
        );
        Problem::new(Code::ViewBehind, text)
    })
}

/// The same, and takes `at`.
pub(super) async fn basis_at(node: &Node, params: &mut Params) -> Result<Basis, Problem> {
    let at = params.text("at");
    let basis = basis(node, params).await?;
    match at {
        None => Ok(basis),
        Some(text) => basis.at(&text),
    }
}

impl Basis {
    fn of(Reading { model, as_of_ms, lag_ms }: Reading) -> Self {
        Self { revision: model.revision(), model, as_of_ms, lag_ms, past: false }
    }

    /// The same at a point in the past.
    fn at(self, text: &str) -> Result<Self, Problem> {
        let (revision, as_of_ms) = point(&self.model, text)?;
        let as_of_ms = as_of_ms.unwrap_or(0);
        Ok(Self { revision, as_of_ms, lag_ms: 0, past: true, ..self })
    }

    /// When, for people and machines.
    pub(super) fn as_of(&self) -> String {
        rfc3339(self.as_of_ms)
    }

    /// The inventory that is shown.
    pub(super) async fn inventory(&self, node: &Arc<Node>) -> Result<Shown, Problem> {
        if self.revision >= self.model.inventory.revision() {
            return Ok(Shown::Present(self.model.clone()));
        }
        inventory_at(node, self.revision).await.map(|past| Shown::Past(Box::new(past)))
    }

    /// 304, if the asker has this revision.
    pub(super) fn unchanged(&self, headers: &HeaderMap) -> Option<Response> {
        let has = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let tags = has.flat_map(|list| list.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        let own = format!("\"{}\"", self.revision);
        tags.into_iter()
            .any(|tag| tag == "*" || tag == own)
            .then(|| self.tagged(StatusCode::NOT_MODIFIED.into_response()))
    }

    /// An answer that the log alone tells.
    pub(super) fn pure(&self, body: &impl Serialize) -> Response {
        self.tagged(self.mixed(body))
    }

    /// An answer with what was observed in it.
    pub(super) fn mixed(&self, body: &impl Serialize) -> Response {
        let mut response = Json(body).into_response();
        let headers = response.headers_mut();
        headers.insert(REVISION, self.revision.into());
        headers.insert(LAG_MS, self.lag_ms.into());
        if let Ok(as_of) = HeaderValue::from_str(&self.as_of()) {
            headers.insert(AS_OF, as_of);
        }
        response
    }

    /// Weak, since `as_of` and `lag_ms` in the body differ while the rest does not.
    fn tagged(&self, mut response: Response) -> Response {
        if let Ok(tag) = HeaderValue::from_str(&format!("W/\"{}\"", self.revision)) {
            response.headers_mut().insert(ETAG, tag);
        }
        response
    }

    /// A list.
    pub(super) fn list<T>(&self, items: Vec<T>) -> ListView<T> {
        let (schema, revision) = (SCHEMA.to_owned(), self.revision);
        ListView { schema, revision, as_of: self.as_of(), lag_ms: self.lag_ms, items }
    }
}

/// An inventory, of now or of the past.
pub(super) enum Shown {
    /// Of now.
    Present(Arc<Model>),
    /// Of the past.
    Past(Box<Inventory>),
}

impl Deref for Shown {
    type Target = Inventory;

    fn deref(&self) -> &Inventory {
        match self {
            Self::Present(model) => &model.inventory,
            Self::Past(inventory) => inventory,
        }
    }
}

/// The revision of a point in the past, and its time in milliseconds: that which was asked for, or that of the revision's
/// record (`None` before the first).
pub(super) fn point(model: &Model, text: &str) -> Result<(u64, Option<u64>), Problem> {
    let now_ms = unix_ms();
    match Moment::parse(text, now_ms)? {
        Moment::Revision(revision) if revision > model.revision() => {
            let text = format!("revision {revision} is not there yet; the last is {}", model.revision());
            Err(Problem::new(Code::RevisionAhead, text))
        }
        Moment::Revision(revision) => {
            let place = model.timeline.at_revision(revision);
            Ok((place.map_or(0, |place| place.revision), place.map(|place| place.at_ms)))
        }
        Moment::Time(at_ms) => {
            let place = model.timeline.at_time(at_ms);
            Ok((place.map_or(0, |place| place.revision), Some(at_ms.min(now_ms))))
        }
    }
}

/// An inventory of the past, off the runtime: it may read from a disk.
pub(super) async fn inventory_at(node: &Arc<Node>, revision: u64) -> Result<Inventory, Problem> {
    let projections = node.projections.clone();
    blocking(move || projections.inventory_at(revision)).await?.map_err(unread)
}

/// The log could not be read for a reader.
pub(super) fn unread(error: StoreError) -> Problem {
    Problem::new(Code::LogUnread, error.to_string())
}
