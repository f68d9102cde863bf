//! The model: every connection with its backend, and what must hold after each packet.

use super::Scenario;
use super::daemon::Daemon;
use super::node::{Node, START_S, Segment};
use super::traffic::{Connection, Memory, flood};
use crate::abi::flow::EntryState;
use crate::abi::slot::Phase;
use crate::datapath::pipeline::Choice;
use crate::datapath::wire::transport::{FIN, SYN};
use crate::limits::SYN_WINDOW;
use core::ops::AddAssign;
use fastrand::Rng;
use std::format;
use std::string::String;
use std::vec::Vec;

/// What happened in a sequence, in packets or connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) opened: u64,
    pub(super) packets: u64,
    pub(super) packets_moving: u64,
    pub(super) packets_remembered: u64,
    pub(super) died: u64,
    pub(super) forged: u64,
    pub(super) flooded: u64,
    pub(super) changes: u64,
    /// Moved by what is documented.
    pub(super) exempt: u64,
    /// Of these, those that send every other second.
    pub(super) exempt_chatty: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.opened += other.opened;
        self.packets += other.packets;
        self.packets_moving += other.packets_moving;
        self.packets_remembered += other.packets_remembered;
        self.died += other.died;
        self.forged += other.forged;
        self.flooded += other.flooded;
        self.changes += other.changes;
        self.exempt += other.exempt;
        self.exempt_chatty += other.exempt_chatty;
    }
}

/// A connection that was moved.
pub(super) struct Moved {
    pub(super) connection: u64,
    pub(super) what: String,
    pub(super) history: Vec<String>,
}

/// One sequence.
pub(super) struct Simulation {
    scenario: Scenario,
    rng: Rng,
    node: Node,
    daemon: Daemon,
    connections: Vec<Connection>,
    next_id: u64,
    tally: Tally,
    /// The connection whose history is wanted.
    watched: Option<u64>,
    history: Vec<String>,
}

impl Simulation {
    pub(super) fn new(scenario: Scenario, seed: u64, watched: Option<u64>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let node = Node::new(scenario, [rng.u64(..), rng.u64(..)]);
        let daemon = Daemon::new(&node);
        Self {
            scenario,
            rng,
            node,
            daemon,
            connections: Vec::new(),
            next_id: 0,
            tally: Tally::default(),
            watched,
            history: Vec::new(),
        }
    }

    /// Runs for so many seconds.
    pub(super) fn run(mut self, seconds: u32) -> Result<Tally, Moved> {
        for now_s in START_S..START_S + seconds {
            self.node.set_now(now_s);
            // Several rounds of packets and operations in a second, so that each sees the others half done.
            for _ in 0..3 {
                self.operate();
                self.flood();
                self.forge();
                self.traffic(now_s)?;
            }
            self.node.tables.failing_swaps.set(0);
            if self.rng.u8(0..if self.scenario.slow { 10 } else { 3 }) == 0 {
                Daemon::sweep(&self.node);
            }
        }
        Ok(self.tally)
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.watched.is_some() {
            let now_s = self.node.now_s();
            self.history.push(format!("{now_s} {}", text()));
        }
    }

    /// The daemon: a change now and then, a plan in pieces, and now and then a new daemon in the middle of it.
    fn operate(&mut self) {
        if self.rng.u32(0..3 * self.scenario.change_s) == 0 {
            let change = self.daemon.change(&mut self.rng);
            self.tally.changes += 1;
            self.note(|| format!("{change:?}"));
        }
        if !self.daemon.is_busy() || self.rng.u8(0..10) == 0 {
            self.daemon.plan(&self.node);
        }
        let at_once = !self.scenario.slow && self.rng.bool();
        let count = if at_once { usize::MAX } else { self.rng.usize(0..80) };
        for row in self.daemon.work(&self.node, count) {
            let (died, live) = self.connections.drain(..).partition(|connection| connection.backend == row);
            self.connections = live;
            self.tally.died += Vec::<Connection>::len(&died) as u64;
            died.iter().for_each(|connection| self.perhaps_again(connection));
            self.note(|| format!("row {row} died"));
        }
    }

    /// Half of the clients come back from the same port.
    fn perhaps_again(&mut self, connection: &Connection) {
        if self.rng.bool() {
            self.connections.push(connection.again(self.next_id, self.node.now_s(), &mut self.rng));
            self.next_id += 1;
        }
    }

    fn flood(&mut self) {
        for _ in 0..self.scenario.flood_pps / 3 {
            let segment = flood(&mut self.rng);
            self.node.run(&segment);
            self.tally.flooded += 1;
        }
    }

