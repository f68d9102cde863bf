//! NAT flows. A row *is* a port: the plane of the backend, protocol and port are its index. A reply finds its flow by
//! where it comes from and the port that it comes to; the client's packets find it by trying the few ports that the
//! flow hash allows.
//!
//! A row is claimed by compare-and-swap on `control`, filled, then published by `control`; a reader checks `control`
//! again after it read the rest. Who writes: the data plane; the daemon's sweep frees.

use super::egress::Tags;
use super::word::{Word, field};
use crate::addr::Addr;
use crate::be::Be16;
use crate::limits::{NAT_CLOSING_S, NAT_HALF_CLOSED_S, NAT_PORT_FIRST, NAT_PORTS, NAT_REST_S, SYN_TIMEOUT_S};

/// What a NAT row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatState {
    /// Nothing.
    Free = 0,
    /// Being filled by some CPU.
    Claimed = 1,
    /// A flow.
    Live = 2,
    /// A flow that both sides closed, or that was refused.
    Closing = 3,
    /// A flow of which the client has sent nothing but its beginning: the first to go where ports are short.
    Opening = 4,
    /// A flow that one side reset, or somebody else in its name: it goes before others do where ports are short.
    Reset = 5,
    /// A flow that its client closed: the backend may still answer.
    ClientClosed = 6,
    /// A flow that its backend closed: the client may still send.
    BackendClosed = 7,
}

impl NatState {
    /// By state: after so long without a packet a row may go to another flow, seconds; `idle_s` is the vip's time.
    ///
    /// A NAT cannot tell a forged FIN or RST from a true one, so what one packet says does not end a flow at once.
    #[inline(always)]
    pub const fn rest_s(udp: bool, idle_s: u32) -> [u32; 8] {
        let opening_s = if udp || idle_s < SYN_TIMEOUT_S { idle_s } else { SYN_TIMEOUT_S };
        let reset_s = if idle_s < NAT_REST_S { idle_s } else { NAT_REST_S };
        let half_s = if idle_s > NAT_HALF_CLOSED_S { idle_s } else { NAT_HALF_CLOSED_S };
        let (live_s, half_s) = (idle_s.saturating_add(1), half_s.saturating_add(1));
        [0, u32::MAX, live_s, NAT_CLOSING_S + 1, opening_s.saturating_add(1), reset_s + 1, half_s, half_s]
    }
}

/// A NAT row's word for compare-and-swap.
///
/// | bits | field |
/// |---|---|
/// | 0-15 | backend row |
/// | 16-18 | [`NatState`] |
/// | 19-31 | generation: counts the uses of the row |
/// | 32-63 | last packet from the client or the backend, seconds since boot; of a free row, that of its last flow |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NatControl(pub u64);

impl NatControl {
    /// Packs a control word.
    #[inline(always)]
    pub const fn new(backend: u16, state: NatState, generation: u16, seen_s: u32) -> Self {
        Self(
            backend as u64
                | (state as u64) << 16
                | (generation as u64 & 0x1fff) << 19
                | (seen_s as u64) << 32,
        )
    }
    /// Backend row.
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        self.0 as u16
    }
    /// The bits of the state.
    #[inline(always)]
    pub const fn state_bits(self) -> usize {
        field(self.0, 16, 3) as usize
    }
    /// Whether the row holds a flow.
    #[inline(always)]
    pub const fn is_flow(self) -> bool {
        self.state_bits() >= NatState::Live as usize
    }
    /// Whether the flow gives its port to a new one where there is no other: it opens, or was reset.
    #[inline(always)]
    pub const fn yields(self) -> bool {
        self.state_bits() | 1 == NatState::Reset as usize
    }
    /// State.
    #[inline(always)]
    pub const fn state(self) -> NatState {
        match self.state_bits() {
            0 => NatState::Free,
            1 => NatState::Claimed,
            2 => NatState::Live,
            3 => NatState::Closing,
            4 => NatState::Opening,
            5 => NatState::Reset,
            6 => NatState::ClientClosed,
            _ => NatState::BackendClosed,
        }
    }
    /// Generation.
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        field(self.0, 19, 13) as u16
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
    /// Whether the flow in the row may be forgotten: it had no packet for longer than its state allows; `idle_s` is its
    /// vip's time, seconds.
    #[inline(always)]
    pub const fn is_over(self, now_s: u32, udp: bool, idle_s: u32) -> bool {
        self.age_s(now_s) >= NatState::rest_s(udp, idle_s)[self.state_bits()]
    }
}

