//! Whether each tenant has no more vips and backends than it may. What was too much before cannot be: a quota below what
//! there is is refused. Only tenants of which something changed are looked at.

use super::draft::Draft;
use crate::code::Code;
use crate::state::State;
use crate::tenant::Limit;
use std::collections::BTreeMap;

/// Notes a fault for each quota that the draft would go beyond.
pub(super) fn check(before: &State, draft: &mut Draft) {
    let quotas = |limit| {
        let tenants = draft.state.tenants.iter();
        tenants.filter_map(move |(name, tenant)| Some((name.clone(), tenant.limits.of(limit)?)))
    };
    let (vips, backends): (Vec<_>, Vec<_>) =
        (quotas(Limit::Vips).collect(), quotas(Limit::Backends).collect());
    if vips.is_empty() && backends.is_empty() {
        return;
    }
    let (had, has) = (counts(before), counts(&draft.state));
    for (limit, code, quotas, of) in
        [(Limit::Vips, Code::VipQuota, vips, 0), (Limit::Backends, Code::BackendQuota, backends, 1)]
    {
        for (tenant, quota) in quotas {
            let count = has.get(tenant.as_str()).map_or(0, |counts| counts[of]);
            let grew = count > had.get(tenant.as_str()).map_or(0, |counts| counts[of]);
            let lowered =
                before.tenants.get(&tenant).and_then(|tenant| tenant.limits.of(limit)) != Some(quota);
            if count <= quota || !(grew || lowered) {
                continue;
            }
            let (code, place) = if grew { (code, "") } else { (Code::TenantQuota, limit.name()) };
            draft.fault(
                code,
                place,
                format!("tenant `{tenant}` would have {count} {limit}, of {quota} that it may"),
            );
        }
    }
}

/// Vips and backends of each tenant.
fn counts(state: &State) -> BTreeMap<String, [u64; 2]> {
    let mut counts = BTreeMap::<String, [u64; 2]>::new();
    for vip in state.vips.values() {
        let count = counts.entry(vip.tenant.clone()).or_default();
        count[0] += 1;
        count[1] += vip.backends.len() as u64;
    }
    counts
}

#[cfg(test)]
mod tests {
    use crate::code::Code;
    use crate::command::Command;
    use crate::decide::{Now, rehearse};
    use crate::event::Change;
    use crate::limits::Limits;
    use crate::state::State;
    use crate::tenant::Limit;

    /// Brings a command about, or says why not, and where.
    fn give(state: &mut State, json: &str) -> Result<(), (Code, String)> {
        let command: Command = serde_json::from_str(json).unwrap();
        let decided = rehearse(state, &Limits::default(), Now(0), &command);
        *state = decided.map_err(|rejection| (rejection.code, rejection.place))?.after;
        Ok(())
    }

