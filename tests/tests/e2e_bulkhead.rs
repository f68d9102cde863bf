//! A tenant's limits in a network: rates on both CPUs, bursts, limits that change under traffic, connections, and the
//! packets of the tenant beside it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, PerCpuArray};
use lb_common::abi::tenant::{ARRIVED, COUNTS_PER_TENANT};
use lb_control::vip::Mode;
use lb_tests::require_root;
use lb_tests::site::{Family, Served, Site};
use lb_tests::topology::{BackendSetup, ECHO_PORT, Layout, Topology};
use lb_tests::traffic::{ConnectionPool, Flood, UdpLoad};
use lb_tests::wait::wait_until;
use lb_userspace::api::views::{ListView, TenantUsageView, TenantView};

const SECOND: Duration = Duration::from_secs(1);
/// Port of the vip of the other tenant.
const OTHER_PORT: u16 = 7_777;

/// A site whose vips are of tenant `default`, and the address of a UDP vip of tenant `blue` at the same backends.
fn site() -> (Site, SocketAddr) {
    let topology = Topology::builder().layout(Layout::Switched).setup(BackendSetup::Plain);
    let kinds = [Served::Udp, Served::Echo];
    let site = Site::builder(topology, Mode::Nat).families(&[Family::V4]).kinds(&kinds).start().unwrap();
    let other = SocketAddr::new(site.vip(Served::Udp, Family::V4).ip(), OTHER_PORT);
    // Limits that it does not come near: so that it is counted.
    site.lb.lb("tenant add blue --packets-per-s 1000000 --connections 100000").unwrap();
    site.lb
        .lb(&format!(
            "vip add other {other}/udp --tenant blue --mode nat --probe tcp --probe-port {ECHO_PORT}"
        ))
        .unwrap();
    for backend in site.net.backends() {
        let address = SocketAddr::new(site.address(backend, Family::V4), ECHO_PORT);
        site.lb.lb(&format!("backend add other/{} {address}", backend.name())).unwrap();
    }
    site.wait_serving().unwrap();
    (site, other)
}

/// The first two CPUs, where there are as many.
fn cpus() -> Vec<usize> {
    (0..std::thread::available_parallelism().unwrap().get().min(2)).collect()
}

fn usage(site: &Site, tenant: &str) -> TenantUsageView {
    let list: ListView<TenantView> = site.lb.view("/v1/views/tenants").unwrap();
    let found = list.items.into_iter().find(|one| one.name == tenant).unwrap();
    found.usage.unwrap_or_else(|| panic!("tenant {tenant} has no row"))
}

fn dropped(usage: &TenantUsageView, reason: &str) -> u64 {
    usage.drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.traffic.packets).sum()
}

/// What came for the tenants on each CPU.
fn arrived_by_cpu(site: &Site) -> Vec<u64> {
    let map = MapData::from_pin(site.lb.pin_dir().join("LB_TENANT_CNTS")).unwrap();
    let map: PerCpuArray<_, [u64; 2]> = Map::PerCpuArray(map).try_into().unwrap();
    let rows = (0..map.len() / COUNTS_PER_TENANT).map(|row| row * COUNTS_PER_TENANT + ARRIVED);
    let each = rows.map(|index| map.get(&index, 0).unwrap().iter().map(|count| count[0]).collect::<Vec<_>>());
    each.reduce(|sum, one| sum.iter().zip(one).map(|(sum, one)| sum + one).collect()).unwrap()
}

/// What passed in a stretch of `seconds` under a flood, by the counters, packets a second.
fn passed_per_s(site: &Site, seconds: u64) -> f64 {
    let (before, begun) = (usage(site, "default").passed, Instant::now());
    std::thread::sleep(SECOND * seconds as u32);
    let (after, time) = (usage(site, "default").passed, begun.elapsed());
    (after.packets - before.packets) as f64 / time.as_secs_f64()
}

#[test]
fn a_rate_is_kept_on_both_cpus_and_changes_live_and_the_other_tenant_loses_nothing() {
    require_root!(
        "e2e_bulkhead::a_rate_is_kept_on_both_cpus_and_changes_live_and_the_other_tenant_loses_nothing",
        "nginx",
        "chrt"
    );
    let (site, other) = site();
    // A burst longer than the senders are ever held up: what they could have sent meanwhile is not lost.
    site.lb.lb("tenant set default --packets-per-s 4000 --burst-ms 500").unwrap();
    let cpus = cpus();
    let beside = UdpLoad::new(other).flows(8).pause(SECOND / 50).start(site.client()).unwrap();
    let flood = Flood::new(site.vip(Served::Udp, Family::V4)).cpus(&cpus).start(site.client()).unwrap();
    wait_until("the limit to be met", 30 * SECOND, || {
        dropped(&usage(&site, "default"), "tenant_packet_rate") > 1_000
    })
    .unwrap();
    let before = arrived_by_cpu(&site);
    for rate in [4_000.0, 9_000.0, 2_000.0] {
        site.lb.lb(&format!("tenant set default --packets-per-s {rate}")).unwrap();
        let passed = passed_per_s(&site, 3);
        println!("{passed:.0} packets/s passed of {rate}");
        assert!((0.95..=1.05).contains(&(passed / rate)), "{passed} of {rate}");
    }
    let by_cpu: Vec<u64> = arrived_by_cpu(&site).iter().zip(before).map(|(now, was)| now - was).collect();
    println!("arrived by CPU: {by_cpu:?}");
    let all: u64 = by_cpu.iter().sum();
    assert!(cpus.iter().all(|cpu| by_cpu[*cpu] > all / 20), "one CPU had all of it: {by_cpu:?}");
    let sent = flood.finish().unwrap();
    let udp = beside.finish().unwrap();
    let blue = usage(&site, "blue");
    println!("flood {sent} datagrams; beside it {} sent, {} answered", udp.sent, udp.answered);
    assert!(blue.drops.is_empty(), "{:?}", blue.drops);
    // What was lost before the node, in the queues that both share, did not pass it.
    assert!(blue.passed.packets >= udp.answered && udp.answered > 100, "{} {udp:?}", blue.passed.packets);
    let reasons = site.reasons().unwrap();
    assert!(reasons["tenant_packet_rate"] > 1_000, "{reasons:?}");
}

