//! Each algorithm against its law, through the real program: frames of many clients are run in the kernel over tables
//! that the control plane's own builders made, and the backend is read from where the frame goes. The host's path runs
//! the same frames, so that its tables can be aged and looked into, and must agree.

use lb_common::abi::backend::{Control, Mode, NextHop};
use lb_common::abi::egress::{EgressRow, Tags};
use lb_common::abi::flow::Trace;
use lb_common::abi::slot::Slot;
use lb_common::abi::vip::{Policy, Timeouts, Tracking, VipEntry, VipKey, VipRow, extent_word};
use lb_common::addr::{Addr, Mac};
use lb_common::be::Be16;
use lb_common::datapath::connection::MovedOnly;
use lb_common::datapath::host::{HostFrame, HostTables};
use lb_common::datapath::pipeline::{self, Walk};
use lb_common::hash::HashKey;
use lb_control::balancing::{Algorithm, Contender};
use lb_tests::differential::kernel::{self, Kernel};
use lb_tests::differential::packets::{Ip, Link, TCP, frame, tcp};
use lb_tests::differential::script::Program;
use lb_tests::differential::world::{INGRESS, World, v4};
use lb_tests::skip;

const SLOTS: u32 = 1_009;
const WEIGHTS: [u16; 4] = [100, 100, 50, 250];
const LIGHTEST: usize = 2;
const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Row of the first backend.
const FIRST: u16 = 1;

struct Rig {
    world: World,
    kernel: Kernel,
    walk: Walk,
}

/// A client: its number and its port.
type Client = (u16, u16);

impl Rig {
    /// `None`, and said, where the program cannot be loaded.
    fn of(algorithm: Algorithm) -> Option<Self> {
        if !kernel::object_path().is_file() {
            skip::report_skip("algorithms", "no BPF object: run `cargo xtask build`");
            return None;
        }
        let world = World {
            tables: tables(algorithm, &[0, 1, 2, 3]),
            vips: Vec::new(),
            sources: [v4(192, 0, 2, 1); 2],
            peers: Vec::new(),
            crowded: 0,
        };
        let kernel = Kernel::load(&world).unwrap_or_else(|error| panic!("{error:?}"));
        Some(Self { world, kernel, walk: Walk::default() })
    }

    /// The backend that a segment goes to.
    fn send(&mut self, (client, port): Client, flags: u8, sequence: u32) -> usize {
        let [high, low] = client.to_be_bytes();
        let ip = Ip::new(v4(198, 18, high, low), v4(203, 0, 113, 10));
        let link = Link { dst: [2, 0, 0, 0, 0, 1], src: [2, 0, 0, 0, 9, 9], tags: Vec::new() };
        let bytes = frame(&link, &ip, TCP, &tcp((port, 80), sequence, flags, 0, 0, 0)).bytes;
        let mut on_host = HostFrame::new(&bytes);
        pipeline::run::<_, _, MovedOnly>(&mut on_host, &self.world.tables, &mut self.walk);
        let found = self.kernel.run(Program::Balance, &bytes, 0).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(found.bytes, on_host.bytes(), "host and kernel differ");
        usize::from(found.bytes[5])
    }
    fn connect(&mut self, client: Client) -> usize {
        let backend = self.send(client, SYN, 1);
        assert_eq!(self.send(client, ACK, 2), backend);
        backend
    }
    /// New connections of so many clients, by backend.
    fn counts(&mut self, clients: u16) -> [u32; 4] {
        let mut counts = [0; 4];
        (0..clients).for_each(|client| counts[self.send((client, 40_000), SYN, 1)] += 1);
        counts
    }
    /// The clock stands: all that is remembered becomes older instead.
    fn pass(&mut self, seconds: u32) {
        self.kernel.compare(&self.world.tables, true).unwrap_or_else(|error| panic!("{error:?}"));
        for trace in self.world.tables.flows.iter().flat_map(|bucket| &bucket.traces) {
            let old = Trace(trace.load());
            trace.store(Trace::new(old.seen_s().wrapping_sub(seconds), old.isn()).0);
        }
        self.push();
    }
    /// Gives the table to these backends alone.
    fn pool(&mut self, algorithm: Algorithm, pool: &[u16]) {
        give_slots(&self.world.tables, algorithm, pool);
        self.push();
    }
    fn push(&mut self) {
        self.kernel.push(&self.world.tables).unwrap_or_else(|error| panic!("{error:?}"));
    }
    fn connections(&mut self) -> [u64; 4] {
        self.kernel.compare(&self.world.tables, true).unwrap_or_else(|error| panic!("{error:?}"));
        std::array::from_fn(|at| self.world.tables.backends[usize::from(FIRST) + at].connections.load())
    }
}

