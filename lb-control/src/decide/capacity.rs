//! Whether the state that would be fits the maps. What was too much before (a daemon started with smaller maps) may
//! stay or shrink, but not grow.

use super::draft::Draft;
use crate::code::Code;
use crate::limits::Limits;
use crate::state::State;
use std::collections::BTreeSet;

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
        let addresses: BTreeSet<_> = state.vips.values().map(|vip| vip.served.address).collect();
        Self {
            vips: state.vips.len() as u64,
            vip_keys: (state.vips.len() + addresses.len()) as u64,
            backends: state.vips.values().map(|vip| vip.backends.len() as u64).sum(),
            slots: state.vips.values().map(|vip| u64::from(vip.settings.table_size)).sum(),
        }
    }
}

/// Notes a fault for each table that the draft would overfill.
pub(super) fn check(before: &State, draft: &mut Draft, limits: &Limits) {
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
