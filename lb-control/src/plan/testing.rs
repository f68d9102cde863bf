//! A node in memory for tests: intent, observation and maps, driven step by step. After every single operation the
//! maps are checked.

pub(crate) mod frames;

use self::frames::Frames;
use super::memory::Memory;
use super::{Actual, Device, Footings, Last, Observed, Op, Plan, Problem, Settled, Sweep, TableCache, Way};
use super::{adopted_health, changed, desired, diff, diff_since, partial, touched, unnamed};
use crate::command::Command;
use crate::decide::{Now, decide};
use crate::health::Health;
use crate::limits::Limits;
use crate::rejection::Rejection;
use crate::state::State;
use lb_common::abi::egress::Tags;
use lb_common::addr::Mac;
use lb_common::ids::BackendId;

/// Small maps.
pub(crate) const LIMITS: Limits =
    Limits { vips: 8, vip_keys: 24, backends: 40, slots: 4_000, egresses: 6, sources: 3, ..MORE };

/// As many tenants as are drawn.
const MORE: Limits = Limits {
    vips: 0,
    vip_keys: 0,
    backends: 0,
    slots: 0,
    egresses: 0,
    sources: 0,
    tenants: 4,
    flow_entries: 1_024,
    nat_ports: 1_000,
};

/// Applies a command, given as JSON, that must be accepted.
pub(crate) fn accept(state: &mut State, json: &str) {
    let command: Command = serde_json::from_str(json).unwrap();
    let events = decide(state, &Limits::default(), Now(0), &command).unwrap();
    events.iter().for_each(|event| state.apply(event));
}

