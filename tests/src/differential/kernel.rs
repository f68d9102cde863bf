//! The kernel's side: the object loaded with maps of its own, given the host's tables, run on single frames.
//!
//! Nothing is pinned and nothing attached: all is gone with the process. Arrays are mirrored as plain words, so that a
//! change is pushed row by row and whatever the program wrote is compared row by row.

use super::script::Program;
use super::world::{EGRESSES, INGRESS, World};
use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, DevMap, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::counter::{Counter, Meter};
use lb_common::abi::signal::SIGNALS_PER_BACKEND;
use lb_common::abi::{self, MapSpec, word::Word};
use lb_common::datapath::host::HostTables;
use std::path::PathBuf;

/// Largest frame that comes back.
const ROOM: usize = 16_384;
/// Bytes of `struct xdp_md` that are passed for a frame with metadata.
const CONTEXT: usize = 24;

/// Where the object is built to.
#[must_use]
pub fn object_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/lb-ebpf.o")
}

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// XDP's action: 1 drop, 2 pass, 3 transmit, 4 redirect.
    pub action: u32,
    /// The frame as it left.
    pub bytes: Vec<u8>,
}

/// An array map as rows of words, and what was last known to be in it.
struct Mirror<const WORDS: usize> {
    name: &'static str,
    map: Array<MapData, [u64; WORDS]>,
    known: Vec<[u64; WORDS]>,
}

impl<const WORDS: usize> Mirror<WORDS> {
    fn new(ebpf: &mut Ebpf, spec: &MapSpec) -> Result<Self> {
        let map: Array<_, [u64; WORDS]> = take(ebpf, spec)?;
        let known = vec![[0; WORDS]; map.len() as usize];
        Ok(Self { name: spec.name, map, known })
    }
    /// Writes the rows that differ from what is known.
    fn push(&mut self, rows: impl Iterator<Item = [u64; WORDS]>) -> Result<()> {
        for (index, row) in rows.enumerate() {
            if self.known[index] != row {
                self.set(index, row)?;
            }
        }
        Ok(())
    }
    fn set(&mut self, index: usize, row: [u64; WORDS]) -> Result<()> {
        self.map.set(index as u32, row, 0).with_context(|| format!("write {}", self.name))?;
        self.known[index] = row;
        Ok(())
    }
    /// Compares rows, each with its index.
    fn compare(&mut self, rows: impl Iterator<Item = (usize, [u64; WORDS])>) -> Result<()> {
        for (index, row) in rows {
            let found = self.map.get(&(index as u32), 0).with_context(|| format!("read {}", self.name))?;
            let name = self.name;
            ensure!(found == row, "{name}[{index}]: kernel {found:x?}, host {row:x?}");
            self.known[index] = row;
        }
        Ok(())
    }
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, spec: &MapSpec) -> Result<M> {
    let map = ebpf.take_map(spec.name).with_context(|| format!("the object has no map {}", spec.name))?;
    M::try_from(map).with_context(|| spec.name)
}

fn words<const WORDS: usize>(of: [&[Word]; 4]) -> [u64; WORDS] {
    let mut row = [0; WORDS];
    row.iter_mut().zip(of.into_iter().flatten()).for_each(|(to, word)| *to = word.load());
    row
}

/// The loaded programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    config: Mirror<4>,
    vips: Mirror<8>,
    slots: Mirror<1>,
    backends: Mirror<8>,
    egresses: Mirror<4>,
    sources: Mirror<2>,
    flows: Mirror<8>,
    nat: Mirror<8>,
    tenants: Mirror<16>,
    tenant_credit: PerCpuArray<MapData, [u64; 4]>,
    tenant_counts: PerCpuArray<MapData, [u64; 2]>,
    signals: PerCpuArray<MapData, u64>,
    syn_marks: Mirror<1>,
    ports: HashMap<MapData, u32, u32>,
    meters: PerCpuArray<MapData, [u64; 2]>,
    reasons: PerCpuArray<MapData, [u64; 2]>,
    vip_counts: PerCpuArray<MapData, [u64; 2]>,
    backend_counts: PerCpuArray<MapData, [u64; 2]>,
    out: Vec<u8>,
}

