//! The sweep on maps in memory, with other CPUs played between its steps.

use super::*;
use crate::dataplane::{maps, memory};
use lb_common::abi::backend::Mode;
use lb_common::abi::tenant::Caps;
use lb_common::abi::vip::{Pick, Policy, Timeouts, Tracking};
use lb_common::addr::Mac;
use lb_common::be::Be16;
use lb_common::ids::{BackendId, TenantId, VipId};
use lb_common::limits::{CLOSING_TIMEOUT_S, NAT_CLOSING_S, NAT_PORTS, NAT_REST_S, SYN_TIMEOUT_S};
use lb_control::plan::{BackendContent, EgressContent, Key, Op, RowLimits, TenantContent, VipContent};

const NOW: u32 = 10_000;
const IDLE: u32 = 900;
const ALIVE: u64 = Control::ALIVE | Control::NEW;
/// Row of the only vip, its first slot, and the hash of every flow.
const VIP: u16 = 3;
const FIRST: u32 = 100;
const HASH: u64 = 0x1234_5678_9abc_def0;

/// A vip with 251 slots from index 100, and backends 1 to 3.
fn store_with(tracking: Tracking) -> Store {
    let (store, _) = memory::store(&memory::small());
    let key = Key { address: "203.0.113.10".parse().unwrap(), port: 80, protocol: 6 };
    let policy = Policy::new(tracking, false, false, IDLE as u16);
    let content =
        VipContent { id: VipId(7), tenant: TenantId(1), key, extent: (FIRST, 251), policy, refuses: false };
    let mut ops = vec![Op::WriteVip { row: VIP, content }];
    ops.extend((1..=3).map(|row| Op::WriteBackend { row, content: backend(row, ALIVE) }));
    maps::apply(&store, &ops, maps::NO_CLOCK).unwrap();
    store
}

fn backend(row: u16, flags: u64) -> BackendContent {
    let control = Control::new(flags, Mode::Nat, 0, VIP, Be16::from_raw(0));
    let address = std::net::Ipv4Addr::new(10, 0, 0, row as u8).into();
    let next_hop = NextHop::new(Mac::from_octets([2, 0, 0, 0, 0, row as u8]), 1);
    BackendContent { id: BackendId(row.into()), address, control, next_hop, tenant: 0, trial_cps: 0 }
}

fn kill(store: &Store, row: u16) {
    maps::apply(store, &[Op::SetControl { row, control: backend(row, 0).control }], maps::NO_CLOCK).unwrap();
}

fn slot(store: &Store, number: u32) -> Slot {
    Slot(store.slots[(FIRST + number) as usize].load())
}

fn set_slot(store: &Store, number: u32, slot: Slot) {
    store.slots[(FIRST + number) as usize].store(slot.0);
}

fn put(store: &Store, way: usize, slot: u32, backend: u16, state: EntryState, age_s: u32) {
    let bucket = &store.flows[5];
    bucket.entries[way].store(Entry::new(HASH, slot, backend, state).0);
    bucket.traces[way].store(Trace::new(NOW - age_s, 0).0);
}

fn run(store: &Store) -> SweepReport {
    sweep(store, NOW, Rows::default(), &Borrowers::new(), &mut || {})
}

#[test]
fn a_window_that_is_over_settles() {
    let store = store_with(Tracking::Auto);
    set_slot(&store, 0, Slot::moving(2, 1, NOW));
    set_slot(&store, 1, Slot::moving(2, 1, NOW + 1));
    set_slot(&store, 2, Slot::pinned(3));
    let report = run(&store);
    assert_eq!(slot(&store, 0), Slot::stable(2));
    assert_eq!(slot(&store, 1), Slot::moving(2, 1, NOW + 1));
    assert_eq!(slot(&store, 2), Slot::stable(3));
    assert_eq!((report.settled_slots, report.moving_slots[&VIP]), (2, 1));
    assert_eq!(report.pinned_slots, BTreeMap::new());
}

