//! A decision in the making: the state that would be, the events that lead there, and what is wrong with them.

use super::Now;
use super::capacity::EVENTS_MAX;
use crate::code::Code;
use crate::event::{Change, EVENT_VERSION, Event};
use crate::rejection::Rejection;
use crate::state::State;

/// Faults that one rejection shows, at most: more than a person reads, and little to send.
pub(super) const FAULTS_MAX: usize = 100;

/// A decision in the making. With any fault its events are never used, so that checks may go on after a fault as if
/// all were well, to find the next.
pub(super) struct Draft {
    /// The state after the events so far.
    pub(super) state: State,
    /// The events so far.
    pub(super) events: Vec<Event>,
    /// What is wrong.
    pub(super) faults: Vec<Rejection>,
    now: Now,
}

impl Draft {
    /// A draft upon a state.
    pub(super) fn new(state: &State, now: Now) -> Self {
        Self { state: state.clone(), events: Vec::new(), faults: Vec::new(), now }
    }
    /// Lets something happen.
    pub(super) fn emit(&mut self, change: Change) {
        let event = Event { v: EVENT_VERSION, at_ms: self.now.0, change };
        self.state.apply(&event);
        self.events.push(event);
    }
    /// Notes a fault.
    pub(super) fn fault(&mut self, code: Code, place: impl Into<String>, message: impl Into<String>) {
        self.note(Rejection::new(code, place, message));
    }
    /// Notes a rejection, unless there are enough.
    pub(super) fn note(&mut self, rejection: Rejection) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(rejection);
        }
    }
    /// Whether going on is of no use: there are enough faults to show, or more events than one record holds.
    pub(super) fn is_full(&self) -> bool {
        self.faults.len() == FAULTS_MAX || self.events.len() > EVENTS_MAX
    }
}

/// The path of a field under a prefix, which may be empty.
pub(super) fn path(prefix: &str, field: &str) -> String {
    if prefix.is_empty() { field.to_string() } else { format!("{prefix}.{field}") }
}
