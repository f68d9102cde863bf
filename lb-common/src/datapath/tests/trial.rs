//! A backend on trial gets its rate of new connections and no more; the others are shared out and stay where they are.

use super::shape::Content;
use super::site::{Site, V4, addr};
use crate::abi::backend::Mode;
use crate::abi::slot::Slot;
use crate::abi::vip::{Pick, Policy, Tracking, extent_word};
use crate::datapath::pipeline::Choice;
use std::vec;

/// Slots of the vip, rows of its backends: row 1 is on trial.
const SLOTS: u32 = 60;
const ROWS: u16 = 3;
const RATE_CPS: u16 = 10;

/// A TCP vip with three backends that have every third slot, moving from nowhere.
fn on_trial(rate_cps: u16) -> Site {
    let mut site = Site::new(Mode::L2, V4, V4);
    site.tables.slots = (0..SLOTS).map(|_| Default::default()).collect();
    site.tables.vips[1].table.store(extent_word(0, SLOTS));
    for row in 1..=ROWS {
        let stored = &site.tables.backends[usize::from(row)];
        let trial = if row == 1 { rate_cps } else { 0 };
        stored.control.store(site.tables.backends[1].control.load());
        stored.trial_cps.store(trial.into());
        stored.next_hop.store(site.tables.backends[1].next_hop.load());
        stored.addr.iter().zip(addr(V4.backend).words()).for_each(|(word, value)| word.store(value));
    }
    for (number, word) in site.tables.slots.iter().enumerate() {
        word.store(Slot::pinned(1 + number as u16 % ROWS).0);
    }
    site
}

fn segment(port: u16, flags: &'static str, sequence: u32) -> Content {
    Content::Tcp { ports: (port, 80), sequence, flags, data: vec![] }
}

fn later_ms(site: &Site, millis: u64) {
    site.tables.now_ns.set(site.tables.now_ns.get() + millis * 1_000_000);
}

/// Sends a SYN; the backend's row, how it was found, and the slot's own row.
fn syn(site: &Site, port: u16) -> (u32, Choice, u16) {
    let trail = site.send_packet(&site.packet(segment(port, "S", 1))).trail;
    (trail.backend_row, trail.choice, trail.slot.current())
}

#[test]
fn it_gets_its_rate_and_the_others_share_the_rest_evenly() {
    let site = on_trial(RATE_CPS);
    let mut counts = [0_u32; 4];
    // 10,000 connections in 10 seconds, a third of them for the backend on trial.
    for port in 1_000..11_000 {
        let (row, choice, own) = syn(&site, port);
        counts[row as usize] += 1;
        assert_eq!(choice == Choice::SetAside, own == 1 && row != 1, "{own} -> {row} {choice:?}");
        later_ms(&site, 1);
    }
    assert!((100..=102).contains(&counts[1]), "{counts:?}");
    assert!(counts[2].abs_diff(counts[3]) < 3_500, "{counts:?}");
    assert_eq!(counts.iter().sum::<u32>(), 10_000);
}

#[test]
fn whoever_an_algorithm_picks_it_for_asks_for_a_token_too() {
    let site = on_trial(RATE_CPS);
    let policy = Policy::new(Tracking::Always, false, false, 900).with_pick(Pick::Turn);
    site.tables.vips[1].policy.store(policy.0);
    let mut counts = [0_u32; 4];
    for port in 1_000..4_000 {
        let (row, choice, _) = syn(&site, port);
        counts[row as usize] += 1;
        assert!(row != 1 || choice == Choice::Picked, "{row} {choice:?}");
        later_ms(&site, 1);
    }
    assert!((29..=32).contains(&counts[1]), "{counts:?}");
}

#[test]
fn who_was_set_aside_stays_where_it_is_when_the_trial_is_over() {
    let site = on_trial(1);
    let ports = || 1_000..1_060;
    let rows: vec::Vec<u32> = ports().map(|port| syn(&site, port).0).collect();
    // The one that is due, and one that nobody took.
    assert_eq!(rows.iter().filter(|row| **row == 1).count(), 2);
    site.tables.backends[1].trial_cps.store(0);
    for (port, row) in ports().zip(rows) {
        let trail = site.send_packet(&site.packet(segment(port, "A", 2))).trail;
        assert_eq!(trail.backend_row, row, "{port} {trail:?}");
    }
}

#[test]
fn without_a_place_to_be_remembered_a_connection_stays_with_its_slot() {
    let site = on_trial(1);
    site.tables.failing_swaps.set(u32::MAX);
    assert!((1_000..1_100).all(|port| {
        let (row, _, own) = syn(&site, port);
        row == u32::from(own)
    }));
}

#[test]
fn where_there_is_no_other_backend_it_takes_all() {
    let site = on_trial(RATE_CPS);
    site.tables.slots.iter().for_each(|word| word.store(Slot::pinned(1).0));
    assert!((1_000..1_100).all(|port| syn(&site, port).0 == 1));
}

#[test]
fn a_second_syn_of_a_connection_costs_no_token_and_an_older_one_none_either() {
    let site = on_trial(RATE_CPS);
    let port = (1_000..2_000).find(|port| syn(&site, *port).2 == 1).unwrap();
    let first = syn(&site, port).0;
    assert!((0..50).all(|_| syn(&site, port).0 == first));
    let older = (2_000..3_000).find_map(|port| {
        let trail = site.send_packet(&site.packet(segment(port, "A", 9))).trail;
        (trail.slot.current() == 1).then_some(trail.backend_row)
    });
    assert_eq!(older, Some(1));
}
