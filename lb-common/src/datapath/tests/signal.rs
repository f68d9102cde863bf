//! What packets say of their backends.

use super::shape::{Content, Packet, frame};
use super::site::{CLIENT_MAC, HOP_MAC, NODE_MAC, OUT_MAC, Site, V4, V6, tcp, udp};
use crate::abi::backend::Mode;
use crate::abi::signal::Signal;
use crate::abi::slot::Slot;
use crate::abi::vip::{Policy, Tracking};
use crate::datapath::connection::MovedOnly;
use crate::datapath::host::HostFrame;
use crate::datapath::pipeline::{self, Walk};
use core::cell::RefCell;
use std::vec;

fn count(site: &Site, signal: Signal) -> u64 {
    site.tables.signals.borrow().get(&signal.index(1)).copied().unwrap_or_default()
}

fn counts(site: &Site) -> [u64; 4] {
    [Signal::Syn, Signal::Repeated, Signal::Reset, Signal::Unreachable].map(|signal| count(site, signal))
}

#[test]
fn syns_are_counted_and_what_follows_them_is_not() {
    for family in [V4, V6] {
        let site = Site::new(Mode::L2, family, family);
        for flags in ["S", "A", "A", "F", "R", "SA", "S"] {
            site.send_packet(&site.packet(tcp(flags, 1, 0)));
        }
        site.send_packet(&site.packet(udp(3)));
        assert_eq!(counts(&site), [2, 0, 0, 0]);
        assert_eq!(site.tables.backend_counts.borrow()[&1].packets, 7);
        // Nobody's.
        site.slots(Slot::stable(0));
        site.send_packet(&site.packet(tcp("S", 1, 0)));
        assert_eq!(counts(&site), [2, 0, 0, 0]);
    }
}

#[test]
fn a_syn_that_comes_again_is_told_from_a_new_one_where_flows_are_remembered() {
    let site = Site::new(Mode::L2, V4, V4);
    site.tables.vips[1].policy.store(Policy::new(Tracking::Always, false, false, 900).0);
    // As in the kernel, the notes of the packet before are there still.
    let walk = RefCell::new(Walk::default());
    let send_from = |port, flags, sequence| {
        let content = Content::Tcp { ports: (port, 80), sequence, flags, data: vec![] };
        let bytes = site.packet(content).bytes();
        let mut frame = HostFrame::new(&frame(CLIENT_MAC, NODE_MAC, &[], &bytes));
        pipeline::run::<_, _, MovedOnly>(&mut frame, &site.tables, &mut walk.borrow_mut());
    };
    let send = |flags, sequence| send_from(40_001, flags, sequence);
    send("S", 7);
    send("S", 7);
    send("S", 7);
    assert_eq!(counts(&site), [3, 2, 0, 0]);
    // Another try of the client, and a connection after one that was confirmed.
    send("S", 900_000);
    send("A", 900_001);
    send("S", 5_000_000);
    assert_eq!(counts(&site), [5, 2, 0, 0]);
    send_from(40_002, "S", 7);
    send_from(40_002, "S", 7);
    // What a packet before it left in the notes says nothing of a vip that remembers none.
    site.tables.vips[1].policy.store(Policy::new(Tracking::Never, false, false, 900).0);
    let before = counts(&site);
    send("S", 7);
    assert_eq!(counts(&site), [before[0] + 1, before[1], 0, 0]);
}

/// Sends a SYN from this port.
fn syn(site: &Site, port: u16, sequence: u32) {
    let content = Content::Tcp { ports: (port, 80), sequence, flags: "S", data: vec![] };
    site.send_packet(&site.packet(content));
}

/// How many places have a mark.
fn marks(site: &Site) -> usize {
    site.tables.syn_marks.iter().filter(|word| word.load() != 0).count()
}

/// The first port whose flow is sampled, or is not.
fn port(site: &Site, sampled: bool) -> u16 {
    let is = |port: &u16| {
        syn(site, *port, 1);
        let left = marks(site) != 0;
        site.tables.syn_marks.iter().for_each(|word| word.store(0));
        left == sampled
    };
    (1..).find(is).unwrap()
}

