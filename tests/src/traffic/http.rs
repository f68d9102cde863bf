//! Steady HTTP load that counts every answer and remembers every failure; for demo and tests, not for speed
//! (that is `wrk`).
//!
//! A request counts once, ok or failed; nothing is retried, with one exception: a kept-alive connection that
//! was closed before a request was sent on it counts as broken, and the request goes out on a new one, as
//! any client would. With a lifetime, a worker ends its connection by itself and goes on with a new one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::{Failure, Stage, keep};
use super::task::{Gate, Task};
use crate::netns::Namespace;

/// Pause after a failure, so that a refusing backend is not asked thousands of times a second.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// Whether connections are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// One connection for all requests of a worker, as long as it lives.
    KeepAlive,
    /// A new connection for each request.
    PerRequest,
}

/// Description of a load.
#[derive(Clone, Debug)]
pub struct HttpLoad {
    vip: SocketAddr,
    path: String,
    workers: usize,
    reuse: Reuse,
    lifetime: Duration,
    pause: Duration,
    timeout: Duration,
}

impl HttpLoad {
    /// A load on `/` of `vip`: 8 workers, keep-alive without end, 5 ms between a worker's requests, 5 s to answer.
    #[must_use]
    pub fn new(vip: SocketAddr) -> Self {
        Self {
            vip,
            path: "/".to_owned(),
            workers: 8,
            reuse: Reuse::KeepAlive,
            lifetime: Duration::MAX,
            pause: Duration::from_millis(5),
            timeout: Duration::from_secs(5),
        }
    }

    /// What to ask for.
    #[must_use]
    pub fn path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Requests at the same time.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Whether connections are used again.
    #[must_use]
    pub fn reuse(self, reuse: Reuse) -> Self {
        Self { reuse, ..self }
    }

    /// Age at which a worker ends a connection that it kept.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Time between an answer and the worker's next request.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Longest time for connecting, and again for an answer.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Starts it inside `client`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(self, client: &Namespace) -> Result<RunningHttpLoad> {
        let report = Arc::new(Mutex::new(HttpReport::default()));
        let shared = Arc::clone(&report);
        let task = Task::start(client, "http-load", async move |gate: Gate| {
            let start = Instant::now();
            let mut workers = tokio::task::JoinSet::new();
            for _ in 0..self.workers {
                let worker = Worker { load: self.clone(), report: Arc::clone(&shared), start };
                workers.spawn_local(worker.run(gate.clone()));
            }
            workers.join_all().await;
            Ok(())
        })?;
        Ok(RunningHttpLoad { task, report })
    }
}

/// What a load has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HttpReport {
    /// Requests answered with 200.
    pub requests_ok: u64,
    /// Requests that were not.
    pub requests_failed: u64,
    /// Answers with 200 by backend.
    pub per_backend: BTreeMap<String, u64>,
    /// Connections that were established.
    pub connections_opened: u64,
    /// Established connections that ended before we ended them.
    pub connections_broken: u64,
    /// Longest time from a request to its answer in milliseconds, connecting included where it did.
    pub slowest_ms: u64,
    /// The failed requests, the first 10,000 of them.
    pub failures: Vec<Failure>,
    /// The connections that ended before we ended them, the first 10,000 of them.
    pub breaks: Vec<Failure>,
}

/// A load in the background. Dropping it ends it.
#[derive(Debug)]
pub struct RunningHttpLoad {
    task: Task<()>,
    report: Arc<Mutex<HttpReport>>,
}

