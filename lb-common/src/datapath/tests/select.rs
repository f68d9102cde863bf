//! Which vip, and which backend: keys, slots and each rule of the flow table by itself. All of them together, under
//! every weather, are the law's.

use super::shape::{Content, Packet};
use super::site::{Site, V4, V6, addr, tcp, udp};
use crate::abi::backend::{Control, Mode};
use crate::abi::flow::{Entry, EntryState};
use crate::abi::slot::Slot;
use crate::abi::vip::{Policy, Tracking, VipEntry, VipKey, VipRow};
use crate::be::Be16;
use crate::datapath::Verdict;
use crate::datapath::pipeline::Choice;
use crate::limits::{SYN_TIMEOUT_S, SYN_WINDOW};
use crate::reason::Reason;
use std::vec;
use std::vec::Vec;

/// A site whose slots move from row 1 to row 2, both alive.
fn moving() -> Site {
    let site = Site::new(Mode::L2, V4, V4);
    site.slots(Slot::moving(2, 1, now_s(&site) + 60));
    site
}

fn now_s(site: &Site) -> u32 {
    (site.tables.now_ns.get() / 1_000_000_000) as u32
}

fn later(site: &Site, seconds: u64) {
    site.tables.now_ns.set(site.tables.now_ns.get() + seconds * 1_000_000_000);
}

/// Sends; the backend's row, and how it was found.
fn send(site: &Site, content: Content) -> (u32, Choice) {
    let out = site.send_packet(&site.packet(content));
    (out.trail.backend_row, out.trail.choice)
}

/// The entries in use, without the flow: backend row and state.
fn entries(site: &Site) -> Vec<(u16, EntryState)> {
    let words = site.tables.flows.iter().flat_map(|bucket| &bucket.entries);
    let used = words.map(|word| Entry(word.load())).filter(|entry| entry.state() != EntryState::Free);
    used.map(|entry| (entry.backend(), entry.state())).collect()
}

#[test]
fn a_port_of_its_own_comes_before_every_port() {
    let mut site = Site::new(Mode::L2, V4, V4);
    let key = VipKey::new(addr(V4.vip), Be16::new(0), 6);
    let row = &site.tables.vips[3];
    row.addr.iter().zip(addr(V4.vip).words()).for_each(|(word, value)| word.store(value));
    row.key.store(VipRow::key_word(Be16::new(0), 6));
    row.table.store(site.tables.vips[1].table.load());
    site.tables.insert_key(&key, VipEntry(3));
    let vip = |port| {
        let content = Content::Tcp { ports: (1, port), sequence: 1, flags: "S", data: vec![] };
        site.send_packet(&site.packet(content)).trail.vip_row
    };
    assert_eq!((vip(80), vip(81), vip(65_535)), (1, 3, 3));
}

#[test]
fn a_key_that_was_found_once_is_not_looked_up_again_but_a_withdrawn_row_is_not_found() {
    let mut site = Site::new(Mode::L2, V4, V4);
    let verdict = |site: &Site| site.send_packet(&site.packet(tcp("S", 1, 0))).verdict;
    let found = verdict(&site);
    assert!(matches!(found, Verdict::Transmit(_) | Verdict::Redirect(..)), "{found:?}");
    let keys = std::mem::take(&mut site.tables.vip_keys);
    assert_eq!(verdict(&site), found);
    let word = &site.tables.vips[1].key;
    word.store(word.load() & !VipRow::FOUND);
    assert_eq!(verdict(&site), Verdict::Pass(Reason::NoVip));
    site.tables.vip_keys = keys;
    assert_eq!(verdict(&site), Verdict::Pass(Reason::NoVip));
}

#[test]
fn a_row_that_another_vip_took_is_not_found_by_an_old_note() {
    let mut site = Site::new(Mode::L2, V4, V4);
    let row = |site: &Site| site.send_packet(&site.packet(tcp("S", 1, 0))).trail.vip_row;
    assert_eq!(row(&site), 1);
    let key = VipKey::new(addr(V4.vip), Be16::new(80), 6);
    let (old, new) = (&site.tables.vips[1], &site.tables.vips[2]);
    new.addr.iter().zip(&old.addr).for_each(|(to, from)| to.store(from.load()));
    new.table.store(old.table.load());
    new.key.store(old.key.load());
    old.key.store(VipRow::key_word(Be16::new(81), 6));
    site.tables.insert_key(&key, VipEntry(2));
    assert_eq!((row(&site), row(&site)), (2, 2));
}

