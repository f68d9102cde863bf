//! Plans for what changed alone: when there is one. That it is the plan for everything is asserted in every pass of a
//! [`Node`], the random histories' among them.

use super::THREE;
use crate::health::Health;
use crate::plan::testing::{Node, way, world};
use crate::plan::{Op, changed};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Two vips with three backends each.
fn node() -> Node {
    let mut state = world(&THREE);
    crate::plan::testing::accept(
        &mut state,
        r#"{"kind":"vip_add","name":"dns","address":"203.0.113.11","port":53,"mode":"nat","table_size":251,
            "backend":[{"name":"a","address":"10.0.1.1"},{"name":"b","address":"10.0.1.2"}]}"#,
    );
    let mut node = Node::up(state);
    node.pass();
    node
}

#[test]
fn a_backend_s_change_is_planned_by_its_vip_alone() {
    let mut node = node();
    for command in [
        r#"{"kind":"backend_set","vip":"web","name":"b1","weight":7}"#,
        r#"{"kind":"backend_set","vip":"dns","name":"a","intent":"draining"}"#,
        r#"{"kind":"backend_add","vip":"web","name":"new","address":"10.0.0.9"}"#,
        r#"{"kind":"backend_remove","vip":"dns","name":"a"}"#,
        r#"{"kind":"vip_set","name":"web","window_s":5,"idle_s":77}"#,
    ] {
        node.accept(command);
        let (plan, ..) = node.partial().unwrap_or_else(|| panic!("{command} takes a whole plan"));
        assert_ne!(plan.ops, [], "{command}");
        node.pass();
    }
    let id = node.id("new");
    node.observed.health.insert(id, Health::Up);
    node.observed.ways.insert(id, way(1, Some(9)));
    let (plan, ..) = node.partial().unwrap();
    assert!(plan.ops.iter().any(|op| matches!(op, Op::SetNextHop { .. })), "{plan:?}");
    node.pass();
    node.assert_as_desired();
}

#[test]
fn where_nothing_changed_there_is_nothing_to_do() {
    let mut node = node();
    assert_eq!(node.partial().unwrap().0.ops, []);
}

#[test]
fn a_problem_that_only_its_vip_can_end_makes_nobody_else_s_change_a_whole_plan() {
    let mut node = node();
    let source = r#"{"kind":"vip_add","name":"x","address":"192.0.2.1","port":443,"table_size":251}"#;
    node.accept(source);
    node.pass();
    node.pass();
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b1","weight":7}"#);
    let (plan, ..) = node.partial().expect("web has no problem");
    let of: Vec<_> = plan.problems.iter().map(|problem| problem.vip().unwrap()).collect();
    assert_eq!(of, ["dns", "dns"], "they are told on");
    assert_ne!(plan.ops, []);
    node.pass();
    node.accept(r#"{"kind":"backend_set","vip":"dns","name":"a","weight":7}"#);
    assert!(node.partial().is_none(), "it may have ended its problem");
    node.pass();
    // With another source all is well again, and known to be.
    for id in node.ids() {
        node.observed.ways.insert(id, way(2, Some(1)));
    }
    node.pass();
    node.accept(r#"{"kind":"backend_set","vip":"dns","name":"a","weight":8}"#);
    assert!(node.partial().is_some_and(|(plan, ..)| plan.problems.is_empty()));
    node.pass();
}

#[test]
fn what_vips_share_is_planned_as_a_whole() {
    for command in [
        r#"{"kind":"vip_add","name":"x","address":"203.0.113.12","port":80,"table_size":251}"#,
        r#"{"kind":"vip_remove","name":"web","allow_disruption":true}"#,
        r#"{"kind":"tenant_add","name":"red"}"#,
        r#"{"kind":"bypass_set","on":true}"#,
    ] {
        let mut node = node();
        node.accept(command);
        assert!(node.partial().is_none(), "{command}");
        node.pass();
    }
    // Another way out, and another source address.
    let mut node = node();
    let id = node.id("b0");
    node.observed.ways.insert(id, way(2, Some(1)));
    assert!(node.partial().is_none());
    node.pass();
    assert!(node.partial().is_some());
    // What a sweep found may free rows of anybody.
    node.accept(r#"{"kind":"backend_remove","vip":"web","name":"b1"}"#);
    node.pass();
    node.sweep(|_| false);
    assert!(node.partial().is_none());
    // The last backend that is reached by nat takes the mark of the source with it.
    let mut node = self::node();
    node.accept(r#"{"kind":"backend_remove","vip":"dns","name":"a"}"#);
    assert!(node.partial().is_some());
    node.pass();
    node.accept(r#"{"kind":"backend_remove","vip":"dns","name":"b","allow_disruption":true}"#);
    assert!(node.partial().is_none());
    node.pass();
    // And the next one brings it back, although the rows of the former are not free yet.
    node.accept(r#"{"kind":"backend_add","vip":"dns","name":"c","address":"10.0.1.3"}"#);
    node.observed.ways.insert(node.state.backend("dns", "c").unwrap().id, way(1, Some(9)));
    assert!(node.partial().is_none());
    node.pass();
}

proptest! {
    #[test]
    fn keys_that_differ_are_found(
        was in proptest::collection::btree_map(0_u8..20, 0_u8..3, 0..12),
        is in proptest::collection::btree_map(0_u8..20, 0_u8..3, 0..12),
    ) {
        let differs = |key: &u8| was.get(key) != is.get(key);
        let due: BTreeSet<u8> = (0..20).filter(differs).collect();
        let found: Vec<u8> = changed::<u8, u8>(&was, &is).copied().collect();
        prop_assert!(found.is_sorted());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), due);
        prop_assert_eq!(changed(&was, &BTreeMap::clone(&was)).count(), 0);
    }
}