#[test]
fn a_burst_passes_at_once_and_bits_are_limited_as_packets_are() {
    require_root!(
        "e2e_bulkhead::a_burst_passes_at_once_and_bits_are_limited_as_packets_are",
        "nginx",
        "chrt"
    );
    let (site, _) = site();
    site.lb.lb("tenant set default --packets-per-s 1000 --burst-ms 300").unwrap();
    // Until the bucket is full: time is what fills it.
    std::thread::sleep(SECOND / 2);
    let (before, begun) = (usage(&site, "default").passed.packets, Instant::now());
    let flood = Flood::new(site.vip(Served::Udp, Family::V4)).start(site.client()).unwrap();
    wait_until("a flood", 30 * SECOND, || flood.sent() > 5_000).unwrap();
    flood.finish().unwrap();
    let time_s = begun.elapsed().as_secs_f64();
    let passed = (usage(&site, "default").passed.packets - before) as f64;
    println!("{passed} packets passed within {time_s:.3} s");
    assert!(passed >= 300.0 && passed <= 300.0 + 1_000.0 * time_s + 20.0, "{passed} within {time_s} s");
    // 1 Mbit/s: payload, UDP, IPv4 and Ethernet headers.
    site.lb.lb("tenant set default --packets-per-s unlimited --bits-per-s 1000000 --burst-ms 50").unwrap();
    let flood = Flood::new(site.vip(Served::Udp, Family::V4)).cpus(&cpus()).payload_bytes(958);
    let flood = flood.start(site.client()).unwrap();
    wait_until("the limit to be met", 30 * SECOND, || {
        dropped(&usage(&site, "default"), "tenant_bit_rate") > 500
    })
    .unwrap();
    let (before, begun) = (usage(&site, "default").passed, Instant::now());
    std::thread::sleep(3 * SECOND);
    let (after, time) = (usage(&site, "default").passed, begun.elapsed());
    flood.finish().unwrap();
    let bits_per_s = (after.bytes - before.bytes) as f64 * 8.0 / time.as_secs_f64();
    println!("{bits_per_s:.0} bits/s passed of 1000000");
    assert!((0.95..=1.05).contains(&(bits_per_s / 1e6)), "{bits_per_s}");
}

#[test]
fn a_cap_refuses_new_connections_and_keeps_those_that_there_are() {
    require_root!(
        "e2e_bulkhead::a_cap_refuses_new_connections_and_keeps_those_that_there_are",
        "nginx",
        "chrt"
    );
    let (site, _) = site();
    let echo = site.vip(Served::Echo, Family::V4);
    let pool = ConnectionPool::new(echo, 60).open(site.client()).unwrap();
    pool.wait_round(10 * SECOND).unwrap();
    // Below what there is: none of them ends, and none comes to them. Probes do not go by the vip.
    site.lb.lb("tenant set default --connections 40").unwrap();
    wait_until("the sweep to have counted what there was", 15 * SECOND, || {
        usage(&site, "default").connections >= 60
    })
    .unwrap();
    let refused = ConnectionPool::new(echo, 1).timeout(SECOND).open(site.client());
    assert!(refused.is_err() || refused.unwrap().finish().unwrap().live == 0);
    assert!(dropped(&usage(&site, "default"), "tenant_connections") > 0);
    pool.wait_round(10 * SECOND).unwrap();
    site.lb.lb("tenant set default --connections 1000 --new-connections-per-s 50").unwrap();
    let more = ConnectionPool::new(echo, 20).open(site.client()).unwrap();
    more.wait_round(10 * SECOND).unwrap();
    site.lb.lb("tenant set default --connections unlimited --new-connections-per-s unlimited").unwrap();
    for pool in [pool, more] {
        pool.wait_round(10 * SECOND).unwrap();
        let report = pool.finish().unwrap();
        assert_eq!(report.broken, 0, "{:?}", report.failures);
    }
}
