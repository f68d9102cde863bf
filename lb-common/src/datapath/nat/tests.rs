//! The search for a port, by rows that are set by hand.

use super::*;
use crate::abi::backend::Mode;
use crate::abi::egress::Tags;
use crate::datapath::host::{HostFrame, HostTables};
use crate::datapath::wire::transport::{ACK, SYN};
use crate::hash::HashKey;
use crate::limits::{NAT_CLOSING_S, SYN_TIMEOUT_S};

const NOW: u32 = 10_000;

#[test]
fn a_port_rests_before_another_flow_gets_it() {
    let tables = HostTables::new(HashKey([1, 2]), 251, 8);
    let alive = Control::new(Control::ALIVE, Mode::Nat, 0, 0, Be16::from_raw(0));
    tables.backends[1].control.store(alive.0);
    let mut parsed = Parsed::default();
    parsed.flow.src_port = Be16::new(40_001);
    let free = || {
        let mut search = search(5, NOW);
        find(&parsed, &mut search, &tables);
        search.best
    };
    let set = |attempt, state, age_s| {
        let row = &tables.nat[port_of(77, attempt) as usize];
        row.control.store(NatControl::new(1, state, 0, NOW - age_s).0);
    };
    let port = |attempt| port_of(77, attempt) as u16;
    assert_eq!(free(), port(0), "never used");
    for attempt in 0..NAT_PROBES {
        set(attempt, NatState::Claimed, NOW);
    }
    assert_eq!(free(), 0, "being filled");
    for attempt in 0..NAT_PROBES {
        set(attempt, NatState::Closing, NAT_CLOSING_S);
    }
    assert_eq!(free(), 0, "closing just now");
    set(3, NatState::Closing, NAT_REST_S);
    set(5, NatState::Free, NAT_REST_S);
    assert_eq!(free(), port(3), "none has rested, so the first one");
    set(5, NatState::Free, NAT_REST_S + 1);
    assert_eq!(free(), port(5));
}

/// Of a TCP flow with the hash 77 to backend 1.
fn search(idle_s: u32, now_s: u32) -> Search {
    let mut search = Search::default();
    search.begin(0, 1, 77, now_s, false, idle_s);
    search
}

/// The port that a client's segment with these flags gets at `NOW + later_s`.
fn port_of_segment(tables: &HostTables, client: u16, flags: u8, later_s: u32) -> Result<u16, Halt> {
    let mut parsed = Parsed { l3: 14, tcp_flags: flags, ..Parsed::default() };
    parsed.flow.protocol = TCP;
    parsed.flow.src_port = Be16::new(client);
    client_port(&HostFrame::new(&[0; 60]), &parsed, &mut search(900, NOW + later_s), tables)
}

fn node() -> HostTables {
    let mut tables = HostTables::new(HashKey([1, 2]), 251, 8);
    tables.backends[1].control.store(Control::new(3, Mode::Nat, 0, 0, Be16::from_raw(0)).0);
    tables.ports.insert(tables.ingress.get(), 1);
    tables
}

#[test]
fn a_flood_of_beginnings_takes_no_port_from_a_flow_and_leaves_some_for_new_ones() {
    let tables = node();
    let live = port_of_segment(&tables, 1, SYN, 0).unwrap();
    assert_eq!(port_of_segment(&tables, 1, ACK, 0), Ok(live));
    for client in 2..1_000 {
        let port = port_of_segment(&tables, client, SYN, 1);
        assert!(port.is_ok_and(|port| port != live), "client {client}: {port:?}");
    }
    assert_eq!(port_of_segment(&tables, 1, ACK, 2), Ok(live));
    // Full of flows that are more than a beginning.
    for attempt in 0..NAT_PROBES {
        let row = &tables.nat[port_of(77, attempt) as usize];
        row.control.store(NatControl::new(1, NatState::Live, 0, NOW).0);
    }
    assert_eq!(port_of_segment(&tables, 2_000, SYN, 3), Err(Halt::drop(Reason::NatPorts)));
}

