//! Probes by the vip's own path: a small host of the probe addresses, beside the node's own network stack.
//!
//! The node cannot ask a vip itself: if it has the vip, its packets never leave it; if it has not, its kernel answers what
//! comes back with a reset. So the [`Station`] is a host of its own, in this process: it has one address of each family,
//! which nothing else has, and answers for them by ARP and ND. What it sends is framed as the packet path frames what
//! clients send ([`frame`]), by the way that the node has to that backend; what comes back is found again by the port
//! that it asked from ([`arrival`]). TCP is smoltcp's ([`tcp`]); a datagram and its answer need no stack ([`datagram`]).
//!
//! Not here: what is asked, and what an answer means (the kinds of probes, over either path). Bounds: a [`Berth`] is one
//! attempt's, so there are no more of them than places in pools; what waits in it is bounded in packets and bytes.

mod air;
mod arrival;
mod datagram;
mod frame;
mod neighbour;
mod open;
mod tcp;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::addr::Mac;
use lb_common::ids::BackendId;
use lb_common::limits::{IPV4_OVERHEAD, IPV6_OVERHEAD};
use lb_control::plan::Way;
use lb_control::vip::Mode;
use tokio::sync::{mpsc, watch};

pub use open::open;
pub(super) use tcp::Stream;

use crate::reconcile::Ways;
use air::Air;

/// Packets that may wait for an attempt.
const BERTH_PACKETS: usize = 32;
/// Ports that attempts are made from: all that no system keeps for itself.
const PORTS: std::ops::RangeInclusive<u16> = 1_024..=u16::MAX;

/// The addresses that probes by the vip's path are asked from, at most one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Of IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Of IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The one of the same family as `other`.
    pub fn like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
    /// Whether it is one of them.
    pub fn has(&self, address: IpAddr) -> bool {
        self.like(address) == Some(address)
    }
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// What came for an attempt.
#[derive(Debug)]
enum Inbound {
    /// An IP packet, without its Ethernet header.
    Packet(Vec<u8>),
    /// An ICMP error about what the attempt sent.
    Unreachable(io::ErrorKind),
}

/// Who waits at a port.
#[derive(Debug)]
struct Waiting {
    /// The vip that is asked: nobody else is listened to, but for ICMP errors, which routers send.
    vip: IpAddr,
    sender: mpsc::Sender<Inbound>,
}

/// The host of the probe addresses.
pub struct Station {
    addresses: Addresses,
    air: Arc<dyn Air>,
    ways: watch::Receiver<Ways>,
    /// By port; of ICMP, by identifier. One number space for all: it is known by it alone whose an answer is.
    waiting: Mutex<HashMap<u16, Waiting>>,
    chance: RandomState,
}

