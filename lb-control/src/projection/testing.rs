//! Arbitrary logs for property tests: what the decisions make of arbitrary commands, by a few actors, with clocks that
//! also go backwards.

use proptest::prelude::*;

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
            let now = Now(at_ms);
            let Ok(events) = decide(&state, &Limits::default(), now, &command) else { continue };
            events.iter().for_each(|event| state.apply(event));
            let command_id = format!("command-{}", state.revision);
            records.push(Record {
                v: RECORD_VERSION,
                revision: state.revision,
                at_ms,
                actor: ["alice", "bob", "uid 7"][actor].to_owned(),
                command: command.kind().to_owned(),
                correlation_id: command_id.clone(),
                command_id,
                causation_id: None,
                key: None,
                reason: said.then(|| format!("because {at_ms}")),
                events,
            });
        }
        records
    })
}

/// A projection rebuilt from the log up to a revision.
pub(super) fn rebuilt<P: Projection>(log: &[Record], revision: u64) -> P {
    let mut fresh = P::default();
    log.iter().filter(|record| record.revision <= revision).for_each(|record| fresh.apply(record));
    fresh
}
