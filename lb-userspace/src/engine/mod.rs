//! The way to the single writer: whoever wants a change submits a [`Request`] and is answered when it is durable.
//!
//! What the writer does is in [`writer`]; how a start folds the log is in [`fold`]. No maps, no sockets and no health
//! in here. Invariants:
//! - nothing is acknowledged before it is durable, and nothing is published before it is durable;
//! - a rejected command changes nothing and is not in the journal;
//! - readers see whole states only ([`Published`]) and never wait for the writer.

pub mod fold;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use lb_control::command::Command;
use lb_control::decide::{self, Now};
use lb_control::event::Event;
use lb_control::limits::Limits;
use lb_control::record::Record;
use lb_control::state::State;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::unix_ms;
use crate::journal::{EventStore, Head};
use crate::problem::{Code, Problem};
use crate::vital;
use fold::Folded;
use writer::Writer;

/// Commands that may wait for the writer; the next sender waits. Also the most that are made durable together.
const QUEUE: usize = 256;

/// How long whoever asks waits for the writer. A disk that hangs holds the writer up for as long; an append that is only
/// slow is done by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// The state of intent as of some revision.
pub type Published = Arc<State>;

/// A command with who, why and in what connection.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Who asks; the kernel says so.
    pub actor: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Makes a repetition harmless: the same actor's same key is applied once.
    pub key: Option<String>,
    /// Only if what the command touches was last changed by this revision ([`lb_control::decide::touched`]).
    pub if_match: Option<u64>,
    /// The command that a chain of commands began with; none: this one.
    pub correlation_id: Option<String>,
    /// What led to it: the id of a command or of an observation.
    pub causation_id: Option<String>,
}

impl Request {
    /// A command by an actor, and nothing else.
    pub fn new(command: Command, actor: impl Into<String>) -> Self {
        Self {
            command,
            actor: actor.into(),
            reason: None,
            key: None,
            if_match: None,
            correlation_id: None,
            causation_id: None,
        }
    }
}

/// An accepted command. One that was sent again with its key is answered by the same.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// What the journal holds of it.
    pub record: Arc<Record>,
    /// Revision of the last change of what it touches, as of now.
    pub touched: u64,
    /// The states before and after; `None` for a repetition of one that is long past: [`fold::around`] finds them.
    pub states: Option<States>,
}

/// The states around a command.
#[derive(Clone, Debug)]
pub struct States {
    /// The one that it was decided on.
    pub before: Published,
    /// The one that it led to.
    pub after: Published,
}

/// What a command would do.
#[derive(Clone, Debug)]
pub struct Rehearsed {
    /// What would happen.
    pub events: Vec<Event>,
    /// The states around it.
    pub states: States,
}

/// What the writer takes from its queue.
enum Input {
    /// A command, and who waits for the answer.
    Command(Box<Request>, oneshot::Sender<Result<Accepted, Problem>>),
    /// A snapshot that was made beside the writer, as of a head.
    Snapshot(Head, Vec<u8>),
}

/// The way to the writer. When the last one is dropped, the writer ends.
#[derive(Clone, Debug)]
pub struct Engine {
    inputs: mpsc::Sender<Input>,
    published: watch::Receiver<Published>,
    limits: Limits,
    patience: Duration,
}

impl Engine {
    /// Starts the writer in a thread of its own, with what the whole of the store folds to.
    pub fn start(folded: Folded, limits: Limits, store: impl EventStore + 'static) -> Self {
        let (inputs, queue) = mpsc::channel(QUEUE);
        let (writer, published) = Writer::new(folded, limits, store, inputs.downgrade());
        vital::spawn("engine", move || writer.run(queue));
        Self { inputs, published, limits, patience: PATIENCE }
    }

    /// The state as of now.
    pub fn state(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Every state from now on.
    pub fn follow(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// Has a command decided, and answers when it is durable. A key that came with the same command before is answered
    /// by what became of it then.
    ///
    /// # Errors
    /// It was rejected, or the journal could not take it: nothing has changed then. But after
    /// [`Code::OutcomeUnknown`] it may have: whoever sends it again with the same key will know.
    pub async fn submit(&self, request: Request) -> Result<Accepted, Problem> {
        let ending = || Problem::new(Code::Ending, "the daemon is ending and takes no more commands");
        let (answer, answered) = oneshot::channel();
        let input = Input::Command(Box::new(request), answer);
        match self.inputs.send_timeout(input, self.patience).await {
            Ok(()) => {}
            Err(SendTimeoutError::Closed(_)) => return Err(ending()),
            Err(SendTimeoutError::Timeout(_)) => {
                let text = "the journal has not taken a command for long, and too many wait";
                return Err(Problem::new(Code::JournalAway, text));
            }
        }
        match tokio::time::timeout(self.patience, answered).await {
            Ok(Ok(answer)) => answer,
            // It had it, and ended before it said anything.
            Ok(Err(_)) => Err(Problem::new(Code::OutcomeUnknown, "the daemon is ending")),
            Err(_) => Err(Problem::new(Code::OutcomeUnknown, "the journal has not answered in time")),
        }
    }

    /// Whether what a request touches is as its sender saw it.
    ///
    /// # Errors
    /// It was changed since.
    pub fn check_match(&self, request: &Request) -> Result<(), Problem> {
        writer::check_match(&self.state(), request)
    }

    /// What a command would do to the state as of now. Nothing happens.
    ///
    /// # Errors
    /// It would be rejected.
    pub fn rehearse(&self, command: &Command) -> Result<Rehearsed, Problem> {
        let before = self.state();
        let decided = decide::rehearse(&before, &self.limits, now(), command)?;
        let states = States { before, after: Arc::new(decided.after) };
        Ok(Rehearsed { events: decided.events, states })
    }
}

fn now() -> Now {
    Now(unix_ms())
}

#[cfg(test)]
mod tests;
