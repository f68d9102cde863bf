//! The control core: what people ask for, what was decided, what follows for the maps. All of it is pure.
//!
//! ```text
//! Command -> decide(&State, ..) -> events -> State::apply -> desired(&State, &Observed) -> diff(.., &Actual) -> ops
//! ```
//!
//! What is deliberately not here: files, sockets, the kernel, a clock, randomness, threads. Time and everything
//! that was observed enter as arguments; the edges live in `lb-userspace`.
//!
//! Invariants:
//! - the same arguments give the same answer: ordered maps (others are looked up in, never walked), no clock, no
//!   randomness;
//! - a rejected command changes nothing and says, by a stable code, what to do;
//! - [`state::State::apply`] is total: the log, replayed, gives the same state and digest;
//! - every prefix of a [`plan::Plan`] leaves the maps safe for packets.
#![forbid(unsafe_code)]

pub mod backend;
pub mod backoff;
pub mod balancing;
pub mod breaker;
pub mod code;
pub mod command;
pub mod decide;
pub mod degradation;
pub mod event;
pub mod health;
pub mod ledger;
pub mod limits;
pub mod observation;
pub mod plan;
pub mod probe;
pub mod projection;
pub mod record;
pub mod rejection;
pub mod state;
pub mod step;
pub mod suspicion;
pub mod tenant;
pub mod vip;

#[cfg(test)]
mod testing;
