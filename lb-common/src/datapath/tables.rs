//! All that the packet path may ask of the world. The kernel side answers from BPF maps, the host side from memory.

use crate::abi::backend::BackendRow;
use crate::abi::config::ConfigRow;
use crate::abi::counter::{Answer, Meter};
use crate::abi::egress::EgressRow;
use crate::abi::flow::FlowBucket;
use crate::abi::nat::NatRow;
use crate::abi::source::SourceRow;
use crate::abi::tenant::{TenantCredit, TenantRow};
use crate::abi::vip::{VipEntry, VipKey, VipRow};
use crate::abi::word::Word;
use crate::addr::Addr;
use crate::hash::HashKey;
use crate::reason::Reason;

/// The tables, the clock and the counters. Rows are shared with other CPUs and with the daemon; `None` means that
/// there is no such row.
pub trait Tables {
    /// Nanoseconds of the monotonic clock.
    fn now_ns(&self) -> u64;
    /// The secret key of the flow hash.
    fn hash_key(&self) -> HashKey;
    /// Number of buckets of the flow table less one; the number is a power of two.
    fn flow_mask(&self) -> u32;
    /// Interface index that the packet came in by.
    fn ingress_ifindex(&self) -> u32;
    /// What may change for the whole node.
    fn config(&self) -> Option<&ConfigRow>;
    /// What a destination leads to.
    fn vip_entry(&self, key: &VipKey) -> Option<VipEntry>;
    /// This CPU's note of where a key led ([`VipKey::hint`]).
    fn vip_hint(&self, index: u32) -> Option<&Word>;
    /// A vip.
    fn vip(&self, row: u32) -> Option<&VipRow>;
    /// A slot, by its index over all tables.
    fn slot(&self, index: u32) -> Option<&Word>;
    /// A backend.
    fn backend(&self, row: u32) -> Option<&BackendRow>;
    /// A way out.
    fn egress(&self, row: u32) -> Option<&EgressRow>;
    /// The egress row of an untagged device.
    fn port(&self, ifindex: u32) -> Option<u16>;
    /// One of the node's source addresses.
    fn source(&self, number: u32) -> Option<&SourceRow>;
    /// A bucket of the flow table.
    fn flows(&self, bucket: u32) -> Option<&FlowBucket>;
    /// A NAT flow.
    fn nat(&self, row: u32) -> Option<&NatRow>;
    /// Number of rows of the NAT table.
    fn nat_rows(&self) -> u32;
    /// Whether a tunnel's outer source is a known balancer (decapsulation).
    fn decap_peer(&self, addr: &Addr) -> bool;
    /// Whether an inner destination is a vip of this backend (decapsulation).
    fn decap_vip(&self, addr: &Addr) -> bool;
    /// A tenant with limits.
    fn tenant(&self, row: u32) -> Option<&TenantRow>;
    /// Adds to a word, wrapping around; no other CPU's sum is lost.
    fn add(&self, word: &Word, change: i64);
    /// Runs `change` on what this CPU has in hand for a tenant; `true` if there is no such row.
    fn with_tenant_credit(&self, row: u32, change: impl FnOnce(&mut TenantCredit) -> bool) -> bool;
    /// Counts a packet of `bytes` bytes under an index of [`crate::abi::TENANT_COUNTS`].
    fn count_tenant(&self, index: u32, bytes: u64);
    /// Counts one under an index of [`crate::abi::SIGNALS`].
    fn count_signal(&self, index: u32);
    /// The mark of the last SYN at a place ([`crate::abi::mark::Mark::place`]).
    fn syn_mark(&self, place: u32) -> Option<&Word>;
    /// Replaces `old` by `new` if it is still there.
    fn compare_swap(&self, word: &Word, old: u64, new: u64) -> bool;
    /// Runs `change` on this CPU's meter of what the node itself sends of a kind.
    fn with_icmp_meter(&self, of: Answer, change: impl FnOnce(&mut Meter) -> bool) -> bool;
    /// Counts a packet of `bytes` bytes: its reason, and the rows of its vip and backend where it has them
    /// ([`NO_ROW`] otherwise).
    fn count(&self, reason: Reason, vip_row: u32, backend_row: u32, bytes: u64);

    /// Seconds of the monotonic clock since boot.
    #[inline(always)]
    fn now_s(&self) -> u32 {
        (self.now_ns() / 1_000_000_000) as u32
    }
}

/// No vip, or no backend, to count for.
pub const NO_ROW: u32 = u32::MAX;
