//! What a command touches, and which revision last changed it: what `If-Match` is compared with. It is the revision of
//! the object, not the head of the log, so that a command is not refused for what others did elsewhere.

use crate::command::Command;
use crate::state::State;

/// What a command touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// `tenant NAME`, `vip NAME`, `backend VIP/NAME`, `bypass`, or `configuration` for a whole document.
    pub object: String,
    /// Revision of the last event that changed it; 0 = there is no such thing, or it never changed.
    pub revision: u64,
}

/// What a command touches, as of a state.
pub fn touched(state: &State, command: &Command) -> Touched {
    let tenant = |name: &str| {
        let revision = state.tenants.get(name).map_or(0, |tenant| tenant.revision);
        Touched { object: format!("tenant {name}"), revision }
    };
    let vip = |name: &str| {
        let revision = state.vips.get(name).map_or(0, |vip| vip.revision);
        Touched { object: format!("vip {name}"), revision }
    };
    let backend = |vip: &str, name: &str| {
        let revision = state.backend(vip, name).map_or(0, |backend| backend.revision);
        Touched { object: format!("backend {vip}/{name}"), revision }
    };
    match command {
        Command::TenantAdd(spec) => tenant(&spec.name),
        Command::TenantSet(set) => tenant(&set.name),
        Command::TenantRemove(remove) => tenant(&remove.name),
        Command::VipAdd(spec) => vip(&spec.name),
        Command::VipSet(set) => vip(&set.name),
        Command::VipRemove(remove) => vip(&remove.name),
        Command::BackendAdd(add) => backend(&add.vip, &add.name),
        Command::BackendSet(set) => backend(&set.vip, &set.name),
        Command::BackendRemove(remove) => backend(&remove.vip, &remove.name),
        Command::BreakerTrip(trip) => backend(&trip.vip, &trip.name),
        Command::BreakerReset(reset) => backend(&reset.vip, &reset.name),
        Command::BypassSet(_) => Touched { object: "bypass".to_string(), revision: state.bypass_revision },
        Command::Apply(_) => Touched { object: "configuration".to_string(), revision: state.revision },
    }
}

#[cfg(test)]
mod tests {
    use super::touched;
    use crate::command::Command;
    use crate::decide::{Now, rehearse};
    use crate::limits::Limits;
    use crate::state::State;

    fn accept(state: &mut State, json: &str) {
        let command: Command = serde_json::from_str(json).unwrap();
        *state = rehearse(state, &Limits::default(), Now(0), &command).unwrap().after;
    }

    fn of(state: &State, json: &str) -> (String, u64) {
        let command: Command = serde_json::from_str(json).unwrap();
        let touched = touched(state, &command);
        (touched.object, touched.revision)
    }

    #[test]
    fn each_object_has_the_revision_of_its_own_last_change() {
        let mut state = State::default();
        accept(&mut state, r#"{"kind":"tenant_add","name":"red"}"#);
        accept(
            &mut state,
            r#"{"kind":"vip_add","name":"web","address":"203.0.113.1","port":80,"mode":"l2"}"#,
        );
        accept(&mut state, r#"{"kind":"backend_add","vip":"web","name":"b1","address":"10.0.0.1"}"#);
        accept(&mut state, r#"{"kind":"backend_add","vip":"web","name":"b2","address":"10.0.0.2"}"#);
        accept(&mut state, r#"{"kind":"bypass_set","on":true}"#);
        let named = |object: &str, revision| (object.to_string(), revision);
        assert_eq!(of(&state, r#"{"kind":"tenant_remove","name":"red"}"#), named("tenant red", 1));
        assert_eq!(of(&state, r#"{"kind":"tenant_add","name":"blue"}"#), named("tenant blue", 0));
        assert_eq!(of(&state, r#"{"kind":"vip_set","name":"web"}"#), named("vip web", 4));
        assert_eq!(
            of(&state, r#"{"kind":"backend_set","vip":"web","name":"b1"}"#),
            named("backend web/b1", 3)
        );
        let add = r#"{"kind":"backend_add","vip":"web","name":"b3","address":"10.0.0.3"}"#;
        assert_eq!(of(&state, add), named("backend web/b3", 0));
        assert_eq!(of(&state, r#"{"kind":"bypass_set","on":false}"#), named("bypass", 5));
        assert_eq!(of(&state, r#"{"kind":"apply","document":{}}"#), named("configuration", 5));
    }
}
