//! Description of a topology: what can be chosen, and which choices contradict each other. Builds nothing
//! (see `build`).

use anyhow::{Result, ensure};

use super::{BackendSetup, Layout, MEMBERS_MAX, Tagging};

/// Least MTU in bytes that IPv6 works with (RFC 8200, section 5).
const IPV6_MTU_MIN: u32 = 1280;
/// Largest MTU in bytes of a veth with an XDP program that takes no fragments, rounded down.
const XDP_MTU_MAX: u32 = 3400;

/// Description of a topology.
#[derive(Clone, Debug)]
pub struct TopologyBuilder {
    pub(super) layout: Layout,
    pub(super) setup: BackendSetup,
    pub(super) tagging: Tagging,
    pub(super) clients: usize,
    pub(super) backends: usize,
    pub(super) vips: usize,
    pub(super) mtu: u32,
    pub(super) path_mtu: Option<u32>,
    pub(super) backend_mtu: Option<u32>,
    pub(super) http_ports: Vec<u16>,
    pub(super) start_programs: bool,
    pub(super) xdp_tx: bool,
    pub(super) file_bytes: u64,
}

impl TopologyBuilder {
    pub(super) fn new() -> Self {
        Self {
            layout: Layout::Switched,
            setup: BackendSetup::DirectReturn,
            tagging: Tagging::Untagged,
            clients: 1,
            backends: 3,
            vips: 1,
            mtu: 1500,
            path_mtu: None,
            backend_mtu: None,
            http_ports: vec![80],
            start_programs: true,
            xdp_tx: true,
            file_bytes: 1 << 20,
        }
    }

    /// How node and backends are cabled.
    #[must_use]
    pub fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// How backends are set up; default [`BackendSetup::DirectReturn`].
    #[must_use]
    pub fn setup(self, setup: BackendSetup) -> Self {
        Self { setup, ..self }
    }

    /// Tags on the node's uplink.
    #[must_use]
    pub fn tagging(self, tagging: Tagging) -> Self {
        Self { tagging, ..self }
    }

    /// Number of clients, each on its own cable.
    #[must_use]
    pub fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    /// Number of backends at the start; may be 0.
    #[must_use]
    pub fn backends(self, backends: usize) -> Self {
        Self { backends, ..self }
    }

    /// Number of vips (each with both families) that backends for direct return have on lo.
    #[must_use]
    pub fn vips(self, vips: usize) -> Self {
        Self { vips, ..self }
    }

    /// MTU in bytes of every cable without one of its own.
    #[must_use]
    pub fn mtu(self, mtu: u32) -> Self {
        Self { mtu, ..self }
    }

    /// MTU in bytes of a hop between clients and router (at least 1280 for IPv6 to work). Neither end of a
    /// connection sees it but by ICMP. Not for [`Layout::Direct`].
    #[must_use]
    pub fn path_mtu(self, mtu: u32) -> Self {
        Self { path_mtu: Some(mtu), ..self }
    }

    /// MTU in bytes between node and backends: of their cables, and where they share the node's segment
    /// also of the routes to them, which the node can read.
    #[must_use]
    pub fn backend_mtu(self, mtu: u32) -> Self {
        Self { backend_mtu: Some(mtu), ..self }
    }

    /// TCP ports that nginx listens on; default 80.
    #[must_use]
    pub fn http_ports(self, ports: &[u16]) -> Self {
        Self { http_ports: ports.to_vec(), ..self }
    }

    /// Size of `/file` in bytes; default 1 MiB.
    #[must_use]
    pub fn file_bytes(self, file_bytes: u64) -> Self {
        Self { file_bytes, ..self }
    }

    /// How node and backends are going to be cabled.
    #[must_use]
    pub fn chosen_layout(&self) -> Layout {
        self.layout
    }

    /// Leaves backends without nginx and echo until [`Backend::start`] is called.
    #[must_use]
    pub fn without_programs(self) -> Self {
        Self { start_programs: false, ..self }
    }

    /// Leaves clients of [`Layout::Direct`] without the program that makes frames arrive which the node sends back by
    /// XDP_TX. It costs a copy of every other frame, which a benchmark would see.
    #[must_use]
    pub fn without_xdp_tx(self) -> Self {
        Self { xdp_tx: false, ..self }
    }

    /// Refuses what cannot be built.
    pub(super) fn check(&self) -> Result<()> {
        ensure!((1..=MEMBERS_MAX).contains(&self.clients), "1 to {MEMBERS_MAX} clients");
        ensure!(self.backends <= MEMBERS_MAX, "at most {MEMBERS_MAX} backends");
        ensure!((1..=MEMBERS_MAX).contains(&self.vips), "1 to {MEMBERS_MAX} vips");
        let mtus = [Some(self.mtu), self.path_mtu, self.backend_mtu];
        ensure!(
            mtus.into_iter().flatten().all(|mtu| (IPV6_MTU_MIN..=XDP_MTU_MAX).contains(&mtu)),
            "an MTU is {IPV6_MTU_MIN} to {XDP_MTU_MAX} bytes"
        );
        ensure!(
            self.path_mtu.is_none() || self.layout != Layout::Direct,
            "path_mtu needs a router, which the direct layout lacks"
        );
        Ok(())
    }
}
