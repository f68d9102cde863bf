//! The tables of the host, as a daemon might leave them, and what changes them between two stretches of frames. Also
//! what no daemon leaves: rows that name rows that do not exist.

use super::mutate::pick;
use super::packets::{TCP, UDP};
use fastrand::Rng;
use lb_common::abi::backend::{BackendRow, Control, Mode, NextHop};
use lb_common::abi::counter::Meter;
use lb_common::abi::egress::{EgressRow, Tags};
use lb_common::abi::flow::{Entry, EntryState, Trace};
use lb_common::abi::nat::{NatControl, NatState, first_row};
use lb_common::abi::signal::{SIGNALS_PER_BACKEND, Signal::SampledRepeated};
use lb_common::abi::slot::{Phase, Slot};
use lb_common::abi::tenant::Caps;
use lb_common::abi::vip::{Pick, Policy, Timeouts, Tracking, VipEntry, VipKey, VipRow, extent_word};
use lb_common::addr::{Addr, Mac};
use lb_common::be::Be16;
use lb_common::datapath::host::HostTables;
use lb_common::hash::HashKey;
use lb_common::limits::{NAT_PORT_FIRST, NAT_PORTS};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The stopped clock, seconds since boot.
pub const NOW_S: u32 = 1_000_000;
/// Interface index of the loopback device, by which the kernel lets test frames come in.
pub const INGRESS: u32 = 1;
/// Another device's; only named, never sent to.
const ELSEWHERE: u32 = 7;
/// Ways out.
pub const EGRESSES: u16 = 8;
/// Buckets of the flow table: few, so that they fill.
const BUCKETS: usize = 256;
/// Planes of the NAT table.
const NAT_PLANES: usize = 2;
/// Slots and backends of a vip.
const SLOTS: u32 = 251;
const BACKENDS: u16 = 6;
/// Addresses of vips in each family; each has three vips.
const ADDRESSES: u16 = 6;
/// Tenants with rows.
const TENANTS: u16 = 4;
/// The backend whose plane of the NAT table is full.
const CROWDED: usize = 1;

/// A vip, as the script aims at it.
#[derive(Clone, Copy, Debug)]
pub struct Vip {
    /// Its address.
    pub address: Addr,
    /// Its port; 0 = every port.
    pub port: u16,
    /// Its protocol.
    pub protocol: u8,
}

/// The tables, and what the script must know of them.
pub struct World {
    /// The tables.
    pub tables: HostTables,
    /// The vips, by row less one.
    pub vips: Vec<Vip>,
    /// The node's own addresses, IPv4 and IPv6.
    pub sources: [Addr; 2],
    /// Known balancers of the decapsulation.
    pub peers: Vec<Addr>,
    /// The backend whose plane of the NAT table is full.
    pub crowded: u16,
}

/// An IPv4 address.
#[must_use]
pub fn v4(a: u8, b: u8, c: u8, d: u8) -> Addr {
    IpAddr::from(Ipv4Addr::new(a, b, c, d)).into()
}

/// An IPv6 address of documentation.
#[must_use]
pub fn v6(a: u16, b: u16) -> Addr {
    IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, a, b)).into()
}

