//! Plans for the few vips that changed, so that what a change costs does not grow with all that there is.
//!
//! It gives what the plan for everything would give, or nothing: whatever concerns more than the pools and settings of
//! vips that are in the maps already (a vip that comes or goes, and what vips share: marks of addresses, source
//! addresses, ways out, devices) is planned as a whole, and so is all that a sweep found.
//!
//! It rests on [`Last`]: a plan that was carried out whole, and the maps as it left them. It may have left problems of other
//! vips that only they can end; a table that is full is planned as a whole each time, since anybody may have made room in it.

use super::actual::{Actual, Slots};
use super::desired::{Desired, Footings, Observed, desired_of};
use super::diff::{Plan, Problem, diff_rows, source_of, wanted_keys};
use super::layout::{Layout, layout_among};
use super::op::{BackendContent, Key};
use super::settled::Settled;
use super::tables::TableCache;
use crate::code::Code;
use crate::state::State;
use crate::vip::{Mode, Vip};
use imbl::{OrdMap, OrdSet};
use lb_common::abi::vip::VipEntry;
use lb_common::ids::BackendId;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the last plan left.
#[derive(Debug)]
pub struct Last<'a, S> {
    /// The maps.
    pub actual: &'a Actual<S>,
    /// What the slots of all vips rest on.
    pub settled: &'a Settled,
    /// What could not be planned.
    pub problems: &'a [Problem],
}

/// Keys by which two maps, of whatever kind has its keys in order, differ: in the one and not in the other, or with
/// another value.
pub fn changed<'m, K: Ord + 'm, V: PartialEq + 'm>(
    was: impl IntoIterator<Item = (&'m K, &'m V)>,
    is: impl IntoIterator<Item = (&'m K, &'m V)>,
) -> impl Iterator<Item = &'m K> {
    let (mut old, mut new) = (was.into_iter().peekable(), is.into_iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((one, _)), Some((other, _))) => one.cmp(other),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return None,
            };
            match order {
                Ordering::Less => return old.next().map(|(key, _)| key),
                Ordering::Greater => return new.next().map(|(key, _)| key),
                Ordering::Equal => {
                    let (one, other) = (old.next()?, new.next()?);
                    if one.1 != other.1 {
                        return Some(one.0);
                    }
                }
            }
        }
    })
}

/// Names of the vips that differ between the state of the last plan and the present one, or have one of these backends,
/// of which something was observed. `None`: more than pools and settings differs.
pub fn touched<'s>(was: &'s State, is: &'s State, observed: &BTreeSet<BackendId>) -> Option<Vec<&'s str>> {
    let same = was.bypass == is.bypass && was.tenants == is.tenants && was.vips.len() == is.vips.len();
    if !same {
        return None;
    }
    let mut touched = BTreeSet::new();
    for name in was.vips_unlike(is) {
        let identity = |vip: &'s Vip| (vip.id, vip.served, &vip.tenant);
        let ((_, old), (name, new)) = (was.vips.get_key_value(name)?, is.vips.get_key_value(name)?);
        if identity(old) != identity(new) {
            return None;
        }
        touched.insert(name.as_str());
    }
    if !observed.is_empty() {
        let seen = |vip: &Vip| vip.backends.values().any(|backend| observed.contains(&backend.id));
        touched.extend(is.vips.iter().filter(|(_, vip)| seen(vip)).map(|(name, _)| name.as_str()));
    }
    Some(with_ties(touched, is))
}

/// The same with whoever falls back on one of them, and on whom they fall back: what is planned for the one concerns the
/// other. In order.
fn with_ties<'s>(mut all: BTreeSet<&'s str>, state: &'s State) -> Vec<&'s str> {
    let tie = |(name, vip): (&'s String, &'s Arc<Vip>)| {
        Some((name.as_str(), vip.settings.ladder.fallback.as_deref()?))
    };
    let ties: Vec<(&str, &str)> = state.vips.iter().filter_map(tie).collect();
    loop {
        let before = all.len();
        for (name, fallback) in &ties {
            if all.contains(name) || all.contains(fallback) {
                all.extend([*name, *fallback]);
            }
        }
        if all.len() == before {
            return all.into_iter().collect();
        }
    }
}