impl Kernel {
    /// Loads the object and gives it the tables of the world.
    ///
    /// # Errors
    /// No object, no rights, or the kernel refuses it.
    pub fn load(world: &World) -> Result<Self> {
        let path = object_path();
        let object = std::fs::read(&path)
            .with_context(|| format!("read {}: `cargo xtask build` makes it", path.display()))?;
        let mut ebpf = load(&object, &world.tables)?;
        for name in ["balance", "decap"] {
            let program =
                ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
            <&mut Xdp>::try_from(program)?.load().with_context(|| format!("load {name}"))?;
        }
        hashes(&mut ebpf, world)?;
        let mut kernel = Self {
            config: Mirror::new(&mut ebpf, &abi::CONFIG)?,
            vips: Mirror::new(&mut ebpf, &abi::VIPS)?,
            slots: Mirror::new(&mut ebpf, &abi::SLOTS)?,
            backends: Mirror::new(&mut ebpf, &abi::BACKENDS)?,
            egresses: Mirror::new(&mut ebpf, &abi::EGRESS)?,
            sources: Mirror::new(&mut ebpf, &abi::SOURCES)?,
            flows: Mirror::new(&mut ebpf, &abi::FLOWS)?,
            nat: Mirror::new(&mut ebpf, &abi::NAT)?,
            tenants: Mirror::new(&mut ebpf, &abi::TENANTS)?,
            tenant_credit: take(&mut ebpf, &abi::TENANT_CREDIT)?,
            tenant_counts: take(&mut ebpf, &abi::TENANT_COUNTS)?,
            signals: take(&mut ebpf, &abi::SIGNALS)?,
            syn_marks: Mirror::new(&mut ebpf, &abi::SYN_MARKS)?,
            ports: take(&mut ebpf, &abi::PORTS)?,
            meters: take(&mut ebpf, &abi::ICMP_METER)?,
            reasons: take(&mut ebpf, &abi::REASON_COUNTS)?,
            vip_counts: take(&mut ebpf, &abi::VIP_COUNTS)?,
            backend_counts: take(&mut ebpf, &abi::BACKEND_COUNTS)?,
            out: vec![0; ROOM],
            ebpf,
        };
        kernel.push(&world.tables)?;
        Ok(kernel)
    }