impl World {
    /// Tables drawn by chance.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let key = HashKey([rng.u64(..), rng.u64(..)]);
        let vips = all_vips();
        let mut tables = HostTables::new(key, vips.len() * SLOTS as usize, BUCKETS);
        tables.nat = (0..NAT_PLANES * 2 * NAT_PORTS as usize).map(|_| Default::default()).collect();
        tables.now_ns.set(u64::from(NOW_S) * 1_000_000_000);
        tables.ingress.set(INGRESS);
        let sources = [v4(192, 0, 2, 1), v6(0xffff, 1)];
        let peers = vec![v4(192, 0, 2, 10), v6(0xffff, 10), v4(192, 0, 2, 11)];
        let mut world = Self { tables, vips, sources, peers, crowded: 0 };
        world.ways();
        world.keys();
        for vip in 0..world.vips.len() {
            world.vip(vip, rng);
        }
        world.crowd(rng);
        world.change(rng);
        world
    }

    fn ways(&mut self) {
        let ways = [
            (INGRESS, 1500, Tags::NONE),
            (ELSEWHERE, 1500, Tags::one(0x2064)),
            (ELSEWHERE, 1500, Tags::two(0x0065, 0xe066)),
            (ELSEWHERE, 1400, Tags::NONE),
            (INGRESS, 1500, Tags::one(0x0067)),
            (ELSEWHERE, 300, Tags::NONE),
            (ELSEWHERE, 9000, Tags::NONE),
        ];
        for (number, (ifindex, mtu, tags)) in (1_u8..).zip(ways) {
            let row = &self.tables.egresses[usize::from(number)];
            row.source_mac.store(Mac::from_octets([2, 0, 0, 1, 0, number]).0);
            row.device.store(EgressRow::device_word(ifindex, mtu));
            row.tags.store(tags.0);
        }
        for (number, source) in [0, 1].into_iter().zip(self.sources) {
            let row = &self.tables.sources[number];
            row.addr[0].store(source.words()[0]);
            row.addr[1].store(source.words()[1]);
        }
    }

    fn keys(&mut self) {
        for source in self.sources {
            self.tables.insert_key(&VipKey::mark(source), VipEntry(VipEntry::SOURCE));
        }
        for (row, vip) in (1_u32..).zip(self.vips.clone()) {
            let key = VipKey::new(vip.address, Be16::new(vip.port), vip.protocol);
            self.tables.insert_key(&key, VipEntry(row));
            self.tables.insert_key(&VipKey::mark(vip.address), VipEntry(VipEntry::ADDRESS));
        }
        // Keys that lead to another vip's row, to a free row and to no row.
        for (port, row) in [(7001, 1), (7002, 60), (7003, 5000)] {
            let key = VipKey::new(self.vips[0].address, Be16::new(port), TCP);
            self.tables.insert_key(&key, VipEntry(row));
        }
        self.tables.decap_peers.extend(self.peers.iter().map(|peer| peer.0));
        self.tables.decap_vips.extend(self.vips.iter().map(|vip| vip.address.0));
    }

    fn vip(&mut self, number: usize, rng: &mut Rng) {
        let vip = self.vips[number];
        let row = &self.tables.vips[number + 1];
        let words = vip.address.words();
        row.addr[0].store(words[0]);
        row.addr[1].store(words[1]);
        row.key.store(VipRow::key_word(Be16::new(vip.port), vip.protocol));
        row.table.store(extent_word(number as u32 * SLOTS, SLOTS));
        for backend in 0..BACKENDS {
            let row = first_backend(number) + backend;
            let mode = *pick(&[Mode::L2, Mode::Ipip, Mode::Nat], rng);
            let v4_backend = if mode == Mode::Nat { vip.address.is_v4() } else { rng.bool() };
            let (a, b) = (number as u16, backend + 1);
            let address = if v4_backend { v4(10, 1, a as u8, b as u8) } else { v6(a + 0x100, b) };
            let flags = [3, 3, 3, 3, Control::ALIVE, 0][usize::from(backend)];
            let port = Be16::new(if rng.bool() { 0 } else { 8080 });
            let source = u8::from(!v4_backend);
            let stored = &self.tables.backends[usize::from(row)];
            let control = Control::new(flags, mode, source, number as u16 + 1, port);
            stored.control.store(control.with_weight(*pick(&[0, 1, 100, 65_535], rng)).0);
            stored.identity.store(BackendRow::identity_word(row.into(), tenant_of(number)));
            stored.addr[0].store(address.words()[0]);
            stored.addr[1].store(address.words()[1]);
            let way = 1 + rng.u16(0..EGRESSES - 1);
            stored.next_hop.store(NextHop::new(Mac::from_octets([2, 0, 0, 2, a as u8, b as u8]), way).0);
        }
        self.policy(number, rng);
        for slot in 0..SLOTS {
            self.slot(number as u32 * SLOTS + slot, rng);
        }
    }

    fn policy(&self, number: usize, rng: &mut Rng) {
        let tracking = *pick(&[Tracking::Auto, Tracking::Auto, Tracking::Always, Tracking::Never], rng);
        let idle_s = if rng.u8(0..4) == 0 { 3 } else { 900 };
        let policy = Policy::new(tracking, rng.u8(0..3) == 0, false, idle_s);
        let how = match tracking {
            Tracking::Always => {
                *pick(&[Pick::Flow, Pick::Affinity, Pick::Turn, Pick::Least, Pick::Least], rng)
            }
            _ => *pick(&[Pick::Flow, Pick::Flow, Pick::Source, Pick::Turn], rng),
        };
        let timeouts = match rng.u8(0..3) {
            0 => Timeouts::default(),
            _ => Timeouts { syn_s: rng.u8(0..4), closing_s: rng.u8(0..4), affinity_s: rng.u16(0..200) },
        };
        // Now and then a tenant that does not exist.
        let tenant = if rng.u8(0..20) == 0 { 499 } else { tenant_of(number) };
        let row = &self.tables.vips[number + 1];
        row.policy.store(policy.with_pick(how).with_timeouts(timeouts).with_tenant(tenant).0);
        row.unserved.store(u64::from(rng.u8(0..3) != 0));
        if rng.u8(0..4) == 0 {
            row.turn.store(*pick(&[u64::MAX, u64::from(u32::MAX), 5], rng));
        }
    }

    /// A slot of any kind.
    fn slot(&self, index: u32, rng: &mut Rng) {
        let first = first_backend((index / SLOTS) as usize);
        let mut row = || match rng.u8(0..40) {
            0..=6 => 0,
            7 => 300,
            _ => first + rng.u16(0..BACKENDS),
        };
        let (current, previous) = (row(), row());
        let slot = match rng.u8(0..4) {
            0 => Slot::stable(current),
            1 => Slot::pinned(current),
            2 => Slot::moving(current, previous, NOW_S + rng.u32(1..60)),
            // On both sides of the deadline.
            _ => Slot::moving(current, previous, NOW_S - 1 + rng.u32(0..3)),
        };
        self.tables.slots[index as usize].store(slot.0);
    }

    /// Fills the plane of a NAT backend: no port is left for a new flow.
    fn crowd(&mut self, rng: &mut Rng) {
        let number = CROWDED;
        let row = first_backend(number);
        let stored = &self.tables.backends[usize::from(row)];
        let control = Control(stored.control.load());
        let mode =
            Control::new(3, Mode::Nat, u8::from(!self.vips[number].address.is_v4()), 2, control.port());
        stored.control.store(mode.0);
        let address = if self.vips[number].address.is_v4() { v4(10, 1, 99, 1) } else { v6(0x199, 1) };
        stored.addr[0].store(address.words()[0]);
        stored.addr[1].store(address.words()[1]);
        let port = if control.port().raw() == 0 { Be16::new(53) } else { control.port() };
        let rows = self.tables.nat.len() as u32;
        let first = first_row(&address, port, self.vips[number].protocol == UDP, rows);
        for port in NAT_PORT_FIRST..NAT_PORTS {
            let nat = &self.tables.nat[(first + port) as usize];
            // A time to come is no age.
            nat.control.store(NatControl::new(row, NatState::Live, 7, NOW_S + 1_000).0);
            nat.client[0].store(rng.u64(..));
        }
        self.crowded = row;
    }

    /// What a daemon does, time passing, and damage. The kernel's tables must be given it.
    pub fn change(&mut self, rng: &mut Rng) {
        let tables = &self.tables;
        tables.config.bypass.store(u64::from(rng.u8(0..40) == 0));
        for meter in &tables.meters {
            meter.set(match rng.u8(0..4) {
                0 => Meter { refilled_ns: tables.now_ns.get(), tokens: rng.u64(0..3_000_000_000) },
                _ => Meter::default(),
            });
        }
        for tenant in 1..=TENANTS {
            self.limits(tenant, rng);
        }
        for _ in 0..rng.u32(0..300) {
            self.slot(rng.u32(0..tables.slots.len() as u32), rng);
        }
        for _ in 0..3 {
            self.policy(rng.usize(0..self.vips.len()), rng);
            self.backend(rng);
            let bucket = &tables.flows[rng.usize(0..BUCKETS)];
            bucket.entries[rng.usize(0..4)].store(rng.u64(..));
            let nat = &tables.nat[rng.usize(0..tables.nat.len())];
            nat.control.store(NatControl::new(rng.u16(0..250), NatState::Claimed, 1, NOW_S).0);
        }
        if rng.bool() {
            self.tables.ports.insert(INGRESS, 1);
        } else {
            self.tables.ports.remove(&INGRESS);
        }
        self.pass(*pick(&[0, 1, 2, 5, 31, 100, 2_000], rng));
    }

    /// Limits of a tenant: none in two of three cases, so that frames come to where there is more to see.
    fn limits(&self, tenant: u16, rng: &mut Rng) {
        let row = &self.tables.tenants[usize::from(tenant)];
        row.burst_ns.store(rng.u64(0..200_000_000));
        // Few packets begin a connection or ask for a port: these are limited more often.
        for (word, (most, of)) in row.rates.iter().zip([(5_000, 6), (4_000_000, 6), (100, 2)]) {
            word.store(if rng.u8(0..of) == 0 { rng.u64(1..most) } else { 0 });
        }
        let mut cap = |most, of| if rng.u8(0..of) == 0 { rng.u32(1..most) } else { 0 };
        row.caps.store(Caps::new(cap(100, 6), cap(60, 2)).0);
    }

    fn backend(&self, rng: &mut Rng) {
        let row = rng.u16(1..first_backend(self.vips.len()));
        if row == self.crowded {
            return;
        }
        let stored = &self.tables.backends[usize::from(row)];
        let flags = *pick(&[3, 3, 3, 1, 0], rng);
        stored.control.store(stored.control.load() & !3 | flags);
        let hop = NextHop(stored.next_hop.load());
        let hop = match rng.u8(0..20) {
            0 => NextHop(0),
            1 => NextHop::new(Mac::from_octets([2, 0, 0, 3, 0, 1]), 9_999),
            _ if hop.is_known() => NextHop::new(hop.mac(), 1 + rng.u16(0..EGRESSES - 1)),
            _ => NextHop::new(Mac::from_octets([2, 0, 0, 2, 9, 9]), 1),
        };
        stored.next_hop.store(hop.0);
    }

    /// Lets time pass: the clock stands, so all that is remembered becomes older instead.
    fn pass(&self, seconds: u32) {
        let tables = &self.tables;
        for word in tables.tenants.iter().flat_map(|row| &row.handed_ns) {
            word.store(word.load().saturating_sub(u64::from(seconds) * 1_000_000_000));
        }
        for trace in tables.flows.iter().flat_map(|bucket| &bucket.traces) {
            let old = Trace(trace.load());
            trace.store(Trace::new(old.seen_s().wrapping_sub(seconds), old.isn()).0);
        }
        for word in &tables.slots {
            let slot = Slot(word.load());
            if slot.phase(NOW_S) == Phase::Moving {
                let deadline_s = slot.deadline_s() - seconds.min(slot.deadline_s());
                word.store(Slot::moving(slot.current(), slot.previous(), deadline_s).0);
            }
        }
        for row in &tables.nat {
            let old = NatControl(row.control.load());
            if old.state() != NatState::Free && old.seen_s() <= NOW_S {
                let seen_s = old.seen_s().saturating_sub(seconds);
                row.control.store(NatControl::new(old.backend(), old.state(), old.generation(), seen_s).0);
            }
        }
    }

    /// How many connections are counted, and turns were taken.
    #[must_use]
    pub fn picked(&self) -> (u64, u64) {
        let tables = &self.tables;
        let few = |count: &u64| (1..1_000_000).contains(count);
        let counted = tables.backends.iter().map(|row| row.connections.load()).filter(few).sum();
        (counted, tables.vips.iter().map(|row| row.turn.load()).filter(few).sum())
    }

    /// How many places have the mark of a SYN, and how many SYNs were seen to come again by one.
    #[must_use]
    pub fn marked(&self) -> (usize, u64) {
        let tables = &self.tables;
        let marks = tables.syn_marks.iter().filter(|word| word.load() != 0).count();
        let signals = tables.signals.borrow();
        let again =
            signals.iter().filter(|(index, _)| *index % SIGNALS_PER_BACKEND == SampledRepeated as u32);
        (marks, again.map(|(_, count)| count).sum())
    }

    /// How many entries of the flow table are in use.
    #[must_use]
    pub fn remembered(&self) -> usize {
        let words = self.tables.flows.iter().flat_map(|bucket| &bucket.entries);
        words.filter(|word| Entry(word.load()).state() != EntryState::Free).count()
    }
}

/// The tenant of a vip; 0 = one without limits.
fn tenant_of(vip: usize) -> u16 {
    vip as u16 % (TENANTS + 1)
}

fn first_backend(vip: usize) -> u16 {
    1 + vip as u16 * BACKENDS
}

/// On each address a TCP vip, a UDP vip, and one on every port of either.
fn all_vips() -> Vec<Vip> {
    let mut vips = Vec::new();
    for number in 0..ADDRESSES {
        for address in [v4(203, 0, 113, number as u8 + 1), v6(1, number + 1)] {
            let every = if number % 2 == 0 { TCP } else { UDP };
            vips.extend([(80, TCP), (53, UDP), (0, every)].map(|(port, protocol)| Vip {
                address,
                port,
                protocol,
            }));
        }
    }
    vips
}
