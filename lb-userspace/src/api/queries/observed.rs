//! What the node observed: in the history beside what people asked for, and of each backend as it is.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use lb_control::observation::{self, Observation};
use lb_control::projection::health::Observed;
use lb_control::projection::object::Object;

use super::super::Node;
use super::super::params::Params;
use super::super::views::past::{HealthView, ObservationView};
use super::answer::basis;
use crate::probe::Seen;
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
    let wanted = |one: &Observation| one.at_ms <= until_ms && about(model, object, one);
    let kept = journal.find(from_ms, LIMIT, wanted).map_err(unread)?;
    Ok(kept.iter().map(view).collect())
}

fn about(model: &Model, object: Option<&Object>, one: &Observation) -> bool {
    let Some(object) = object else { return true };
    let (vip, seen) = match &one.object {
        observation::Object::Node => return false,
        observation::Object::Vip { vip, .. } | observation::Object::Pool { vip } => {
            (vip, Object::Vip(vip.as_str().into()))
        }
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
        vip @ (observation::Object::Vip { .. } | observation::Object::Pool { .. }) => format!("vip {vip}"),
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

/// Of the backends that there are, what is known of their health; of one without a probe, nothing.
pub(in crate::api) async fn health(
    State(node): State<Arc<Node>>,
    mut params: Params,
) -> Result<Response, Problem> {
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    let (now, observed) = (node.health.borrow().clone(), node.projections.health());
    let backends = basis.model.inventory.backends().filter_map(|(vip, _, name, backend)| {
        Some(known(vip, name, now.get(&backend.id)?, observed.backends.get(&backend.id)))
    });
    Ok(basis.mixed(&basis.list(backends.collect())))
}

/// A backend's health as the node knows it, with what is kept of how it came to that: some observations are missing, so
/// they may speak of an older change.
fn known(vip: &str, name: &str, now: &Seen, observed: Option<&Observed>) -> HealthView {
    let changed_ms = now.last.map(|last| last.at_ms);
    let of_this = observed.filter(|observed| {
        observed.health == now.health && changed_ms.is_none_or(|at_ms| at_ms == observed.since_ms)
    });
    HealthView {
        vip: vip.to_owned(),
        backend: name.to_owned(),
        health: now.health,
        since: changed_ms.or(of_this.map(|observed| observed.since_ms)).map(rfc3339),
        changes: observed.map_or(0, |observed| observed.changes),
        evidence: of_this.map_or_else(String::new, |observed| observed.evidence.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::health::{Health, Outcome, Transition};

    #[test]
    fn health_is_what_the_node_knows_whatever_was_kept_of_it() {
        let observed = Observed {
            vip: "web".to_owned(),
            backend: "b1".to_owned(),
            health: Health::Up,
            since_ms: 5_000,
            changes: 3,
            evidence: "2 probes in a row".to_owned(),
        };
        let cause = Outcome::Refused;
        let change = |from, to, at_ms| Some(Transition { from, to, at_ms, cause });
        let view = |health, last, observed| known("web", "b1", &Seen { health, last }, observed);
        let down = view(Health::Down, change(Health::Up, Health::Down, 9_000), Some(&observed));
        assert_eq!((down.health, down.since.as_deref()), (Health::Down, Some(&*rfc3339(9_000))));
        assert_eq!(
            (down.changes, &*down.evidence),
            (3, ""),
            "what led to another change says nothing of this"
        );
        let again = view(Health::Up, change(Health::Down, Health::Up, 9_000), Some(&observed));
        assert_eq!((again.since.as_deref(), &*again.evidence), (Some(&*rfc3339(9_000)), ""));
        let up = view(Health::Up, change(Health::Down, Health::Up, 5_000), Some(&observed));
        assert_eq!((up.since.as_deref(), &*up.evidence), (Some(&*rfc3339(5_000)), "2 probes in a row"));
        let adopted = view(Health::Up, None, Some(&observed));
        assert_eq!(
            (adopted.since.as_deref(), &*adopted.evidence),
            (Some(&*rfc3339(5_000)), "2 probes in a row")
        );
        assert_eq!(view(Health::Down, None, Some(&observed)).since, None);
        assert_eq!((view(Health::Down, None, None).since, view(Health::Down, None, None).changes), (None, 0));
    }
}
