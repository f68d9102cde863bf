//! `GET /v1/events`: every record from a revision on, as server-sent events (the HTML standard, section 9.2), for as long
//! as the follower reads; and, for who asks, what the node observes meanwhile.
//!
//! A follower has a queue of [`QUEUE`] records. What is older it gets from the log, at its own pace; what is new it must
//! take as it comes: one whose queue is full when a record comes, or who takes nothing for [`STALL`], is let go, after
//! what is in the queue, with `event: overflow` and the revision to come back with. One who does not read even that for
//! another [`STALL`] loses the connection: what is not read cannot be told, and a place is for who follows. Neither the
//! writer nor another follower waits for it. Observations have no revision and are not sent again: one who is slow misses
//! some, and is told how many.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::connections::Ends;
use super::params::Params;
use super::places::Seat;
use super::queries::act;
use super::views::past::RecordView;
use super::{Node, blocking};
use crate::journal::LogReader;
use crate::journal::observation::ObservationJournal;
use crate::problem::{Code, Problem};

/// Followers at a time: an eighth of the connections of the socket, so that commands and questions always find one.
pub const FOLLOWERS: usize = 32;
/// Records that a follower may be behind what is new.
const QUEUE: usize = 256;
/// How long a follower that reads what is old, or was told that it is let go, may take nothing.
const STALL: Duration = Duration::from_secs(30);
/// Between two comments that show that the connection lives, seconds, unless `heartbeat_s` says otherwise.
const HEARTBEAT_S: u64 = 15;

/// Places for followers.
#[derive(Clone, Debug)]
pub struct Followers {
    places: Arc<Semaphore>,
    stall: Duration,
}

impl Default for Followers {
    fn default() -> Self {
        Self::patient_for(STALL)
    }
}

impl Followers {
    fn patient_for(stall: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(FOLLOWERS)), stall }
    }

    /// How many follow now.
    pub fn count(&self) -> usize {
        FOLLOWERS - self.places.available_permits()
    }
}

pub(super) async fn events(
    State(node): State<Arc<Node>>,
    Extension(ends): Extension<Ends>,
    Extension(seat): Extension<Arc<Seat>>,
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
    let place = node.followers.places.clone().try_acquire_owned().map_err(|_| {
        Problem::new(Code::TooManyFollowers, format!("{FOLLOWERS} follow the events already"))
    })?;
    let model = node.projections.read().await.model;
    // A record is told whole: one who names a revision within it gets it.
    let after =
        if after == latest { after } else { model.timeline.at_revision(after).map_or(0, |at| at.revision) };
    let told = follow((&node.log, live, after), observed, (place, node.followers.stall), (ends, seat));
    let heartbeat = KeepAlive::new().interval(Duration::from_secs(heartbeat_s)).text("heartbeat");
    Ok(Sse::new(told).keep_alive(heartbeat).into_response())
}

/// What a follower is told, from a revision on; a task fills its queue, and holds its place.
fn follow(
    (log, live, after): (&Arc<dyn LogReader>, broadcast::Receiver<Arc<Record>>, u64),
    observed: Option<broadcast::Receiver<Arc<Observation>>>,
    (place, stall): (OwnedSemaphorePermit, Duration),
    (ends, seat): (Ends, Arc<Seat>),
) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
    let (queue, queued) = mpsc::channel(QUEUE);
    let pump = Pump { log: Arc::downgrade(log), live, at: after, queue, stall };
    let (told, follower) = Told::new(queued, observed);
    tokio::spawn(async move {
        follower.serve(pump, ends, &seat).await;
        drop(place);
    });
    told.events()
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
    /// The last word was said.
    ended: bool,
    observed: Option<broadcast::Receiver<Arc<Observation>>>,
    /// Gone when the follower has gone, or was told everything.
    _here: oneshot::Sender<Infallible>,
}

/// The other end of [`Told`].
struct Follower {
    overflow: Arc<OnceLock<u64>>,
    here: oneshot::Receiver<Infallible>,
}

impl Told {
    fn new(
        queued: mpsc::Receiver<Arc<Record>>,
        observed: Option<broadcast::Receiver<Arc<Observation>>>,
    ) -> (Self, Follower) {
        let overflow = Arc::new(OnceLock::new());
        let (said, here) = oneshot::channel();
        let told = Self { queued, overflow: overflow.clone(), ended: false, observed, _here: said };
        (told, Follower { overflow, here })
    }

