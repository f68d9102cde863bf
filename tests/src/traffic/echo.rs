//! The echo part of a backend, over TCP and UDP, that names itself.
//!
//! TCP: a line with the backend's name on accept, then every byte back. UDP: the request with the backend's
//! name after it, sent from the very address that was asked (IP_PKTINFO), so that a vip answers as the vip.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::task::{Gate, Phase, Task};
use crate::netns::Namespace;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// Longest UDP request in bytes.
const DATAGRAM_MAX: usize = 9000;

/// A running echo responder on one port of TCP and UDP. Dropping it closes all its sockets.
#[derive(Debug)]
pub struct EchoResponder {
    task: Task<()>,
}

impl EchoResponder {
    /// Starts it inside `namespace` on all addresses; returns when it listens.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(namespace: &Namespace, backend: &str, port: u16) -> Result<Self> {
        let name = backend.to_owned();
        let (tcp, udp) = namespace.run(|| bind(port))?;
        let task = Task::start(namespace, &format!("echo-{backend}"), async move |gate: Gate| {
            let listener = TcpListener::from_std(tcp).context("listen")?;
            let datagrams = UdpSocket::from_std(udp).context("bind")?;
            let accepting = accept_all(&listener, &name, gate.clone());
            let answering = answer_all(&datagrams, &name, gate.clone());
            let mut end = gate;
            tokio::select! {
                result = accepting => result,
                result = answering => result,
                () = end.stopped() => Ok(()),
            }
        })?;
        Ok(Self { task })
    }

    /// Hangs it: connections are accepted by the kernel, nothing is answered.
    pub fn pause(&self) {
        self.task.set_phase(Phase::Paused);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.task.set_phase(Phase::Running);
    }
}

/// Makes both sockets, dual-stack.
fn bind(port: u16) -> Result<(std::net::TcpListener, std::net::UdpSocket)> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.bind(any).with_context(|| format!("TCP port {port}"))?;
    let tcp = socket.listen(BACKLOG)?.into_std()?;
    let udp = std::net::UdpSocket::bind(any).with_context(|| format!("UDP port {port}"))?;
    udp.set_nonblocking(true)?;
    setsockopt(&udp, sockopt::Ipv6RecvPacketInfo, &true).context("ask for the address asked")?;
    Ok((tcp, udp))
}

async fn accept_all(listener: &TcpListener, name: &str, mut gate: Gate) -> Result<()> {
    while gate.open().await {
        // A client that gave up between its SYN and now is its own affair.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (name, gate) = (name.to_owned(), gate.clone());
        tokio::task::spawn_local(async move {
            // The client sees the end of the connection; here there is nobody to tell.
            let _ = echo(stream, &name, gate).await;
        });
    }
    Ok(())
}

async fn echo(mut stream: TcpStream, name: &str, mut gate: Gate) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0_u8; 16 * 1024];
    if gate.open().await {
        stream.write_all(format!("{name}\n").as_bytes()).await?;
    }
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 || !gate.open().await {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn answer_all(socket: &UdpSocket, name: &str, mut gate: Gate) -> Result<()> {
    let mut buffer = vec![0_u8; DATAGRAM_MAX];
    while gate.open().await {
        let asked = socket.async_io(Interest::READABLE, || receive(socket, &mut buffer)).await;
        // An ICMP error for an earlier answer arrives here; the next request counts.
        let Ok((count, client, vip)) = asked else { continue };
        if !gate.open().await {
            break;
        }
        let answer = [&buffer[..count], name.as_bytes()].concat();
        // A full send buffer is a lost datagram, as on any host.
        let _ = send(socket, &answer, client, vip);
    }
    Ok(())
}

/// One request: its length, who asks, and the address that was asked.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SockaddrIn6, libc::in6_addr)> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let asked = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(packet) => Some(packet.ipi6_addr),
        _ => None,
    });
    let (Some(client), Some(asked)) = (message.address, asked) else {
        return Err(io::Error::other("a datagram without addresses"));
    };
    Ok((message.bytes, client, asked))
}

fn send(socket: &UdpSocket, answer: &[u8], to: SockaddrIn6, from: libc::in6_addr) -> io::Result<()> {
    // Index 0: the route decides on the way out, not the device the request came in by.
    let source = libc::in6_pktinfo { ipi6_addr: from, ipi6_ifindex: 0 };
    let control = [ControlMessage::Ipv6PacketInfo(&source)];
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(answer)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}
