//! On whom a vip falls back: a vip of the same tenant whose backends take its packets as their own, and never itself.
//!
//! It concerns two vips, each of which may change, come and go in one command: it is checked on the state that would be.

use super::draft::Draft;
use crate::code::Code;
use crate::command::Command;
use crate::event::Change;
use crate::state::State;
use crate::vip::Vip;

/// Notes a fault for each vip that would fall back on one that it must not fall back on.
pub(super) fn check(draft: &mut Draft, command: &Command) {
    let of_vips = |change: &Change| {
        matches!(
            change,
            Change::VipAdded { .. } | Change::VipSettingsChanged { .. } | Change::VipRemoved { .. }
        )
    };
    if !draft.events.iter().any(|event| of_vips(&event.change)) {
        return;
    }
    let falls = |(name, vip): (&String, &std::sync::Arc<Vip>)| {
        let fallback = vip.settings.ladder.fallback.as_deref()?;
        let (code, message) = fault(&draft.state, name, vip, fallback)?;
        Some((code, place(command, name), message))
    };
    let faults: Vec<_> = draft.state.vips.iter().filter_map(falls).collect();
    faults.into_iter().for_each(|(code, place, message)| draft.fault(code, place, message));
}

fn fault(state: &State, name: &str, vip: &Vip, fallback: &str) -> Option<(Code, String)> {
    let Some(other) = state.vips.get(fallback) else {
        let message = format!("vip `{name}` would fall back on vip `{fallback}`, which does not exist");
        return Some((Code::FallbackUnknown, message));
    };
    if returns(state, name, fallback) {
        return Some((
            Code::FallbackCycle,
            format!("vip `{name}` would fall back on itself by `{fallback}`"),
        ));
    }
    if other.tenant != vip.tenant {
        let message =
            format!("vip `{fallback}` is of tenant `{}`, vip `{name}` of `{}`", other.tenant, vip.tenant);
        return Some((Code::FallbackTenant, message));
    }
    let kind = |vip: &Vip| (vip.settings.mode, vip.served.protocol, vip.served.address.is_ipv4());
    (kind(other) != kind(vip)).then(|| {
        let told =
            |vip: &Vip| format!("serves {} in mode {:?}", vip.served, vip.settings.mode).to_lowercase();
        let message = format!("vip `{name}` {}, but vip `{fallback}` {}", told(vip), told(other));
        (Code::FallbackKind, message)
    })
}

/// Whether whoever falls back on `from`, and on whom that falls back, and so on, comes to `name`.
fn returns(state: &State, name: &str, from: &str) -> bool {
    let next = |at: &&str| state.vips.get(*at).and_then(|vip| vip.settings.ladder.fallback.as_deref());
    // A cycle that `name` is not in has faults of its own, and must not be walked for ever.
    std::iter::successors(Some(from), next).take(state.vips.len() + 1).any(|at| at == name)
}

/// Where the command says it of this vip.
fn place(command: &Command, name: &str) -> String {
    match command {
        Command::VipAdd(_) | Command::VipSet(_) => "ladder.fallback".to_owned(),
        Command::Apply(wish) => match wish.document.vips.iter().position(|spec| spec.name == name) {
            Some(index) => format!("vip[{index}].ladder.fallback"),
            None => String::new(),
        },
        Command::VipRemove(_) => "name".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use crate::code::Code;
    use crate::command::Command;
    use crate::decide::{Now, decide};
    use crate::limits::Limits;
    use crate::rejection::Rejection;
    use crate::state::State;

    #[test]
    fn a_vip_falls_back_on_one_of_its_kind_and_never_on_itself() {
        let mut state = State::default();
        let accept = |state: &mut State, json: &str| {
            let command: Command = serde_json::from_str(json).unwrap();
            let events = decide(state, &Limits::default(), Now(0), &command)?;
            events.iter().for_each(|event| state.apply(event));
            Ok::<(), Rejection>(())
        };
        accept(&mut state, r#"{"kind":"tenant_add","name":"red"}"#).unwrap();
        for (name, port, more) in [
            ("a", 80, r#""mode":"l2""#),
            ("b", 81, r#""mode":"l2""#),
            ("c", 82, r#""mode":"l2""#),
            ("nat", 83, r#""mode":"nat""#),
            ("udp", 84, r#""mode":"l2","protocol":"udp""#),
        ] {
            let json = format!(
                r#"{{"kind":"vip_add","name":"{name}","address":"203.0.113.50","port":{port},{more}}}"#
            );
            accept(&mut state, &json).unwrap();
        }
        let other = r#"{"kind":"vip_add","name":"red","tenant":"red","address":"203.0.113.51","port":80,"mode":"l2"}"#;
        accept(&mut state, other).unwrap();
        let set = |name: &str, fallback: &str| {
            format!(r#"{{"kind":"vip_set","name":"{name}","ladder":{{"fallback":"{fallback}"}}}}"#)
        };
        let code = |state: &mut State, json: &str| {
            accept(state, json).map_err(|rejection| (rejection.code, rejection.place.clone()))
        };
        let place = || "ladder.fallback".to_owned();
        assert_eq!(code(&mut state, &set("a", "nobody")), Err((Code::FallbackUnknown, place())));
        assert_eq!(code(&mut state, &set("a", "a")), Err((Code::FallbackCycle, place())));
        assert_eq!(code(&mut state, &set("a", "red")), Err((Code::FallbackTenant, place())));
        for kind in ["nat", "udp"] {
            assert_eq!(code(&mut state, &set("a", kind)), Err((Code::FallbackKind, place())));
        }
        assert_eq!(code(&mut state, &set("a", "b")), Ok(()));
        assert_eq!(code(&mut state, &set("b", "c")), Ok(()));
        assert_eq!(code(&mut state, &set("c", "a")).unwrap_err().0, Code::FallbackCycle);
        // Who is fallen back on stays, and stays of its kind.
        let gone = r#"{"kind":"vip_remove","name":"c","allow_disruption":true}"#;
        assert_eq!(code(&mut state, gone), Err((Code::FallbackUnknown, "name".to_owned())));
        let other = r#"{"kind":"vip_set","name":"c","mode":"ipip"}"#;
        assert_eq!(code(&mut state, other).unwrap_err().0, Code::FallbackKind);
        assert_eq!(code(&mut state, &set("b", "")), Ok(()));
        assert_eq!(code(&mut state, gone), Ok(()));
        assert_eq!(state.vips["b"].settings.ladder.fallback, None);
        // A document may name what stands further down in it.
        let both = r#"{"kind":"apply","document":{"vip":[
        {"name":"x","address":"203.0.113.50","port":90,"mode":"l2","ladder":{"fallback":"y"}},
        {"name":"y","address":"203.0.113.50","port":91,"mode":"l2"}]}}"#;
        assert_eq!(code(&mut state, both), Ok(()));
        let wrong = both.replace("\"y\"}", "\"z\"}");
        assert_eq!(
            code(&mut state, &wrong),
            Err((Code::FallbackUnknown, "vip[0].ladder.fallback".to_owned()))
        );
    }
}
