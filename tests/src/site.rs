//! A site: a network, the real balancer on its node, and vips whose backends are those of the network.
//!
//! What is set up is what a person would: devices attached, one document applied, `lb decap` on the backends of
//! mode ipip, all by the command line. When a test fails, what balancer and network look like is printed.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_control::command::{BackendSpec, Document, VipSpec};
use lb_control::health::Health;
use lb_control::probe::{ProbeKind, ProbeWish};
use lb_control::vip::{Mode, Protocol};
use lb_userspace::api::views::{BackendView, DropView, ListView, StatusView};
use lb_userspace::config;

use crate::balancer::Balancer;
use crate::netns::Namespace;
use crate::sweep::PinDir;
use crate::topology::{Backend, ECHO_PORT, Layout, Topology, TopologyBuilder, vip};
use crate::wait::wait_until;

/// Longest wait for backends to be probed, their ways found and their slots filled.
const SERVE_DEADLINE: Duration = Duration::from_secs(15);

/// Address family of a vip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(self, pair: crate::topology::Pair) -> IpAddr {
        match self {
            Self::V4 => pair.v4.into(),
            Self::V6 => pair.v6.into(),
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// What a vip serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// nginx on TCP port 80.
    Http,
    /// The TCP echo.
    Echo,
    /// The UDP echo.
    Udp,
}

impl Served {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http, Self::Echo, Self::Udp];

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Echo | Self::Udp => ECHO_PORT,
        }
    }
}

/// Name of a vip: `http4`, `udp6`, …
#[must_use]
pub fn vip_name(served: Served, family: Family) -> String {
    format!("{served}{family}")
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Echo => "echo",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "4" } else { "6" })
    }
}

/// Description of a site.
#[derive(Clone, Debug)]
pub struct SiteBuilder {
    topology: TopologyBuilder,
    mode: Mode,
    crossed: bool,
    families: Vec<Family>,
    kinds: Vec<Served>,
    window_s: Option<u32>,
    arguments: Vec<String>,
}

/// A network with its balancer. Dropping it removes everything.
#[derive(Debug)]
pub struct Site {
    /// The balancer; public, so that a test can kill and restart it.
    pub lb: Balancer,
    /// By backend.
    decaps: BTreeMap<usize, PinDir>,
    /// The network; public, so that a test can kill and restart backends.
    pub net: Topology,
    spec: SiteBuilder,
}

impl Site {
    /// A site on this network, with every served in both families.
    #[must_use]
    pub fn builder(topology: TopologyBuilder, mode: Mode) -> SiteBuilder {
        let (families, kinds) = (Family::BOTH.to_vec(), Served::ALL.to_vec());
        SiteBuilder { topology, mode, crossed: false, families, kinds, window_s: None, arguments: Vec::new() }
    }
}

impl SiteBuilder {
    /// Backends are reached by the other family than their vip's (mode ipip only).
    #[must_use]
    pub fn crossed(self) -> Self {
        Self { crossed: true, ..self }
    }

    /// Families of the vips.
    #[must_use]
    pub fn families(self, families: &[Family]) -> Self {
        Self { families: families.to_vec(), ..self }
    }

    /// What vips serve.
    #[must_use]
    pub fn kinds(self, kinds: &[Served]) -> Self {
        Self { kinds: kinds.to_vec(), ..self }
    }

    /// Window of all vips, seconds.
    #[must_use]
    pub fn window_s(self, window_s: u32) -> Self {
        Self { window_s: Some(window_s), ..self }
    }

    /// Further arguments of `lb serve`.
    #[must_use]
    pub fn arguments(self, arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(|&word| word.to_owned()).collect(), ..self }
    }

    /// Builds network and balancer, and returns when every backend serves.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start(self) -> Result<Site> {
        let net = self.topology.clone().build()?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let lb = Balancer::start_with(&net, &arguments)?;
        let mut site = Site { lb, decaps: BTreeMap::new(), net, spec: self };
        for device in site.devices() {
            site.lb.lb(&format!("attach {device} --mode native"))?;
        }
        for index in 0..site.net.backends().len() {
            site.prepare(index)?;
        }
        site.apply(&site.document(site.net.backends()))?;
        site.wait_serving()?;
        Ok(site)
    }
}

