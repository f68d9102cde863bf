//! The tenant's limits: buckets against a bucket without CPUs and slices, caps against what the tables really hold, and
//! each reason once through the whole path.

use super::shape::{Content, Packet};
use super::site::{Site, V4, tcp};
use crate::abi::backend::{BackendRow, Mode};
use crate::abi::counter::Counter;
use crate::abi::flow::Entry;
use crate::abi::nat::NatControl;
use crate::abi::slot::Slot;
use crate::abi::tenant::{Caps, Rate, TenantCounts};
use crate::abi::vip::{Pick, Policy, Timeouts, Tracking};
use crate::datapath::Verdict;
use crate::limits::TENANT_SLICE_NS;
use crate::reason::Reason;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const SECOND_NS: u64 = 1_000_000_000;
/// The tenant's row.
const TENANT: u16 = 3;

/// A site whose vips belong to a tenant with a row, without any limit yet.
fn site(mode: Mode, tracking: Tracking) -> Site {
    let site = Site::new(mode, V4, V4);
    site.tables.tenants[TENANT as usize].identity.store(9);
    for row in &site.tables.vips[1..3] {
        row.policy.store(Policy::new(tracking, false, mode == Mode::Nat, 900).with_tenant(TENANT).0);
    }
    site.count_for(TENANT);
    site
}

impl Site {
    /// Whom the flows of all backends count for.
    fn count_for(&self, tenant: u16) {
        for (number, row) in self.tables.backends.iter().enumerate().skip(1) {
            row.identity.store(BackendRow::identity_word(number as u32, tenant));
        }
    }
    fn limit(&self, rate: Rate, per_s: u64, burst_ms: u64) {
        let tenant = &self.tables.tenants[TENANT as usize];
        tenant.rates[rate as usize].store(per_s);
        tenant.burst_ns.store(burst_ms * 1_000_000);
    }
    fn cap(&self, connections: u32, nat_ports: u32) {
        self.tables.tenants[TENANT as usize].caps.store(Caps::new(connections, nat_ports).0);
    }
    /// What was counted for the tenant.
    fn counts(&self) -> TenantCounts {
        self.tables.counts_of_tenant(TENANT.into())
    }
    /// What was counted under a reason.
    fn refused(&self, reason: Reason) -> Counter {
        self.counts().refused().find(|(own, _)| *own == reason).unwrap().1
    }
    /// The counts of the tenant's row: entries of the flow table, NAT ports.
    fn held(&self) -> (u64, u64) {
        let tenant = &self.tables.tenants[TENANT as usize];
        (tenant.connections.load(), tenant.nat_ports.load())
    }
    /// What the tables really hold.
    fn counted(&self) -> (u64, u64) {
        let words = self.tables.flows.iter().flat_map(|bucket| &bucket.entries);
        let entries = words.filter(|word| Entry(word.load()).is_flow()).count();
        let ports = self.tables.nat.iter().filter(|row| NatControl(row.control.load()).is_flow()).count();
        (entries as u64, ports as u64)
    }
    fn later(&self, ns: u64) {
        self.tables.now_ns.set(self.tables.now_ns.get() + ns);
    }
    fn reason(&self, content: Content) -> Reason {
        self.send_packet(&self.packet(content)).verdict.reason()
    }
}

fn flow(client: u16, flags: &'static str) -> Content {
    Content::Tcp { ports: (client, 80), sequence: 7, flags, data: vec![] }
}

fn datagram(client: u16, data: usize) -> Content {
    Content::Udp { ports: (client, 53), checksum: true, data: vec![b'u'; data] }
}

/// Sends so many packets a second from each CPU in turn; how many passed.
fn pour(site: &Site, cpus: u32, per_s: u64, for_ns: u64) -> u64 {
    let gap_ns = SECOND_NS / per_s;
    let sent = (0..for_ns / gap_ns).map(|number| {
        site.later(gap_ns);
        site.tables.cpu.set(number as u32 % cpus);
        u64::from(site.reason(datagram(1, 0)) == Reason::Forwarded)
    });
    sent.sum()
}

#[test]
fn a_rate_is_kept_within_5_percent_on_any_number_of_cpus() {
    for cpus in [1, 2, 7, 64] {
        for per_s in [200, 5_000, 40_000] {
            let site = site(Mode::L2, Tracking::Never);
            site.limit(Rate::Packets, per_s, 20);
            pour(&site, cpus, per_s * 2, SECOND_NS / 10);
            let passed = pour(&site, cpus, per_s * 2, SECOND_NS);
            let share = passed as f64 / per_s as f64;
            assert!((0.95..=1.05).contains(&share), "{per_s} a second on {cpus} CPUs: {share}");
        }
    }
}

