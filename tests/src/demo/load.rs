//! The traffic of the demo: HTTP, datagrams and long-lived connections over both families, from several clients,
//! steady, and what came of it.
//!
//! Rates are chosen to be easy for two cores: the demo proves that nothing is lost, not how much can be carried
//! (that is the bench).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::account::{Kill, split};
use super::cast::{CHAT4, CHAT6, Served, UDP4, UDP6, WEB4, WEB6};
use crate::topology::Topology;
use crate::traffic::{
    ConnectionPool, Failure, HttpLoad, HttpReport, LivePool, PoolReport, Reuse, RunningHttpLoad,
    RunningUdpLoad, Stage, UdpLoad, UdpReport,
};

/// Clients in namespaces of their own: one for HTTP, one for all else, one for a flood.
pub(super) const CLIENTS: usize = 3;
/// Workers of each HTTP load; there are four loads.
const WORKERS: usize = 4;
/// Flows of each UDP load; there are two.
const FLOWS: usize = 8;
/// Connections of each pool; there are two.
const CONNECTIONS: usize = 30;
/// Between two requests of a worker or flow.
const PAUSE: Duration = Duration::from_millis(10);
/// Age at which browsers let go of a connection, and at which datagrams get another source port.
const LIFETIME: Duration = Duration::from_secs(2);
/// Failures told in a report.
const TOLD: usize = 5;

/// All loads.
#[derive(Debug)]
pub struct Traffic {
    http: Vec<(Served, RunningHttpLoad)>,
    udp: Vec<(Served, RunningUdpLoad)>,
    pools: Vec<(Served, LivePool)>,
}

impl Traffic {
    /// Starts everything; returns when the long-lived connections are open.
    ///
    /// # Errors
    /// When a long-lived connection cannot be opened.
    pub fn start(net: &Topology) -> Result<Self> {
        let [web, other, _] = net.clients() else { anyhow::bail!("the demo has {CLIENTS} clients") };
        let mut pools = Vec::new();
        for served in [CHAT4, CHAT6] {
            let pool = ConnectionPool::new(served.socket(), CONNECTIONS).renewing();
            pools.push((served, pool.open(&other.ns).with_context(|| format!("vip {}", served.name))?));
        }
        let mut http = Vec::new();
        for served in [WEB4, WEB6] {
            for reuse in [Reuse::KeepAlive, Reuse::PerRequest] {
                let load = HttpLoad::new(served.socket()).workers(WORKERS).reuse(reuse);
                http.push((served, load.lifetime(LIFETIME).pause(PAUSE).start(&web.ns)?));
            }
        }
        let mut udp = Vec::new();
        for served in [UDP4, UDP6] {
            let load = UdpLoad::new(served.socket()).flows(FLOWS).lifetime(LIFETIME).pause(PAUSE);
            udp.push((served, load.start(&other.ns)?));
        }
        Ok(Self { http, udp, pools })
    }

    /// Ends the long-lived connections of a backend in good order; returns how many.
    #[must_use]
    pub fn retire(&self, backend: &str) -> usize {
        self.pools.iter().map(|(_, pool)| pool.retire(backend)).sum()
    }

    /// What was seen so far.
    #[must_use]
    pub fn snapshot(&self) -> Seen {
        Seen {
            http: self.http.iter().map(|(served, load)| (*served, load.snapshot())).collect(),
            udp: self.udp.iter().map(|(served, load)| (*served, load.snapshot())).collect(),
            pools: self.pools.iter().map(|(served, pool)| (*served, pool.snapshot())).collect(),
        }
    }

    /// Ends everything, after what is under way.
    ///
    /// # Errors
    /// When a load ended badly.
    pub fn finish(self) -> Result<Seen> {
        let http = self.http.into_iter().map(|(served, load)| Ok((served, load.finish()?)));
        let http = http.collect::<Result<_>>()?;
        let udp = self.udp.into_iter().map(|(served, load)| Ok((served, load.finish()?)));
        let udp = udp.collect::<Result<_>>()?;
        let pools = self.pools.into_iter().map(|(served, pool)| Ok((served, pool.finish()?)));
        Ok(Seen { http, udp, pools: pools.collect::<Result<_>>()? })
    }
}

/// What all loads have seen.
#[derive(Clone, Debug)]
pub struct Seen {
    http: Vec<(Served, HttpReport)>,
    udp: Vec<(Served, UdpReport)>,
    pools: Vec<(Served, PoolReport)>,
}

