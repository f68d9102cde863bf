//! `GET /v1/events`: every record from a revision on, as server-sent events (the HTML standard, section 9.2), for as long
//! as the follower reads; and, for who asks, what the node observes meanwhile.
//!
//! A follower has a queue of [`QUEUE`] records. What is older it gets from the log, at its own pace; what is new it must
//! take as it comes: one whose queue is full when a record comes, or who takes nothing for [`STALL`], is let go, after
//! what is in the queue, with `event: overflow` and the revision to come back with. Neither the writer nor another
//! follower waits for it. Observations have no revision and are not sent again: one who is slow misses some, and is told
//! how many.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream::unfold;
use lb_control::observation::Observation;
use lb_control::record::Record;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::connections::Ends;
use super::params::Params;
use super::queries::act;
use super::views::past::RecordView;
use super::{Node, blocking};
use crate::journal::LogReader;
use crate::journal::observation::ObservationJournal;
use crate::problem::{Code, Problem};

/// Followers at a time: half of the connections of the socket, so that commands and questions always find one.
pub const FOLLOWERS: usize = 32;
/// Records that a follower may be behind what is new.
const QUEUE: usize = 256;
/// How long a follower that reads what is old may take nothing.
const STALL: Duration = Duration::from_secs(30);
/// Between two comments that show that the connection lives, seconds, unless `heartbeat_s` says otherwise.
const HEARTBEAT_S: u64 = 15;

/// Places for followers.
#[derive(Clone, Debug)]
pub struct Followers(Arc<Semaphore>);

impl Default for Followers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FOLLOWERS)))
    }
}

impl Followers {
    /// How many follow now.
    pub fn count(&self) -> usize {
        FOLLOWERS - self.0.available_permits()
    }
}

pub(super) async fn events(
    State(node): State<Arc<Node>>,
    Extension(Ends(mut ends)): Extension<Ends>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let after = params.parsed::<u64>("after")?;
    let observations = params.parsed("observations")?.unwrap_or(false);
    let heartbeat_s = params.parsed("heartbeat_s")?.unwrap_or(HEARTBEAT_S).clamp(1, 60);
    params.end()?;
    // Before the look at where the log ends, so that nothing falls between the two.
    let live = node.log.subscribe();
    let observed = node.observations.as_ref().filter(|_| observations).map(ObservationJournal::subscribe);
    let latest = node.log.latest().revision;
    let after = last_seen(&headers)?.or(after).unwrap_or(latest);
    if after > latest {
        let text = format!("revision {after} is not there yet; the last is {latest}");
        return Err(Problem::new(Code::RevisionAhead, text));
    }
    let place = node.followers.0.clone().try_acquire_owned().map_err(|_| {
        Problem::new(Code::TooManyFollowers, format!("{FOLLOWERS} follow the events already"))
    })?;
    let model = node.projections.read().await.model;
    // A record is told whole: one who names a revision within it gets it.
    let after =
        if after == latest { after } else { model.timeline.at_revision(after).map_or(0, |at| at.revision) };
    let (queue, queued) = mpsc::channel(QUEUE);
    let overflow = Arc::new(OnceLock::new());
    let pump = Pump { log: Arc::downgrade(&node.log), live, at: after, queue };
    let full = overflow.clone();
    tokio::spawn(async move {
        tokio::select! {
            end = pump.run() => if let End::Overflow(resume_after) = end {
                let _ = full.set(resume_after);
            },
            _ = ends.wait_for(|ends| *ends) => {}
        }
    });
    let heartbeat = KeepAlive::new().interval(Duration::from_secs(heartbeat_s)).text("heartbeat");
    let told = told(Told { queued, overflow, place: Some(place), observed });
    Ok(Sse::new(told).keep_alive(heartbeat).into_response())
}

/// Where a follower that comes back was: it says so by itself.
fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let revision = value.to_str().ok().and_then(|text| text.parse().ok());
    revision.map(Some).ok_or_else(|| {
        Problem::new(Code::BadRequest, "the header Last-Event-ID must be a revision").at("last-event-id")
    })
}