fn tables(algorithm: Algorithm, pool: &[u16]) -> HostTables {
    let mut tables = HostTables::new(HashKey([5, 6]), SLOTS as usize, 8_192);
    tables.ingress.set(INGRESS);
    tables.egresses[1].source_mac.store(Mac::from_octets([2, 0, 0, 0, 0, 2]).0);
    tables.egresses[1].device.store(EgressRow::device_word(7, 1500));
    tables.egresses[1].tags.store(Tags::NONE.0);
    let vip: Addr = v4(203, 0, 113, 10);
    let key = VipKey::new(vip, Be16::new(80), TCP);
    tables.insert_key(&key, VipEntry(1));
    tables.insert_key(&VipKey::mark(vip), VipEntry(VipEntry::ADDRESS));
    let row = &tables.vips[1];
    row.addr.iter().zip(vip.words()).for_each(|(word, value)| word.store(value));
    row.key.store(VipRow::key_word(key.port, TCP));
    row.table.store(extent_word(0, SLOTS));
    let tracking = if algorithm.picks() { Tracking::Always } else { Tracking::Auto };
    let times = Timeouts { affinity_s: 60, ..Timeouts::default() };
    let policy = Policy::new(tracking, false, false, 900).with_pick(algorithm.pick()).with_timeouts(times);
    row.policy.store(policy.0);
    for (at, weight) in (0_u8..).zip(WEIGHTS) {
        let row = &tables.backends[usize::from(FIRST) + usize::from(at)];
        let control = Control::new(3, Mode::L2, 0, 1, Be16::new(0));
        row.control.store(control.with_weight(if algorithm.weighs() { weight } else { 0 }).0);
        row.next_hop.store(NextHop::new(Mac::from_octets([2, 0, 0, 0, 7, at]), 1).0);
        row.addr.iter().zip(v4(10, 0, 0, at).words()).for_each(|(word, value)| word.store(value));
    }
    give_slots(&tables, algorithm, pool);
    tables
}

fn give_slots(tables: &HostTables, algorithm: Algorithm, pool: &[u16]) {
    let contender = |&at: &u16| Contender {
        identity: [at as u8; 18],
        weight: algorithm.weight(WEIGHTS[usize::from(at)]),
    };
    let contenders: Vec<_> = pool.iter().map(contender).collect();
    let table = algorithm.builder().build(SLOTS, &contenders);
    for (word, one) in tables.slots.iter().zip(table) {
        word.store(Slot::stable(FIRST + pool[usize::from(one) - 1]).0);
    }
}

/// How many slots each backend has.
fn slots(rig: &Rig) -> [f64; 4] {
    let mut counts = [0.0; 4];
    for word in &rig.world.tables.slots {
        counts[usize::from(Slot(word.load()).current() - FIRST)] += 1.0;
    }
    counts
}

/// Chi-square of counts against shares, for three degrees of freedom: above 27.9 once in 250,000 (Abramowitz and
/// Stegun, 26.8).
fn assert_law(what: &str, counts: [u32; 4], shares: [f64; 4]) {
    let (drawn, total) = (f64::from(counts.iter().sum::<u32>()), shares.iter().sum::<f64>());
    let term = |(count, share): (u32, f64)| {
        let expected = drawn * share / total;
        (f64::from(count) - expected).powi(2) / expected
    };
    let chi: f64 = counts.into_iter().zip(shares).map(term).sum();
    println!("{what}: {counts:?} for {shares:?}, chi-square {chi:.1}");
    assert!(chi < 27.9, "{what}: {counts:?} for {shares:?}");
}

