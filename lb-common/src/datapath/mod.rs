//! The packet path, in packet order: `parse`, `vip`, `bulkhead`, `connection` (with `select`), `forward` (with `nat`);
//! `icmp` and `refuse` answer, `link` writes the Ethernet header, `decap` is the backend's side of a tunnel. [`pipeline::run`] is
//! the whole of it on one screen. The data path has no errors, only verdicts.

pub mod bulkhead;
pub mod connection;
pub mod decap;
pub mod flow_table;
pub mod forward;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod icmp;
pub mod link;
pub mod nat;
pub mod packet;
pub mod parse;
pub mod pipeline;
pub mod refuse;
pub mod select;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod trial;
pub mod vip;
pub mod wire;

use crate::reason::Reason;

/// What to do with a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand it to the kernel.
    Pass(Reason),
    /// Drop it.
    Drop(Reason),
    /// Send it out of the device that it came in by.
    Transmit(Reason),
    /// Send it out of the device of this egress row.
    Redirect(Reason, u16),
}

impl Verdict {
    /// Why.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Drop(reason) | Self::Transmit(reason) | Self::Redirect(reason, _) => {
                reason
            }
        }
    }
}

/// The path ends here: what `?` carries out of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt(pub Verdict);

impl Halt {
    /// Not ours.
    pub const fn pass(reason: Reason) -> Self {
        Self(Verdict::Pass(reason))
    }
    /// Ours and refused, or malformed.
    pub const fn drop(reason: Reason) -> Self {
        Self(Verdict::Drop(reason))
    }
    /// Turned into an answer to who sent it.
    pub const fn answer(reason: Reason) -> Self {
        Self(Verdict::Transmit(reason))
    }
}