impl RunningHttpLoad {
    /// What it has seen so far.
    #[must_use]
    pub fn snapshot(&self) -> HttpReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, after the requests that are under way, and returns what it has seen.
    ///
    /// # Errors
    /// When the client's namespace could not be entered.
    pub fn finish(self) -> Result<HttpReport> {
        self.task.finish()?;
        Ok(self.report.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// An open connection and what is known of it.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    backend: Option<String>,
    opened: Instant,
}

struct Worker {
    load: HttpLoad,
    report: Arc<Mutex<HttpReport>>,
    start: Instant,
}

impl Worker {
    async fn run(self, mut gate: Gate) {
        let mut kept = None;
        while gate.open().await {
            let begun = Instant::now();
            let pause = match self.exchange(kept.take(), begun).await {
                Ok(connection) => {
                    self.note(|report| {
                        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                        report.slowest_ms = report.slowest_ms.max(took_ms);
                    });
                    kept = connection;
                    self.load.pause
                }
                Err(failure) => {
                    self.note(|report| {
                        report.requests_failed += 1;
                        keep(&mut report.failures, failure);
                    });
                    self.load.pause.max(FAILURE_PAUSE)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = gate.stopped() => {}
            }
        }
    }

    /// One request; returns the connection when it is to be used again.
    async fn exchange(
        &self,
        kept: Option<Connection>,
        begun: Instant,
    ) -> Result<Option<Connection>, Failure> {
        let mut connection = match self.still_open(kept, begun).await {
            Some(connection) => connection,
            None => self.connect(begun).await?,
        };
        let answer = timeout(self.load.timeout, ask(&mut connection.sender, &self.load)).await;
        let (status, backend) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broken(&connection, begun, describe(&error))),
            Err(_) => return Err(self.broken(&connection, begun, "no answer in time".to_owned())),
        };
        if status != StatusCode::OK {
            return Err(self.failure(begun, Stage::Answer, backend.as_deref(), status.to_string()));
        }
        let name = backend.clone().unwrap_or_else(|| "unnamed".to_owned());
        self.note(|report| {
            report.requests_ok += 1;
            *report.per_backend.entry(name).or_default() += 1;
        });
        connection.backend = backend;
        let kept = self.load.reuse == Reuse::KeepAlive && connection.opened.elapsed() < self.load.lifetime;
        Ok(kept.then_some(connection))
    }

    /// The kept connection, unless the other side has closed it meanwhile.
    async fn still_open(&self, kept: Option<Connection>, begun: Instant) -> Option<Connection> {
        let mut connection = kept?;
        if let Err(error) = connection.sender.ready().await {
            let backend = connection.backend.as_deref();
            self.note_break(self.failure(begun, Stage::Idle, backend, describe(&error)));
            return None;
        }
        Some(connection)
    }

    async fn connect(&self, begun: Instant) -> Result<Connection, Failure> {
        let refused = |error: String| self.failure(begun, Stage::Connect, None, error);
        let stream = match timeout(self.load.timeout, TcpStream::connect(self.load.vip)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(_) => return Err(refused("no connection in time".to_owned())),
        };
        stream.set_nodelay(true).map_err(|error| refused(error.to_string()))?;
        let (sender, driver) =
            handshake(TokioIo::new(stream)).await.map_err(|error| refused(describe(&error)))?;
        tokio::task::spawn_local(async move {
            // The same error reaches the request, or the readiness check before the next one.
            let _ = driver.await;
        });
        self.note(|report| report.connections_opened += 1);
        Ok(Connection { sender, backend: None, opened: Instant::now() })
    }

    fn broken(&self, connection: &Connection, begun: Instant, error: String) -> Failure {
        let failure = self.failure(begun, Stage::Exchange, connection.backend.as_deref(), error);
        self.note_break(failure.clone());
        failure
    }

    fn note_break(&self, failure: Failure) {
        self.note(|report| {
            report.connections_broken += 1;
            keep(&mut report.breaks, failure);
        });
    }

    fn failure(&self, begun: Instant, stage: Stage, backend: Option<&str>, error: String) -> Failure {
        Failure::now((self.start, begun), stage, backend, error)
    }

    fn note(&self, change: impl FnOnce(&mut HttpReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Sends one request and reads the whole answer.
async fn ask(
    sender: &mut SendRequest<Empty<Bytes>>,
    load: &HttpLoad,
) -> hyper::Result<(StatusCode, Option<String>)> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = load.path.parse().unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(&load.vip.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    if load.reuse == Reuse::PerRequest {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let backend = answer.headers().get("x-backend").and_then(|name| name.to_str().ok()).map(str::to_owned);
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok((status, backend))
}

/// The error with its causes; hyper's own text lacks what the system said.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
