//! Known packets through the loaded program, against the same path on the host over the same tables.
//!
//! The program runs on the live tables: each packet to a vip is counted, and in a vip that tracks every flow it
//! leaves an entry, as a client's single packet would. Clients are addresses of documentation (RFC 5737, RFC 3849),
//! which no real client has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use lb_common::datapath::Verdict;
use lb_common::limits;
use lb_control::plan::VipContent;

use super::fault::{Fault, Result};
use super::store::Store;
use super::{Check, QuestionPacket, explain, frames, maps, sys};

/// Interface index by which the kernel lets test packets come in: the loopback device's.
const INGRESS: u32 = 1;
/// Actions of XDP (linux/bpf.h).
const ACTIONS: [&str; 5] = ["aborted", "drop", "pass", "transmit", "redirect"];

/// Runs all checks.
pub(super) fn run(store: &Store, now_ns: u64, program: &OwnedFd) -> Result<Vec<Check>> {
    let vips: Vec<VipContent> = store.vips.iter().filter_map(maps::vip).collect();
    let mut packets = vec![
        ("an ARP request".to_owned(), frames::arp()),
        ("a truncated IPv4 packet".to_owned(), frames::cut()),
    ];
    packets.extend(to_nobody(&vips));
    packets.extend(vips.iter().filter_map(to_vip));
    packets.into_iter().map(|(name, frame)| check(store, now_ns, program, name, frame)).collect()
}

/// Clients of documentation, away from addresses that tests and examples use first.
const CLIENTS: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 254), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe));

fn client(of: IpAddr) -> SocketAddr {
    let ip = if of.is_ipv4() { CLIENTS.0.into() } else { CLIENTS.1.into() };
    SocketAddr::new(ip, 40_001)
}

/// A packet to an address that no vip has.
fn to_nobody(vips: &[VipContent]) -> Option<(String, Vec<u8>)> {
    let free = (1..255).map(|last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
    let mut free = free.filter(|ip| vips.iter().all(|vip| vip.key.address != *ip));
    let ip = free.next()?;
    let to = SocketAddr::new(ip, limits::NAT_PORTS as u16 + 80);
    let frame = frames::frame(client(ip), to, QuestionPacket::TcpSyn, MAC)?;
    Some((format!("a TCP packet to {ip}, which is no vip"), frame))
}

/// Any unicast hardware address: the path takes what the device took.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn to_vip(vip: &VipContent) -> Option<(String, Vec<u8>)> {
    let key = vip.key;
    // A vip on all ports takes any.
    let to = SocketAddr::new(key.address, if key.port == 0 { 9 } else { key.port });
    let packet = if key.protocol == 17 { QuestionPacket::Udp } else { QuestionPacket::TcpSyn };
    let frame = frames::frame(client(key.address), to, packet, MAC)?;
    Some((format!("a {} packet to {to}", if key.protocol == 17 { "UDP" } else { "TCP" }), frame))
}

fn check(store: &Store, now_ns: u64, program: &OwnedFd, name: String, frame: Vec<u8>) -> Result<Check> {
    let (verdict, _, expected_frame) = explain::run(store, now_ns, INGRESS, &frame);
    let mut found_frame = frame;
    let action = sys::test_run(program.as_fd(), &mut found_frame)
        .map_err(|error| Fault::os(format!("run {name} through the program"), &error))?;
    let found = ACTIONS.get(action as usize).copied().unwrap_or("an unknown action");
    let expected = explain::name_of(verdict);
    let same_bytes = matches!(verdict, Verdict::Drop(_)) || found_frame == expected_frame;
    Ok(Check {
        name,
        expected: format!("{expected} ({})", verdict.reason().name()),
        found: if same_bytes { found.into() } else { format!("{found}, with other bytes") },
        ok: found == expected && same_bytes,
    })
}
