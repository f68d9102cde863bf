//! Connections and packets of the simulation: who sends what, and when.

use super::node::{PLAN_S, Segment, VIPS, WINDOW_S};
use crate::abi::flow::EntryState;
use crate::datapath::wire::transport::{ACK, SYN, TCP};
use fastrand::Rng;

/// What the table holds of a connection, after a packet of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// It had to remember nothing: the slot alone says the backend.
    Slot,
    /// It should have remembered, but could not.
    Failed,
    /// An entry in this state, which is not the confirmed one.
    Unconfirmed(EntryState),
    /// A confirmed entry.
    Confirmed,
}

/// A connection, as the model remembers it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Number, over a whole sequence.
    pub(super) id: u64,
    pub(super) vip: usize,
    pub(super) client: (u32, u16),
    /// Sequence number of its SYN.
    pub(super) isn: u32,
    /// Bytes that it sent.
    pub(super) sent: u32,
    /// Whether the client has answered the backend's SYN; true for UDP.
    pub(super) open: bool,
    /// The backend's row.
    pub(super) backend: u16,
    /// When it sends next, seconds since boot.
    pub(super) next_s: u32,
    /// Mean seconds between its packets.
    pub(super) pace_s: u32,
    pub(super) memory: Memory,
}

impl Connection {
    /// A connection of a client of its own.
    pub(super) fn new(id: u64, now_s: u32, rng: &mut Rng) -> Self {
        Self {
            id,
            vip: rng.usize(0..VIPS.len()),
            client: (0x0a00_0000 | rng.u32(0..1 << 20), rng.u16(1..)),
            isn: rng.u32(..),
            sent: 0,
            open: false,
            backend: 0,
            next_s: now_s,
            pace_s: if rng.u8(0..4) == 0 { 1 } else { WINDOW_S / 2 },
            memory: Memory::Slot,
        }
    }
    /// Another connection of the same client, from the same port.
    pub(super) fn again(&self, id: u64, now_s: u32, rng: &mut Rng) -> Self {
        let Self { vip, client, pace_s, .. } = *self;
        let next_s = now_s + rng.u32(0..2 * WINDOW_S);
        Self { vip, client, pace_s, next_s, ..Self::new(id, now_s, rng) }
    }
    pub(super) fn is_tcp(&self) -> bool {
        VIPS[self.vip].0 == TCP
    }
    /// Its next packet.
    pub(super) fn next(&self, rng: &mut Rng) -> Segment {
        let (vip, client) = (self.vip, self.client);
        if !self.open && self.is_tcp() && self.backend == 0 {
            return Segment { vip, client, flags: SYN, sequence: self.isn, data: 0 };
        }
        let sequence = self.isn.wrapping_add(1).wrapping_add(self.sent);
        Segment { vip, client, flags: ACK, sequence, data: rng.u16(0..10) }
    }
    /// Whether it sends so often that no window can miss it.
    pub(super) fn is_chatty(&self) -> bool {
        self.pace_s == 1
    }
    /// Plans the packet after the next: within the window, less the time that a plan may take.
    pub(super) fn rest(&mut self, now_s: u32, rng: &mut Rng) {
        let longest = if self.open { (2 * self.pace_s).min(WINDOW_S - PLAN_S) } else { 2 };
        self.next_s = now_s + rng.u32(0..=longest);
    }
}

/// A packet of a flood: of a tuple that no connection has.
pub(super) fn flood(rng: &mut Rng) -> Segment {
    let vip = rng.usize(0..VIPS.len());
    let flags = if rng.bool() { SYN } else { ACK };
    Segment {
        vip,
        client: (0xc000_0000 | rng.u32(0..1 << 24), rng.u16(1..)),
        flags,
        sequence: rng.u32(..),
        data: 0,
    }
}
