//! Reads the maps back as [`Actual`] and carries out [`Op`]s on them.
//!
//! A row is published by the word that is written last, after a fence; what changes live is one word. Every
//! operation can be repeated.

use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};

use lb_common::abi::backend::{BackendRow, Control, NextHop};
use lb_common::abi::counter::Counter;
use lb_common::abi::egress::{EgressRow, Tags};
use lb_common::abi::signal::Signal;
use lb_common::abi::tenant::{COUNTS_PER_TENANT, Caps, TenantCounts, TenantRow};
use lb_common::abi::vip::{Policy, VipEntry, VipRow, extent, extent_word};
use lb_common::abi::word::Word;
use lb_common::addr::{Addr, Mac};
use lb_common::be::Be16;
use lb_common::ids::{BackendId, TenantId, VipId};
use lb_control::limits::{Limits, flow_entries, nat_ports};
use lb_control::plan::{
    self, Actual, BackendContent, EgressContent, Key, Op, RowLimits, SlotChange, Sweep, TenantContent,
    VipContent,
};
use lb_control::suspicion::Reading;

use super::fault::{Fault, Result};
use super::store::{CountOf, Store};
use super::{Counters, LastReading, LiveSlots, TenantCount, sys};

/// Everything that the maps hold.
pub(super) fn read(store: &Store, sweep: Option<Sweep>) -> Result<Actual<LiveSlots>> {
    let keys = store.calls.vip_keys()?;
    let backends = in_use(&store.backends, backend).collect();
    Ok(Actual {
        limits: limits(store),
        bypass: store.config[0].bypass.load() != 0,
        vips: in_use(&store.vips, vip).collect(),
        keys: keys.iter().map(|(key, entry)| (Key::from_abi(key), VipEntry(*entry))).collect(),
        tenants: in_use(&store.tenants, tenant).collect(),
        pools: plan::pools(&backends),
        backends,
        egresses: in_use(&store.egresses, egress).collect(),
        ports: store.calls.ports()?.into_iter().map(|(ifindex, row)| (ifindex, row as u16)).collect(),
        sources: in_use(&store.sources, |row| {
            let address = row.address();
            (address != Addr::default()).then(|| address.ip())
        })
        .map(|(number, address)| (number as u8, address))
        .collect(),
        slots: LiveSlots(store.slots.clone()),
        sweep,
    })
}

/// Capacities, as the maps were made.
fn limits(store: &Store) -> Limits {
    Limits {
        vips: store.vips.len() as u32,
        vip_keys: store.calls.vip_keys_limit(),
        backends: store.backends.len() as u32 - 1,
        slots: store.slots.len() as u32,
        egresses: store.egresses.len() as u32,
        sources: store.sources.len() as u32,
        tenants: store.tenants.len() as u32 - 1,
        flow_entries: flow_entries(store.flows.len() as u32),
        nat_ports: nat_ports(store.nat.len() as u32),
    }
}

/// The rows that hold something, by number.
fn in_use<T, V>(rows: &[T], content: impl Fn(&T) -> Option<V>) -> impl Iterator<Item = (u16, V)> {
    rows.iter().enumerate().filter_map(move |(number, row)| Some((number as u16, content(row)?)))
}

/// A vip row's content.
pub(super) fn vip(row: &VipRow) -> Option<VipContent> {
    let key = row.key.load();
    let identity = row.identity.load();
    let address = Addr::from_words([row.addr[0].load(), row.addr[1].load()]).ip();
    (key != 0).then(|| VipContent {
        id: VipId(identity as u32),
        tenant: TenantId((identity >> 32) as u32),
        key: Key { address, port: Be16::from_raw(key as u16).host(), protocol: (key >> 16) as u8 },
        extent: extent(row.table.load()),
        policy: Policy(row.policy.load()),
        refuses: row.unserved.load() == VipRow::REFUSED,
    })
}

/// A tenant row's content.
fn tenant(row: &TenantRow) -> Option<TenantContent> {
    let id = TenantId(row.identity.load() as u32);
    let rates = std::array::from_fn(|rate| row.rates[rate].load());
    let limits = RowLimits { rates, burst_ns: row.burst_ns.load(), caps: Caps(row.caps.load()) };
    (id.0 != 0).then_some(TenantContent { id, limits })
}

