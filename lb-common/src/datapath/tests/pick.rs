//! The algorithms, each against its law through the whole path, and the times of entries.

use super::shape::{Content, Packet};
use super::site::{Site, V4, addr};
use crate::abi::backend::{Control, Mode};
use crate::abi::flow::{Entry, EntryState};
use crate::abi::slot::Slot;
use crate::abi::vip::{Pick, Policy, Timeouts, Tracking, extent_word};
use crate::be::Be16;
use crate::datapath::pipeline::Choice;
use std::format;
use std::vec;
use std::vec::Vec;

const SLOTS: usize = 1_009;

/// A site whose TCP vip, row 1, and UDP vip, row 2, have four backends each in so many slots, by `table(slot)`.
fn site(policy: Policy, table: impl Fn(usize) -> u16) -> Site {
    let mut site = Site::new(Mode::L2, V4, V4);
    site.tables.slots = (0..SLOTS).map(|slot| Slot::stable(10 + table(slot)).0).map(word).collect();
    for vip in [1, 2] {
        let row = &site.tables.vips[vip];
        row.table.store(extent_word(0, SLOTS as u32));
        row.policy.store(policy.0);
    }
    for backend in 0..4_u16 {
        let stored = &site.tables.backends[usize::from(10 + backend)];
        stored.control.store(Control::new(3, Mode::L2, 0, 1, Be16::new(0)).with_weight(100).0);
        stored.next_hop.store(site.tables.backends[1].next_hop.load());
        let words = addr(V4.backend).words();
        stored.addr.iter().zip(words).for_each(|(word, value)| word.store(value));
    }
    site
}

fn word(value: u64) -> crate::abi::word::Word {
    crate::abi::word::Word::new(value)
}

fn always(pick: Pick) -> Policy {
    Policy::new(Tracking::Always, false, false, 900).with_pick(pick)
}

fn later(site: &Site, seconds: u64) {
    site.tables.now_ns.set(site.tables.now_ns.get() + seconds * 1_000_000_000);
}

/// The segment of a client, by the last octets of its address and its port.
fn segment(site: &Site, client: (u8, u8), port: u16, flags: &'static str, sequence: u32) -> (u32, Choice) {
    let content = Content::Tcp { ports: (port, 80), sequence, flags, data: vec![] };
    let src = format!("198.51.{}.{}", client.0, client.1).parse().unwrap();
    let out = site.send_packet(&Packet { src, ..site.packet(content) });
    (out.trail.backend_row.wrapping_sub(10), out.trail.choice)
}

fn syn(site: &Site, client: (u8, u8), port: u16) -> usize {
    segment(site, client, port, "S", 1).0 as usize
}

/// A handshake.
fn connect(site: &Site, client: (u8, u8), port: u16) -> usize {
    let backend = syn(site, client, port);
    assert_eq!(segment(site, client, port, "A", 2).0 as usize, backend);
    backend
}

fn connections(site: &Site) -> [u64; 4] {
    std::array::from_fn(|backend| site.tables.backends[10 + backend].connections.load())
}

/// A site with room for many flows.
fn roomy(policy: Policy, table: impl Fn(usize) -> u16) -> Site {
    let mut site = site(policy, table);
    site.tables.flows = (0..8_192).map(|_| Default::default()).collect();
    site
}

fn evenly(slot: usize) -> u16 {
    slot as u16 % 4
}

#[test]
fn turns_follow_the_table_whoever_comes() {
    let site = roomy(always(Pick::Turn), evenly);
    let turns: Vec<usize> = (1..=40).map(|port| syn(&site, (100, 7), port)).collect();
    assert_eq!(turns, (0..40).map(|turn| turn % 4).collect::<Vec<_>>());
    // Neither a repeated SYN nor what is only quoted takes a turn, and a flow stays where its turn was.
    assert_eq!(segment(&site, (100, 7), 3, "S", 1), (2, Choice::Remembered));
    assert_eq!(segment(&site, (100, 7), 3, "A", 2), (2, Choice::Remembered));
    assert_eq!(site.tables.vips[1].turn.load(), 40);
}

#[test]
fn another_cpu_that_is_quicker_costs_no_turn() {
    let site = roomy(always(Pick::Turn), evenly);
    site.tables.failing_swaps.set(2);
    assert_eq!((syn(&site, (100, 7), 1), site.tables.vips[1].turn.load()), (0, 1));
}

#[test]
fn a_pick_that_cannot_be_remembered_goes_where_its_slot_leads() {
    let site = roomy(always(Pick::Turn), |_| 2);
    site.tables.slots[0].store(Slot::stable(10).0);
    // Another CPU is always quicker: at the turn, and at the entry.
    for port in 1..5 {
        site.tables.vips[1].turn.store(0);
        site.tables.failing_swaps.set(5);
        assert_eq!(segment(&site, (100, 7), port, "S", 1), (2, Choice::Slot));
    }
}

