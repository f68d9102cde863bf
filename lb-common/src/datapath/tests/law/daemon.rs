//! The daemon of the simulation: what it wants, its plan as single operations in the order of the real one, and its
//! sweep. It can stop after any operation and begin anew, as a daemon that was killed does.

use super::node::{Node, PLAN_S, ROWS, SLOTS, VIPS, WINDOW_S, first_row, policy, vip_of};
use crate::abi::backend::Control;
use crate::abi::flow::{Entry, EntryState, Trace};
use crate::abi::slot::{Phase, Slot};
use crate::abi::vip::Tracking;
use crate::datapath::flow_table::{Worth, worth};
use crate::maglev;
use fastrand::Rng;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Absent,
    Enabled,
    Draining,
}

#[derive(Clone, Copy, Debug)]
struct Wish {
    intent: Intent,
    healthy: bool,
    weight: u16,
    /// New connections per second while it is on trial; 0 = it is not.
    trial_cps: u16,
}

impl Wish {
    /// The flags of its control word, and its trial's rate in bits 48-63.
    fn flags(self) -> u64 {
        match self.intent {
            Intent::Enabled if self.healthy => {
                Control::ALIVE | Control::NEW | u64::from(self.trial_cps) << 48
            }
            Intent::Draining if self.healthy => Control::ALIVE,
            _ => 0,
        }
    }
}

/// One step of a plan.
#[derive(Clone, Copy, Debug)]
enum Op {
    Control { row: u16, flags: u64 },
    Slot { index: u32, old: Slot, new: Slot },
}

/// The daemon.
pub(super) struct Daemon {
    wishes: Vec<Wish>,
    pending: VecDeque<Op>,
    planned_s: u32,
}

impl Daemon {
    /// Four backends in each vip, all in use.
    pub(super) fn new(node: &Node) -> Self {
        let rows = VIPS.len() * usize::from(ROWS) + 1;
        let absent = Wish { intent: Intent::Absent, healthy: true, weight: 1, trial_cps: 0 };
        let mut daemon = Self { wishes: vec![absent; rows], pending: VecDeque::new(), planned_s: 0 };
        for vip in 0..VIPS.len() {
            for row in first_row(vip)..first_row(vip) + 4 {
                daemon.wishes[usize::from(row)].intent = Intent::Enabled;
            }
        }
        daemon.plan(node);
        daemon.work(node, usize::MAX);
        daemon
    }

    /// Whether a plan is being carried out.
    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Changes a random backend; says what happened.
    pub(super) fn change(&mut self, rng: &mut Rng) -> (u16, &'static str) {
        let row = rng.u16(1..self.wishes.len() as u16);
        let wish = &mut self.wishes[usize::from(row)];
        let what = match rng.u8(0..9) {
            0 if wish.intent != Intent::Absent => ("removed", Wish { intent: Intent::Absent, ..*wish }),
            1 | 2 => ("draining", Wish { intent: Intent::Draining, ..*wish }),
            3 => ("ill", Wish { healthy: false, ..*wish }),
            4 => ("weighed", Wish { weight: rng.u16(0..8), ..*wish }),
            5 if wish.intent == Intent::Enabled => ("tried", Wish { trial_cps: rng.u16(1..4), ..*wish }),
            _ => {
                let weight = wish.weight.max(1);
                ("enabled", Wish { intent: Intent::Enabled, healthy: true, weight, trial_cps: 0 })
            }
        };
        *wish = what.1;
        (row, what.0)
    }

    /// Forgets the plan, as a killed daemon does, and makes a new one from what the maps hold.
    pub(super) fn plan(&mut self, node: &Node) {
        let flags = |row: u16| self.wishes[usize::from(row)].flags();
        let (mut gains, mut deaths, mut drains) = (Vec::new(), Vec::new(), Vec::new());
        for row in 1..self.wishes.len() as u16 {
            let (old, new) = (node.flags(row), flags(row));
            let stage = match (old, new) {
                _ if old == new => continue,
                (_, 0) => &mut deaths,
                _ if new & !old != 0 => &mut gains,
                _ => &mut drains,
            };
            stage.push(Op::Control { row, flags: new });
        }
        let slots = (0..VIPS.len()).flat_map(|vip| self.slots(node, vip, &flags)).collect();
        self.planned_s = node.now_s();
        self.pending = [gains, deaths, slots, drains].concat().into();
    }

    fn slots(&self, node: &Node, vip: usize, flags: &impl Fn(u16) -> u64) -> Vec<Op> {
        let rows = first_row(vip)..first_row(vip) + ROWS;
        let wanted = rows.filter(|row| flags(*row) & Control::NEW != 0);
        let mut candidates: Vec<_> = wanted
            .map(|row| maglev::Candidate::new(&row.to_be_bytes(), row, self.wishes[usize::from(row)].weight))
            .collect();
        let mut table = vec![0; SLOTS as usize];
        maglev::build(&mut table, &mut candidates);
        let indices = vip as u32 * SLOTS..;
        let changes = indices.zip(table).filter_map(|(index, row)| {
            let old = node.slot(index);
            let new = old.transition(row, node.now_s(), WINDOW_S, |row| flags(row) & Control::ALIVE != 0);
            (new != old).then_some(Op::Slot { index, old, new })
        });
        changes.collect()
    }

    /// Carries out up to `count` operations; returns the rows that died.
    pub(super) fn work(&mut self, node: &Node, count: usize) -> Vec<u16> {
        let mut died = Vec::new();
        let late = node.now_s() + 1 >= self.planned_s + PLAN_S;
        let count = if late { usize::MAX } else { count };
        for op in self.pending.drain(..count.min(self.pending.len())) {
            match op {
                Op::Control { row, flags } => {
                    if flags == 0 {
                        died.push(row);
                    }
                    node.set_control(row, flags);
                }
                Op::Slot { index, old, new } => {
                    // The sweep may have been there, or its window be over; the next plan sees to it.
                    if !new.is_timely(node.now_s()) {
                        continue;
                    }
                    node.tables.slots[index as usize].compare_swap(old.0, new.0);
                }
            }
        }
        died
    }

    /// What the real sweep does, without its care for what changes meanwhile: nothing does here.
    pub(super) fn sweep(node: &Node) {
        let now_s = node.now_s();
        let mut held = vec![false; VIPS.len() * SLOTS as usize];
        for bucket in &node.tables.flows {
            for (word, trace) in bucket.entries.iter().zip(&bucket.traces) {
                let entry = Entry(word.load());
                if entry.state() == EntryState::Free {
                    continue;
                }
                let vip = vip_of(entry.backend());
                let index = vip as u32 * SLOTS + entry.slot();
                let slot = node.slot(index);
                let age_s = Trace(trace.load()).age_s(now_s);
                let alive = node.control(entry.backend()).alive();
                let over = worth(entry, age_s, policy(VIPS[vip].1), alive) == Worth::Nothing;
                if over || (slot.is_stable() && VIPS[vip].1 != Tracking::Always) {
                    word.store(0);
                } else if slot.current() != entry.backend() {
                    held[index as usize] = true;
                }
            }
        }
        for (word, held) in node.tables.slots.iter().zip(held) {
            let slot = Slot(word.load());
            if slot.phase(now_s) == Phase::Pinned {
                let settled = if held { Slot::pinned(slot.current()) } else { Slot::stable(slot.current()) };
                word.store(settled.0);
            }
        }
    }
}
