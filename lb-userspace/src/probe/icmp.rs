//! The ICMP probe: an echo request and its reply, by a ping socket where the node allows it
//! (`net.ipv4.ping_group_range`), else by a raw one.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::goal::Goal;
use super::plan::{Answer, socket_failure};

/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443 4.1), then our token.
const REQUEST_BYTES: usize = 8 + TOKEN_BYTES;
const TOKEN_BYTES: usize = 8;
/// The longest header that a raw IPv4 socket leaves before the message.
const IPV4_HEADER_MAX_BYTES: usize = 60;

/// Sends an echo request and waits for its reply.
///
/// # Errors
/// The attempt itself could not be made.
pub(super) async fn ask(goal: &Goal) -> io::Result<Answer> {
    let answered = match goal {
        Goal::Straight(target) => exchange(target.ip()).await,
        Goal::Vip(line) => line.echo().await,
    };
    match answered {
        Ok(()) => Ok(Answer::success()),
        Err(error) => socket_failure(error),
    }
}

/// The reply is known by the token: identifiers are the kernel's own on a ping socket, and a raw socket sees the
/// replies to everybody's requests.
async fn exchange(target: IpAddr) -> io::Result<()> {
    let socket = UdpSocket::from_std(open(target)?.into())?;
    let token = RandomState::new().build_hasher().finish().to_be_bytes();
    let kind = match target {
        IpAddr::V4(_) => (8, 0),
        IpAddr::V6(_) => (128, 129),
    };
    socket.send(&request(kind.0, token)).await?;
    let mut buffer = [0; IPV4_HEADER_MAX_BYTES + REQUEST_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if is_reply(&buffer[..length], kind.1, token) {
            return Ok(());
        }
    }
}

/// A socket that sends ICMP to `target` and takes what comes from there. A probe has no rights that the node's
/// administrator took from ping sockets and raw sockets both: then it cannot be made.
fn open(target: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let made = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Socket::new(domain, Type::RAW, Some(protocol))
        }
        made => made,
    };
    // "Permission denied" of connect and send speaks of the way to the backend; of the socket, of the node.
    let socket = made.map_err(|error| io::Error::other(format!("no ICMP socket: {error}")))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(target, 0).into())?;
    Ok(socket)
}

/// An echo request. The checksum is filled in for IPv4 (the kernel does so for IPv6, and on ping sockets).
fn request(kind: u8, token: [u8; TOKEN_BYTES]) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    request[0] = kind;
    request[4..8].copy_from_slice(&token[..4]);
    request[8..].copy_from_slice(&token);
    let words = request.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    request[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    request
}

/// Whether `message` is the reply with our token, after an IPv4 header or without one.
fn is_reply(message: &[u8], kind: u8, token: [u8; TOKEN_BYTES]) -> bool {
    let header =
        message.first().is_some_and(|first| first >> 4 == 4).then(|| usize::from(message[0] & 15) * 4);
    let message = message.get(header.unwrap_or(0)..).unwrap_or_default();
    message.first() == Some(&kind) && message.get(8..).is_some_and(|rest| rest.starts_with(&token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_up_to_nothing_and_only_its_own_reply_is_one() {
        let request = request(8, *b"\xff\xfe\xfd\xfc\x01\x02\x03\x04");
        let sum = request.chunks_exact(2).fold(0_u32, |sum, pair| {
            let sum = sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]));
            (sum & 0xffff) + (sum >> 16)
        });
        assert_eq!(sum, 0xffff);
        let mut reply = request;
        reply[0] = 0;
        let token = *b"\xff\xfe\xfd\xfc\x01\x02\x03\x04";
        assert!(is_reply(&reply, 0, token) && !is_reply(&request, 0, token) && !is_reply(&reply, 0, [0; 8]));
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet.extend(reply);
        assert!(is_reply(&packet, 0, token));
        assert!(
            !is_reply(&packet[..30], 0, token) && !is_reply(&[0x4f], 0, token) && !is_reply(&[], 0, token)
        );
    }
}