#[test]
fn a_row_is_a_flows_only_if_all_of_it_is() {
    let tables = node();
    tables.backends[2].control.store(tables.backends[1].control.load());
    let mut parsed = Parsed::default();
    parsed.flow.src = Addr([1, 2, 3, 4]);
    parsed.flow.dst = Addr([5, 6, 7, 8]);
    (parsed.flow.src_port, parsed.flow.dst_port) = (Be16::new(40_001), Be16::new(80));
    let port = port_of(77, 0);
    let row = &tables.nat[port as usize];
    let (client, vip) = (parsed.flow.src.words(), parsed.flow.dst.words());
    row.client.iter().zip(client).chain(row.vip.iter().zip(vip)).for_each(|(word, value)| word.store(value));
    row.ports.store(ports_word(parsed.flow.src_port, parsed.flow.dst_port, Tags::NONE));
    let found = |change: &dyn Fn(&mut Parsed), backend, state| {
        row.control.store(NatControl::new(backend, state, 0, NOW).0);
        let (mut other, mut search) = (parsed, search(900, NOW));
        change(&mut other);
        find(&other, &mut search, &tables);
        u32::from(search.found)
    };
    for state in [NatState::Opening, NatState::Live, NatState::Closing] {
        assert_eq!(found(&|_| {}, 1, state), port, "{state:?}");
        assert_eq!(found(&|_| {}, 2, state), 0, "another backend's");
    }
    for state in [NatState::Free, NatState::Claimed] {
        assert_eq!(found(&|_| {}, 1, state), 0, "{state:?}");
    }
    for word in 0..4 {
        assert_eq!(found(&|other| other.flow.src.0[word] = 9, 1, NatState::Live), 0, "client's word {word}");
        assert_eq!(found(&|other| other.flow.dst.0[word] = 9, 1, NatState::Live), 0, "vip's word {word}");
    }
    assert_eq!(found(&|other| other.flow.src_port = Be16::new(40_002), 1, NatState::Live), 0);
    assert_eq!(found(&|other| other.flow.dst_port = Be16::new(81), 1, NatState::Live), 0);
}

#[test]
fn of_beginnings_the_oldest_yields() {
    let tables = node();
    for attempt in 0..NAT_PROBES {
        let age_s = if attempt == 5 { 20 } else { attempt };
        let row = &tables.nat[port_of(77, attempt) as usize];
        row.control.store(NatControl::new(1, NatState::Opening, 0, NOW - age_s).0);
    }
    assert_eq!(port_of_segment(&tables, 9, SYN, 0), Ok(port_of(77, 5) as u16));
}

#[test]
fn a_beginning_that_nothing_follows_is_soon_over() {
    let opening = NatControl::new(1, NatState::Opening, 0x1fff, NOW);
    assert_eq!((opening.state(), opening.generation()), (NatState::Opening, 0x1fff));
    assert!(!opening.is_over(NOW + SYN_TIMEOUT_S, false, 900));
    assert!(opening.is_over(NOW + SYN_TIMEOUT_S + 1, false, 900));
    assert!(!opening.is_over(NOW + SYN_TIMEOUT_S + 1, true, 900));
    assert!(!NatControl::new(1, NatState::Live, 0, NOW).is_over(NOW + 900, false, 900));
}

#[test]
fn a_port_that_another_cpu_just_took_is_not_taken_again() {
    let tables = node();
    let row = &tables.nat[port_of(77, 0) as usize];
    let mut search = search(900, NOW);
    find(&Parsed::default(), &mut search, &tables);
    assert_eq!(search.best, port_of(77, 0) as u16);
    let seen = NatControl(row.control.load());
    assert!(search.claim(row, seen, &tables));
    assert!(!search.claim(row, seen, &tables), "it is another's by now");
    // Both saw port 0 free; the slower one finds a flow in it.
    row.control.store(search.control(NatState::Live, seen).0);
    let back = Link::back(&HostFrame::new(&[0; 60]), 14).unwrap();
    let late = take(&Parsed::default(), &search, &back, &tables);
    assert_eq!(late, Err(Halt::drop(Reason::NatBusy)));
    assert_eq!(row.control.load(), search.control(NatState::Live, seen).0);
}
