//! What a change would do, for people: `lb plan`, `--dry-run` and the answer of `apply`.

use super::desired::{Observed, candidates, ladder};
use super::tables::{Candidate, Recipe, TableMemo};
use crate::backend::Backend;
use crate::health::Health;
use crate::probe::ProbeKind;
use crate::projection::field;
use crate::state::{State, Tenant};
use crate::tenant::TenantLimits;
use crate::vip::Vip;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectChange {
    /// It is made.
    Created,
    /// It is changed; the fields and what they were are in the text.
    Changed,
    /// It is removed.
    Removed,
}

/// How many slots of a vip's table would go to another backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotsMoved {
    /// Name of the vip.
    pub vip: String,
    /// Slots that would move.
    pub moved: u32,
    /// Slots of its table.
    pub slots: u32,
    /// Their share, 0 to 1.
    pub share: f64,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What happens.
    pub change: ObjectChange,
    /// `tenant NAME`, `vip NAME`, `backend VIP/NAME` or `bypass`.
    pub object: String,
    /// What exactly, such as `weight 100 -> 50`; empty for a removal.
    pub text: String,
}

/// What a change would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlanSummary {
    /// Objects that are made, changed or removed.
    pub lines: Vec<Line>,
    /// Vips whose slots move.
    pub slots: Vec<SlotsMoved>,
}

/// What going from one state to another would do. Every backend that is not known to be down is taken to be up; a
/// table that had no backend moves nothing.
pub fn summarise(before: &State, after: &State, observed: &Observed) -> PlanSummary {
    summarise_with(before, after, observed, &TableMemo::default())
}

/// The same with tables that are known from before.
pub fn summarise_with(before: &State, after: &State, observed: &Observed, tables: &TableMemo) -> PlanSummary {
    let mut summary = PlanSummary::default();
    for tenant in before.tenants.keys().filter(|tenant| !after.tenants.contains_key(*tenant)) {
        summary.line(ObjectChange::Removed, format!("tenant {tenant}"), "");
    }
    for (name, tenant) in after.tenants.iter() {
        summary.tenant(name, before.tenants.get(name), tenant);
    }
    let differ: Vec<&str> = before.vips_unlike(after).collect();
    for (name, vip) in differ.iter().filter_map(|name| before.vips.get_key_value(*name)) {
        if kept(after, name, vip).is_none() {
            summary.removed_vip(name, vip);
        }
    }
    for (name, vip) in differ.iter().filter_map(|name| after.vips.get_key_value(*name)) {
        match kept(before, name, vip) {
            None => summary.created_vip(name, vip),
            Some(was) => summary.changed_vip(name, was, vip, (observed, tables)),
        }
    }
    if before.bypass != after.bypass {
        let text = if after.bypass { "on: every packet passes" } else { "off" };
        summary.line(ObjectChange::Changed, "bypass".to_string(), text);
    }
    summary
}

/// The same vip in another state: by name and serial.
fn kept<'s>(state: &'s State, name: &str, vip: &Vip) -> Option<&'s Vip> {
    state.vips.get(name).map(|other| &**other).filter(|other| other.id == vip.id)
}

impl PlanSummary {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn line(&mut self, change: ObjectChange, object: String, text: impl Into<String>) {
        self.lines.push(Line { change, object, text: text.into() });
    }

    fn tenant(&mut self, name: &str, was: Option<&Tenant>, is: &Tenant) {
        let limits = |tenant: &Tenant| field::limits(&tenant.limits);
        let before = limits(was.unwrap_or(&Tenant { limits: TenantLimits::default(), ..*is }));
        let pairs = before.into_iter().zip(limits(is)).filter(|(was, is)| was != is);
        let text: Vec<String> = match was {
            None => pairs.map(|(_, (limit, value))| format!("{limit} {value}")).collect(),
            Some(_) => pairs.map(|((limit, from), (_, to))| format!("{limit} {from} -> {to}")).collect(),
        };
        if was.is_none() {
            self.line(ObjectChange::Created, format!("tenant {name}"), text.join(", "));
        } else if !text.is_empty() {
            self.line(ObjectChange::Changed, format!("tenant {name}"), text.join(", "));
        }
    }

    fn removed_vip(&mut self, name: &str, vip: &Vip) {
        for backend in vip.backends.keys() {
            self.line(ObjectChange::Removed, format!("backend {name}/{backend}"), "");
        }
        self.line(ObjectChange::Removed, format!("vip {name}"), "");
    }

    fn created_vip(&mut self, name: &str, vip: &Vip) {
        let text = format!("{} mode {} tenant {}", vip.served, plain(&json(&vip.settings.mode)), vip.tenant);
        self.line(ObjectChange::Created, format!("vip {name}"), text);
        for (backend, is) in &vip.backends {
            self.created_backend(name, backend, is);
        }
    }

    fn created_backend(&mut self, vip: &str, name: &str, backend: &Backend) {
        let text =
            format!("{} port {} weight {} {}", backend.address, backend.port, backend.weight, backend.intent);
        self.line(ObjectChange::Created, format!("backend {vip}/{name}"), text);
    }