#[test]
fn a_key_that_leads_to_another_vips_row_is_no_vip() {
    let mut site = Site::new(Mode::L2, V4, V4);
    for (port, row) in [(7001, 2), (7002, 9), (7003, 60_000)] {
        site.tables.insert_key(&VipKey::new(addr(V4.vip), Be16::new(port), 6), VipEntry(row));
        let content = Content::Tcp { ports: (1, port), sequence: 1, flags: "S", data: vec![] };
        assert_eq!(site.send_packet(&site.packet(content)).verdict, Verdict::Pass(Reason::NoVip));
    }
    // The same port and protocol, but another address.
    site.tables.vips[1].addr[1].store(addr("203.0.113.11").words()[1]);
    assert_eq!(site.send_packet(&site.packet(tcp("S", 1, 0))).verdict, Verdict::Pass(Reason::NoVip));
    let site = Site::new(Mode::L2, V6, V6);
    site.tables.vips[1].addr[0].store(0);
    assert_eq!(site.send_packet(&site.packet(tcp("S", 1, 0))).verdict, Verdict::Pass(Reason::NoVip));
}

#[test]
fn a_stable_slot_looks_nothing_up_and_remembers_nothing() {
    let site = Site::new(Mode::L2, V4, V4);
    assert_eq!(send(&site, tcp("S", 1, 0)), (1, Choice::Slot));
    assert_eq!(send(&site, tcp("A", 2, 9)), (1, Choice::Slot));
    assert_eq!(send(&site, udp(9)), (2, Choice::Slot));
    assert_eq!(entries(&site), []);
}

#[test]
fn while_moving_new_goes_to_current_and_old_to_previous() {
    let site = moving();
    assert_eq!(send(&site, tcp("S", 1, 0)), (2, Choice::Inserted));
    assert_eq!(entries(&site), [(2, EntryState::Syn)]);
    assert_eq!(send(&site, tcp("A", 2, 9)), (2, Choice::Remembered));
    assert_eq!(entries(&site), [(2, EntryState::Confirmed)]);
    let site = moving();
    assert_eq!(send(&site, tcp("A", 2, 9)), (1, Choice::Previous));
    assert_eq!(send(&site, udp(9)), (1, Choice::Previous));
    assert!(entries(&site).iter().all(|entry| *entry == (1, EntryState::Probation)));
}

#[test]
fn stateless_udp_goes_to_current_at_once() {
    let site = moving();
    site.tables.vips[2].policy.store(Policy::new(Tracking::Auto, true, false, 900).0);
    assert_eq!(send(&site, udp(9)), (2, Choice::Slot));
    assert_eq!(entries(&site), []);
    assert_eq!(send(&site, tcp("A", 2, 9)), (1, Choice::Previous));
}

#[test]
fn after_the_deadline_a_miss_is_currents_without_an_entry() {
    let site = moving();
    send(&site, tcp("A", 2, 9));
    later(&site, 59);
    assert_eq!(send(&site, udp(9)), (1, Choice::Previous));
    later(&site, 1);
    assert_eq!(send(&site, tcp("A", 3, 9)), (1, Choice::Remembered));
    let other = Content::Tcp { ports: (5, 80), sequence: 1, flags: "A", data: vec![] };
    assert_eq!(send(&site, other), (2, Choice::Slot));
    assert_eq!(entries(&site).len(), 2);
}

#[test]
fn a_dead_previous_or_remembered_backend_counts_for_nothing() {
    let site = moving();
    send(&site, tcp("A", 2, 9));
    site.tables.backends[1].control.store(0);
    assert_eq!(send(&site, tcp("A", 3, 9)).0, 2);
    // Forgotten: it does not claim the flow back when it returns.
    site.slots(Slot::pinned(2));
    site.control(|word| word | Control::ALIVE | Control::NEW);
    assert_eq!(send(&site, tcp("A", 4, 9)).0, 2);
}

