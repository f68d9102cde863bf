//! The planner against maps in memory.

use super::testing::{Node, accept, way, world};
use super::{Key, Op};
use crate::code::Code;
use crate::health::Health;
use crate::state::State;
use lb_common::abi::backend::Control;
use lb_common::abi::slot::{Phase, Slot};
use lb_common::abi::vip::VipEntry;
use lb_common::limits::WINDOW_SLACK_S;

const THREE: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

fn slots(node: &Node) -> &[Slot] {
    &node.memory.actual.slots[..251]
}

fn count(node: &Node, is: impl Fn(&Slot) -> bool) -> usize {
    slots(node).iter().filter(|slot| is(slot)).count()
}

/// Where in the plan the first operation stands that `is` picks.
fn position(ops: &[Op], is: impl Fn(&Op) -> bool) -> usize {
    ops.iter().position(is).unwrap_or_else(|| panic!("not in {ops:?}"))
}

#[test]
fn a_settled_vip_is_whole_and_needs_nothing_more() {
    let mut node = Node::up(world(&THREE));
    let keys = &node.memory.actual.keys;
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[&Key::mark([203, 0, 113, 10].into())], VipEntry(VipEntry::ADDRESS));
    assert_eq!(count(&node, |slot| slot.is_stable() && slot.current() != 0), 251);
    assert_eq!(node.plan(), super::Plan::default());
}

#[test]
fn an_unknown_backend_gets_no_new_flows_until_it_is_up() {
    let mut node = Node::new(world(&["10.0.0.1"]));
    node.settle();
    assert_eq!(count(&node, |slot| slot.current() != 0), 0);
    assert_eq!(node.memory.actual.backends[&1].control.0 & 3, Control::ALIVE);
    node.observed.health.insert(node.id("b0"), Health::Up);
    node.settle();
    assert_eq!(count(&node, |slot| *slot == Slot::stable(1)), 251);
}

#[test]
fn a_healthy_backend_gets_no_new_flows_until_a_way_to_it_is_known() {
    let mut node = Node::up(world(&THREE));
    let late = node.id("b2");
    node.observed.unreached.insert(late);
    node.settle();
    let row = node.row("b2");
    assert_eq!(count(&node, |slot| slot.current() == row), 0);
    node.observed.unreached.clear();
    node.settle();
    assert!(count(&node, |slot| slot.current() == row) > 60);
}