/// A window may be shorter than a trial: a stable slot would give the backend all of its new connections, uncounted.
#[test]
fn a_slot_of_a_backend_on_trial_settles_only_when_the_trial_is_over() {
    let store = store_with(Tracking::Auto);
    maps::apply(&store, &[Op::SetTrial { row: 2, trial_cps: 5 }], maps::NO_CLOCK).unwrap();
    set_slot(&store, 0, Slot::moving(2, 1, NOW));
    set_slot(&store, 1, Slot::moving(3, 2, NOW));
    let report = run(&store);
    assert_eq!((slot(&store, 0), slot(&store, 1)), (Slot::pinned(2), Slot::stable(3)));
    assert_eq!((report.settled_slots, report.pinned_slots[&VIP]), (1, 1));
    maps::apply(&store, &[Op::SetTrial { row: 2, trial_cps: 0 }], maps::NO_CLOCK).unwrap();
    assert_eq!((run(&store).settled_slots, slot(&store, 0)), (1, Slot::stable(2)));
}

#[test]
fn a_slot_stays_pinned_while_a_flow_needs_it() {
    let store = store_with(Tracking::Auto);
    set_slot(&store, 0, Slot::moving(2, 1, NOW));
    put(&store, 0, 0, 1, EntryState::Confirmed, IDLE - 1);
    put(&store, 1, 0, 2, EntryState::Confirmed, 0);
    let report = run(&store);
    assert_eq!(slot(&store, 0), Slot::pinned(2));
    assert_eq!((report.pinned_slots[&VIP], report.tracked_flows), (1, 2));
    assert_eq!((report.flows[&1], report.flows[&2]), (1, 1));
    // The flow to the former backend ends: the slot settles, and then its other entry is needless.
    store.flows[5].entries[0].store(0);
    assert_eq!((run(&store).settled_slots, slot(&store, 0)), (1, Slot::stable(2)));
    let report = run(&store);
    assert_eq!((report.forgotten_flows, report.tracked_flows), (1, 0));
}

#[test]
fn entries_end_by_their_state() {
    for (state, limit_s) in [
        (EntryState::Probation, IDLE),
        (EntryState::Confirmed, IDLE),
        (EntryState::Syn, SYN_TIMEOUT_S),
        (EntryState::Closing, CLOSING_TIMEOUT_S),
        (EntryState::Counted, IDLE),
    ] {
        for (age_s, left) in [(limit_s - 1, 1), (limit_s, 0)] {
            let store = store_with(Tracking::Always);
            put(&store, 2, 9, 1, state, age_s);
            assert_eq!(run(&store).tracked_flows, left, "{state:?} at {age_s} s");
        }
    }
}

#[test]
fn a_counted_connection_that_ends_here_is_counted_off_once() {
    let store = store_with(Tracking::Always);
    store.backends[1].connections.store(5);
    put(&store, 0, 9, 1, EntryState::Counted, IDLE);
    put(&store, 1, 10, 1, EntryState::Counted, IDLE - 1);
    put(&store, 2, 11, 1, EntryState::Confirmed, IDLE);
    assert_eq!((run(&store).forgotten_flows, store.backends[1].connections.load()), (2, 4));
    assert_eq!((run(&store).forgotten_flows, store.backends[1].connections.load()), (0, 4));
}

#[test]
fn a_source_address_is_no_flow_and_is_forgotten_with_its_time_or_a_drain() {
    let store = store_with(Tracking::Always);
    let times = Timeouts { affinity_s: 60, ..Timeouts::default() };
    let policy = &store.vips[VIP as usize].policy;
    policy.store(Policy(policy.load()).with_pick(Pick::Affinity).with_timeouts(times).0);
    put(&store, 0, 9, 1, EntryState::Affinity, 59);
    put(&store, 1, 10, 1, EntryState::Affinity, 60);
    let report = run(&store);
    assert_eq!((report.forgotten_flows, report.tracked_flows, report.flows.len()), (1, 0, 0));
    let draining = backend(1, Control::ALIVE).control;
    maps::apply(&store, &[Op::SetControl { row: 1, control: draining }], maps::NO_CLOCK).unwrap();
    assert_eq!(run(&store).forgotten_flows, 1);
}

#[test]
fn entries_of_dead_free_or_foreign_rows_end() {
    let store = store_with(Tracking::Always);
    kill(&store, 1);
    put(&store, 0, 9, 1, EntryState::Confirmed, 0);
    put(&store, 1, 9, 77, EntryState::Confirmed, 0);
    put(&store, 2, 251, 2, EntryState::Confirmed, 0);
    put(&store, 3, 250, 3, EntryState::Confirmed, 0);
    let report = run(&store);
    assert_eq!((report.forgotten_flows, report.tracked_flows, report.flows[&3]), (3, 1, 1));
}