    fn vip(state: &mut State, name: &str, tenant: &str, last: u8) -> Result<(), (Code, String)> {
        let kind = r#""kind":"vip_add","port":80,"mode":"l2""#;
        let own = format!(r#""name":"{name}","tenant":"{tenant}","address":"203.0.113.{last}""#);
        give(state, &format!("{{{kind},{own}}}"))
    }

    fn backend(state: &mut State, vip: &str, last: u8) -> Result<(), (Code, String)> {
        let own = format!(r#""vip":"{vip}","name":"b{last}","address":"10.0.0.{last}""#);
        give(state, &format!(r#"{{"kind":"backend_add",{own}}}"#))
    }

    #[test]
    fn limits_out_of_range_are_refused_by_name() {
        let mut state = State::default();
        give(&mut state, r#"{"kind":"tenant_add","name":"red"}"#).unwrap();
        for (limit, value, code) in [
            ("burst_ms", 0, Code::TenantBurst),
            ("burst_ms", 10_001, Code::TenantLimitRange),
            ("packets_per_s", 0, Code::TenantLimitRange),
            ("bits_per_s", 1_000_000_000_001_u64, Code::TenantLimitRange),
            ("flow_share_percent", 101, Code::TenantShare),
            ("nat_share_percent", 0, Code::TenantShare),
            ("commands_per_s", 0, Code::TenantLimitRange),
        ] {
            let set = format!(r#"{{"kind":"tenant_set","name":"red","{limit}":{value}}}"#);
            assert_eq!(give(&mut state, &set), Err((code, limit.to_string())), "{value}");
            let document = format!(r#"{{"document":{{"tenant":[{{"name":"red","{limit}":{value}}}]}}}}"#);
            let apply = format!(r#"{{"kind":"apply",{}"#, &document[1..]);
            assert_eq!(give(&mut state, &apply), Err((code, format!("tenant[0].{limit}"))), "{value}");
        }
        let nothing = give(&mut state, r#"{"kind":"tenant_set","name":"red"}"#);
        assert_eq!(nothing, Err((Code::NothingToSet, String::new())));
        let nobody = give(&mut state, r#"{"kind":"tenant_set","name":"ted","vips":1}"#);
        assert_eq!(nobody, Err((Code::UnknownTenant, "name".to_string())));
        assert!(serde_json::from_str::<Command>(r#"{"kind":"tenant_set","name":"red","vip":1}"#).is_err());
        assert!(state.tenants["red"].limits.is_empty());
    }

    #[test]
    fn quotas_hold_for_what_comes_and_never_lie_below_what_there_is() {
        let mut state = State::default();
        give(&mut state, r#"{"kind":"tenant_add","name":"red","vips":2,"backends":2}"#).unwrap();
        vip(&mut state, "a", "red", 1).unwrap();
        vip(&mut state, "b", "red", 2).unwrap();
        assert_eq!(vip(&mut state, "c", "red", 3), Err((Code::VipQuota, String::new())));
        vip(&mut state, "d", "default", 4).unwrap();
        backend(&mut state, "a", 1).unwrap();
        backend(&mut state, "b", 2).unwrap();
        assert_eq!(backend(&mut state, "a", 3), Err((Code::BackendQuota, String::new())));
        backend(&mut state, "d", 3).unwrap();
        let lower = r#"{"kind":"tenant_set","name":"red","backends":1}"#;
        assert_eq!(give(&mut state, lower), Err((Code::TenantQuota, "backends".to_string())));
        give(&mut state, r#"{"kind":"backend_remove","vip":"b","name":"b2","allow_disruption":true}"#)
            .unwrap();
        give(&mut state, lower).unwrap();
        give(&mut state, r#"{"kind":"tenant_set","name":"red","backends":null}"#).unwrap();
        backend(&mut state, "a", 3).unwrap();
    }

    #[test]
    fn a_document_gives_a_tenant_its_limits_and_no_others() {
        let mut state = State::default();
        give(&mut state, r#"{"kind":"tenant_add","name":"red","vips":2,"packets_per_s":7}"#).unwrap();
        give(&mut state, r#"{"kind":"tenant_add","name":"blue","vips":3}"#).unwrap();
        let document =
            r#"{"kind":"apply","document":{"tenant":[{"name":"red","vips":5},{"name":"new","burst_ms":9}]}}"#;
        give(&mut state, document).unwrap();
        let limit = |tenant: &str, limit| state.tenants[tenant].limits.of(limit);
        assert_eq!((limit("red", Limit::Vips), limit("red", Limit::PacketsPerS)), (Some(5), None));
        assert_eq!((limit("blue", Limit::Vips), limit("new", Limit::BurstMs)), (Some(3), Some(9)));
        let again: Command = serde_json::from_str(document).unwrap();
        let events = rehearse(&state, &Limits::default(), Now(0), &again).unwrap().events;
        assert!(matches!(&events[..], [event] if matches!(event.change, Change::CommandAccepted { .. })));
    }
}