/// A backend row's content.
pub(super) fn backend(row: &BackendRow) -> Option<BackendContent> {
    let id = BackendId(row.identity.load() as u32);
    (id.0 != 0).then(|| BackendContent {
        id,
        address: row.address().ip(),
        control: Control(row.control.load()),
        next_hop: NextHop(row.next_hop.load()),
        trial_cps: row.trial_cps.load() as u16,
        tenant: row.tenant(),
    })
}

/// An egress row's content.
fn egress(row: &EgressRow) -> Option<EgressContent> {
    (row.device.load() != 0).then(|| EgressContent {
        ifindex: row.ifindex(),
        mtu: row.mtu(),
        source_mac: Mac(row.source_mac.load()),
        tags: Tags(row.tags.load()),
    })
}

/// The clock of operations that change no slot: whatever it shows, nothing is late.
pub(super) const NO_CLOCK: fn() -> u32 = || 0;

/// Carries out operations in order, up to the first that fails, by the data plane's clock. Returns how many slots were
/// not as planned, or whose time was over; if there are any, what follows the slots is left undone.
pub(super) fn apply(store: &Store, ops: &[Op], now_s: impl Fn() -> u32) -> Result<u64> {
    let mut missed = 0;
    for op in ops {
        match op {
            Op::ChangeSlots { first, changes, .. } => missed += change_slots(store, *first, changes, &now_s)?,
            _ if missed > 0 => break,
            _ => apply_one(store, op)?,
        }
    }
    Ok(missed)
}

fn apply_one(store: &Store, op: &Op) -> Result<()> {
    match op {
        Op::SetBypass { on } => set(&store.config[0].bypass, u64::from(*on)),
        Op::WriteSource { number, address } => {
            return write_source(store, *number, Addr::from(*address).words());
        }
        Op::FreeSource { number } => return write_source(store, *number, [0, 0]),
        Op::WriteEgress { row, content } => return write_egress(store, *row, content),
        Op::FreeEgress { row } => return free_egress(store, *row),
        Op::SetPort { ifindex, egress } => return store.calls.set_port(*ifindex, (*egress).into()),
        Op::RemovePort { ifindex } => return store.calls.remove_port(*ifindex),
        Op::WriteBackend { row, content } => return write_backend(store, *row, content),
        Op::SetNextHop { row, next_hop } => set(&backend_row(store, *row)?.next_hop, next_hop.0),
        Op::SetControl { row, control } => set(&backend_row(store, *row)?.control, control.0),
        Op::SetTrial { row, trial_cps } => set(&backend_row(store, *row)?.trial_cps, (*trial_cps).into()),
        Op::SetBackendTenant { row, tenant } => set_backend_tenant(backend_row(store, *row)?, *tenant),
        Op::FreeBackend { row } => free_backend(backend_row(store, *row)?),
        Op::WriteTenant { row, content } => return write_tenant(store, *row, content),
        Op::SetTenantLimits { row, limits } => set_tenant_limits(tenant_row(store, *row)?, limits),
        Op::FreeTenant { row } => free_tenant(tenant_row(store, *row)?),
        Op::WriteSlots { first, values } => {
            let slots = slots(store, *first, values.len() as u32)?;
            slots.iter().zip(values).for_each(|(word, slot)| word.store(slot.0));
        }
        // `apply` itself does, since it counts the slots that stay.
        Op::ChangeSlots { .. } => {}
        Op::WriteVip { row, content } => return write_vip(store, *row, content),
        Op::SetVipPolicy { row, policy } => set(&vip_row(store, *row)?.policy, policy.0),
        Op::SetVipRefusal { row, refuses } => set(&vip_row(store, *row)?.unserved, unserved(*refuses)),
        Op::SetVipTable { row, extent } => set(&vip_row(store, *row)?.table, extent_word(extent.0, extent.1)),
        Op::WithdrawVip { row } => withdraw_vip(vip_row(store, *row)?),
        Op::FreeVip { row } => free_vip(vip_row(store, *row)?),
        Op::SetVipKey { key, entry } => return store.calls.set_vip_key(key.to_abi(), entry.0),
        Op::RemoveVipKey { key } => return store.calls.remove_vip_key(&key.to_abi()),
        Op::Barrier => sys::grace_period(),
    }
    Ok(())
}