#[test]
fn a_client_has_one_backend_by_source_whatever_its_ports() {
    let site = roomy(Policy::new(Tracking::Auto, false, false, 900).with_pick(Pick::Source), evenly);
    let mut counts = [0_u32; 4];
    for client in 0..1_000 {
        let client = (100 + (client / 250) as u8, (client % 250) as u8);
        let backend = syn(&site, client, 1);
        assert_eq!([2, 3, 40_000].map(|port| syn(&site, client, port)), [backend; 3]);
        counts[backend] += 1;
    }
    assert_shares(counts, [4.0; 4]);
    assert!(site.tables.flows.iter().all(|bucket| bucket.entries.iter().all(|entry| entry.load() == 0)));
}

#[test]
fn affinity_outlives_a_change_of_the_pool_for_its_time() {
    let times = Timeouts { affinity_s: 60, ..Timeouts::default() };
    let site = roomy(always(Pick::Affinity).with_timeouts(times), evenly);
    let client = (100, 7);
    let before = connect(&site, client, 1);
    let moved = (before + 1) % 4;
    site.tables.slots.iter().for_each(|slot| slot.store(Slot::stable(10 + moved as u16).0));
    later(&site, 59);
    assert_eq!(connect(&site, client, 2), before, "and its time begins anew");
    later(&site, 59);
    assert_eq!(connect(&site, client, 3), before);
    assert_eq!(syn(&site, (100, 8), 1), moved, "another client");
    later(&site, 60);
    assert_eq!(connect(&site, client, 4), moved);
    // A backend that drains takes no new flows, whoever comes.
    site.tables.slots.iter().for_each(|slot| slot.store(Slot::stable(10 + before as u16).0));
    let control = &site.tables.backends[10 + moved].control;
    control.store(control.load() & !Control::NEW);
    assert_eq!(connect(&site, client, 5), before);
}

/// HTTP/3 beside HTTP/2: a client's backend at one of them is not forgotten because it talks to the other.
#[test]
fn vips_of_one_address_have_an_affinity_each() {
    let times = Timeouts { affinity_s: 60, ..Timeouts::default() };
    let mut site = roomy(always(Pick::Affinity).with_timeouts(times), evenly);
    // The UDP vip has a backend of its own, behind a table of the same size.
    site.tables.slots.extend((0..SLOTS).map(|_| word(Slot::stable(2).0)));
    site.tables.vips[2].table.store(extent_word(SLOTS as u32, SLOTS as u32));
    let datagram = |client: (u8, u8)| {
        let content = Content::Udp { ports: (9, 53), checksum: true, data: vec![7; 9] };
        let src = format!("198.51.{}.{}", client.0, client.1).parse().unwrap();
        site.send_packet(&Packet { src, ..site.packet(content) }).trail.backend_row
    };
    let clients: Vec<(u8, u8)> = (1..=100).map(|host| (100, host)).collect();
    let before: Vec<usize> = clients.iter().map(|client| connect(&site, *client, 1)).collect();
    assert!(clients.iter().all(|client| datagram(*client) == 2));
    let known = |site: &Site| {
        let entries = site.tables.flows.iter().flat_map(|bucket| &bucket.entries);
        entries.filter(|word| Entry(word.load()).state() == EntryState::Affinity).count()
    };
    assert!(known(&site) > 195, "of 200, as far as places of two clients do not meet: {}", known(&site));
    site.tables.slots[..SLOTS].iter().for_each(|slot| slot.store(Slot::stable(10).0));
    let kept = clients.iter().zip(&before).filter(|(client, was)| connect(&site, **client, 2) == **was);
    assert!(kept.count() > 95);
}

#[test]
fn a_handshake_that_is_not_finished_is_no_affinity() {
    let times = Timeouts { affinity_s: 60, ..Timeouts::default() };
    let site = roomy(always(Pick::Affinity).with_timeouts(times), evenly);
    let before = syn(&site, (100, 7), 1);
    let moved = (before + 1) % 4;
    site.tables.slots.iter().for_each(|slot| slot.store(Slot::stable(10 + moved as u16).0));
    assert_eq!(syn(&site, (100, 7), 2), moved);
}

#[test]
fn a_connection_is_counted_once_from_its_confirmation_to_its_end() {
    let site = roomy(always(Pick::Least), |_| 1);
    let client = (100, 7);
    syn(&site, client, 1);
    assert_eq!(connections(&site), [0; 4], "a SYN is none yet");
    for _ in 0..3 {
        segment(&site, client, 1, "A", 2);
    }
    assert_eq!(connections(&site), [0, 1, 0, 0]);
    for flags in ["FA", "FA", "A"] {
        segment(&site, client, 1, flags, 2);
    }
    assert_eq!(connections(&site), [0; 4]);
    connect(&site, client, 2);
    segment(&site, client, 2, "R", 2);
    assert_eq!(connections(&site), [0; 4]);
    // The tuple's next connection takes the place of one that never ended.
    connect(&site, client, 3);
    segment(&site, client, 3, "S", 700_000);
    segment(&site, client, 3, "A", 700_001);
    assert_eq!(connections(&site), [0, 1, 0, 0]);
}

