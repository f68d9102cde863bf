//! The daemon over its socket: [`VIPS`] vips of [`POOL`] backends each, and clients that command and ask.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lb_control::command::{Apply, BackendSet, BackendSpec, Command, Document, VipSpec};
use lb_control::probe::{ProbeKind, ProbeWish};
use lb_control::vip::{Mode, Protocol};
use lb_userspace::api::client::Client;
use serde::Serialize;
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;

use super::quantile;
use super::slow_disk::{SlowDisk, WRITES_PER_S};
use crate::balancer::Balancer;
use crate::bench::{Effort, median};
use crate::topology::{Layout, Topology};

/// Vips of the node, and backends of each.
pub(super) const VIPS: usize = 1_000;
pub(super) const POOL: usize = 10;
/// Slots of each vip's table: a hundred for each backend.
const TABLE_SIZE: u32 = 1_009;
/// Clients that command at once.
const CLIENTS: usize = 64;
/// Questions a second beside the commands, and how many ask them.
const QUERIES_PER_S: u64 = 1_000;
const ASKERS: u64 = 10;
/// How long the daemon has nothing to do before its memory counts.
const REST: Duration = Duration::from_secs(10);
/// One vip's inventory.
const QUERY: &str = "/v1/views/inventory?vip=v0";

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct NodeReport {
    /// On a disk that is held to [`WRITES_PER_S`]; `None`: it cannot be had here.
    pub group_commit: Option<GroupCommit>,
    /// On the disk as it is.
    pub group_commit_as_is: GroupCommit,
    /// 99th percentile of a command's latency beside [`QUERIES_PER_S`] questions a second, over that without.
    pub query_interference: f64,
    /// 99th percentile of a command's latency without questions, milliseconds.
    pub command_p99_ms: f64,
    /// Questions a second that were answered meanwhile.
    pub queries_per_s: f64,
    /// Median latency of one vip's inventory over that of a bare answer of the same bytes.
    pub inventory_ratio: f64,
    /// Memory that the daemon, at rest, has more with [`VIPS`] vips of [`POOL`] backends than with none, MiB: state, views
    /// and what the reconciler keeps together.
    pub state_mib: f64,
}

/// What it brings that commands share a sync.
#[derive(Debug, Default, Serialize)]
pub struct GroupCommit {
    /// Commands a second of [`CLIENTS`] clients, over those of one; median of the rounds, as are these.
    pub ratio: f64,
    /// Commands a second of one client.
    pub commands_per_s_one: f64,
    /// Commands a second of [`CLIENTS`] clients.
    pub commands_per_s_many: f64,
}

/// Measures it.
pub(super) fn run(effort: Effort) -> Result<NodeReport> {
    let net = Topology::builder().layout(Layout::Direct).backends(1).without_programs().build()?;
    let via = net.backends()[0].addresses().v4;
    net.node().ns.shell(&format!("ip route add {NETWORK} via {via}"))?;
    let balancer = Balancer::start(&net)?;
    let runtime = Runtime::new().context("start a runtime")?;
    let bed = Bed { runtime, client: balancer.client(), socket: balancer.socket().to_owned() };
    let daemon = balancer.pid().context("the daemon runs")?;
    let empty = rss_mib(daemon)?;
    bed.fill()?;
    let state_mib = rss_at_rest_mib(daemon)? - empty;
    let group_commit_as_is = bed.group_commit(effort)?;
    let slow = SlowDisk::of(daemon, net.dir())?;
    if slow.is_none() {
        eprintln!(
            "no group_commit_ratio: no disk here is held to {WRITES_PER_S} writes a second by a control group"
        );
    }
    let group_commit = slow.map(|slow| bed.group_commit_on(&slow, effort)).transpose()?;
    let mut report = NodeReport { state_mib, group_commit, group_commit_as_is, ..NodeReport::default() };
    bed.interference(effort, &mut report)?;
    report.inventory_ratio = bed.inventory(effort, &net.dir().join("bare.sock"))?;
    Ok(report)
}

