//! The degradation ladder of a vip: who serves when not all can. Pure, and without a memory: the same pool gives the same
//! rung.
//!
//! A rung is left as soon as the one above it can serve. What a breaker or a probe says of a backend is decided elsewhere;
//! here it serves, or it does not.

mod settings;

pub use settings::{LadderSettings, LadderWish};

use lb_common::ids::BackendId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A rung of the ladder, from the top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// The pool serves, or a part of it.
    #[default]
    Pool,
    /// Nobody of the pool serves: its backups do.
    Backups,
    /// Nobody of pool and backups serves: the pool of another vip does.
    Fallback,
    /// Nobody passes its probes: those that fell last, together, serve all the same. It may be the probes that are wrong.
    LastKnownGood,
    /// Nobody serves.
    Nobody,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pool => "pool",
            Self::Backups => "backups",
            Self::Fallback => "fallback",
            Self::LastKnownGood => "last known good",
            Self::Nobody => "nobody",
        })
    }
}

/// A backend that people want to take new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its serial.
    pub id: BackendId,
    /// Whether it serves only when nobody of the pool does.
    pub backup: bool,
    /// Whether it can serve.
    pub serves: bool,
    /// When its probes took it down, which it had passed until then, milliseconds; none: it serves only when it can.
    pub fell_ms: Option<u64>,
}

/// Where a vip stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footing {
    /// The rung.
    pub rung: Rung,
    /// Whether only a part of the pool serves, or none of it.
    pub partial: bool,
}

/// Where a vip with these backends stands, and who takes its new flows: of them, or of those whom another vip has `lent`.
/// What falls within `together_ms` fell together.
pub fn climb(
    members: &[Member],
    lent: &BTreeSet<BackendId>,
    together_ms: u64,
) -> (Footing, BTreeSet<BackendId>) {
    let able = |backup: bool| -> BTreeSet<BackendId> {
        members.iter().filter(|one| one.backup == backup && one.serves).map(|one| one.id).collect()
    };
    let (pool, backups) = (able(false), able(true));
    let whole = members.iter().filter(|one| !one.backup).all(|one| one.serves);
    let (rung, takes) = match (pool.is_empty(), backups.is_empty()) {
        (false, _) => (Rung::Pool, pool),
        (true, false) => (Rung::Backups, backups),
        // Nobody wants anybody to serve: nothing is missing.
        (true, true) if members.is_empty() => (Rung::Pool, pool),
        (true, true) if !lent.is_empty() => (Rung::Fallback, lent.clone()),
        (true, true) => match last_known_good(members, together_ms) {
            good if good.is_empty() => (Rung::Nobody, good),
            good => (Rung::LastKnownGood, good),
        },
    };
    (Footing { rung, partial: rung != Rung::Pool || !whole }, takes)
}

/// The last set that worked: who fell together with the last one, of the pool, or, if that was gone before, of its backups.
/// Who fell long before has failed by itself.
fn last_known_good(members: &[Member], together_ms: u64) -> BTreeSet<BackendId> {
    let Some(last_ms) = members.iter().filter_map(|one| one.fell_ms).max() else { return BTreeSet::new() };
    let fell = |backup: bool| -> BTreeSet<BackendId> {
        let late = |one: &&Member| one.fell_ms.is_some_and(|fell_ms| fell_ms + together_ms >= last_ms);
        members.iter().filter(|one| one.backup == backup).filter(late).map(|one| one.id).collect()
    };
    let pool = fell(false);
    if pool.is_empty() { fell(true) } else { pool }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members() -> impl Strategy<Value = Vec<Member>> {
        let fell_ms = proptest::option::of(0_u64..30);
        proptest::collection::vec((any::<bool>(), any::<bool>(), fell_ms), 0..8).prop_map(|ones| {
            let member = |(number, (backup, serves, fell_ms)): (u32, (bool, bool, Option<u64>))| {
                // Who fell and can serve again did not fall last.
                Member { id: BackendId(number), backup, serves, fell_ms: fell_ms.filter(|_| !serves) }
            };
            (1..).zip(ones).map(member).collect()
        })
    }

    proptest! {
        /// Who takes flows can; backups do only where nobody of the pool can; and somebody does where anybody can.
        #[test]
        fn nobody_serves_below_a_rung_that_can(members in members()) {
            let (footing, takes) = climb(&members, &BTreeSet::new(), 10);
            let one = |id: &BackendId| members.iter().find(|one| one.id == *id).unwrap();
            let somebody_can = members.iter().any(|one| one.serves);
            prop_assert_eq!(footing.rung == Rung::LastKnownGood, !somebody_can && !takes.is_empty());
            if somebody_can {
                prop_assert!(takes.iter().all(|id| one(id).serves));
                let pool_can = members.iter().any(|one| !one.backup && one.serves);
                prop_assert!(takes.iter().all(|id| one(id).backup != pool_can));
            }
            let somebody_fell = members.iter().any(|one| one.fell_ms.is_some());
            prop_assert_eq!(takes.is_empty(), !somebody_can && !somebody_fell);
            prop_assert_eq!(footing.rung == Rung::Nobody, takes.is_empty() && !members.is_empty());
            let missing = members.iter().any(|one| !one.backup && !one.serves);
            prop_assert_eq!(footing.partial, missing || footing.rung != Rung::Pool);
        }

        /// Another vip's pool serves where nobody of pool and backups can, though some of them were good once; and nobody
        /// who is not wanted at all falls back on anybody.
        #[test]
        fn what_is_lent_comes_before_what_was_good(members in members()) {
            let lent: BTreeSet<BackendId> = [BackendId(100), BackendId(101)].into();
            let (footing, takes) = climb(&members, &lent, 10);
            let falls = !members.is_empty() && members.iter().all(|one| !one.serves);
            prop_assert_eq!(footing.rung == Rung::Fallback, falls);
            prop_assert_eq!(takes == lent, falls);
            prop_assert!(!falls || footing.partial);
        }

        /// In the last set that worked is who fell last and whoever fell shortly before, and nobody else.
        #[test]
        fn the_last_set_that_worked_is_who_fell_together(members in members()) {
            prop_assume!(members.iter().all(|one| !one.serves));
            let (_, takes) = climb(&members, &BTreeSet::new(), 10);
            let last_ms = members.iter().filter_map(|one| one.fell_ms).max().unwrap_or(0);
            let pool = members.iter().any(|one| !one.backup && one.fell_ms.is_some_and(|fell| fell + 10 >= last_ms));
            for one in &members {
                let good = one.backup != pool && one.fell_ms.is_some_and(|fell| fell + 10 >= last_ms);
                prop_assert_eq!(takes.contains(&one.id), good);
            }
        }

        /// A backend that comes to serve never takes the vip a rung down, and one that ceases never up.
        #[test]
        fn more_who_serve_is_never_a_lower_rung(members in members(), which in 0_usize..8) {
            prop_assume!(which < members.len());
            let with = |serves| {
                let mut members = members.clone();
                members[which].serves = serves;
                climb(&members, &BTreeSet::new(), 10).0.rung
            };
            prop_assert!(with(true) <= with(false));
        }
    }
}
