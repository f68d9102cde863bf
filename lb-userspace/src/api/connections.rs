//! Connections of the local socket: bounded in number, in time and in what they may send.
//!
//! A request reaches the routes only when its body is here whole, within its size and time; so no route can be held
//! up by a slow sender, and no route has limits of its own. Who may hold a place is [`super::places`]' matter.

use std::convert::Infallible;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, Request};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::stat::{Mode, umask};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::peer::Actor;
use super::places::{Places, Seat, UnderWay};
use crate::problem::{Code, Problem};

/// Connections at a time: well under the 1,024 descriptors that a process may have. For the next one an idle one is
/// closed, or, if none is idle, it waits in the kernel's queue.
pub const CONNECTIONS: u32 = 256;
/// Body of a request, bytes.
pub const BODY_MAX: usize = 1024 * 1024;
/// Body of a request that carries a whole configuration, bytes.
pub const APPLY_BODY_MAX: usize = 64 * 1024 * 1024;
/// Documents over [`BODY_MAX`] at a time, from then on until they are answered: their memory is a multiple of their size.
const DOCUMENTS: usize = 4;
/// From the start of a request to the end of its head; also the rest between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of a request's head to the end of its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// For requests under way when the daemon is told to end.
const GRACE: Duration = Duration::from_secs(2);

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds the socket, for its owner and group only. A file that a dead daemon left is replaced: whoever calls
    /// holds the state directory, so no live daemon of ours listens there.
    ///
    /// # Errors
    /// A living process listens there, or the path cannot be used.
    pub fn bind(path: &Path) -> Result<Self, Problem> {
        let refused = |error: std::io::Error| {
            Problem::new(Code::Socket, format!("cannot listen on {}: {error}", path.display()))
        };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let text = format!("another process listens on {}", path.display());
            return Err(Problem::new(Code::SocketTaken, text));
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(refused)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(left) if left.file_type().is_socket() => std::fs::remove_file(path).map_err(refused)?,
            // Bind refuses a file that is no socket.
            _ => {}
        }
        // The mode must hold from the first moment on: between bind and chmod anybody could connect.
        let before = umask(Mode::from_bits_truncate(0o117));
        let bound = UnixListener::bind(path);
        umask(before);
        Ok(Self { listener: bound.map_err(refused)?, path: path.to_owned() })
    }

    /// Answers requests until `ends` turns true, then lets those under way finish.
    pub async fn answer(self, router: Router, mut ends: watch::Receiver<bool>) {
        let routes = Routes::new(router);
        let places = Places::new(CONNECTIONS);
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors: those of finished connections come back.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = told(&mut ends) => break,
            };
            let place = tokio::select! {
                place = places.take() => place,
                () = told(&mut ends) => break,
            };
            let (routes, ends) = (routes.clone(), ends.clone());
            tokio::spawn(async move {
                connection(stream, routes, ends, &place.seat).await;
                drop(place);
            });
        }
        let _ = tokio::time::timeout(GRACE, places.all_free()).await;
    }
}

/// Whether the daemon is told to end, for answers that have no end of their own.
#[derive(Clone, Debug)]
pub(super) struct Ends(pub(super) watch::Receiver<bool>);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The routes with what holds for all of them. It stands before the router and not in it: a layer of the router's would be
/// made anew for every route of every connection.
#[derive(Clone)]
pub(super) struct Routes {
    router: TowerToHyperService<Router>,
    documents: Arc<Semaphore>,
}

impl Routes {
    pub(super) fn new(router: Router) -> Self {
        // The limits are those of `received`, not the library's own.
        let router = TowerToHyperService::new(router.layer(DefaultBodyLimit::disable()));
        Self { router, documents: Arc::new(Semaphore::new(DOCUMENTS)) }
    }

    /// Answers a request when its body is here. The connection's place is kept until the last piece of the answer is given
    /// to be sent, however long it is. What then waits for a reader waits without a claim to the place.
    async fn answer(self, request: hyper::Request<Incoming>, asker: Asker) -> Response {
        let held = asker.seat.under_way();
        let (mut head, body) = request.into_parts();
        let document = head.uri.path() == "/v1/apply" || head.uri.path() == "/v1/plan";
        let limit = if document { APPLY_BODY_MAX } else { BODY_MAX };
        let answer = match received(Body::new(body), limit, self.documents, BODY_TIMEOUT).await {
            // The permit of a large document is held until it is answered.
            Ok((bytes, _permit)) => {
                head.extensions.insert(asker.actor);
                head.extensions.insert(asker.ends);
                head.extensions.insert(asker.seat);
                let Ok(answer) = self.router.call(Request::from_parts(head, Body::from(bytes))).await;
                answer
            }
            Err(problem) => problem.into_response(),
        };
        answer.map(|body| Body::new(Held { body, _held: held }))
    }
}

/// Who asks over a connection, and what becomes of it.
#[derive(Clone)]
struct Asker {
    actor: Actor,
    ends: Ends,
    seat: Arc<Seat>,
}

