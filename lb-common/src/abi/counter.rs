//! Counters and meters, one value per CPU. Written by the data plane only.

use bytemuck::{Pod, Zeroable};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frame as it arrived, without the frame check sequence.
    pub bytes: u64,
}

/// What the node itself sends: each kind has a bucket of its own, so that no flood which asks for one silences another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What shows people the way: echo replies, and "hop limit used up". Anybody can ask for as many as he likes.
    Signpost = 0,
    /// What tells the client of a vip that nobody serves: resets, and "port unreachable".
    Refusal = 1,
    /// "Too big": a flow over a way of a smaller MTU stands still without it.
    TooBig = 2,
}

/// How many kinds of [`Answer`] there are.
pub const ANSWERS: u32 = 3;

/// A token bucket of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Meter {
    /// Time of the last refill, nanoseconds of the monotonic clock.
    pub refilled_ns: u64,
    /// Tokens left, in billionths of a packet.
    pub tokens: u64,
}

impl Meter {
    /// Takes one packet's token at `now_ns` out of a bucket that fills with `rate_pps` and holds `burst_packets`.
    /// An all-zero meter starts full. Returns whether there was one.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64, rate_pps: u64, burst_packets: u64) -> bool {
        const PACKET: u64 = 1_000_000_000;
        let full = burst_packets * PACKET;
        let elapsed_ns = now_ns.wrapping_sub(self.refilled_ns);
        // Past the time that fills the bucket more time adds nothing, and the product cannot overflow.
        let refilled = if self.refilled_ns == 0 || elapsed_ns >= full / rate_pps {
            full
        } else {
            let sum = self.tokens + elapsed_ns * rate_pps;
            if sum > full { full } else { sum }
        };
        self.refilled_ns = now_ns;
        let allowed = refilled >= PACKET;
        self.tokens = if allowed { refilled - PACKET } else { refilled };
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_gives_its_burst_then_its_rate() {
        let mut meter = Meter::default();
        let mut now = 1_000_000_000_000;
        assert_eq!((0..100).filter(|_| meter.take(now, 1_000, 10)).count(), 10);
        let mut given = 0;
        for _ in 0..100_000 {
            now += 10_000;
            given += u64::from(meter.take(now, 1_000, 10));
        }
        assert_eq!(given, 1_000);
        now += 3_600_000_000_000;
        assert_eq!((0..100).filter(|_| meter.take(now, 1_000, 10)).count(), 10);
    }
}
