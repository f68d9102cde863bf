//! The other end of the local socket: one request, one answer, and the reason in plain words where there is none.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::envelope::Envelope;
use crate::problem::{Code, Problem};

/// How long an answer may take: longer than the daemon lets a command wait for the maps.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a command is sent whose outcome is not known.
pub const ATTEMPTS: u32 = 6;
/// Before it is sent again for the first time; each pause is twice the one before. 6.2 s in all: a daemon that is
/// restarted, or a disk that hangs for a moment, is back by then.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// After this long it is not sent again, however few the attempts.
const RETRY_WITHIN: Duration = Duration::from_secs(60);

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
        parsed(&self.ask(Method::GET, path, HeaderMap::new(), Bytes::new()).await?)
    }

    /// Reads text.
    ///
    /// # Errors
    /// No daemon, or it refused.
    pub async fn text(&self, path: &str) -> Result<String, Problem> {
        Ok(String::from_utf8_lossy(&self.ask(Method::GET, path, HeaderMap::new(), Bytes::new()).await?)
            .into_owned())
    }

    /// Sends a request with a JSON body.
    ///
    /// # Errors
    /// No daemon, or it refused.
    pub async fn send<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Problem> {
        self.send_in(path, &Envelope::default(), body, |_| ()).await
    }

    /// Sends a command in an envelope. If it has a key, and nobody knows what became of the command (the connection was
    /// lost, or the daemon says so), it is sent again with the same key, up to [`ATTEMPTS`] times, each of them said.
    /// Once in doubt, it stays so until it is answered, or refused by one who knew the key: that nobody is there any more,
    /// or that there is no time for it, says nothing of the first time.
    ///
    /// # Errors
    /// No daemon, or it refused, or it is still not known what became of it: then what first brought the doubt.
    pub async fn send_in<T: DeserializeOwned>(
        &self,
        path: &str,
        envelope: &Envelope,
        body: &impl Serialize,
        mut say: impl FnMut(&str),
    ) -> Result<T, Problem> {
        let headers = envelope.headers()?;
        let body = serde_json::to_vec(body).map_err(|error| Problem::bug(error.to_string()))?;
        let (body, begun) = (Bytes::from(body), Instant::now());
        let (mut attempt, mut doubt, mut ending) = (1, None, false);
        loop {
            let problem = match self.ask(Method::POST, path, headers.clone(), body.clone()).await {
                Ok(answer) => return parsed(&answer),
                Err(problem) => problem,
            };
            if is_in_doubt(&problem) {
                doubt.get_or_insert_with(|| problem.clone());
            }
            ending |= problem.is(Code::Ending);
            let again = (doubt.is_some() || ending) && !is_settled(&problem) && envelope.key.is_some();
            if !again || attempt == ATTEMPTS || begun.elapsed() >= RETRY_WITHIN {
                return Err(last_word(doubt, problem));
            }
            let asked_for = Duration::from_millis(problem.retry_after_ms.unwrap_or(0));
            tokio::time::sleep(asked_for.max(FIRST_PAUSE * (1 << (attempt - 1)))).await;
            attempt += 1;
            say(&format!("{problem}; asking again with the same key ({attempt} of {ATTEMPTS})"));
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, Problem> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, headers, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Problem::new(
                Code::NoAnswer,
                format!("the daemon did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
            )),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, Problem> {
        whole(self.open(method, path, headers, body).await?).await
    }

    /// Sends a request, and gives the answer as it begins, which may be one that does not end.
    ///
    /// # Errors
    /// No daemon, or it refused.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Problem> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lb")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| Problem::bug(error.to_string()))?;
        request.headers_mut().extend(headers);
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if status.is_success() { Ok(answer) } else { Err(refusal(status, &whole(answer).await?)) }
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

/// Whether a command that was met by this may have been applied all the same. A bug says nothing of how far it came.
pub fn is_in_doubt(problem: &Problem) -> bool {
    [Code::NoAnswer, Code::OutcomeUnknown, Code::Bug].into_iter().any(|code| problem.is(code))
}

/// Whether it is the word of the writer, who knew of every earlier command with its key: a rejection, or a journal that
/// refused for certain.
fn is_settled(problem: &Problem) -> bool {
    let code = Code::parse(&problem.code);
    code.is_some_and(|code| code.number() < 2_000 || code == Code::JournalRefused)
}

/// What is said in the end of a command that was refused: the first doubt, unless it was settled since.
fn last_word(doubt: Option<Problem>, last: Problem) -> Problem {
    match doubt {
        Some(doubt) if is_settled(&last) || doubt == last => last,
        Some(doubt) => Problem { message: format!("{}; in the end: {last}", doubt.message), ..doubt },
        None => last,
    }
}

/// The whole of an answer.
async fn whole(answer: Response<Incoming>) -> Result<Bytes, Problem> {
    Ok(answer.into_body().collect().await.map_err(broken)?.to_bytes())
}

fn broken(error: hyper::Error) -> Problem {
    Problem::new(Code::NoAnswer, format!("the daemon ended the conversation: {error}"))
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
