//! Opens the station, and reads what comes for it, in a thread of its own: no pool waits for another one's packets. What is
//! read is bounded by the sockets' buffers; one tenant's backend that floods the probe address takes of those, and of this
//! thread's time, what is everybody's.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use lb_control::state::State;
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::air::{PacketSockets, holder, receive};
use super::{Addresses, Station, arrival, neighbour};
use crate::neighbour::is_blackhole;
use crate::problem::{Code, Problem};
use crate::reconcile::Ways;
use crate::vital;

/// Longest frame that the kernel hands over, bytes: it may put segments together.
const FRAME_MAX_BYTES: usize = 64 * 1024;

impl Addresses {
    /// Takes the addresses as they are asked for.
    ///
    /// # Errors
    /// Two of one family, or one that no host can have.
    pub fn new(wished: &[IpAddr]) -> Result<Self, Problem> {
        let mut addresses = Self::default();
        for address in wished {
            let (unfit, twice) = match address {
                IpAddr::V4(v4) => {
                    (v4.is_link_local() || v4.is_broadcast(), addresses.v4.replace(*v4).is_some())
                }
                IpAddr::V6(v6) => (v6.is_unicast_link_local(), addresses.v6.replace(*v6).is_some()),
            };
            if unfit || address.is_unspecified() || address.is_loopback() || address.is_multicast() {
                return Err(refused(*address, "no host can be asked from it"));
            }
            if twice {
                return Err(refused(*address, "there is another one of its family"));
            }
        }
        Ok(addresses)
    }

    /// Sees to it that nobody here has them.
    ///
    /// # Errors
    /// The node has one, or a vip does.
    pub fn check(&self, state: &State) -> Result<(), Problem> {
        for address in self.all() {
            let held = holder(address).map_err(|error| refused(address, &error.to_string()))?;
            if let Some(device) = held {
                return Err(refused(address, &format!("this node has it, on `{device}`")));
            }
            if state.is_vip_address(address) {
                return Err(refused(address, "it is a vip's"));
            }
        }
        Ok(())
    }

    /// What a person should know of the node: one that forwards takes the answers for somebody else's, and sends them on or
    /// complains of them, unless its routes say that they end here.
    pub fn notes(&self) -> Vec<String> {
        let forwards = |address: &IpAddr| {
            let file = match address {
                IpAddr::V4(_) => "/proc/sys/net/ipv4/ip_forward",
                IpAddr::V6(_) => "/proc/sys/net/ipv6/conf/all/forwarding",
            };
            std::fs::read_to_string(file).is_ok_and(|text| text.trim() != "0")
        };
        let open = self.all().filter(|address| forwards(address) && !is_blackhole(*address).unwrap_or(false));
        open.map(|address| {
            format!("the node forwards, answers to its probe address too: `ip route add blackhole {address}` stops it")
        })
        .collect()
    }
}

fn refused(address: IpAddr, why: &str) -> Problem {
    Problem::new(Code::ProbeAddress, format!("--probe-address {address}: {why}"))
}

/// Opens the station of these addresses; it lives as long as somebody watches the ways. None: there are no addresses.
///
/// # Errors
/// The node cannot open a packet socket.
pub fn open(addresses: Addresses, ways: watch::Receiver<Ways>) -> Result<Option<Arc<Station>>, Problem> {
    if addresses == Addresses::default() {
        return Ok(None);
    }
    let unopened = |error: io::Error| {
        let text = format!("--probe-address: no packet socket ({error}); it needs CAP_NET_RAW");
        Problem::new(Code::ProbeAddress, text)
    };
    let sockets = Arc::new(PacketSockets::open(&addresses).map_err(unopened)?);
    let station = Arc::new(Station::new(addresses, sockets.clone(), ways.clone()));
    vital::spawn_async("probe-station", attend(station.clone(), sockets, ways));
    Ok(Some(station))
}

/// Reads what comes until nobody says any more which ways there are.
async fn attend(station: Arc<Station>, sockets: Arc<PacketSockets>, mut ways: watch::Receiver<Ways>) {
    let mut reading = JoinSet::new();
    for index in 0..sockets.sockets().len() {
        reading.spawn(read(station.clone(), sockets.clone(), index));
    }
    loop {
        join_groups(&station, &sockets, &ways.borrow_and_update().clone());
        tokio::select! {
            changed = ways.changed() => if changed.is_err() {
                return;
            },
            Some(ended) = reading.join_next() => if let Err(error) = ended && error.is_panic() {
                std::panic::resume_unwind(error.into_panic());
            },
        }
    }
}

/// Who is on the other side of a way asks there for the address of IPv6.
fn join_groups(station: &Station, sockets: &PacketSockets, ways: &Ways) {
    let Some(address) = station.addresses.v6 else { return };
    let mut devices: Vec<u32> = ways.values().flatten().map(|way| way.ifindex).collect();
    devices.sort_unstable();
    devices.dedup();
    devices.into_iter().for_each(|ifindex| sockets.join(address, ifindex));
}

async fn read(station: Arc<Station>, sockets: Arc<PacketSockets>, index: usize) {
    let socket: &Socket = &sockets.sockets()[index];
    // For tokio it is a datagram socket like any other.
    let readable = socket.try_clone().and_then(|socket| UdpSocket::from_std(socket.into()));
    let readable = match readable {
        Ok(readable) => readable,
        Err(error) => {
            return tracing::error!(%error, "cannot watch a packet socket: probes by vips' paths fail");
        }
    };
    let mut buffer = vec![0; FRAME_MAX_BYTES];
    loop {
        if readable.readable().await.is_err() {
            return;
        }
        match readable.try_io(Interest::READABLE, || receive(socket, &mut buffer)) {
            Ok((length, ifindex)) => take(&station, &sockets, ifindex, &buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // "Network is down", of a device that went: the socket works on.
            Err(error) => tracing::debug!(%error, "could not read a packet socket"),
        }
    }
}

/// Takes a frame that came in by a device.
fn take(station: &Station, sockets: &PacketSockets, ifindex: u32, frame: &[u8]) {
    if let Some(arrived) = arrival::of(frame, &station.addresses) {
        station.deliver(arrived.port, arrived.from, arrived.inbound);
    } else if let Some(answer) =
        sockets.mac(ifindex).and_then(|mac| neighbour::answer(frame, &station.addresses, mac))
        && let Err(error) = station.air.send(ifindex, &answer)
    {
        tracing::debug!(%error, ifindex, "could not answer who asks for a probe address");
    }
}
