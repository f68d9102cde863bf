//! The HTTP API on the local socket: routes to the writer, and views for readers that never touch it.
//!
//! Every answer is JSON with [`SCHEMA`] in it, but `/metrics`, which is OpenMetrics text. Every refusal is
//! `{"schema", "error": {code, message, place, help}}`. Limits of size, time and number are in [`connections`].

pub mod client;
mod commands;
mod concern;
pub mod connections;
pub mod envelope;
mod explain;
mod node;
mod params;
pub mod peer;
mod places;
pub mod public;
mod queries;
pub mod rates;
pub mod stream;
mod undo;
pub mod views;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::Uri;
use axum::routing::{get, post};

pub(crate) use node::device_view;
pub use node::{Attach, Detach, Node};

use crate::problem::{Code, Problem};

/// Version of every JSON shape; another one means that old readers may not understand.
pub const SCHEMA: &str = "lb/v1";

/// All routes.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/commands", post(commands::command))
        .route("/v1/apply", post(commands::apply))
        .route("/v1/plan", post(commands::plan))
        .route("/v1/attach", post(node::attach))
        .route("/v1/detach", post(node::detach))
        .route("/v1/selftest", post(node::selftest))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/views/status", get(queries::status))
        .route("/v1/views/vips", get(queries::vips))
        .route("/v1/views/backends", get(queries::backends))
        .route("/v1/views/tenants", get(queries::tenants))
        .route("/v1/views/drops", get(queries::drops))
        .route("/v1/views/document", get(queries::document))
        .route("/v1/views/inventory", get(queries::inventory))
        .route("/v1/views/history", get(queries::history))
        .route("/v1/views/diff", get(queries::diff))
        .route("/v1/views/blame", get(queries::blame))
        .route("/v1/views/audit", get(queries::audit))
        .route("/v1/views/health", get(queries::health))
        .route("/v1/views/projections", get(queries::projections))
        .route("/v1/projections/rebuild", post(queries::rebuild))
        .route("/v1/events", get(stream::events))
        .merge(public::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .with_state(node)
}

async fn no_route(State(_): State<Arc<Node>>, method: axum::http::Method, uri: Uri) -> Problem {
    Problem::new(Code::NoRoute, format!("there is nothing for {method} at {}", uri.path()))
}

/// The body as JSON, refused with its place where it is not of its form.
fn parsed<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let problem = Problem::new(Code::BadRequest, format!("the body cannot be read: {error}"));
        match error.line() {
            // The fields of a `kind` are read from memory, which has no lines; the message names the field.
            0 => problem,
            line => problem.at(format!("line {line} column {}", error.column())),
        }
    })
}

/// The query, or a refusal of the form that all refusals have.
fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    let refused = |error: QueryRejection| Problem::new(Code::BadRequest, error.body_text()).at("query");
    query.map(|Query(asked)| asked).map_err(refused)
}

/// Runs what may block for milliseconds.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::bug(error.to_string()))
}