#[test]
fn who_takes_the_place_of_an_idle_connection_or_finds_its_backend_dead_ends_its_count() {
    let site = site(always(Pick::Least), |_| 1);
    for port in 1..=2_000 {
        connect(&site, (100, 7), port);
    }
    let room = site.tables.flows.len() as u64 * 4;
    assert_eq!(connections(&site)[1], room, "every place of the table is taken by a live one");
    later(&site, 901);
    for port in 1..=2_000 {
        connect(&site, (100, 8), port);
    }
    let counted = |site: &Site| {
        let entries = site.tables.flows.iter().flat_map(|bucket| &bucket.entries);
        entries.filter(|word| Entry(word.load()).is_counted()).count() as u64
    };
    assert_eq!((connections(&site)[1], counted(&site)), (room, room));
    site.tables.backends[11].control.store(Control::new(0, Mode::L2, 0, 1, Be16::new(0)).0);
    for port in 1..=2_000 {
        segment(&site, (100, 8), port, "A", 3);
    }
    assert_eq!(connections(&site)[1], counted(&site));
    assert!(counted(&site) < room);
}

#[test]
fn of_two_backends_the_one_with_fewer_connections_for_its_weight_is_picked() {
    let site = roomy(always(Pick::Least), evenly);
    let set = |loads: [u64; 4], weights: [u16; 4]| {
        for (at, (load, weight)) in loads.into_iter().zip(weights).enumerate() {
            let row = &site.tables.backends[10 + at];
            row.connections.store(load);
            row.control.store(Control(row.control.load()).with_weight(weight).0);
        }
    };
    let share = |first: u16| {
        let mut counts = [0_u32; 4];
        (first..first + 2_000).for_each(|port| counts[syn(&site, (100, 7), port)] += 1);
        counts
    };
    // The fullest is picked only by whom both slots lead to it: 1/16; the emptiest by whom one does: 7/16.
    set([0, 10, 20, 30], [100; 4]);
    assert_shares(share(1), [7.0, 5.0, 3.0, 1.0]);
    set([30, 20, 10, 0], [400, 200, 100, 50]);
    assert_shares(share(10_000), [5.0, 2.0, 2.0, 7.0]);
}

/// So many sixteenths each, within five standard deviations; equal loads share as chance draws the first slot.
fn assert_shares(counts: [u32; 4], sixteenths: [f64; 4]) {
    let total = f64::from(counts.iter().sum::<u32>());
    for (count, sixteenth) in counts.into_iter().zip(sixteenths) {
        let p = sixteenth / 16.0;
        let (mean, deviation) = (total * p, (total * p * (1.0 - p)).sqrt());
        assert!((f64::from(count) - mean).abs() < 5.0 * deviation, "{counts:?} for {sixteenths:?} / 16");
    }
}

#[test]
fn entries_of_syns_and_of_closed_flows_have_the_times_of_their_vip() {
    let times = Timeouts { syn_s: 5, closing_s: 3, affinity_s: 0 };
    let policy = Policy::new(Tracking::Always, false, false, 900).with_timeouts(times);
    assert_eq!((policy.syn_s(), policy.closing_s(), policy.idle_s()), (5, 3, 900));
    let defaults = Policy::new(Tracking::Always, false, false, 900);
    assert_eq!((defaults.syn_s(), defaults.closing_s()), (30, 10));
    let site = roomy(policy, |_| 1);
    syn(&site, (100, 7), 1);
    site.tables.slots.iter().for_each(|slot| slot.store(Slot::stable(12).0));
    later(&site, 4);
    assert_eq!(segment(&site, (100, 7), 1, "A", 2).0, 1, "in time");
    syn(&site, (100, 7), 2);
    site.tables.slots.iter().for_each(|slot| slot.store(Slot::stable(13).0));
    later(&site, 5);
    assert_eq!(segment(&site, (100, 7), 2, "A", 2).0, 3, "too late: no connection began there");
    let worth = |state, age_s| {
        let entry = Entry::new(1, 1, 1, state);
        crate::datapath::flow_table::worth(entry, age_s, policy, true)
    };
    use crate::datapath::flow_table::Worth;
    assert_eq!([2, 3].map(|age_s| worth(EntryState::Closing, age_s)), [Worth::Closing, Worth::Nothing]);
    assert_eq!([4, 5].map(|age_s| worth(EntryState::Syn, age_s)), [Worth::Syn, Worth::Nothing]);
    assert_eq!([899, 900].map(|age_s| worth(EntryState::Counted, age_s)), [Worth::Keep, Worth::Nothing]);
}
