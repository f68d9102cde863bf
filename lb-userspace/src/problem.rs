//! One shape for everything that can be wrong, from the engine over the socket to the terminal: a stable code, what is
//! wrong, where, and what to do. The codes themselves are `lb_control`'s list; here is how each answers over HTTP and
//! how a command that meets it exits.

use std::fmt;

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
pub use lb_control::code::Code;
use lb_control::rejection::Rejection;
use serde::{Deserialize, Serialize};

use crate::dataplane::Fault;

/// How a command of `lb` ends, as its exit status. 0 is well done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something is wrong.
    Error = 1,
    /// The command line, a request or a file is wrong. (Also clap's own.)
    Usage = 2,
    /// `lb plan` found differences.
    Changes = 3,
    /// Something that must be so first is not.
    Precondition = 4,
    /// `--wait` waited too long.
    Timeout = 5,
    /// What was looked at is not well.
    Unhealthy = 6,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable code, `LBnnnn`.
    pub code: String,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// Where: a field of the command, or file, line and column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Box<str>>,
    /// The other place of a conflict; for [`Code::Stale`] the present revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub related: Option<Box<str>>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<Box<str>>,
    /// When it may be tried again, milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Further problems of the same request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Problem>,
}

impl Problem {
    /// A problem with the code's own advice.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code.to_string(),
            message: message.into(),
            place: None,
            related: None,
            help: Some(code.advice().into()),
            retry_after_ms: None,
            also: Vec::new(),
        }
    }
    /// What should never be.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Code::Bug, message)
    }
    /// The same at a place.
    pub fn at(mut self, place: impl Into<Box<str>>) -> Self {
        self.place = Some(place.into());
        self
    }
    /// The same with the other side of a conflict.
    pub fn with_related(mut self, related: impl Into<Box<str>>) -> Self {
        self.related = Some(related.into());
        self
    }
    /// The same with other advice.
    pub fn with_help(mut self, help: impl Into<Box<str>>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// Whether it is this one.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.to_string()
    }
    /// HTTP status of an answer with it.
    pub fn status(&self) -> StatusCode {
        let number = Code::parse(&self.code).map_or(500, status);
        StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
    /// Exit status of a command that ends with it.
    pub fn exit(&self) -> Exit {
        Code::parse(&self.code).map_or(Exit::Error, exit)
    }
}

/// 400 and 422 what can never be, 404 what does not exist, 409 what conflicts with what is there, 5xx what is not
/// the caller's fault.
fn status(code: Code) -> u16 {
    use Code as C;
    match code {
        C::UnknownTenant | C::UnknownVip | C::UnknownBackend | C::NoRoute | C::UnknownCode => 404,
        C::RevisionAhead | C::UnknownProjection | C::UnknownField => 404,
        C::DuplicateTenant | C::DuplicateVip | C::DuplicateBackend | C::DuplicateBackendAddress => 409,
        C::VipAddressTaken | C::VipAddressOfOtherTenant | C::BackendIsVip | C::TenantNotEmpty => 409,
        C::TableSizeLive | C::ModeLive | C::VipIdentity | C::BackendIdentity => 409,
        C::Disruption | C::Capacity | C::DefaultTenant => 409,
        C::TenantQuota | C::VipQuota | C::BackendQuota => 409,
        C::NoDevice | C::NotAttached => 404,
        C::DeviceTaken => 409,
        C::BadRequest | C::BadMoment | C::BadObject => 400,
        C::Stale => 412,
        C::AppliedUnread => 410,
        C::ViewBehind => 504,
        C::TooManyFollowers | C::CommandRate => 429,
        C::BodyTooLarge => 413,
        C::BodyTimeout => 408,
        C::NoPermission => 403,
        C::Bug => 500,
        code if code.number() < 2000 || (3000..4000).contains(&code.number()) => 422,
        _ => 503,
    }
}

fn exit(code: Code) -> Exit {
    use Code as C;
    match code {
        C::Disruption | C::Stale | C::NoDaemon | C::NoPermission | C::StateHeld | C::StateDir => {
            Exit::Precondition
        }
        C::Socket | C::SocketTaken | C::JournalForeign | C::JournalLost => Exit::Precondition,
        C::WaitTimeout | C::ViewBehind => Exit::Timeout,
        C::RevisionAhead | C::UnknownProjection | C::UnknownField | C::CommandRate => Exit::Error,
        C::Unhealthy | C::SelftestFailed => Exit::Unhealthy,
        C::BodyTooLarge | C::BodyTimeout | C::NoRoute | C::UnknownCode => Exit::Error,
        code if (3000..4000).contains(&code.number()) => Exit::Usage,
        // The kernel's edge: rights, devices, file systems.
        code if (4000..5000).contains(&code.number()) => Exit::Precondition,
        _ => Exit::Error,
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        Self {
            code: rejection.code.to_string(),
            message: rejection.message,
            place: (!rejection.place.is_empty()).then(|| rejection.place.into()),
            related: rejection.related.map(Into::into),
            help: Some(rejection.what_to_do.into()),
            retry_after_ms: None,
            also: rejection.also.into_iter().map(Self::from).collect(),
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self::new(fault.code, fault.message).with_help(fault.what_to_do)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "schema": crate::api::SCHEMA, "error": self });
        let mut response = (self.status(), axum::Json(body)).into_response();
        if let Some(after_ms) = self.retry_after_ms {
            // In seconds, as RFC 9110 section 10.2.3 has it.
            response.headers_mut().insert(RETRY_AFTER, after_ms.div_ceil(1_000).max(1).into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_and_an_exit_that_are_no_success() {
        for code in Code::ALL {
            let problem = Problem::new(*code, "x");
            assert!(problem.status().is_client_error() || problem.status().is_server_error());
            assert!(problem.exit() as u8 != 0);
        }
        assert_eq!(Problem::new(Code::Disruption, "x").exit(), Exit::Precondition);
        for file in [Code::ConfigFile, Code::ConfigSyntax, Code::ConfigKey, Code::ConfigValue] {
            assert_eq!(Problem::new(file, "x").exit(), Exit::Usage);
        }
        assert_eq!(Problem::new(Code::UnknownVip, "x").status(), StatusCode::NOT_FOUND);
    }
}
