//! What an attempt asks, by which path; and a connection by either path as one stream.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::via::{self, Line};

/// What an attempt asks.
#[derive(Debug)]
pub(super) enum Goal {
    /// This address, from the node itself.
    Straight(SocketAddr),
    /// A vip, by its own path to a backend.
    Vip(Box<Line>),
}

impl Goal {
    /// Address and port that are asked.
    pub(super) fn target(&self) -> SocketAddr {
        match self {
            Self::Straight(target) => *target,
            Self::Vip(line) => line.target(),
        }
    }
}

/// A connection.
pub(super) enum Stream {
    /// The node's own.
    Node(TcpStream),
    /// The station's.
    Station(Box<via::Stream>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Node(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Station(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Node(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Station(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Node(stream) => Pin::new(stream).poll_flush(cx),
            Self::Station(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Node(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Station(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
