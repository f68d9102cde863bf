//! The TCP probe: a connection is opened and closed, nothing is said.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use lb_control::health::Outcome;
use tokio::net::TcpStream;

/// Connects to `target` within `timeout`.
///
/// # Errors
/// The probe itself could not be made (out of descriptors, of ports, of memory): that says nothing of the backend.
pub async fn probe(target: SocketAddr, timeout: Duration) -> io::Result<Outcome> {
    match tokio::time::timeout(timeout, TcpStream::connect(target)).await {
        Err(_) => Ok(Outcome::Timeout),
        Ok(Ok(stream)) => {
            // A reset instead of a closing handshake: thousands of probes a minute leave no TIME_WAIT behind.
            let _ = stream.set_zero_linger();
            Ok(Outcome::Success)
        }
        Ok(Err(error)) => outcome(error),
    }
}

/// What a failed connection says of the backend.
fn outcome(error: io::Error) -> io::Result<Outcome> {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Outcome::Refused),
        ErrorKind::TimedOut => Ok(Outcome::Timeout),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied => {
            Ok(Outcome::Unreachable)
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_listener_succeeds_and_a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        assert_eq!(probe(target, LONG).await.unwrap(), Outcome::Success);
        drop(listener);
        assert_eq!(probe(target, LONG).await.unwrap(), Outcome::Refused);
    }

    #[test]
    fn our_own_lack_is_no_outcome() {
        let own = |number| outcome(io::Error::from_raw_os_error(number));
        assert!(own(nix::libc::EMFILE).is_err() && own(nix::libc::EADDRNOTAVAIL).is_err());
        assert_eq!(own(nix::libc::EHOSTUNREACH).unwrap(), Outcome::Unreachable);
    }
}