/// Where the backends are.
pub(super) const NETWORK: &str = "10.77.0.0/24";

/// The vips and backends as a document.
pub(super) fn document() -> Document {
    let backend = |number: usize| BackendSpec {
        name: format!("b{number}"),
        address: [10, 77, 0, number as u8 + 1].into(),
        port: None,
        weight: 100,
        intent: lb_control::backend::Intent::Enabled,
        backup: false,
    };
    let vip = |number: usize| VipSpec {
        mode: Some(Mode::Ipip),
        table_size: Some(TABLE_SIZE),
        probe: Some(ProbeWish { kind: Some(ProbeKind::None), ..ProbeWish::default() }),
        backends: (0..POOL).map(backend).collect(),
        ..VipSpec::new(
            format!("v{number}"),
            [203, 0, (113 + number / 250) as u8, (number % 250) as u8 + 1].into(),
            80,
            Protocol::Tcp,
        )
    };
    Document { tenants: Vec::new(), vips: (0..VIPS).map(vip).collect() }
}

/// The `round`-th change of one backend of a vip: never what is so already.
pub(super) fn change(vip: usize, round: u64) -> Command {
    Command::BackendSet(BackendSet {
        vip: format!("v{vip}"),
        name: "b0".to_owned(),
        weight: Some(100 + 1 + (round % 2) as u32),
        intent: None,
        allow_disruption: false,
    })
}

struct Bed {
    runtime: Runtime,
    client: Client,
    socket: PathBuf,
}

impl Bed {
    fn fill(&self) -> Result<()> {
        let apply = Apply { document: document(), ..Apply::default() };
        self.runtime.block_on(send(&self.client, "/v1/apply", &apply))
    }

    fn group_commit(&self, effort: Effort) -> Result<GroupCommit> {
        let (rounds, duration) = effort.control_rounds();
        let (mut one, mut many, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            one.push(self.commands_per_s(1, duration)?);
            many.push(self.commands_per_s(CLIENTS, duration)?);
            ratios.push(many[many.len() - 1] / one[one.len() - 1]);
        }
        Ok(GroupCommit {
            ratio: median(&mut ratios),
            commands_per_s_one: median(&mut one),
            commands_per_s_many: median(&mut many),
        })
    }

    fn group_commit_on(&self, _slow: &SlowDisk, effort: Effort) -> Result<GroupCommit> {
        let measured = self.group_commit(effort)?;
        let one = measured.commands_per_s_one;
        ensure!(one < f64::from(WRITES_PER_S), "the disk is not slow: {one:.0} commands/s of one client");
        Ok(measured)
    }

    /// Each client has a connection, and changes a vip of its own, one command after the other.
    fn commands_per_s(&self, clients: usize, duration: Duration) -> Result<f64> {
        let begin = Instant::now();
        let of_one = |vip: usize| {
            let socket = self.socket.clone();
            self.runtime.spawn(async move {
                let (mut conversation, mut sent) = (Conversation::begin(&socket).await?, 0);
                while begin.elapsed() < duration {
                    conversation.command(&change(vip, sent)).await?;
                    sent += 1;
                }
                anyhow::Ok(sent)
            })
        };
        let tasks: Vec<_> = (0..clients).map(of_one).collect();
        let mut sum = 0;
        for task in tasks {
            sum += self.runtime.block_on(task).context("a client ended")??;
        }
        Ok(sum as f64 / begin.elapsed().as_secs_f64())
    }

