//! The kernel's edge: the loaded program, its maps and its devices, behind the trait [`Dataplane`].
//!
//! Nothing is decided here: what the maps should hold comes as [`Op`]s from `lb_control::plan`, and what they do hold
//! goes back as [`Actual`]. [`kernel::Kernel`] is the real thing, [`fake::Fake`] keeps the same rows in memory.
//!
//! Invariants:
//! - what is pinned outlives the process: a daemon that dies changes nothing for packets;
//! - a foreign program or layout is never replaced unasked;
//! - nobody waits for a packet and no packet waits for us: live rows are changed word by word.

mod attach;
pub mod decap;
mod explain;
pub mod fake;
mod fault;
mod features;
mod frames;
pub mod kernel;
mod loader;
mod mapped;
mod maps;
mod memory;
mod object;
mod overlay;
mod pins;
mod ports;
mod report;
mod selftest;
mod store;
mod sweep;
mod sys;

use std::collections::BTreeMap;

use lb_common::abi::slot::Slot;
use lb_common::abi::word::Word;
use lb_common::ids::BackendId;
use lb_common::limits;
use lb_control::limits::Limits;
use lb_control::plan::{Actual, Borrowers, Op, Rows, Slots};
use lb_control::suspicion::Reading;

pub use fault::{Fault, Result};
pub use loader::{Options, Origin};
pub use report::{
    AttachMode, Attached, AttachedMode, Check, Counters, DeviceState, ExplainedBackend, ExplainedEgress,
    ExplainedEntry, ExplainedSlot, ExplainedVip, Explanation, Question, QuestionPacket, SweepReport,
    TenantCount,
};

/// The last reading of a backend, if it has one.
pub type LastReading<'a> = dyn Fn(BackendId) -> Option<Reading> + 'a;

/// The program in the kernel, its maps and its devices. All methods may block for a few milliseconds ([`sweep`] for
/// up to a second); call them from a thread that may. There is one writer: the engine.
///
/// [`sweep`]: Dataplane::sweep
pub trait Dataplane: Send + Sync {
    /// Seconds on the data plane's clock, since boot.
    fn now_s(&self) -> u32;

    /// Everything that the maps hold, read back from the kernel. The slots stay live: they are the map itself.
    ///
    /// # Errors
    /// A map could not be read.
    fn read(&self) -> Result<Actual<LiveSlots>>;

    /// Carries out operations, in order. Each is idempotent. Returns how many slots held something else than the plan
    /// had read: the sweep was quicker. They are as they were; the other slots are changed, and what comes after the
    /// slots in the plan is left undone, as it rests on them. Read, compare and apply again.
    ///
    /// # Errors
    /// The first that fails, with its map and its limit; those before it are done, those after it are not.
    fn apply(&self, ops: &[Op]) -> Result<u64>;

    /// What a device is, for the plan, before anything is attached to it.
    ///
    /// # Errors
    /// There is no such device, or it is not one for Ethernet frames.
    fn device(&self, name: &str) -> Result<DeviceState>;

    /// Attaches the program to a device, which gets a port and an untagged way out in the maps first. Attaching again
    /// changes nothing. `replace`: a foreign XDP program goes.
    ///
    /// # Errors
    /// No such device, taken by a foreign program, no native XDP, no privilege, and others; nothing was changed then.
    fn attach(&self, name: &str, mode: AttachMode, replace: bool) -> Result<Attached>;

    /// Detaches the program from a device.
    ///
    /// # Errors
    /// It is not attached there.
    fn detach(&self, name: &str) -> Result<()>;

    /// The devices that the program is attached to, those that vanished among them (`device` is `None`).
    ///
    /// # Errors
    /// The pins or the devices could not be read.
    fn attached(&self) -> Result<Vec<Attached>>;

    /// Scans flow and NAT table: forgets what is over, lets slots settle, and finds which of the `watched` rows are
    /// still named. The next [`Dataplane::read`], and only that one, carries what it found. `borrowers`: whose flows may
    /// be on whose backends.
    ///
    /// # Errors
    /// None but those of the environment.
    fn sweep(&self, watched: Rows, borrowers: &Borrowers) -> Result<SweepReport>;

    /// What traffic says of every backend that takes new flows, as counted so far. `last`: what it said of one when last
    /// asked, which still holds of those that had no packet since.
    ///
    /// # Errors
    /// A map could not be read.
    fn readings(&self, last: &LastReading<'_>) -> Result<BTreeMap<BackendId, Reading>>;

    /// Packets and bytes so far, summed over CPUs.
    ///
    /// # Errors
    /// A map could not be read.
    fn counters(&self) -> Result<Counters>;

    /// Runs the packet path on a made-up packet over the live tables, without writing to them.
    ///
    /// # Errors
    /// The question makes no packet: its addresses are of different families.
    fn explain(&self, question: &Question) -> Result<Explanation>;

    /// Runs known packets through the loaded program.
    ///
    /// # Errors
    /// The kernel could not run it. A wrong answer is no error here; it is in the report.
    fn selftest(&self) -> Result<Vec<Check>>;
}

/// Capacities at the first load; an adopted data plane keeps those that it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Rows and slots.
    pub limits: Limits,
    /// Buckets of the flow table, 64 bytes each; a power of two.
    pub flow_buckets: u32,
    /// Planes of the NAT table, 4 MiB each; a power of two.
    pub nat_planes: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self { limits: Limits::default(), flow_buckets: limits::FLOW_BUCKETS, nat_planes: limits::NAT_PLANES }
    }
}

/// The slot map's memory.
#[derive(Clone)]
pub struct LiveSlots(store::RowsOf<Word>);

impl Slots for LiveSlots {
    fn slot(&self, index: u32) -> Slot {
        self.0.get(index as usize).map_or_else(Slot::default, |word| Slot(word.load()))
    }
}

impl std::fmt::Debug for LiveSlots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LiveSlots({})", self.0.len())
    }
}