#[test]
fn a_rate_that_is_not_used_up_drops_nothing() {
    for cpus in [1, 2, 16] {
        let site = site(Mode::L2, Tracking::Never);
        site.limit(Rate::Packets, 10_000, 50);
        pour(&site, cpus, 9_500, SECOND_NS);
        assert!(site.counts().refused().all(|(_, count)| count.packets == 0), "{cpus} CPUs");
    }
}

#[test]
fn a_burst_passes_at_once_and_is_earned_again() {
    let site = site(Mode::L2, Tracking::Never);
    site.limit(Rate::Packets, 10_000, 50);
    let at_once = || {
        let sent = (0..2_000_u32).map(|number| {
            site.tables.cpu.set(number % 2);
            u64::from(site.reason(datagram(1, 0)) == Reason::Forwarded)
        });
        sent.sum::<u64>()
    };
    let slice = 10_000 * TENANT_SLICE_NS / SECOND_NS;
    let near = |count: u64, wanted: u64| count.abs_diff(wanted) <= 2 * slice + 2;
    assert_eq!(at_once(), 500);
    assert_eq!(at_once(), 0);
    site.later(SECOND_NS / 100);
    let after_10_ms = at_once();
    assert!(near(after_10_ms, 100), "{after_10_ms}");
    site.later(3_600 * SECOND_NS);
    let after_an_hour = at_once();
    assert!(near(after_an_hour, 500), "{after_an_hour}");
}

#[test]
fn bits_are_those_of_the_frame_and_a_slow_bucket_lets_a_large_packet_through_in_time() {
    let site = site(Mode::L2, Tracking::Never);
    // A frame of 1,000 bytes: Ethernet, IPv4, UDP and data.
    let large = || site.reason(datagram(1, 1_000 - 14 - 20 - 8));
    site.limit(Rate::Bits, 8_000, 1);
    assert_eq!(large(), Reason::Forwarded, "a second's worth, and the bucket was full for longer");
    site.later(SECOND_NS - 1);
    assert_eq!(large(), Reason::TenantBitRate);
    site.later(1);
    assert_eq!(large(), Reason::Forwarded);
    assert_eq!(site.counts().passed().bytes, 2_000);
    assert_eq!(site.refused(Reason::TenantBitRate).bytes, 1_000);
}

#[test]
fn a_limit_that_becomes_smaller_counts_at_once() {
    let site = site(Mode::L2, Tracking::Never);
    site.limit(Rate::Packets, 1_000_000, 1);
    assert_eq!(site.reason(datagram(1, 0)), Reason::Forwarded);
    site.limit(Rate::Packets, 10, 1);
    // What the CPU has left of its slice is worth a slice of the new rate, which is no packet.
    assert_eq!(site.reason(datagram(1, 0)), Reason::TenantPacketRate);
    site.limit(Rate::Packets, 0, 1);
    assert_eq!(site.reason(datagram(1, 0)), Reason::Forwarded);
}

#[test]
fn a_packet_that_other_cpus_outrun_passes() {
    let site = site(Mode::L2, Tracking::Never);
    // A slice is two packets, the burst twenty.
    site.limit(Rate::Packets, 20_000, 1);
    site.tables.failing_swaps.set(3);
    assert_eq!(site.reason(datagram(1, 0)), Reason::Forwarded);
    assert_eq!(site.tables.failing_swaps.get(), 0);
    // It took nothing that nobody is charged for.
    let passed = (0..100).filter(|_| site.reason(datagram(1, 0)) == Reason::Forwarded);
    assert_eq!(passed.count(), 20);
}

#[test]
fn new_connections_are_syns_and_udp_flows_that_are_remembered() {
    let site = site(Mode::L2, Tracking::Always);
    site.limit(Rate::Connections, 10, 200);
    assert_eq!(site.reason(flow(1, "S")), Reason::Forwarded);
    assert_eq!(site.reason(datagram(1, 0)), Reason::Forwarded);
    assert_eq!(site.reason(flow(2, "S")), Reason::TenantConnectionRate);
    assert_eq!(site.reason(datagram(2, 0)), Reason::TenantConnectionRate);
    for _ in 0..5 {
        assert_eq!(site.reason(flow(1, "A")), Reason::Forwarded, "not new");
        assert_eq!(site.reason(flow(9, "A")), Reason::Forwarded, "older than its entry");
        assert_eq!(site.reason(datagram(1, 0)), Reason::Forwarded, "remembered");
    }
    assert_eq!((site.counts().begun(), site.refused(Reason::TenantConnectionRate).packets), (2, 2));
}

