//! The single writer: command -> decide -> append -> apply -> publish, one at a time, in one thread.
//!
//! It knows no maps, no sockets and no health. Invariants:
//! - nothing is acknowledged before it is durable, and nothing is published before it is acknowledged as durable;
//! - a rejected command changes nothing and is not in the journal;
//! - readers see whole states only ([`Published`]) and never wait for the writer.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lb_control::command::Command;
use lb_control::decide::{Now, decide};
use lb_control::event::Event;
use lb_control::limits::Limits;
use lb_control::record::{RECORD_VERSION, Record};
use lb_control::state::State;
use tokio::sync::{mpsc, oneshot, watch};

use crate::journal::{AppendError, EventStore};
use crate::problem::{Code, Problem};
use crate::vital;

/// Commands that may wait for the writer; the next sender waits.
const QUEUE: usize = 256;

/// The state of intent as of some revision.
pub type Published = Arc<State>;

/// An accepted command.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The command's id.
    pub command_id: String,
    /// What happened.
    pub events: Vec<Event>,
    /// The state before.
    pub before: Published,
    /// The state after; its revision is the command's.
    pub after: Published,
}

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
    /// Only if what the command touches was last changed by this revision .
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

struct Input {
    request: Request,
    command_id: String,
    answer: oneshot::Sender<Result<Accepted, Problem>>,
}

/// The way to the writer. When the last one is dropped, the writer ends.
#[derive(Clone, Debug)]
pub struct Engine {
    inputs: mpsc::Sender<Input>,
    published: watch::Receiver<Published>,
    limits: Limits,
}

impl Engine {
    /// Starts the writer in a thread of its own, with the state that the store's events give.
    pub fn start(state: State, limits: Limits, store: impl EventStore + 'static) -> Self {
        let (inputs, queue) = mpsc::channel(QUEUE);
        let state = Arc::new(state);
        let (publisher, published) = watch::channel(state.clone());
        let writer = Writer { state, limits, store, publisher };
        vital::spawn("engine", move || writer.run(queue));
        Self { inputs, published, limits }
    }

    /// The state as of now.
    pub fn state(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Every state from now on.
    pub fn follow(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// Has a command decided, and answers when it is durable.
    ///
    /// # Errors
    /// It was rejected, or the journal could not take it: nothing has changed then.
    pub async fn submit(&self, request: Request) -> Result<Accepted, Problem> {
        let ending = || Problem::new(Code::Ending, "the daemon is ending and takes no more commands");
        let (answer, answered) = oneshot::channel();
        let command_id = uuid::Uuid::now_v7().to_string();
        let input = Input { request, command_id, answer };
        self.inputs.send(input).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }

    /// What a command would do to the state as of now. Nothing happens.
    ///
    /// # Errors
    /// It would be rejected.
    pub fn rehearse(&self, command: &Command) -> Result<Accepted, Problem> {
        let before = self.state();
        let events = decide(&before, &self.limits, now(), command)?;
        let after = after(&before, &events);
        Ok(Accepted { command_id: String::new(), events, before, after })
    }
}

struct Writer<S> {
    state: Published,
    limits: Limits,
    store: S,
    publisher: watch::Sender<Published>,
}

impl<S: EventStore> Writer<S> {
    fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        while let Some(input) = queue.blocking_recv() {
            let Input { request, command_id, answer } = input;
            let accepted = self.accept(request, command_id);
            // Whoever asked may have gone; what is durable stays so.
            let _ = answer.send(accepted);
        }
    }

    fn accept(&mut self, request: Request, command_id: String) -> Result<Accepted, Problem> {
        let Request { command, actor, reason, correlation_id, causation_id, .. } = request;
        let before = self.state.clone();
        let at = now();
        let events = decide(&before, &self.limits, at, &command)?;
        let after = after(&before, &events);
        let record = Arc::new(Record {
            v: RECORD_VERSION,
            revision: after.revision,
            at_ms: at.0,
            actor,
            command: command.kind().to_owned(),
            correlation_id: correlation_id.unwrap_or_else(|| command_id.clone()),
            command_id,
            causation_id,
            key: None,
            reason,
            events,
        });
        if let Err(error) = self.store.append(before.revision, std::slice::from_ref(&record)) {
            tracing::error!(%error, "the journal refused a record");
            if matches!(error, AppendError::Unknown(_)) {
                let _ = self.store.reload();
            }
            return Err(Problem::new(Code::JournalRefused, error.to_string()));
        }
        tracing::info!(revision = after.revision, actor = record.actor, command = record.command, "accepted");
        self.state = after.clone();
        self.publisher.send_replace(after.clone());
        Ok(Accepted { command_id: record.command_id.clone(), events: record.events.clone(), before, after })
    }
}

fn after(before: &Published, events: &[Event]) -> Published {
    let mut state = State::clone(before);
    events.iter().for_each(|event| state.apply(event));
    Arc::new(state)
}

/// The wall clock, a label on events.
fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now(since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Failing, MemoryStore};
    use lb_control::command::{TenantSpec, VipSpec};
    use lb_control::vip::Protocol;

    fn engine() -> (Engine, MemoryStore) {
        let store = MemoryStore::default();
        (Engine::start(State::default(), Limits::default(), store.clone()), store)
    }

    fn vip(name: &str) -> Command {
        Command::VipAdd(VipSpec::new(name, "203.0.113.10".parse().unwrap(), 80, Protocol::Tcp))
    }

    #[tokio::test]
    async fn an_accepted_command_is_in_the_journal_before_it_is_published() {
        let (engine, store) = engine();
        let accepted = engine.submit(Request::new(vip("web"), "tester")).await.unwrap();
        assert_eq!(accepted.after.revision, engine.state().revision);
        let records = store.records();
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].actor.as_str(), records[0].revision), ("tester", accepted.after.revision));
        let replayed = State::replay(records.iter().flat_map(|record| &record.events));
        assert_eq!(replayed.digest(), engine.state().digest());
    }

    #[tokio::test]
    async fn a_rejected_command_changes_nothing_and_is_not_in_the_journal() {
        let (engine, store) = engine();
        let command = Command::TenantRemove(TenantSpec { name: "nobody".to_owned() });
        let problem = engine.submit(Request::new(command, "tester")).await.unwrap_err();
        assert_eq!(problem.code, "LB1001");
        assert_eq!((store.records().len(), engine.state().revision), (0, 0));
    }

    #[tokio::test]
    async fn what_the_journal_refuses_did_not_happen_and_can_be_tried_again() {
        let (engine, store) = engine();
        store.fail(Failing::Refused);
        let problem = engine.submit(Request::new(vip("web"), "tester")).await.unwrap_err();
        assert_eq!(problem.code, Code::JournalRefused.to_string());
        assert_eq!(engine.state().revision, 0);
        store.fail(Failing::No);
        engine.submit(Request::new(vip("web"), "tester")).await.unwrap();
        assert!(engine.state().vips.contains_key("web"));
    }

    #[tokio::test]
    async fn a_rehearsal_happens_nowhere() {
        let (engine, store) = engine();
        let rehearsed = engine.rehearse(&vip("web")).unwrap();
        assert!(rehearsed.after.vips.contains_key("web") && !rehearsed.events.is_empty());
        assert_eq!((store.records().len(), engine.state().revision), (0, 0));
    }
}
