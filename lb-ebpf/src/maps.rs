//! The BPF maps and the read-only globals. Names and default sizes are `lb_common::abi`'s; the daemon sets the sizes
//! that it wants when it loads the object.

use aya_ebpf::btf_maps::{Array, DevMap, HashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::abi::{self, backend::BackendRow, config::ConfigRow, counter::Counter, counter::Meter};
use lb_common::abi::{egress::EgressRow, flow::FlowBucket, nat::NatRow, source::SourceRow};
use lb_common::abi::{tenant::TenantCredit, tenant::TenantRow, vip::VipKey, vip::VipRow, word::Word};
use lb_common::addr::Addr;
use lb_common::datapath::pipeline::Walk;

/// The daemon maps these arrays into its memory and writes them word by word.
const MMAPABLE: usize = 1 << 10;

macro_rules! maps {
    ($($name:ident: $kind:ident<$($of:ty),*> [$spec:ident] $(+ $flags:ident)?;)*) => {
        $(
            #[doc = concat!("`", stringify!($spec), "` of `lb_common::abi`.")]
            #[btf_map]
            pub static $name: $kind<$($of,)* { abi::$spec.capacity as usize } $(, $flags)?> = $kind::new();
        )*
    };
}

maps! {
    LB_CONFIG: Array<ConfigRow> [CONFIG] + MMAPABLE;
    LB_VIP_KEYS: HashMap<VipKey, u32> [VIP_KEYS];
    LB_VIPS: Array<VipRow> [VIPS] + MMAPABLE;
    LB_VIP_HINTS: PerCpuArray<Word> [VIP_HINTS];
    LB_SLOTS: Array<Word> [SLOTS] + MMAPABLE;
    LB_BACKENDS: Array<BackendRow> [BACKENDS] + MMAPABLE;
    LB_EGRESS: Array<EgressRow> [EGRESS] + MMAPABLE;
    LB_DEVICES: DevMap<> [DEVICES];
    LB_PORTS: HashMap<u32, u32> [PORTS];
    LB_SOURCES: Array<SourceRow> [SOURCES] + MMAPABLE;
    LB_FLOWS: Array<FlowBucket> [FLOWS] + MMAPABLE;
    LB_NAT: Array<NatRow> [NAT] + MMAPABLE;
    LB_REASONS: PerCpuArray<Counter> [REASON_COUNTS];
    LB_VIP_COUNTS: PerCpuArray<Counter> [VIP_COUNTS];
    LB_BACK_COUNTS: PerCpuArray<Counter> [BACKEND_COUNTS];
    LB_SIGNALS: PerCpuArray<u64> [SIGNALS];
    LB_SYN_MARKS: Array<Word> [SYN_MARKS];
    LB_TENANTS: Array<TenantRow> [TENANTS] + MMAPABLE;
    LB_TENANT_CRED: PerCpuArray<TenantCredit> [TENANT_CREDIT];
    LB_TENANT_CNTS: PerCpuArray<Counter> [TENANT_COUNTS];
    LB_ICMP_METER: PerCpuArray<Meter> [ICMP_METER];
    LB_DECAP_PEERS: HashMap<Addr, u32> [DECAP_PEERS];
    LB_DECAP_VIPS: HashMap<Addr, u32> [DECAP_VIPS];
}

/// This CPU's notes on the packet that it works on: too much for a BPF stack.
#[btf_map]
static LB_WALK: PerCpuArray<Walk, 1> = PerCpuArray::new();

/// This CPU's notes.
#[inline(always)]
pub fn notes() -> Option<&'static mut Walk> {
    // SAFETY: this CPU's own element, in which one packet at a time is worked on; all-zero, as the kernel makes it,
    // is a valid value.
    LB_WALK.get_ptr_mut(0).map(|walk| unsafe { &mut *walk })
}

/// Secret key of the flow hash. Set at load, as are the others.
#[unsafe(no_mangle)]
pub static LB_HASH_KEY: [u64; 2] = [0; 2];
/// Buckets of the flow table less one.
#[unsafe(no_mangle)]
pub static LB_FLOW_MASK: u32 = lb_common::limits::FLOW_BUCKETS - 1;
/// Rows of the NAT table.
#[unsafe(no_mangle)]
pub static LB_NAT_ROWS: u32 = abi::NAT.capacity;
/// The time, nanoseconds, if it is not 0: tests that compare with the host stop the clock.
#[unsafe(no_mangle)]
pub static LB_FIXED_NOW_NS: u64 = 0;

/// Reads a global that the loader sets: the compiler must not take its initial value for granted.
#[inline(always)]
pub fn global<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is valid to read from.
    unsafe { core::ptr::read_volatile(value) }
}