    /// The queue as events, with what is observed meanwhile; at its end the overflow, if that was why.
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        unfold(self, |mut told| async move {
            if told.ended {
                return None;
            }
            let event = tokio::select! {
                // They are few, and older than a record that comes at the same time.
                biased;
                event = observation(&mut told.observed) => event,
                record = told.queued.recv() => match record {
                    Some(record) => event(&record),
                    None => {
                        let resume_after = told.overflow.get()?;
                        told.ended = true;
                        let text = serde_json::json!({ "resume_after": resume_after }).to_string();
                        Event::default().event("overflow").data(text)
                    }
                },
            };
            Some((Ok(event), told))
        })
    }
}

impl Follower {
    /// Fills the follower's queue until it has gone, or the daemon ends. A body that nobody reads is not polled, so who was
    /// let go may never hear of it: it has the pump's patience for that, and then its connection ends.
    async fn serve(self, pump: Pump, Ends(mut ends): Ends, seat: &Seat) {
        let (stall, full) = (pump.stall, self.overflow);
        let end = tokio::select! {
            end = pump.run(&full) => end,
            _ = ends.wait_for(|ends| *ends) => return,
        };
        if end == End::Overflow && tokio::time::timeout(stall, self.here).await.is_err() {
            seat.leave();
        }
    }
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
    /// How long the follower may take nothing.
    stall: Duration,
}

/// Why a queue is filled no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The follower or the log is gone.
    Gone,
    /// The follower was too slow.
    Overflow,
}

impl Pump {
    /// Until it ends; of a follower that was too slow `overflow` says where it can come back, before the queue ends.
    async fn run(mut self, overflow: &OnceLock<u64>) -> End {
        let end = loop {
            if let Err(end) = self.catch_up().await {
                break end;
            }
            if let Err(end) = self.listen().await {
                break end;
            }
        };
        if end == End::Overflow {
            let _ = overflow.set(self.at);
        }
        end
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
                match tokio::time::timeout(self.stall, self.queue.send(record)).await {
                    Ok(Ok(())) => self.at = revision,
                    Ok(Err(_)) => return Err(End::Gone),
                    Err(_) => return Err(End::Overflow),
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
                Err(mpsc::error::TrySendError::Full(_)) => return Err(End::Overflow),
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(End::Gone),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::connections::{Routes, connection};
    use crate::journal::{EventStore, MemoryStore};
    use axum::Router;
    use axum::routing::get;
    use lb_control::event::{Change, EVENT_VERSION, Event};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::watch;
    use tokio::time::timeout;

    /// A record of a kilobyte.
    fn record(revision: u64) -> Arc<Record> {
        let event =
            Event { v: EVENT_VERSION, at_ms: 0, change: Change::TenantRemoved { tenant: "t".to_owned() } };
        Arc::new(Record {
            v: 1,
            revision,
            at_ms: 0,
            actor: "root".to_owned(),
            command: "tenant_remove".to_owned(),
            command_id: revision.to_string(),
            correlation_id: revision.to_string(),
            causation_id: None,
            key: None,
            reason: Some("x".repeat(1_000)),
            events: vec![event],
        })
    }

    #[tokio::test]
    async fn one_who_never_reads_again_loses_place_and_connection() {
        let mut store = MemoryStore::default();
        let (log, followers) = (store.reader(), Followers::patient_for(Duration::from_millis(200)));
        let (of, places) = (log.clone(), followers.clone());
        let follow = move |Extension(ends): Extension<Ends>, Extension(seat): Extension<Arc<Seat>>| async move {
            let place = places.places.clone().try_acquire_owned().unwrap();
            Sse::new(super::follow((&of, of.subscribe(), 0), None, (place, places.stall), (ends, seat)))
        };
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (_ends, told) = watch::channel(false);
        let seat = Arc::new(Seat::default());
        let router = Router::new().route("/", get(follow));
        let serving = tokio::spawn(async move { connection(theirs, Routes::new(router), told, &seat).await });
        ours.write_all(b"GET / HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
        let mut head = [0; 8];
        timeout(Duration::from_secs(20), ours.read_exact(&mut head)).await.unwrap().unwrap();
        assert_eq!((&head, followers.count()), (b"HTTP/1.1", 1));
        // More than queue and socket hold.
        let records: Vec<Arc<Record>> = (1..=4_000).map(record).collect();
        store.append(0, &records).unwrap();
        timeout(Duration::from_secs(20), serving).await.expect("its connection ends").unwrap();
        let all = timeout(Duration::from_secs(20), followers.places.acquire_many(FOLLOWERS as u32));
        drop(all.await.expect("its place is free").unwrap());
    }
}