impl fmt::Debug for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Station").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Station {
    fn new(addresses: Addresses, air: Arc<dyn Air>, ways: watch::Receiver<Ways>) -> Self {
        Self { addresses, air, ways, waiting: Mutex::default(), chance: RandomState::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u16, Waiting>> {
        // Whoever panicked while it held the lock left a whole map.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what came to whoever waits for it. One that does not take its packets in time loses them, as on any wire.
    fn deliver(&self, port: u16, from: IpAddr, inbound: Inbound) {
        if let Some(waiting) = self.waiting().get(&port)
            && (waiting.vip == from || matches!(inbound, Inbound::Unreachable(_)))
        {
            let _ = waiting.sender.try_send(inbound);
        }
    }

    /// A number that nobody can foresee.
    fn random(&self, of: impl Hash) -> u64 {
        let mut hasher = self.chance.build_hasher();
        of.hash(&mut hasher);
        std::time::Instant::now().hash(&mut hasher);
        hasher.finish()
    }
}

/// A port of the station, as long as an attempt has it.
struct Berth {
    station: Arc<Station>,
    port: u16,
    inbound: mpsc::Receiver<Inbound>,
}

impl Berth {
    /// Takes a port that nobody has.
    ///
    /// # Errors
    /// There is none.
    fn take(station: &Arc<Station>, vip: IpAddr) -> io::Result<Self> {
        let (sender, inbound) = mpsc::channel(BERTH_PACKETS);
        let mut waiting = station.waiting();
        let count = u32::from(PORTS.end() - PORTS.start()) + 1;
        let first = (station.random(vip) % u64::from(count)) as u32;
        let mut ports = (0..count).map(|step| PORTS.start() + ((first + step) % count) as u16);
        let Some(port) = ports.find(|port| !waiting.contains_key(port)) else {
            return Err(io::Error::other("every port of the probe address is in use"));
        };
        waiting.insert(port, Waiting { vip, sender });
        drop(waiting);
        Ok(Self { station: station.clone(), port, inbound })
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.station.waiting().remove(&self.port);
    }
}

/// The path of a vip to one of its backends, whatever the way there is at the time.
#[derive(Clone, Debug)]
pub(super) struct Road {
    station: Arc<Station>,
    from: IpAddr,
    /// What is asked: the vip.
    to: SocketAddr,
    id: BackendId,
    /// Mode ipip: the backend's own address, which the tunnel leads to.
    tunnel: Option<IpAddr>,
}

impl Road {
    /// The path to the backend of this id and address; `None`: the station has no address of the vip's family.
    pub(super) fn new(
        station: &Arc<Station>,
        to: SocketAddr,
        id: BackendId,
        address: IpAddr,
        mode: Mode,
    ) -> Option<Self> {
        let from = station.addresses.like(to.ip())?;
        let tunnel = (mode == Mode::Ipip).then_some(address);
        Some(Self { station: station.clone(), from, to, id, tunnel })
    }

    /// The path as it is now; waits until the hardware address of the next hop is known.
    pub(super) async fn line(&self) -> Line {
        let mut ways = self.station.ways.clone();
        loop {
            if let Some(Ok(way)) = ways.borrow_and_update().get(&self.id)
                && let Some(next_hop) = way.next_hop_mac
            {
                let (station, from, to) = (self.station.clone(), self.from, self.to);
                return Line { station, from, to, way: *way, next_hop, tunnel: self.tunnel };
            }
            if ways.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why there is no [`Road::line`] yet, in a few words.
    pub(super) fn obstacle(&self) -> String {
        match self.station.ways.borrow().get(&self.id) {
            Some(Ok(_)) => "its next hop does not answer".to_owned(),
            Some(Err(why)) => why.clone(),
            None => "its way is not looked up yet".to_owned(),
        }
    }
}

/// The path of a vip to one of its backends.
#[derive(Clone, Debug)]
pub(super) struct Line {
    station: Arc<Station>,
    from: IpAddr,
    to: SocketAddr,
    way: Way,
    next_hop: Mac,
    tunnel: Option<IpAddr>,
}

impl Line {
    /// What is asked: the vip.
    pub(super) fn target(&self) -> SocketAddr {
        self.to
    }

    /// Largest packet that fits, bytes.
    fn mtu(&self) -> u16 {
        let overhead = match self.tunnel {
            None => 0,
            Some(IpAddr::V4(_)) => IPV4_OVERHEAD,
            Some(IpAddr::V6(_)) => IPV6_OVERHEAD,
        };
        self.way.mtu.saturating_sub(overhead)
    }

    /// Sends an IP packet; what cannot be sent is lost, as on any wire. `port`: where it is asked from.
    fn send(&self, packet: &[u8], port: u16) {
        let sent = frame::of(packet, &self.way, self.next_hop, self.tunnel, port)
            .ok_or_else(|| io::Error::other("no room for its headers"))
            .and_then(|frame| self.station.air.send(self.way.ifindex, &frame));
        if let Err(error) = sent {
            tracing::debug!(%error, vip = %self.to, "could not send a probe's packet");
        }
    }
}

#[cfg(test)]
mod tests;