#[test]
fn of_flows_that_nobody_remembers_a_sample_shows_which_syns_come_again() {
    for family in [V4, V6] {
        let site = Site::new(Mode::L2, family, family);
        let (watched, other) = (port(&site, true), port(&site, false));
        let again = || count(&site, Signal::SampledRepeated);
        (0..3).for_each(|_| syn(&site, other, 7));
        assert_eq!((again(), marks(&site)), (0, 0));
        syn(&site, watched, 7);
        assert_eq!((again(), marks(&site)), (0, 1));
        (0..2).for_each(|_| syn(&site, watched, 7));
        assert_eq!((again(), marks(&site)), (2, 1));
        // Another try of the client's.
        syn(&site, watched, 8);
        assert_eq!((again(), marks(&site)), (2, 1));
        // What is sent to another backend was not repeated to that one.
        site.slots(Slot::stable(2));
        syn(&site, watched, 8);
        assert_eq!(site.tables.signals.borrow().get(&Signal::SampledRepeated.index(2)), None);
        syn(&site, watched, 8);
        assert_eq!(site.tables.signals.borrow()[&Signal::SampledRepeated.index(2)], 1);
        assert_eq!((again(), count(&site, Signal::Repeated)), (2, 0));
    }
}

#[test]
fn a_flow_that_is_remembered_is_counted_in_full_and_not_in_the_sample() {
    let site = Site::new(Mode::L2, V4, V4);
    let watched = port(&site, true);
    site.tables.vips[1].policy.store(Policy::new(Tracking::Always, false, false, 900).0);
    (0..3).for_each(|_| syn(&site, watched, 7));
    assert_eq!(
        (count(&site, Signal::Repeated), count(&site, Signal::SampledRepeated), marks(&site)),
        (2, 0, 0)
    );
}

#[test]
fn one_flow_in_sixty_four_is_watched() {
    let site = Site::new(Mode::L2, V4, V4);
    for port in 1..=20_000 {
        (0..2).for_each(|_| syn(&site, port, 7));
    }
    // A mean of 312, and a standard deviation of 18.
    let again = count(&site, Signal::SampledRepeated);
    assert!((250..375).contains(&again), "{again}");
    let left = marks(&site) as u64;
    assert!((again * 9 / 10..=again).contains(&left), "{left} places for {again} flows");
}

/// A reply of the backend's by NAT to the client's SYN, in these words.
fn answered(family: super::site::Family, content: impl Fn((u16, u16), &Packet) -> Content) -> [u64; 4] {
    let site = Site::new(Mode::Nat, family, family);
    let sent = site.send(&frame(CLIENT_MAC, NODE_MAC, &[], &site.packet(tcp("S", 1, 0)).bytes()));
    let l4 = 14 + if family.vip == V4.vip { 20 } else { 40 };
    let port = u16::from_be_bytes([sent.bytes[l4], sent.bytes[l4 + 1]]);
    let on = Content::Tcp { ports: (port, 80), sequence: 1, flags: "S", data: vec![] };
    let on = Packet::new(family.node, family.backend, on);
    let reply = Packet::new(family.backend, family.node, content((80, port), &on));
    let verdict = site.send(&frame(HOP_MAC, OUT_MAC, &[], &reply.bytes())).trail;
    assert_eq!(verdict.backend_row, 1);
    counts(&site)
}

#[test]
fn a_reset_that_answers_a_syn_is_counted_and_one_that_ends_a_connection_is_not() {
    for family in [V4, V6] {
        let reset = |ports, _: &Packet| Content::Reset { ports, acknowledgement: 2 };
        assert_eq!(answered(family, reset), [1, 0, 1, 0]);
        let ends = |ports, _: &Packet| Content::Tcp { ports, sequence: 77, flags: "RA", data: vec![] };
        assert_eq!(answered(family, ends), [1, 0, 0, 0]);
        let accepts = |ports, _: &Packet| Content::Tcp { ports, sequence: 0, flags: "SA", data: vec![] };
        assert_eq!(answered(family, accepts), [1, 0, 0, 0]);
    }
}

#[test]
fn that_it_cannot_be_reached_is_counted_and_that_a_packet_is_too_big_is_not() {
    for (family, unreachable, too_big) in [(V4, (3, 1), (3, 4)), (V6, (1, 3), (2, 0))] {
        let says = |(kind, code): (u8, u8)| {
            answered(family, move |_, sent| Content::Icmp { kind, code, rest: 0, body: sent.bytes() })
        };
        assert_eq!(says(unreachable), [1, 0, 0, 1]);
        assert_eq!(says(too_big), [1, 0, 0, 0]);
    }
}