    fn interference(&self, effort: Effort, report: &mut NodeReport) -> Result<()> {
        let (rounds, duration) = effort.control_rounds();
        let (mut alone, mut ratios, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let quiet = self.command_p99_ms(duration)?;
            let (end, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let begin = Instant::now();
            let asking: Vec<_> = (0..ASKERS).map(|_| self.ask(&end, &answered)).collect();
            let busy = self.command_p99_ms(duration);
            end.store(true, Ordering::Relaxed);
            for asker in asking {
                self.runtime.block_on(asker).context("a client ended")??;
            }
            asked.push(answered.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64());
            ratios.push(busy? / quiet);
            alone.push(quiet);
        }
        report.query_interference = median(&mut ratios);
        report.command_p99_ms = median(&mut alone);
        report.queries_per_s = median(&mut asked);
        Ok(())
    }

    fn command_p99_ms(&self, duration: Duration) -> Result<f64> {
        let begin = Instant::now();
        let mut latencies = Vec::new();
        self.runtime.block_on(async {
            while begin.elapsed() < duration {
                let sent = Instant::now();
                send(&self.client, "/v1/commands", &change(1, latencies.len() as u64)).await?;
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(())
        })?;
        Ok(quantile(&mut latencies, 0.99))
    }

    /// Asks its share of the questions until it is told to end.
    fn ask(&self, end: &Arc<AtomicBool>, answered: &Arc<AtomicU64>) -> tokio::task::JoinHandle<Result<()>> {
        let (client, end, answered) = (self.client.clone(), end.clone(), answered.clone());
        self.runtime.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_micros(1_000_000 * ASKERS / QUERIES_PER_S));
            while !end.load(Ordering::Relaxed) {
                pace.tick().await;
                client.text(QUERY).await.map_err(|problem| anyhow!("{QUERY}: {problem}"))?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// One vip's inventory against a bare answer of the same bytes, in turns.
    fn inventory(&self, effort: Effort, socket: &Path) -> Result<f64> {
        let text = self.runtime.block_on(self.client.text(QUERY));
        let body = text.map_err(|problem| anyhow!("{QUERY}: {problem}"))?;
        let bare = bare(body, socket)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..effort.control_requests() {
            for (client, latencies) in [(&self.client, &mut ours), (&bare, &mut theirs)] {
                let begin = Instant::now();
                let answer = self.runtime.block_on(client.text(QUERY));
                latencies.push(begin.elapsed().as_secs_f64());
                answer.map_err(|problem| anyhow!("{QUERY}: {problem}"))?;
            }
        }
        Ok(median(&mut ours) / median(&mut theirs))
    }
}

/// A connection that is kept from one command to the next.
struct Conversation(SendRequest<Full<Bytes>>);

impl Conversation {
    async fn begin(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await.context("connect to the daemon")?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn command(&mut self, command: &Command) -> Result<()> {
        let body = Full::new(Bytes::from(serde_json::to_vec(command)?));
        let request = Request::post("/v1/commands").header("host", "lb").body(body)?;
        self.0.ready().await?;
        let answer = self.0.send_request(request).await?;
        let status = answer.status();
        let said = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "a command was answered {status}: {}", String::from_utf8_lossy(&said));
        Ok(())
    }
}

async fn send(client: &Client, path: &str, body: &impl Serialize) -> Result<()> {
    let answer: Result<Value, _> = client.send(path, body).await;
    answer.map(drop).map_err(|problem| anyhow!("{path}: {problem}"))
}

/// Something that answers every request with `body`, and nothing else: what hyper alone costs.
fn bare(body: String, socket: &Path) -> Result<Client> {
    let listener = std::os::unix::net::UnixListener::bind(socket).context("bind the bare socket")?;
    listener.set_nonblocking(true)?;
    let body = Bytes::from(body);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a bench can have a runtime").block_on(async move {
            let listener = UnixListener::from_std(listener).expect("a bound socket");
            while let Ok((stream, _)) = listener.accept().await {
                let body = body.clone();
                let answer = service_fn(move |_| {
                    let body = body.clone();
                    async move { Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(body))) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move {
                    // The client's end of the conversation is its end.
                    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
    });
    Ok(Client::new(socket))
}

/// Resident memory of a process that has nothing to do, MiB: the least within [`REST`], since an allocator gives back what a
/// large command needed only after a while.
fn rss_at_rest_mib(pid: u32) -> Result<f64> {
    let (begin, mut least) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < REST {
        least = least.min(rss_mib(pid)?);
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(least)
}

/// Resident memory of a process, MiB.
fn rss_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read a process's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kib.context("no RssAnon in a process's status")? / 1024.0)
}
