//! Long-lived TCP connections to the echo of a vip that ping-pong a byte: the witnesses of a change that
//! must break none of them.
//!
//! Each connection is opened once and never again, unless the pool renews: then what ended, by itself or in good
//! order ([`LivePool::retire`]), is opened again. A connection is broken when it ends by itself, answers wrongly,
//! or is silent for longer than the timeout.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::{Failure, Stage, keep};
use super::task::{Gate, Task};
use crate::netns::Namespace;
use crate::wait::wait_until;

/// Description of a pool.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionPool {
    vip: SocketAddr,
    connections: usize,
    renews: bool,
    pause: Duration,
    timeout: Duration,
}

impl ConnectionPool {
    /// `connections` connections to the echo at `vip`; 50 ms between an answer and the next byte, 5 s of
    /// silence make one broken.
    #[must_use]
    pub fn new(vip: SocketAddr, connections: usize) -> Self {
        let (pause, timeout) = (Duration::from_millis(50), Duration::from_secs(5));
        Self { vip, connections, renews: false, pause, timeout }
    }

    /// Opens again what ended.
    #[must_use]
    pub fn renewing(self) -> Self {
        Self { renews: true, ..self }
    }

    /// Time between an answer and the next byte.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Silence that makes a connection broken.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Opens all connections from inside `client` and starts the ping-pong.
    ///
    /// # Errors
    /// When one cannot be opened or does not name its backend in time.
    pub fn open(self, client: &Namespace) -> Result<LivePool> {
        let shared = Arc::new(Mutex::new(Shared { rounds: vec![0; self.connections], ..Shared::default() }));
        let report = Arc::clone(&shared);
        let task = Task::start(client, "connections", async move |gate: Gate| {
            let start = Instant::now();
            let mut members = tokio::task::JoinSet::new();
            for index in 0..self.connections {
                let member = Member { pool: self, index, start, shared: Arc::clone(&report) };
                members.spawn_local(member.run(gate.clone()));
            }
            members.join_all().await;
            Ok(())
        })?;
        let live = LivePool { task, shared, pool: self };
        live.wait_opened()?;
        Ok(live)
    }
}

/// What a pool has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PoolReport {
    /// Connections that were established.
    pub opened: usize,
    /// Established connections that live now, or lived at the end.
    pub live: usize,
    /// Established connections that broke.
    pub broken: usize,
    /// Established connections that were ended in good order while the pool lived.
    pub ended: usize,
    /// Bytes that came back.
    pub pongs: u64,
    /// Established connections by backend.
    pub per_backend: BTreeMap<String, usize>,
    /// Those that live now, or lived at the end, by backend.
    pub live_per_backend: BTreeMap<String, usize>,
    /// What broke, or was never established.
    pub failures: Vec<Failure>,
}

