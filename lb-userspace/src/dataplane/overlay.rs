//! The live tables as the packet path sees them, with every write kept private: what `explain` and `selftest` run
//! the path on. Rows that a packet may change are copied when they are first asked for; counters stand still.

use std::cell::{Cell, OnceCell};

use lb_common::abi::backend::BackendRow;
use lb_common::abi::config::ConfigRow;
use lb_common::abi::counter::{ANSWERS, Answer, Meter};
use lb_common::abi::egress::EgressRow;
use lb_common::abi::flow::FlowBucket;
use lb_common::abi::nat::NatRow;
use lb_common::abi::source::SourceRow;
use lb_common::abi::tenant::{TenantCredit, TenantRow};
use lb_common::abi::vip::{VipEntry, VipKey, VipRow};
use lb_common::abi::word::Word;
use lb_common::addr::Addr;
use lb_common::datapath::tables::Tables;
use lb_common::hash::HashKey;
use lb_common::reason::Reason;

use super::store::Store;

/// The tables of one made-up packet.
pub(super) struct Overlay<'s> {
    store: &'s Store,
    now_ns: u64,
    ingress: u32,
    ports: Vec<(u32, u32)>,
    vips: Copies<VipRow>,
    backends: Copies<BackendRow>,
    flows: Copies<FlowBucket>,
    nat: Copies<NatRow>,
    tenants: Copies<TenantRow>,
    tenant_credit: Cell<TenantCredit>,
    meters: [Cell<Meter>; ANSWERS as usize],
}

impl<'s> Overlay<'s> {
    /// Tables for a packet that comes in by `ingress` at `now_ns`. A port map that cannot be read counts as empty.
    pub(super) fn new(store: &'s Store, now_ns: u64, ingress: u32) -> Self {
        let ports = store.calls.ports().unwrap_or_default();
        let (vips, backends) = (Copies::default(), Copies::default());
        let (flows, nat) = (Copies::default(), Copies::default());
        let (tenants, tenant_credit, meters) = (Copies::default(), Cell::default(), Default::default());
        Self { store, now_ns, ingress, ports, vips, backends, flows, nat, tenants, tenant_credit, meters }
    }
}

/// Copies of rows, by index. A list: a packet touches a few.
struct Copies<T>(OnceCell<Box<CopyOf<T>>>);

impl<T> Default for Copies<T> {
    fn default() -> Self {
        Self(OnceCell::new())
    }
}

struct CopyOf<T> {
    index: u32,
    row: T,
    next: Copies<T>,
}

impl<T> Copies<T> {
    /// The copy of a row, made now if there is none yet.
    fn row(&self, index: u32, copy: impl FnOnce() -> T) -> &T {
        let mut at = self;
        while let Some(found) = at.0.get() {
            if found.index == index {
                return &found.row;
            }
            at = &found.next;
        }
        &at.0.get_or_init(|| Box::new(CopyOf { index, row: copy(), next: Self::default() })).row
    }
}

fn copy_words<const N: usize>(words: &[Word; N]) -> [Word; N] {
    std::array::from_fn(|at| Word::new(words[at].load()))
}

fn copy_word(word: &Word) -> Word {
    Word::new(word.load())
}