pub(super) async fn connection(
    stream: UnixStream,
    routes: Routes,
    mut ends: watch::Receiver<bool>,
    seat: &Arc<Seat>,
) {
    let asker = Asker { actor: Actor::of(&stream).await, ends: Ends(ends.clone()), seat: seat.clone() };
    let answer = service_fn(|request| {
        let answer = routes.clone().answer(request, asker.clone());
        async { Ok::<_, Infallible>(answer.await) }
    });
    let answering = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    let mut answering = std::pin::pin!(answering);
    let ended = tokio::select! {
        ended = answering.as_mut() => Some(ended),
        () = told(&mut ends) => None,
        // Nothing is under way, so that it can be asked again; or nobody reads what is.
        () = seat.asked_for() => return,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            answering.as_mut().graceful_shutdown();
            answering.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Until the daemon is told to end.
async fn told(ends: &mut watch::Receiver<bool>) {
    let _ = ends.wait_for(|ends| *ends).await;
}

/// The body of an answer, with the place that it keeps.
struct Held {
    body: Body,
    _held: UnderWay,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body, if it is here in time.
async fn received(
    body: Body,
    limit: usize,
    documents: Arc<Semaphore>,
    within: Duration,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
    let late = |_| Problem::new(Code::BodyTimeout, "the request's body did not arrive in time");
    tokio::time::timeout(within, whole(body, limit, documents)).await.map_err(late)?
}

/// The body, if it is not larger than `limit`. What is larger is read on for a while and thrown away, so that the
/// sender lives to read the refusal.
async fn whole(
    mut body: Body,
    limit: usize,
    documents: Arc<Semaphore>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
    let too_large = || Problem::new(Code::BodyTooLarge, format!("the request's body is over {limit} bytes"));
    let (mut kept, mut size, mut permit) = (Vec::new(), 0_usize, None);
    while let Some(frame) = body.frame().await {
        let broke_off = |error: axum::Error| {
            Problem::new(Code::BadRequest, format!("the request's body broke off: {error}"))
        };
        let Ok(chunk) = frame.map_err(broke_off)?.into_data() else { continue };
        size += chunk.len();
        if size > 2 * APPLY_BODY_MAX {
            return Err(too_large());
        }
        if size > limit {
            kept = Vec::new();
            continue;
        }
        if size > BODY_MAX && permit.is_none() {
            permit = documents.clone().acquire_owned().await.ok();
        }
        kept.extend_from_slice(&chunk);
    }
    if size > limit { Err(too_large()) } else { Ok((kept.into(), permit)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_left_socket_is_replaced_and_another_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(Socket::bind(&path).unwrap_err().code, Code::SocketTaken.to_string());
        drop(socket);
        std::fs::write(&path, "somebody's").unwrap();
        assert_eq!(Socket::bind(&path).unwrap_err().code, Code::Socket.to_string());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
    }
    /// A body of these pieces that ends, or never does.
    fn body(pieces: usize, of: usize, ends: bool) -> Body {
        struct Pieces(usize, usize, bool);
        impl HttpBody for Pieces {
            type Data = Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
                match (self.0.checked_sub(1), self.2) {
                    (Some(left), _) => {
                        self.0 = left;
                        Poll::Ready(Some(Ok(Frame::data(vec![b' '; self.1].into()))))
                    }
                    (None, true) => Poll::Ready(None),
                    (None, false) => Poll::Pending,
                }
            }
        }
        Body::new(Pieces(pieces, of, ends))
    }

    #[tokio::test]
    async fn bodies_are_bounded_in_size_time_and_number() {
        const MIB: usize = 1024 * 1024;
        let documents = Arc::new(Semaphore::new(1));
        let get = |body, limit, ms| received(body, limit, documents.clone(), Duration::from_millis(ms));
        let (bytes, permit) = get(body(2, 512 * 1024, true), BODY_MAX, 9_000).await.unwrap();
        assert!(bytes.len() == MIB && permit.is_none());
        let problem = get(body(3, 512 * 1024, true), BODY_MAX, 9_000).await.unwrap_err();
        assert!(problem.is(Code::BodyTooLarge), "{problem}");
        let problem = get(body(1_000, MIB, false), APPLY_BODY_MAX, 9_000).await.unwrap_err();
        assert!(problem.is(Code::BodyTooLarge), "what never ends is not read for ever: {problem}");
        let problem = get(body(1, 10, false), BODY_MAX, 30).await.unwrap_err();
        assert!(problem.is(Code::BodyTimeout), "{problem}");
        let (_, held) = get(body(3, MIB, true), APPLY_BODY_MAX, 9_000).await.unwrap();
        assert!(held.is_some());
        let problem = get(body(3, MIB, true), APPLY_BODY_MAX, 30).await.unwrap_err();
        assert!(problem.is(Code::BodyTimeout), "one large document at a time: {problem}");
        get(body(1, MIB, true), APPLY_BODY_MAX, 9_000).await.expect("a small one needs no place");
        drop(held);
        get(body(3, MIB, true), APPLY_BODY_MAX, 9_000).await.expect("it is free again");
    }
}
