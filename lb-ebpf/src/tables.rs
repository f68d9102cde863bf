//! The table adapter: BPF maps as `lb_common`'s `Tables`.

use crate::maps::*;
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use lb_common::abi::{
    backend::BackendRow, config::ConfigRow, counter::Answer, counter::Counter, counter::Meter,
};
use lb_common::abi::{egress::EgressRow, flow::FlowBucket, nat::NatRow, source::SourceRow};
use lb_common::abi::{
    tenant::TenantCredit, tenant::TenantRow, vip::VipEntry, vip::VipKey, vip::VipRow, word::Word,
};
use lb_common::addr::Addr;
use lb_common::datapath::tables::Tables;
use lb_common::hash::HashKey;
use lb_common::reason::Reason;

/// The tables as a packet sees them that came in by the device of this interface index.
pub struct Maps(pub u32);

#[inline(always)]
fn find<K, const N: usize>(map: &HashMap<K, u32, N>, key: &K) -> Option<u32> {
    // SAFETY: an aligned u32, read at once; a row that it names repeats the key.
    unsafe { map.get(key) }.copied()
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

/// What a clock says, nanoseconds, or the time that a test fixed.
#[inline(always)]
fn fixed_or(clock: impl FnOnce() -> u64) -> u64 {
    match global(&LB_FIXED_NOW_NS) {
        0 => clock(),
        fixed => fixed,
    }
}

/// One line a question.
macro_rules! answers {
    ($($name:ident($($argument:ident: $of:ty)?) -> $to:ty = $answer:expr;)*) => {
        $(#[inline(always)]
        fn $name(&self $(, $argument: $of)?) -> $to {
            $answer
        })*
    };
}

impl Tables for Maps {
    answers! {
        hash_key() -> HashKey = HashKey(global(&LB_HASH_KEY));
        flow_mask() -> u32 = global(&LB_FLOW_MASK);
        nat_rows() -> u32 = global(&LB_NAT_ROWS);
        config() -> Option<&ConfigRow> = LB_CONFIG.get(0);
        vip_entry(key: &VipKey) -> Option<VipEntry> = find(&LB_VIP_KEYS, key).map(VipEntry);
        vip_hint(index: u32) -> Option<&Word> = LB_VIP_HINTS.get(index);
        vip(row: u32) -> Option<&VipRow> = LB_VIPS.get(row);
        slot(index: u32) -> Option<&Word> = LB_SLOTS.get(index);
        backend(row: u32) -> Option<&BackendRow> = LB_BACKENDS.get(row);
        egress(row: u32) -> Option<&EgressRow> = LB_EGRESS.get(row);
        port(ifindex: u32) -> Option<u16> = find(&LB_PORTS, &ifindex).map(|row| row as u16);
        source(number: u32) -> Option<&SourceRow> = LB_SOURCES.get(number);
        flows(bucket: u32) -> Option<&FlowBucket> = LB_FLOWS.get(bucket);
        tenant(row: u32) -> Option<&TenantRow> = LB_TENANTS.get(row);
        syn_mark(place: u32) -> Option<&Word> = LB_SYN_MARKS.get(place);
        nat(row: u32) -> Option<&NatRow> = LB_NAT.get(row);
        decap_peer(addr: &Addr) -> bool = find(&LB_DECAP_PEERS, addr).is_some();
        decap_vip(addr: &Addr) -> bool = find(&LB_DECAP_VIPS, addr).is_some();
    }
    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.0
    }
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: a helper without arguments.
        fixed_or(|| unsafe { bpf_ktime_get_ns() })
    }
    /// As of the last tick: a load instead of a read of the clock, and tracking counts in whole seconds.
    #[inline(always)]
    fn now_s(&self) -> u32 {
        // SAFETY: a helper without arguments.
        let now_ns = fixed_or(|| unsafe { bpf_ktime_get_coarse_ns() });
        (now_ns / 1_000_000_000) as u32
    }
    #[inline(always)]
    fn compare_swap(&self, word: &Word, old: u64, new: u64) -> bool {
        const SEQ_CST: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: a valid, aligned word that all CPUs only touch atomically.
        unsafe { atomic_cxchg::<u64, SEQ_CST, SEQ_CST>(word.as_ptr(), old, new).1 }
    }
    #[inline(always)]
    fn add(&self, word: &Word, change: i64) {
        const RELAXED: AtomicOrdering = AtomicOrdering::Relaxed;
        // SAFETY: a valid, aligned word that all CPUs only touch atomically.
        unsafe { atomic_xadd::<u64, u64, RELAXED>(word.as_ptr(), change as u64) };
    }
    #[inline(always)]
    fn with_tenant_credit(&self, row: u32, change: impl FnOnce(&mut TenantCredit) -> bool) -> bool {
        // SAFETY: this CPU's own element; a program is not interrupted by itself on its CPU.
        LB_TENANT_CRED.get_ptr_mut(row).is_none_or(|in_hand| change(unsafe { &mut *in_hand }))
    }
    #[inline(always)]
    fn count_tenant(&self, index: u32, bytes: u64) {
        add(LB_TENANT_CNTS.get_ptr_mut(index), bytes);
    }
    #[inline(always)]
    fn count_signal(&self, index: u32) {
        if let Some(count) = LB_SIGNALS.get_ptr_mut(index) {
            // SAFETY: this CPU's own element; a program is not interrupted by itself on its CPU.
            unsafe { *count += 1 };
        }
    }
    #[inline(always)]
    fn with_icmp_meter(&self, of: Answer, change: impl FnOnce(&mut Meter) -> bool) -> bool {
        // SAFETY: this CPU's own element; a program is not interrupted by itself on its CPU.
        LB_ICMP_METER.get_ptr_mut(of as u32).is_some_and(|meter| change(unsafe { &mut *meter }))
    }
    #[inline(always)]
    fn count(&self, reason: Reason, vip_row: u32, backend_row: u32, bytes: u64) {
        add(LB_REASONS.get_ptr_mut(reason as u32), bytes);
        add(LB_VIP_COUNTS.get_ptr_mut(vip_row), bytes);
        add(LB_BACK_COUNTS.get_ptr_mut(backend_row), bytes);
    }
}