impl Tables for Overlay<'_> {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
    fn hash_key(&self) -> HashKey {
        self.store.hash_key()
    }
    fn flow_mask(&self) -> u32 {
        self.store.flows.len() as u32 - 1
    }
    fn ingress_ifindex(&self) -> u32 {
        self.ingress
    }
    fn config(&self) -> Option<&ConfigRow> {
        self.store.config.first()
    }
    fn vip_entry(&self, key: &VipKey) -> Option<VipEntry> {
        self.store.calls.vip_key(key).ok().flatten().map(VipEntry)
    }
    fn vip_hint(&self, _index: u32) -> Option<&Word> {
        None
    }
    fn vip(&self, row: u32) -> Option<&VipRow> {
        let live = self.store.vips.get(row as usize)?;
        let copy = || VipRow {
            addr: copy_words(&live.addr),
            key: copy_word(&live.key),
            table: copy_word(&live.table),
            policy: copy_word(&live.policy),
            identity: copy_word(&live.identity),
            turn: copy_word(&live.turn),
            unserved: copy_word(&live.unserved),
        };
        Some(self.vips.row(row, copy))
    }
    fn slot(&self, index: u32) -> Option<&Word> {
        self.store.slots.get(index as usize)
    }
    fn backend(&self, row: u32) -> Option<&BackendRow> {
        let live = self.store.backends.get(row as usize)?;
        let copy = || BackendRow {
            control: copy_word(&live.control),
            next_hop: copy_word(&live.next_hop),
            addr: copy_words(&live.addr),
            identity: copy_word(&live.identity),
            connections: copy_word(&live.connections),
            trial_cps: copy_word(&live.trial_cps),
            trial_due_ns: copy_word(&live.trial_due_ns),
        };
        Some(self.backends.row(row, copy))
    }
    fn egress(&self, row: u32) -> Option<&EgressRow> {
        self.store.egresses.get(row as usize)
    }
    fn port(&self, ifindex: u32) -> Option<u16> {
        self.ports.iter().find(|(index, _)| *index == ifindex).map(|(_, row)| *row as u16)
    }
    fn source(&self, number: u32) -> Option<&SourceRow> {
        self.store.sources.get(number as usize)
    }
    fn flows(&self, bucket: u32) -> Option<&FlowBucket> {
        let live = self.store.flows.get(bucket as usize)?;
        let copy = || FlowBucket { entries: copy_words(&live.entries), traces: copy_words(&live.traces) };
        Some(self.flows.row(bucket, copy))
    }
    fn nat(&self, row: u32) -> Option<&NatRow> {
        let live = self.store.nat.get(row as usize)?;
        let copy = || NatRow {
            control: copy_word(&live.control),
            ports: copy_word(&live.ports),
            client: copy_words(&live.client),
            vip: copy_words(&live.vip),
            back: copy_word(&live.back),
            own_mac: copy_word(&live.own_mac),
        };
        Some(self.nat.row(row, copy))
    }
    fn nat_rows(&self) -> u32 {
        self.store.nat.len() as u32
    }
    fn decap_peer(&self, _addr: &Addr) -> bool {
        false
    }
    fn decap_vip(&self, _addr: &Addr) -> bool {
        false
    }
    fn tenant(&self, row: u32) -> Option<&TenantRow> {
        let live = self.store.tenants.get(row as usize)?;
        let copy = || TenantRow {
            identity: copy_word(&live.identity),
            rates: copy_words(&live.rates),
            burst_ns: copy_word(&live.burst_ns),
            caps: copy_word(&live.caps),
            spare: copy_words(&live.spare),
            handed_ns: copy_words(&live.handed_ns),
            connections: copy_word(&live.connections),
            nat_ports: copy_word(&live.nat_ports),
            unused: copy_words(&live.unused),
        };
        Some(self.tenants.row(row, copy))
    }
    fn add(&self, word: &Word, change: i64) {
        word.add(change);
    }
    fn with_tenant_credit(&self, _row: u32, change: impl FnOnce(&mut TenantCredit) -> bool) -> bool {
        let mut in_hand = self.tenant_credit.get();
        let allowed = change(&mut in_hand);
        self.tenant_credit.set(in_hand);
        allowed
    }
    fn count_tenant(&self, _index: u32, _bytes: u64) {}
    fn count_signal(&self, _index: u32) {}
    fn syn_mark(&self, _place: u32) -> Option<&Word> {
        None
    }
    fn compare_swap(&self, word: &Word, old: u64, new: u64) -> bool {
        word.compare_swap(old, new)
    }
    fn with_icmp_meter(&self, of: Answer, change: impl FnOnce(&mut Meter) -> bool) -> bool {
        let mut meter = self.meters[of as usize].get();
        let allowed = change(&mut meter);
        self.meters[of as usize].set(meter);
        allowed
    }
    fn count(&self, _reason: Reason, _vip_row: u32, _backend_row: u32, _bytes: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_copied_once() {
        let copies = Copies::default();
        let first: &Word = copies.row(7, || Word::new(1));
        first.store(2);
        assert_eq!(copies.row(9, || Word::new(5)).load(), 5);
        assert_eq!(copies.row(7, || Word::new(3)).load(), 2);
    }
}
