//! How to probe, made ready once for a vip: patterns compiled, payloads decoded, TLS set up. What an attempt costs is
//! bounded here: its time by the probe's timeout, its memory by what each kind reads at most.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use lb_control::health::Outcome;
use lb_control::probe::{Probe, ProbeKind, payload};
use tokio::time::{Instant, timeout_at};

use super::goal::Goal;
use super::http::Request;
use super::tls::{Client, Roots};
use super::via::Road;
use super::{icmp, tcp, udp};

/// How an attempt ended, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// For people, short: `status 500`; empty if the outcome says it all.
    pub detail: String,
}

impl Answer {
    /// A success.
    pub(super) const fn success() -> Self {
        Self { outcome: Outcome::Success, detail: String::new() }
    }
    /// A failure.
    pub(super) fn failed(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into() }
    }
}

/// What a failed call on a socket says of the backend.
///
/// # Errors
/// It says nothing: the node itself lacks something (descriptors, ports, memory).
pub(super) fn socket_failure(error: io::Error) -> io::Result<Answer> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Ok(Answer::failed(Outcome::Refused, "refused")),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            Ok(Answer::failed(Outcome::Refused, "reset"))
        }
        ErrorKind::TimedOut => Ok(Answer::failed(Outcome::Timeout, "no answer")),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied => {
            Ok(Answer::failed(Outcome::Unreachable, "unreachable"))
        }
        _ => Err(error),
    }
}

/// How to probe the backends of a vip.
#[derive(Debug)]
pub struct Plan {
    /// As it is set.
    pub probe: Probe,
    how: How,
}

#[derive(Debug)]
enum How {
    Tcp,
    Http(Box<Request>),
    Https(Box<Request>, Client),
    Tls(Client),
    Udp {
        send: Vec<u8>,
        expect: Vec<u8>,
    },
    Icmp,
    /// It cannot be made: the log holds what this build does not take.
    Unfit(String),
}

impl Plan {
    /// Makes a probe ready; `None`: there is none. `roots` are what certificates are verified by.
    pub fn new(probe: &Probe, roots: &Roots) -> Option<Self> {
        let made = match probe.kind {
            ProbeKind::None => return None,
            ProbeKind::Tcp => Ok(How::Tcp),
            ProbeKind::Http => Request::new(probe).map(|request| How::Http(Box::new(request))),
            ProbeKind::Https => Request::new(probe)
                .and_then(|request| Ok(How::Https(Box::new(request), Client::new(probe, roots, true)?))),
            ProbeKind::Tls => Client::new(probe, roots, false).map(How::Tls),
            ProbeKind::Udp => exchange(probe),
            ProbeKind::Icmp => Ok(How::Icmp),
        };
        Some(Self { probe: probe.clone(), how: made.unwrap_or_else(How::Unfit) })
    }

    /// Asks this address once, within the probe's timeout.
    ///
    /// # Errors
    /// The attempt itself could not be made, which says nothing of the backend.
    pub async fn attempt(&self, target: SocketAddr) -> io::Result<Answer> {
        self.attempt_until(self.deadline(), Goal::Straight(target)).await
    }

    /// The same by a vip's own path to a backend.
    ///
    /// # Errors
    /// The attempt itself could not be made, which says nothing of the backend.
    pub(super) async fn attempt_by(&self, road: &Road) -> io::Result<Answer> {
        let deadline = self.deadline();
        match timeout_at(deadline, road.line()).await {
            Ok(line) => self.attempt_until(deadline, Goal::Vip(Box::new(line))).await,
            Err(_) => Ok(Answer::failed(Outcome::Unreachable, format!("no way to it: {}", road.obstacle()))),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(u64::from(self.probe.timeout_ms))
    }

    async fn attempt_until(&self, deadline: Instant, goal: Goal) -> io::Result<Answer> {
        let asked = timeout_at(deadline, self.ask(&goal)).await;
        asked.unwrap_or_else(|_| {
            Ok(Answer::failed(Outcome::Timeout, format!("no answer in {} ms", self.probe.timeout_ms)))
        })
    }

    async fn ask(&self, goal: &Goal) -> io::Result<Answer> {
        match &self.how {
            How::Tcp => tcp::ask(goal).await,
            // Boxed, so that the many attempts of the smallest kind do not take the room of the larger ones.
            How::Http(request) => Box::pin(request.ask(goal)).await,
            How::Https(request, client) => Box::pin(request.ask_through(client, goal)).await,
            How::Tls(client) => Box::pin(client.ask(goal)).await,
            How::Udp { send, expect } => Box::pin(udp::ask(goal, send, expect)).await,
            How::Icmp => Box::pin(icmp::ask(goal)).await,
            How::Unfit(reason) => Err(io::Error::other(reason.clone())),
        }
    }
}

fn exchange(probe: &Probe) -> Result<How, String> {
    let send = payload(probe.send.as_deref().unwrap_or_default())?;
    let expect = probe.expect.as_deref().map(payload).transpose()?.unwrap_or_default();
    Ok(How::Udp { send, expect })
}