/// A NAT flow.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NatRow {
    /// [`NatControl`].
    pub control: Word,
    /// Client port (bits 0-15) and vip port (16-31) as they lie in memory, number of VLAN tags towards the client
    /// (32-33), whether the first one's kind is unusual (34), their VLAN ids, outer (36-47) and inner (48-59).
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

/// Index of the first row for a backend and protocol: rows `first..first + NAT_PORTS`, by port. `rows` is the size of
/// the table, a power of two of whole planes.
#[inline(always)]
pub const fn first_row(backend: &Addr, port: Be16, udp: bool, rows: u32) -> u32 {
    let words = backend.words();
    let mixed = (words[0] ^ words[1].rotate_left(32) ^ port.raw() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let planes = rows / (2 * NAT_PORTS);
    let plane = (mixed >> 32) as u32 & planes.wrapping_sub(1);
    (plane * 2 + udp as u32) * NAT_PORTS
}

/// Whether a row is one of the UDP ports.
pub const fn is_udp(row: usize) -> bool {
    row / NAT_PORTS as usize % 2 == 1
}

/// The `attempt`-th port, in host order, that a flow with this hash may use.
#[inline(always)]
pub const fn port_of(hash: u64, attempt: u32) -> u32 {
    let spread = (hash as u32).wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    NAT_PORT_FIRST + ((spread as u64 * (NAT_PORTS - NAT_PORT_FIRST) as u64) >> 32) as u32
}

/// Client and vip port, the low half of the `ports` word.
#[inline(always)]
pub const fn port_pair(client: Be16, vip: Be16) -> u32 {
    client.raw() as u32 | (vip.raw() as u32) << 16
}

/// The `ports` word: ports, and VLAN tags without their priorities.
#[inline(always)]
pub const fn ports_word(client: Be16, vip: Be16, tags: Tags) -> u64 {
    port_pair(client, vip) as u64
        | (tags.count() as u64 & 3) << 32
        | (tags.is_unusual() as u64) << 34
        | (tags.first() as u64 & 0xfff) << 36
        | (tags.second() as u64 & 0xfff) << 48
}

/// The VLAN tags of a `ports` word.
#[inline(always)]
pub const fn tags_of(ports: u64) -> Tags {
    let (outer, inner) = (field(ports, 36, 12) as u16, field(ports, 48, 12) as u16);
    let tags = match field(ports, 32, 2) {
        0 => Tags::NONE,
        1 => Tags::one(outer),
        _ => Tags::two(outer, inner),
    };
    tags.with_unusual(field(ports, 34, 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_tags_share_a_word() {
        let (client, vip) = (Be16::new(40_001), Be16::new(80));
        for tags in [Tags::NONE, Tags::one(0xfff), Tags::two(0xabc, 0x123)] {
            for tags in [tags, tags.with_unusual(true)] {
                let word = ports_word(client, vip, tags);
                assert_eq!((word as u32, tags_of(word)), (port_pair(client, vip), tags));
            }
        }
    }

    #[test]
    fn a_reply_carries_no_tags_priority() {
        let word = ports_word(Be16::new(1), Be16::new(2), Tags::two(0xe00a, 0x6123));
        assert_eq!(tags_of(word), Tags::two(0x00a, 0x123));
    }

    #[test]
    fn another_cpus_next_second_is_now() {
        let live = NatControl::new(1, NatState::Live, 0, 1_001);
        assert_eq!((live.age_s(1_000), live.age_s(1_003)), (0, 2));
        assert!(!live.is_over(1_000, false, 900));
    }

    #[test]
    fn ports_and_rows_stay_in_range() {
        for hash in [0, 1, u64::MAX, 0x8000_0000, 0xdead_beef_dead_beef] {
            for attempt in 0..crate::limits::NAT_PROBES {
                let port = port_of(hash, attempt);
                assert!((NAT_PORT_FIRST..NAT_PORTS).contains(&port));
            }
        }
        let rows = 4 * 2 * NAT_PORTS;
        for n in 0..1_000u32 {
            let addr = Addr([0, 0, 0xffff_0000, n]);
            assert!(first_row(&addr, Be16::new(80), true, rows) + NAT_PORTS <= rows);
        }
    }
}