#[test]
fn always_keeps_entries_of_stable_slots_and_auto_does_not() {
    for (tracking, left) in [(Tracking::Always, 1), (Tracking::Auto, 0), (Tracking::Never, 0)] {
        let store = store_with(tracking);
        set_slot(&store, 9, Slot::stable(1));
        put(&store, 0, 9, 1, EntryState::Confirmed, 0);
        assert_eq!(run(&store).tracked_flows, left, "{tracking:?}");
    }
}

/// An entry is written before its trace: it may look old because it has just been made.
#[test]
fn an_entry_that_was_just_made_is_not_forgotten() {
    let store = store_with(Tracking::Auto);
    set_slot(&store, 0, Slot::moving(2, 1, NOW + 9));
    put(&store, 0, 0, 1, EntryState::Probation, IDLE * 2);
    let mut waits = 0;
    let report = sweep(&store, NOW, Rows::default(), &Borrowers::new(), &mut || {
        waits += 1;
        if waits == 2 {
            store.flows[5].traces[0].store(Trace::new(NOW, 0).0);
        }
    });
    assert_eq!((report.tracked_flows, report.forgotten_flows, waits), (1, 0, 2));
}

/// A packet that saw the slot moving inserts within the first grace period.
#[test]
fn a_late_insert_keeps_its_slot_pinned() {
    let store = store_with(Tracking::Auto);
    set_slot(&store, 0, Slot::moving(2, 1, NOW));
    let mut waits = 0;
    sweep(&store, NOW, Rows::default(), &Borrowers::new(), &mut || {
        waits += 1;
        if waits == 1 {
            put(&store, 0, 0, 1, EntryState::Probation, 0);
        }
    });
    assert_eq!(slot(&store, 0), Slot::pinned(2));
}

/// The scan judged the entry by the slot as it was: a slot that changed since must not settle by that judgement.
#[test]
fn a_slot_that_changes_under_the_sweep_waits() {
    let store = store_with(Tracking::Auto);
    set_slot(&store, 0, Slot::moving(3, 1, NOW + 50));
    put(&store, 0, 0, 3, EntryState::Confirmed, 0);
    let mut waits = 0;
    sweep(&store, NOW, Rows::default(), &Borrowers::new(), &mut || {
        waits += 1;
        if waits == 2 {
            // Backend 1 died: the next change pins the slot at once.
            set_slot(&store, 0, Slot::pinned(2));
        }
    });
    assert_eq!(slot(&store, 0), Slot::pinned(2));
}

fn put_nat(store: &Store, row: usize, backend: u16, state: NatState, age_s: u32) {
    store.nat[row].control.store(NatControl::new(backend, state, 5, NOW - age_s).0);
    store.nat[row].back.store(NextHop::new(Mac::from_octets([2; 6]), 8).0);
}

#[test]
fn nat_rows_are_freed_when_they_are_over() {
    let store = store_with(Tracking::Always);
    kill(&store, 3);
    put_nat(&store, 1, 1, NatState::Live, IDLE);
    put_nat(&store, 2, 1, NatState::Live, IDLE + 1);
    put_nat(&store, 3, 1, NatState::Closing, NAT_CLOSING_S + 1);
    put_nat(&store, 4, 3, NatState::Live, 0);
    put_nat(&store, 5, 2, NatState::Claimed, 0);
    put_nat(&store, 6, 1, NatState::Opening, SYN_TIMEOUT_S + 1);
    put_nat(&store, NAT_PORTS as usize + 6, 1, NatState::Opening, SYN_TIMEOUT_S + 1);
    let report = run(&store);
    assert_eq!((report.nat_flows, report.freed_nat_flows, report.flows.get(&1)), (2, 5, Some(&2)));
    assert_eq!(NatControl(store.nat[6].control.load()).state(), NatState::Free, "TCP: nothing followed");
    let freed = NatControl(store.nat[2].control.load());
    assert_eq!((freed.state(), freed.generation()), (NatState::Free, 5));
}