#[test]
fn an_insert_that_fails_sends_a_new_connection_to_previous() {
    let site = moving();
    site.tables.failing_swaps.set(1);
    assert_eq!(send(&site, tcp("S", 1, 0)), (1, Choice::Previous));
    assert_eq!(send(&site, tcp("A", 2, 9)), (1, Choice::Previous));
    assert_eq!(send(&site, tcp("A", 3, 9)), (1, Choice::Remembered));
    // The same if every entry of the bucket is worth more.
    let site = moving();
    let alive = Entry::new(0x77, 1, 1, EntryState::Confirmed);
    for bucket in &site.tables.flows {
        bucket.entries.iter().for_each(|word| word.store(alive.0));
        bucket.traces.iter().for_each(|word| word.store(now_s(&site).into()));
    }
    assert_eq!(send(&site, tcp("S", 1, 0)), (1, Choice::Previous));
}

#[test]
fn probation_ends_a_second_later() {
    let site = moving();
    send(&site, tcp("A", 2, 9));
    send(&site, tcp("A", 3, 9));
    assert_eq!(entries(&site), [(1, EntryState::Probation)]);
    later(&site, 1);
    send(&site, tcp("A", 4, 9));
    assert_eq!(entries(&site), [(1, EntryState::Confirmed)]);
}

#[test]
fn a_forged_syn_steals_no_older_connection() {
    let site = moving();
    site.tables.backends[1].control.store(site.tables.backends[1].control.load() & !Control::NEW);
    // Before and after the older connection is remembered.
    assert_eq!(send(&site, tcp("S", 1_000_000, 0)).0, 2);
    assert_eq!(send(&site, tcp("A", 5, 9)), (1, Choice::Previous));
    assert_eq!(send(&site, tcp("S", 2_000_000, 0)).0, 2);
    assert_eq!(send(&site, tcp("A", 6, 9)), (1, Choice::Remembered));
    assert_eq!(send(&site, tcp("A", 2_000_000, 9)), (1, Choice::Remembered), "before the SYN's own");
    assert_eq!(
        send(&site, tcp("A", 2_000_002 + SYN_WINDOW, 9)),
        (1, Choice::Remembered),
        "beyond the window"
    );
    // A handshake that is completed in time takes the tuple over.
    assert_eq!(send(&site, tcp("A", 2_000_001 + SYN_WINDOW, 9)), (2, Choice::Remembered));
    assert_eq!(send(&site, tcp("A", 7, 9)), (2, Choice::Remembered));
    assert_eq!(entries(&site), [(2, EntryState::Confirmed)]);
}

#[test]
fn a_syn_that_nothing_confirmed_in_time_counts_no_longer() {
    let site = moving();
    assert_eq!(send(&site, tcp("S", 100, 0)).0, 2);
    later(&site, SYN_TIMEOUT_S.into());
    assert_eq!(send(&site, tcp("A", 101, 9)), (1, Choice::Previous));
}

#[test]
fn a_reset_that_answers_goes_where_the_syn_went_and_confirms_nothing() {
    let site = moving();
    assert_eq!(send(&site, tcp("S", 1_000_000, 0)).0, 2);
    // The backend acknowledged what it has of an older connection, and the client knows of none.
    assert_eq!(send(&site, tcp("R", 5, 0)), (2, Choice::Remembered));
    assert_eq!(entries(&site), [(2, EntryState::Syn)]);
    assert_eq!(send(&site, tcp("S", 1_000_000, 0)).0, 2, "the SYN comes again");
    // One that ends a connection of its sender's acknowledges, and is an older connection's.
    assert_eq!(send(&site, tcp("RA", 5, 0)).0, 1);
    let site = moving();
    assert_eq!(send(&site, tcp("S", 1_000_000, 0)).0, 2);
    later(&site, SYN_TIMEOUT_S.into());
    assert_eq!(send(&site, tcp("R", 5, 0)).0, 1, "nobody waits for that SYN any more");
    let site = moving();
    assert_eq!(send(&site, tcp("A", 5, 9)).0, 1);
    site.tables.backends[1].control.store(site.tables.backends[1].control.load() & !Control::NEW);
    assert_eq!(send(&site, tcp("S", 1_000_000, 0)).0, 2);
    assert_eq!(send(&site, tcp("R", 6, 0)), (2, Choice::Remembered));
    assert_eq!(send(&site, tcp("A", 7, 9)), (1, Choice::Remembered), "forged both: nothing was moved");
}