    /// SYNs on the tuples of live connections, from somebody who does not know their sequence numbers.
    fn forge(&mut self) {
        if !self.scenario.forging || self.connections.is_empty() {
            return;
        }
        let connection = &self.connections[self.rng.usize(0..self.connections.len())];
        let sequence: u32 = self.rng.u32(..);
        let next = connection.isn.wrapping_add(1).wrapping_add(connection.sent);
        // The documented odds: a guess so near that the connection's packets fit.
        let lucky = next.wrapping_sub(sequence.wrapping_add(1)) <= SYN_WINDOW
            || sequence.wrapping_sub(next) <= 10 * SYN_WINDOW;
        let (vip, client, id) = (connection.vip, connection.client, connection.id);
        let entries = self.node.entries(vip, client, connection.isn);
        // Nor is a handshake on its way protected, nor one that only a failing swap left unconfirmed.
        let shaking = !connection.open
            || entries
                .iter()
                .any(|entry| entry.state() == EntryState::Syn && entry.backend() == connection.backend);
        if lucky || shaking || !connection.is_tcp() {
            return;
        }
        let (row, _) = self.node.run(&Segment { vip, client, flags: SYN, sequence, data: 0 });
        self.tally.forged += 1;
        if self.watched == Some(id) {
            self.note(|| format!("forged SYN {sequence} -> {row}"));
        }
    }

    fn traffic(&mut self, now_s: u32) -> Result<(), Moved> {
        while self.connections.len() < self.scenario.connections {
            let connection = Connection::new(self.next_id, now_s, &mut self.rng);
            self.next_id += 1;
            self.connections.push(connection);
        }
        let mut number = 0;
        while number < self.connections.len() {
            let ended = self.connections[number].next_s <= now_s && self.send(number, now_s)?;
            if ended {
                let connection = self.connections.swap_remove(number);
                self.perhaps_again(&connection);
            } else {
                number += 1;
            }
        }
        Ok(())
    }

    /// Sends a connection's next packet; whether the connection is over.
    fn send(&mut self, number: usize, now_s: u32) -> Result<bool, Moved> {
        let mut connection = self.connections[number].clone();
        let fails = self.rng.u32(0..100) < self.scenario.failing_percent;
        self.node.tables.failing_swaps.set(if fails { 8 } else { 0 });
        let mut segment = connection.next(&mut self.rng);
        let ends = connection.open && self.rng.u8(0..40) == 0;
        // Some say so, some just stop.
        if ends && connection.is_tcp() && self.rng.bool() {
            segment.flags |= FIN;
        }
        let full = self.node.is_full(connection.vip, connection.client);
        let before = self.node.entries(connection.vip, connection.client, connection.isn);
        let (row, trail) = self.node.run(&segment);
        let after = self.node.entries(connection.vip, connection.client, connection.isn);
        if self.watched == Some(connection.id) {
            let (slot, choice) = (trail.slot, trail.choice);
            self.note(|| {
                format!("{segment:?} {before:?} -> {row} {choice:?} {slot:?} {after:?} fails {fails}")
            });
        }
        self.tally.packets += 1;
        let phase = trail.slot.phase(now_s);
        self.tally.packets_moving += u64::from(phase == Phase::Moving);
        self.tally.packets_remembered += u64::from(trail.choice == Choice::Remembered);
        if connection.backend == 0 {
            // The pool may be empty, or the chosen backend just dead.
            connection.backend = row;
            self.tally.opened += u64::from(row != 0);
            connection.open = !connection.is_tcp();
        } else if row != connection.backend {
            let stays = phase == Phase::Moving && trail.slot.previous() == connection.backend;
            let excused = match connection.memory {
                Memory::Failed => true,
                Memory::Unconfirmed(state) => {
                    before.iter().all(|entry| entry.state() != state || entry.backend() != connection.backend)
                }
                Memory::Slot | Memory::Confirmed => false,
            };
            if stays || !excused || !self.scenario.excuses {
                let what = format!("{connection:?} went to row {row} by {trail:?}");
                return Err(Moved {
                    connection: connection.id,
                    what,
                    history: core::mem::take(&mut self.history),
                });
            }
            self.tally.exempt += 1;
            self.tally.exempt_chatty += u64::from(connection.is_chatty());
            return Ok(true);
        } else {
            connection.open = true;
        }
        let entry = after.iter().find(|entry| entry.backend() == connection.backend);
        connection.memory = match entry.map(|entry| entry.state()) {
            Some(EntryState::Confirmed) => Memory::Confirmed,
            Some(state) => Memory::Unconfirmed(state),
            None if phase == Phase::Moving && (fails || full) => Memory::Failed,
            None => Memory::Slot,
        };
        connection.sent = connection.sent.wrapping_add(u32::from(segment.data));
        connection.rest(now_s, &mut self.rng);
        let over = ends || row == 0;
        self.connections[number] = connection;
        Ok(over)
    }
}