    fn changed_vip(&mut self, name: &str, was: &Vip, is: &Vip, seen: (&Observed, &TableMemo)) {
        let changes = changed_fields("", &json(&was.settings), &json(&is.settings));
        if !changes.is_empty() {
            self.line(ObjectChange::Changed, format!("vip {name}"), changes.join(", "));
        }
        let twin = |vip: &Vip, name: &str, id| vip.backends.get(name).filter(|b| b.id == id).cloned();
        for (backend, old) in &was.backends {
            if twin(is, backend, old.id).is_none() {
                self.line(ObjectChange::Removed, format!("backend {name}/{backend}"), "");
            }
        }
        for (backend, new) in &is.backends {
            match twin(was, backend, new.id) {
                None => self.created_backend(name, backend, new),
                Some(old) => self.changed_backend(name, backend, &old, new),
            }
        }
        self.slots_of(name, was, is, seen);
    }

    fn changed_backend(&mut self, vip: &str, name: &str, was: &Backend, is: &Backend) {
        let mut changes = Vec::new();
        if was.weight != is.weight {
            changes.push(format!("weight {} -> {}", was.weight, is.weight));
        }
        if was.intent != is.intent {
            changes.push(format!("intent {} -> {}", was.intent, is.intent));
        }
        match (was.breaker.tripped, is.breaker.tripped) {
            (before, after) if before != after => {
                let (before, after) = (field::breaker_order(before), field::breaker_order(after));
                changes.push(format!("breaker {before} -> {after}"));
            }
            _ if was.breaker != is.breaker => changes.push("breaker reset".to_owned()),
            _ => {}
        }
        if !changes.is_empty() {
            self.line(ObjectChange::Changed, format!("backend {vip}/{name}"), changes.join(", "));
        }
    }

    fn slots_of(&mut self, name: &str, was: &Vip, is: &Vip, (observed, memo): (&Observed, &TableMemo)) {
        let (mut before, mut after) = (pool(was, observed), pool(is, observed));
        let recipes = (Recipe::of(was, &mut before), Recipe::of(is, &mut after));
        let (slots, same_size) = (is.settings.table_size, was.settings.table_size == is.settings.table_size);
        if (before == after && recipes.0 == recipes.1) || before.is_empty() || !same_size {
            return;
        }
        let backend =
            |pool: &[Candidate], one: u16| usize::from(one).checked_sub(1).map(|index| pool[index].id);
        let tables = memo.tables(recipes.0, recipes.1);
        let moved = (0..slots as usize)
            .filter(|&slot| {
                let new = tables.1.get(slot).and_then(|&one| backend(&after, one));
                backend(&before, tables.0[slot]) != new
            })
            .count();
        let share = moved as f64 / f64::from(slots);
        self.slots.push(SlotsMoved { vip: name.to_string(), moved: moved as u32, slots, share });
    }
}

/// The backends that would take new flows.
fn pool(vip: &Vip, observed: &Observed) -> Vec<Candidate> {
    let unprobed = vip.settings.probe.kind == ProbeKind::None;
    let can = |id| unprobed || observed.health.get(&id) != Some(&Health::Down);
    let (_, serving) = ladder(vip, can, BTreeSet::new, |_| None);
    candidates(vip, vip, |id| serving.contains(&id))
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// A value without the quotes of JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// The fields that differ, as `window_s 900 -> 600`, with their path.
fn changed_fields(prefix: &str, was: &Value, is: &Value) -> Vec<String> {
    let (Some(old), Some(new)) = (was.as_object(), is.as_object()) else {
        let text = || format!("{prefix} {} -> {}", plain(was), plain(is));
        return if was == is { Vec::new() } else { vec![text()] };
    };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |of: &Map<String, Value>, name: &str| of.get(name).cloned().unwrap_or(Value::Null);
    let path = |name: &str| if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
    names
        .into_iter()
        .flat_map(|name| changed_fields(&path(name), &value(old, name), &value(new, name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{accept, world};

    #[test]
    fn a_summary_names_objects_fields_and_slots() {
        let before = world(&["10.0.0.1", "10.0.0.2"]);
        let mut after = before.clone();
        accept(&mut after, r#"{"kind":"vip_set","name":"web","window_s":60,"probe":{"fall":5}}"#);
        accept(&mut after, r#"{"kind":"backend_set","vip":"web","name":"b0","weight":50}"#);
        accept(&mut after, r#"{"kind":"backend_add","vip":"web","name":"new","address":"10.0.0.9"}"#);
        let summary = summarise(&before, &after, &Observed::default());
        let shown: Vec<String> =
            summary.lines.iter().map(|l| format!("{:?} {}: {}", l.change, l.object, l.text)).collect();
        assert_eq!(
            shown,
            [
                "Changed vip web: probe.fall 2 -> 5, window_s 900 -> 60",
                "Changed backend web/b0: weight 100 -> 50",
                "Created backend web/new: 10.0.0.9 port 80 weight 100 enabled",
            ]
        );
        let [slots] = summary.slots.as_slice() else { panic!("one vip's slots move") };
        assert!((0.39..0.6).contains(&slots.share), "{slots:?}");
    }

    #[test]
    fn equal_states_and_backends_known_to_be_down_move_nothing() {
        let before = world(&["10.0.0.1", "10.0.0.2"]);
        assert!(summarise(&before, &before, &Observed::default()).is_empty());
        let mut after = before.clone();
        accept(&mut after, r#"{"kind":"backend_remove","vip":"web","name":"b0"}"#);
        let down = before.vips["web"].backends["b0"].id;
        let observed = Observed { health: [(down, Health::Down)].into(), ..Observed::default() };
        assert!(summarise(&before, &after, &observed).slots.is_empty());
        assert_eq!(summarise(&before, &after, &Observed::default()).slots.len(), 1);
    }
}
