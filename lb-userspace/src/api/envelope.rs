//! What stands around a command in its headers: key, expected revision, reason, connection. The body is the command alone,
//! so that one can be written by hand and kept in a file.
//!
//! Who asks is not in here: the kernel says it ([`super::peer`]).

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use lb_control::command::Command;

use crate::engine::Request;
use crate::problem::{Code, Problem};

/// Makes a repetition harmless.
pub const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Why, in the words of whoever asks; UTF-8 as it is.
pub const REASON: HeaderName = HeaderName::from_static("lb-reason");
/// Id of the command that a chain of commands began with.
pub const CORRELATION: HeaderName = HeaderName::from_static("lb-correlation-id");
/// Id of the command or observation that led to this command.
pub const CAUSATION: HeaderName = HeaderName::from_static("lb-causation-id");
/// Longest key or id, bytes: a UUID has 36.
const WORD_MAX: usize = 128;
/// Longest reason, bytes: a few sentences.
pub const REASON_MAX: usize = 1_024;

/// What stands around a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// See [`KEY`].
    pub key: Option<String>,
    /// Revision of the last change of what the command touches, as its sender knows it.
    pub if_match: Option<u64>,
    /// See [`REASON`].
    pub reason: Option<String>,
    /// See [`CORRELATION`].
    pub correlation_id: Option<String>,
    /// See [`CAUSATION`].
    pub causation_id: Option<String>,
}

impl Envelope {
    /// Takes it out of the headers.
    ///
    /// # Errors
    /// One of them is not of its form.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let if_match = text(headers, &header::IF_MATCH)?;
        Ok(Self {
            key: word(headers, &KEY)?,
            if_match: if_match.map(|text| revision(&text)).transpose()?,
            reason: reason(headers)?,
            correlation_id: word(headers, &CORRELATION)?,
            causation_id: word(headers, &CAUSATION)?,
        })
    }

    /// Itself as headers.
    ///
    /// # Errors
    /// The reason is not one line.
    pub fn headers(&self) -> Result<HeaderMap, Problem> {
        let mut headers = HeaderMap::new();
        let if_match = self.if_match.map(|revision| format!("\"{revision}\""));
        let fields = [
            (KEY, &self.key),
            (header::IF_MATCH, &if_match),
            (REASON, &self.reason),
            (CORRELATION, &self.correlation_id),
            (CAUSATION, &self.causation_id),
        ];
        for (name, value) in fields {
            let Some(value) = value else { continue };
            let value = HeaderValue::from_bytes(value.as_bytes());
            let value = value.map_err(|_| refused(&name, "must be one line without control characters"))?;
            headers.insert(name, value);
        }
        // What the daemon would refuse is refused here, before anything is sent.
        Self::of(&headers).map(|_| headers)
    }

    /// The request that it makes of a command.
    pub(super) fn around(self, command: Command, actor: String) -> Request {
        let Self { key, if_match, reason, correlation_id, causation_id } = self;
        Request { command, actor, reason, key, if_match, correlation_id, causation_id }
    }
}

fn refused(name: &HeaderName, why: &str) -> Problem {
    Problem::new(Code::BadRequest, format!("the header {name} {why}")).at(name.as_str())
}

/// A header's text; it may stand there once.
fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused(name, "stands there twice"));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| refused(name, "is not UTF-8"))?;
    Ok(Some(text.trim().to_owned()))
}

/// A key or id: visible ASCII, not too long.
fn word(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let Some(word) = text(headers, name)? else { return Ok(None) };
    let good = (1..=WORD_MAX).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(Some(word)) } else { Err(refused(name, "must be 1 to 128 visible ASCII characters")) }
}

fn reason(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(reason) = text(headers, &REASON)?.filter(|reason| !reason.is_empty()) else { return Ok(None) };
    if reason.len() > REASON_MAX || reason.chars().any(char::is_control) {
        return Err(refused(&REASON, "must be one line of at most 1024 bytes"));
    }
    Ok(Some(reason))
}

/// `"12"` as in `ETag`, or `12`.
fn revision(text: &str) -> Result<u64, Problem> {
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let number = quoted.unwrap_or(text).parse();
    number.map_err(|_| refused(&header::IF_MATCH, "must be a revision, such as \"12\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(HeaderName, &[u8])]) -> Result<Envelope, Problem> {
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap();
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, bytes)| {
            map.append(name.clone(), value(bytes));
        });
        Envelope::of(&map)
    }

    #[test]
    fn headers_are_taken_apart() {
        assert_eq!(of(&[]).unwrap(), Envelope::default());
        let all = of(&[
            (KEY, b"0198-key"),
            (header::IF_MATCH, b"\"12\""),
            (REASON, "früher Schluß".as_bytes()),
            (CORRELATION, b"first"),
            (CAUSATION, b"before"),
        ]);
        let wanted = Envelope {
            key: Some("0198-key".to_owned()),
            if_match: Some(12),
            reason: Some("früher Schluß".to_owned()),
            correlation_id: Some("first".to_owned()),
            causation_id: Some("before".to_owned()),
        };
        assert_eq!(all.unwrap(), wanted);
        assert_eq!(Envelope::of(&wanted.headers().unwrap()).unwrap(), wanted);
        assert_eq!(of(&[(header::IF_MATCH, b"7")]).unwrap().if_match, Some(7));
        assert_eq!(of(&[(REASON, b"  ")]).unwrap().reason, None);
    }

    #[test]
    fn what_is_not_of_its_form_is_refused_by_name() {
        let long = [b'x'; 129];
        let longer = [b'x'; 1_025];
        for (name, bytes) in [
            (KEY, &b""[..]),
            (KEY, b"two words"),
            (KEY, &long),
            (header::IF_MATCH, b"*"),
            (header::IF_MATCH, b"\"a\""),
            (header::IF_MATCH, b"-1"),
            (REASON, b"\xff\xfe"),
            (REASON, &longer),
            (REASON, b"a\tb"),
            (CORRELATION, b"\xc3\xbc"),
        ] {
            let problem = of(&[(name.clone(), bytes)]).unwrap_err();
            assert!(problem.is(Code::BadRequest) && problem.place.as_deref() == Some(name.as_str()));
        }
        assert!(of(&[(KEY, b"a"), (KEY, b"b")]).is_err());
    }
}
