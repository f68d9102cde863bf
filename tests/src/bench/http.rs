//! (c) Requests a second of real TCP: wrk, 64 connections, through the node to nginx on four backends.
//!
//! Both contenders have the same network, backends and return path (backend, node, client, by the kernel's routing);
//! only what takes a client's packets to a backend differs: a multipath route, or the balancer in front of it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::stage::{PORT, Stage};
use super::{Effort, median};
use crate::topology::vip;
use crate::traffic::{Reuse, Wrk};

const CONNECTIONS: usize = 64;

/// How connections are used.
const USES: [(&str, Reuse); 2] =
    [("http_keepalive_share", Reuse::KeepAlive), ("http_close_share", Reuse::PerRequest)];

/// One contender, one way to use connections; medians of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Http {
    /// The key of the share.
    pub key: &'static str,
    /// `balance` or `kernel_multipath`.
    pub contender: &'static str,
    /// Answered requests a second.
    pub requests_per_s: f64,
    /// 99th percentile of the latency, microseconds.
    pub latency_p99_us: f64,
    /// Of what multipath forwarding answered in the same round.
    pub share: f64,
}

/// The keys.
pub fn keys(all: &[Http]) -> Vec<(&'static str, Option<f64>)> {
    let share =
        |key| all.iter().find(|one| one.key == key && one.contender == "balance").map(|one| one.share);
    USES.map(|(key, _)| (key, share(key))).to_vec()
}

/// Measures everything.
///
/// # Errors
/// When the network cannot be made, or a request failed.
pub fn run(effort: Effort) -> Result<Vec<Http>> {
    let stage = Stage::build(true)?;
    stage.net.steer_by_kernel(0, &[0, 1, 2, 3])?;
    let plane = stage.plane()?;
    let node = stage.net.node();
    let (rounds, duration) = effort.http_rounds();
    let mut all = Vec::new();
    for (key, reuse) in USES {
        let wrk = Wrk::new(SocketAddr::new(vip(0).v4.into(), PORT))
            .threads(1)
            .connections(CONNECTIONS)
            .duration(duration)
            .reuse(reuse);
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            bare.push(wrk.run(stage.net.client())?);
            node.ns.run(|| plane.attach(node.uplink()))?;
            let measured = wrk.run(stage.net.client());
            node.ns.run(|| plane.detach(node.uplink()))?;
            ours.push(measured?);
        }
        let errors: u64 = bare.iter().chain(&ours).map(crate::traffic::WrkReport::errors).sum();
        ensure!(errors == 0, "{errors} requests failed");
        for (contender, own) in [("kernel_multipath", &bare), ("balance", &ours)] {
            let shares = own.iter().zip(&bare).map(|(own, bare)| own.requests_per_s / bare.requests_per_s);
            all.push(Http {
                key,
                contender,
                requests_per_s: median(&mut own.iter().map(|one| one.requests_per_s).collect::<Vec<_>>()),
                latency_p99_us: median(&mut own.iter().map(|one| one.latency_p99_us).collect::<Vec<_>>()),
                share: median(&mut shares.collect::<Vec<_>>()),
            });
        }
    }
    Ok(all)
}
