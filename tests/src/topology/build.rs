//! From a description (`builder`) to a running network: namespaces, cables, addresses, routes, programs.

use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::address::{self, Pair};
use super::plan::{Plan, Plug, Role, set_common_sysctls};
use super::tagging::Tagging;
use super::{
    Backend, BackendSetup, Host, Layout, MEMBERS_MAX, Node, Topology, TopologyBuilder, VIP4_PREFIX,
    VIP6_PREFIX,
};
use crate::netns::{Namespace, next_group};
use crate::ping::wait_reachable;
use crate::scratch::ScratchDir;
use crate::sweep::sweep_stale;
use crate::traffic::nginx::NginxSpec;
use crate::traffic::pattern;

/// Longest wait for the network to carry packets.
const READY_DEADLINE: Duration = Duration::from_secs(10);

/// Done once in each process, before its first topology: leftovers of dead runs are swept, and as many files
/// allowed as can be (both ends of all connections may be in this process).
static PREPARED: Once = Once::new();

/// Both families' default routes.
const DEFAULT: (&str, &str) = ("default", "default");

/// Kinds of cables, as they show in MAC addresses.
mod cable {
    pub(super) const CLIENT: u8 = 0x50;
    pub(super) const EDGE: u8 = 0x51;
    pub(super) const FABRIC: u8 = 0x60;
    pub(super) const NODE: u8 = 0x61;
    pub(super) const BACKENDS: u8 = 0x70;
    pub(super) const BACKEND: u8 = 0x80;
}

impl TopologyBuilder {
    /// Builds it and returns when every host answers; the node's neighbour table is cold then.
    ///
    /// # Errors
    /// Without root, when a tool is missing, when the description contradicts itself, or when it does not
    /// come up in 10 s. What was made is removed.
    pub fn build(self) -> Result<Topology> {
        self.check()?;
        PREPARED.call_once(|| {
            drop(sweep_stale());
            raise_file_limit();
        });
        let (group, dir) = (next_group(), ScratchDir::create()?);
        if self.start_programs {
            pattern::write_file(&dir.path().join("file"), self.file_bytes)?;
        }
        let backends = self.backends;
        let mut topology = self.open_rooms(group, dir)?;
        topology.links = topology.plan_core().apply().context("cable the network")?;
        for _ in 0..backends {
            topology.build_backend()?;
        }
        topology.wait_ready()?;
        Ok(topology)
    }

    /// Makes the namespaces of all but the backends, with their settings.
    fn open_rooms(self, group: u32, dir: ScratchDir) -> Result<Topology> {
        let direct = self.layout == Layout::Direct;
        let mut roles: Vec<(String, Role)> =
            (0..self.clients).map(|index| (format!("client{index}"), Role::Client)).collect();
        roles.push(("node".to_owned(), if direct { Role::ForwardingNode } else { Role::Node }));
        if !direct {
            roles.push(("router".to_owned(), Role::Router));
            roles.push(("fabric".to_owned(), Role::Switch));
        }
        if self.path_mtu.is_some() {
            roles.push(("edge".to_owned(), Role::Router));
        }
        let names: Vec<&str> = roles.iter().map(|(name, _)| name.as_str()).collect();
        let made = Namespace::create_in_group(group, &names)?;
        for (namespace, (_, role)) in made.iter().zip(&roles) {
            set_common_sysctls(namespace, *role)?;
        }
        let mut made = made.into_iter();
        let clients = made.by_ref().take(self.clients).enumerate();
        let clients = clients.map(|(index, ns)| Host { ns, addresses: address::client(index) }).collect();
        let node = self.node(made.next().context("namespace of the node")?);
        let router = if direct { None } else { made.next() }
            .map(|ns| Host { ns, addresses: address::fabric_gateway() });
        let fabric = if direct { None } else { made.next() };
        let edge = made.next();
        Ok(Topology {
            backends: Vec::new(),
            clients,
            node,
            router,
            edge,
            fabric,
            links: Vec::new(),
            spec: self,
            group,
            dir,
        })
    }

    fn node(&self, ns: Namespace) -> Node {
        let direct = self.layout == Layout::Direct;
        let uplinks = if direct { self.clients } else { 1 };
        Node {
            ns,
            addresses: if direct { address::client_gateway(0) } else { address::node() },
            uplinks: (0..uplinks).map(|index| format!("eth{index}")).collect(),
        }
    }
}

