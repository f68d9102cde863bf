//! The host side of the path: a frame in a buffer, tables in vectors. For tests, fuzzing and `lb explain`.
//! Not for forwarding: nothing here is fast.

use super::packet::{OFFSET_MAX, Packet};
use super::tables::{NO_ROW, Tables};
use crate::abi::backend::BackendRow;
use crate::abi::config::ConfigRow;
use crate::abi::counter::{ANSWERS, Answer, Counter, Meter};
use crate::abi::egress::EgressRow;
use crate::abi::flow::FlowBucket;
use crate::abi::nat::NatRow;
use crate::abi::source::SourceRow;
use crate::abi::tenant::{COUNTS_PER_TENANT, TenantCounts, TenantCredit, TenantRow};
use crate::abi::vip::{VipEntry, VipKey, VipRow};
use crate::abi::word::Word;
use crate::addr::Addr;
use crate::hash::HashKey;
use crate::limits;
use crate::reason::{REASON_CAPACITY, Reason};
use bytemuck::Pod;
use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

/// Room before a frame, bytes: XDP's.
const HEADROOM: usize = 256;

/// A frame in a buffer with room before it.
#[derive(Clone)]
pub struct HostFrame {
    /// Backed by words, so that even offsets are aligned as the headers' types ask.
    words: Vec<u64>,
    start: usize,
    end: usize,
    /// How much of it lies in later parts, bytes.
    later: usize,
}

impl HostFrame {
    /// A frame of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self::with_headroom(bytes, HEADROOM)
    }
    /// A frame of these bytes with so much room before it, bytes; even.
    pub fn with_headroom(bytes: &[u8], headroom: usize) -> Self {
        let end = headroom + bytes.len();
        let mut words = vec![0; end.div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[headroom..end].copy_from_slice(bytes);
        Self { words, start: headroom, end, later: 0 }
    }
    /// The frame with at most so much in its first part, bytes. (Views cover all of it all the same.)
    pub fn in_parts(self, first: usize) -> Self {
        let later = self.bytes().len().saturating_sub(first);
        Self { later, ..self }
    }
    /// The frame as it is now.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[self.start..self.end]
    }
}

impl Packet for HostFrame {
    fn length(&self) -> u32 {
        (self.end - self.start) as u32
    }
    fn linear(&self) -> u32 {
        self.length() - self.later as u32
    }
    fn at<T: Pod>(&self, offset: u16) -> Option<&T> {
        let offset = usize::from(offset & OFFSET_MAX);
        bytemuck::try_from_bytes(self.bytes().get(offset..offset + size_of::<T>())?).ok()
    }
    fn at_mut<T: Pod>(&mut self, offset: u16) -> Option<&mut T> {
        let offset = usize::from(offset & OFFSET_MAX);
        let (start, end) = (self.start, self.end);
        let bytes = &mut bytemuck::cast_slice_mut(&mut self.words)[start..end];
        bytemuck::try_from_bytes_mut(bytes.get_mut(offset..offset + size_of::<T>())?).ok()
    }
    fn grow_head(&mut self, bytes: u16) -> bool {
        let room = self.start >= usize::from(bytes);
        if room {
            self.start -= usize::from(bytes);
        }
        room
    }
    fn shrink_head(&mut self, bytes: u16) -> bool {
        // The kernel leaves at least an Ethernet header (bpf_xdp_adjust_head).
        let room = self.start + usize::from(bytes) + 14 <= self.end;
        if room {
            self.start += usize::from(bytes);
        }
        room
    }
    fn truncate(&mut self, bytes: u32) -> bool {
        let fits = (14..=self.length()).contains(&bytes);
        if fits {
            self.later = self.later.saturating_sub((self.length() - bytes) as usize);
            self.end = self.start + bytes as usize;
        }
        fits
    }
}

