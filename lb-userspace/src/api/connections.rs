//! Connections of the local socket: bounded in number, in time and in what they may send.
//!
//! A request reaches the routes only when its body is here whole, within its size and time; so no route can be held
//! up by a slow sender, and no route has limits of its own.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::stat::{Mode, umask};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::peer::Actor;
use crate::problem::{Code, Problem};

/// Connections at a time; the next one waits in the kernel's queue.
pub const CONNECTIONS: usize = 64;
/// Body of a request, bytes.
pub const BODY_MAX: usize = 1024 * 1024;
/// Body of a request that carries a whole configuration, bytes.
pub const APPLY_BODY_MAX: usize = 64 * 1024 * 1024;
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
        let router = router.layer(middleware::from_fn(whole_body));
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
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
            let (router, ends) = (router.clone(), ends.clone());
            tokio::spawn(async move {
                connection(stream, router, ends).await;
                drop(place);
            });
        }
        let all = places.acquire_many(CONNECTIONS as u32);
        let _ = tokio::time::timeout(GRACE, all).await;
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

async fn connection(stream: UnixStream, router: Router, mut ends: watch::Receiver<bool>) {
    let router = router.layer(axum::Extension(Actor::of(&stream).await));
    let router = router.layer(axum::Extension(Ends(ends.clone())));
    let answering = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut answering = std::pin::pin!(answering);
    let ended = tokio::select! {
        ended = answering.as_mut() => Some(ended),
        () = told(&mut ends) => None,
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

/// Reads the body before the route runs.
async fn whole_body(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let document = head.uri.path() == "/v1/apply" || head.uri.path() == "/v1/plan";
    let limit = if document { APPLY_BODY_MAX } else { BODY_MAX };
    match tokio::time::timeout(BODY_TIMEOUT, whole(body, limit)).await {
        Ok(Some(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(None) => {
            let text = format!("the request's body is over {limit} bytes, or broke off");
            Problem::new(Code::BodyTooLarge, text).into_response()
        }
        Err(_) => {
            Problem::new(Code::BodyTimeout, "the request's body did not arrive in time").into_response()
        }
    }
}

/// The body, if it is not larger than `limit`. What is larger is read on for a while and thrown away, so that the
/// sender lives to read the refusal.
async fn whole(mut body: Body, limit: usize) -> Option<Bytes> {
    let (mut kept, mut size) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.ok()?.into_data() else { continue };
        size += chunk.len();
        if size <= limit {
            kept.extend_from_slice(&chunk);
        } else if size > 2 * APPLY_BODY_MAX {
            return None;
        }
    }
    (size <= limit).then(|| kept.into())
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
}
