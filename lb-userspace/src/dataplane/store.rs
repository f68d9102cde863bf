//! The maps as Rust values, wherever they lie: rows as slices of words, and the few maps that need a call. The
//! kernel's maps and the ones in memory are the same to whoever works on them.

use std::ops::Deref;
use std::sync::Arc;

use lb_common::abi::backend::BackendRow;
use lb_common::abi::config::ConfigRow;
use lb_common::abi::counter::Counter;
use lb_common::abi::egress::EgressRow;
use lb_common::abi::flow::FlowBucket;
use lb_common::abi::nat::NatRow;
use lb_common::abi::signal::Signal;
use lb_common::abi::source::SourceRow;
use lb_common::abi::tenant::TenantRow;
use lb_common::abi::vip::{VipKey, VipRow};
use lb_common::abi::word::Word;
use lb_common::hash::HashKey;
use lb_common::reason::Reason;

use super::fault::Result;

/// Rows that live as long as anyone holds them.
pub(super) type RowsOf<T> = Arc<dyn Deref<Target = [T]> + Send + Sync>;

/// Every map of the balancer.
pub(super) struct Store {
    /// `LB_CONFIG`.
    pub(super) config: RowsOf<ConfigRow>,
    /// `LB_VIPS`.
    pub(super) vips: RowsOf<VipRow>,
    /// `LB_SLOTS`.
    pub(super) slots: RowsOf<Word>,
    /// `LB_BACKENDS`.
    pub(super) backends: RowsOf<BackendRow>,
    /// `LB_EGRESS`.
    pub(super) egresses: RowsOf<EgressRow>,
    /// `LB_SOURCES`.
    pub(super) sources: RowsOf<SourceRow>,
    /// `LB_FLOWS`.
    pub(super) flows: RowsOf<FlowBucket>,
    /// `LB_NAT`.
    pub(super) nat: RowsOf<NatRow>,
    /// `LB_TENANTS`.
    pub(super) tenants: RowsOf<TenantRow>,
    /// The rest.
    pub(super) calls: Box<dyn Calls>,
}

impl Store {
    /// The secret key of the flow hash.
    pub(super) fn hash_key(&self) -> HashKey {
        let config = &self.config[0];
        HashKey([config.hash_key[0].load(), config.hash_key[1].load()])
    }
}

/// What the packet path counts packets for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountOf {
    /// A reason.
    Reason(Reason),
    /// A vip row.
    Vip(u16),
    /// A backend row.
    Backend(u16),
    /// A tenant row and what its limits said.
    Tenant(u16, u32),
}

/// The maps that are reached by system calls. Errors name the map and, where it is full, its limit.
pub(super) trait Calls: Send + Sync {
    /// Most keys of the vip hash.
    fn vip_keys_limit(&self) -> u32;
    /// What a key leads to.
    fn vip_key(&self, key: &VipKey) -> Result<Option<u32>>;
    /// All keys.
    fn vip_keys(&self) -> Result<Vec<(VipKey, u32)>>;
    /// Adds or replaces a key.
    fn set_vip_key(&self, key: VipKey, entry: u32) -> Result<()>;
    /// Removes a key; fine if there is none.
    fn remove_vip_key(&self, key: &VipKey) -> Result<()>;
    /// Interface indices and their untagged egress rows.
    fn ports(&self) -> Result<Vec<(u32, u32)>>;
    /// Adds or replaces a port.
    fn set_port(&self, ifindex: u32, egress: u32) -> Result<()>;
    /// Removes a port; fine if there is none.
    fn remove_port(&self, ifindex: u32) -> Result<()>;
    /// The device of an egress row, for redirection.
    fn set_device(&self, row: u16, ifindex: u32) -> Result<()>;
    /// Takes the device of an egress row away; fine if there is none.
    fn remove_device(&self, row: u16) -> Result<()>;
    /// Packets and bytes of the first `rows` vip rows, summed over CPUs: a call for a thousand.
    fn vip_counts(&self, rows: usize) -> Result<Vec<Counter>>;
    /// The same of backend rows.
    fn backend_counts(&self, rows: usize) -> Result<Vec<Counter>>;
    /// Packets and bytes, summed over CPUs.
    fn count(&self, of: CountOf) -> Result<Counter>;
    /// A signal of a backend row, summed over CPUs.
    fn signal(&self, row: u16, signal: Signal) -> Result<u64>;
    /// Sets a counter to zero.
    fn reset_count(&self, of: CountOf) -> Result<()>;
}