/// Writes a word after everything that was written before it.
fn set(word: &Word, value: u64) {
    fence(Ordering::Release);
    word.store(value);
}

fn row_of<'s, T>(map: &str, rows: &'s [T], number: usize) -> Result<&'s T> {
    rows.get(number).ok_or_else(|| Fault::full(map, rows.len()))
}

fn vip_row(store: &Store, row: u16) -> Result<&VipRow> {
    row_of("LB_VIPS", &store.vips, row.into())
}

fn backend_row(store: &Store, row: u16) -> Result<&BackendRow> {
    row_of("LB_BACKENDS", &store.backends, row.into())
}

fn egress_row(store: &Store, row: u16) -> Result<&EgressRow> {
    row_of("LB_EGRESS", &store.egresses, row.into())
}

fn tenant_row(store: &Store, row: u16) -> Result<&TenantRow> {
    row_of("LB_TENANTS", &store.tenants, row.into())
}

fn slots(store: &Store, first: u32, count: u32) -> Result<&[Word]> {
    let (from, to) = (first as usize, first as usize + count as usize);
    store.slots.get(from..to).ok_or_else(|| Fault::full("LB_SLOTS", store.slots.len()))
}

fn write_source(store: &Store, number: u8, words: [u64; 2]) -> Result<()> {
    let row = row_of("LB_SOURCES", &store.sources, number.into())?;
    row.addr.iter().zip(words).for_each(|(word, value)| word.store(value));
    fence(Ordering::Release);
    Ok(())
}

fn write_egress(store: &Store, number: u16, content: &EgressContent) -> Result<()> {
    let row = egress_row(store, number)?;
    store.calls.set_device(number, content.ifindex)?;
    row.source_mac.store(content.source_mac.0);
    row.tags.store(content.tags.0);
    set(&row.device, EgressRow::device_word(content.ifindex, content.mtu));
    Ok(())
}

fn free_egress(store: &Store, number: u16) -> Result<()> {
    let row = egress_row(store, number)?;
    for word in [&row.device, &row.tags, &row.source_mac] {
        word.store(0);
    }
    store.calls.remove_device(number)
}

fn write_backend(store: &Store, number: u16, content: &BackendContent) -> Result<()> {
    let row = backend_row(store, number)?;
    store.calls.reset_count(CountOf::Backend(number))?;
    row.control.store(content.control.0);
    row.next_hop.store(content.next_hop.0);
    row.trial_cps.store(content.trial_cps.into());
    row.addr.iter().zip(Addr::from(content.address).words()).for_each(|(word, value)| word.store(value));
    set(&row.identity, BackendRow::identity_word(content.id.0, content.tenant));
    Ok(())
}

/// Only the daemon writes the word.
fn set_backend_tenant(row: &BackendRow, tenant: u16) {
    set(&row.identity, BackendRow::identity_word(row.identity.load() as u32, tenant));
}

fn free_backend(row: &BackendRow) {
    let live = [&row.control, &row.next_hop, &row.connections, &row.trial_cps, &row.trial_due_ns];
    for word in live.into_iter().chain(&row.addr).chain([&row.identity]) {
        word.store(0);
    }
}

fn write_tenant(store: &Store, number: u16, content: &TenantContent) -> Result<()> {
    let row = tenant_row(store, number)?;
    (0..COUNTS_PER_TENANT).try_for_each(|kind| store.calls.reset_count(CountOf::Tenant(number, kind)))?;
    set_tenant_limits(row, &content.limits);
    row.handed_ns.iter().chain([&row.connections, &row.nat_ports]).for_each(|word| word.store(0));
    set(&row.identity, content.id.0.into());
    Ok(())
}

/// Word by word: a packet in between meets an old limit beside a new one.
fn set_tenant_limits(row: &TenantRow, limits: &RowLimits) {
    row.burst_ns.store(limits.burst_ns);
    row.rates.iter().zip(limits.rates).for_each(|(word, rate)| word.store(rate));
    row.caps.store(limits.caps.0);
}