/// A state with one vip `web`, 203.0.113.10:80 in mode l2, and backends `b0`, `b1`, … at these addresses.
pub(crate) fn world(backends: &[&str]) -> State {
    let mut state = State::default();
    accept(
        &mut state,
        r#"{"kind":"vip_add","name":"web","address":"203.0.113.10","port":80,"mode":"l2","table_size":251}"#,
    );
    for (index, address) in backends.iter().enumerate() {
        let name = format!("b{index}");
        accept(
            &mut state,
            &format!(r#"{{"kind":"backend_add","vip":"web","name":"{name}","address":"{address}"}}"#),
        );
    }
    state
}

/// The way to a backend over one of two devices.
pub(crate) fn way(ifindex: u32, mac: Option<u8>) -> Way {
    Way {
        next_hop_mac: mac.map(|last| Mac::from_octets([2, 0, 0, 0, 1, last])),
        ifindex,
        mtu: 1_500,
        source_mac: Mac::from_octets([2, 0, 0, 0, 0, ifindex as u8]),
        tags: Tags::NONE,
        source: [192, 0, 2, ifindex as u8].into(),
    }
}

/// A node.
pub(crate) struct Node {
    pub(crate) state: State,
    pub(crate) observed: Observed,
    pub(crate) memory: Memory,
    pub(crate) tables: TableCache,
    pub(crate) now_s: u32,
    /// What the slots rested on after the last whole pass.
    pub(crate) settled: Settled,
    /// What the last pass was made from, and the problems that it left.
    pub(crate) last: Option<(State, Observed, Vec<Problem>)>,
    /// Packets that come between the operations, if any do.
    pub(crate) frames: Option<Frames>,
}

impl Node {
    /// A node with nothing on it but one attached device.
    pub(crate) fn new(state: State) -> Self {
        let mut observed = Observed::default();
        observed.devices.insert(1, Device { mtu: 1_500, mac: Mac::from_octets([2, 0, 0, 0, 0, 1]) });
        Self {
            state,
            observed,
            memory: Memory::new(LIMITS),
            tables: TableCache::default(),
            now_s: 1_000,
            settled: Settled::default(),
            last: None,
            frames: None,
        }
    }
    /// A node whose backends are all up, with a way each, and settled.
    pub(crate) fn up(state: State) -> Self {
        let mut node = Self::new(state);
        for id in node.ids() {
            node.observed.health.insert(id, Health::Up);
            node.observed.ways.insert(id, way(1, Some(id.0 as u8)));
        }
        node.settle();
        node
    }
    /// The serials of all backends.
    pub(crate) fn ids(&self) -> Vec<BackendId> {
        self.state.backends().map(|(_, _, _, backend)| backend.id).collect()
    }
    /// The serial of a backend of the vip `web`.
    pub(crate) fn id(&self, backend: &str) -> BackendId {
        self.state.backend("web", backend).unwrap().id
    }
    /// Applies a command if it is accepted.
    pub(crate) fn command(&mut self, command: &Command) -> Result<(), Rejection> {
        let events = decide(&self.state, &LIMITS, Now(0), command)?;
        events.iter().for_each(|event| self.state.apply(event));
        Ok(())
    }
    /// Applies a command, given as JSON, that must be accepted.
    pub(crate) fn accept(&mut self, json: &str) {
        self.command(&serde_json::from_str(json).unwrap()).unwrap();
    }
    /// What is to be done.
    pub(crate) fn plan(&mut self) -> Plan {
        let desired = desired(&self.state, &self.observed, &mut self.tables);
        diff(&desired, &self.memory.actual, self.now_s)
    }
    /// Plans by what is settled and carries it out; whether there was anything to do. Where a plan for what changed
    /// since the last pass can be made, it is the same.
    pub(crate) fn pass(&mut self) -> bool {
        let some = self.partial();
        let desired = desired(&self.state, &self.observed, &mut self.tables);
        let (plan, mut settled) = diff_since(&desired, &self.memory.actual, self.now_s, &self.settled);
        if let Some((partial, renewed, footings)) = some {
            assert_eq!(partial, plan);
            let all = desired.footings();
            assert!(footings.iter().all(|(id, footing)| all[id] == *footing));
            let mut all = settled.clone();
            all.renew(renewed.clone());
            assert_eq!(all, settled);
            // As a daemon has it, which planned for these vips alone.
            settled = std::mem::take(&mut self.settled);
            settled.renew(renewed);
        }
        self.carry_out(&plan.ops);
        self.settled = settled;
        self.last = Some((self.state.clone(), self.observed.clone(), plan.problems));
        !plan.ops.is_empty()
    }
    /// The plan for the vips that changed since the last pass, if it takes no other.
    pub(crate) fn partial(&mut self) -> Option<(Plan, Settled, Footings)> {
        let (was, seen, problems) = self.last.as_ref()?;
        if seen.devices != self.observed.devices {
            return None;
        }
        let health = changed(&seen.health, &self.observed.health)
            .chain(changed(&seen.fell_ms, &self.observed.fell_ms));
        let breakers = changed(&seen.breakers, &self.observed.breakers);
        let observed = health.chain(breakers).chain(changed(&seen.ways, &self.observed.ways)).copied();
        let unreached = seen.unreached.symmetric_difference(&self.observed.unreached).copied();
        let touched = touched(was, &self.state, &observed.chain(unreached).collect())?;
        let last = Last { actual: &self.memory.actual, settled: &self.settled, problems };
        partial(&touched, &self.state, &self.observed, &mut self.tables, last, self.now_s)
    }
    /// Carries out operations; every prefix must be safe.
    pub(crate) fn carry_out(&mut self, ops: &[Op]) {
        for op in ops {
            let missed = self.memory.apply(op).unwrap_or_else(|why| panic!("{op:?}: {why}"));
            assert_eq!(missed, 0, "{op:?}");
            self.memory.check(self.now_s).unwrap_or_else(|why| panic!("after {op:?}: {why}"));
            let Actual { backends, pools, .. } = &self.memory.actual;
            assert_eq!(*pools, super::actual::pools(backends), "after {op:?}");
            if let Some(frames) = &mut self.frames {
                frames.check(&self.memory, self.now_s).unwrap_or_else(|why| panic!("after {op:?}: {why}"));
            }
        }
    }
    /// Plans and carries out; there must be nothing left to do then. Returns what was done.
    pub(crate) fn settle(&mut self) -> Plan {
        let plan = self.plan();
        self.carry_out(&plan.ops);
        let rest = self.plan();
        assert_eq!(rest.ops, [], "left to do after {:?}", plan.ops);
        assert_eq!(rest.problems, plan.problems);
        plan
    }
    /// Every slot in use goes to the backend that the vip's table names, and to nobody else.
    pub(crate) fn assert_as_desired(&mut self) {
        let desired = desired(&self.state, &self.observed, &mut self.tables);
        let maps = &self.memory.actual;
        assert_eq!(maps.vips.len(), desired.vips.len());
        for vip in maps.vips.values() {
            let wanted = &desired.vips[&vip.id];
            for slot in 0..wanted.table_size as usize {
                let current = maps.slots[vip.extent.0 as usize + slot].current();
                let is = maps.backends.get(&current).map(|backend| backend.id);
                let one = wanted.table.get(slot).copied().unwrap_or(0);
                let shall = usize::from(one).checked_sub(1).map(|index| wanted.candidates[index]);
                assert_eq!(is, shall, "slot {slot} of {}", wanted.name);
            }
        }
    }
    /// A sweep that finds entries for the watched backend rows that `named` picks.
    pub(crate) fn sweep(&mut self, named: impl Fn(u16) -> bool) {
        let watched = unnamed(&self.state, &self.memory.actual, self.now_s);
        let mut referenced = watched.clone();
        let remembered = |row| self.frames.as_ref().is_some_and(|frames| frames.names(row));
        referenced.backends.retain(|row, _| named(*row) || remembered(*row));
        referenced.egresses.clear();
        self.memory.actual.sweep = Some(Sweep { watched, referenced });
    }
    /// The daemon dies and another one begins with the maps.
    pub(crate) fn restart(&mut self) {
        self.tables = TableCache::default();
        self.settled = Settled::default();
        self.last = None;
        self.memory.actual.sweep = None;
        self.observed.health = adopted_health(&self.state, &self.memory.actual);
        self.observed.fell_ms.clear();
    }
    /// The row of a backend of the vip `web`.
    pub(crate) fn row(&self, backend: &str) -> u16 {
        let id = self.id(backend);
        *self.memory.actual.backends.iter().find(|(_, content)| content.id == id).unwrap().0
    }
}
