//! The packet path. `?` is its only control flow: a stage either has the next one's input or the packet's verdict.

use super::connection::{NOBODY, Tracker};
use super::nat::Reply;
use super::packet::Packet;
use super::parse::Parsed;
use super::tables::{NO_ROW, Tables};
use super::vip::Target;
use super::{Halt, Verdict, bulkhead, connection, forward, icmp, nat, parse, refuse, vip};
use crate::abi::slot::Slot;
use crate::reason::Reason;

/// Runs a packet through the balancer, counts it once and says what to do with it.
#[inline(always)]
pub fn run<P: Packet, T: Tables, K: Tracker>(packet: &mut P, tables: &T, walk: &mut Walk) -> Verdict {
    walk.begin(packet.linear());
    let (Ok(verdict) | Err(Halt(verdict))) = path::<P, T, K>(packet, tables, walk);
    let Walk { parsed, trail } = walk;
    tables.count(verdict.reason(), trail.vip_row, trail.backend_row, parsed.length.into());
    verdict
}

#[inline(always)]
fn path<P: Packet, T: Tables, K: Tracker>(
    packet: &mut P,
    tables: &T,
    Walk { parsed, trail }: &mut Walk,
) -> Result<Verdict, Halt> {
    bypass(tables)?;
    parse::parse(packet, parsed)?;
    match vip::find(parsed, tables, trail)? {
        Target::Vip(vip) => {
            bulkhead::admit(parsed, vip, tables, trail)?;
            match connection::backend::<T, K>(parsed, vip, tables, trail)? {
                NOBODY => Err(refuse::unserved(packet, parsed, tables, trail)),
                backend => forward::forward(packet, parsed, vip, backend, tables, trail),
            }
        }
        Target::Reply => match nat::reply(packet, parsed, tables, trail)? {
            Reply::Sent(verdict) => Ok(verdict),
            Reply::TooBig { mtu } => Err(icmp::too_big(packet, parsed, mtu, tables)),
        },
        Target::Echo => icmp::echo(packet, parsed, tables),
    }
}

/// The emergency exit: every packet passes while it is on.
#[inline(always)]
fn bypass<T: Tables>(tables: &T) -> Result<(), Halt> {
    match tables.config() {
        Some(config) if config.bypass.load() == 0 => Ok(()),
        _ => Err(Halt::pass(Reason::Bypass)),
    }
}

/// A packet's notes on its way, in memory of the caller's: in the kernel, of this CPU's. All-zero bytes are a valid
/// value.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Walk {
    /// What the packet is.
    pub parsed: Parsed,
    /// What was found for it.
    pub trail: Trail,
}

impl Walk {
    /// Forgets the packet before, for one whose linear part is so long, bytes.
    #[inline(always)]
    pub fn begin(&mut self, linear: u32) {
        self.parsed.begin(linear);
        self.trail.begin();
    }
}

/// What the path found on its way: for the counters, and for whoever asks why.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Trail {
    /// Row of the vip, or [`NO_ROW`].
    pub vip_row: u32,
    /// Row of the backend, or [`NO_ROW`].
    pub backend_row: u32,
    /// The flow hash; means something where there is a choice.
    pub hash: u64,
    /// The slot as it was read; means something where there is a choice.
    pub slot: Slot,
    /// Slot number within the vip's table; means something where there is a choice.
    pub slot_number: u32,
    /// How the backend was found.
    pub choice: Choice,
    /// Why the packet is dropped if it gets no backend.
    pub refusal: Reason,
    /// What was done to entries of the flow table; means something where the flow was looked up.
    pub moves: bulkhead::Moves,
    /// NAT's search for the flow's port.
    pub search: nat::Search,
}

impl Trail {
    #[inline(always)]
    fn begin(&mut self) {
        (self.vip_row, self.backend_row, self.choice) = (NO_ROW, NO_ROW, Choice::None);
        self.refusal = Reason::NoBackend;
    }
}

/// How a backend was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Choice {
    /// It was not.
    #[default]
    None = 0,
    /// By the slot alone.
    Slot,
    /// By a remembered flow.
    Remembered,
    /// A new flow of a moving slot, or one that must be tracked: remembered now.
    Inserted,
    /// A new flow for which the vip's algorithm picked one: remembered now.
    Picked,
    /// An older flow of a moving slot: the backend from before the change.
    Previous,
    /// A new connection of a backend on trial that has no token for it: another backend's, remembered now.
    SetAside,
}
