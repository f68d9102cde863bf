//! What would end or turn away traffic, found by comparing the state that is with the one that would be:
//! a vip with enabled backends that goes; a pool that loses its last enabled backend; a pool that loses more than
//! 30 % of its weight through several backends at once; tracking that is turned off; another table where nothing is tracked.
//!
//! One backend by itself, as long as it is not the last, is the ordinary way of working and no disruption, however
//! large its share: a pool of three would otherwise need the flag for every drain.

use super::draft::Draft;
use crate::backend::Backend;
use crate::code::Code;
use crate::state::State;
use crate::vip::{Tracking, Vip};
use std::collections::BTreeSet;

/// Largest share of a pool's weight that several backends may lose at once, percent.
const SHARE_PERCENT: u64 = 30;

/// Notes a fault for each vip whose traffic would be disrupted. Only what has an event can be.
pub(super) fn check(before: &State, draft: &mut Draft) {
    let touched: BTreeSet<&str> = draft.events.iter().filter_map(|event| event.change.vip()).collect();
    let disrupted: Vec<String> = touched
        .into_iter()
        .filter_map(|name| {
            let after = draft.state.vips.get(name).map(|vip| &**vip);
            disruption(name, before.vips.get(name)?, after)
        })
        .collect();
    disrupted.into_iter().for_each(|why| draft.fault(Code::Disruption, "", why));
}

fn weight(vip: &Vip) -> u64 {
    vip.backends.values().map(|backend| u64::from(backend.effective_weight())).sum()
}

fn disruption(name: &str, before: &Vip, after: Option<&Vip>) -> Option<String> {
    let total = weight(before);
    if total == 0 {
        return None;
    }
    // Another one of its name is none.
    let Some(after) = after.filter(|after| after.id == before.id) else {
        let enabled = before.backends.values().filter(|backend| backend.effective_weight() > 0).count();
        return Some(format!("vip `{name}` would go with its enabled backends ({enabled})"));
    };
    if weight(after) == 0 {
        return Some(format!("vip `{name}` would lose its last enabled backend"));
    }
    if before.settings.tracking != Tracking::Never && after.settings.tracking == Tracking::Never {
        return Some(format!("vip `{name}` would forget the flows of slots that moved"));
    }
    let rebuilt =
        before.settings.balancing.algorithm.builder() != after.settings.balancing.algorithm.builder();
    if rebuilt && after.settings.tracking == Tracking::Never {
        return Some(format!("vip `{name}` would get another table, and remembers no flow that it moves"));
    }
    let lost: Vec<u64> = before
        .backends
        .iter()
        .map(|(backend, was)| {
            let is = after.backends.get(backend).filter(|is| is.id == was.id);
            let is = is.map_or(0, Backend::effective_weight);
            u64::from(was.effective_weight().saturating_sub(is))
        })
        .filter(|lost| *lost > 0)
        .collect();
    let sum: u64 = lost.iter().sum();
    let percent = sum * 100 / total;
    (lost.len() > 1 && sum * 100 > total * SHARE_PERCENT).then(|| {
        format!("vip `{name}` would lose {percent} % of its weight at once, in {} backends", lost.len())
    })
}
