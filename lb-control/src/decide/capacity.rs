//! Whether the state that would be fits the maps. What was too much before (a daemon started with smaller maps) may
//! stay or shrink, but not grow. And whether one record of the journal can hold what would happen.

use std::sync::Arc;

use super::draft::Draft;
use crate::code::Code;
use crate::limits::Limits;
use crate::state::State;

/// Events of one command, at most. The largest (a vip with the longest names) takes under 450 bytes of JSON, so that a
/// record stays well within the 64 MiB that the journal takes; a document that fills the largest maps needs fewer.
pub(super) const EVENTS_MAX: usize = 131_072;

/// What a state needs of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    vips: u64,
    vip_keys: u64,
    backends: u64,
    slots: u64,
}

impl Need {
    fn of(state: &State) -> Self {
        let (vips, totals) = (state.vips.len() as u64, state.totals());
        Self { vips, vip_keys: vips + totals.addresses, backends: totals.backends, slots: totals.slots }
    }
}

/// Tenants that need a row: one without would not be limited at all.
fn limited(state: &State) -> u64 {
    state.tenants.values().filter(|tenant| tenant.limits.meets_packets()).count() as u64
}

/// Notes a fault for each table that the draft would overfill.
pub(super) fn check(before: &State, draft: &mut Draft, limits: &Limits) {
    let events = draft.events.len();
    if events > EVENTS_MAX {
        let text =
            format!("{events} changes at once are more than the {EVENTS_MAX} that one command may make");
        return draft.fault(Code::Capacity, "", text);
    }
    let (had, needs) = (Need::of(before), Need::of(&draft.state));
    // Each source address may need a key for its replies.
    let vip_keys = limits.vip_keys.saturating_sub(limits.sources);
    // Few commands touch tenants, and there may be thousands.
    let same = Arc::ptr_eq(&before.tenants, &draft.state.tenants);
    let tenants = if same { (0, 0) } else { (limited(before), limited(&draft.state)) };
    let tables = [
        ("vips", "--max-vips", had.vips, needs.vips, limits.vips),
        ("keys of vips and their addresses", "--max-vips", had.vip_keys, needs.vip_keys, vip_keys),
        ("backends", "--max-backends", had.backends, needs.backends, limits.backends),
        ("slots of all vips' tables together", "--max-slots", had.slots, needs.slots, limits.slots),
        (
            "tenants with limits of their traffic",
            "take those of another away",
            tenants.0,
            tenants.1,
            limits.tenants,
        ),
    ];
    let mut said = Vec::new();
    for (what, remedy, had, needs, limit) in tables {
        // One remedy is said once: who has one vip too many has its keys too many as well.
        if needs > had && needs > u64::from(limit) && !said.contains(&remedy) {
            said.push(remedy);
            let text = format!("{needs} {what} are more than the {limit} that fit ({remedy})");
            draft.fault(Code::Capacity, "", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Now, decide};
    use super::*;
    use crate::command::Command;

    #[test]
    fn one_vip_too_many_is_one_fault() {
        let mut state = State::default();
        let limits = Limits { vips: 2, vip_keys: 4 + 16, sources: 16, ..Limits::default() };
        let mut add = |last: u8| {
            let own = format!(r#""name":"v{last}","address":"203.0.113.{last}","port":80"#);
            let command: Command = serde_json::from_str(&format!(r#"{{"kind":"vip_add",{own}}}"#)).unwrap();
            let events = decide(&state, &limits, Now(0), &command)?;
            events.iter().for_each(|event| state.apply(event));
            Ok::<(), crate::rejection::Rejection>(())
        };
        add(1).unwrap();
        add(2).unwrap();
        let rejection = add(3).unwrap_err();
        assert_eq!((rejection.code, rejection.also.len()), (Code::Capacity, 0), "{rejection:?}");
        assert_eq!(rejection.message, "3 vips are more than the 2 that fit (--max-vips)");
    }

    #[test]
    fn a_tenant_whose_limits_would_find_no_row_is_refused() {
        let mut state = State::default();
        let mut take = |tenants, text: &str| {
            let command: Command = serde_json::from_str(text).unwrap();
            let limits = Limits { tenants, ..Limits::default() };
            let events = decide(&state, &limits, Now(0), &command).map_err(|rejection| {
                assert_eq!(rejection.also.len(), 0, "{}", rejection.message);
                rejection.code
            })?;
            events.iter().for_each(|event| state.apply(event));
            Ok(())
        };
        for name in ["t1", "t2", "t3"] {
            let text = format!(r#"{{"kind":"tenant_add","name":"{name}","packets_per_s":1000}}"#);
            let expected = if name == "t3" { Err(Code::Capacity) } else { Ok(()) };
            assert_eq!(take(2, &text), expected, "{name}");
        }
        let quota = r#"{"kind":"tenant_add","name":"t3","vips":3}"#;
        assert_eq!(take(2, quota), Ok(()), "what no packet meets needs no row");
        let set = |name, rate| format!(r#"{{"kind":"tenant_set","name":"{name}","packets_per_s":{rate}}}"#);
        assert_eq!(take(2, &set("t3", "9")), Err(Code::Capacity));
        // A daemon with smaller maps: what was too much before may change and shrink.
        assert_eq!(take(1, &set("t2", "2000")), Ok(()));
        assert_eq!(take(1, &set("t2", "null")), Ok(()));
        assert_eq!(take(1, &set("t3", "9")), Err(Code::Capacity));
        assert_eq!(take(2, &set("t3", "9")), Ok(()));
    }
}