fn free_tenant(row: &TenantRow) {
    let state = row.handed_ns.iter().chain([&row.connections, &row.nat_ports]);
    let limits = row.rates.iter().chain([&row.burst_ns, &row.caps]);
    state.chain(limits).chain([&row.identity]).for_each(|word| word.store(0));
}

fn write_vip(store: &Store, number: u16, content: &VipContent) -> Result<()> {
    let row = vip_row(store, number)?;
    slots(store, content.extent.0, content.extent.1)?;
    store.calls.reset_count(CountOf::Vip(number))?;
    row.addr.iter().zip(Addr::from(content.key.address).words()).for_each(|(word, value)| word.store(value));
    row.table.store(extent_word(content.extent.0, content.extent.1));
    row.policy.store(content.policy.0);
    row.unserved.store(unserved(content.refuses));
    row.identity.store(u64::from(content.id.0) | u64::from(content.tenant.0) << 32);
    set(&row.key, VipRow::key_word(Be16::new(content.key.port), content.key.protocol));
    Ok(())
}

/// The word of a vip that refuses new flows while nobody serves them, or does not.
const fn unserved(refuses: bool) -> u64 {
    if refuses { VipRow::REFUSED } else { 0 }
}

/// What the daemon holds against a packet that has the row in hand is the barrier that comes next.
fn withdraw_vip(row: &VipRow) {
    row.key.store(row.key.load() & !VipRow::FOUND);
}

fn free_vip(row: &VipRow) {
    let live = [&row.key, &row.table, &row.policy, &row.identity, &row.turn, &row.unserved];
    live.into_iter().chain(&row.addr).for_each(|word| word.store(0));
}

/// A slot that holds another value than it did when the change was planned stays, and so does one whose window has ended
/// since: the next plan sees it. Returns how many do.
fn change_slots(store: &Store, first: u32, changes: &[SlotChange], now_s: impl Fn() -> u32) -> Result<u64> {
    let count = changes.iter().map(|change| change.slot + 1).max().unwrap_or(0);
    let slots = slots(store, first, count)?;
    let stays = |SlotChange { slot, old, new }: &&SlotChange| {
        !new.is_timely(now_s()) || !slots[*slot as usize].compare_swap(old.0, new.0)
    };
    Ok(changes.iter().filter(stays).count() as u64)
}

/// What traffic says of every backend that takes new flows. One call for all of them, and some for each that had packets
/// since its last reading: nothing else is a signal. Packets are read first, so what comes meanwhile shows in the next look.
pub(super) fn readings(store: &Store, last: &LastReading<'_>) -> Result<BTreeMap<BackendId, Reading>> {
    let takes_new = |row: &BackendRow| backend(row).filter(|content| content.control.takes_new());
    let serving: Vec<_> = in_use(&store.backends, takes_new).collect();
    let counts = store.calls.backend_counts(up_to_last(&serving))?;
    let reading = |(number, content): (u16, BackendContent)| {
        let signal = |signal| store.calls.signal(number, signal);
        let packets = counts.get(usize::from(number)).map_or(0, |count| count.packets);
        let reading = match last(content.id) {
            Some(last) if last.packets == packets => last,
            _ => Reading {
                syns: signal(Signal::Syn)?,
                repeated: signal(Signal::Repeated)?,
                sampled_repeated: signal(Signal::SampledRepeated)?,
                resets: signal(Signal::Reset)?,
                unreachable: signal(Signal::Unreachable)?,
                packets,
            },
        };
        Ok((content.id, reading))
    };
    serving.into_iter().map(reading).collect()
}

/// How many rows there are up to the last one in use.
fn up_to_last<V>(rows: &[(u16, V)]) -> usize {
    rows.last().map_or(0, |(last, _)| usize::from(*last) + 1)
}

/// Those of the rows that something was ever counted for.
fn counted<V>(rows: &[(u16, V)], counts: &[Counter]) -> impl Iterator<Item = (u16, Counter)> {
    let count = |(row, _): &(u16, V)| Some((*row, *counts.get(usize::from(*row))?));
    rows.iter().filter_map(count).filter(|(_, count)| count.packets != 0)
}

