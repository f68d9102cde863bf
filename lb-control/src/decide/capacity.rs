//! Whether the state that would be fits the maps. What was too much before (a daemon started with smaller maps) may
//! stay or shrink, but not grow. And whether one record of the journal can hold what would happen.

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
    let tables = [
        ("vips", "--max-vips", had.vips, needs.vips, limits.vips),
        ("keys of vips and their addresses", "--max-vips", had.vip_keys, needs.vip_keys, vip_keys),
        ("backends", "--max-backends", had.backends, needs.backends, limits.backends),
        ("slots of all vips' tables together", "--max-slots", had.slots, needs.slots, limits.slots),
    ];
    for (what, flag, had, needs, limit) in tables {
        if needs > had && needs > u64::from(limit) {
            let text = format!("{needs} {what} are more than the {limit} that fit ({flag})");
            draft.fault(Code::Capacity, "", text);
        }
    }
}