#[test]
fn a_backend_of_a_vip_without_probe_is_used_at_once() {
    let mut state = world(&["10.0.0.1"]);
    accept(&mut state, r#"{"kind":"vip_set","name":"web","probe":{"kind":"none"}}"#);
    let mut node = Node::new(state);
    node.observed.health.insert(node.id("b0"), Health::Down);
    node.settle();
    assert_eq!(count(&node, |slot| *slot == Slot::stable(1)), 251);
}

#[test]
fn a_death_is_told_to_the_row_before_the_slots_and_leaves_no_window() {
    let mut node = Node::up(world(&THREE));
    node.observed.health.insert(node.id("b1"), Health::Down);
    let plan = node.settle();
    let row = node.row("b1");
    let dead = position(
        &plan.ops,
        |op| matches!(op, Op::SetControl { row: r, control } if *r == row && !control.alive()),
    );
    let moved = position(&plan.ops, |op| matches!(op, Op::ChangeSlots { .. }));
    assert!(dead < moved);
    assert_eq!(count(&node, |slot| slot.current() == row || slot.previous() == row), 0);
}

#[test]
fn a_drain_moves_the_slots_before_the_row_and_keeps_older_flows() {
    let mut node = Node::up(world(&THREE));
    let row = node.row("b1");
    let had = count(&node, |slot| slot.current() == row);
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b1","intent":"draining"}"#);
    let plan = node.settle();
    let moved = position(&plan.ops, |op| matches!(op, Op::ChangeSlots { .. }));
    let drained = position(&plan.ops, |op| matches!(op, Op::SetControl { .. }));
    assert!(moved < drained);
    let end_s = node.now_s + 900 + WINDOW_SLACK_S;
    let draining =
        |slot: &Slot| slot.previous() == row && slot.deadline_s() == end_s && slot.current() != row;
    assert_eq!(count(&node, draining), had);
    assert!(node.memory.actual.backends[&row].control.alive());
}

#[test]
fn a_pool_without_anyone_leaves_older_flows_their_backend() {
    let mut node = Node::up(world(&["10.0.0.1"]));
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b0","weight":0,"allow_disruption":true}"#);
    node.settle();
    assert_eq!(count(&node, |slot| slot.current() == 0 && slot.previous() == 1), 251);
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b0","weight":7}"#);
    node.settle();
    assert_eq!(count(&node, |slot| slot.current() == 1 && slot.previous() == 1), 251);
}

#[test]
fn a_removed_backends_row_is_free_only_when_a_sweep_has_proven_it() {
    let mut node = Node::up(world(&THREE));
    let row = node.row("b2");
    node.accept(r#"{"kind":"backend_remove","vip":"web","name":"b2"}"#);
    node.settle();
    assert!(node.memory.actual.backends.contains_key(&row));
    node.sweep(|_| true);
    assert_eq!(node.settle().ops, []);
    node.sweep(|_| false);
    let ops = node.settle().ops;
    assert_eq!(ops, [Op::Barrier, Op::FreeBackend { row }]);
    // The same sweep says nothing about who sits there next.
    node.accept(r#"{"kind":"backend_add","vip":"web","name":"b3","address":"10.0.0.4"}"#);
    node.settle();
    assert_eq!(node.row("b3"), row);
    node.accept(r#"{"kind":"backend_remove","vip":"web","name":"b3"}"#);
    node.settle();
    assert!(node.memory.actual.backends.contains_key(&row));
}

#[test]
fn a_removed_vip_loses_its_key_first_and_its_place_last() {
    let mut node = Node::up(world(&THREE));
    node.accept(r#"{"kind":"vip_remove","name":"web","allow_disruption":true}"#);
    let ops = node.settle().ops;
    let key = position(&ops, |op| matches!(op, Op::RemoveVipKey { .. }));
    let dead = position(&ops, |op| matches!(op, Op::SetControl { .. }));
    let barrier = position(&ops, |op| matches!(op, Op::Barrier));
    let free = position(&ops, |op| matches!(op, Op::FreeVip { .. }));
    assert!(key < dead && dead < barrier && barrier < free);
    assert!(node.memory.actual.keys.is_empty() && node.memory.actual.vips.is_empty());
    node.sweep(|_| false);
    node.settle();
    assert!(node.memory.actual.backends.is_empty());
}

#[test]
fn a_restart_resets_no_moving_slot() {
    let mut node = Node::up(world(&THREE));
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b1","intent":"draining"}"#);
    node.observed.health.insert(node.id("b2"), Health::Down);
    node.settle();
    let before = slots(&node).to_vec();
    node.restart();
    assert_eq!(node.observed.health[&node.id("b0")], Health::Up);
    assert_eq!(node.observed.health[&node.id("b1")], Health::Up);
    assert_eq!(node.observed.health[&node.id("b2")], Health::Down);
    node.observed.ways.clear();
    node.now_s += 100;
    assert_eq!(node.settle().ops, []);
    assert_eq!(slots(&node), before);
}

#[test]
fn a_moving_slot_keeps_previous_and_deadline_and_a_later_change_after_the_window_begins_anew() {
    let mut node = Node::up(world(&THREE));
    let (first, second) = (node.row("b1"), node.row("b2"));
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b1","weight":0}"#);
    node.settle();
    node.now_s += 10;
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b2","weight":0}"#);
    node.settle();
    let (early, late) = (1_900 + WINDOW_SLACK_S, 1_910 + WINDOW_SLACK_S);
    assert!(count(&node, |slot| slot.previous() == first && slot.deadline_s() == early) > 70);
    assert!(count(&node, |slot| slot.previous() == second && slot.deadline_s() == late) > 70);
    node.now_s = late;
    assert_eq!(node.settle().ops, []);
    assert_eq!(count(&node, |slot| slot.phase(late) == Phase::Moving), 0);
}

#[test]
fn a_vip_that_tracks_nothing_has_only_stable_slots() {
    let mut node = Node::up(world(&THREE));
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b1","intent":"draining"}"#);
    node.settle();
    node.accept(r#"{"kind":"vip_set","name":"web","tracking":"never","allow_disruption":true}"#);
    node.settle();
    assert_eq!(count(&node, |slot| !slot.is_stable()), 0);
}

#[test]
fn nat_marks_its_source_and_the_mark_goes_with_the_last_user() {
    let mut state = world(&[]);
    accept(
        &mut state,
        r#"{"kind":"vip_add","name":"n","address":"203.0.113.11","port":80,"table_size":251,
            "backend":[{"name":"a","address":"10.0.1.1","port":8080}]}"#,
    );
    let mut node = Node::up(state);
    let mark = Key::mark([192, 0, 2, 1].into());
    assert_eq!(node.memory.actual.keys[&mark], VipEntry(VipEntry::SOURCE));
    node.accept(r#"{"kind":"vip_remove","name":"n","allow_disruption":true}"#);
    node.settle();
    assert!(!node.memory.actual.keys.contains_key(&mark));
    node.sweep(|_| false);
    node.settle();
    assert!(node.memory.actual.sources.is_empty());
}

#[test]
fn a_source_of_nat_that_is_a_vips_address_is_no_way() {
    let mut state = world(&[]);
    accept(
        &mut state,
        r#"{"kind":"vip_add","name":"n","address":"203.0.113.11","port":80,"table_size":251,
            "backend":[{"name":"a","address":"10.0.1.1","port":8080}]}"#,
    );
    let mut node = Node::up(state);
    let uses = |node: &Node| node.memory.actual.slots.iter().filter(|slot| slot.current() != 0).count();
    assert_eq!(uses(&node), 251);
    let mark = Key::mark([192, 0, 2, 1].into());
    node.accept(
        r#"{"kind":"vip_add","name":"x","address":"192.0.2.1","port":443,"mode":"l2","table_size":251}"#,
    );
    let problems = node.settle().problems;
    assert_eq!((problems[0].code, problems[0].object.as_str()), (Code::SourceIsVip, "backend n/a"));
    assert_eq!(uses(&node), 0);
    // Its flows go on meanwhile, and with another source or another mode all is well.
    assert!(node.memory.actual.keys[&mark].is_source());
    let id = node.ids()[0];
    node.observed.ways.insert(id, way(2, Some(1)));
    assert_eq!(node.settle().problems, []);
    assert_eq!(uses(&node), 251);
}

#[test]
fn a_new_way_takes_a_fresh_row_and_the_old_one_goes_after_a_sweep() {
    let mut node = Node::up(world(&["10.0.0.1"]));
    let id = node.id("b0");
    node.observed.ways.insert(id, way(2, None));
    node.settle();
    let hop = node.memory.actual.backends[&1].next_hop;
    assert_eq!(hop.egress(), 0, "the last known next hop stays while the new one is not resolved");
    node.observed.ways.insert(id, way(2, Some(9)));
    node.settle();
    let hop = node.memory.actual.backends[&1].next_hop;
    assert_eq!((hop.egress(), hop.mac().octets()[5]), (1, 9));
    node.observed.devices.clear();
    node.settle();
    node.sweep(|_| false);
    let sweep = node.memory.actual.sweep.as_mut().unwrap();
    sweep.referenced.egresses = sweep.watched.egresses.clone();
    node.settle();
    assert_eq!(node.memory.actual.egresses.len(), 2, "a NAT flow goes back that way");
    node.sweep(|_| false);
    node.settle();
    assert_eq!(node.memory.actual.egresses.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn full_tables_are_named_and_what_runs_goes_on() {
    let mut node = Node::up(world(&THREE));
    // Rows of removed backends wait for a sweep: the state has room, the table has none.
    for round in 0..37 {
        node.accept(&format!(
            r#"{{"kind":"backend_add","vip":"web","name":"x","address":"10.1.0.{round}"}}"#
        ));
        node.settle();
        node.accept(r#"{"kind":"backend_remove","vip":"web","name":"x"}"#);
        node.settle();
    }
    let before = slots(&node).to_vec();
    node.accept(r#"{"kind":"backend_add","vip":"web","name":"x","address":"10.1.1.1"}"#);
    node.observed.health.insert(node.id("x"), Health::Up);
    let problems = node.settle().problems;
    assert_eq!((problems[0].code, problems[0].object.as_str()), (Code::BackendRowsFull, "backend web/x"));
    let other = |(old, new): (&Slot, &Slot)| old.current() != new.current() && new.current() != 0;
    assert!(before.iter().zip(slots(&node)).filter(|pair| other(*pair)).count() < 100);
    assert_eq!(count(&node, |slot| slot.current() == 0), 0);
    // Even then nothing goes on to name a backend that is gone, or its row would never be free.
    let gone = node.row("b2");
    node.accept(r#"{"kind":"backend_remove","vip":"web","name":"b2"}"#);
    node.settle();
    assert_eq!(count(&node, |slot| slot.current() == gone), 0);
    node.sweep(|_| false);
    let plan = node.plan();
    node.carry_out(&plan.ops);
    assert!(node.settle().problems.is_empty());
    node.assert_as_desired();
}

#[test]
fn a_sweep_that_begins_while_slots_name_the_dead_proves_nothing() {
    let mut node = Node::up(world(&THREE));
    let row = node.row("b1");
    node.accept(r#"{"kind":"backend_remove","vip":"web","name":"b1"}"#);
    let plan = node.plan();
    let dead = position(&plan.ops, |op| matches!(op, Op::SetControl { .. }));
    node.carry_out(&plan.ops[..=dead]);
    node.sweep(|_| false);
    node.settle();
    assert!(node.memory.actual.backends.contains_key(&row));
    node.sweep(|_| false);
    node.settle();
    assert!(!node.memory.actual.backends.contains_key(&row));
}

#[test]
fn a_sweep_that_begins_before_the_death_proves_nothing() {
    let mut node = Node::up(world(&THREE));
    node.accept(r#"{"kind":"backend_set","vip":"web","name":"b1","intent":"draining"}"#);
    node.settle();
    node.now_s += 1_000;
    let row = node.row("b1");
    node.accept(r#"{"kind":"backend_remove","vip":"web","name":"b1"}"#);
    node.sweep(|_| false);
    node.settle();
    assert!(node.memory.actual.backends.contains_key(&row));
}

#[test]
fn maps_of_another_log_lend_neither_rows_nor_health() {
    let old = Node::up(world(&THREE));
    let mut state = State::default();
    accept(
        &mut state,
        r#"{"kind":"vip_add","name":"new","address":"203.0.113.99","port":443,"table_size":251,
            "backend":[{"name":"x","address":"10.9.9.9"}]}"#,
    );
    let mut node = Node { state, ..old };
    node.restart();
    node.observed.ways.clear();
    assert_eq!(node.observed.health, [].into());
    node.settle();
    let [vip] = node.memory.actual.vips.values().collect::<Vec<_>>()[..] else { panic!("one vip") };
    assert_eq!((vip.key.port, vip.extent), (443, (251, 251)));
    node.sweep(|_| false);
    node.settle();
    let backends: Vec<_> = node.memory.actual.backends.values().map(|backend| backend.address).collect();
    assert_eq!(backends, [std::net::IpAddr::from([10, 9, 9, 9])]);
}

#[test]
fn what_was_picked_is_looked_up_after_the_algorithm_is_gone() {
    let mut node = Node::up(world(&THREE));
    node.accept(r#"{"kind":"vip_set","name":"web","balancing":{"algorithm":"round_robin"}}"#);
    node.settle();
    node.now_s += 1_000;
    node.sweep(|_| false);
    // As a sweep leaves them that found no flow elsewhere than its slot.
    for slot in &mut node.memory.actual.slots[..251] {
        *slot = Slot::stable(slot.current());
    }
    node.accept(r#"{"kind":"vip_set","name":"web","tracking":"auto","balancing":{"algorithm":"matching"}}"#);
    let ops = node.settle().ops;
    let slots_at = position(&ops, |op| matches!(op, Op::ChangeSlots { .. }));
    assert!(slots_at < position(&ops, |op| matches!(op, Op::SetVipPolicy { .. })), "{ops:?}");
    assert_eq!(count(&node, |slot| slot.is_stable()), 0, "a stable slot is not looked up");
}

#[test]
fn bypass_comes_first_and_goes_last() {
    let mut node = Node::new(world(&THREE));
    node.accept(r#"{"kind":"bypass_set","on":true}"#);
    assert_eq!(node.settle().ops[0], Op::SetBypass { on: true });
    node.accept(r#"{"kind":"bypass_set","on":false}"#);
    node.accept(r#"{"kind":"vip_remove","name":"web","allow_disruption":true}"#);
    assert_eq!(node.settle().ops.last(), Some(&Op::SetBypass { on: false }));
}

#[test]
fn a_new_table_size_takes_a_fresh_extent() {
    let mut node = Node::new(world(&[]));
    node.settle();
    node.accept(r#"{"kind":"vip_set","name":"web","table_size":257}"#);
    let ops = node.settle().ops;
    assert!(matches!(&ops[0], Op::WriteSlots { first: 251, values } if values.len() == 257), "{ops:?}");
    assert!(matches!(ops[1..], [Op::SetVipTable { extent: (251, 257), .. }, Op::Barrier]), "{ops:?}");
}

mod ladder;
mod partial;
mod random;
