//! What lies between two inventories: objects that were made, changed or removed, and their fields before and after.
//!
//! A record's own effect is the difference of the inventories around it. Vips that both share are not looked into.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::field::{self, Field};
use super::inventory::{Inventory, KnownTenant};
use super::object::Object;
use crate::backend::Backend;
use crate::tenant::TenantLimits;
use crate::vip::Vip;

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The object.
    pub object: Object,
    /// What became of it.
    pub what: What,
    /// Fields that differ; all of them of an object that was made or removed.
    pub fields: Vec<FieldDifference>,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Made,
    /// It is the same and has other values.
    Changed,
    /// It was removed and made anew under its name: another one, with another id.
    Replaced,
    /// It is gone.
    Removed,
}

/// A field before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDifference {
    /// Its name.
    pub name: String,
    /// Its value before; `None`: there was no such object.
    pub from: Option<String>,
    /// Its value after; `None`: there is no such object.
    pub to: Option<String>,
}

/// What lies between two inventories, in the order of names: bypass, tenants, then vips each with its backends.
pub fn difference(from: &Inventory, to: &Inventory) -> Vec<Difference> {
    let mut found = Vec::new();
    if from.bypass != to.bypass {
        let word = |on| vec![("bypass".to_owned(), if on { "on" } else { "off" }.to_owned())];
        let fields = fields(&word(from.bypass), &word(to.bypass));
        found.push(Difference { object: Object::Bypass, what: What::Changed, fields });
    }
    for (name, (before, after)) in pairs(&from.tenants, &to.tenants) {
        let list = if before.is_some() && after.is_some() { field::limits } else { given };
        let of = |tenant: &KnownTenant| (tenant.id.0, list(&tenant.limits));
        found.extend(one(Object::Tenant(name.clone()), before.map(of), after.map(of)));
    }
    for item in from.vips.diff(&to.vips) {
        match item {
            DiffItem::Remove(name, was) => vips(name, Some(was), None, &mut found),
            DiffItem::Update { old: (_, was), new: (name, is) } => {
                vips(name, Some(was), Some(is), &mut found)
            }
            DiffItem::Add(name, is) => vips(name, None, Some(is), &mut found),
        }
    }
    found
}

/// The limits that a tenant has.
fn given(limits: &TenantLimits) -> Vec<Field> {
    limits.iter().map(|(limit, value)| (limit.name().to_owned(), value.to_string())).collect()
}

/// Every key of both, in order, with its two values.
fn pairs<'a, K: Ord, V>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> BTreeMap<&'a K, (Option<&'a V>, Option<&'a V>)> {
    from.keys().chain(to.keys()).map(|key| (key, (from.get(key), to.get(key)))).collect()
}

fn vips(name: &Arc<str>, from: Option<&Vip>, to: Option<&Vip>, found: &mut Vec<Difference>) {
    let of = |vip: &Vip| field::vip(&vip.served, &vip.tenant, &vip.settings);
    let object = Object::Vip(name.clone());
    found.extend(one(object, from.map(|vip| (vip.id.0, of(vip))), to.map(|vip| (vip.id.0, of(vip)))));
    let none = BTreeMap::new();
    let before = from.map_or(&none, |vip| &vip.backends);
    let after = to.map_or(&none, |vip| &vip.backends);
    for (backend, (before, after)) in pairs(before, after) {
        let of = |one: &Backend| {
            (one.id.0, field::backend(one.address, one.port, one.weight, one.intent, one.backup, one.breaker))
        };
        let object = Object::Backend(name.clone(), backend.as_str().into());
        found.extend(one(object, before.map(of), after.map(of)));
    }
}

/// The difference of one object, by its ids and fields before and after.
fn one(object: Object, from: Option<(u32, Vec<Field>)>, to: Option<(u32, Vec<Field>)>) -> Option<Difference> {
    let what = match (&from, &to) {
        (None, None) => return None,
        (None, Some(_)) => What::Made,
        (Some(_), None) => What::Removed,
        (Some((was, _)), Some((is, _))) if was != is => What::Replaced,
        (Some(_), Some(_)) => What::Changed,
    };
    let list = |side: Option<(u32, Vec<Field>)>| side.map(|(_, fields)| fields).unwrap_or_default();
    let fields = fields(&list(from), &list(to));
    (what != What::Changed || !fields.is_empty()).then_some(Difference { object, what, fields })
}

/// Fields that differ, in the order of the fields.
fn fields(from: &[Field], to: &[Field]) -> Vec<FieldDifference> {
    let value =
        |list: &[Field], name: &str| list.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    let gone = from.iter().filter(|(name, _)| value(to, name).is_none());
    let names = to.iter().chain(gone).map(|(name, _)| name.clone());
    let both = names.map(|name| FieldDifference { from: value(from, &name), to: value(to, &name), name });
    both.filter(|field| field.from != field.to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::testing::{any_log, rebuilt};
    use proptest::prelude::*;

    proptest! {
        /// Nothing lies between equal inventories, and what lies between two is turned round between the two the other
        /// way.
        #[test]
        fn it_is_empty_for_equals_and_turns_round(log in any_log(), one in 0_u64..60, other in 0_u64..60) {
            let (one, other) = (rebuilt::<Inventory>(&log, one), rebuilt::<Inventory>(&log, other));
            prop_assert_eq!(difference(&one, &one.clone()), []);
            let there = difference(&one, &other);
            let back = difference(&other, &one);
            prop_assert_eq!(there.len(), back.len());
            for this in &there {
                let that = back.iter().find(|that| that.object == this.object).unwrap();
                let turned = match this.what {
                    What::Made => What::Removed,
                    What::Removed => What::Made,
                    same => same,
                };
                prop_assert_eq!(that.what, turned);
                for field in &this.fields {
                    let other = that.fields.iter().find(|other| other.name == field.name).unwrap();
                    prop_assert_eq!((&field.from, &field.to), (&other.to, &other.from));
                }
            }
            let differ = one.vips.iter().any(|(name, vip)| {
                other.vips.get(name).is_none_or(|other| vip.id != other.id || vip.settings != other.settings)
            });
            prop_assert!(!differ || !there.is_empty());
        }
    }
}