    /// Gives the kernel what changed in the host's tables.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn push(&mut self, tables: &HostTables) -> Result<()> {
        self.config.push([&tables.config].into_iter().map(config_words))?;
        self.vips.push(tables.vips.iter().map(vip_words))?;
        self.slots.push(tables.slots.iter().map(|slot| [slot.load()]))?;
        self.backends.push(tables.backends.iter().map(backend_words))?;
        self.egresses.push(tables.egresses.iter().map(egress_words))?;
        self.sources.push(tables.sources.iter().map(|row| words([&row.addr, &[], &[], &[]])))?;
        self.flows.push(tables.flows.iter().map(flow_words))?;
        self.tenants.push(tables.tenants.iter().map(tenant_words))?;
        for (index, row) in changed(tables, &self.nat) {
            self.nat.set(index, row)?;
        }
        match tables.ports.get(&INGRESS) {
            Some(row) => self.ports.insert(INGRESS, u32::from(*row), 0)?,
            None if self.ports.get(&INGRESS, 0).is_ok() => self.ports.remove(&INGRESS)?,
            None => {}
        }
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
        for (index, meter) in (0..).zip(&tables.meters) {
            let Meter { refilled_ns, tokens } = meter.get();
            let values = PerCpuValues::try_from(vec![[refilled_ns, tokens]; cpus])?;
            self.meters.set(index, values, 0)?;
        }
        Ok(())
    }

    /// Compares every table that the program writes and every counter; of the NAT table only the rows whose control
    /// word the host changed, unless `all`.
    ///
    /// # Errors
    /// They differ, or cannot be read.
    pub fn compare(&mut self, tables: &HostTables, all: bool) -> Result<()> {
        self.flows.compare(tables.flows.iter().map(flow_words).enumerate())?;
        self.tenants.compare(tables.tenants.iter().map(tenant_words).enumerate())?;
        self.vips.compare(tables.vips.iter().map(vip_words).enumerate())?;
        self.backends.compare(tables.backends.iter().map(backend_words).enumerate())?;
        self.syn_marks.compare(tables.syn_marks.iter().map(|mark| [mark.load()]).enumerate())?;
        let changed = changed(tables, &self.nat);
        self.nat.compare(changed.into_iter())?;
        if all {
            self.nat.compare(tables.nat.iter().map(nat_words).enumerate())?;
            self.slots.compare(tables.slots.iter().map(|slot| [slot.load()]).enumerate())?;
        }
        let cpu = nix::sched::sched_getcpu()?;
        for (index, meter) in (0..).zip(&tables.meters) {
            let Meter { refilled_ns, tokens } = meter.get();
            let found = self.meters.get(&index, 0)?[cpu];
            ensure!(
                found == [refilled_ns, tokens],
                "meter {index}: kernel {found:?}, host {:?}",
                meter.get()
            );
        }
        for ((_, row), host) in tables.tenant_credit.borrow().iter() {
            let found = self.tenant_credit.get(row, 0)?[cpu];
            let host = [host.credit[0], host.credit[1], host.credit[2], host.unused];
            ensure!(found == host, "credit of tenant {row}: kernel {found:?}, host {host:?}");
        }
        let tenants = tables.tenant_counts.borrow();
        compare_counts("tenant", &self.tenant_counts, |index| tenants.get(index as usize).copied())?;
        for (index, host) in tables.signals.borrow().iter() {
            // A row beyond the map is counted by the host alone.
            if *index < self.signals.len() {
                let found: u64 = self.signals.get(index, 0)?.iter().sum();
                ensure!(found == *host, "signal {index}: kernel {found}, host {host}");
            }
        }
        let reasons = tables.reasons.borrow();
        compare_counts("reason", &self.reasons, |index| reasons.get(index as usize).copied())?;
        let (vips, backends) = (tables.vip_counts.borrow(), tables.backend_counts.borrow());
        compare_counts("vip", &self.vip_counts, |row| vips.get(&row).copied())?;
        compare_counts("backend", &self.backend_counts, |row| backends.get(&row).copied())
    }

    /// Runs a frame, with so many bytes of metadata before it: they take of the room that the program has there.
    ///
    /// # Errors
    /// The kernel refuses to run it.
    pub fn run(&mut self, program: Program, frame: &[u8], metadata: usize) -> Result<Outcome> {
        let name = if program == Program::Balance { "balance" } else { "decap" };
        let xdp: &Xdp = self.ebpf.program(name).context("program")?.try_into()?;
        let (input, context) = (with_metadata(frame, metadata), context(frame.len(), metadata));
        let data_in = if metadata == 0 { frame } else { &input };
        let ctx_in = (metadata != 0).then_some(&context[..]);
        let data_out = Some(&mut self.out[..]);
        let options = TestRunOptions { data_in: Some(data_in), data_out, ctx_in, ..TestRunOptions::new() };
        let done = xdp.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let bytes = self.out[metadata..done.data_size_out as usize].to_vec();
        Ok(Outcome { action: done.return_value, bytes })
    }
}

fn with_metadata(frame: &[u8], metadata: usize) -> Vec<u8> {
    if metadata == 0 { Vec::new() } else { [&vec![0; metadata], frame].concat() }
}

/// `struct xdp_md`: data, data_end, data_meta, and zeros.
fn context(frame: usize, metadata: usize) -> [u8; CONTEXT] {
    let mut context = [0; CONTEXT];
    context[..4].copy_from_slice(&(metadata as u32).to_ne_bytes());
    context[4..8].copy_from_slice(&((metadata + frame) as u32).to_ne_bytes());
    context
}

fn load(object: &[u8], tables: &HostTables) -> Result<Ebpf> {
    let entries = [
        (abi::VIPS, tables.vips.len()),
        (abi::VIP_COUNTS, tables.vips.len()),
        (abi::SLOTS, tables.slots.len()),
        (abi::BACKENDS, tables.backends.len()),
        (abi::BACKEND_COUNTS, tables.backends.len()),
        (abi::SIGNALS, tables.backends.len() * SIGNALS_PER_BACKEND as usize),
        (abi::FLOWS, tables.flows.len()),
        (abi::NAT, tables.nat.len()),
        (abi::TENANTS, tables.tenants.len()),
        (abi::TENANT_CREDIT, tables.tenants.len()),
        (abi::TENANT_COUNTS, tables.tenant_counts.borrow().len()),
    ];
    let (mask, rows, now_ns) = (tables.flows.len() as u32 - 1, tables.nat.len() as u32, tables.now_ns.get());
    let mut loader = EbpfLoader::new();
    for (spec, entries) in entries {
        loader.map_max_entries(spec.name, entries as u32);
    }
    loader
        .override_global("LB_HASH_KEY", &tables.key.0, true)
        .override_global("LB_FLOW_MASK", &mask, true)
        .override_global("LB_NAT_ROWS", &rows, true)
        .override_global("LB_FIXED_NOW_NS", &now_ns, true);
    loader.load(object).context("load the object")
}

