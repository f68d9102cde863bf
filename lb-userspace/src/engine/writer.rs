//! The single writer: takes all that wait -> decides each on the state after the ones before it -> appends what was
//! accepted, with one sync for all -> publishes -> answers all.
//!
//! Invariants:
//! - no answer leaves before what it rests on is durable: a rejection and a repetition wait as an acceptance does, since
//!   they were decided on a state that is not durable yet;
//! - a failed append drops the tail. If the store does not know what became of it, every answer that rests on it says so
//!   (never `refused`), the store is read again before the next decision, and until that works every command is told so:
//!   one that comes back with a key in doubt that it still is, one whose key is known what became of it;
//! - keys are remembered when their record is durable; those of the batch are looked up in the batch.
//!
//! Not here: what a command means (`lb_control::decide`), what the log folds to at a start ([`super::fold`]).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lb_control::command::Command;
use lb_control::decide::{rehearse, touched};
use lb_control::ledger::{Keys, Ledger, Remembered};
use lb_control::limits::Limits;
use lb_control::record::{IdempotencyKey, RECORD_VERSION, Record};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use super::fold::Folded;
use super::{Accepted, Input, Published, QUEUE, Request, States, now};
use crate::journal::{AppendError, EventStore, Head, LogReader, read_all};
use crate::problem::{Code, Problem};

/// Events after which no more commands are taken into a batch: bounds its memory when whole documents queue up.
const BATCH_EVENTS: usize = 65_536;
/// Records from one snapshot to the next: a start reads no more than this many and those of the time that one takes.
pub(super) const SNAPSHOT_RECORDS: u64 = 10_000;
/// Answers that are kept with their states, for those who lost theirs and ask again.
const RECENT: usize = 256;
/// Between two attempts to read a store again.
const RETRY: Duration = Duration::from_millis(200);

pub(super) struct Writer<S> {
    store: S,
    log: Arc<dyn LogReader>,
    limits: Limits,
    /// Where the store ends for certain.
    head: Head,
    /// The state there.
    state: Published,
    /// The keys there.
    keys: Keys,
    /// Actors and keys of the batch of which the store does not know what became.
    in_doubt: BTreeSet<(String, String)>,
    recent: VecDeque<Accepted>,
    publisher: watch::Sender<Published>,
    snapshots: Snapshots,
}

/// When the next snapshot is due, and the way back for it.
struct Snapshots {
    since: u64,
    under_way: bool,
    inputs: mpsc::WeakSender<Input>,
}

/// Commands that become durable together.
struct Batch {
    /// The state after those that were accepted.
    tail: Published,
    records: Vec<Arc<Record>>,
    events: usize,
    answers: Vec<Answer>,
}

/// An answer that waits.
struct Answer {
    to: oneshot::Sender<Result<Accepted, Problem>>,
    content: Result<Accepted, Problem>,
    /// The revision that must be durable before it may leave.
    rests_on: u64,
}

impl<S: EventStore> Writer<S> {
    pub(super) fn new(
        folded: Folded,
        limits: Limits,
        store: S,
        inputs: mpsc::WeakSender<Input>,
    ) -> (Self, watch::Receiver<Published>) {
        let log = store.reader();
        let Ledger { state, keys } = folded.ledger;
        let state = Arc::new(state);
        let (publisher, published) = watch::channel(state.clone());
        let snapshots = Snapshots { since: folded.replayed, under_way: false, inputs };
        let (head, recent, in_doubt) = (log.latest(), VecDeque::new(), BTreeSet::new());
        (Self { store, log, limits, head, state, keys, in_doubt, recent, publisher, snapshots }, published)
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        self.snapshot_if_due();
        while let Some(first) = queue.blocking_recv() {
            let batch = self.batch(first, &mut queue);
            if self.settle(batch).is_err() && !self.recover(&mut queue) {
                return;
            }
            self.snapshot_if_due();
        }
    }

    /// Decides the first input and all that wait behind it.
    fn batch(&mut self, first: Input, queue: &mut mpsc::Receiver<Input>) -> Batch {
        let mut batch = Batch::upon(&self.state);
        let mut next = Some(first);
        while let Some(input) = next.take() {
            match input {
                Input::Command(request, to) => self.decide(&mut batch, *request, to),
                Input::Snapshot(head, bytes) => self.keep_snapshot(head, &bytes),
            }
            if batch.answers.len() < QUEUE && batch.events < BATCH_EVENTS {
                next = queue.try_recv().ok();
            }
        }
        batch
    }

    fn decide(&self, batch: &mut Batch, request: Request, to: oneshot::Sender<Result<Accepted, Problem>>) {
        // Whoever asked was told that nobody knows, or has gone. Not to do it is one of the two, and after a disk that hung
        // for minutes it is the one that surprises nobody.
        if to.is_closed() {
            tracing::info!(
                actor = request.actor,
                command = request.command.kind(),
                "given up before it was decided"
            );
            return;
        }
        let key = key_of(&request);
        let known = key.as_ref().and_then(|key| self.find(batch, &request.actor, &key.key));
        let (content, rests_on) = match (known, key) {
            (Some(known), Some(key)) => (self.repeat(batch, &request.command, &known, &key), known.revision),
            (_, key) => {
                let content = self.accept(batch, request, key);
                (content, batch.tail.revision)
            }
        };
        batch.answers.push(Answer { to, content, rests_on });
    }

