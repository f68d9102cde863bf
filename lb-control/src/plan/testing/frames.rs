//! Frames through the packet path over the maps as they are between two operations of a plan: none may go where the
//! maps do not say, and a flow stays with its backend as long as that lives.
//!
//! Not here: whether the maps are what a plan wants; whether headers are well made (the path's own tests).

use super::super::memory::Memory;
use super::super::op::{BackendContent, Key, VipContent};
use lb_common::abi::backend::{BackendRow, Mode};
use lb_common::abi::counter::Meter;
use lb_common::abi::egress::EgressRow;
use lb_common::abi::flow::Entry;
use lb_common::abi::nat::NatControl;
use lb_common::abi::vip::{VipRow, extent_word};
use lb_common::abi::word::Word;
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::datapath::Verdict;
use lb_common::datapath::connection::MovedOnly;
use lb_common::datapath::host::{HostFrame, HostTables};
use lb_common::datapath::pipeline::{self, Choice, Walk};
use lb_common::hash::HashKey;
use lb_common::ids::BackendId;
use lb_common::reason::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const TCP: u8 = 6;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Flows of each key that are watched, and new ones of each key after every operation.
const WATCHED: usize = 4;

/// A client's flow to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    key: Key,
    client_port: u16,
}

/// The packet path over a node's maps.
pub(crate) struct Frames {
    tables: HostTables,
    /// Every key that there ever was.
    keys: BTreeSet<Key>,
    /// Flows that were forwarded: to whom, and under which table and policy.
    flows: BTreeMap<Flow, (BackendId, VipContent)>,
    next_port: u16,
}

impl Frames {
    pub(crate) fn new(slots: u32) -> Self {
        let tables = HostTables::new(HashKey([5, 6]), slots as usize, 256);
        Self { tables, keys: BTreeSet::new(), flows: BTreeMap::new(), next_port: 1 }
    }

    /// Clients forget their flows, and so does the node.
    pub(crate) fn end_flows(&mut self) {
        self.flows.clear();
        let words = self.tables.flows.iter().flat_map(|bucket| &bucket.entries);
        words.chain(self.tables.nat.iter().map(|row| &row.control)).for_each(|word| word.store(0));
    }

    /// Whether a remembered flow names a backend row.
    pub(crate) fn names(&self, row: u16) -> bool {
        let entries = self.tables.flows.iter().flat_map(|bucket| &bucket.entries);
        let mut nat = self.tables.nat.iter().map(|row| NatControl(row.control.load()));
        entries.map(|word| Entry(word.load())).any(|entry| entry.0 != 0 && entry.backend() == row)
            || nat.any(|control| control.is_flow() && control.backend() == row)
    }

    /// Sends new flows to every key, and the next packet of every watched one.
    pub(crate) fn check(&mut self, memory: &Memory, now_s: u32) -> Result<(), String> {
        self.load(memory);
        self.tables.now_ns.set(u64::from(now_s) * 1_000_000_000);
        self.keys.extend(memory.actual.keys.keys().filter(|key| !key.is_mark()));
        for (flow, (backend, vip)) in self.flows.clone() {
            let now = self.send(memory, flow, ACK)?;
            let lives = memory.actual.backends.values().any(|row| row.id == backend && row.control.alive());
            let same = vip_of(memory, &flow.key) == Some(vip) && !memory.actual.bypass;
            if lives && same && now != Some(backend) {
                return Err(format!("{flow:?} of backend {} went to {now:?}", backend.0));
            }
            if now != Some(backend) {
                self.flows.remove(&flow);
            }
        }
        for key in self.keys.clone() {
            let flow = Flow { key, client_port: self.next_port };
            self.next_port = self.next_port.wrapping_add(1).max(1);
            let Some(backend) = self.send(memory, flow, SYN)? else { continue };
            let watched = self.flows.keys().filter(|flow| flow.key == key).count();
            let Some(vip) = vip_of(memory, &key).filter(|_| watched < WATCHED) else { continue };
            // Of these nobody promises that they stay.
            let stateless = vip.policy.udp_stateless() && key.protocol != TCP;
            if !vip.policy.never() && !stateless {
                self.flows.insert(flow, (backend, vip));
            }
        }
        Ok(())
    }