/// Tables in memory. Everything is public: a test is the daemon here.
pub struct HostTables {
    /// What may change for the whole node.
    pub config: ConfigRow,
    /// Hash key.
    pub key: HashKey,
    /// Time, nanoseconds of the monotonic clock.
    pub now_ns: Cell<u64>,
    /// Interface index that packets come in by.
    pub ingress: Cell<u32>,
    /// Vip keys, as bytes, to entries.
    pub vip_keys: BTreeMap<[u8; 20], VipEntry>,
    /// Where keys led.
    pub vip_hints: Vec<Word>,
    /// Vip rows.
    pub vips: Vec<VipRow>,
    /// Slots.
    pub slots: Vec<Word>,
    /// Backend rows.
    pub backends: Vec<BackendRow>,
    /// Egress rows.
    pub egresses: Vec<EgressRow>,
    /// Interface index to egress row.
    pub ports: BTreeMap<u32, u16>,
    /// Source rows.
    pub sources: Vec<SourceRow>,
    /// The flow table; a power of two of buckets.
    pub flows: Vec<FlowBucket>,
    /// The NAT table; a power of two of planes.
    pub nat: Vec<NatRow>,
    /// Known balancers.
    pub decap_peers: BTreeSet<[u32; 4]>,
    /// Known vips.
    pub decap_vips: BTreeSet<[u32; 4]>,
    /// This CPU's meters.
    pub meters: [Cell<Meter>; ANSWERS as usize],
    /// Tenants with limits.
    pub tenants: Vec<TenantRow>,
    /// What CPUs have in hand, by CPU and tenant row.
    pub tenant_credit: RefCell<BTreeMap<(u32, u32), TenantCredit>>,
    /// Packets and bytes by tenant row and what the limits said.
    pub tenant_counts: RefCell<Vec<Counter>>,
    /// Signals by index of their counter.
    pub signals: RefCell<BTreeMap<u32, u64>>,
    /// Marks of SYNs.
    pub syn_marks: Vec<Word>,
    /// The CPU that packets are handled by.
    pub cpu: Cell<u32>,
    /// How many of the next swaps fail as if another CPU had been quicker.
    pub failing_swaps: Cell<u32>,
    /// Packets and bytes by reason.
    pub reasons: RefCell<Vec<Counter>>,
    /// Packets and bytes by vip row.
    pub vip_counts: RefCell<BTreeMap<u32, Counter>>,
    /// Packets and bytes by backend row.
    pub backend_counts: RefCell<BTreeMap<u32, Counter>>,
}

fn rows<T: Default>(count: usize) -> Vec<T> {
    (0..count).map(|_| T::default()).collect()
}

impl HostTables {
    /// Empty tables of these sizes: slots, flow buckets (a power of two); everything else small.
    pub fn new(key: HashKey, slots: usize, flow_buckets: usize) -> Self {
        Self {
            config: ConfigRow::default(),
            key,
            now_ns: Cell::new(1_000_000_000_000),
            ingress: Cell::new(1),
            vip_keys: BTreeMap::new(),
            vip_hints: rows(limits::VIP_HINTS as usize),
            vips: rows(64),
            slots: rows(slots),
            backends: rows(256),
            egresses: rows(limits::EGRESSES as usize),
            ports: BTreeMap::new(),
            sources: rows(limits::SOURCES as usize),
            flows: rows(flow_buckets),
            nat: rows(2 * limits::NAT_PORTS as usize),
            decap_peers: BTreeSet::new(),
            decap_vips: BTreeSet::new(),
            meters: Default::default(),
            tenants: rows(16),
            tenant_credit: RefCell::default(),
            tenant_counts: RefCell::new(vec![Counter::default(); 16 * COUNTS_PER_TENANT as usize]),
            signals: RefCell::default(),
            syn_marks: rows(limits::SYN_MARKS as usize),
            cpu: Cell::new(0),
            failing_swaps: Cell::new(0),
            reasons: RefCell::new(vec![Counter::default(); REASON_CAPACITY as usize]),
            vip_counts: RefCell::default(),
            backend_counts: RefCell::default(),
        }
    }
    /// Leads a key to an entry.
    pub fn insert_key(&mut self, key: &VipKey, entry: VipEntry) {
        self.vip_keys.insert(bytemuck::cast(*key), entry);
    }
    /// What was counted for a tenant row.
    pub fn counts_of_tenant(&self, row: u32) -> TenantCounts {
        let counts = self.tenant_counts.borrow();
        let first = (row * COUNTS_PER_TENANT) as usize;
        TenantCounts(core::array::from_fn(|kind| counts[first + kind]))
    }
    /// Packets counted under a reason.
    pub fn packets(&self, reason: Reason) -> u64 {
        self.reasons.borrow()[reason as usize].packets
    }
}

