//! The HTTP probe: one GET over HTTP/1.1, by itself or through TLS; status and, if a pattern is set, the first bytes of
//! the body are looked at.
//!
//! What an answer may cost: [`HEAD_MAX_BYTES`] for its head, [`BODY_MAX_BYTES`] for its body, and the probe's timeout.
//! Without a pattern nothing hangs on the body, but up to so much of it is read for [`DRAIN`]: who is cut off in the middle of
//! a short answer complains of it in its log, at every probe.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use lb_control::health::Outcome;
use lb_control::probe::{BODY_MAX_BYTES, PATH, Probe, STATUS, StatusSet, body_pattern};
use regex::bytes::Regex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::goal::Goal;
use super::plan::{Answer, socket_failure};
use super::tcp;
use super::tls::Client;

/// Longest head of an answer, bytes.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// How long an answer that is judged already may take to end.
const DRAIN: Duration = Duration::from_millis(20);

/// What is asked, and which answers are a success.
#[derive(Debug)]
pub(super) struct Request {
    path: String,
    /// `None`: the address and port that are asked.
    host: Option<String>,
    statuses: StatusSet,
    pattern: Option<Regex>,
}

impl Request {
    /// Makes it ready.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(super) fn new(probe: &Probe) -> Result<Self, String> {
        Ok(Self {
            path: probe.path.as_deref().unwrap_or(PATH).to_owned(),
            host: probe.host.clone(),
            statuses: StatusSet::parse(probe.status.as_deref().unwrap_or(STATUS))?,
            pattern: probe.body.as_deref().map(body_pattern).transpose()?,
        })
    }

    /// Asks.
    ///
    /// # Errors
    /// The attempt itself could not be made.
    pub(super) async fn ask(&self, goal: &Goal) -> io::Result<Answer> {
        match tcp::connect(goal).await {
            Ok(stream) => Ok(self.ask_over(stream, goal.target()).await),
            Err(error) => socket_failure(error),
        }
    }

    /// Asks through TLS.
    ///
    /// # Errors
    /// The attempt itself could not be made.
    pub(super) async fn ask_through(&self, client: &Client, goal: &Goal) -> io::Result<Answer> {
        match client.open(goal).await? {
            Ok(stream) => Ok(self.ask_over(stream, goal.target()).await),
            Err(failed) => Ok(failed),
        }
    }

    async fn ask_over<S>(&self, stream: S, target: SocketAddr) -> Answer
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answered = self.exchange(stream, target).await;
        answered.unwrap_or_else(|error| failure(&error))
    }

    async fn exchange<S>(&self, stream: S, target: SocketAddr) -> hyper::Result<Answer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX_BYTES);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let request = self.request(target);
        let asked = async { self.judge(sender.send_request(request).await?).await };
        let (mut asked, mut connection) = (pin!(asked), pin!(connection));
        let mut ended = false;
        // What the connection has read is there for who asked even when it has ended.
        loop {
            tokio::select! {
                biased;
                answer = &mut asked => return answer,
                _ = &mut connection, if !ended => ended = true,
            }
        }
    }

    fn request(&self, target: SocketAddr) -> hyper::Request<Empty<Bytes>> {
        let host = self.host.clone().unwrap_or_else(|| target.to_string());
        let mut request = hyper::Request::new(Empty::new());
        // Both were looked at when the probe was set; what does not fit after all is left at its default.
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(&host).unwrap_or(HeaderValue::from_static("-")));
        headers.insert(USER_AGENT, HeaderValue::from_static("switchyard-probe"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        request
    }

    async fn judge(&self, response: hyper::Response<Incoming>) -> hyper::Result<Answer> {
        let status = response.status().as_u16();
        let wanted = self.statuses.contains(status);
        let Some(pattern) = self.pattern.as_ref().filter(|_| wanted) else {
            let _ = tokio::time::timeout(DRAIN, head(response.into_body())).await;
            let wrong = || Answer::failed(Outcome::WrongStatus, format!("status {status}"));
            return Ok(if wanted { Answer::success() } else { wrong() });
        };
        let head = head(response.into_body()).await?;
        if pattern.is_match(&head) {
            return Ok(Answer::success());
        }
        let shown = head[..head.len().min(32)].escape_ascii();
        Ok(Answer::failed(Outcome::WrongBody, format!("{} bytes do not match: {shown}", head.len())))
    }
}

/// The first bytes of a body.
async fn head(mut body: Incoming) -> hyper::Result<Vec<u8>> {
    let mut head = Vec::new();
    while head.len() < BODY_MAX_BYTES
        && let Some(frame) = body.frame().await
    {
        if let Some(bytes) = frame?.data_ref() {
            let room = BODY_MAX_BYTES - head.len();
            head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
    Ok(head)
}

/// What a failed exchange says of the backend: it was connected already, so the failure is the backend's.
fn failure(error: &hyper::Error) -> Answer {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Answer::failed(Outcome::Refused, "reset before it answered")
        }
        _ if error.is_incomplete_message() => Answer::failed(Outcome::Malformed, "closed before it answered"),
        _ => Answer::failed(Outcome::Malformed, error.to_string()),
    }
}
