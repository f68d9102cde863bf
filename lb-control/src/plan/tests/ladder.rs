//! The lower rungs of the ladder: who takes new flows when nobody of a pool can, in the maps.

use super::THREE;
use crate::degradation::Rung;
use crate::health::Health;
use crate::plan::testing::{Node, accept, world};
use crate::plan::{TableCache, desired};
use lb_common::abi::backend::Control;
use lb_common::ids::BackendId;
use std::collections::BTreeSet;

const FLAGS: u64 = Control::ALIVE | Control::NEW;

fn rung(node: &Node, vip: &str) -> Rung {
    let id = node.state.vips[vip].id;
    desired(&node.state, &node.observed, &mut TableCache::default()).vips[&id].footing.rung
}

/// The backends that slots of a vip lead new flows to.
fn serving(node: &Node, vip: &str) -> BTreeSet<BackendId> {
    let id = node.state.vips[vip].id;
    let maps = &node.memory.actual;
    let (first, count) = maps.vips.values().find(|row| row.id == id).unwrap().extent;
    let rows: BTreeSet<u16> =
        maps.slots[first as usize..(first + count) as usize].iter().map(|slot| slot.current()).collect();
    rows.into_iter().filter(|row| *row != 0).map(|row| maps.backends[&row].id).collect()
}

fn flags(node: &Node, backend: BackendId) -> u64 {
    node.memory.actual.backends.values().find(|row| row.id == backend).unwrap().control.0 & FLAGS
}

fn fall(node: &mut Node, backend: BackendId, at_ms: u64) {
    node.observed.health.insert(backend, Health::Down);
    node.observed.fell_ms.insert(backend, at_ms);
}

fn rise(node: &mut Node, backend: BackendId) {
    node.observed.health.insert(backend, Health::Up);
    node.observed.fell_ms.remove(&backend);
}

#[test]
fn those_that_fell_together_serve_on_until_one_can() {
    let mut node = Node::up(world(&THREE));
    let [b0, b1, b2] = ["b0", "b1", "b2"].map(|name| node.id(name));
    fall(&mut node, b0, 1_000);
    fall(&mut node, b1, 50_000);
    node.settle();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::Pool, [b2].into()));
    fall(&mut node, b2, 59_000);
    node.settle();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::LastKnownGood, [b1, b2].into()));
    assert_eq!([b0, b1, b2].map(|id| flags(&node, id)), [0, FLAGS, FLAGS]);
    // A daemon that begins anew takes them for up, until their probes fail again.
    let health = node.observed.health.clone();
    node.restart();
    assert_eq!(node.observed.health[&b1], Health::Up);
    node.settle();
    node.observed.health = health;
    fall(&mut node, b1, 70_000);
    fall(&mut node, b2, 70_100);
    node.settle();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::LastKnownGood, [b1, b2].into()));
    rise(&mut node, b0);
    node.settle();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::Pool, [b0].into()));
    assert_eq!([b0, b1, b2].map(|id| flags(&node, id)), [FLAGS, 0, 0]);
}

#[test]
fn whom_people_want_out_and_who_was_never_good_is_no_last_known_good() {
    let mut node = Node::up(world(&THREE));
    let [b0, b1, b2] = ["b0", "b1", "b2"].map(|name| node.id(name));
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b0","intent":"disabled"}"#);
    fall(&mut node, b0, 1_000);
    fall(&mut node, b1, 1_000);
    node.observed.health.insert(b2, Health::Down);
    node.settle();
    assert_eq!(serving(&node, "web"), [b1].into());
    node.accept(r#"{"kind":"vip_set","name":"web","ladder":{"last_known_good":false}}"#);
    node.settle();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::Nobody, [].into()));
    assert_eq!([b0, b1, b2].map(|id| flags(&node, id)), [0; 3]);
}

/// `web` falls back on `spare`, which has a pool of two and a backup.
fn two() -> Node {
    let mut state = world(&THREE);
    accept(
        &mut state,
        r#"{"kind":"vip_add","name":"spare","address":"203.0.113.11","port":80,"mode":"l2","table_size":251,
            "backend":[{"name":"s0","address":"10.0.1.1"},{"name":"s1","address":"10.0.1.2"},
            {"name":"s2","address":"10.0.1.3","backup":true}]}"#,
    );
    accept(&mut state, r#"{"kind":"vip_set","name":"web","ladder":{"fallback":"spare"}}"#);
    let mut node = Node::up(state);
    node.pass();
    node
}

#[test]
fn the_sweep_is_told_who_may_borrow_of_whom() {
    let mut node = two();
    let row = |node: &Node, vip: &str| {
        let id = node.state.vips[vip].id;
        *node.memory.actual.vips.iter().find(|(_, content)| content.id == id).unwrap().0
    };
    let (spare, web) = (row(&node, "spare"), row(&node, "web"));
    let borrowers = |node: &Node| crate::plan::borrowers(&node.state, &node.memory.actual);
    assert_eq!(borrowers(&node), [(spare, [web].into())].into());
    node.accept(r#"{"kind":"vip_set","name":"web","ladder":{"fallback":""}}"#);
    assert_eq!(borrowers(&node), [].into());
}

#[test]
fn another_vips_pool_serves_as_far_as_it_can() {
    let mut node = two();
    let own = ["b0", "b1", "b2"].map(|name| node.id(name));
    let lent = ["s0", "s1", "s2"].map(|name| node.state.backend("spare", name).unwrap().id);
    let before = serving(&node, "spare");
    for id in own {
        fall(&mut node, id, 1_000);
    }
    node.pass();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::Fallback, [lent[0], lent[1]].into()));
    assert_eq!((rung(&node, "spare"), serving(&node, "spare")), (Rung::Pool, before));
    // What befalls the other vip concerns this one: one of its pool, then all of it. Its backups are its own.
    fall(&mut node, lent[0], 9_000);
    node.pass();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::Fallback, [lent[1]].into()));
    fall(&mut node, lent[1], 9_000);
    node.pass();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::LastKnownGood, own.into()));
    assert_eq!((rung(&node, "spare"), serving(&node, "spare")), (Rung::Backups, [lent[2]].into()));
    rise(&mut node, lent[0]);
    node.pass();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::Fallback, [lent[0]].into()));
    rise(&mut node, own[1]);
    node.pass();
    assert_eq!((rung(&node, "web"), serving(&node, "web")), (Rung::Pool, [own[1]].into()));
}

#[test]
fn a_change_of_one_of_two_is_planned_for_both() {
    let mut node = two();
    node.accept(r#"{"kind":"backend_set","vip":"spare","name":"s0","weight":7}"#);
    assert!(node.partial().is_some());
    node.pass();
    for id in ["b0", "b1", "b2"].map(|name| node.id(name)) {
        fall(&mut node, id, 1_000);
    }
    assert!(node.partial().is_some());
    node.pass();
    node.accept(r#"{"kind":"backend_remove","vip":"spare","name":"s0"}"#);
    assert!(node.partial().is_some());
    node.pass();
    let left = node.state.backend("spare", "s1").unwrap().id;
    assert_eq!(serving(&node, "web"), [left].into());
}
