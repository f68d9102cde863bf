//! Test bench: networks in namespaces, real traffic through them, and what was counted on the way.
//!
//! Used by the integration tests of this crate, by the demo and by the bench. Of the balancer only `balancer`
//! knows; all else builds the network around it. A test in full:
//!
//! ```no_run
//! use lb_tests::{require_root, topology::Topology, traffic::fetch};
//!
//! fn curl_reaches_a_backend() {
//!     require_root!("curl_reaches_a_backend", "nginx", "curl");
//!     let net = Topology::builder().backends(3).build().unwrap();
//!     // Start a `balancer::Balancer` here and attach it to net.node().uplink().
//!     let reply = fetch(net.client(), net.vip4(80), "/").unwrap();
//!     assert!(net.backend_names().contains(&reply.text()), "{reply:?}\n{}", net.describe());
//! }
//! # curl_reaches_a_backend();
//! ```

pub mod balancer;
pub mod bench;
pub mod capture;
pub mod counters;
pub mod demo;
pub mod differential;
pub mod interrupt;
pub mod netns;
pub mod ping;
pub mod process;
pub mod scratch;
pub mod site;
pub mod skip;
pub mod sweep;
pub mod topology;
pub mod traffic;
pub mod wait;