impl Topology {
    /// Everything but the backends.
    fn plan_core(&self) -> Plan<'_> {
        let mut plan = Plan::default();
        match (&self.router, &self.fabric) {
            (Some(router), Some(fabric)) => {
                self.plan_clients_by_router(&mut plan, &router.ns);
                self.plan_fabric(&mut plan, &router.ns, fabric);
            }
            _ => self.plan_clients_by_node(&mut plan),
        }
        plan
    }

    fn plan_clients_by_router<'a>(&'a self, plan: &mut Plan<'a>, router: &'a Namespace) {
        let first_hop = self.edge.as_ref().unwrap_or(router);
        for index in 0..self.clients.len() {
            self.plan_client(plan, index, first_hop, &format!("client{index}"), Tagging::Untagged);
        }
        let (Some(edge), Some(mtu)) = (&self.edge, self.spec.path_mtu) else { return };
        let inner = plug(edge, "router", cable::EDGE, 0, 1);
        let outer = plug(router, "edge", cable::EDGE, 0, 2);
        plan.cable(inner, outer, mtu, Tagging::Untagged);
        plan.address(edge, "router", address::edge(), None);
        plan.address(router, "edge", address::edge_gateway(), None);
        plan.route(edge, DEFAULT, address::edge_gateway(), None);
        plan.route(router, (address::CLIENTS4, address::CLIENTS6), address::edge(), None);
    }

    fn plan_clients_by_node<'a>(&'a self, plan: &mut Plan<'a>) {
        for (index, uplink) in self.node.uplinks.iter().enumerate() {
            self.plan_client(plan, index, &self.node.ns, uplink, self.spec.tagging);
            if self.spec.xdp_tx {
                plan.wake_by_xdp_tx(&self.clients[index].ns, "eth0");
            }
        }
    }

    fn plan_client<'a>(
        &'a self,
        plan: &mut Plan<'a>,
        index: usize,
        first_hop: &'a Namespace,
        device: &str,
        tagging: Tagging,
    ) {
        let client = &self.clients[index];
        let near = plug(&client.ns, "eth0", cable::CLIENT, index, 1);
        let far = plug(first_hop, device, cable::CLIENT, index, 2);
        plan.cable(near, far, self.spec.mtu, tagging);
        let route_mtu = tagging.route_mtu(self.spec.mtu);
        plan.address(&client.ns, "eth0", client.addresses, route_mtu);
        plan.address(first_hop, device, address::client_gateway(index), route_mtu);
        plan.route(&client.ns, DEFAULT, address::client_gateway(index), route_mtu);
    }

    fn plan_fabric<'a>(&'a self, plan: &mut Plan<'a>, router: &'a Namespace, fabric: &'a Namespace) {
        let (mtu, tagging, node) = (self.spec.mtu, self.spec.tagging, &self.node);
        add_bridge(plan, fabric, "nodes");
        let near = plug(router, "fabric", cable::FABRIC, 0, 1);
        plan.cable(near, plug(fabric, "p-router", cable::FABRIC, 0, 2), mtu, Tagging::Untagged);
        plan.line(fabric, "link set p-router master nodes");
        let near = plug(&node.ns, "eth0", cable::NODE, 0, 1);
        plan.cable(near, plug(fabric, "p-node", cable::NODE, 0, 2), mtu, tagging);
        plan.line(fabric, "link set p-node master nodes");
        plan.wake_by_xdp_tx(fabric, "p-node");

        plan.address(router, "fabric", address::fabric_gateway(), None);
        let route_mtu = tagging.route_mtu(mtu);
        plan.address(&node.ns, "eth0", node.addresses, route_mtu);
        plan.route(&node.ns, DEFAULT, address::fabric_gateway(), route_mtu);
        plan.route(router, (VIP4_PREFIX, VIP6_PREFIX), node.addresses, None);
        if self.spec.layout == Layout::Routed {
            let mtu = self.spec.backend_mtu.unwrap_or(mtu);
            add_bridge(plan, fabric, "backends");
            let near = plug(router, "backends", cable::BACKENDS, 0, 1);
            plan.cable(near, plug(fabric, "p-backends", cable::BACKENDS, 0, 2), mtu, Tagging::Untagged);
            plan.line(fabric, "link set p-backends master backends");
            plan.address(router, "backends", address::backends_gateway(), None);
        }
    }

    /// Makes, cables and starts the next backend.
    pub(super) fn build_backend(&mut self) -> Result<()> {
        let index = self.backends.len();
        ensure!(index < MEMBERS_MAX, "at most {MEMBERS_MAX} backends");
        let name = format!("b{index}");
        let ns = Namespace::create_in_group(self.group, &[&name])?.pop().context("namespace of a backend")?;
        let role = match self.spec.setup {
            BackendSetup::DirectReturn => Role::DirectReturnBackend,
            BackendSetup::Plain => Role::Backend,
        };
        set_common_sysctls(&ns, role)?;
        let addresses = match self.spec.layout {
            Layout::Switched => address::switched_backend(index),
            Layout::Routed => address::routed_backend(index),
            Layout::Direct => address::direct_backend(index),
        };
        let spec = NginxSpec {
            backend: name,
            ports: self.spec.http_ports.clone(),
            dir: self.dir.path().to_owned(),
            file: self.dir.path().join("file"),
        };
        self.backends.push(Backend::new(ns, index, addresses, spec));
        let backend = &self.backends[index];
        self.plan_backend(backend).apply().with_context(|| format!("cable {}", backend.name()))?;
        if self.spec.start_programs {
            self.backends[index].start()?;
        }
        Ok(())
    }

    fn plan_backend<'a>(&'a self, backend: &'a Backend) -> Plan<'a> {
        let mut plan = Plan::default();
        let (index, name) = (backend.index, backend.name());
        let mtu = self.spec.backend_mtu.unwrap_or(self.spec.mtu);
        let near = plug(&backend.ns, backend.device(), cable::BACKEND, index, 1);
        let gateway = match &self.fabric {
            Some(fabric) => {
                let port = format!("p-{name}");
                let far = plug(fabric, &port, cable::BACKEND, index, 2);
                plan.cable(near, far, mtu, Tagging::Untagged);
                let routed = self.spec.layout == Layout::Routed;
                let bridge = if routed { "backends" } else { "nodes" };
                plan.line(fabric, &format!("link set {port} master {bridge}"));
                if routed { address::backends_gateway() } else { address::fabric_gateway() }
            }
            None => {
                let far = plug(&self.node.ns, name, cable::BACKEND, index, 2);
                plan.cable(near, far, mtu, Tagging::Untagged);
                plan.address(&self.node.ns, name, address::direct_gateway(index), None);
                address::direct_gateway(index)
            }
        };
        plan.address(&backend.ns, backend.device(), backend.addresses, None);
        plan.route(&backend.ns, DEFAULT, gateway, None);
        if self.spec.setup == BackendSetup::DirectReturn {
            (0..self.spec.vips).for_each(|vip| plan.loopback_address(&backend.ns, address::vip(vip)));
        }
        if self.spec.layout == Layout::Switched && self.spec.backend_mtu.is_some() {
            self.plan_route_mtu(&mut plan, backend.addresses, mtu);
        }
        plan
    }

    /// On a shared segment the smaller MTU of one host shows in the routes to it only.
    fn plan_route_mtu<'a>(&'a self, plan: &mut Plan<'a>, to: Pair, mtu: u32) {
        let node = (&self.node.ns, "eth0");
        let router = self.router.as_ref().map(|router| (&router.ns, "fabric"));
        for (namespace, device) in [node].into_iter().chain(router) {
            plan.line(namespace, &format!("route add {}/32 dev {device} mtu {mtu}", to.v4));
            plan.line(namespace, &format!("route add {}/128 dev {device} mtu {mtu}", to.v6));
        }
    }

    /// Waits until the first hop reaches everyone, then forgets what the node learnt from that.
    fn wait_ready(&self) -> Result<()> {
        let from = self.router.as_ref().map_or(self.client(), |router| &router.ns);
        let hosts = [self.node.addresses].into_iter();
        let backends = self.backends.iter().map(Backend::addresses);
        let clients = self.clients.iter().map(|client| client.addresses);
        for pair in hosts.chain(backends).chain(clients) {
            for to in pair.both() {
                wait_reachable(from, to, READY_DEADLINE)?;
            }
        }
        self.node.ns.shell("ip neigh flush all").map(|_| ())
    }
}

fn plug<'a>(namespace: &'a Namespace, device: &str, link: u8, index: usize, end: u8) -> Plug<'a> {
    Plug { namespace, device: device.to_owned(), mac: address::mac(link, index, end) }
}

fn add_bridge<'a>(plan: &mut Plan<'a>, namespace: &'a Namespace, name: &str) {
    plan.line(
        namespace,
        &format!("link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"),
    );
    plan.line(namespace, &format!("link set {name} up"));
}

fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where it is refused, a test with too many connections says "too many open files".
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
