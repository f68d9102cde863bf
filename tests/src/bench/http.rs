//! (c) Real requests: wrk, 64 connections, through the node to nginx on four backends, and back over the node.
//!
//! Each contender has a network of its own, set up as one would for it, and they take turns. All replies come back by
//! the node's plain routing, but for the proxies, which end every connection themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::plane::Plane;
use super::stage::{BACKENDS, PORT, Stage};
use super::{Effort, median};
use crate::netns::{Hook, XDP_PASS};
use crate::process::Process;
use crate::skip::is_installed;
use crate::topology::vip;
use crate::traffic::http::Reuse;
use crate::traffic::{Wrk, WrkReport, fetch};
use crate::wait::wait_for;

const CONNECTIONS: usize = 64;
const READY_DEADLINE: Duration = Duration::from_secs(10);
/// Where Debian's packages put nginx' stream module.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// The kernel's routing with a multipath route.
    KernelMultipath,
    /// The same, behind a program that only passes: what XDP itself costs on a veth.
    PassingXdp,
    /// The balancer.
    Balance,
    /// nftables: destination NAT with conntrack.
    NftablesDnat,
    /// HAProxy in TCP mode.
    Haproxy,
    /// nginx' stream proxy.
    NginxStream,
}

impl Contender {
    /// All of them; the first is what the others' shares are of.
    pub(super) const ALL: [Self; 6] = [
        Self::KernelMultipath,
        Self::PassingXdp,
        Self::Balance,
        Self::NftablesDnat,
        Self::Haproxy,
        Self::NginxStream,
    ];

    /// Its name for people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::KernelMultipath => "kernel multipath",
            Self::PassingXdp => "multipath, XDP passes",
            Self::Balance => "Switchyard",
            Self::NftablesDnat => "nftables DNAT",
            Self::Haproxy => "HAProxy",
            Self::NginxStream => "nginx stream",
        }
    }

    /// What it needs that is not here.
    fn missing(self) -> Option<&'static str> {
        let (tool, is_there) = match self {
            Self::KernelMultipath | Self::PassingXdp | Self::Balance => return None,
            Self::NftablesDnat => ("nft", is_installed("nft")),
            Self::Haproxy => ("haproxy", is_installed("haproxy")),
            Self::NginxStream => (NGINX_STREAM, fs::exists(NGINX_STREAM).unwrap_or(false)),
        };
        (!is_there).then_some(tool)
    }
}

/// One contender with connections of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Http {
    /// Whether each request has a connection of its own.
    pub close: bool,
    /// What balances.
    pub contender: Contender,
    /// Median of the rounds.
    pub requests_per_s: f64,
    /// Of what plain multipath routing reached in the same round, median of the rounds.
    pub share: f64,
    /// 99th percentile of the latency, milliseconds, median of the rounds.
    pub latency_p99_ms: f64,
    /// Failed requests, over all rounds.
    pub errors: u64,
    /// Offloads that were on, as ethtool names them, by device.
    pub offloads: Offloads,
}

type Offloads = BTreeMap<&'static str, Vec<String>>;

/// The keys.
pub fn keys(https: &[Http]) -> Vec<(&'static str, Option<f64>)> {
    let share = |contender: Contender, close: bool| {
        let wanted = |http: &&Http| http.close == close && http.contender == contender;
        https.iter().find(wanted).map(|http| http.share)
    };
    vec![
        ("http_keepalive_share", share(Contender::Balance, false)),
        ("http_close_share", share(Contender::Balance, true)),
        ("http_keepalive_share_passing", share(Contender::PassingXdp, false)),
        ("http_close_share_passing", share(Contender::PassingXdp, true)),
    ]
}

/// Measures every contender that is installed, and says which ones are not.
///
/// # Errors
/// When a network or a contender cannot be made.
pub fn run(effort: Effort) -> Result<(Vec<Http>, Vec<Contender>)> {
    let (skipped, installed): (Vec<_>, Vec<_>) =
        Contender::ALL.into_iter().partition(|contender| contender.missing().is_some());
    for contender in &skipped {
        let (words, tool) = (contender.words(), contender.missing().unwrap_or_default());
        eprintln!("SKIPPED: {words}: no {tool} here; `cargo xtask setup` installs it");
    }
    let halls = installed.into_iter().map(Hall::open).collect::<Result<Vec<_>>>()?;
    let (rounds, duration) = effort.http_rounds();
    let mut https = Vec::new();
    for reuse in [Reuse::KeepAlive, Reuse::PerRequest] {
        let mut reports: Vec<Vec<WrkReport>> = vec![Vec::new(); halls.len()];
        for _ in 0..rounds {
            for (hall, reports) in halls.iter().zip(&mut reports) {
                reports.push(hall.round(reuse, duration)?);
            }
        }
        let all = halls.iter().zip(&reports);
        for (hall, own) in all {
            https.push(summary(hall, reuse, own, &reports[0])?);
        }
    }
    Ok((https, skipped))
}