#[test]
fn hashes_share_as_the_slots_do_and_the_slots_as_the_weights() {
    lb_tests::require_root!("hashes_share_as_the_slots_do_and_the_slots_as_the_weights");
    for algorithm in [Algorithm::Matching, Algorithm::Maglev, Algorithm::SourceHash] {
        let Some(mut rig) = Rig::of(algorithm) else { return };
        let slots = slots(&rig);
        for (slots, weight) in slots.into_iter().zip(WEIGHTS) {
            let share = f64::from(SLOTS) * f64::from(weight) / 500.0;
            assert!(slots <= (share * 1.03).ceil() && slots > share * 0.8, "{slots} slots for {share}");
        }
        assert_law(algorithm.name(), rig.counts(20_000), slots);
    }
}

#[test]
fn turns_are_exact() {
    lb_tests::require_root!("turns_are_exact");
    let Some(mut rig) = Rig::of(Algorithm::RoundRobin) else { return };
    assert_eq!(rig.counts(1_000), [250; 4]);
    let Some(mut rig) = Rig::of(Algorithm::WeightedRoundRobin) else { return };
    let counts = rig.counts(1_000);
    println!("weighted_round_robin: {counts:?} for {WEIGHTS:?}");
    for (count, weight) in counts.into_iter().zip(WEIGHTS) {
        assert!(count.abs_diff(u32::from(weight) * 2) <= 1, "{counts:?}");
    }
}

#[test]
fn affinity_lasts_for_its_time() {
    lb_tests::require_root!("affinity_lasts_for_its_time");
    let algorithm = Algorithm::SourceAffinity;
    let Some(mut rig) = Rig::of(algorithm) else { return };
    let clients = 0..300;
    let before: Vec<usize> = clients.clone().map(|client| rig.connect((client, 1))).collect();
    rig.pool(algorithm, &[0, 3]);
    let led: Vec<usize> = clients.clone().map(|client| rig.send((client + 1_000, 1), SYN, 1)).collect();
    assert!(led.iter().all(|backend| [0, 3].contains(backend)), "a client of whom nothing is known");
    rig.pass(59);
    let moved: Vec<_> = (clients.clone().zip(&before))
        .filter_map(|(client, backend)| {
            let now = rig.connect((client, 2));
            (now != *backend).then_some((client, *backend, now))
        })
        .collect();
    // A source address has one place to be remembered in, which a live connection of another may hold.
    assert!(moved.len() <= 300 / 50, "{moved:?}");
    rig.pass(60);
    let kept =
        clients.zip(&before).filter(|(client, backend)| rig.connect((*client, 3)) == **backend).count();
    let led_the_same = before.iter().filter(|backend| [0, 3].contains(*backend)).count();
    assert!(kept <= led_the_same, "{kept} of 300 kept their backend");
}

#[test]
fn fewest_connections_even_out_what_lasts_unevenly() {
    lb_tests::require_root!("fewest_connections_even_out_what_lasts_unevenly");
    let live = |algorithm| -> Option<([u32; 4], [u64; 4])> {
        let mut rig = Rig::of(algorithm)?;
        let (mut live, mut ends) = ([0_u32; 4], Vec::new());
        for client in 0..4_000 {
            let backend = rig.connect((client, 1));
            live[backend] += 1;
            // What the lightest backend gets lasts for ever, what the others get for 200 more connections.
            if backend != LIGHTEST {
                ends.push((client, backend));
            }
            while ends.first().is_some_and(|(begun, _)| begun + 200 <= client) {
                let (client, backend) = ends.remove(0);
                assert_eq!(rig.send((client, 1), FIN | ACK, 2), backend);
                live[backend] -= 1;
            }
        }
        Some((live, rig.connections()))
    };
    let (Some((by_hash, _)), Some((by_load, counted))) =
        (live(Algorithm::Matching), live(Algorithm::LeastConnections))
    else {
        return;
    };
    println!("live connections, weights {WEIGHTS:?}: by hash {by_hash:?}, by load {by_load:?}");
    assert_eq!(counted.map(|count| count as u32), by_load, "each is counted once");
    let share = |live: [u32; 4]| f64::from(live[LIGHTEST]) / f64::from(live.iter().sum::<u32>());
    assert!(share(by_hash) > 0.6, "by hash it drowns");
    assert!(share(by_load) < 0.35, "by load others take its place");
}
