//! The TCP probe: a connection is asked for, and given up as soon as it is granted.
//!
//! The last packet of the handshake is held back until there is something to say, and a reset comes instead if there is not:
//! the backend's program never sees a TCP probe, and a backend that hangs does not have its queue filled by them. The other
//! kinds send their question with that packet.
//!
//! A socket whose connection was granted and given up asks again: of what a probe costs, a quarter is to make a socket and to
//! take it apart. Each pool has a thread of its own, and that thread its own sockets. Linux goes on with the sequence numbers
//! of such a socket, so a backend that was asked by it could guess them and answer in the place of the next one: within a tenant
//! that is no loss (whoever can do that has the tenant's traffic already), and where tenants share a pool nothing rests.

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

/// Sockets that have asked.
struct Resting {
    /// Of IPv4, and of IPv6.
    sockets: [Vec<Socket>; 2],
    /// Of either, at most: each is a descriptor that nobody uses.
    most: usize,
}

thread_local! {
    static RESTING: RefCell<Resting> = const { RefCell::new(Resting { sockets: [Vec::new(), Vec::new()], most: 0 }) };
}

/// How many sockets of either family may rest in this thread from now on; none at first.
pub(super) fn rest_at_most(most: usize) {
    RESTING.with_borrow_mut(|resting| {
        resting.most = most;
        resting.sockets.iter_mut().for_each(|sockets| sockets.truncate(most));
    });
}

/// A socket to ask with. If there are no descriptors left, those that rest go.
fn socket(target: SocketAddr) -> io::Result<Socket> {
    if let Some(socket) =
        RESTING.with_borrow_mut(|resting| resting.sockets[usize::from(target.is_ipv6())].pop())
    {
        return Ok(socket);
    }
    let new = || {
        Socket::new(Domain::for_address(target), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
    };
    new().or_else(|_| {
        RESTING.with_borrow_mut(|resting| resting.sockets.iter_mut().for_each(Vec::clear));
        new()
    })
}

/// Asks for a connection and, when it is granted, gives it up with a reset.
async fn granted(target: SocketAddr) -> io::Result<()> {
    let socket = socket(target)?;
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
        let own = &mut resting.sockets[usize::from(target.is_ipv6())];
        if own.len() < resting.most {
            own.push(socket);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::health::Outcome;
    use std::os::fd::AsRawFd;
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
    async fn one_socket_asks_one_after_the_other() {
        rest_at_most(1);
        let resting = || {
            RESTING
                .with_borrow(|resting| resting.sockets.each_ref().map(|of| of.first().map(Socket::as_raw_fd)))
        };
        let mut listeners = Vec::new();
        for address in ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"] {
            listeners.push(TcpListener::bind(address).await.unwrap());
        }
        let there: Vec<_> = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (mut v4, mut v6) = (None, None);
        for _ in 0..3 {
            for target in &there {
                assert_eq!(ask(*target).await.unwrap(), Answer::success());
            }
            let [four, six] = resting();
            assert_eq!((*v4.get_or_insert(four), *v6.get_or_insert(six)), (four, six), "the same ones");
            assert!(four.is_some() && six.is_some());
        }
        assert_eq!(ask(gone).await.unwrap().outcome, Outcome::Refused);
        assert!(resting()[0].is_none(), "who was refused does not rest");
        let both = tokio::join!(ask(there[0]), ask(there[1]));
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(RESTING.with_borrow(|resting| resting.sockets[0].len()), 1, "no more than are let");
        rest_at_most(0);
        assert_eq!(resting(), [None, None]);
    }

    #[test]
    fn our_own_lack_is_no_outcome() {
        let own = |number| socket_failure(io::Error::from_raw_os_error(number));
        assert!(own(nix::libc::EMFILE).is_err() && own(nix::libc::EADDRNOTAVAIL).is_err());
        assert_eq!(own(nix::libc::EHOSTUNREACH).unwrap().outcome, Outcome::Unreachable);
    }
}
