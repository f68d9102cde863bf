//! Stage 3: what a tenant may take of the node. Packets, bits and new connections by token buckets, tracked
//! connections and NAT ports by a cap: a drop of one tenant's, instead of a node that is full for all.
//!
//! A bucket is right across CPUs without a lock. All share one word, the time up to which credit was handed out; a CPU
//! whose credit is used up moves it on by a slice, by compare-and-swap, and pays for its packets out of that. The
//! word never passes the clock, so in the long run what all CPUs hand out is the rate; it never lags more than the
//! burst, so that is all that can come at once. What a CPU has left over is less than a slice or one packet's worth.
//!
//! A tenant without limits has no row: its vips say so in a word that is read anyway.

use super::Halt;
use super::parse::Parsed;
use super::pipeline::Trail;
use super::tables::Tables;
use super::wire::transport::UDP;
use crate::abi::flow::Entry;
use crate::abi::tenant::{ARRIVED, BEGUN, COUNTS_PER_TENANT, Caps, Rate, TenantRow, kind_of};
use crate::abi::vip::{Policy, VipRow};
use crate::abi::word::Word;
use crate::limits::TENANT_SLICE_NS;
use crate::reason::Reason;
use core::sync::atomic::{Ordering::SeqCst, compiler_fence};

/// Billionths in a unit: credit is counted in them, so that nanoseconds times a rate need no division.
const UNIT: u64 = 1_000_000_000;
/// How often a CPU tries to take credit before it lets the packet pass unpaid: others were quicker, so there was credit.
const TRIES: usize = 3;

/// Lets a packet of a vip pass, or drops it because its tenant has had its share.
#[inline(always)]
pub fn admit<T: Tables>(parsed: &Parsed, vip: &VipRow, tables: &T, trail: &mut Trail) -> Result<(), Halt> {
    let row = Policy(vip.policy.load()).tenant();
    if row == 0 || limited(parsed, row, tables, trail) {
        return Ok(());
    }
    Err(Halt::drop(trail.refusal))
}

/// The packet of a tenant with limits. No function of its own: a call costs more than all that is done here. The fences
/// make the verifier follow what comes after once (docs/adr/0006).
#[inline(always)]
fn limited<T: Tables>(parsed: &Parsed, row: u16, tables: &T, trail: &mut Trail) -> bool {
    let Some(tenant) = tables.tenant(row.into()) else { return true };
    count(row, ARRIVED, parsed.length, tables);
    let bits = u64::from(parsed.length) * 8;
    let refusal = if !pay(tenant, row, Rate::Packets, 1, tables) {
        Reason::TenantPacketRate
    } else if !pay(tenant, row, Rate::Bits, bits, tables) {
        Reason::TenantBitRate
    } else if parsed.is_syn() && !begins(tenant, row, tables) {
        Reason::TenantConnectionRate
    } else {
        return true;
    };
    trail.refusal = refusal;
    count(row, kind_of(refusal), parsed.length, tables);
    false
}

/// Counts a packet for a tenant with limits.
#[inline(always)]
fn count<T: Tables>(row: u16, kind: u32, bytes: u32, tables: &T) {
    tables.count_tenant(u32::from(row) * COUNTS_PER_TENANT + kind, bytes.into());
}

/// A new connection; whether the rate allows it.
#[inline(always)]
fn begins<T: Tables>(tenant: &TenantRow, row: u16, tables: &T) -> bool {
    let allowed = pay(tenant, row, Rate::Connections, 1, tables);
    if allowed {
        count(row, BEGUN, 0, tables);
    }
    allowed
}

/// Pays for so many units out of one of the tenant's buckets; whether there was enough.
#[inline(always)]
fn pay<T: Tables>(tenant: &TenantRow, row: u16, rate: Rate, units: u64, tables: &T) -> bool {
    let per_s = tenant.rates[rate as usize].load();
    compiler_fence(SeqCst);
    if per_s == 0 {
        return true;
    }
    let bucket = Bucket { per_s, burst_ns: &tenant.burst_ns, handed_ns: &tenant.handed_ns[rate as usize] };
    tables.with_tenant_credit(row.into(), |in_hand| {
        bucket.take(&mut in_hand.credit[rate as usize], units * UNIT, tables)
    })
}

