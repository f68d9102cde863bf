//! The packet path. `?` is its only control flow: a stage either has the next one's input or the packet's verdict.

use super::connection::Tracker;
use super::packet::Packet;
use super::tables::{NO_ROW, Tables};
use super::vip::Target;
use super::{Halt, Verdict, connection, forward, icmp, nat, parse, vip};
use crate::abi::slot::Slot;
use crate::reason::Reason;

/// Runs a packet through the balancer, counts it once and says what to do with it.
#[inline(always)]
pub fn run<P: Packet, T: Tables, K: Tracker>(packet: &mut P, tables: &T, trail: &mut Trail) -> Verdict {
    let bytes = packet.length();
    let (Ok(verdict) | Err(Halt(verdict))) = path::<P, T, K>(packet, tables, trail);
    tables.count(verdict.reason(), trail.vip_row, trail.backend_row, bytes.into());
    verdict
}

#[inline(always)]
fn path<P: Packet, T: Tables, K: Tracker>(packet: &mut P, tables: &T, trail: &mut Trail) -> Result<Verdict, Halt> {
    bypass(tables)?;
    let parsed = parse::parse(packet)?;
    match vip::find(&parsed, tables, trail)? {
        Target::Vip(vip) => {
            let backend = connection::backend::<T, K>(&parsed, vip, tables, trail)?;
            forward::forward(packet, &parsed, vip, backend, tables, trail)
        }
        Target::Reply => nat::reply(packet, &parsed, tables, trail),
        Target::Echo => icmp::echo(packet, &parsed, tables),
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

/// What the path found on its way: for the counters, and for whoever asks why.
#[derive(Clone, Copy, Debug)]
pub struct Trail {
    /// Row of the vip, or [`NO_ROW`].
    pub vip_row: u32,
    /// Row of the backend, or [`NO_ROW`].
    pub backend_row: u32,
    /// The flow hash; 0 if none was computed.
    pub hash: u64,
    /// Slot number within the vip's table.
    pub slot_number: u32,
    /// The slot as it was read.
    pub slot: Slot,
    /// How the backend was found.
    pub choice: Choice,
}

/// How a backend was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It was not.
    None,
    /// By the slot alone.
    Slot,
    /// By a remembered flow.
    Remembered,
    /// A new flow of a moving slot, or one that must be tracked: remembered now.
    Inserted,
    /// An older flow of a moving slot: the backend from before the change.
    Previous,
}

impl Trail {
    /// Nothing found yet.
    #[inline(always)]
    pub const fn new() -> Self {
        Self {
            vip_row: NO_ROW,
            backend_row: NO_ROW,
            hash: 0,
            slot_number: 0,
            slot: Slot(0),
            choice: Choice::None,
        }
    }
}

impl Default for Trail {
    fn default() -> Self {
        Self::new()
    }
}
