//! The law: no live connection is moved. A simulation drives the host path by random traffic, changes of backends,
//! deaths, failing inserts, restarts of the daemon and floods, against a model that remembers every connection.
//!
//! A connection is protected as long as its backend lives and it sends a packet in each window. Exempt is what is
//! documented, and counted apart: a connection that the table could not remember (the insert failed, or its bucket was
//! full of confirmed entries), or whose entry was not yet confirmed when a flood needed its place, may move when its
//! window ends, and no sooner.
//!
//! `LB_LAW_RUNS` sets the number of sequences per scenario, `LB_SEED` the first seed.

mod daemon;
mod model;
mod node;
mod traffic;

use model::{Simulation, Tally};

/// What a sequence is like.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    /// Buckets of the flow table, a power of two.
    buckets: usize,
    /// Connections that are open at a time.
    connections: usize,
    /// Packets of each kind of flood in each second of a sequence.
    flood_pps: u32,
    /// How many of 100 packets meet a failing swap.
    failing_percent: u32,
    /// Whether somebody forges SYNs of live connections.
    forging: bool,
    /// Whether the documented exemptions are granted.
    excuses: bool,
    /// Mean seconds between two changes of backends.
    change_s: u32,
    /// Whether the daemon is as slow at its plans, and as seldom at its sweeps, as it may be.
    slow: bool,
}

const CALM: Scenario = Scenario {
    name: "calm",
    buckets: 16_384,
    connections: 120,
    flood_pps: 0,
    failing_percent: 0,
    forging: false,
    excuses: false,
    change_s: 12,
    slow: false,
};

/// Seconds of a sequence: several windows.
const SECONDS: u32 = 400;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// Runs a scenario's sequences; panics with the history of a connection that was moved.
fn run(scenario: Scenario) -> Tally {
    let (first, runs) = (number("LB_SEED", 1), number("LB_LAW_RUNS", 60));
    let mut sum = Tally::default();
    for seed in first..first + runs {
        match Simulation::new(scenario, seed, None).run(SECONDS) {
            Ok(tally) => sum += tally,
            Err(moved) => {
                let again = Simulation::new(scenario, seed, Some(moved.connection)).run(SECONDS);
                let history = again.err().map_or_else(String::new, |again| again.history.join("\n"));
                panic!("{} LB_SEED={seed} LB_LAW_RUNS=1: {}\n{history}", scenario.name, moved.what);
            }
        }
    }
    std::println!("{}: {sum:?}", scenario.name);
    assert!(sum.packets_remembered > 1_000 && sum.packets_moving > 1_000, "too little moved: {sum:?}");
    sum
}

#[test]
fn nothing_moves_in_calm_weather() {
    run(CALM);
}

#[test]
fn nothing_moves_under_overlapping_changes() {
    run(Scenario { name: "overlapping", change_s: 2, ..CALM });
}

#[test]
fn nothing_moves_by_plans_that_are_carried_out_late() {
    run(Scenario { name: "late", change_s: 1, slow: true, connections: 360, ..CALM });
}

#[test]
fn a_forged_syn_moves_nothing() {
    let sum = run(Scenario { name: "forged", forging: true, ..CALM });
    assert!(sum.forged > 1_000);
}

#[test]
fn a_failing_insert_moves_nothing_within_the_window() {
    let sum = run(Scenario { name: "failing", failing_percent: 20, excuses: true, ..CALM });
    assert!(sum.exempt * 20 < sum.opened && sum.exempt_chatty * 1000 < sum.opened, "{sum:?}");
}

#[test]
fn a_flood_pushes_no_confirmed_connection_out() {
    let sum = run(Scenario { name: "flood", buckets: 64, flood_pps: 40, excuses: true, ..CALM });
    assert!(sum.flooded > 100_000);
}

#[test]
fn all_at_once() {
    run(Scenario {
        name: "all",
        buckets: 256,
        flood_pps: 20,
        failing_percent: 5,
        forging: true,
        excuses: true,
        change_s: 4,
        ..CALM
    });
}
