//! The TCP probe: a connection is opened and closed, nothing is said.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::plan::{Answer, socket_failure};

/// Opens a connection that a reset will close: thousands of probes a minute leave no TIME_WAIT behind.
///
/// # Errors
/// As the system has it.
pub(super) async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    let _ = stream.set_zero_linger();
    Ok(stream)
}

/// Connects to `target`.
///
/// # Errors
/// The attempt itself could not be made.
pub(super) async fn ask(target: SocketAddr) -> io::Result<Answer> {
    connect(target).await.map(|_| Answer::success()).or_else(socket_failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::health::Outcome;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_listener_succeeds_and_a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        assert_eq!(ask(target).await.unwrap(), Answer::success());
        drop(listener);
        assert_eq!(ask(target).await.unwrap().outcome, Outcome::Refused);
    }

    #[test]
    fn our_own_lack_is_no_outcome() {
        let own = |number| socket_failure(io::Error::from_raw_os_error(number));
        assert!(own(nix::libc::EMFILE).is_err() && own(nix::libc::EADDRNOTAVAIL).is_err());
        assert_eq!(own(nix::libc::EHOSTUNREACH).unwrap().outcome, Outcome::Unreachable);
    }
}
