//! Objects as words of a command line: `vip web`, `backend web/b1`, `tenant acme`, `bypass`; and times as people read
//! them.

use lb_control::projection::object::Object;

use crate::api::client::encoded;
use crate::problem::{Code, Problem};

/// The object that words name, as a word of a query.
pub(super) fn named(words: &[String]) -> Result<String, Problem> {
    let text = words.join(" ");
    let object: Result<Object, _> = text.parse();
    let object = object.map_err(|error| Problem::new(Code::BadObject, format!("`{text}`: {error}")))?;
    Ok(encoded(&object.to_string()))
}

/// `2026-11-26 09:30:00` of an RFC 3339 time in UTC; the column says UTC.
pub(super) fn when(at: &str) -> String {
    let seconds = at.split(['.', 'Z']).next().unwrap_or(at);
    seconds.replace('T', " ")
}

/// A query of the words that are given.
pub(super) fn query(path: &str, words: &[(&str, Option<String>)]) -> String {
    let given = words.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    let query = given.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}
