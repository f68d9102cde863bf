//! Whole networks in namespaces: clients, router, node and backends, cabled and addressed.
//!
//! ```text
//! Switched   client -- [edge --] router -- fabric (bridge) -+- node
//!                                                           +- b0, b1, …     backends reply to the router
//! Routed     client -- [edge --] router -+- fabric (bridge) --- node
//!                                        +- bridge --- b0, b1, …             backends one hop from the node
//! Direct     client -- node -+- b0
//!                            +- b1, …                                        replies come back over the node
//! ```
//! The first hop of the clients routes the vip prefixes to the node. With `path_mtu`, an edge router stands
//! between clients and router and the cable between these two has the lower MTU.
//! What is balanced, and by whom, is not decided here: the node is left as a plain host with a cold
//! neighbour table (it forwards only in `Direct`, where replies need it).

mod address;
mod backend;
mod build;
mod builder;
mod plan;
mod tagging;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};

pub use address::{MEMBERS_MAX, Pair, VIP4_PREFIX, VIP6_PREFIX, vip};
pub use backend::{Backend, BackendSetup, ECHO_PORT};
pub use builder::TopologyBuilder;
pub use tagging::Tagging;

use crate::counters::interface_table;
use crate::netns::Namespace;
use crate::scratch::ScratchDir;
use crate::sweep::names_of_process;

/// How node and backends are cabled; see the picture in the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Layout {
    /// Router, node and backends on one L2 segment.
    #[default]
    Switched,
    /// Backends on a segment of their own behind the router.
    Routed,
    /// Each backend on its own cable to the node, clients too; no router.
    Direct,
}

/// A namespace with one address of each family: a client or the router.
#[derive(Debug)]
pub struct Host {
    /// Where it lives.
    pub ns: Namespace,
    /// Its addresses: of a client its only ones, of the router those on the fabric.
    pub addresses: Pair,
}

/// The balancer's place.
#[derive(Debug)]
pub struct Node {
    /// Where it lives.
    pub ns: Namespace,
    /// Its own addresses, on the uplink.
    pub addresses: Pair,
    /// The bare devices that packets to vips come in by: attach XDP here. One, `eth0`, but in
    /// [`Layout::Direct`] with several clients.
    pub uplinks: Vec<String>,
}

impl Node {
    /// The first (mostly only) device to attach XDP to.
    #[must_use]
    pub fn uplink(&self) -> &str {
        &self.uplinks[0]
    }
}

/// A network that is up. Dropping it ends all programs in it and removes it.
#[derive(Debug)]
pub struct Topology {
    backends: Vec<Backend>,
    clients: Vec<Host>,
    node: Node,
    router: Option<Host>,
    edge: Option<Namespace>,
    fabric: Option<Namespace>,
    /// Programs on cables, attached while these are open.
    links: Vec<OwnedFd>,
    spec: TopologyBuilder,
    group: u32,
    dir: ScratchDir,
}

impl Topology {
    /// Starts the description of a topology: one client, three backends, one vip, switched, MTU 1500.
    #[must_use]
    pub fn builder() -> TopologyBuilder {
        TopologyBuilder::new()
    }

    /// The first client's namespace.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        &self.clients[0].ns
    }

    /// All clients.
    #[must_use]
    pub fn clients(&self) -> &[Host] {
        &self.clients
    }

    /// The router, which [`Layout::Direct`] lacks.
    #[must_use]
    pub fn router(&self) -> Option<&Host> {
        self.router.as_ref()
    }

    /// The low-MTU router before the clients, there with `path_mtu` only.
    #[must_use]
    pub fn edge(&self) -> Option<&Namespace> {
        self.edge.as_ref()
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// All backends, killed ones too.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The names of all backends.
    #[must_use]
    pub fn backend_names(&self) -> BTreeSet<String> {
        self.backends.iter().map(|backend| backend.name().to_owned()).collect()
    }

    /// One backend, to kill, pause or cut.
    ///
    /// # Panics
    /// When there is none of this index.
    pub fn backend_mut(&mut self, index: usize) -> &mut Backend {
        &mut self.backends[index]
    }

    /// The first vip's IPv4 address and `port`.
    #[must_use]
    pub fn vip4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(vip(0).v4.into(), port)
    }

    /// The first vip's IPv6 address and `port`.
    #[must_use]
    pub fn vip6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(vip(0).v6.into(), port)
    }

    /// A private directory for sockets, journals and logs; goes with the topology.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Bytes that `/file` has.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.spec.file_bytes
    }

    /// Adds a backend to the running network, starts its programs and returns it.
    ///
    /// # Errors
    /// When it cannot be cabled or started.
    pub fn add_backend(&mut self) -> Result<&mut Backend> {
        self.build_backend()?;
        self.backends.last_mut().context("a backend was added")
    }

    /// Makes the node a plain router that spreads the `vip`-th vip over `backends` by the kernel's own
    /// multipath routes (over addresses and ports): the yardstick, and a network to try without a balancer.
    /// Not for [`Layout::Routed`], where the kernel cannot steer past the router.
    ///
    /// # Errors
    /// When the kernel refuses, or there is no such backend.
    pub fn steer_by_kernel(&self, vip: usize, backends: &[usize]) -> Result<()> {
        let node = &self.node.ns;
        node.write_sysctls(&[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.fib_multipath_hash_policy", "1"),
            ("net.ipv6.fib_multipath_hash_policy", "1"),
        ])?;
        let vip = address::vip(vip);
        let mut lines = [format!("route replace {}/32", vip.v4), format!("route replace {}/128", vip.v6)];
        for index in backends {
            let backend = self.backends.get(*index).with_context(|| format!("no backend {index}"))?;
            for (line, hop) in lines.iter_mut().zip(backend.addresses().both()) {
                let _ = write!(line, " nexthop via {hop}");
            }
        }
        node.ip_batch(&(lines.join("\n") + "\n"))
    }

    /// All namespaces of this topology.
    #[must_use]
    pub fn namespaces(&self) -> Vec<&Namespace> {
        let hosts = self.clients.iter().chain(&self.router).map(|host| &host.ns);
        hosts
            .chain(&self.edge)
            .chain(&self.fabric)
            .chain([&self.node.ns])
            .chain(self.backends.iter().map(|backend| &backend.ns))
            .collect()
    }

    /// What this topology has left on the machine: nothing, once it is dropped. Take the number before.
    #[must_use]
    pub fn leftovers(group: u32) -> Vec<String> {
        let own = format!("lb-{}-{group}-", std::process::id());
        names_of_process(std::process::id()).into_iter().filter(|name| name.starts_with(&own)).collect()
    }

    /// The number in the names of its namespaces.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.group
    }

    /// Links, addresses, counters, routes and neighbours of every namespace, for the message of a failed test.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for namespace in self.namespaces() {
            let _ = writeln!(text, "==== {}", namespace.name());
            for line in ["ip -br link", "ip -br addr", "ip route", "ip -6 route", "ip neigh"] {
                let answer = namespace.shell(line).unwrap_or_else(|error| format!("{error:#}\n"));
                let _ = write!(text, "-- {line}\n{answer}");
            }
            let counters = interface_table(namespace).unwrap_or_else(|error| format!("{error:#}\n"));
            let _ = write!(text, "-- counters\n{counters}");
        }
        text
    }
}