    fn find(&self, batch: &Batch, actor: &str, key: &str) -> Option<Remembered> {
        let same = |record: &&Arc<Record>| {
            record.actor == actor && record.key.as_ref().is_some_and(|own| own.key == key)
        };
        let waiting = batch.records.iter().find(same).and_then(|record| Remembered::of(record));
        waiting.or_else(|| self.keys.find(actor, key).cloned())
    }

    /// The first answer once more, or why the key cannot be meant.
    fn repeat(
        &self,
        batch: &Batch,
        command: &Command,
        known: &Remembered,
        key: &IdempotencyKey,
    ) -> Result<Accepted, Problem> {
        if known.content != key.content {
            let text =
                format!("the key `{}` came with another command, at revision {}", key.key, known.revision);
            return Err(Problem::new(Code::KeyReused, text).at("Idempotency-Key"));
        }
        let waiting = batch.answers.iter().filter_map(|answer| answer.content.as_ref().ok());
        let mut lately = waiting.chain(&self.recent);
        if let Some(first) = lately.find(|accepted| accepted.record.revision == known.revision) {
            return Ok(first.clone());
        }
        // Its segment may be in no archive any more: that it was done is known, but not in what words.
        let unread = |why: String| {
            let text =
                format!("it was applied at revision {}, and cannot be read again: {why}", known.revision);
            Problem::new(Code::AppliedUnread, text).at("Idempotency-Key")
        };
        let record = self.log.read(known.before, 1).map_err(|error| unread(error.to_string()))?.pop();
        let record = record.filter(|record| record.revision == known.revision);
        let record = record.ok_or_else(|| unread("the journal no longer keeps it".to_owned()))?;
        Ok(Accepted { record, touched: touched(&batch.tail, command).revision, states: None })
    }