/// The sums, with every failure put to an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Requests answered with 200.
    pub requests_ok: u64,
    /// Requests, and openings of long-lived connections, that failed and that no killed backend explains.
    pub requests_failed: u64,
    /// Those that a killed backend explains.
    pub failed_on_killed: u64,
    /// Connections that broke though their backend lived.
    pub connections_broken: u64,
    /// Connections that were open to a backend when it was killed.
    pub broken_on_killed: u64,
    /// Connections that were opened, by HTTP and for long.
    pub connections_opened: u64,
    /// Long-lived connections open now, or at the end.
    pub long_lived: u64,
    /// Datagrams sent.
    pub udp_sent: u64,
    /// Datagrams answered.
    pub udp_answered: u64,
    /// Datagrams without an answer that a killed backend explains.
    pub udp_lost_on_killed: u64,
    /// Datagrams without an answer that none explains.
    pub udp_lost: u64,
    /// Requests answered, IPv4.
    pub requests_ok_v4: u64,
    /// Requests answered, IPv6.
    pub requests_ok_v6: u64,
    /// Datagrams answered, IPv4.
    pub udp_answered_v4: u64,
    /// Datagrams answered, IPv6.
    pub udp_answered_v6: u64,
    /// Requests answered, by backend.
    pub per_backend: BTreeMap<String, u64>,
    /// Datagrams answered, by backend.
    pub udp_per_backend: BTreeMap<String, u64>,
    /// Long-lived connections open now, or at the end, by backend.
    pub long_lived_per_backend: BTreeMap<String, u64>,
    /// Slowest answered request in milliseconds.
    pub slowest_ms: u64,
    /// The first failures that nothing explains, in words.
    pub unexplained: Vec<String>,
}

impl Seen {
    /// Adds everything up.
    #[must_use]
    pub fn tally(&self, kills: &[Kill]) -> Tally {
        let mut tally = Tally::default();
        self.http.iter().for_each(|(served, report)| tally.add_http(served, report, kills));
        self.udp.iter().for_each(|(served, report)| tally.add_udp(served, report, kills));
        self.pools.iter().for_each(|(served, report)| tally.add_pool(served, report, kills));
        tally
    }
}

impl Tally {
    fn add_http(&mut self, served: &Served, report: &HttpReport, kills: &[Kill]) {
        self.requests_ok += report.requests_ok;
        *(if served.is_v6 { &mut self.requests_ok_v6 } else { &mut self.requests_ok_v4 }) +=
            report.requests_ok;
        self.connections_opened += report.connections_opened;
        self.slowest_ms = self.slowest_ms.max(report.slowest_ms);
        add(&mut self.per_backend, report.per_backend.iter().map(|(name, count)| (name, *count)));
        self.failed_on_killed += self.requests(served, &report.failures, kills);
        // Beyond what is kept in detail, nothing is explained.
        self.requests_failed += report.requests_failed.saturating_sub(report.failures.len() as u64);
        self.breaks(served, report.breaks.iter(), kills);
        self.connections_broken += report.connections_broken.saturating_sub(report.breaks.len() as u64);
    }

    fn add_udp(&mut self, served: &Served, report: &UdpReport, kills: &[Kill]) {
        self.udp_sent += report.sent;
        self.udp_answered += report.answered;
        *(if served.is_v6 { &mut self.udp_answered_v6 } else { &mut self.udp_answered_v4 }) +=
            report.answered;
        add(&mut self.udp_per_backend, report.per_backend.iter().map(|(name, count)| (name, *count)));
        let explains = |failure: &Failure| kills.iter().any(|kill| kill.explains(served.name, failure));
        let (theirs, ours) = split(&report.failures, explains);
        self.udp_lost_on_killed += theirs;
        self.udp_lost += ours.len() as u64;
        self.tell(served, &ours);
    }

    fn add_pool(&mut self, served: &Served, report: &PoolReport, kills: &[Kill]) {
        self.connections_opened += report.opened as u64;
        self.long_lived += report.live as u64;
        let live = report.live_per_backend.iter().map(|(name, count)| (name, *count as u64));
        add(&mut self.long_lived_per_backend, live);
        let (unopened, broken): (Vec<_>, Vec<_>) =
            report.failures.iter().partition(|failure| failure.stage == Stage::Connect);
        self.failed_on_killed += self.requests(served, unopened, kills);
        self.breaks(served, broken, kills);
    }

    /// Puts failed requests to an account; returns those of a killed backend.
    fn requests<'f>(
        &mut self,
        served: &Served,
        failures: impl IntoIterator<Item = &'f Failure>,
        kills: &[Kill],
    ) -> u64 {
        let (theirs, ours) =
            split(failures, |failure| kills.iter().any(|kill| kill.explains(served.name, failure)));
        self.requests_failed += ours.len() as u64;
        self.tell(served, &ours);
        theirs
    }

    fn breaks<'f>(&mut self, served: &Served, breaks: impl IntoIterator<Item = &'f Failure>, kills: &[Kill]) {
        let (theirs, ours) =
            split(breaks, |broken| kills.iter().any(|kill| kill.explains_break(served.name, broken)));
        self.broken_on_killed += theirs;
        self.connections_broken += ours.len() as u64;
        self.tell(served, &ours);
    }

    fn tell(&mut self, served: &Served, ours: &[&Failure]) {
        let room = TOLD.saturating_sub(self.unexplained.len());
        self.unexplained.extend(ours.iter().take(room).map(|failure| {
            let backend = failure.backend.as_deref().unwrap_or("an unknown backend");
            let (at_ms, stage, error) = (failure.at_ms, failure.stage, &failure.error);
            format!("{} at {at_ms} ms, {backend}, {stage:?}: {error}", served.name)
        }));
    }
}

fn add<'n>(sums: &mut BTreeMap<String, u64>, counts: impl Iterator<Item = (&'n String, u64)>) {
    for (name, count) in counts {
        *sums.entry(name.clone()).or_default() += count;
    }
}