/// Packets and bytes of everything that is in use and was ever counted for: a minute of samples of what is idle would
/// take more room than the state.
pub(super) fn counters(store: &Store) -> Result<Counters> {
    let mut counters = Counters::default();
    for reason in lb_common::reason::Reason::ALL {
        let count = store.calls.count(CountOf::Reason(*reason))?;
        if count.packets != 0 {
            counters.reasons.insert(*reason, count);
        }
    }
    let vips: Vec<_> = in_use(&store.vips, vip).collect();
    counters.vips.extend(counted(&vips, &store.calls.vip_counts(up_to_last(&vips))?));
    let backends: Vec<_> = in_use(&store.backends, backend).collect();
    counters.backends.extend(counted(&backends, &store.calls.backend_counts(up_to_last(&backends))?));
    for (number, content) in in_use(&store.tenants, tenant) {
        let row = &store.tenants[usize::from(number)];
        let count = |word: &Word| (word.load() as i64).max(0) as u64;
        let mut counts = TenantCounts::default();
        for (kind, sum) in (0..).zip(&mut counts.0) {
            *sum = store.calls.count(CountOf::Tenant(number, kind))?;
        }
        let (connections, nat_ports) = (count(&row.connections), count(&row.nat_ports));
        counters.tenants.insert(content.id, TenantCount { counts, connections, nat_ports });
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::memory;
    use imbl::OrdMap;
    use lb_common::abi::backend::Mode;
    use lb_common::abi::slot::Slot;
    use lb_common::abi::vip::Tracking;
    use lb_control::code::Code;
    use lb_control::suspicion::Watch;

    fn key() -> Key {
        Key { address: "2001:db8::10".parse().unwrap(), port: 443, protocol: 17 }
    }

    fn vip_content() -> VipContent {
        let policy = Policy::new(Tracking::Always, true, true, 77);
        VipContent {
            id: VipId(9),
            tenant: TenantId(4),
            key: key(),
            extent: (251, 257),
            policy,
            refuses: true,
        }
    }

    fn backend_content() -> BackendContent {
        let control = Control::new(Control::ALIVE, Mode::Nat, 2, 5, Be16::new(8080));
        let next_hop = NextHop::new(Mac::from_octets([2, 0, 0, 0, 0, 9]), 7);
        BackendContent {
            id: BackendId(31),
            address: "10.0.0.9".parse().unwrap(),
            control,
            next_hop,
            tenant: 3,
            trial_cps: 0,
        }
    }

    fn tenant_content() -> TenantContent {
        let limits = RowLimits { rates: [7, 0, 9], burst_ns: 11, caps: Caps::new(3, 4) };
        TenantContent { id: TenantId(4), limits }
    }

    fn egress_content() -> EgressContent {
        let source_mac = Mac::from_octets([2, 0, 0, 0, 0, 1]);
        EgressContent { ifindex: 12, mtu: 1400, source_mac, tags: Tags::two(100, 9) }
    }

    fn fill() -> Vec<Op> {
        vec![
            Op::SetBypass { on: true },
            Op::WriteSource { number: 2, address: "10.0.0.1".parse().unwrap() },
            Op::WriteEgress { row: 7, content: egress_content() },
            Op::SetPort { ifindex: 12, egress: 7 },
            Op::WriteTenant { row: 3, content: tenant_content() },
            Op::WriteBackend { row: 8, content: backend_content() },
            Op::WriteSlots { first: 251, values: vec![Slot::stable(8); 257] },
            Op::WriteVip { row: 5, content: vip_content() },
            Op::SetVipKey { key: key(), entry: VipEntry(5) },
            Op::SetVipKey { key: Key::mark(key().address), entry: VipEntry(VipEntry::ADDRESS) },
            Op::Barrier,
        ]
    }

    #[test]
    fn what_was_said_of_a_row_s_former_backend_is_not_said_of_the_next() {
        let (store, memory) = memory::store(&memory::small());
        let packets = |packets| {
            *memory::lock(&memory).counter(CountOf::Backend(8)) = Counter { packets, bytes: 0 };
        };
        for (signal, count) in [(Signal::Syn, 1_000_000), (Signal::Reset, 500)] {
            memory::lock(&memory).signals.insert(signal.index(8), count);
        }
        let mut content = backend_content();
        content.control = Control(content.control.0 | Control::NEW);
        apply(&store, &[Op::WriteBackend { row: 8, content }], || 0).unwrap();
        let mut watch = Watch::default();
        for seen in [0, 0, 3, 9] {
            packets(seen);
            let reading = readings(&store, &|_| watch.last()).unwrap()[&content.id];
            assert_eq!((reading.packets, reading.resets), (seen, 500));
            assert_eq!(watch.read(reading), None);
        }
        // Without packets nothing is a signal, and nobody looks for one.
        memory::lock(&memory).signals.insert(Signal::Reset.index(8), 600);
        assert_eq!(readings(&store, &|_| watch.last()).unwrap()[&content.id].resets, 500);
        packets(10);
        let reading = readings(&store, &|_| watch.last()).unwrap()[&content.id];
        assert!(watch.read(reading).is_some_and(|said| said.contains("refused 100 connections")));
    }

    fn whole(store: &Store) -> String {
        let actual = read(store, None).unwrap();
        let slots: Vec<u64> = store.slots.iter().map(Word::load).filter(|word| *word != 0).collect();
        format!("{actual:?} {slots:?}")
    }

    #[test]
    fn what_is_written_is_read_back_and_writing_again_changes_nothing() {
        let (store, memory) = memory::store(&memory::small());
        apply(&store, &fill(), NO_CLOCK).unwrap();
        let actual = read(&store, None).unwrap();
        assert!(actual.bypass);
        assert_eq!(actual.limits, memory::small().limits);
        assert_eq!(actual.vips, OrdMap::unit(5, vip_content()));
        assert_eq!(actual.tenants, OrdMap::unit(3, tenant_content()));
        assert_eq!(actual.backends, OrdMap::unit(8, backend_content()));
        assert_eq!(actual.egresses, [(7, egress_content())].into());
        assert_eq!(actual.sources, [(2, "10.0.0.1".parse().unwrap())].into());
        assert_eq!(actual.ports, [(12, 7)].into());
        assert_eq!(actual.keys[&key()].row(), 5);
        assert!(actual.keys[&Key::mark(key().address)].is_address());
        assert_eq!(memory::lock(&memory).devices[&7], 12);
        let once = whole(&store);
        apply(&store, &fill(), NO_CLOCK).unwrap();
        assert_eq!(whole(&store), once);
    }

    #[test]
    fn what_is_freed_leaves_nothing() {
        let (store, memory) = memory::store(&memory::small());
        let empty = whole(&store);
        apply(&store, &fill(), NO_CLOCK).unwrap();
        let free = [
            Op::SetBypass { on: false },
            Op::RemoveVipKey { key: key() },
            Op::RemoveVipKey { key: Key::mark(key().address) },
            Op::WithdrawVip { row: 5 },
            Op::FreeVip { row: 5 },
            Op::FreeTenant { row: 3 },
            Op::FreeBackend { row: 8 },
            Op::RemovePort { ifindex: 12 },
            Op::FreeEgress { row: 7 },
            Op::FreeSource { number: 2 },
            Op::WriteSlots { first: 251, values: vec![Slot::stable(0); 257] },
        ];
        for _ in 0..2 {
            apply(&store, &free, NO_CLOCK).unwrap();
            assert_eq!(whole(&store), empty);
            assert!(memory::lock(&memory).devices.is_empty());
        }
    }

    #[test]
    fn live_words_change_alone() {
        let (store, _) = memory::store(&memory::small());
        apply(&store, &fill(), NO_CLOCK).unwrap();
        let (control, next_hop) = (Control(3), NextHop(5));
        let policy = Policy::new(Tracking::Never, false, false, 1);
        let live = [
            Op::SetControl { row: 8, control },
            Op::SetNextHop { row: 8, next_hop },
            Op::SetTrial { row: 8, trial_cps: 7 },
            Op::SetBackendTenant { row: 8, tenant: 0 },
            Op::SetVipPolicy { row: 5, policy },
            Op::SetVipRefusal { row: 5, refuses: false },
            Op::SetVipTable { row: 5, extent: (0, 251) },
            Op::SetTenantLimits { row: 3, limits: RowLimits::default() },
        ];
        apply(&store, &live, NO_CLOCK).unwrap();
        let actual = read(&store, None).unwrap();
        assert_eq!(
            actual.backends[&8],
            BackendContent { control, next_hop, tenant: 0, trial_cps: 7, ..backend_content() }
        );
        assert_eq!(actual.tenants[&3].limits, RowLimits::default());
        assert_eq!(actual.vips[&5], VipContent { policy, refuses: false, extent: (0, 251), ..vip_content() });
    }

    #[test]
    fn a_slot_that_is_not_as_planned_stays() {
        let (store, _) = memory::store(&memory::small());
        apply(&store, &fill(), NO_CLOCK).unwrap();
        let new = Slot::moving(9, 8, 1_000);
        let change = |slot, old| SlotChange { slot, old, new };
        let changes = vec![change(0, Slot::stable(8)), change(256, Slot::stable(7))];
        let change = Op::ChangeSlots { vip_row: 5, first: 251, changes };
        // What comes after the slots rests on them.
        let missed = apply(&store, &[change, Op::FreeBackend { row: 8 }], NO_CLOCK).unwrap();
        assert_eq!(missed, 1);
        assert_eq!((store.slots[251].load(), store.slots[507].load()), (new.0, Slot::stable(8).0));
        assert!(read(&store, None).unwrap().backends.contains_key(&8));
    }

    #[test]
    fn a_window_that_ended_since_it_was_planned_is_not_written() {
        let (store, _) = memory::store(&memory::small());
        apply(&store, &fill(), NO_CLOCK).unwrap();
        let change = |slot, new| SlotChange { slot, old: Slot::stable(8), new };
        let changes = vec![change(0, Slot::moving(9, 8, 1_000)), change(1, Slot::moving(9, 8, 1_001))];
        let op = Op::ChangeSlots { vip_row: 5, first: 251, changes };
        assert_eq!(apply(&store, &[op], || 1_000).unwrap(), 1);
        let now = |index: usize| Slot(store.slots[index].load());
        assert_eq!((now(251), now(252)), (Slot::stable(8), Slot::moving(9, 8, 1_001)));
    }

    #[test]
    fn a_row_beyond_the_end_names_its_map_and_changes_nothing() {
        let (store, _) = memory::store(&memory::small());
        let empty = whole(&store);
        let beyond = [
            (Op::WriteVip { row: 64, content: vip_content() }, "LB_VIPS"),
            (Op::WriteBackend { row: 1024, content: backend_content() }, "LB_BACKENDS"),
            (Op::WriteTenant { row: 1024, content: tenant_content() }, "LB_TENANTS"),
            (Op::WriteEgress { row: 256, content: egress_content() }, "LB_EGRESS"),
            (Op::WriteSource { number: 16, address: "10.0.0.1".parse().unwrap() }, "LB_SOURCES"),
            (Op::WriteSlots { first: 1 << 20, values: vec![Slot::stable(1)] }, "LB_SLOTS"),
        ];
        for (op, map) in beyond {
            let fault = apply(&store, &[op], NO_CLOCK).unwrap_err();
            assert!(fault.code == Code::MapFull && fault.message.contains(map), "{fault}");
        }
        let keys = (0..=128).map(|port| Op::SetVipKey { key: Key { port, ..key() }, entry: VipEntry(1) });
        let fault = apply(&store, &keys.collect::<Vec<_>>(), NO_CLOCK).unwrap_err();
        assert!(fault.message.contains("LB_VIP_KEYS") && fault.message.contains("128"), "{fault}");
        let keys = (0..128).map(|port| Op::RemoveVipKey { key: Key { port, ..key() } });
        apply(&store, &keys.collect::<Vec<_>>(), NO_CLOCK).unwrap();
        assert_eq!(whole(&store), empty);
    }
}
