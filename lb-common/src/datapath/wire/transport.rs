//! TCP (RFC 9293) and UDP (RFC 768), and the protocol numbers of all that can follow an IP header.

use crate::be::{Be16, Be32};
use bytemuck::{Pod, Zeroable};

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// IPv4 in IP (RFC 2003).
pub const IPIP: u8 = 4;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// IPv6 in IP (RFC 2473).
pub const IPV6_IN_IP: u8 = 41;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// The ports, where TCP and UDP have them both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ports {
    /// Source port.
    pub src: Be16,
    /// Destination port.
    pub dst: Be16,
}

/// A TCP header without options, 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tcp {
    /// Source and destination port.
    pub ports: Ports,
    /// Sequence number of the first byte.
    pub sequence: Be32,
    /// Acknowledgement number.
    pub acknowledgement: Be32,
    /// Data offset in 32-bit words (high 4 bits).
    pub offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// Checksum over pseudo header, header and data.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// A UDP header, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Udp {
    /// Source and destination port.
    pub ports: Ports,
    /// Length of header and data, bytes.
    pub length: Be16,
    /// Checksum over pseudo header, header and data; 0 = none (IPv4).
    pub checksum: Be16,
}

/// TCP flag: no more data from the sender.
pub const FIN: u8 = 1;
/// TCP flag: synchronise sequence numbers.
pub const SYN: u8 = 2;
/// TCP flag: reset.
pub const RST: u8 = 4;
/// TCP flag: the acknowledgement number counts.
pub const ACK: u8 = 16;
/// Offset of the checksum in a TCP header, bytes.
pub const TCP_CHECKSUM: u16 = 16;
/// Offset of the checksum in a UDP header, bytes.
pub const UDP_CHECKSUM: u16 = 6;

const _: () = assert!(size_of::<Tcp>() == 20 && size_of::<Udp>() == 8);
