//! Arbitrary logs for property tests: what the decisions make of arbitrary commands, by a few actors, with clocks that
//! also go backwards.

use proptest::prelude::*;

use crate::command::Command;
use crate::decide::{Now, decide};
use crate::limits::Limits;
use crate::record::{RECORD_VERSION, Record};
use crate::state::State;
use crate::testing::any_command;

use super::Projection;

/// The records of accepted commands.
pub(super) fn any_log() -> impl Strategy<Value = Vec<Record>> {
    let step = (any_command(), 0_u64..1_000, 0_usize..3, any::<bool>());
    proptest::collection::vec(step, 0..40).prop_map(|steps| {
        let (mut state, mut records) = (State::default(), Vec::new());
        for (command, at_ms, actor, said) in steps {
            let actor = ["alice", "bob", "uid 7"][actor];
            let reason = said.then(|| format!("because {at_ms}"));
            records.extend(accepted(&mut state, &command, at_ms, actor, reason));
        }
        records
    })
}

/// The records of these commands, which must be accepted; given as in files, one a second.
pub(super) fn log_of(commands: &[&str]) -> Vec<Record> {
    let mut state = State::default();
    let mut record = |(number, text): (usize, &&str)| {
        let command = serde_json::from_str(text).unwrap();
        accepted(&mut state, &command, number as u64 * 1_000, "alice", None).unwrap()
    };
    commands.iter().enumerate().map(&mut record).collect()
}

/// The record of a command, if it is accepted.
fn accepted(
    state: &mut State,
    command: &Command,
    at_ms: u64,
    actor: &str,
    reason: Option<String>,
) -> Option<Record> {
    let events = decide(state, &Limits::default(), Now(at_ms), command).ok()?;
    events.iter().for_each(|event| state.apply(event));
    let command_id = format!("command-{}", state.revision);
    Some(Record {
        v: RECORD_VERSION,
        revision: state.revision,
        at_ms,
        actor: actor.to_owned(),
        command: command.kind().to_owned(),
        correlation_id: command_id.clone(),
        command_id,
        causation_id: None,
        key: None,
        reason,
        events,
    })
}

/// A projection rebuilt from the log up to a revision.
pub(super) fn rebuilt<P: Projection>(log: &[Record], revision: u64) -> P {
    let mut fresh = P::default();
    log.iter().filter(|record| record.revision <= revision).for_each(|record| fresh.apply(record));
    fresh
}
