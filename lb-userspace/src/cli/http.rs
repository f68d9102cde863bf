//! Requests that need more than one question and one answer: words in their headers, or an answer that does not end.

use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::problem::{Code, Problem};

/// Sends a request to the daemon of a socket, and gives the answer as it begins; one that refuses is the error.
pub(super) async fn open(
    socket: &Path,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<Response<Incoming>, Problem> {
    let unreachable = |error: std::io::Error| {
        Problem::new(Code::NoDaemon, format!("no daemon answers on {}: {error}", socket.display()))
    };
    let broken =
        |error: hyper::Error| Problem::new(Code::NoAnswer, format!("the conversation ended: {error}"));
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "lb");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| Problem::new(Code::Usage, format!("cannot be sent: {error}")))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let bytes = whole(answer).await?;
    let refusal = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let problem = refusal.and_then(|mut body| serde_json::from_value(body["error"].take()).ok());
    Err(problem.unwrap_or_else(|| Problem::new(Code::NoAnswer, format!("the daemon answered {status}"))))
}

/// The whole of an answer.
pub(super) async fn whole(answer: Response<Incoming>) -> Result<Bytes, Problem> {
    let collected = answer.into_body().collect().await;
    let broken = |error| Problem::new(Code::NoAnswer, format!("the answer broke off: {error}"));
    collected.map(|body| body.to_bytes()).map_err(broken)
}