    fn accept(
        &self,
        batch: &mut Batch,
        request: Request,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, Problem> {
        let before = batch.tail.clone();
        check_match(&before, &request)?;
        let at = now();
        let decided = rehearse(&before, &self.limits, at, &request.command)?;
        let after = Arc::new(decided.after);
        let command_id = uuid::Uuid::now_v7().to_string();
        let record = Arc::new(Record {
            v: RECORD_VERSION,
            revision: after.revision,
            at_ms: at.0,
            actor: request.actor,
            command: request.command.kind().to_owned(),
            correlation_id: request.correlation_id.unwrap_or_else(|| command_id.clone()),
            command_id,
            causation_id: request.causation_id,
            key,
            reason: request.reason,
            events: decided.events,
        });
        batch.events += record.events.len();
        batch.records.push(record.clone());
        batch.tail = after.clone();
        let touched = touched(&after, &request.command).revision;
        Ok(Accepted { record, touched, states: Some(States { before, after }) })
    }

    /// Makes a batch durable, publishes its end and answers.
    ///
    /// # Errors
    /// The store must be read again first. Everybody was answered.
    fn settle(&mut self, batch: Batch) -> Result<(), ()> {
        let appended = match batch.records.as_slice() {
            [] => Ok(self.head),
            records => self.store.append(self.head.revision, records),
        };
        match appended {
            Ok(head) => {
                self.take(head, batch.tail, &batch.records);
                for answer in batch.answers {
                    self.remember(&answer);
                    answer.send();
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, records = batch.records.len(), "the journal did not take commands");
                let doubt = matches!(error, AppendError::Unknown(_));
                let again = !matches!(error, AppendError::Refused(_));
                let code = if doubt { Code::OutcomeUnknown } else { Code::JournalRefused };
                if doubt {
                    let pair =
                        |record: &Arc<Record>| Some((record.actor.clone(), record.key.as_ref()?.key.clone()));
                    self.in_doubt = batch.records.iter().filter_map(pair).collect();
                }
                batch.answers.into_iter().for_each(|answer| {
                    answer.send_or(self.head.revision, || Problem::new(code, error.to_string()));
                });
                if again { Err(()) } else { Ok(()) }
            }
        }
    }

    /// Takes in what is durable.
    fn take(&mut self, head: Head, state: Published, records: &[Arc<Record>]) {
        for record in records {
            let Record { revision, actor, command, .. } = &**record;
            tracing::info!(revision, actor, command, "accepted");
            self.keys.remember(record);
        }
        self.snapshots.since += records.len() as u64;
        self.head = head;
        if !records.is_empty() {
            self.state = state.clone();
            self.publisher.send_replace(state);
        }
    }

    fn remember(&mut self, answer: &Answer) {
        if let Ok(accepted) = &answer.content
            && self.recent.back().is_none_or(|last| last.record.revision < accepted.record.revision)
        {
            self.recent.push_back(accepted.clone());
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
    }

    /// Reads the store again until it works; meanwhile every command is told so. `false`: nobody needs the writer.
    fn recover(&mut self, queue: &mut mpsc::Receiver<Input>) -> bool {
        loop {
            let text = match self.read_again() {
                Ok(()) => {
                    tracing::info!(revision = self.head.revision, "the journal was read again");
                    self.in_doubt.clear();
                    return true;
                }
                Err(error) => error,
            };
            tracing::error!(error = text, "the journal cannot be read again yet");
            loop {
                match queue.try_recv() {
                    Ok(Input::Command(request, to)) => {
                        // Whoever asked may have gone.
                        let _ = to.send(self.meanwhile(&request, &text));
                    }
                    Ok(Input::Snapshot(..)) => self.snapshots.under_way = false,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return false,
                }
            }
            std::thread::sleep(RETRY);
        }
    }

    /// The answer to a command while nothing can be decided: what is known of its key, or else that nothing was done.
    fn meanwhile(&self, request: &Request, why: &str) -> Result<Accepted, Problem> {
        let Some(key) = key_of(request) else { return Err(Problem::new(Code::JournalAway, why)) };
        if self.in_doubt.contains(&(request.actor.clone(), key.key.clone())) {
            return Err(Problem::new(Code::OutcomeUnknown, why));
        }
        match self.keys.find(&request.actor, &key.key) {
            Some(known) => self.repeat(&Batch::upon(&self.state), &request.command, known, &key),
            None => Err(Problem::new(Code::JournalAway, why)),
        }
    }

    /// What was in doubt is in the store, or it is not: takes in what is.
    fn read_again(&mut self) -> Result<(), String> {
        let head = self.store.reload().map_err(|error| error.to_string())?;
        if head.revision < self.head.revision || (head.revision == self.head.revision && head != self.head) {
            let (ends, known) = (head.revision, self.head.revision);
            return Err(format!(
                "it ends at revision {ends} and is not the one that was acknowledged up to {known}"
            ));
        }
        let records = read_all(&*self.log, self.head.revision).map_err(|error| error.to_string())?;
        let mut state = lb_control::state::State::clone(&self.state);
        for record in &records {
            if record.revision_before() != state.revision {
                return Err(format!("a record is missing after revision {}", state.revision));
            }
            record.events.iter().for_each(|event| state.apply(event));
        }
        if state.revision != head.revision {
            return Err(format!(
                "its records end at revision {}, and it at {}",
                state.revision, head.revision
            ));
        }
        self.take(head, Arc::new(state), &records);
        Ok(())
    }

    /// Makes a snapshot beside the writer, if so many records were written that a start would notice.
    fn snapshot_if_due(&mut self) {
        if self.snapshots.under_way || self.snapshots.since < SNAPSHOT_RECORDS {
            return;
        }
        (self.snapshots.under_way, self.snapshots.since) = (true, 0);
        let ledger = Ledger { state: lb_control::state::State::clone(&self.state), keys: self.keys.clone() };
        let (head, inputs) = (self.head, self.snapshots.inputs.clone());
        crate::vital::spawn("snapshot", move || {
            let bytes = ledger.to_snapshot();
            if let Some(inputs) = inputs.upgrade() {
                // The writer may have ended.
                let _ = inputs.blocking_send(Input::Snapshot(head, bytes));
            }
        });
    }

    fn keep_snapshot(&mut self, head: Head, bytes: &[u8]) {
        self.snapshots.under_way = false;
        match self.store.save_snapshot(head, bytes) {
            Ok(()) => tracing::info!(revision = head.revision, bytes = bytes.len(), "kept a snapshot"),
            Err(error) => tracing::warn!(%error, "could not keep a snapshot; a start will take longer"),
        }
    }
}

/// The key that a command came with, and what it came with.
fn key_of(request: &Request) -> Option<IdempotencyKey> {
    let key = request.key.clone()?;
    Some(IdempotencyKey { key, content: request.command.digest() })
}

impl Batch {
    /// An empty one upon a state.
    fn upon(state: &Published) -> Self {
        Self { tail: state.clone(), records: Vec::new(), events: 0, answers: Vec::new() }
    }
}

/// Whether what a command touches is as its sender saw it.
pub(super) fn check_match(state: &Published, request: &Request) -> Result<(), Problem> {
    let Some(wanted) = request.if_match else { return Ok(()) };
    let present = touched(state, &request.command);
    if present.revision == wanted {
        return Ok(());
    }
    let text = format!("{} is at revision {}, not at {wanted}", present.object, present.revision);
    Err(Problem::new(Code::Stale, text).at("If-Match").with_related(present.revision.to_string()))
}

impl Answer {
    /// Whoever asked may have gone; what is durable stays so.
    fn send(self) {
        let _ = self.to.send(self.content);
    }

    /// Sends it if what it rests on is durable, or else this instead.
    fn send_or(self, durable: u64, problem: impl FnOnce() -> Problem) {
        if self.rests_on <= durable {
            return self.send();
        }
        let _ = self.to.send(Err(problem()));
    }
}
