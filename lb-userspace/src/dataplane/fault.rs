//! What can go wrong at the kernel's edge, each with a stable code, one sentence that says what it is and one that
//! says what to do. Rejections (the caller's fault) are `lb_control`'s; a fault leaves what runs as it was.

use std::fmt;
use std::path::Path;

use lb_control::code::Code;

/// A fault of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Stable code.
    pub code: Code,
    /// What is wrong, with the names and values at hand; one sentence without a full stop.
    pub message: String,
    /// What to do.
    pub what_to_do: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}", self.code, self.message, self.what_to_do)
    }
}

impl std::error::Error for Fault {}

/// A result with a [`Fault`].
pub type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    /// A fault with the code's own advice.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), what_to_do: code.advice().into() }
    }

    /// The same with other advice.
    pub fn with_advice(mut self, what_to_do: impl Into<String>) -> Self {
        self.what_to_do = what_to_do.into();
        self
    }

    /// A system call that failed while doing `what`; missing privileges are told apart.
    pub(crate) fn os(what: impl fmt::Display, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                Self::new(Code::NoPrivilege, format!("no permission to {what} ({error})"))
            }
            _ => Self::new(Code::KernelCall, format!("could not {what}: {error}")),
        }
    }

    /// Something pinned of another layout.
    pub(crate) fn other_abi(pins: &Path, what: impl fmt::Display) -> Self {
        Self::new(Code::OtherAbi, format!("{} holds another version's data plane: {what}", pins.display()))
            .with_advice(format!(
                "Use the `lb` that made it; or, to stop its forwarding and start anew, `rm -r {}`.",
                pins.display()
            ))
    }

    /// A map without room, or without such a row.
    pub(crate) fn full(map: &str, limit: usize) -> Self {
        Self::new(Code::MapFull, format!("map {map} is full: it holds {limit} entries"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    #[test]
    fn a_missing_privilege_is_told_apart() {
        assert_eq!(Fault::os("load", &Error::from_raw_os_error(libc::EPERM)).code, Code::NoPrivilege);
        assert_eq!(Fault::os("load", &Error::from_raw_os_error(libc::ENOMEM)).code, Code::KernelCall);
    }

    #[test]
    fn a_full_map_is_named_with_its_limit() {
        let fault = Fault::full("LB_VIPS", 7).to_string();
        assert!(fault.contains("LB_VIPS") && fault.contains('7') && fault.starts_with("LB4008"), "{fault}");
    }
}