#[test]
fn at_the_cap_new_connections_are_refused_and_older_ones_go_on() {
    let site = site(Mode::L2, Tracking::Always);
    site.cap(3, 0);
    for client in 1..=3 {
        assert_eq!(site.reason(flow(client, "S")), Reason::Forwarded);
    }
    assert_eq!(site.reason(flow(4, "S")), Reason::TenantConnections);
    assert_eq!(site.reason(datagram(4, 0)), Reason::TenantConnections);
    assert_eq!(site.reason(flow(5, "A")), Reason::Forwarded, "forwarded by its slot, without an entry");
    assert_eq!(site.reason(flow(1, "A")), Reason::Forwarded);
    assert_eq!(site.held(), (3, 0));
    site.cap(4, 0);
    assert_eq!(site.reason(flow(4, "S")), Reason::Forwarded);
    assert_eq!(site.held(), site.counted());
}

#[test]
fn a_flow_of_before_the_change_is_not_refused_at_the_cap() {
    let site = site(Mode::L2, Tracking::Auto);
    site.slots(Slot::moving(2, 1, (site.tables.now_ns.get() / SECOND_NS) as u32 + 60));
    site.cap(1, 0);
    assert_eq!(site.reason(flow(1, "S")), Reason::Forwarded);
    assert_eq!(site.reason(flow(2, "S")), Reason::TenantConnections);
    assert_eq!(site.reason(flow(3, "A")), Reason::Forwarded);
    assert_eq!(site.reason(datagram(3, 0)), Reason::Forwarded, "it may have begun before the slot moved");
}

#[test]
fn nat_ports_have_a_cap_of_their_own() {
    let site = site(Mode::Nat, Tracking::Always);
    site.cap(0, 2);
    assert_eq!(site.reason(flow(1, "S")), Reason::Forwarded);
    assert_eq!(site.reason(datagram(1, 0)), Reason::Forwarded);
    assert_eq!(site.reason(flow(2, "S")), Reason::TenantNatPorts);
    assert_eq!(site.reason(flow(1, "A")), Reason::Forwarded);
    assert_eq!(site.held().1, 2);
    assert_eq!(site.refused(Reason::TenantNatPorts).packets, 1);
}

#[test]
fn a_tenant_without_a_row_or_whose_row_is_beyond_the_table_has_no_limits() {
    for row in [0, 16, 511] {
        let site = site(Mode::L2, Tracking::Always);
        site.limit(Rate::Packets, 1, 1);
        site.cap(1, 1);
        for vip in &site.tables.vips[1..3] {
            vip.policy.store(Policy(vip.policy.load()).with_tenant(row).0);
        }
        for client in 1..20 {
            assert_eq!(site.reason(flow(client, "S")), Reason::Forwarded);
        }
        assert_eq!(site.counts(), TenantCounts::default());
    }
}

#[test]
fn a_packet_that_is_refused_changes_nothing() {
    let site = site(Mode::L2, Tracking::Always);
    site.limit(Rate::Packets, 1, 1);
    site.send_packet(&site.packet(tcp("S", 1, 0)));
    let out = site.send_packet(&site.packet(flow(2, "S")));
    assert_eq!(out.verdict, Verdict::Drop(Reason::TenantPacketRate));
    assert_eq!((site.held(), site.counted()), ((1, 0), (1, 0)));
    assert_eq!(site.tables.packets(Reason::TenantPacketRate), 1);
}

/// A bucket as a textbook has it: one, without CPUs, filled to the nanosecond.
struct Reference {
    /// Billionths of a unit.
    tokens: u128,
    per_s: u128,
    full: u128,
}