impl Site {
    /// Where requests come from.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        self.net.client()
    }

    /// Address and port of a vip.
    #[must_use]
    pub fn vip(&self, served: Served, family: Family) -> SocketAddr {
        SocketAddr::new(family.of(vip(0)), served.port())
    }

    /// The families that there are vips of.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.spec.families
    }

    /// The address that a vip of this family reaches a backend at.
    #[must_use]
    pub fn address(&self, backend: &Backend, family: Family) -> IpAddr {
        let family = if self.spec.crossed { family.other() } else { family };
        family.of(backend.addresses())
    }

    /// Devices that packets to vips and, where they are translated, replies come in by.
    fn devices(&self) -> Vec<String> {
        let mut devices = self.net.node().uplinks.clone();
        if self.spec.mode == Mode::Nat && self.spec.topology.chosen_layout() == Layout::Direct {
            devices.extend(self.net.backend_names());
        }
        devices
    }

    /// Does on a backend what its mode needs beyond the vip on lo.
    fn prepare(&mut self, index: usize) -> Result<()> {
        if self.spec.mode == Mode::Ipip { self.start_decap(index) } else { Ok(()) }
    }

    /// Ends `lb decap` on a backend: what comes to it by a tunnel is not unwrapped any more.
    pub fn end_decap(&mut self, index: usize) {
        self.decaps.remove(&index);
    }

    /// Starts `lb decap` on a backend.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_decap(&mut self, index: usize) -> Result<()> {
        let pins = PinDir::claim()?;
        let mut command = Command::new(self.lb.binary());
        command.args(["decap", "--dev", "eth0", "--pin-dir"]).arg(pins.path());
        for (peer, vip) in self.net.node().addresses.both().iter().zip(vip(0).both()) {
            command.args(["--peer", &peer.to_string(), "--vip", &vip.to_string()]);
        }
        self.decaps.insert(index, pins);
        let output = self.net.backends()[index].ns.output(&mut command)?;
        ensure!(output.status.success(), "lb decap: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// The configuration in which every vip has these backends.
    #[must_use]
    pub fn document(&self, backends: &[Backend]) -> Document {
        let mut document = Document::default();
        for family in &self.spec.families {
            for served in &self.spec.kinds {
                let protocol = if *served == Served::Udp { Protocol::Udp } else { Protocol::Tcp };
                let (name, at) = (vip_name(*served, *family), self.vip(*served, *family));
                let mut spec = VipSpec::new(name, at.ip(), at.port(), protocol);
                spec.mode = Some(self.spec.mode);
                spec.window_s = self.spec.window_s;
                spec.probe = Some(ProbeWish {
                    kind: Some(ProbeKind::Tcp),
                    interval_ms: Some(200),
                    ..ProbeWish::default()
                });
                let backends =
                    backends.iter().map(|one| BackendSpec::new(one.name(), self.address(one, *family)));
                spec.backends = backends.collect();
                document.vips.push(spec);
            }
        }
        document
    }

    /// Applies a document by its file.
    ///
    /// # Errors
    /// When `lb apply` refuses it.
    pub fn apply(&self, document: &Document) -> Result<String> {
        let file = self.net.dir().join("lb.toml");
        let text = config::text(document).map_err(|problem| anyhow::anyhow!("{problem}"))?;
        std::fs::write(&file, text)?;
        self.lb.lb(&format!("apply -f {}", file.display()))
    }

    /// Adds a backend to the network, ready for its mode, but not to any vip.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn add_host(&mut self) -> Result<usize> {
        self.net.add_backend()?;
        let index = self.net.backends().len() - 1;
        self.prepare(index)?;
        Ok(index)
    }

    /// Waits until every enabled backend of every vip is up, has a way and has slots.
    ///
    /// # Errors
    /// When one is not in time; the message names it and says why.
    pub fn wait_serving(&self) -> Result<()> {
        let mut last = Vec::new();
        let waited = wait_until("every backend serving", SERVE_DEADLINE, || {
            last = self.backends().map(|all| idle(&all)).unwrap_or_else(|error| vec![format!("{error:#}")]);
            last.is_empty()
        });
        waited.with_context(|| last.join("\n")).map(|_| ())
    }

    /// Every backend of every vip.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn backends(&self) -> Result<Vec<BackendView>> {
        Ok(self.lb.view::<ListView<BackendView>>("/v1/views/backends")?.items)
    }

    /// One backend of a vip.
    ///
    /// # Errors
    /// When the daemon does not answer, or knows of none.
    pub fn backend(&self, vip: &str, name: &str) -> Result<BackendView> {
        let found = self.backends()?.into_iter().find(|one| one.vip == vip && one.name == name);
        found.with_context(|| format!("no backend {vip}/{name}"))
    }

    /// The status.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn status(&self) -> Result<StatusView> {
        self.lb.view("/v1/views/status")
    }

    /// Packets by reason since the maps were made.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn reasons(&self) -> Result<BTreeMap<String, u64>> {
        let list: ListView<DropView> = self.lb.view("/v1/views/drops")?;
        Ok(list.items.into_iter().map(|one| (one.reason, one.packets)).collect())
    }

    /// Packets under one reason; 0 for one that has none.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn packets(&self, reason: &str) -> Result<u64> {
        Ok(self.reasons()?.get(reason).copied().unwrap_or_default())
    }

    /// What balancer and network look like now, for people who look into a failure.
    #[must_use]
    pub fn evidence(&self) -> String {
        let mut text = String::new();
        for line in ["status", "drops --all"] {
            let answer = self.lb.lb(line).unwrap_or_else(|error| format!("{error:#}\n"));
            let _ = write!(text, "==== lb {line}\n{answer}");
        }
        let _ = write!(text, "==== log of lb serve\n{}{}", self.lb.log(), self.net.describe());
        text
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.evidence());
        }
    }
}

/// Backends that should serve and do not, and why.
fn idle(backends: &[BackendView]) -> Vec<String> {
    let serves = |one: &&BackendView| {
        let wanted = one.intent == lb_control::backend::Intent::Enabled;
        !wanted || (one.health == Health::Up && one.way.known && one.share > 0.0)
    };
    let idle = backends.iter().filter(|one| !serves(one));
    idle.map(|one| format!("{}/{}: {}; way {:?}", one.vip, one.name, one.why, one.way.why_not)).collect()
}
