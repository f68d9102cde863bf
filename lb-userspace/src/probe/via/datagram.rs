//! One datagram by a vip's path, and its answer: UDP and ICMP echo need no more of a stack than this.

use std::io;
use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr, UdpPacket, UdpRepr,
};

use super::{Berth, Inbound, Line};

/// Hops that a packet of ours may go.
const HOPS: u8 = 64;

impl Line {
    /// Sends a UDP datagram to the vip; the first answer from its port.
    ///
    /// # Errors
    /// There is no port to send from, or an ICMP error came.
    pub(in crate::probe) async fn exchange(&self, payload: &[u8]) -> io::Result<Vec<u8>> {
        let mut berth = Berth::take(&self.station, self.to.ip())?;
        let repr = UdpRepr { src_port: berth.port, dst_port: self.to.port() };
        let (from, to) = (self.from, self.to.ip());
        let length = repr.header_len() + payload.len();
        let packet = packet(from, to, IpProtocol::Udp, length, |bytes| {
            let packet = &mut UdpPacket::new_unchecked(bytes);
            let fill = |bytes: &mut [u8]| bytes.copy_from_slice(payload);
            repr.emit(
                packet,
                &from.into(),
                &to.into(),
                payload.len(),
                fill,
                &ChecksumCapabilities::default(),
            );
        });
        self.send(&packet, berth.port);
        loop {
            let answer = berth.next().await?;
            let transport = transport(&answer, IpProtocol::Udp);
            if let Some(datagram) = transport.and_then(|bytes| UdpPacket::new_checked(bytes).ok())
                && datagram.src_port() == self.to.port()
            {
                return Ok(datagram.payload().to_vec());
            }
        }
    }

    /// Sends an ICMP echo request to the vip and waits for its reply.
    ///
    /// # Errors
    /// There is no identifier to send it with, or an ICMP error came.
    pub(in crate::probe) async fn echo(&self) -> io::Result<()> {
        let mut berth = Berth::take(&self.station, self.to.ip())?;
        let token = self.station.random(berth.port).to_be_bytes();
        self.send(&echo_request(self.from, self.to.ip(), berth.port, token), berth.port);
        loop {
            let answer = berth.next().await?;
            let message = match self.to.ip() {
                IpAddr::V4(_) => transport(&answer, IpProtocol::Icmp),
                IpAddr::V6(_) => transport(&answer, IpProtocol::Icmpv6),
            };
            // Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443 section 4.2), then our token.
            if message.and_then(|message| message.get(8..)).is_some_and(|rest| rest.starts_with(&token)) {
                return Ok(());
            }
        }
    }
}

impl Berth {
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        match self.inbound.recv().await {
            Some(Inbound::Packet(packet)) => Ok(packet),
            Some(Inbound::Unreachable(kind)) => Err(kind.into()),
            // The station holds the other end as long as the berth is there.
            None => std::future::pending().await,
        }
    }
}

/// An ICMP echo request.
pub(super) fn echo_request(from: IpAddr, to: IpAddr, ident: u16, token: [u8; 8]) -> Vec<u8> {
    let (seq_no, data) = (0, &token[..]);
    let caps = &ChecksumCapabilities::default();
    match (from, to) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let repr = Icmpv6Repr::EchoRequest { ident, seq_no, data };
            packet(from, to, IpProtocol::Icmpv6, repr.buffer_len(), |bytes| {
                repr.emit(&src, &dst, &mut Icmpv6Packet::new_unchecked(bytes), caps);
            })
        }
        _ => {
            let repr = Icmpv4Repr::EchoRequest { ident, seq_no, data };
            packet(from, to, IpProtocol::Icmp, repr.buffer_len(), |bytes| {
                repr.emit(&mut Icmpv4Packet::new_unchecked(bytes), caps);
            })
        }
    }
}

/// An IP packet; `fill` writes its payload. Both addresses are of one family.
fn packet(
    from: IpAddr,
    to: IpAddr,
    next_header: IpProtocol,
    payload_len: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut bytes;
    let header_len = match (from, to) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let repr = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit: HOPS };
            bytes = vec![0; repr.buffer_len() + payload_len];
            repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
            repr.buffer_len()
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let repr = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit: HOPS };
            bytes = vec![0; repr.buffer_len() + payload_len];
            repr.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
            repr.buffer_len()
        }
        _ => return Vec::new(),
    };
    fill(&mut bytes[header_len..]);
    bytes
}

/// What an IP packet carries, if it is of this protocol.
fn transport(packet: &[u8], protocol: IpProtocol) -> Option<&[u8]> {
    let (found, from) = match packet.first()? >> 4 {
        4 => (packet.get(9)?, usize::from(packet[0] & 15) * 4),
        _ => (packet.get(6)?, 40),
    };
    (IpProtocol::from(*found) == protocol).then(|| packet.get(from..)).flatten()
}
