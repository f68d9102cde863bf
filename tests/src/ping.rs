//! Echo requests from inside a namespace, over the kernel's unprivileged ICMP sockets (iputils is not
//! needed). Only the answer to our own request counts; the kernel sees to the identifier.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::netns::Namespace;

/// Time given to one request before the next is sent.
const REPEAT: Duration = Duration::from_millis(50);

/// Sends one echo request with `payload_bytes` of payload and waits for the answer.
/// Returns the round trip, or nothing when no answer came in `timeout`.
///
/// # Errors
/// When the socket cannot be made or no route leads there.
pub fn ping(
    namespace: &Namespace,
    to: IpAddr,
    payload_bytes: usize,
    timeout: Duration,
) -> Result<Option<Duration>> {
    namespace.run(|| {
        let socket = echo_socket(to)?;
        one_round(&socket, to, payload_bytes, timeout)
    })
}

/// Sends echo requests until one is answered.
///
/// # Errors
/// When none is answered by `deadline`.
pub fn wait_reachable(namespace: &Namespace, to: IpAddr, deadline: Duration) -> Result<Duration> {
    let start = Instant::now();
    while start.elapsed() < deadline {
        // Errors such as "host unreachable" are part of coming up; the deadline decides.
        if let Ok(Some(_)) = ping(namespace, to, 8, REPEAT) {
            return Ok(start.elapsed());
        }
    }
    bail!("{to} not reachable from {} within {} ms", namespace.name(), deadline.as_millis())
}

fn echo_socket(to: IpAddr) -> Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").context("allow ICMP sockets")?;
    let descriptor = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    Ok(UdpSocket::from(descriptor))
}

fn one_round(
    socket: &UdpSocket,
    to: IpAddr,
    payload_bytes: usize,
    timeout: Duration,
) -> Result<Option<Duration>> {
    // RFC 792, RFC 4443: type, code, checksum and identifier (both filled in by the kernel), sequence number.
    let request_type = if to.is_ipv4() { 8 } else { 128 };
    let reply_type = if to.is_ipv4() { 0 } else { 129 };
    let mut request = vec![0_u8; 8 + payload_bytes];
    request[0] = request_type;
    request[7] = 1;
    socket.connect(SocketAddr::new(to, 0))?;
    let start = Instant::now();
    socket.send(&request)?;
    let mut reply = vec![0_u8; 9000];
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut reply) {
            Ok(count) if count == request.len() && reply[0] == reply_type => {
                return Ok(Some(start.elapsed()));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("echo request to {to}")),
        }
    }
}
