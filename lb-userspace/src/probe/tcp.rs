//! The TCP probe: a connection is asked for, and given up as soon as it is granted.
//!
//! The last packet of the handshake is held back until there is something to say, and a reset comes instead if there is not:
//! the backend's program never sees a TCP probe, and a backend that hangs does not have its queue filled by them. The other
//! kinds send their question with that packet.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::goal::{Goal, Stream};
use super::plan::{Answer, socket_failure};

/// Opens a connection that a reset will close: thousands of probes a minute leave no TIME_WAIT behind.
///
/// # Errors
/// As the system has it.
pub(super) async fn connect(goal: &Goal) -> io::Result<Stream> {
    match goal {
        Goal::Straight(target) => straight(*target).await.map(Stream::Node),
        Goal::Vip(line) => line.connect().await.map(|stream| Stream::Station(Box::new(stream))),
    }
}

async fn straight(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // tcp(7): not permanent, but nothing comes between it and the handshake. Without it a probe only costs more.
    let _ = SockRef::from(&socket).set_tcp_quickack(false);
    let stream = socket.connect(target).await?;
    let _ = stream.set_zero_linger();
    Ok(stream)
}

/// Connects.
///
/// # Errors
/// The attempt itself could not be made.
pub(super) async fn ask(goal: &Goal) -> io::Result<Answer> {
    connect(goal).await.map(|_| Answer::success()).or_else(socket_failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::health::Outcome;
    use tokio::net::TcpListener;

    async fn ask(target: SocketAddr) -> io::Result<Answer> {
        super::ask(&Goal::Straight(target)).await
    }

    #[tokio::test]
    async fn a_listener_succeeds_and_a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        assert_eq!(ask(target).await.unwrap(), Answer::success());
        drop(listener);
        assert_eq!(ask(target).await.unwrap().outcome, Outcome::Refused);
    }

    #[tokio::test]
    async fn a_backend_never_sees_a_probe_that_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        for _ in 0..100 {
            assert_eq!(ask(target).await.unwrap(), Answer::success());
        }
        let client = TcpStream::connect(target).await.unwrap().local_addr().unwrap();
        let mut seen = 0;
        while listener.accept().await.unwrap().1 != client {
            seen += 1;
        }
        // One that this thread had no time to give up at once may be.
        assert!(seen < 10, "{seen} of 100");
    }

    #[test]
    fn our_own_lack_is_no_outcome() {
        let own = |number| socket_failure(io::Error::from_raw_os_error(number));
        assert!(own(nix::libc::EMFILE).is_err() && own(nix::libc::EADDRNOTAVAIL).is_err());
        assert_eq!(own(nix::libc::EHOSTUNREACH).unwrap().outcome, Outcome::Unreachable);
    }
}
