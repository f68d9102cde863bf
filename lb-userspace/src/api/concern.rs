//! What a command is about: which of the maps' problems its answer tells. Those of other objects are other people's, and are
//! in the status for whoever looks after the node.
//!
//! Objects are named as the plan's problems name them: `vip NAME`, `backend VIP/NAME`, `tenant NAME`. A backend is in the maps
//! only if its vip is. Not here: how problems come about (`lb_control::plan`).

use std::collections::BTreeSet;

use lb_control::code::Code;
use lb_control::command::Command;
use lb_control::decide::touched;
use lb_control::event::{Change, Event};
use lb_control::plan::Problem;
use lb_control::state::State;

/// What a command is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Concern {
    objects: BTreeSet<String>,
    /// Vips that it is about with all of their backends.
    vips: BTreeSet<String>,
}

impl Concern {
    /// What a command names: also if it changes nothing, it asks that this be so. Of a document that is all that it says.
    pub(super) fn of(command: &Command) -> Self {
        let mut concern = Self::default();
        if let Command::Apply(apply) = command {
            let document = &apply.document;
            concern.objects.extend(document.tenants.iter().map(|spec| format!("tenant {}", spec.name)));
            concern.vips.extend(document.vips.iter().map(|spec| spec.name.clone()));
        } else {
            concern.add(touched(&State::default(), command).object);
        }
        concern
    }

    /// And what it changed.
    pub(super) fn with(mut self, events: &[Event]) -> Self {
        for event in events {
            match &event.change {
                Change::BackendAdded { vip, backend, .. }
                | Change::BackendWeightChanged { vip, backend, .. }
                | Change::BackendIntentChanged { vip, backend, .. }
                | Change::BreakerTripped { vip, backend }
                | Change::BreakerReset { vip, backend }
                | Change::BackendRemoved { vip, backend } => self.add(format!("backend {vip}/{backend}")),
                Change::VipAdded { vip, .. }
                | Change::VipSettingsChanged { vip, .. }
                | Change::VipRemoved { vip } => self.add(format!("vip {vip}")),
                Change::TenantAdded { tenant, .. }
                | Change::TenantLimitsChanged { tenant, .. }
                | Change::TenantRemoved { tenant } => self.add(format!("tenant {tenant}")),
                Change::BypassChanged { .. } | Change::CommandAccepted { .. } => {}
            }
        }
        self
    }

    fn add(&mut self, object: String) {
        let vip = object.strip_prefix("backend ").and_then(|target| target.split_once('/'));
        self.objects.extend(vip.map(|(vip, _)| format!("vip {vip}")));
        self.objects.insert(object);
    }

    /// Whether a problem is one of it.
    pub(super) fn has(&self, problem: &Problem) -> bool {
        self.objects.contains(&problem.object) || problem.vip().is_some_and(|vip| self.vips.contains(vip))
    }
}

/// Whether a problem ends by itself: what the tables could never hold was refused, so these are rows of what was removed
/// and that no packet may hold any more before they are free.
pub(super) fn passes(problem: &Problem) -> bool {
    matches!(problem.code, Code::VipRowsFull | Code::BackendRowsFull | Code::TenantRowsFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concerned(command: &str, changes: Vec<Change>) -> Vec<&'static str> {
        let events: Vec<Event> = changes.into_iter().map(|change| Event { v: 4, at_ms: 0, change }).collect();
        let concern = Concern::of(&serde_json::from_str(command).unwrap()).with(&events);
        let all = [
            "vip web",
            "backend web/b1",
            "backend web/b2",
            "vip dns",
            "backend dns/b1",
            "tenant red",
            "device 7",
        ];
        let of =
            |object: &&str| concern.has(&Problem { code: Code::SourcesFull, object: (*object).to_owned() });
        all.into_iter().filter(of).collect()
    }

    #[test]
    fn a_command_is_about_what_it_names_and_changes_and_a_backend_about_its_vip() {
        let set = r#"{"kind":"backend_set","vip":"web","name":"b1","weight":1}"#;
        assert_eq!(concerned(set, Vec::new()), ["vip web", "backend web/b1"]);
        assert_eq!(concerned(r#"{"kind":"vip_set","name":"web"}"#, Vec::new()), ["vip web"]);
        assert_eq!(concerned(r#"{"kind":"tenant_set","name":"red"}"#, Vec::new()), ["tenant red"]);
        assert_eq!(concerned(r#"{"kind":"bypass_set","on":true}"#, Vec::new()), [""; 0]);
        let document = r#"{"kind":"apply","prune":true,"document":{"tenant":[{"name":"red"}],"vip":[
            {"name":"web","address":"203.0.113.1","port":80}]}}"#;
        let named = ["vip web", "backend web/b1", "backend web/b2", "tenant red"];
        assert_eq!(concerned(document, Vec::new()), named);
        let gone = Change::BackendRemoved { vip: "dns".to_owned(), backend: "b1".to_owned() };
        let all = ["vip web", "backend web/b1", "backend web/b2", "vip dns", "backend dns/b1", "tenant red"];
        assert_eq!(concerned(document, vec![gone]), all);
    }
}
