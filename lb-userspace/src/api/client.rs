//! The other end of the local socket: one request, one answer, and the reason in plain words where there is none.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::problem::{Code, Problem};

/// How long an answer may take: longer than the daemon lets a command wait for the maps.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon's address.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon behind this socket; nothing is asked yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Reads a view, or whatever else a `GET` gives, and takes it apart.
    ///
    /// # Errors
    /// No daemon, or it refused.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        parsed(&self.ask(Method::GET, path, Bytes::new()).await?)
    }

    /// Reads text.
    ///
    /// # Errors
    /// No daemon, or it refused.
    pub async fn text(&self, path: &str) -> Result<String, Problem> {
        Ok(String::from_utf8_lossy(&self.ask(Method::GET, path, Bytes::new()).await?).into_owned())
    }

    /// Sends a request with a JSON body.
    ///
    /// # Errors
    /// No daemon, or it refused.
    pub async fn send<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| Problem::bug(error.to_string()))?;
        parsed(&self.ask(Method::POST, path, Bytes::from(body)).await?)
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Problem> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Problem::new(
                Code::NoAnswer,
                format!("the daemon did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
            )),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Problem> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let broken = |error: hyper::Error| {
            Problem::new(Code::NoAnswer, format!("the daemon ended the conversation: {error}"))
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lb")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| Problem::bug(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.map_err(broken)?.to_bytes();
        if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
    }

    fn unreachable(&self, error: &std::io::Error) -> Problem {
        let socket = self.socket.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Problem::new(Code::NoDaemon, format!("no daemon answers on {socket}"))
            }
            ErrorKind::PermissionDenied => {
                Problem::new(Code::NoPermission, format!("this user may not use {socket}"))
            }
            _ => Problem::new(Code::NoDaemon, format!("cannot connect to {socket}: {error}")),
        }
    }
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::new(Code::NoAnswer, format!("the daemon's answer cannot be read: {error}")))
}

/// The problem in an answer that is none.
fn refusal(status: StatusCode, bytes: &[u8]) -> Problem {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: Problem,
    }
    match serde_json::from_slice::<Refusal>(bytes) {
        Ok(refusal) => refusal.error,
        Err(_) => Problem::new(Code::NoAnswer, format!("the daemon answered {status}")),
    }
}

/// A word within a path or query, percent-encoded (RFC 3986, section 2.1).
pub fn encoded(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    word.bytes().fold(String::new(), |mut text, byte| {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_encoded() {
        assert_eq!(encoded("[2001:db8::1]:80/tcp"), "%5B2001%3Adb8%3A%3A1%5D%3A80%2Ftcp");
        assert_eq!(encoded("a-b.c_d~e"), "a-b.c_d~e");
    }

    #[tokio::test]
    async fn without_a_daemon_one_sentence_says_how_to_start_it() {
        let problem = Client::new(Path::new("/nowhere/lb.sock")).text("/healthz").await.unwrap_err();
        assert_eq!(problem.code, Code::NoDaemon.to_string());
        assert!(problem.help.unwrap().contains("lb serve"));
    }
}