impl Tables for HostTables {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
    fn hash_key(&self) -> HashKey {
        self.key
    }
    fn flow_mask(&self) -> u32 {
        self.flows.len() as u32 - 1
    }
    fn ingress_ifindex(&self) -> u32 {
        self.ingress.get()
    }
    fn config(&self) -> Option<&ConfigRow> {
        Some(&self.config)
    }
    fn vip_entry(&self, key: &VipKey) -> Option<VipEntry> {
        self.vip_keys.get(bytemuck::bytes_of(key)).copied()
    }
    fn vip_hint(&self, index: u32) -> Option<&Word> {
        self.vip_hints.get(index as usize)
    }
    fn vip(&self, row: u32) -> Option<&VipRow> {
        self.vips.get(row as usize)
    }
    fn slot(&self, index: u32) -> Option<&Word> {
        self.slots.get(index as usize)
    }
    fn backend(&self, row: u32) -> Option<&BackendRow> {
        self.backends.get(row as usize)
    }
    fn egress(&self, row: u32) -> Option<&EgressRow> {
        self.egresses.get(row as usize)
    }
    fn port(&self, ifindex: u32) -> Option<u16> {
        self.ports.get(&ifindex).copied()
    }
    fn source(&self, number: u32) -> Option<&SourceRow> {
        self.sources.get(number as usize)
    }
    fn flows(&self, bucket: u32) -> Option<&FlowBucket> {
        self.flows.get(bucket as usize)
    }
    fn nat(&self, row: u32) -> Option<&NatRow> {
        self.nat.get(row as usize)
    }
    fn nat_rows(&self) -> u32 {
        self.nat.len() as u32
    }
    fn decap_peer(&self, addr: &Addr) -> bool {
        self.decap_peers.contains(&addr.0)
    }
    fn decap_vip(&self, addr: &Addr) -> bool {
        self.decap_vips.contains(&addr.0)
    }
    fn tenant(&self, row: u32) -> Option<&TenantRow> {
        self.tenants.get(row as usize)
    }
    fn add(&self, word: &Word, change: i64) {
        word.add(change);
    }
    fn with_tenant_credit(&self, row: u32, change: impl FnOnce(&mut TenantCredit) -> bool) -> bool {
        if row as usize >= self.tenants.len() {
            return true;
        }
        change(self.tenant_credit.borrow_mut().entry((self.cpu.get(), row)).or_default())
    }
    fn count_tenant(&self, index: u32, bytes: u64) {
        if let Some(counter) = self.tenant_counts.borrow_mut().get_mut(index as usize) {
            counter.packets += 1;
            counter.bytes += bytes;
        }
    }
    fn count_signal(&self, index: u32) {
        *self.signals.borrow_mut().entry(index).or_default() += 1;
    }
    fn syn_mark(&self, place: u32) -> Option<&Word> {
        self.syn_marks.get(place as usize)
    }
    fn compare_swap(&self, word: &Word, old: u64, new: u64) -> bool {
        match self.failing_swaps.get() {
            0 => word.compare_swap(old, new),
            left => {
                self.failing_swaps.set(left - 1);
                false
            }
        }
    }
    fn with_icmp_meter(&self, of: Answer, change: impl FnOnce(&mut Meter) -> bool) -> bool {
        let mut meter = self.meters[of as usize].get();
        let allowed = change(&mut meter);
        self.meters[of as usize].set(meter);
        allowed
    }
    fn count(&self, reason: Reason, vip_row: u32, backend_row: u32, bytes: u64) {
        let add = |counter: &mut Counter| {
            counter.packets += 1;
            counter.bytes += bytes;
        };
        add(&mut self.reasons.borrow_mut()[reason as usize]);
        if vip_row != NO_ROW {
            add(self.vip_counts.borrow_mut().entry(vip_row).or_default());
        }
        if backend_row != NO_ROW {
            add(self.backend_counts.borrow_mut().entry(backend_row).or_default());
        }
    }
}