/// What a follower is told from.
struct Told {
    queued: mpsc::Receiver<Arc<Record>>,
    overflow: Arc<OnceLock<u64>>,
    /// Without a place the last word was said.
    place: Option<OwnedSemaphorePermit>,
    observed: Option<broadcast::Receiver<Arc<Observation>>>,
}

/// The queue as events, with what is observed meanwhile; at its end the overflow, if that was why.
fn told(told: Told) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(told, |mut told| async move {
        told.place.as_ref()?;
        let event = tokio::select! {
            // They are few, and older than a record that comes at the same time.
            biased;
            event = observation(&mut told.observed) => event,
            record = told.queued.recv() => match record {
                Some(record) => event(&record),
                None => {
                    let resume_after = told.overflow.get()?;
                    told.place = None;
                    let text = serde_json::json!({ "resume_after": resume_after }).to_string();
                    Event::default().event("overflow").data(text)
                }
            },
        };
        Some((Ok(event), told))
    })
}

/// The next observation as an event, if there is ever another.
async fn observation(observed: &mut Option<broadcast::Receiver<Arc<Observation>>>) -> Event {
    let Some(live) = observed else { return std::future::pending().await };
    match live.recv().await {
        Ok(observation) => Event::default().event("observation").data(json(&*observation)),
        Err(RecvError::Lagged(count)) => {
            let text = serde_json::json!({ "missed": count }).to_string();
            Event::default().event("observations_missed").data(text)
        }
        Err(RecvError::Closed) => {
            *observed = None;
            std::future::pending().await
        }
    }
}

fn event(record: &Record) -> Event {
    let view = RecordView { act: act(record), events: record.events.clone() };
    Event::default().event("record").id(record.revision.to_string()).data(json(&view))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("string keys only, and written to memory")
}

/// Fills a follower's queue.
struct Pump {
    log: Weak<dyn LogReader>,
    live: broadcast::Receiver<Arc<Record>>,
    /// Revision of the last record in the queue.
    at: u64,
    queue: mpsc::Sender<Arc<Record>>,
}

/// Why a queue is filled no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The follower or the log is gone.
    Gone,
    /// The follower was too slow; it can come back with this revision.
    Overflow(u64),
}

impl Pump {
    async fn run(mut self) -> End {
        loop {
            if let Err(end) = self.catch_up().await {
                return end;
            }
            if let Err(end) = self.listen().await {
                return end;
            }
        }
    }

    /// What is old, at the follower's pace.
    async fn catch_up(&mut self) -> Result<(), End> {
        loop {
            let (log, at) = (self.log.upgrade().ok_or(End::Gone)?, self.at);
            let records = blocking(move || log.read(at, QUEUE)).await;
            let Ok(Ok(records)) = records else { return Err(End::Gone) };
            if records.is_empty() {
                return Ok(());
            }
            for record in records {
                let revision = record.revision;
                match tokio::time::timeout(STALL, self.queue.send(record)).await {
                    Ok(Ok(())) => self.at = revision,
                    Ok(Err(_)) => return Err(End::Gone),
                    Err(_) => return Err(End::Overflow(self.at)),
                }
            }
        }
    }

    /// What is new, as it comes, until some was missed.
    async fn listen(&mut self) -> Result<(), End> {
        loop {
            let heard = tokio::select! {
                heard = self.live.recv() => heard,
                () = self.queue.closed() => return Err(End::Gone),
            };
            let record = match heard {
                Ok(record) if record.revision <= self.at => continue,
                Ok(record) if record.revision_before() == self.at => record,
                Ok(_) | Err(RecvError::Lagged(_)) => return Ok(()),
                Err(RecvError::Closed) => return Err(End::Gone),
            };
            let revision = record.revision;
            match self.queue.try_send(record) {
                Ok(()) => self.at = revision,
                Err(mpsc::error::TrySendError::Full(_)) => return Err(End::Overflow(self.at)),
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(End::Gone),
            }
        }
    }
}