/// The plan for some vips of a state by their names; `None`: it takes a plan for everything. Of what is `observed` only
/// their backends count. With it, where these vips stand. When it was carried out whole, the maps are as a plan for everything would have left them.
pub fn partial<S: Slots>(
    touched: &[&str],
    state: &State,
    observed: &Observed,
    tables: &mut TableCache,
    last: Last<'_, S>,
    now_s: u32,
) -> Option<(Plan, Settled, Footings)> {
    if last.actual.sweep.is_some() || !last.problems.iter().all(|problem| stays(problem, touched)) {
        return None;
    }
    let vips: Option<Vec<_>> = touched.iter().map(|name| Some((*name, &**state.vips.get(*name)?))).collect();
    let mut desired = desired_of(&vips?, state, observed, tables);
    desired.devices.clear();
    let part = part_of(last.actual, &desired)?;
    let layout = layout_among(&desired, &part, last.actual);
    if !layout.problems.is_empty() || takes_shared(&layout, &part, &last.actual.keys) {
        return None;
    }
    let (plan, settled) = diff_rows(&desired, &part, layout, now_s, last.settled);
    let plan = Plan { problems: last.problems.to_vec(), ..plan };
    Some((plan, settled, desired.footings()))
}

/// Whether a problem of the last plan is one of the next as well: no table is full in which another might have made room,
/// and its vip is not among those `touched`, which are in order.
fn stays(problem: &Problem, touched: &[&str]) -> bool {
    problem.code == Code::SourceIsVip && problem.vip().is_some_and(|vip| touched.binary_search(&vip).is_err())
}

/// The rows of some vips; `None`: one of them has none, or several.
fn part_of<'a, S: Slots>(whole: &'a Actual<S>, desired: &Desired) -> Option<Actual<&'a S>> {
    let own =
        |content: &super::ActualVip| desired.vips.get(&content.id).is_some_and(|vip| vip.key == content.key);
    let vips: OrdMap<_, _> =
        whole.vips.iter().filter(|(_, vip)| own(vip)).map(|(row, vip)| (*row, *vip)).collect();
    if vips.len() != desired.vips.len() {
        return None;
    }
    let pool = |vip: &u16| whole.pools.range((*vip, 0)..=(*vip, u16::MAX)).copied();
    let pools: OrdSet<_> = vips.keys().flat_map(pool).collect();
    let content = |(vip, row): &(u16, u16)| {
        let content = *whole.backends.get(row)?;
        (content.control.vip_row() == *vip).then_some((*row, content))
    };
    let backends = pools.iter().filter_map(content);
    Some(Actual {
        limits: whole.limits,
        bypass: whole.bypass,
        tenants: whole.tenants.clone(),
        backends: backends.collect(),
        pools,
        vips,
        keys: OrdMap::new(),
        egresses: whole.egresses.clone(),
        ports: BTreeMap::new(),
        sources: whole.sources.clone(),
        slots: &whole.slots,
        sweep: None,
    })
}

/// Whether a layout takes, or may let go of, what other vips use as well.
fn takes_shared<S>(layout: &Layout, part: &Actual<S>, keys: &OrdMap<Key, VipEntry>) -> bool {
    let placed: BTreeSet<u16> = layout.backends.values().map(|placed| placed.row).collect();
    let wanted = || layout.backends.values().map(|placed| placed.content);
    let left = part.backends.iter().filter(|(row, _)| !placed.contains(row)).map(|(_, content)| *content);
    let sources = |rows: &mut dyn Iterator<Item = BackendContent>| -> BTreeSet<u8> {
        rows.filter_map(|content| source_of(&content)).collect()
    };
    let marked = |rows: &mut dyn Iterator<Item = BackendContent>| -> BTreeSet<u64> {
        let by_nat = rows.filter(|content| content.control.mode() == Mode::Nat);
        by_nat.map(|content| content.control.source().into()).collect()
    };
    // A backend that is gone holds its row until a sweep, but not the mark of its source.
    let there =
        |(key, wanted): (&Key, &VipEntry)| keys.get(key).is_some_and(|is| is.0 & wanted.0 == wanted.0);
    !wanted_keys(layout).iter().all(there)
        || layout.egresses.len() != part.egresses.len()
        || layout.sources.len() != part.sources.len()
        || sources(&mut part.backends.values().copied()) != sources(&mut wanted().chain(left))
        || marked(&mut part.backends.values().copied()) != marked(&mut wanted())
}