    /// Sends one packet; the backend that it went to, if it went to one.
    fn send(&self, memory: &Memory, flow: Flow, flags: u8) -> Result<Option<BackendId>, String> {
        let maps = &memory.actual;
        self.tables.meters.iter().for_each(|meter| meter.set(Meter::default()));
        let bytes = frame(flow, flags);
        let (mut packet, mut walk) = (HostFrame::new(&bytes), Walk::default());
        let verdict = pipeline::run::<_, _, MovedOnly>(&mut packet, &self.tables, &mut walk);
        let vip = vip_of(memory, &flow.key);
        let row = u16::try_from(walk.trail.backend_row).ok().and_then(|row| maps.backends.get(&row));
        // What shows no beginning is not refused but dropped.
        let refused = vip.is_some_and(|vip| vip.refuses) && (flags == SYN || flow.key.protocol != TCP);
        let fits = match verdict {
            Verdict::Pass(Reason::Bypass) => maps.bypass,
            Verdict::Pass(Reason::NoVip) => vip.is_none(),
            Verdict::Drop(Reason::NoBackend) => walk.trail.slot.current() == 0 && !refused,
            Verdict::Transmit(Reason::ResetReplied | Reason::UnreachableReplied) => {
                walk.trail.slot.current() == 0 && refused
            }
            Verdict::Drop(Reason::BackendDead) => row.is_none_or(|row| !row.control.alive()),
            Verdict::Drop(Reason::NoNextHop) => row.is_some_and(|row| !row.next_hop.is_known()),
            Verdict::Transmit(Reason::Forwarded) | Verdict::Redirect(Reason::Forwarded, _) => {
                let row = row.ok_or_else(|| format!("{flow:?} went to a row that is free"))?;
                let new = flags == SYN
                    && matches!(walk.trail.choice, Choice::Slot | Choice::Inserted | Choice::SetAside);
                if new && !row.control.takes_new() {
                    return Err(format!("{flow:?} began at backend {}, which takes none", row.id.0));
                }
                self.went_there(memory, row, verdict, packet.bytes())?;
                let vip_row = u16::try_from(walk.trail.vip_row).unwrap_or(u16::MAX);
                let of_vip = vip == maps.vips.get(&vip_row).copied() && memory.serves(row.control, vip_row);
                return if of_vip {
                    Ok(Some(row.id))
                } else {
                    Err(format!("{flow:?} went to another vip's {row:?}"))
                };
            }
            _ => false,
        };
        if fits { Ok(None) } else { Err(format!("{flow:?} came to {verdict:?}, {:?}, {row:?}", walk.trail)) }
    }

    /// Whether a frame left by the way and for the address of a backend.
    fn went_there(
        &self,
        memory: &Memory,
        row: &BackendContent,
        verdict: Verdict,
        bytes: &[u8],
    ) -> Result<(), String> {
        let maps = &memory.actual;
        let egress = maps.egresses.get(&row.next_hop.egress());
        let device = match verdict {
            Verdict::Redirect(_, number) => maps.egresses.get(&number).map(|egress| egress.ifindex),
            _ => Some(self.tables.ingress.get()),
        };
        let by_it = egress.is_some() && egress.map(|egress| egress.ifindex) == device;
        let to_hop = bytes[..6] == row.next_hop.mac().octets();
        let destination = if bytes[12..14] == [8, 0] { &bytes[30..34] } else { &bytes[38..54] };
        let addressed = row.control.mode() == Mode::L2
            || match row.address {
                IpAddr::V4(address) => destination == address.octets(),
                IpAddr::V6(address) => destination == address.octets(),
            };
        let right = row.control.alive() && by_it && to_hop && addressed;
        if right { Ok(()) } else { Err(format!("{verdict:?} of {row:?} is {bytes:x?}")) }
    }

