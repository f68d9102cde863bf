//! The TCP probe: a connection is asked for, and given up as soon as it is granted.
//!
//! The last packet of the handshake is held back until there is something to say, and a reset comes instead if there is not:
//! the backend's program never sees a TCP probe, and a backend that hangs does not have its queue filled by them. The other
//! kinds send their question with that packet.
//!
//! A socket that was given up asks again: of what a probe costs, a quarter is to make a socket and to take it apart. Each pool
//! has a thread of its own, and that thread its own sockets.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
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
    let granted = match goal {
        Goal::Straight(target) => granted(*target).await,
        Goal::Vip(_) => Box::pin(connect(goal)).await.map(drop),
    };
    granted.map(|()| Answer::success()).or_else(socket_failure)
}

/// Sockets that rest, of one family, at most: each is a descriptor that nobody uses.
const RESTING_MAX: usize = 256;

thread_local! {
    /// Sockets that have asked: of IPv4, and of IPv6.
    static RESTING: RefCell<[Vec<Socket>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Asks for a connection and, when it is granted, gives it up with a reset.
async fn granted(target: SocketAddr) -> io::Result<()> {
    let resting = RESTING.with_borrow_mut(|resting| resting[usize::from(target.is_ipv6())].pop());
    let socket = match resting {
        Some(socket) => socket,
        None => Socket::new(
            Domain::for_address(target),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?,
    };
    // tcp(7): not permanent, but nothing comes between it and the handshake. Without it a probe only costs more.
    let _ = socket.set_tcp_quickack(false);
    let socket = match socket.connect(&target.into()) {
        Ok(()) => socket,
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
            let waiting = TcpStream::from_std(socket.into())?;
            let ready = waiting.ready(Interest::WRITABLE | Interest::ERROR).await?;
            if ready.is_error() || ready.is_write_closed() {
                return Err(waiting.take_error()?.unwrap_or_else(|| ErrorKind::ConnectionReset.into()));
            }
            Socket::from(waiting.into_std()?)
        }
        Err(error) => return Err(error),
    };
    // connect(2) to no address ends a connection, and an established one by a reset. A socket for which that fails is closed,
    // by a reset too.
    if rustix::net::connect_unspec(&socket).is_err() {
        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
        return Ok(());
    }
    RESTING.with_borrow_mut(|resting| {
        let own = &mut resting[usize::from(target.is_ipv6())];
        if own.len() < RESTING_MAX {
            own.push(socket);
        }
    });
    Ok(())
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

    #[tokio::test]
    async fn one_socket_asks_again_and_again_also_after_a_refusal() {
        let resting = || RESTING.with_borrow(|resting| resting.each_ref().map(Vec::len));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (there, other) = (listener.local_addr().unwrap(), TcpListener::bind("[::1]:0").await.unwrap());
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for _ in 0..3 {
            assert_eq!(ask(there).await.unwrap(), Answer::success());
            assert_eq!(ask(other.local_addr().unwrap()).await.unwrap(), Answer::success());
            assert_eq!(resting(), [1, 1]);
            assert_eq!(ask(gone).await.unwrap().outcome, Outcome::Refused);
        }
        let both = tokio::join!(ask(there), ask(there));
        assert!(both.0.is_ok() && both.1.is_ok());
    }

    #[test]
    fn our_own_lack_is_no_outcome() {
        let own = |number| socket_failure(io::Error::from_raw_os_error(number));
        assert!(own(nix::libc::EMFILE).is_err() && own(nix::libc::EADDRNOTAVAIL).is_err());
        assert_eq!(own(nix::libc::EHOSTUNREACH).unwrap().outcome, Outcome::Unreachable);
    }
}
