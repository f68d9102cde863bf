//! Why a command was refused: the caller's fault, with a stable code, its place and what to do.

use crate::code::Code;
use serde::Serialize;
use std::fmt;

/// A refused command. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Stable code.
    pub code: Code,
    /// What is wrong, with the names and values at hand; one sentence without a full stop.
    pub message: String,
    /// Where: the path of a field in the command or, for `apply`, in the document, such as
    /// `vip[2].backend[0].weight`; empty where the command as a whole is meant.
    pub place: String,
    /// The other place of a conflict within the document, as `place`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<String>,
    /// What to do.
    pub what_to_do: &'static str,
    /// Further faults of the same command (`apply` reports all at once); their own `also` is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Rejection>,
}

impl Rejection {
    /// A rejection with the code's own advice.
    pub fn new(code: Code, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            place: place.into(),
            related: None,
            what_to_do: code.advice(),
            also: Vec::new(),
        }
    }
    /// The same with the other place of a conflict.
    pub fn with_related(mut self, place: impl Into<String>) -> Self {
        self.related = Some(place.into());
        self
    }
    /// All faults in one rejection: the first carries the rest. `None` if there are none.
    pub fn all(faults: Vec<Rejection>) -> Option<Self> {
        let mut faults = faults.into_iter();
        let mut first = faults.next()?;
        first.also.extend(faults);
        Some(first)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Rejection {}

/// A message about a name that is not there, with the likeliest of `names` if one is close: at most a third of its
/// letters, and at least one, are missing, wrong or swapped.
pub(crate) fn not_found<'a>(what: &str, name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let likeliest = names
        .map(|known| (strsim::osa_distance(name, known), known))
        .filter(|(apart, known)| *apart <= (known.len() / 3).max(1))
        .min();
    match likeliest {
        Some((_, known)) => format!("{what} `{name}` does not exist; did you mean `{known}`?"),
        None => format!("{what} `{name}` does not exist"),
    }
}

#[cfg(test)]
mod tests {
    use super::not_found;

    #[test]
    fn close_names_are_suggested_and_others_not() {
        let names = ["web", "web-2", "api", "b1"];
        let suggested = |name| not_found("vip", name, names.into_iter());
        assert_eq!(suggested("wbe"), "vip `wbe` does not exist; did you mean `web`?");
        assert_eq!(suggested("web2"), "vip `web2` does not exist; did you mean `web`?");
        assert_eq!(suggested("mail"), "vip `mail` does not exist");
    }
}