#[test]
fn a_retransmitted_syn_stays_even_where_its_backend_drains() {
    let site = moving();
    assert_eq!(send(&site, tcp("S", 100, 0)).0, 2);
    site.slots(Slot::moving(1, 1, now_s(&site) + 60));
    site.tables.backends[2].control.store(site.tables.backends[2].control.load() & !Control::NEW);
    assert_eq!(send(&site, tcp("S", 100, 0)).0, 2);
    assert_eq!(send(&site, tcp("S", 999, 0)).0, 1, "the client tries anew");
}

#[test]
fn a_new_connection_of_an_old_tuple_leaves_a_backend_that_drains() {
    let site = moving();
    assert_eq!(send(&site, tcp("A", 500_000, 9)).0, 1);
    assert_eq!(send(&site, tcp("S", 900, 0)).0, 1, "it takes new ones, so the tuple stays");
    site.tables.backends[1].control.store(site.tables.backends[1].control.load() & !Control::NEW);
    assert_eq!(send(&site, tcp("S", 900, 0)).0, 2);
    assert_eq!(send(&site, tcp("A", 500_009, 9)).0, 1, "the older one stays until the new one is confirmed");
    assert_eq!(send(&site, tcp("A", 901, 9)).0, 2);
}

#[test]
fn a_syn_gives_an_old_entry_new_life() {
    let site = moving();
    send(&site, tcp("A", 2, 9));
    later(&site, 1);
    send(&site, tcp("FA", 3, 0));
    assert_eq!(entries(&site), [(1, EntryState::Closing)]);
    send(&site, tcp("A", 4, 0));
    assert_eq!(entries(&site), [(1, EntryState::Closing)]);
    later(&site, 8);
    assert_eq!(send(&site, tcp("S", 900, 0)), (1, Choice::Remembered));
    assert_eq!(entries(&site), [(1, EntryState::Confirmed)]);
    let traces: Vec<u64> = site.tables.flows.iter().flat_map(|b| &b.traces).map(|word| word.load()).collect();
    assert!(traces.contains(&u64::from(now_s(&site))));
}

#[test]
fn tracking_always_and_never_do_as_they_say() {
    let site = Site::new(Mode::L2, V4, V4);
    let policy = |tracking| {
        site.tables.vips[1].policy.store(Policy::new(tracking, false, false, 900).0);
    };
    policy(Tracking::Always);
    assert_eq!(send(&site, tcp("S", 1, 0)), (1, Choice::Inserted));
    site.slots(Slot::stable(2));
    assert_eq!(send(&site, tcp("A", 2, 0)), (1, Choice::Remembered));
    policy(Tracking::Never);
    assert_eq!(send(&site, tcp("A", 2, 0)), (2, Choice::Slot));
    site.slots(Slot::moving(1, 2, now_s(&site) + 60));
    assert_eq!(send(&site, tcp("A", 2, 0)), (1, Choice::Slot));
}

#[test]
fn what_is_cheap_to_make_again_goes_first() {
    let site = moving();
    let other = |client: u16, flags: &'static str| {
        let content = Content::Tcp { ports: (client, 80), sequence: 1, flags, data: vec![] };
        let packet = Packet { src: "198.51.100.8".parse().unwrap(), ..site.packet(content) };
        site.send_packet(&packet)
    };
    // A confirmed connection outlives a flood that fills the whole table many times.
    send(&site, tcp("A", 2, 9));
    later(&site, 1);
    send(&site, tcp("A", 3, 9));
    for client in 1..5_000 {
        other(client, "S");
    }
    assert_eq!(send(&site, tcp("A", 4, 9)), (1, Choice::Remembered));
    let used = entries(&site);
    assert_eq!(used.len(), site.tables.flows.len() * 4);
    // One more of either kind still finds room.
    assert_eq!(other(60_000, "A").trail.choice, Choice::Previous);
    let probation = entries(&site).iter().filter(|entry| entry.1 == EntryState::Probation).count();
    assert_eq!(probation, 1);
}
