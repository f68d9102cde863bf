//! A TCP connection by a vip's path, as a stream: smoltcp is its stack, with one interface, one socket and two buffers for
//! each, all in the attempt's own task. Given up, it ends with a reset, as the node's own probes do.
//!
//! Everything happens in [`Stream::turn`], which whoever waits for the stream runs: what came is taken in, what is due is sent,
//! and the task is woken by the next packet or timer.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{Berth, Inbound, Line};

/// Most that the other side may have under way, bytes: the receive buffer.
pub(super) const WINDOW_BYTES: usize = 16 * 1024;
/// The send buffer, bytes: what a request has at most, or so.
const SEND_BYTES: usize = 4 * 1024;

/// A connection.
pub(in crate::probe) struct Stream {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    wire: Wire,
    berth: Berth,
    timer: Pin<Box<Sleep>>,
    began: Instant,
    /// An ICMP error that came.
    unreachable: Option<ErrorKind>,
    /// Whether we said that we have no more to say.
    shut: bool,
}

impl Line {
    /// Connects to the vip. The last packet of the handshake is held back until there is something to say.
    ///
    /// # Errors
    /// It was refused, or could not be asked for.
    pub(in crate::probe) async fn connect(&self) -> io::Result<Stream> {
        let mut stream = Stream::new(self)?;
        std::future::poll_fn(|cx| stream.poll_connected(cx)).await?;
        Ok(stream)
    }
}

impl Stream {
    fn new(line: &Line) -> io::Result<Self> {
        let berth = Berth::take(&line.station, line.to.ip())?;
        let mut wire = Wire { line: line.clone(), port: berth.port, arrived: VecDeque::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = line.station.random(berth.port);
        let began = Instant::now();
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        let (from, to) = (IpAddress::from(line.from), IpAddress::from(line.to.ip()));
        // One address and one way for all: the line knows where packets go.
        let everything = match line.from {
            std::net::IpAddr::V4(v4) => {
                interface.routes_mut().add_default_ipv4_route(v4).map(drop).map_err(|_| "routes")
            }
            std::net::IpAddr::V6(v6) => {
                interface.routes_mut().add_default_ipv6_route(v6).map(drop).map_err(|_| "routes")
            }
        };
        let alone = IpCidr::new(from, if line.from.is_ipv4() { 32 } else { 128 });
        interface.update_ip_addrs(|own| {
            let _ = own.push(alone);
        });
        let mut socket =
            Socket::new(SocketBuffer::new(vec![0; WINDOW_BYTES]), SocketBuffer::new(vec![0; SEND_BYTES]));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let asked = socket.connect(interface.context(), (to, line.to.port()), (from, berth.port));
        asked.map_err(io::Error::other)?;
        everything.map_err(io::Error::other)?;
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Ok(Self { interface, sockets, socket, wire, berth, timer, began, unreachable: None, shut: false })
    }

    fn tcp(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::ZERO + self.began.elapsed().into()
    }

    /// Takes in what came.
    fn listen(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(inbound)) = self.berth.inbound.poll_recv(cx) {
            match inbound {
                Inbound::Packet(packet) => self.wire.arrived.push_back(packet),
                Inbound::Unreachable(kind) => self.unreachable = Some(kind),
            }
        }
        let now = self.now();
        while self.interface.poll_ingress_single(now, &mut self.wire, &mut self.sockets)
            != PollIngressSingleResult::None
        {}
    }

    /// Sends what is due.
    fn speak(&mut self) {
        let now = self.now();
        while self.interface.poll_egress(now, &mut self.wire, &mut self.sockets) != PollResult::None {}
    }

    /// Takes in what came, sends what is due, and has the task woken when there may be more to do.
    fn turn(&mut self, cx: &mut Context<'_>) {
        self.listen(cx);
        self.go_on(cx);
    }

    fn go_on(&mut self, cx: &mut Context<'_>) {
        self.speak();
        if let Some(delay) = self.interface.poll_delay(self.now(), &self.sockets) {
            // The timer's own unit is a millisecond.
            let delay = Duration::from(delay).max(Duration::from_millis(1));
            self.timer.as_mut().reset(Instant::now() + delay);
            let _ = self.timer.as_mut().poll(cx);
        }
    }

    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.listen(cx);
        match self.tcp().state() {
            State::SynSent => {}
            State::Closed => return Poll::Ready(Err(ErrorKind::ConnectionRefused.into())),
            _ => return Poll::Ready(Ok(())),
        }
        if let Some(kind) = self.unreachable {
            return Poll::Ready(Err(kind.into()));
        }
        self.go_on(cx);
        Poll::Pending
    }

    /// That nothing more can be said or heard.
    fn over(&mut self) -> Option<io::Error> {
        let closed = self.tcp().state() == State::Closed;
        (closed && !self.shut).then(|| ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.turn(cx);
        if self.tcp().can_recv() {
            let read = self.tcp().recv_slice(buffer.initialize_unfilled()).map_err(io::Error::other)?;
            buffer.advance(read);
            // The other side may go on.
            self.turn(cx);
            return Poll::Ready(Ok(()));
        }
        if self.tcp().may_recv() {
            return Poll::Pending;
        }
        Poll::Ready(self.over().map_or(Ok(()), Err))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.turn(cx);
        if self.tcp().can_send() {
            let written = self.tcp().send_slice(bytes).map_err(io::Error::other)?;
            self.turn(cx);
            return Poll::Ready(Ok(written));
        }
        if self.tcp().may_send() {
            return Poll::Pending;
        }
        Poll::Ready(Err(self.over().unwrap_or_else(|| ErrorKind::BrokenPipe.into())))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        self.tcp().close();
        self.turn(cx);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    /// A reset: the backend keeps nothing of a probe that is over.
    fn drop(&mut self) {
        self.tcp().abort();
        self.speak();
    }
}

/// The stack's device: what arrived for this attempt, and the line that its packets leave by.
struct Wire {
    line: Line,
    port: u16,
    arrived: VecDeque<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving { line: &self.line, port: self.port }))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Leaving<'_>> {
        Some(Leaving { line: &self.line, port: self.port })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.line.mtu().into();
        // What comes from a backend on the same machine has a checksum that no hardware has filled in; on a wire the frame's own
        // says whether it is whole.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// A packet that came.
struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

/// A packet that leaves.
struct Leaving<'a> {
    line: &'a Line,
    port: u16,
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let filled = fill(&mut packet);
        self.line.send(&packet, self.port);
        filled
    }
}
