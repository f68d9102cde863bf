//! What breakers mean for a pool: who of it is out, who has a part of its slots, and who is spared although its breaker is
//! not closed.
//!
//! The ejection cap binds breakers alone: a backend whose probes fail is out in any case, needs no room under the cap and
//! takes none. Where more breakers are open than may be, those that opened last are spared; and breakers never empty a
//! pool: where nobody else could serve, all are spared.

use super::desired::Observed;
use crate::backend::Backend;
use crate::breaker::BreakerState;
use crate::vip::{Protocol, Tracking, Vip};
use lb_common::ids::BackendId;
use std::collections::{BTreeMap, BTreeSet};

/// What was observed of a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaking {
    /// Where it stands.
    pub state: BreakerState,
    /// When it left Closed last, on its keeper's clock, milliseconds: says who was first.
    pub opened_ms: u64,
    /// The share of its slots that the backend shall have, permille.
    pub share_permille: u16,
}

/// How a backend stands whose breaker keeps something from it. One that has its whole share has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Takes no new flows.
    Out {
        /// What it is given should something send it new connections all the same; 0 = no limit.
        trial_cps: u16,
    },
    /// Has a part of its slots.
    Part {
        /// The share of them, permille.
        share_permille: u16,
        /// On trial: new connections per second; 0 = it is not.
        trial_cps: u16,
    },
}

impl Standing {
    /// New connections per second that the data plane may give it; 0 = no limit.
    pub(super) const fn trial_cps(self) -> u16 {
        match self {
            Self::Out { trial_cps } | Self::Part { trial_cps, .. } => trial_cps,
        }
    }
}

/// The standing of every backend of a vip that breakers keep something from. `healthy`: what probes say.
pub(super) fn standings(
    vip: &Vip,
    observed: &Observed,
    healthy: impl Fn(BackendId) -> bool,
) -> BTreeMap<BackendId, Standing> {
    if observed.breakers.is_empty() {
        return BTreeMap::new();
    }
    let wanted = || vip.backends.values().filter(|backend| backend.effective_weight() > 0);
    let breaking = |backend: &Backend| Some((backend.id, *observed.breakers.get(&backend.id)?));
    let of_wanted: Vec<_> = wanted().filter_map(breaking).filter(|(id, _)| healthy(*id)).collect();
    let mut apart: Vec<_> = of_wanted
        .iter()
        .filter(|(_, breaking)| breaking.state != BreakerState::Closed)
        .map(|(id, breaking)| (breaking.opened_ms, *id))
        .collect();
    if apart.len() == wanted().filter(|backend| healthy(backend.id)).count() {
        return BTreeMap::new();
    }
    apart.sort_unstable();
    apart.truncate(wanted().count() * usize::from(vip.settings.breaker.ejection_max_percent) / 100);
    let ejected: BTreeSet<BackendId> = apart.into_iter().map(|(_, id)| id).collect();
    // A trial counts what a packet shows to be the beginning of a connection, and remembers it.
    let tries = vip.served.protocol == Protocol::Tcp && vip.settings.tracking != Tracking::Never;
    let trial_cps = if tries { vip.settings.breaker.trial_cps } else { 0 };
    let standing = |(id, breaking): (BackendId, Breaking)| {
        let share_permille = breaking.share_permille;
        let standing = match breaking.state {
            BreakerState::Closed if share_permille >= 1_000 => return None,
            BreakerState::Closed => Standing::Part { share_permille, trial_cps: 0 },
            _ if !ejected.contains(&id) => return None,
            BreakerState::HalfOpen if tries => Standing::Part { share_permille, trial_cps },
            BreakerState::HalfOpen | BreakerState::Open => Standing::Out { trial_cps },
        };
        Some((id, standing))
    };
    of_wanted.into_iter().filter_map(standing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::world;

    /// The standing of `b0`, `b1`, … in a pool whose breakers opened in the order of their numbers; all are healthy but
    /// those named.
    fn stand(states: &[BreakerState], ill: &[usize]) -> Vec<Option<Standing>> {
        let addresses: Vec<String> =
            (0..states.len()).map(|number| format!("10.0.0.{}", number + 1)).collect();
        let state = world(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        let vip = &state.vips["web"];
        let id = |number: usize| vip.backends[&format!("b{number}")].id;
        let breaking = |(number, state): (usize, &BreakerState)| {
            (id(number), Breaking { state: *state, opened_ms: number as u64, share_permille: 100 })
        };
        let breakers = states.iter().enumerate().map(breaking).collect();
        let observed = Observed { breakers, ..Observed::default() };
        let standings = standings(vip, &observed, |own| ill.iter().all(|number| id(*number) != own));
        (0..states.len()).map(|number| standings.get(&id(number)).copied()).collect()
    }

    const OUT: Option<Standing> = Some(Standing::Out { trial_cps: 10 });
    const TRIED: Option<Standing> = Some(Standing::Part { share_permille: 100, trial_cps: 10 });
    const GENTLY: Option<Standing> = Some(Standing::Part { share_permille: 100, trial_cps: 0 });

    #[test]
    fn the_cap_spares_those_that_opened_last_and_counts_no_failed_probe() {
        use BreakerState::{Closed, HalfOpen, Open};
        assert_eq!(stand(&[Open, HalfOpen, Open, Closed], &[]), [OUT, TRIED, None, GENTLY]);
        // The first fails its probes: it is out by them, and another one's ejection has its room.
        assert_eq!(stand(&[Open, HalfOpen, Open, Closed], &[0]), [None, TRIED, OUT, GENTLY]);
        assert_eq!(stand(&[Open, Closed], &[]), [OUT, GENTLY]);
    }

    #[test]
    fn breakers_never_empty_a_pool() {
        use BreakerState::{Closed, HalfOpen, Open};
        assert_eq!(stand(&[Open, Open, HalfOpen], &[]), [None; 3]);
        assert_eq!(stand(&[Open, Closed, Closed], &[1, 2]), [None; 3]);
        assert_eq!(stand(&[Open], &[]), [None]);
    }
}
