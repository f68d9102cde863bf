//! What went wrong, when, and with whom: one record for every kind of traffic.

use std::time::Instant;

use serde::Serialize;

/// Most failures one report keeps in detail; the counts go on.
pub(crate) const FAILURES_MAX: usize = 10_000;

/// How far an exchange came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// No connection: refused, reset or timed out while connecting.
    Connect,
    /// A connection, but no whole answer on it.
    Exchange,
    /// None was under way: an established connection ended by itself.
    Idle,
    /// An answer with another status than 200, or with another content.
    Answer,
}

/// One failed exchange.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// When the exchange began, connecting included where it did.
    #[serde(skip)]
    pub began: Instant,
    /// When it failed.
    #[serde(skip)]
    pub at: Instant,
    /// The same in milliseconds since the traffic began.
    pub at_ms: u64,
    /// How far it came.
    pub stage: Stage,
    /// The backend of that connection or flow, where an earlier answer has named it.
    pub backend: Option<String>,
    /// What the system said.
    pub error: String,
}

impl Failure {
    /// A failure as of now of an exchange that began then, in traffic that runs since `start`.
    pub(crate) fn now(
        (start, began): (Instant, Instant),
        stage: Stage,
        backend: Option<&str>,
        error: String,
    ) -> Self {
        let at = Instant::now();
        let at_ms = u64::try_from(at.duration_since(start).as_millis()).unwrap_or(u64::MAX);
        Self { began, at, at_ms, stage, backend: backend.map(str::to_owned), error }
    }
}

/// Keeps `failure` unless the list is full.
pub(crate) fn keep(failures: &mut Vec<Failure>, failure: Failure) {
    if failures.len() < FAILURES_MAX {
        failures.push(failure);
    }
}