fn summary(hall: &Hall, reuse: Reuse, own: &[WrkReport], base: &[WrkReport]) -> Result<Http> {
    let shares = own.iter().zip(base).map(|(own, base)| own.requests_per_s / base.requests_per_s);
    Ok(Http {
        close: reuse == Reuse::PerRequest,
        contender: hall.contender,
        requests_per_s: median(&mut own.iter().map(|report| report.requests_per_s).collect::<Vec<_>>()),
        share: median(&mut shares.collect::<Vec<_>>()),
        latency_p99_ms: median(&mut own.iter().map(|report| report.latency_p99_us / 1e3).collect::<Vec<_>>()),
        errors: own.iter().map(WrkReport::errors).sum(),
        offloads: hall.stage.offloads()?,
    })
}

/// A network with a contender at work.
struct Hall {
    contender: Contender,
    /// What works on the node; ends before the network.
    _plane: Option<Plane>,
    _passing: Option<OwnedFd>,
    _proxy: Option<Process>,
    stage: Stage,
}

impl Hall {
    fn open(contender: Contender) -> Result<Self> {
        let stage = Stage::build(true)?;
        let (mut plane, mut passing, mut proxy) = (None, None, None);
        stage.offload(!matches!(contender, Contender::Balance | Contender::PassingXdp))?;
        match contender {
            Contender::KernelMultipath => stage.net.steer_by_kernel(0, &[0, 1, 2, 3])?,
            Contender::PassingXdp => {
                stage.net.steer_by_kernel(0, &[0, 1, 2, 3])?;
                let node = stage.net.node();
                passing = Some(node.ns.attach_program(node.uplink(), Hook::Xdp, &XDP_PASS)?);
            }
            Contender::Balance => {
                let node = stage.net.node();
                let opened = plane.insert(stage.plane()?);
                node.ns.run(|| opened.attach(node.uplink()))?;
            }
            Contender::NftablesDnat => translate(&stage)?,
            Contender::Haproxy => proxy = Some(haproxy(&stage)?),
            Contender::NginxStream => proxy = Some(nginx_stream(&stage)?),
        }
        let hall = Self { contender, _plane: plane, _passing: passing, _proxy: proxy, stage };
        hall.wait_ready().with_context(|| format!("{contender:?}"))?;
        Ok(hall)
    }

    /// Every backend answers through the contender.
    fn wait_ready(&self) -> Result<()> {
        let net = &self.stage.net;
        let mut seen = BTreeSet::new();
        wait_for("an answer of every backend", READY_DEADLINE, || {
            seen.extend(fetch(net.client(), net.vip4(PORT), "/").ok()?.backend);
            (seen.len() == BACKENDS).then_some(())
        })
        .map(drop)
    }

    fn round(&self, reuse: Reuse, duration: Duration) -> Result<WrkReport> {
        let net = &self.stage.net;
        let wrk = Wrk::new(net.vip4(PORT)).connections(CONNECTIONS).duration(duration).reuse(reuse);
        let report = wrk.run(net.client()).with_context(|| format!("{:?}", self.contender))?;
        ensure!(report.requests > 0, "no answers through {:?}", self.contender);
        Ok(report)
    }
}

/// Destination NAT to a backend by a hash of the client's address and port.
fn translate(stage: &Stage) -> Result<()> {
    let backends = stage.net.backends().iter().enumerate();
    let map: Vec<String> = backends.map(|(index, b)| format!("{index} : {}", b.addresses().v4)).collect();
    let node = &stage.net.node().ns;
    let dnat = format!(
        "add rule ip bench pre ip daddr {} tcp dport {PORT} dnat to jhash ip saddr . tcp sport mod {} map {{ {} }}",
        vip(0).v4,
        map.len(),
        map.join(" , ")
    );
    for rule in
        ["add table ip bench", "add chain ip bench pre { type nat hook prerouting priority -100 ; }", &dnat]
    {
        node.shell(&format!("nft {rule}"))?;
    }
    Ok(())
}

/// Gives the vip to the node itself, whose proxy ends the clients' connections.
fn own_vip(stage: &Stage) -> Result<()> {
    stage.net.node().ns.ip_batch(&format!("addr add {}/32 dev lo\n", vip(0).v4))
}

fn haproxy(stage: &Stage) -> Result<Process> {
    own_vip(stage)?;
    let mut config = format!(
        "global\n maxconn 8000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         listen bench\n bind {}:{PORT}\n balance roundrobin\n",
        vip(0).v4
    );
    for backend in stage.net.backends() {
        let _ = writeln!(config, " server {} {}:{PORT}", backend.name(), backend.addresses().v4);
    }
    let file = stage.net.dir().join("haproxy.cfg");
    fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    Process::spawn(&stage.net.node().ns, "haproxy", command, stage.net.dir())
}

fn nginx_stream(stage: &Stage) -> Result<Process> {
    own_vip(stage)?;
    let dir = stage.net.dir().join("stream");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let mut servers = String::new();
    for backend in stage.net.backends() {
        let _ = write!(servers, "server {}:{PORT}; ", backend.addresses().v4);
    }
    let config = format!(
        "load_module {NGINX_STREAM};\ndaemon off;\nworker_processes auto;\nworker_rlimit_nofile 20000;\n\
         pid {dir}/pid;\nerror_log stderr warn;\nevents {{ worker_connections 8000; }}\n\
         stream {{ upstream b {{ {servers} }} server {{ listen {vip}:{PORT}; proxy_pass b; }} }}\n",
        dir = dir.display(),
        vip = vip(0).v4,
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(&file).args(["-e", "stderr"]);
    Process::spawn(&stage.net.node().ns, "nginx-stream", command, stage.net.dir())
}
