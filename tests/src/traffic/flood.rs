//! UDP datagrams without end, many flows, and nobody waits for an answer: as many as each of some CPUs has time for, or
//! at a rate.
//!
//! A sender plays a machine of its own, so it must not take the time of those that it shares this one with: it gets what
//! a CPU has left over (`SCHED_IDLE`). What its packets cost where they arrive is not bounded by that, and is what a flood
//! is about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::priority::yield_to_others;

use crate::netns::Namespace;

/// Datagrams of one socket before another takes its place: the flood is many flows, not one.
const PER_SOCKET: u32 = 64;
/// How far a sender that keeps to a rate may be behind it: what it missed for longer it does not make up for.
const BEHIND_MAX: Duration = Duration::from_millis(20);

/// Description of a flood.
#[derive(Clone, Debug)]
pub struct Flood {
    target: SocketAddr,
    cpus: Vec<usize>,
    payload_bytes: usize,
    rate_pps: Option<u32>,
}

/// A flood in the background. Dropping it ends it.
#[derive(Debug)]
pub struct RunningFlood {
    end: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Flood {
    /// A flood of 64 bytes each from CPU 0, as fast as it can.
    #[must_use]
    pub fn new(target: SocketAddr) -> Self {
        Self { target, cpus: vec![0], payload_bytes: 64, rate_pps: None }
    }

    /// The CPUs that have a sender each.
    #[must_use]
    pub fn cpus(self, cpus: &[usize]) -> Self {
        Self { cpus: cpus.to_vec(), ..self }
    }

    /// Payload of a datagram in bytes.
    #[must_use]
    pub fn payload_bytes(self, payload_bytes: usize) -> Self {
        Self { payload_bytes, ..self }
    }

    /// Datagrams a second of each sender, at most.
    #[must_use]
    pub fn rate_pps(self, rate_pps: u32) -> Self {
        Self { rate_pps: Some(rate_pps), ..self }
    }

    /// Starts the senders inside `client`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(self, client: &Namespace) -> Result<RunningFlood> {
        let mut running = RunningFlood { end: Arc::default(), sent: Arc::default(), threads: Vec::new() };
        for cpu in self.cpus.clone() {
            let (flood, end, sent) = (self.clone(), running.end.clone(), running.sent.clone());
            let work = move || flood.send(cpu, &end, &sent);
            running.threads.push(client.start_thread("flood", work)?);
        }
        Ok(running)
    }

    fn send(&self, cpu: usize, end: &AtomicBool, sent: &AtomicU64) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set).context("pin a sender")?;
        yield_to_others()?;
        let payload = vec![0; self.payload_bytes];
        let each = self.rate_pps.map(|rate| Duration::from_secs(1) / rate.max(1));
        let mut due = Instant::now();
        while !end.load(Ordering::Relaxed) {
            let socket = open(self.target)?;
            let mut count = 0;
            for _ in 0..PER_SOCKET {
                // A full queue or an ICMP error is no reason to stop.
                count += u64::from(socket.send(&payload).is_ok());
                if let Some(each) = each {
                    due = due.max(Instant::now().checked_sub(BEHIND_MAX).unwrap_or(due)) + each;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            }
            sent.fetch_add(count, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl RunningFlood {
    /// Datagrams handed to the kernel so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; returns the datagrams that were sent.
    ///
    /// # Errors
    /// When a sender failed.
    pub fn finish(mut self) -> Result<u64> {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        Ok(self.sent())
    }
}

impl Drop for RunningFlood {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It ends by itself; whoever wants to know how calls `finish`.
            let _ = thread.join();
        }
    }
}

fn open(target: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("open a socket")?;
    socket.connect(target).with_context(|| format!("connect to {target}"))?;
    Ok(socket)
}
