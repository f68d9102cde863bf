//! Steady UDP requests to the echo of a vip: sent, answered, by whom, and whether a flow changed backends.
//!
//! A flow is one socket (one source port). It sends, waits for the answer to that very request, and goes on;
//! a request without an answer in time is lost. With a lifetime, a flow ends at that age and a new one begins.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::failure::{Failure, Stage, keep};
use super::task::{Gate, Task};
use crate::netns::Namespace;

/// Bytes of a request's number, at its beginning.
const NUMBER_BYTES: usize = 8;

/// Description of a UDP load.
#[derive(Clone, Copy, Debug)]
pub struct UdpLoad {
    vip: SocketAddr,
    flows: usize,
    payload_bytes: usize,
    lifetime: Duration,
    pause: Duration,
    timeout: Duration,
}

impl UdpLoad {
    /// A load on the echo at `vip`: 16 flows, 64 bytes, 5 ms between a flow's requests, 1 s to answer.
    #[must_use]
    pub fn new(vip: SocketAddr) -> Self {
        Self {
            vip,
            flows: 16,
            payload_bytes: 64,
            lifetime: Duration::MAX,
            pause: Duration::from_millis(5),
            timeout: Duration::from_secs(1),
        }
    }

    /// Number of flows.
    #[must_use]
    pub fn flows(self, flows: usize) -> Self {
        Self { flows, ..self }
    }

    /// Payload of a request in bytes, at least 8.
    #[must_use]
    pub fn payload_bytes(self, payload_bytes: usize) -> Self {
        Self { payload_bytes: payload_bytes.max(NUMBER_BYTES), ..self }
    }

    /// Age at which a flow ends and another takes its place.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Time between an answer and the flow's next request.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Time after which a request is lost.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Starts it inside `client`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(self, client: &Namespace) -> Result<RunningUdpLoad> {
        let report = Arc::new(Mutex::new(UdpReport::default()));
        let shared = Arc::clone(&report);
        let task = Task::start(client, "udp-load", async move |gate: Gate| {
            let start = Instant::now();
            let mut flows = tokio::task::JoinSet::new();
            for _ in 0..self.flows {
                let flow = Flow { load: self, report: Arc::clone(&shared), start, backend: None };
                flows.spawn_local(flow.run(gate.clone()));
            }
            while let Some(ended) = flows.join_next().await {
                ended.context("a flow ended badly")??;
            }
            Ok(())
        })?;
        Ok(RunningUdpLoad { task, report })
    }
}

/// Asks the echo at `vip` once and returns the backend that answered.
///
/// # Errors
/// When no answer comes within `deadline`, or the port is refused.
pub fn ask_once(
    client: &Namespace,
    vip: SocketAddr,
    payload_bytes: usize,
    deadline: Duration,
) -> Result<String> {
    let load = UdpLoad::new(vip).payload_bytes(payload_bytes).timeout(deadline);
    client.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let socket = open(vip).await?;
            exchange(&socket, &load, 0).await.map_err(|error| anyhow::anyhow!("{vip}: {error}"))
        })
    })
}

/// What a UDP load has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UdpReport {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Answers by backend.
    pub per_backend: BTreeMap<String, u64>,
    /// Times a flow was answered by another backend than before.
    pub flows_moved: u64,
    /// Requests that were lost or refused, the first 10,000 of them.
    pub failures: Vec<Failure>,
}

/// A UDP load in the background. Dropping it ends it.
#[derive(Debug)]
pub struct RunningUdpLoad {
    task: Task<()>,
    report: Arc<Mutex<UdpReport>>,
}

impl RunningUdpLoad {
    /// What it has seen so far.
    #[must_use]
    pub fn snapshot(&self) -> UdpReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, after the requests that are under way, and returns what it has seen.
    ///
    /// # Errors
    /// When a socket could not be made.
    pub fn finish(self) -> Result<UdpReport> {
        self.task.finish()?;
        Ok(self.report.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

struct Flow {
    load: UdpLoad,
    report: Arc<Mutex<UdpReport>>,
    start: Instant,
    backend: Option<String>,
}

impl Flow {
    async fn run(mut self, mut gate: Gate) -> Result<()> {
        let mut socket = open(self.load.vip).await?;
        let mut opened = Instant::now();
        let mut number = 0_u64;
        while gate.open().await {
            if opened.elapsed() >= self.load.lifetime {
                (socket, opened) = (open(self.load.vip).await?, Instant::now());
                self.backend = None;
            }
            number += 1;
            let times = (self.start, Instant::now());
            self.note(|report| report.sent += 1);
            match exchange(&socket, &self.load, number).await {
                Ok(backend) => self.answered(backend),
                Err(error) => {
                    let failure = Failure::now(times, Stage::Exchange, self.backend.as_deref(), error);
                    self.note(|report| keep(&mut report.failures, failure));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.load.pause) => {}
                () = gate.stopped() => {}
            }
        }
        Ok(())
    }

    fn answered(&mut self, backend: String) {
        let moved = self.backend.as_ref().is_some_and(|before| *before != backend);
        self.note(|report| {
            report.answered += 1;
            report.flows_moved += u64::from(moved);
            *report.per_backend.entry(backend.clone()).or_default() += 1;
        });
        self.backend = Some(backend);
    }

    fn note(&self, change: impl FnOnce(&mut UdpReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn open(vip: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.context("make a UDP socket")?;
    // Connected: an answer from another address than the vip does not arrive.
    socket.connect(vip).await.with_context(|| format!("no route to {vip}"))?;
    Ok(socket)
}

/// Sends request `number` and waits for its answer; later answers to earlier requests are passed over.
async fn exchange(socket: &UdpSocket, load: &UdpLoad, number: u64) -> Result<String, String> {
    let mut request = vec![0x5a_u8; load.payload_bytes];
    request[..NUMBER_BYTES].copy_from_slice(&number.to_be_bytes());
    socket.send(&request).await.map_err(|error| error.to_string())?;
    let answering = async {
        let mut answer = vec![0_u8; load.payload_bytes + 64];
        loop {
            let count = socket.recv(&mut answer).await.map_err(|error| error.to_string())?;
            if let Some(backend) = answer[..count].strip_prefix(request.as_slice()) {
                return Ok(String::from_utf8_lossy(backend).into_owned());
            }
        }
    };
    timeout(load.timeout, answering).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