impl Reference {
    fn pass(&mut self, ns: u64) {
        self.tokens = (self.tokens + u128::from(ns) * self.per_s).min(self.full);
    }
    fn take(&mut self, units: u128) -> bool {
        let cost = units * u128::from(SECOND_NS);
        let allowed = self.tokens >= cost;
        self.tokens -= if allowed { cost } else { 0 };
        allowed
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever comes when and where: what passed so far is never further from what the reference let pass than what CPUs
    /// may hold.
    #[test]
    fn buckets_follow_a_reference_over_any_times_and_cpus(
        per_s in 50_u64..200_000,
        burst_ms in 20_u64..300,
        cpus in 1_u32..9,
        steps in proptest::collection::vec((0_u64..2_000_000, 0_u32..9, 1_u16..40), 1..300),
    ) {
        let site = site(Mode::L2, Tracking::Never);
        site.limit(Rate::Packets, per_s, burst_ms);
        // A burst that is less than a packet's time lets one through all the same.
        let full = u128::from((burst_ms * 1_000_000 * per_s).max(SECOND_NS));
        let mut reference = Reference { tokens: full, per_s: per_s.into(), full };
        let (mut ours, mut theirs) = (0_u64, 0_u64);
        let slice = TENANT_SLICE_NS * per_s / SECOND_NS + 1;
        let tolerance = u64::from(cpus) * slice + 2;
        for (pause_ns, cpu, packets) in steps {
            site.later(pause_ns);
            reference.pass(pause_ns);
            site.tables.cpu.set(cpu % cpus);
            for _ in 0..packets {
                ours += u64::from(site.reason(datagram(1, 0)) == Reason::Forwarded);
                theirs += u64::from(reference.take(1));
            }
            prop_assert!(ours.abs_diff(theirs) <= tolerance, "{ours} passed, {theirs} in the reference");
        }
    }

    /// Whatever happens to entries and NAT rows, each is counted once while it is there; a source address's entry, which is
    /// no connection, never.
    #[test]
    fn counts_are_what_the_tables_hold(
        nat in any::<bool>(),
        affinity in any::<bool>(),
        moving in any::<bool>(),
        caps in (0_u32..40, 0_u32..40),
        steps in proptest::collection::vec((1_u16..60, 0_usize..6, 0_u64..15, 0_u32..3, any::<bool>()), 1..250),
    ) {
        let (mode, tracking) = if nat { (Mode::Nat, Tracking::Always) } else { (Mode::L2, Tracking::Always) };
        let mut site = site(mode, tracking);
        // Few buckets, so that they fill.
        site.tables.flows.truncate(4);
        site.cap(caps.0, caps.1);
        for row in site.tables.vips[1..3].iter().filter(|_| affinity) {
            let times = Timeouts { affinity_s: 60, ..Timeouts::default() };
            row.policy.store(Policy(row.policy.load()).with_pick(Pick::Affinity).with_timeouts(times).0);
        }
        for (client, kind, seconds, failing, alive) in steps {
            if kind == 5 {
                site.later(seconds * 10 * SECOND_NS);
                let flags = if alive { 3 } else { 0 };
                site.tables.backends[1].control.store(site.tables.backends[1].control.load() & !3 | flags);
                if moving {
                    let now_s = (site.tables.now_ns.get() / SECOND_NS) as u32;
                    site.slots(Slot::moving(2, 1, now_s + 60));
                }
            }
            site.tables.failing_swaps.set(failing);
            let content = if client % 4 == 0 { datagram(client, 0) } else { flow(client, ["S", "A", "F", "R", "S", "A"][kind]) };
            let before = site.counted();
            let src = format!("198.51.100.{}", 1 + client % 13).parse().unwrap();
            site.send_packet(&Packet { src, ..site.packet(content) });
            prop_assert_eq!(site.held(), site.counted());
            let grown = |cap: u32, was: u64, is: u64| is > was && cap != 0 && is > u64::from(cap);
            let after = site.counted();
            prop_assert!(!grown(caps.0, before.0, after.0) && !grown(caps.1, before.1, after.1), "{before:?} {after:?}");
        }
    }
}

/// So that a bucket's word is what is documented.
#[test]
fn handed_time_never_passes_the_clock_nor_lags_more_than_the_burst() {
    let site = site(Mode::L2, Tracking::Never);
    site.limit(Rate::Packets, 5_000, 30);
    let mut seen: Vec<u64> = Vec::new();
    for number in 0..4_000_u64 {
        site.later(number * 37 % 900_000);
        site.tables.cpu.set(number as u32 % 3);
        site.reason(datagram(1, 0));
        let handed = site.tables.tenants[TENANT as usize].handed_ns[0].load();
        assert!(handed <= site.tables.now_ns.get());
        seen.push(handed);
    }
    assert!(seen.is_sorted());
}
