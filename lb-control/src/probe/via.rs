//! By which path a probe goes to a backend. What a path looks like on the wire is the prober's business.

use serde::{Deserialize, Serialize};
use std::fmt;

/// By which path a probe goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// Straight to the backend's own address.
    #[default]
    Backend,
    /// To the vip's address, by the vip's own path to that backend: framed as the packets of its clients are, so that a
    /// backend that lacks the vip, or does not unwrap its tunnel, does not answer.
    Vip,
}

impl Via {
    /// Its word, as in files and on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Vip => "vip",
        }
    }
    pub(super) const fn is_default(&self) -> bool {
        matches!(self, Self::Backend)
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