    /// Makes the tables what the maps are; what is remembered of flows stays.
    fn load(&mut self, memory: &Memory) {
        let (maps, tables) = (&memory.actual, &mut self.tables);
        tables.config.bypass.store(maps.bypass.into());
        tables.vip_keys.clear();
        maps.keys.iter().for_each(|(key, entry)| tables.insert_key(&key.to_abi(), *entry));
        tables.ports = maps.ports.clone();
        maps.slots.iter().zip(&tables.slots).for_each(|(slot, word)| word.store(slot.0));
        for (number, row) in (0..).zip(&tables.vips) {
            store_vip(row, maps.vips.get(&number), memory.finds(number));
        }
        for (number, row) in (0..).zip(&tables.backends) {
            store_backend(row, maps.backends.get(&number));
        }
        for (number, row) in (0..).zip(&tables.egresses) {
            let content = maps.egresses.get(&number);
            row.source_mac.store(content.map_or(0, |egress| egress.source_mac.0));
            row.tags.store(content.map_or(0, |egress| egress.tags.0));
            row.device.store(content.map_or(0, |egress| EgressRow::device_word(egress.ifindex, egress.mtu)));
        }
        for (number, row) in (0..).zip(&tables.sources) {
            store_address(&row.addr, maps.sources.get(&number).copied());
        }
    }
}

/// The vip that a key leads to: the key itself, or the one of every port.
fn vip_of(memory: &Memory, key: &Key) -> Option<VipContent> {
    let maps = &memory.actual;
    let row = |key: Key| u16::try_from(maps.keys.get(&key)?.row()).ok().filter(|row| memory.finds(*row));
    maps.vips.get(&row(*key).or_else(|| row(Key { port: 0, ..*key }))?).copied()
}

fn store_address(words: &[Word; 2], address: Option<IpAddr>) {
    let values = address.map_or([0, 0], |address| Addr::from(address).words());
    words.iter().zip(values).for_each(|(word, value)| word.store(value));
}

fn store_vip(row: &VipRow, content: Option<&VipContent>, found: bool) {
    store_address(&row.addr, content.map(|vip| vip.key.address));
    row.table.store(content.map_or(0, |vip| extent_word(vip.extent.0, vip.extent.1)));
    row.policy.store(content.map_or(0, |vip| vip.policy.0));
    row.unserved.store(content.map_or(0, |vip| vip.refuses.into()));
    let key = |vip: &VipContent| VipRow::key_word(Be16::new(vip.key.port), vip.key.protocol);
    let mask = if found { u64::MAX } else { !VipRow::FOUND };
    row.key.store(content.map_or(0, key) & mask);
}

fn store_backend(row: &BackendRow, content: Option<&BackendContent>) {
    store_address(&row.addr, content.map(|backend| backend.address));
    row.control.store(content.map_or(0, |backend| backend.control.0));
    row.next_hop.store(content.map_or(0, |backend| backend.next_hop.0));
    row.identity.store(content.map_or(0, |backend| backend.id.0.into()));
}

/// A client's frame, without checksums, which the path only changes.
fn frame(flow: Flow, flags: u8) -> Vec<u8> {
    let Flow { key, client_port } = flow;
    let port = if key.port == 0 { 4_242 } else { key.port };
    let mut l4 = [client_port.to_be_bytes(), port.to_be_bytes()].concat();
    if key.protocol == TCP {
        l4.extend([0, 0, 0, if flags == SYN { 7 } else { 8 }, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    } else {
        l4.extend([0, 8, 0, 0]);
    }
    let length = l4.len() as u8;
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 9, 9];
    match key.address {
        IpAddr::V4(vip) => {
            bytes.extend([8, 0, 0x45, 0, 0, 20 + length, 0, 0, 0x40, 0, 64, key.protocol, 0, 0]);
            bytes.extend([198, 51, 100, 7]);
            bytes.extend(vip.octets());
        }
        IpAddr::V6(vip) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, key.protocol, 64]);
            bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
            bytes.extend(vip.octets());
        }
    }
    bytes.extend(l4);
    bytes
}
