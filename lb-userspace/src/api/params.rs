//! The query of a request, word by word: each is taken once and none is left over, since a word that nobody takes is a
//! mistake that must not pass silently.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use crate::problem::{Code, Problem};
use crate::suggest;

/// What a query says, and what was asked of it.
#[derive(Debug)]
pub(super) struct Params {
    said: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(pairs) = pairs.map_err(|error| refused(error.body_text()))?;
        let mut said = BTreeMap::new();
        for (name, value) in pairs {
            if said.insert(name.clone(), value).is_some() {
                return Err(refused(format!("the query says `{name}` twice")));
            }
        }
        Ok(Self { said, known: Vec::new() })
    }
}

fn refused(text: String) -> Problem {
    Problem::new(Code::BadRequest, text).at("query")
}

impl Params {
    /// A word of the query.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.said.remove(name)
    }

    /// A word that is a number, or `true` or `false`.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn parsed<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parsed = text.parse().map(Some);
        parsed.map_err(|_| refused(format!("`{name}` cannot be `{text}`")))
    }

    /// After all words were taken.
    ///
    /// # Errors
    /// Some are left.
    pub(super) fn end(self) -> Result<(), Problem> {
        let Some(name) = self.said.keys().next() else { return Ok(()) };
        let hint = suggest::hint(name, self.known.iter().copied());
        Err(refused(format!("the query has nothing called `{name}`{hint}")))
    }
}