#[test]
fn a_half_closed_flow_and_one_that_was_reset_keep_their_ports_for_a_while() {
    let store = store_with(Tracking::Always);
    put_nat(&store, 1, 1, NatState::ClientClosed, IDLE);
    put_nat(&store, 2, 1, NatState::BackendClosed, IDLE);
    put_nat(&store, 3, 1, NatState::Reset, NAT_REST_S);
    put_nat(&store, 4, 1, NatState::ClientClosed, IDLE + 1);
    put_nat(&store, 5, 1, NatState::BackendClosed, IDLE + 1);
    put_nat(&store, 6, 1, NatState::Reset, NAT_REST_S + 1);
    let report = run(&store);
    assert_eq!((report.nat_flows, report.freed_nat_flows), (3, 3));
    assert!((4..=6).all(|row| NatControl(store.nat[row].control.load()).state() == NatState::Free));
}

#[test]
fn a_row_that_is_being_filled_is_left_alone() {
    let store = store_with(Tracking::Always);
    put_nat(&store, 5, 2, NatState::Claimed, 0);
    let mut waits = 0;
    let report = sweep(&store, NOW, Rows::default(), &Borrowers::new(), &mut || {
        waits += 1;
        if waits == 2 {
            put_nat(&store, 5, 2, NatState::Live, 0);
        }
    });
    assert_eq!((report.nat_flows, report.freed_nat_flows), (1, 0));
}

#[test]
fn watched_rows_that_are_named_are_said() {
    let store = store_with(Tracking::Always);
    put(&store, 0, 9, 1, EntryState::Confirmed, 0);
    put_nat(&store, 1, 2, NatState::Live, 0);
    let content = EgressContent { ifindex: 2, mtu: 1500, source_mac: Mac(2), tags: Default::default() };
    let watched = Rows {
        backends: (1..=3).map(|row| (row, BackendId(row.into()))).collect(),
        egresses: [(8, content), (9, content)].into(),
    };
    let report = sweep(&store, NOW, watched.clone(), &Borrowers::new(), &mut || {});
    let named = |row| report.sweep.referenced.backends.contains_key(&row);
    assert_eq!([1, 2, 3].map(named), [true, true, false]);
    assert_eq!(report.sweep.referenced.egresses.keys().collect::<Vec<_>>(), [&8]);
    assert_eq!(report.sweep.watched, watched);
}

/// Of a tenant in row 2, whose flows all backends' entries count for.
fn with_tenant(store: &Store) {
    let limits = RowLimits { caps: Caps::new(100, 100), ..RowLimits::default() };
    let mut ops = vec![Op::WriteTenant { row: 2, content: TenantContent { id: TenantId(1), limits } }];
    ops.extend((1..=3).map(|row| Op::SetBackendTenant { row, tenant: 2 }));
    maps::apply(store, &ops, maps::NO_CLOCK).unwrap();
}

fn counted(store: &Store) -> (i64, i64) {
    let row = &store.tenants[2];
    (row.connections.load() as i64, row.nat_ports.load() as i64)
}

#[test]
fn a_tenants_count_begins_with_what_there_is_and_loses_what_is_forgotten() {
    let store = store_with(Tracking::Always);
    put(&store, 0, 0, 1, EntryState::Confirmed, 0);
    put(&store, 1, 1, 2, EntryState::Syn, SYN_TIMEOUT_S);
    put(&store, 2, 2, 3, EntryState::Closing, 0);
    put(&store, 3, 2, 3, EntryState::Affinity, 0);
    for (port, state, age_s) in [(2_000, NatState::Live, 0), (2_001, NatState::Closing, NAT_CLOSING_S + 1)] {
        store.nat[port].control.store(NatControl::new(1, state, 0, NOW - age_s).0);
    }
    with_tenant(&store);
    assert_eq!(counted(&store), (0, 0));
    let report = run(&store);
    // The scan met three entries, of which one was over, and two ports, one of them freed at once.
    assert_eq!((report.tracked_flows, report.nat_flows), (2, 1));
    assert_eq!(counted(&store), (2, 1));
    // Right already: it stays so.
    run(&store);
    assert_eq!(counted(&store), (2, 1));
    // What was wrong by whatever cause is put right.
    store.tenants[2].connections.store(u64::MAX - 5);
    store.tenants[2].nat_ports.store(77);
    run(&store);
    assert_eq!(counted(&store), (2, 1));
}

