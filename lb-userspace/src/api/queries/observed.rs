//! What the node observed: in the history beside what people asked for, and of each backend as it is.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use lb_control::observation::{self, Observation};
use lb_control::projection::object::Object;

use super::super::Node;
use super::super::params::Params;
use super::super::views::past::{HealthView, ObservationView};
use super::answer::basis;
use crate::problem::{Code, Problem};
use crate::projection::Model;
use crate::projection::moment::rfc3339;

/// Observations of one answer, the newest.
const LIMIT: usize = 1_000;

/// What was observed of an object (of everything, without one) in a time; milliseconds since the Unix epoch, both ends
/// within.
pub(super) fn within(
    node: &Node,
    model: &Model,
    object: Option<&Object>,
    (from_ms, until_ms): (u64, u64),
) -> Result<Vec<ObservationView>, Problem> {
    let Some(journal) = &node.observations else { return Ok(Vec::new()) };
    let unread = |error: std::io::Error| {
        Problem::new(Code::LogUnread, format!("what was observed cannot be read: {error}"))
    };
    let kept = journal.read(from_ms, usize::MAX).map_err(unread)?;
    let wanted = kept.into_iter().filter(|one| one.at_ms <= until_ms && about(model, object, one));
    let mut views: Vec<ObservationView> = wanted.map(|one| view(&one)).collect();
    views.drain(..views.len().saturating_sub(LIMIT));
    Ok(views)
}

fn about(model: &Model, object: Option<&Object>, one: &Observation) -> bool {
    let Some(object) = object else { return true };
    let (vip, seen) = match &one.object {
        observation::Object::Node => return false,
        observation::Object::Vip { vip, .. } => (vip, Object::Vip(vip.as_str().into())),
        observation::Object::Backend { vip, backend, .. } => {
            (vip, Object::Backend(vip.as_str().into(), backend.as_str().into()))
        }
    };
    match object {
        Object::Tenant(tenant) => {
            model.inventory.vips.get(vip.as_str()).is_some_and(|of| *of.tenant == **tenant)
        }
        object => object.holds(&seen),
    }
}

fn view(one: &Observation) -> ObservationView {
    let object = match &one.object {
        observation::Object::Node => "node".to_owned(),
        vip @ observation::Object::Vip { .. } => format!("vip {vip}"),
        backend => format!("backend {backend}"),
    };
    let text = match one.change {
        observation::Change::HealthChanged { .. } => format!("health {}", one.change),
        observation::Change::LadderChanged { .. } => format!("served by {}", one.change),
        observation::Change::BreakerChanged { .. } => format!("breaker {}", one.change),
        observation::Change::Suppressed { .. } => one.change.to_string(),
    };
    ObservationView { seq: one.seq, at: rfc3339(one.at_ms), object, text, evidence: one.evidence.clone() }
}

/// Of the backends that there are, what was observed; of one without a probe, nothing.
pub(in crate::api) async fn health(
    State(node): State<Arc<Node>>,
    mut params: Params,
) -> Result<Response, Problem> {
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    let health = node.projections.health();
    let backends = basis.model.inventory.backends().filter_map(|(vip, _, name, backend)| {
        let seen = health.backends.get(&backend.id)?;
        Some(HealthView {
            vip: vip.to_owned(),
            backend: name.to_owned(),
            health: seen.health,
            since: rfc3339(seen.since_ms),
            changes: seen.changes,
            evidence: seen.evidence.clone(),
        })
    });
    Ok(basis.mixed(&basis.list(backends.collect())))
}
