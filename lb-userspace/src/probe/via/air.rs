//! The wire of the probe addresses: packet sockets over all devices, with a filter that leaves all to the kernel that is not
//! for these addresses. The kernel sees what passes too; what it makes of it is in the guide.
//!
//! One socket for each EtherType, so that frames come after the kernel has taken off VLAN tags and handed them on from a
//! bond's or bridge's port to it: once, by the device that has the addresses of its network. Frames that are sent say
//! themselves by which device. Nothing is bound, and nobody is in promiscuous mode.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{self, IoSliceMut, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto, setsockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::Addresses;
use super::neighbour::group;

/// For how long a device's hardware address is taken for granted.
const FRESH: Duration = Duration::from_secs(1);
/// How much a socket may hold, bytes: the answers of a thousand attempts that began together, before they are read.
const BUFFER_BYTES: usize = 4 << 20;
/// EtherTypes (linux/if_ether.h).
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Offset of the IP or ARP header in a frame, bytes.
const L3: u32 = 14;

/// What frames leave by.
pub(super) trait Air: Debug + Send + Sync {
    /// Sends a frame out of a device.
    ///
    /// # Errors
    /// As the kernel says.
    fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()>;
}

/// The sockets.
#[derive(Debug)]
pub(super) struct PacketSockets {
    /// For each EtherType one, not blocking.
    sockets: Vec<Socket>,
    devices: Mutex<Devices>,
    /// Joins the groups that are asked for IPv6 addresses: multicast filters and MLD are the kernel's then.
    groups: Option<Socket>,
}

#[derive(Debug, Default)]
struct Devices {
    read: Option<Instant>,
    by_index: HashMap<u32, LinkAddr>,
}

impl PacketSockets {
    /// Opens what these addresses need.
    ///
    /// # Errors
    /// As the kernel says; without CAP_NET_RAW, "Operation not permitted".
    pub(super) fn open(addresses: &Addresses) -> io::Result<Self> {
        let mut sockets = Vec::new();
        if let Some(v4) = addresses.v4 {
            sockets.push(socket(ARP, &for_arp(v4))?);
            sockets.push(socket(IPV4, &for_ipv4(v4))?);
        }
        if let Some(v6) = addresses.v6 {
            sockets.push(socket(IPV6, &for_ipv6(v6))?);
        }
        let groups =
            addresses.v6.map(|_| Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))).transpose()?;
        Ok(Self { sockets, devices: Mutex::default(), groups })
    }

    /// The sockets to be read.
    pub(super) fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// Hears who asks for the address of IPv6 on a device.
    pub(super) fn join(&self, address: Ipv6Addr, ifindex: u32) {
        let (Some(groups), Some(group)) = (&self.groups, group(address.into())) else { return };
        match groups.join_multicast_v6(&group, ifindex) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                tracing::warn!(%error, %address, ifindex, "could not join the group that is asked for it")
            }
        }
    }

    /// The hardware address of a device, as of late.
    pub(super) fn mac(&self, ifindex: u32) -> Option<[u8; 6]> {
        self.device(ifindex, FRESH)?.addr()
    }

    fn device(&self, ifindex: u32, fresh: Duration) -> Option<LinkAddr> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let old = devices.read.is_none_or(|read| read.elapsed() > fresh);
        // One that is not known is looked for again at most as often.
        let missing = !devices.by_index.contains_key(&ifindex)
            && devices.read.is_none_or(|read| read.elapsed() > FRESH);
        if old || missing {
            devices.by_index = links().into_iter().map(|link| (link.ifindex() as u32, link)).collect();
            devices.read = Some(Instant::now());
        }
        devices.by_index.get(&ifindex).copied()
    }
}

