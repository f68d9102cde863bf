//! Random histories: whatever happens in whatever order, crashes in the middle of a plan among it, every state of
//! the maps is safe, the daemon catches up, and nothing is left behind.

use crate::breaker::BreakerState;
use crate::command::Command;
use crate::health::Health;
use crate::plan::Breaking;
use crate::plan::testing::frames::Frames;
use crate::plan::testing::{LIMITS, Node, way, world};
use crate::testing::any_command;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Something that happens.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few dozen live at a time")]
enum Step {
    Command(Command),
    Health(usize, Health),
    /// Every backend answers, over the first device.
    AllUp,
    Breaker(usize, Breaking),
    Way(usize, u32, Option<u8>),
    NoWay(usize),
    Time(u32),
    /// The daemon dies after so many operations of its plan, and begins again.
    Crash(usize),
    /// A sweep that finds entries for rows whose number has this remainder by 3.
    Sweep(u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    let health = prop_oneof![1 => Just(Health::Unknown), 4 => Just(Health::Up), 2 => Just(Health::Down)];
    prop_oneof![
        14 => any_command().prop_map(Step::Command),
        2 => Just(Step::AllUp),
        6 => (any::<usize>(), health).prop_map(|(which, health)| Step::Health(which, health)),
        2 => (any::<usize>(), 1u32..6, any::<Option<u8>>()).prop_map(|(which, dev, mac)| Step::Way(which, dev, mac)),
        3 => (any::<usize>(), breaking()).prop_map(|(which, breaking)| Step::Breaker(which, breaking)),
        1 => any::<usize>().prop_map(Step::NoWay),
        2 => (0u32..2_000).prop_map(Step::Time),
        1 => (0usize..12).prop_map(Step::Crash),
        2 => (0u16..4).prop_map(Step::Sweep),
    ]
}

fn breaking() -> impl Strategy<Value = Breaking> {
    (0_u8..3, 0_u64..9, 0_u16..=1_000).prop_map(|(state, opened_ms, share_permille)| {
        let state = [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen][usize::from(state)];
        Breaking { state, opened_ms, share_permille }
    })
}

fn take(node: &mut Node, step: Step) {
    let ids = node.ids();
    let pick = |which: usize| ids.get(which % ids.len().max(1)).copied();
    match step {
        Step::Command(command) => drop(node.command(&command)),
        Step::Health(which, health) => {
            let Some(id) = pick(which) else { return };
            let fell = node.observed.health.insert(id, health) == Some(Health::Up) && health == Health::Down;
            node.observed.fell_ms.remove(&id);
            node.observed.fell_ms.extend(fell.then(|| (id, u64::from(node.now_s) * 1_000)));
        }
        Step::Breaker(which, breaking) => {
            pick(which).map(|id| node.observed.breakers.insert(id, breaking));
        }
        Step::AllUp => {
            node.observed.breakers.clear();
            node.observed.health.extend(ids.iter().map(|id| (*id, Health::Up)));
            node.observed.fell_ms.clear();
            node.observed.ways.extend(ids.iter().map(|id| (*id, way(1, Some(id.0 as u8)))));
        }
        Step::Way(which, device, mac) => {
            pick(which).map(|id| node.observed.ways.insert(id, way(device, mac)));
        }
        Step::NoWay(which) => {
            pick(which).map(|id| node.observed.ways.remove(&id));
        }
        Step::Time(seconds) => {
            node.now_s += seconds;
            // Who is silent for so long is promised nothing.
            node.frames.iter_mut().for_each(Frames::end_flows);
        }
        Step::Crash(after) => {
            let plan = node.plan();
            node.carry_out(&plan.ops[..after.min(plan.ops.len())]);
            node.restart();
        }
        Step::Sweep(remainder) => node.sweep(|row| row % 3 == remainder),
    }
}

/// Plans until there is nothing left to do: what one plan frees, the next may use.
fn catch_up(node: &mut Node) {
    for _ in 0..3 {
        let more = node.pass();
        node.memory.actual.sweep = None;
        if !more {
            // A look at every slot finds nothing that this one passed over.
            assert_eq!(node.plan().ops, []);
            return;
        }
    }
    panic!("never done: {:?}", node.plan().ops);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_prefix_of_a_plan_leads_a_packet_astray(
        steps in proptest::collection::vec((any_step(), any::<bool>()), 1..60)
    ) {
        let mut node = Node::new(world(&["10.0.0.1", "10.0.0.2"]));
        node.frames = Some(Frames::new(LIMITS.slots));
        take(&mut node, Step::AllUp);
        for (step, pass) in steps {
            take(&mut node, step);
            if pass {
                catch_up(&mut node);
            }
        }
        catch_up(&mut node);
    }
}

proptest! {
    #[test]
    fn every_prefix_of_every_plan_is_safe(steps in proptest::collection::vec((any_step(), any::<bool>()), 1..120)) {
        let mut node = Node::new(world(&["10.0.0.1", "10.0.0.2"]));
        for (step, pass) in steps {
            take(&mut node, step);
            if pass {
                catch_up(&mut node);
            }
        }
        catch_up(&mut node);
        // In the end every slot of a vip goes to whom its table names, and all that is not needed is free.
        node.now_s += 1_000_000;
        node.sweep(|_| false);
        catch_up(&mut node);
        node.assert_as_desired();
        let rows: BTreeSet<_> = node.memory.actual.backends.values().map(|content| content.id).collect();
        prop_assert_eq!(rows, node.ids().into_iter().collect());
    }
}
