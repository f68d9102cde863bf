//! A small node to send packets through: a TCP vip on port 80, a UDP vip on port 53, each with one backend.

use super::shape::{Content, Packet, frame};
use crate::abi::backend::{Control, Mode, NextHop};
use crate::abi::egress::{EgressRow, Tags};
use crate::abi::slot::Slot;
use crate::abi::vip::{Policy, Tracking, VipEntry, VipKey, VipRow, extent_word};
use crate::addr::{Addr, Mac};
use crate::be::Be16;
use crate::datapath::Verdict;
use crate::datapath::connection::MovedOnly;
use crate::datapath::host::{HostFrame, HostTables};
use crate::datapath::pipeline::{self, Trail, Walk};
use crate::hash::HashKey;
use core::net::IpAddr;
use std::vec;
use std::vec::Vec;

pub(super) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];
pub(super) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The node's MAC on the way to the backends, and the next hop's.
pub(super) const OUT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const HOP_MAC: [u8; 6] = [2, 0, 0, 0, 7, 7];
/// Interface indices: where packets come in, and another device.
pub(super) const HERE: u32 = 1;
pub(super) const THERE: u32 = 7;
/// The node's port row of the device that packets come in by.
pub(super) const PORT: u16 = 5;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) client: &'static str,
    pub(super) vip: &'static str,
    pub(super) backend: &'static str,
    pub(super) node: &'static str,
}

pub(super) const V4: Family =
    Family { client: "198.51.100.7", vip: "203.0.113.10", backend: "10.0.0.2", node: "192.0.2.1" };
pub(super) const V6: Family =
    Family { client: "2001:db8:c::7", vip: "2001:db8:1::10", backend: "fd00::2", node: "fd00::1" };

pub(super) fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

/// What became of a packet.
pub(super) struct Sent {
    pub(super) verdict: Verdict,
    pub(super) bytes: Vec<u8>,
    pub(super) trail: Trail,
}

/// The node.
pub(super) struct Site {
    pub(super) tables: HostTables,
    pub(super) vip: Family,
}

/// A pair of an address' words.
fn store(words: &[crate::abi::word::Word; 2], addr: Addr) {
    words.iter().zip(addr.words()).for_each(|(word, value)| word.store(value));
}

impl Site {
    /// Vips of one family, backends of perhaps another: row 1 of TCP, row 2 of UDP, reached by egress row 1.
    pub(super) fn new(mode: Mode, vip: Family, backend: Family) -> Self {
        let mut tables = HostTables::new(HashKey([3, 4]), 16, 64);
        for (number, address) in [(0, V4.node), (1, V6.node)] {
            store(&tables.sources[number].addr, addr(address));
            tables.insert_key(&VipKey::mark(addr(address)), VipEntry(VipEntry::SOURCE | number as u32));
        }
        tables.insert_key(&VipKey::mark(addr(vip.vip)), VipEntry(VipEntry::ADDRESS));
        tables.ports.insert(HERE, PORT);
        for (row, protocol, port) in [(1_u16, 6, 80), (2, 17, 53)] {
            let key = VipKey::new(addr(vip.vip), Be16::new(port), protocol);
            tables.insert_key(&key, VipEntry(row.into()));
            let stored = &tables.vips[usize::from(row)];
            store(&stored.addr, addr(vip.vip));
            stored.key.store(VipRow::key_word(key.port, protocol));
            stored.table.store(extent_word(u32::from(row - 1) * 7, 7));
            stored.policy.store(Policy::new(Tracking::Auto, false, false, 900).0);
            for slot in 0..7 {
                tables.slots[usize::from(row - 1) * 7 + slot].store(Slot::stable(row).0);
            }
            let stored = &tables.backends[usize::from(row)];
            let source = u8::from(!addr(backend.backend).is_v4());
            stored.control.store(Control::new(3, mode, source, row, Be16::new(0)).0);
            store(&stored.addr, addr(backend.backend));
            stored.next_hop.store(NextHop::new(Mac::from_octets(HOP_MAC), 1).0);
        }
        let site = Self { tables, vip };
        site.way(1, THERE, 1500, Tags::NONE);
        site.way(PORT, HERE, 1500, Tags::NONE);
        site
    }
    /// Sets a way out.
    pub(super) fn way(&self, row: u16, ifindex: u32, mtu: u16, tags: Tags) {
        let stored = &self.tables.egresses[usize::from(row)];
        stored.source_mac.store(Mac::from_octets(OUT_MAC).0);
        stored.device.store(EgressRow::device_word(ifindex, mtu));
        stored.tags.store(tags.0);
    }
    /// Changes the control words of both backends.
    pub(super) fn control(&self, change: impl Fn(u64) -> u64) {
        for row in &self.tables.backends[1..3] {
            row.control.store(change(row.control.load()));
        }
    }
    /// Sets every slot of both vips.
    pub(super) fn slots(&self, slot: Slot) {
        self.tables.slots.iter().for_each(|word| word.store(slot.0));
    }
    /// A packet from the client to the vip.
    pub(super) fn packet(&self, content: Content) -> Packet {
        Packet::new(self.vip.client, self.vip.vip, content)
    }
    /// Sends a frame.
    pub(super) fn send(&self, bytes: &[u8]) -> Sent {
        self.send_with(HostFrame::new(bytes))
    }
    pub(super) fn send_with(&self, mut frame: HostFrame) -> Sent {
        let mut walk = Walk::default();
        let verdict = pipeline::run::<_, _, MovedOnly>(&mut frame, &self.tables, &mut walk);
        Sent { verdict, bytes: frame.bytes().to_vec(), trail: walk.trail }
    }
    /// Sends a packet as the client's router would.
    pub(super) fn send_packet(&self, packet: &Packet) -> Sent {
        self.send(&frame(CLIENT_MAC, NODE_MAC, &[], &packet.bytes()))
    }
}

/// A TCP segment of the client's.
pub(super) fn tcp(flags: &'static str, sequence: u32, data: usize) -> Content {
    Content::Tcp { ports: (40_001, 80), sequence, flags, data: vec![b'x'; data] }
}

/// A UDP datagram of the client's.
pub(super) fn udp(data: usize) -> Content {
    Content::Udp { ports: (40_001, 53), checksum: true, data: vec![b'u'; data] }
}