impl Air for PacketSockets {
    fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let device = self.device(ifindex, Duration::MAX).ok_or(io::ErrorKind::NotFound)?;
        let socket = self.sockets.first().ok_or(io::ErrorKind::NotConnected)?;
        // A socket whose queue is full loses the frame: whoever waits for an answer has a timeout.
        sendto(socket.as_raw_fd(), frame, &device, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

/// The devices of this network namespace.
fn links() -> Vec<LinkAddr> {
    let Ok(found) = getifaddrs() else { return Vec::new() };
    found.filter_map(|one| one.address.as_ref()?.as_link_addr().copied()).collect()
}

/// The device that has this address, if the node has it.
///
/// # Errors
/// As the kernel says.
pub(super) fn holder(address: IpAddr) -> io::Result<Option<String>> {
    let is = |one: &nix::sys::socket::SockaddrStorage| {
        let v4 = one.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
        let v6 = one.as_sockaddr_in6().map(|found| IpAddr::V6(found.ip()));
        v4.or(v6) == Some(address)
    };
    let mut all = getifaddrs()?;
    Ok(all.find(|one| one.address.as_ref().is_some_and(is)).map(|one| one.interface_name))
}

/// Reads a frame and the device that it came in by.
///
/// # Errors
/// As the kernel says; "would block" if there is none.
pub(super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let (length, from) = recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer)?;
    Ok((length, from.map_or(0, |from| from.ifindex() as u32)))
}

/// A socket that takes frames of this EtherType which pass the filter.
fn socket(ethertype: u16, filter: &[SockFilter]) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    socket.attach_filter(filter)?;
    // Without CAP_NET_ADMIN, which the daemon needs anyhow, as much as the node gives to everybody.
    let _ = setsockopt(&socket, RcvBufForce, &BUFFER_BYTES);
    let _ = setsockopt(&socket, SndBufForce, &BUFFER_BYTES);
    socket.set_nonblocking(true)?;
    // What came before there was a filter is everybody's.
    let mut buffer = [0; 1];
    while (&socket).read_vectored(&mut [IoSliceMut::new(&mut buffer)]).is_ok() {}
    Ok(socket)
}

// Classic BPF (linux/filter.h, bpf(4)): one accumulator; what a filter returns is how much of the frame is taken.

const fn load(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, offset)
}
const fn load_half(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16, 0, 0, offset)
}
const fn load_byte(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, offset)
}
/// Goes on if the accumulator is `value`, else leaves out as many instructions.
const fn unless(value: u32, leave_out: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, leave_out, value)
}
/// Leaves out as many instructions if the accumulator is `value`.
const fn skip_if(value: u32, leave_out: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, leave_out, 0, value)
}
const TAKE: SockFilter = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX);
const LEAVE: SockFilter = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
/// Ancillary load: how the frame is addressed (`SKF_AD_OFF + SKF_AD_PKTTYPE`).
const PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
/// To another machine: seen by who is in promiscuous mode, or on a VLAN that has no device.
const OTHER_HOST: u32 = 3;

/// An ARP request for the address.
fn for_arp(address: Ipv4Addr) -> Vec<SockFilter> {
    vec![
        load_byte(PACKET_TYPE),
        skip_if(OTHER_HOST, 5),
        load_half(L3 + 6),
        unless(1, 3),
        load(L3 + 24),
        unless(address.to_bits(), 1),
        TAKE,
        LEAVE,
    ]
}

/// A packet to the address.
fn for_ipv4(address: Ipv4Addr) -> Vec<SockFilter> {
    vec![
        load_byte(PACKET_TYPE),
        skip_if(OTHER_HOST, 3),
        load(L3 + 16),
        unless(address.to_bits(), 1),
        TAKE,
        LEAVE,
    ]
}

/// A packet to the address, or a neighbour solicitation for it.
fn for_ipv6(address: Ipv6Addr) -> Vec<SockFilter> {
    let bits = address.to_bits();
    let word = |index: u32| (bits >> (96 - 32 * index)) as u32;
    let mut program = vec![load_byte(PACKET_TYPE), skip_if(OTHER_HOST, 22)];
    // To the address: what differs goes on to the question for it.
    for index in 0..4 {
        let to_question = 2 * (3 - index) as u8 + 1;
        program.extend([load(L3 + 24 + 4 * index), unless(word(index), to_question)]);
    }
    program.push(TAKE);
    program.extend([load_byte(L3 + 6), unless(58, 11), load_byte(L3 + 40), unless(135, 9)]);
    for index in 0..4 {
        let to_leave = 2 * (3 - index) as u8 + 1;
        program.extend([load(L3 + 48 + 4 * index), unless(word(index), to_leave)]);
    }
    program.extend([TAKE, LEAVE]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_addresses_are_found() {
        assert_eq!(holder(Ipv4Addr::LOCALHOST.into()).unwrap().as_deref(), Some("lo"));
        assert_eq!(holder("192.0.2.77".parse().unwrap()).unwrap(), None);
    }
}