impl PoolReport {
    fn less_one(&mut self, backend: &str) {
        self.live -= 1;
        if let Some(live) = self.live_per_backend.get_mut(backend) {
            *live -= 1;
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    report: PoolReport,
    /// Answers by connection; nothing for one that is broken.
    rounds: Vec<u64>,
    broken: Vec<usize>,
    /// Until when connections must have been opened to be ended, by backend.
    retired: BTreeMap<String, Instant>,
}

/// A pool in the background. Dropping it closes all connections.
#[derive(Debug)]
pub struct LivePool {
    task: Task<()>,
    shared: Arc<Mutex<Shared>>,
    pool: ConnectionPool,
}

impl LivePool {
    /// What it has seen so far.
    #[must_use]
    pub fn snapshot(&self) -> PoolReport {
        self.lock().report.clone()
    }

    /// Waits until every live connection has been answered at least once more, to a byte sent after this
    /// call: what a change breaks is known then.
    ///
    /// # Errors
    /// When that takes longer than `deadline`.
    pub fn wait_round(&self, deadline: Duration) -> Result<PoolReport> {
        let before = self.lock().rounds.clone();
        wait_until("an answer on every live connection", deadline, || {
            let now = self.lock();
            // Two more: the first answer may belong to a byte sent before.
            (0..before.len())
                .all(|index| now.broken.contains(&index) || now.rounds[index] >= before[index] + 2)
        })?;
        Ok(self.snapshot())
    }

    /// Ends the connections that `backend` has now in good order, as users do who have finished. Returns at
    /// once how many there are; each ends when its next byte has come back.
    #[must_use]
    pub fn retire(&self, backend: &str) -> usize {
        let mut shared = self.lock();
        shared.retired.insert(backend.to_owned(), Instant::now());
        shared.report.live_per_backend.get(backend).copied().unwrap_or_default()
    }

    /// Closes all connections and returns what was seen.
    ///
    /// # Errors
    /// When the client's namespace could not be entered.
    pub fn finish(self) -> Result<PoolReport> {
        let shared = Arc::clone(&self.shared);
        self.task.finish()?;
        let report = shared.lock().unwrap_or_else(PoisonError::into_inner).report.clone();
        Ok(report)
    }

    fn wait_opened(&self) -> Result<()> {
        let wanted = self.pool.connections;
        let deadline = self.pool.timeout + self.pool.timeout;
        wait_until("opening all connections", deadline, || {
            let now = self.lock();
            now.report.opened + now.report.failures.len() >= wanted
        })
        .with_context(|| format!("{} of {wanted} are open", self.lock().report.opened))?;
        let report = self.snapshot();
        if report.opened < wanted {
            let first = report.failures.first().map_or("", |failure| failure.error.as_str());
            bail!("only {} of {wanted} connections to {}: {first}", report.opened, self.pool.vip);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Member {
    pool: ConnectionPool,
    index: usize,
    start: Instant,
    shared: Arc<Mutex<Shared>>,
}

impl Member {
    async fn run(self, mut gate: Gate) {
        while gate.open().await {
            self.live(&mut gate).await;
            if !self.pool.renews {
                return;
            }
            self.rest(&mut gate).await;
        }
    }

    /// One connection from its beginning to its end.
    async fn live(&self, gate: &mut Gate) {
        let begun = Instant::now();
        let (mut stream, backend) = match self.connect().await {
            Ok(opened) => opened,
            Err(error) => return self.fail(begun, Stage::Connect, None, &error),
        };
        self.note(|shared| {
            shared.report.opened += 1;
            shared.report.live += 1;
            *shared.report.per_backend.entry(backend.clone()).or_default() += 1;
            *shared.report.live_per_backend.entry(backend.clone()).or_default() += 1;
        });
        while gate.open().await {
            let asked = Instant::now();
            if let Err(error) = self.ping_pong(&mut stream).await {
                // A close by us at the end is no break.
                if !gate.is_stopped() {
                    self.fail(asked, Stage::Exchange, Some(&backend), &error);
                }
                return;
            }
            if self.is_retired(begun, &backend) {
                return;
            }
            self.rest(gate).await;
        }
    }

    /// Whether the connection, opened then, is to end; it is counted as ended.
    fn is_retired(&self, opened: Instant, backend: &str) -> bool {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let retired = shared.retired.get(backend).is_some_and(|until| opened < *until);
        if retired {
            shared.report.less_one(backend);
            shared.report.ended += 1;
        }
        retired
    }

    async fn rest(&self, gate: &mut Gate) {
        tokio::select! {
            () = tokio::time::sleep(self.pool.pause) => {}
            () = gate.stopped() => {}
        }
    }

    async fn connect(&self) -> Result<(BufReader<TcpStream>, String)> {
        let opening = async {
            let stream = TcpStream::connect(self.pool.vip).await?;
            stream.set_nodelay(true)?;
            let mut stream = BufReader::new(stream);
            let mut backend = String::new();
            stream.read_line(&mut backend).await?;
            if backend.is_empty() {
                bail!("closed before the backend named itself");
            }
            Ok((stream, backend.trim().to_owned()))
        };
        timeout(self.pool.timeout, opening).await.context("no connection in time")?
    }

    async fn ping_pong(&self, stream: &mut BufReader<TcpStream>) -> Result<()> {
        let exchange = async {
            let byte = u8::try_from(self.index % 251)?;
            stream.write_all(&[byte]).await?;
            let back = stream.read_u8().await?;
            if back != byte {
                bail!("sent {byte}, got {back}");
            }
            Ok(())
        };
        timeout(self.pool.timeout, exchange).await.context("no answer in time")??;
        self.note(|shared| {
            shared.report.pongs += 1;
            shared.rounds[self.index] += 1;
        });
        Ok(())
    }

    fn fail(&self, begun: Instant, stage: Stage, backend: Option<&str>, error: &anyhow::Error) {
        let failure = Failure::now((self.start, begun), stage, backend, format!("{error:#}"));
        self.note(|shared| {
            if let Some(backend) = backend {
                shared.report.broken += 1;
                shared.report.less_one(backend);
            }
            shared.broken.push(self.index);
            keep(&mut shared.report.failures, failure);
        });
    }

    fn note(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
