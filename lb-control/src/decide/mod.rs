//! Whether a command is accepted, and what happens if so. Pure: the same state, limits, time and command give the
//! same events or the same rejection.
//!
//! A [`draft::Draft`] collects events and faults side by side, so that `apply` can report every fault at once; what
//! concerns the state as a whole, capacities and disruption, is checked once at the end, on the state that would be.

mod address;
mod apply;
mod backend;
mod balancing;
mod breaker;
mod capacity;
mod disruption;
mod draft;
mod fallback;
mod name;
mod probe;
mod quota;
mod settings;
mod tenant;
mod touched;
mod vip;

use crate::command::Command;
use crate::event::{Change, Event};
use crate::limits::Limits;
use crate::rejection::Rejection;
use crate::state::State;
use draft::Draft;
pub use touched::{Touched, touched};

/// The time of a decision, milliseconds since the Unix epoch. Only a label on the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now(pub u64);

/// An accepted command: what happens, and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What happens, in order; at least one event.
    pub events: Vec<Event>,
    /// The state after it.
    pub after: State,
}

/// Decides a command. An accepted one gives at least one event; [`Change::CommandAccepted`] says that nothing had
/// to change.
///
/// # Errors
/// A [`Rejection`], with every fault of an `apply` at once. Nothing has changed then.
pub fn decide(state: &State, limits: &Limits, now: Now, command: &Command) -> Result<Vec<Event>, Rejection> {
    rehearse(state, limits, now, command).map(|decided| decided.events)
}

/// The same with the state that it leads to, which a decision works out in any case.
///
/// # Errors
/// As [`decide`].
pub fn rehearse(state: &State, limits: &Limits, now: Now, command: &Command) -> Result<Decided, Rejection> {
    let mut draft = Draft::new(state, now);
    let allow_disruption = handle(&mut draft, command);
    if draft.faults.is_empty() {
        fallback::check(&mut draft, command);
        capacity::check(state, &mut draft, limits);
        quota::check(state, &mut draft);
    }
    if draft.faults.is_empty() && !allow_disruption {
        disruption::check(state, &mut draft);
    }
    if let Some(rejection) = Rejection::all(std::mem::take(&mut draft.faults)) {
        return Err(rejection);
    }
    if draft.events.is_empty() {
        draft.emit(Change::CommandAccepted { command: command.kind().to_string() });
    }
    Ok(Decided { events: draft.events, after: draft.state })
}

/// Brings the command about in the draft; returns whether it allows disruption.
fn handle(draft: &mut Draft, command: &Command) -> bool {
    match command {
        Command::TenantAdd(spec) => tenant::add(draft, spec),
        Command::TenantSet(set) => tenant::set(draft, set),
        Command::TenantRemove(spec) => tenant::remove(draft, &spec.name),
        Command::VipAdd(spec) => vip::add(draft, spec, ""),
        Command::VipSet(set) => {
            vip::set(draft, set);
            return set.allow_disruption;
        }
        Command::VipRemove(remove) => {
            vip::remove(draft, &remove.name);
            return remove.allow_disruption;
        }
        Command::BackendAdd(add) => backend::add(draft, &add.vip, &add.spec(), ""),
        Command::BackendSet(set) => {
            backend::set(draft, set);
            return set.allow_disruption;
        }
        Command::BackendRemove(remove) => {
            backend::remove(draft, &remove.vip, &remove.name);
            return remove.allow_disruption;
        }
        Command::BreakerTrip(trip) => {
            breaker::trip(draft, &trip.vip, &trip.name);
            return trip.allow_disruption;
        }
        Command::BreakerReset(reset) => breaker::reset(draft, &reset.vip, &reset.name),
        Command::BypassSet(bypass) => set_bypass(draft, bypass.on),
        Command::Apply(wish) => {
            if wish.bypass == Some(true) {
                set_bypass(draft, true);
            }
            apply::apply(draft, wish);
            if wish.bypass == Some(false) {
                set_bypass(draft, false);
            }
            return wish.allow_disruption;
        }
    }
    false
}

fn set_bypass(draft: &mut Draft, on: bool) {
    if on != draft.state.bypass {
        draft.emit(Change::BypassChanged { on });
    }
}

#[cfg(test)]
mod tests;
