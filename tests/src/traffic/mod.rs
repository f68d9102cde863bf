//! Traffic as users make it: programs of backends (nginx, echo) and clients of all kinds that count what
//! happened. Nothing here knows of a balancer: whoever has the address answers.

pub mod curl;
pub mod echo;
pub mod failure;
pub mod flood;
pub mod http;
pub mod nginx;
pub mod pattern;
pub mod pool;
pub mod priority;
pub mod probed;
mod task;
pub mod udp;
pub mod wrk;

pub use curl::{Reply, download, echo_transfer, fetch, fetch_within, url};
pub use failure::{Failure, Stage};
pub use flood::{Flood, RunningFlood};
pub use http::{HttpLoad, HttpReport, Reuse, RunningHttpLoad};
pub use pool::{ConnectionPool, LivePool, PoolReport};
pub use udp::{RunningUdpLoad, UdpLoad, UdpReport, ask_once};
pub use wrk::{Wrk, WrkReport};
