//! Orders to a backend's breaker: a trip is an operator's act and as durable as any intent; a reset ends it, and any other
//! opening. What opens and closes a breaker by itself is observed, not ordered, and never here.

use super::backend::find;
use super::draft::{Draft, path};
use crate::breaker::{BreakerSettings, BreakerWish};
use crate::code::Code;
use crate::event::Change;
use std::collections::BTreeSet;

/// Opens a breaker until it is reset. One that is tripped already stays so.
pub(super) fn trip(draft: &mut Draft, vip: &str, name: &str) {
    let Some(backend) = find(draft, vip, name) else { return };
    if !backend.breaker.tripped {
        draft.emit(Change::BreakerTripped { vip: vip.to_string(), backend: name.to_string() });
    }
}

/// Closes a breaker. Whether it is open is the node's to know, so it is ordered in any case.
pub(super) fn reset(draft: &mut Draft, vip: &str, name: &str) {
    if find(draft, vip, name).is_some() {
        draft.emit(Change::BreakerReset { vip: vip.to_string(), backend: name.to_string() });
    }
}

/// Trips the backends that are named as `VIP/NAME`, and resets what else is tripped.
pub(super) fn order(draft: &mut Draft, trips: &BTreeSet<String>) {
    let known = |target: &str| {
        target.split_once('/').is_some_and(|(vip, name)| draft.state.backend(vip, name).is_some())
    };
    let unknown: Vec<&String> = trips.iter().filter(|target| !known(target)).collect();
    let mut changes = Vec::new();
    for (vip, _, name, backend) in draft.state.backends() {
        let (wanted, of) = (trips.contains(&format!("{vip}/{name}")), (vip.to_string(), name.to_string()));
        changes.extend(match (backend.breaker.tripped, wanted) {
            (false, true) => Some(Change::BreakerTripped { vip: of.0, backend: of.1 }),
            (true, false) => Some(Change::BreakerReset { vip: of.0, backend: of.1 }),
            _ => None,
        });
    }
    for target in unknown {
        draft.fault(Code::UnknownBackend, "trips", format!("there is no backend `{target}` to trip"));
    }
    changes.into_iter().for_each(|change| draft.emit(change));
}

/// The settings that are wished over `base`, within their ranges.
pub(super) fn settings(
    draft: &mut Draft,
    wish: Option<BreakerWish>,
    base: BreakerSettings,
    prefix: &str,
) -> BreakerSettings {
    let settings = wish.unwrap_or_default().over(base);
    let place = path(prefix, "breaker");
    for (field, message) in settings.faults() {
        draft.fault(Code::BreakerRange, path(&place, field), message);
    }
    settings
}
