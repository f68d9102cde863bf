//! As many UDP datagrams as a CPU can send, from each of the CPUs that it is given. Nobody waits for an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::netns::Namespace;

/// Datagrams of one socket before another takes its place: the flood is many flows, not one.
const PER_SOCKET: u32 = 64;

/// A flood in the background. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    end: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Starts a sender on each of these CPUs, inside `client`, with this payload.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(client: &Namespace, vip: SocketAddr, cpus: &[usize], payload_bytes: usize) -> Result<Self> {
        let mut flood = Self { end: Arc::default(), sent: Arc::default(), threads: Vec::new() };
        for cpu in cpus {
            let (end, sent, cpu) = (flood.end.clone(), flood.sent.clone(), *cpu);
            let work = move || send(vip, cpu, payload_bytes, &end, &sent);
            flood.threads.push(client.start_thread("flood", work)?);
        }
        Ok(flood)
    }

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

impl Drop for Flood {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(vip: SocketAddr, cpu: usize, payload_bytes: usize, end: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pin a sender")?;
    let payload = vec![0; payload_bytes];
    while !end.load(Ordering::Relaxed) {
        let socket = open(vip)?;
        let mut count = 0;
        for _ in 0..PER_SOCKET {
            // A full queue or an ICMP error is no reason to stop.
            count += u64::from(socket.send(&payload).is_ok());
        }
        sent.fetch_add(count, Ordering::Relaxed);
    }
    Ok(())
}

fn open(vip: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("open a socket")?;
    socket.connect(vip).with_context(|| format!("connect to {vip}"))?;
    Ok(socket)
}
