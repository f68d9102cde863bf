//! The network of (b) and (c): a client, the node and four backends, each on a cable of its own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use lb_common::abi::backend::Mode;
use nix::ifaddrs::getifaddrs;

use super::plane::{Destination, Plane, Served};
use crate::netns::Namespace;
use crate::topology::{Layout, Topology, vip};

/// Backends of every contender.
pub(super) const BACKENDS: usize = 4;
pub(super) const PORT: u16 = 80;
/// What [`Stage::offload`] turns on, as `ethtool -k` names it.
const OFFLOADS: [&str; 4] = [
    "tx-checksumming",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
];

/// Where contenders meet.
pub(super) struct Stage {
    pub(super) net: Topology,
}

/// A device as its namespace knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) ifindex: u32,
    pub(super) mac: [u8; 6],
}

impl Stage {
    /// Builds it; `programs`: backends answer HTTP.
    pub(super) fn build(programs: bool) -> Result<Self> {
        let builder = Topology::builder().layout(Layout::Direct).backends(BACKENDS);
        let net = if programs { builder.without_xdp_tx() } else { builder.without_programs() }.build()?;
        Ok(Self { net })
    }

    /// Turns on what an ordinary network leaves to its devices. The client's checksums only if no XDP program meets
    /// its frames: one would send them on unfinished.
    pub(super) fn offload(&self, client_checksums: bool) -> Result<()> {
        let node = &self.net.node().ns;
        let mut devices = vec![(node, self.net.node().uplink())];
        for backend in self.net.backends() {
            devices.extend([(node, backend.name()), (&backend.ns, backend.device())]);
        }
        if client_checksums {
            devices.push((self.net.client(), "eth0"));
        }
        for (namespace, device) in devices {
            namespace.shell(&format!("ethtool -K {device} tx on tso on gso on gro on"))?;
        }
        Ok(())
    }

    /// Which of these are on, by device; the backends are all alike.
    pub(super) fn offloads(&self) -> Result<BTreeMap<&'static str, Vec<String>>> {
        let (node, first) = (self.net.node(), &self.net.backends()[0]);
        let devices = [
            ("client", self.net.client(), "eth0"),
            ("node, to the client", &node.ns, node.uplink()),
            ("node, to a backend", &node.ns, first.name()),
            ("backend", &first.ns, first.device()),
        ];
        let of = |(place, namespace, device): (_, &Namespace, &str)| {
            let features = namespace.shell(&format!("ethtool -k {device}"))?;
            let on = features.lines().filter_map(|line| line.split_once(": "));
            let on = on.filter(|(name, state)| OFFLOADS.contains(name) && state.starts_with("on"));
            Ok((place, on.map(|(name, _)| name.to_owned()).collect()))
        };
        devices.into_iter().map(of).collect()
    }

    pub(super) fn served() -> Served {
        Served { address: vip(0).v4, port: PORT }
    }

    /// The node's device that the client's packets come in by.
    pub(super) fn entry(&self) -> Result<Device> {
        device(&self.net.node().ns, self.net.node().uplink())
    }

    /// The client's device.
    pub(super) fn client(&self) -> Result<Device> {
        device(self.net.client(), "eth0")
    }

    /// The node's devices to the backends.
    pub(super) fn exits(&self) -> Result<Vec<Device>> {
        let node = &self.net.node().ns;
        self.net.backends().iter().map(|backend| device(node, backend.name())).collect()
    }

    /// Loads a balancer that reaches the backends by L2. It is not attached.
    pub(super) fn plane(&self) -> Result<Plane> {
        let mut destinations = Vec::new();
        for (backend, exit) in self.net.backends().iter().zip(self.exits()?) {
            let address: Ipv4Addr = backend.addresses().v4;
            let mac = device(&backend.ns, backend.device())?.mac;
            destinations.push(Destination { address, mac, ifindex: exit.ifindex, own_mac: exit.mac });
        }
        // Devices are looked up in the namespace of who names them.
        self.net.node().ns.run(|| Plane::open(Self::served(), &destinations, Mode::L2))
    }

    /// Tells the node the backends' hardware addresses, for backends that answer nothing.
    pub(super) fn introduce(&self) -> Result<()> {
        let mut lines = String::new();
        for backend in self.net.backends() {
            let [a, b, c, d, e, f] = device(&backend.ns, backend.device())?.mac;
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            let (address, name) = (backend.addresses().v4, backend.name());
            lines += &format!("neigh replace {address} lladdr {mac} nud permanent dev {name}\n");
        }
        self.net.node().ns.ip_batch(&lines)
    }
}

fn device(namespace: &Namespace, name: &str) -> Result<Device> {
    namespace.run(|| {
        let found = getifaddrs().context("list the devices")?.find_map(|interface| {
            let link = *interface.address?.as_link_addr()?;
            let mac = link.addr()?;
            (interface.interface_name == name).then(|| Device { ifindex: link.ifindex() as u32, mac })
        });
        found.with_context(|| format!("no device {name} in {}", namespace.name()))
    })
}