/// One bucket of a tenant's.
struct Bucket<'t> {
    /// Units a second, not 0.
    per_s: u64,
    burst_ns: &'t Word,
    handed_ns: &'t Word,
}

impl Bucket<'_> {
    /// Pays `cost` out of this CPU's `credit`, both in billionths of a unit.
    #[inline(always)]
    fn take<T: Tables>(&self, credit: &mut u64, cost: u64, tables: &T) -> bool {
        let slice = TENANT_SLICE_NS * self.per_s;
        // What was saved at a higher rate, or for another tenant, is worth a slice at most.
        let saved = if *credit > slice { slice } else { *credit };
        if saved >= cost {
            *credit = saved - cost;
            return true;
        }
        let need = cost - saved;
        let take_ns = if need <= slice { TENANT_SLICE_NS } else { need.div_ceil(self.per_s) };
        let handed = hand_out(self.handed_ns, take_ns, self.burst_ns.load(), tables);
        *credit = match handed {
            Handed::All => saved + take_ns * self.per_s - cost,
            Handed::Nothing => saved,
            Handed::Outrun => 0,
        };
        handed != Handed::Nothing
    }
}

/// What a CPU got of a bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handed {
    /// What it asked for.
    All,
    /// Nothing: there is not so much.
    Nothing,
    /// Nothing, for others were quicker each time.
    Outrun,
}

/// Moves a bucket's time on by `take_ns`, unless that would pass the clock.
#[inline(never)]
fn hand_out<T: Tables>(handed_ns: &Word, take_ns: u64, burst_ns: u64, tables: &T) -> Handed {
    let now_ns = tables.now_ns();
    // A burst that is shorter than what is taken at once would never let it pass.
    let lag_ns = if burst_ns > take_ns { burst_ns } else { take_ns };
    let earliest_ns = now_ns.saturating_sub(lag_ns);
    for _ in 0..TRIES {
        let old_ns = handed_ns.load();
        let from_ns = if old_ns > earliest_ns { old_ns } else { earliest_ns };
        let new_ns = from_ns + take_ns;
        if new_ns > now_ns {
            return Handed::Nothing;
        }
        if tables.compare_swap(handed_ns, old_ns, new_ns) {
            return Handed::All;
        }
    }
    Handed::Outrun
}

/// What becomes of a flow that is to be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is remembered.
    Remember,
    /// It goes on without: it is older than the entry that it does not have.
    Forget,
    /// It is new, and refused; the reason stands in the trail.
    Refuse,
}

/// Whether a flow of a tenant with limits may have an entry in the flow table. `old`: it is known to have begun before.
#[inline(never)]
pub fn admit_entry<T: Tables>(
    parsed: &Parsed,
    row: u16,
    old: bool,
    tables: &T,
    trail: &mut Trail,
) -> Admission {
    let Some(tenant) = tables.tenant(row.into()) else { return Admission::Remember };
    let udp = parsed.flow.protocol == UDP;
    let new = !old && (udp || parsed.is_syn());
    let refusal = if is_full(&tenant.connections, Caps(tenant.caps.load()).connections()) {
        Reason::TenantConnections
    } else if new && udp && !begins(tenant, row, tables) {
        // A TCP connection paid when its SYN came in.
        Reason::TenantConnectionRate
    } else {
        return Admission::Remember;
    };
    if !new {
        return Admission::Forget;
    }
    trail.refusal = refusal;
    count(row, kind_of(refusal), parsed.length, tables);
    Admission::Refuse
}

/// What a packet did to entries of the flow table, noted by whoever won the compare-and-swap, and counted for the tenants
/// by [`settle`] when all is done: the verifier follows every way through the table, and this is one for all of them.
/// Entries of one flow are of one vip, so of one tenant.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Moves {
    /// The entry that was taken out last.
    forgotten: u64,
    /// What the new entry took the place of.
    replaced: u64,
    /// What a source address took the place of.
    displaced: u64,
    /// How many were taken out.
    forgotten_count: u32,
    /// How many were put in.
    inserted_count: u32,
    /// Whether a SYN came again; 0 = it did not.
    repeated: u32,
}

