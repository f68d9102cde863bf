//! NAT flows. A row *is* a port: source number, protocol and port are its index, so a reply finds its flow by the
//! port that it comes to, and the client's packets find it by trying the few ports that the flow hash allows.
//!
//! A row is claimed by compare-and-swap on `control`, filled, then published by `control`; a reader checks `control`
//! again after it read the rest. Who writes: the data plane; the daemon's sweep frees.

use super::word::{Word, field};
use crate::addr::Addr;
use crate::be::Be16;

/// What a NAT row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatState {
    /// Nothing.
    Free = 0,
    /// Being filled by some CPU.
    Claimed = 1,
    /// A flow.
    Live = 2,
    /// A flow that one side closed or reset.
    Closing = 3,
}

/// A NAT row's word for compare-and-swap.
///
/// | bits | field |
/// |---|---|
/// | 0-15 | backend row |
/// | 16-17 | [`NatState`] |
/// | 18-31 | generation: counts the uses of the row |
/// | 32-63 | last packet from the client or the backend, seconds since boot |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NatControl(pub u64);

impl NatControl {
    /// Packs a control word.
    #[inline(always)]
    pub const fn new(backend: u16, state: NatState, generation: u16, seen_s: u32) -> Self {
        Self(
            backend as u64
                | (state as u64) << 16
                | (generation as u64 & 0x3fff) << 18
                | (seen_s as u64) << 32,
        )
    }
    /// Backend row.
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        self.0 as u16
    }
    /// State.
    #[inline(always)]
    pub const fn state(self) -> NatState {
        match field(self.0, 16, 2) {
            0 => NatState::Free,
            1 => NatState::Claimed,
            2 => NatState::Live,
            _ => NatState::Closing,
        }
    }
    /// Generation.
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        field(self.0, 18, 14) as u16
    }
    /// Last packet, seconds since boot.
    #[inline(always)]
    pub const fn seen_s(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// Seconds since the last packet; another CPU's next second counts as now.
    #[inline(always)]
    pub const fn age_s(self, now_s: u32) -> u32 {
        let age = now_s.wrapping_sub(self.seen_s());
        if age > i32::MAX as u32 { 0 } else { age }
    }
}

/// A NAT flow.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NatRow {
    /// [`NatControl`].
    pub control: Word,
    /// Client port (bits 0-15) and vip port (16-31) as they lie in memory, VLAN tags towards the client: number
    /// (32-33), VLAN ids outer (36-47) and inner (48-59).
    pub ports: Word,
    /// The client's address.
    pub client: [Word; 2],
    /// The vip's address.
    pub vip: [Word; 2],
    /// Where the client's packets came from: MAC (bits 0-47) and egress row of the device (48-63), as
    /// [`super::backend::NextHop`].
    pub back: Word,
    /// Our own MAC towards the client (bits 0-47).
    pub own_mac: Word,
}

const _: () = assert!(size_of::<NatRow>() == 64);

impl NatRow {
    /// The client's address.
    #[inline(always)]
    pub fn client_address(&self) -> Addr {
        Addr::from_words([self.client[0].load(), self.client[1].load()])
    }
    /// The vip's address.
    #[inline(always)]
    pub fn vip_address(&self) -> Addr {
        Addr::from_words([self.vip[0].load(), self.vip[1].load()])
    }
}

/// Client and vip port, the low half of the `ports` word.
#[inline(always)]
pub const fn port_pair(client: Be16, vip: Be16) -> u32 {
    client.raw() as u32 | (vip.raw() as u32) << 16
}
