//! The edges: disk, kernel, sockets, clock. Every file here is a thin adapter; what is decided is decided in
//! `lb_control`, and what happens to packets in `lb_common`.
//!
//! ```text
//! CLI -> api -> engine -> journal          one writer, durable before acknowledged
//!         ^------------- projection        readers: the log folded, never the engine
//!                  \-> reconcile -> dataplane    desired against read back
//! probe, neighbour ------^                 what is observed, never in the journal
//! ```

pub mod address;
pub mod api;
pub mod breakers;
pub mod cli;
mod clock;
pub mod config;
pub mod dataplane;
pub mod engine;
pub mod journal;
pub mod memory;
pub mod metrics;
pub mod neighbour;
mod netlink;
pub mod probe;
pub mod problem;
pub mod projection;
pub mod reconcile;
pub mod samples;
pub mod serve;
pub mod suggest;
pub mod suspects;
pub mod terminal;
mod vital;
