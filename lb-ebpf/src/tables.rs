//! The table adapter: BPF maps as `lb_common`'s `Tables`.

use crate::frame::Frame;
use crate::maps::*;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use lb_common::abi::{backend::BackendRow, config::ConfigRow, counter::Counter, counter::Meter};
use lb_common::abi::{egress::EgressRow, flow::FlowBucket, nat::NatRow, source::SourceRow};
use lb_common::abi::{vip::VipEntry, vip::VipKey, vip::VipRow, word::Word};
use lb_common::addr::Addr;
use lb_common::datapath::tables::Tables;
use lb_common::hash::HashKey;
use lb_common::reason::Reason;

/// The tables as a packet sees them that came in by one device.
pub struct Maps {
    ingress: u32,
}

impl Maps {
    /// The tables for a frame.
    #[inline(always)]
    pub fn of(frame: &Frame) -> Self {
        Self { ingress: frame.ifindex() }
    }
}

#[inline(always)]
fn add(counter: Option<*mut Counter>, bytes: u64) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own element; a program is not interrupted by itself on its CPU.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += bytes;
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        match global(&LB_FIXED_NOW_NS) {
            // SAFETY: a helper without arguments.
            0 => unsafe { bpf_ktime_get_ns() },
            fixed => fixed,
        }
    }
    #[inline(always)]
    fn hash_key(&self) -> HashKey {
        HashKey(global(&LB_HASH_KEY))
    }
    #[inline(always)]
    fn flow_mask(&self) -> u32 {
        global(&LB_FLOW_MASK)
    }
    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.ingress
    }
    #[inline(always)]
    fn config(&self) -> Option<&ConfigRow> {
        LB_CONFIG.get(0)
    }
    #[inline(always)]
    fn vip_entry(&self, key: &VipKey) -> Option<VipEntry> {
        // SAFETY: an aligned u32, read at once; the row that it names repeats the key.
        unsafe { LB_VIP_KEYS.get(key) }.map(|entry| VipEntry(*entry))
    }
    #[inline(always)]
    fn vip(&self, row: u32) -> Option<&VipRow> {
        LB_VIPS.get(row)
    }
    #[inline(always)]
    fn slot(&self, index: u32) -> Option<&Word> {
        LB_SLOTS.get(index)
    }
    #[inline(always)]
    fn backend(&self, row: u32) -> Option<&BackendRow> {
        LB_BACKENDS.get(row)
    }
    #[inline(always)]
    fn egress(&self, row: u32) -> Option<&EgressRow> {
        LB_EGRESS.get(row)
    }
    #[inline(always)]
    fn port(&self, ifindex: u32) -> Option<u16> {
        // SAFETY: an aligned u32, read at once.
        unsafe { LB_PORTS.get(&ifindex) }.map(|row| *row as u16)
    }
    #[inline(always)]
    fn source(&self, number: u32) -> Option<&SourceRow> {
        LB_SOURCES.get(number)
    }
    #[inline(always)]
    fn flows(&self, bucket: u32) -> Option<&FlowBucket> {
        LB_FLOWS.get(bucket)
    }
    #[inline(always)]
    fn nat(&self, row: u32) -> Option<&NatRow> {
        LB_NAT.get(row)
    }
    #[inline(always)]
    fn nat_rows(&self) -> u32 {
        global(&LB_NAT_ROWS)
    }
    #[inline(always)]
    fn decap_peer(&self, addr: &Addr) -> bool {
        // SAFETY: only whether there is an element matters.
        unsafe { LB_DECAP_PEERS.get(addr) }.is_some()
    }
    #[inline(always)]
    fn decap_vip(&self, addr: &Addr) -> bool {
        // SAFETY: only whether there is an element matters.
        unsafe { LB_DECAP_VIPS.get(addr) }.is_some()
    }
    #[inline(always)]
    fn compare_swap(&self, word: &Word, old: u64, new: u64) -> bool {
        // SAFETY: a valid, aligned word that all CPUs only touch atomically.
        let (_, swapped) = unsafe {
            core::intrinsics::atomic_cxchg::<
                u64,
                { core::intrinsics::AtomicOrdering::SeqCst },
                { core::intrinsics::AtomicOrdering::SeqCst },
            >(word.as_ptr(), old, new)
        };
        swapped
    }
    #[inline(always)]
    fn with_icmp_meter(&self, change: impl FnOnce(&mut Meter) -> bool) -> bool {
        // SAFETY: this CPU's own element; a program is not interrupted by itself on its CPU.
        LB_ICMP_METER.get_ptr_mut(0).is_some_and(|meter| change(unsafe { &mut *meter }))
    }
    #[inline(always)]
    fn count(&self, reason: Reason, vip_row: u32, backend_row: u32, bytes: u64) {
        add(LB_REASONS.get_ptr_mut(reason as u32), bytes);
        add(LB_VIP_COUNTS.get_ptr_mut(vip_row), bytes);
        add(LB_BACK_COUNTS.get_ptr_mut(backend_row), bytes);
    }
}