/// Fills the maps that do not change.
fn hashes(ebpf: &mut Ebpf, world: &World) -> Result<()> {
    let mut keys: HashMap<_, [u8; 20], u32> = take(ebpf, &abi::VIP_KEYS)?;
    for (key, entry) in &world.tables.vip_keys {
        keys.insert(key, entry.0, 0)?;
    }
    let mut peers: HashMap<_, [u32; 4], u32> = take(ebpf, &abi::DECAP_PEERS)?;
    for peer in &world.tables.decap_peers {
        peers.insert(peer, 1, 0)?;
    }
    let mut vips: HashMap<_, [u32; 4], u32> = take(ebpf, &abi::DECAP_VIPS)?;
    for vip in &world.tables.decap_vips {
        vips.insert(vip, 1, 0)?;
    }
    // Nothing is sent: the helper only looks whether there is a device.
    let mut devices: DevMap<_> = take(ebpf, &abi::DEVICES)?;
    for row in 1..EGRESSES {
        devices.set(row.into(), INGRESS, None, 0)?;
    }
    Ok(())
}

fn compare_counts(
    of: &str,
    map: &PerCpuArray<MapData, [u64; 2]>,
    host: impl Fn(u32) -> Option<Counter>,
) -> Result<()> {
    for index in 0..map.len() {
        let values = map.get(&index, 0)?;
        let [packets, bytes] = values.iter().fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
        let host = host(index).unwrap_or_default();
        let found = Counter { packets, bytes };
        ensure!(found == host, "counter of {of} {index}: kernel {found:?}, host {host:?}");
    }
    Ok(())
}

/// The rows of the NAT table whose control words are not what is known: cheap to tell, and there are many rows.
fn changed(tables: &HostTables, known: &Mirror<8>) -> Vec<(usize, [u64; 8])> {
    let pairs = tables.nat.iter().zip(&known.known).enumerate();
    pairs
        .filter(|(_, (row, known))| row.control.load() != known[0])
        .map(|(index, (row, _))| (index, nat_words(row)))
        .collect()
}

fn config_words(row: &abi::config::ConfigRow) -> [u64; 4] {
    [row.bypass.load(), row.version.load(), row.hash_key[0].load(), row.hash_key[1].load()]
}

fn vip_words(row: &abi::vip::VipRow) -> [u64; 8] {
    let [first, second] = [&row.addr[0], &row.addr[1]].map(Word::load);
    let [key, table, policy, identity] = [&row.key, &row.table, &row.policy, &row.identity].map(Word::load);
    [first, second, key, table, policy, identity, row.turn.load(), row.unserved.load()]
}

fn backend_words(row: &abi::backend::BackendRow) -> [u64; 8] {
    let [control, hop, identity] = [&row.control, &row.next_hop, &row.identity].map(Word::load);
    [control, hop, row.addr[0].load(), row.addr[1].load(), identity, row.connections.load(), 0, 0]
}

fn tenant_words(row: &abi::tenant::TenantRow) -> [u64; 16] {
    let [identity, burst, caps] = [&row.identity, &row.burst_ns, &row.caps].map(Word::load);
    let [connections, ports] = [&row.connections, &row.nat_ports].map(Word::load);
    let [first, second, third] = [0, 1, 2].map(|rate| row.rates[rate].load());
    let [one, two, three] = [0, 1, 2].map(|rate| row.handed_ns[rate].load());
    [identity, first, second, third, burst, caps, 0, 0, one, two, three, connections, ports, 0, 0, 0]
}

fn egress_words(row: &abi::egress::EgressRow) -> [u64; 4] {
    [row.source_mac.load(), row.device.load(), row.tags.load(), 0]
}

fn flow_words(row: &abi::flow::FlowBucket) -> [u64; 8] {
    words([&row.entries, &row.traces, &[], &[]])
}

fn nat_words(row: &abi::nat::NatRow) -> [u64; 8] {
    let [control, ports, back, own] = [&row.control, &row.ports, &row.back, &row.own_mac].map(Word::load);
    let [client, vip] = [&row.client, &row.vip].map(|pair| [pair[0].load(), pair[1].load()]);
    [control, ports, client[0], client[1], vip[0], vip[1], back, own]
}