impl Moves {
    /// Forgets the packet before.
    #[inline(always)]
    pub fn begin(&mut self) {
        (self.forgotten_count, self.inserted_count, self.displaced, self.repeated) = (0, 0, 0, 0);
    }
    /// Notes that a SYN came again.
    #[inline(always)]
    pub fn repeat(&mut self) {
        self.repeated = 1;
    }
    /// Whether a SYN came again.
    #[inline(always)]
    pub const fn repeated(&self) -> bool {
        self.repeated != 0
    }
    /// Notes that an entry was taken out.
    #[inline(always)]
    pub fn forgotten(&mut self, entry: Entry) {
        self.forgotten = entry.0;
        self.forgotten_count += 1;
    }
    /// Notes that an entry was put in, in the place of `replaced`, which may be free.
    #[inline(always)]
    pub fn inserted(&mut self, replaced: Entry) {
        self.replaced = replaced.0;
        self.inserted_count += 1;
    }
    /// Notes that a source address, which is no connection, was put in the place of `replaced`, which may be free.
    #[inline(always)]
    pub fn displaced(&mut self, replaced: Entry) {
        self.displaced = replaced.0;
    }
    /// Whether nothing was done.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.forgotten_count | self.inserted_count == 0 && self.displaced == 0
    }
}

/// Counts what a packet of a vip of this tenant (0 = one without limits) did to the flow table.
#[inline(never)]
pub fn settle<T: Tables>(moves: &Moves, tenant: u16, tables: &T) {
    let forgotten = owner(Entry(moves.forgotten), tables);
    if moves.forgotten_count != 0 && forgotten != 0 {
        held(forgotten, -i64::from(moves.forgotten_count), tables);
    }
    let displaced = owner(Entry(moves.displaced), tables);
    if displaced != 0 {
        held(displaced, -1, tables);
    }
    let replaced = owner(Entry(moves.replaced), tables);
    if moves.inserted_count == 0 || replaced == tenant {
        return;
    }
    if replaced != 0 {
        held(replaced, -1, tables);
    }
    if tenant != 0 {
        held(tenant, 1, tables);
    }
}

/// The tenant that an entry counts for; 0 = none.
#[inline(always)]
fn owner<T: Tables>(entry: Entry, tables: &T) -> u16 {
    if entry.is_flow() { tenant_of(entry.backend(), tables) } else { 0 }
}

/// Adds to a tenant's entries.
#[inline(never)]
fn held<T: Tables>(row: u16, change: i64, tables: &T) {
    if let Some(tenant) = tables.tenant(row.into()) {
        tables.add(&tenant.connections, change);
    }
}

/// Whether a tenant has all the NAT ports that it may have.
#[inline(always)]
pub fn nat_full<T: Tables>(row: u16, tables: &T) -> bool {
    let Some(tenant) = tables.tenant(row.into()).filter(|_| row != 0) else { return false };
    is_full(&tenant.nat_ports, Caps(tenant.caps.load()).nat_ports())
}

/// Whether a count has come to its cap. A count that began in the middle may be below zero for a while.
#[inline(always)]
fn is_full(count: &Word, cap: u32) -> bool {
    cap != 0 && count.load() as i64 >= i64::from(cap)
}

/// A new flow of a tenant's found no port because the tenant has as many as it may.
#[inline(always)]
pub fn refuse_port<T: Tables>(row: u16, bytes: u32, tables: &T) -> Halt {
    count(row, kind_of(Reason::TenantNatPorts), bytes, tables);
    Halt::drop(Reason::TenantNatPorts)
}

/// A NAT port passed from one tenant to another; 0 = one without limits, or none. To be called once by whoever won the
/// compare-and-swap.
#[inline(never)]
pub fn port_passed<T: Tables>(from: u16, to: u16, tables: &T) {
    if from == to {
        return;
    }
    if let Some(tenant) = tables.tenant(from.into()).filter(|_| from != 0) {
        tables.add(&tenant.nat_ports, -1);
    }
    if let Some(tenant) = tables.tenant(to.into()).filter(|_| to != 0) {
        tables.add(&tenant.nat_ports, 1);
    }
}

/// The tenant of a backend row, as entries name it.
#[inline(always)]
pub fn tenant_of<T: Tables>(backend: u16, tables: &T) -> u16 {
    match tables.backend(backend.into()) {
        Some(row) => row.tenant(),
        None => 0,
    }
}