#[test]
fn what_comes_under_the_scan_is_no_error_of_the_count() {
    let store = store_with(Tracking::Always);
    with_tenant(&store);
    put(&store, 0, 0, 1, EntryState::Confirmed, 0);
    store.tenants[2].connections.store(1);
    let mut first = true;
    // The first grace period is before the counts are read, the second after the scan.
    sweep(&store, NOW, Rows::default(), &Borrowers::new(), &mut || {
        if !std::mem::take(&mut first) {
            put(&store, 1, 1, 2, EntryState::Syn, 0);
            store.tenants[2].connections.add(1);
        }
    });
    assert_eq!(counted(&store), (2, 0));
}

/// Row of a vip that falls back on the other one, its first slot, and its own backend.
const WEB: u16 = 4;
const WEB_FIRST: u32 = 400;
const WEB_OWN: u16 = 11;

/// The vip of [`store_with`], whose backend 1 the vip `WEB` may borrow.
fn lending(tracking: Tracking) -> (Store, Borrowers) {
    let store = store_with(tracking);
    let key = Key { address: "203.0.113.10".parse().unwrap(), port: 8080, protocol: 6 };
    let policy = Policy::new(Tracking::Auto, false, false, 2 * IDLE as u16);
    let extent = (WEB_FIRST, 251);
    let content = VipContent { id: VipId(8), tenant: TenantId(1), key, extent, policy, refuses: false };
    let control = Control::new(ALIVE, Mode::Nat, 0, WEB, Be16::from_raw(0));
    let own = BackendContent { control, ..backend(WEB_OWN, ALIVE) };
    let ops = [Op::WriteVip { row: WEB, content }, Op::WriteBackend { row: WEB_OWN, content: own }];
    maps::apply(&store, &ops, maps::NO_CLOCK).unwrap();
    (0..251).for_each(|number| set_slot(&store, number, Slot::stable(2)));
    (store, Borrowers::from([(VIP, [WEB].into())]))
}

fn web_slot(store: &Store, number: u32) -> &lb_common::abi::word::Word {
    &store.slots[(WEB_FIRST + number) as usize]
}

fn run_lending((store, borrowers): &(Store, Borrowers)) -> SweepReport {
    sweep(store, NOW, Rows::default(), borrowers, &mut || {})
}

/// Its own backend drained, and lives; then the other failed: what was its slot's is within its window, and new flows of it
/// go to the lender's backend, whose own slots are all stable.
#[test]
fn a_flow_on_a_borrowed_backend_is_judged_by_its_own_vips_slot() {
    let lent = lending(Tracking::Auto);
    let (store, _) = &lent;
    web_slot(store, 9).store(Slot::moving(1, WEB_OWN, NOW + 800).0);
    put(store, 0, 9, 1, EntryState::Syn, 0);
    put(store, 1, 9, 1, EntryState::Confirmed, 2 * IDLE - 1);
    put(store, 2, 9, 1, EntryState::Confirmed, 2 * IDLE);
    put(store, 3, 10, 1, EntryState::Confirmed, 0);
    let report = run_lending(&lent);
    // The last two: idle for longer than either vip allows, and of a slot that is stable in both.
    assert_eq!((report.tracked_flows, report.forgotten_flows), (2, 2));
    assert_eq!(Entry(store.flows[5].entries[0].load()).backend(), 1);
    // The window is over: the slot says the same, settles, and the entries are needless.
    web_slot(store, 9).store(Slot::moving(1, WEB_OWN, NOW).0);
    run_lending(&lent);
    assert_eq!(Slot(web_slot(store, 9).load()), Slot::stable(1));
    assert_eq!(run_lending(&lent).tracked_flows, 0);
}

/// The pool is back: a flow that showed itself on the borrowed backend stays there beyond the window.
#[test]
fn a_flow_on_a_borrowed_backend_keeps_its_own_vips_slot_pinned() {
    for tracking in [Tracking::Auto, Tracking::Always] {
        let lent = lending(tracking);
        let (store, _) = &lent;
        web_slot(store, 9).store(Slot::moving(WEB_OWN, 1, NOW).0);
        put(store, 0, 9, 1, EntryState::Confirmed, 0);
        let report = run_lending(&lent);
        assert_eq!(Slot(web_slot(store, 9).load()), Slot::pinned(WEB_OWN), "{tracking:?}");
        assert_eq!((report.tracked_flows, report.pinned_slots[&WEB]), (1, 1));
        store.flows[5].entries[0].store(0);
        run_lending(&lent);
        assert_eq!(Slot(web_slot(store, 9).load()), Slot::stable(WEB_OWN), "{tracking:?}");
    }
}
