//! How a vip balances: what is wished over what is there, within its ranges, and what fits together.

use super::draft::{Draft, path};
use crate::balancing::{Algorithm, Balancing, BalancingWish};
use crate::code::Code;
use crate::vip::Tracking;

/// What results from a wish over `base`.
pub(super) fn over(
    draft: &mut Draft,
    wish: Option<BalancingWish>,
    base: &Balancing,
    prefix: &str,
) -> Balancing {
    let wish = wish.unwrap_or_default();
    let mut time = |name: &str, wished: Option<u32>, base: u16, most: u16| match wished {
        None => base,
        Some(seconds) => match u16::try_from(seconds) {
            Ok(seconds) if (1..=most).contains(&seconds) => seconds,
            _ => {
                let message = format!("{name} is {seconds}, but must be from 1 to {most}");
                draft.fault(Code::TimeoutRange, path(&path(prefix, "balancing"), name), message);
                base
            }
        },
    };
    Balancing {
        algorithm: wish.algorithm.unwrap_or(base.algorithm),
        affinity_s: time("affinity_s", wish.affinity_s, base.affinity_s, u16::MAX),
        syn_s: time("syn_s", wish.syn_s, base.syn_s.into(), u8::MAX.into()) as u8,
        closing_s: time("closing_s", wish.closing_s, base.closing_s.into(), u8::MAX.into()) as u8,
    }
}

/// The tracking of an algorithm whose flows are not where their slots lead.
pub(super) fn tracking(
    draft: &mut Draft,
    wished: Option<Tracking>,
    algorithm: Algorithm,
    prefix: &str,
) -> Tracking {
    if wished.is_some_and(|wished| wished != Tracking::Always) {
        let message = format!("algorithm {} with a tracking other than `always`", algorithm.name());
        draft.fault(Code::AlgorithmTracking, path(prefix, "tracking"), message);
    }
    Tracking::Always
}

/// What may change on a vip that has backends: not which slot a flow has. Another table of the same slots only moves
/// slots, and those keep their flows for the window.
pub(super) fn check_live(draft: &mut Draft, name: &str, was: &Balancing, is: &Balancing, prefix: &str) {
    if was.algorithm.by_source() != is.algorithm.by_source() {
        let (was, is) = (was.algorithm.name(), is.algorithm.name());
        let message = format!("vip `{name}` has backends, and {was} and {is} give flows different slots");
        draft.fault(Code::AlgorithmLive, path(&path(prefix, "balancing"), "algorithm"), message);
    }
}
