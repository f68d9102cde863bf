//! Names: `[a-z0-9][a-z0-9-]{0,62}`, as in DNS labels, so that they fit into labels, paths and shells unquoted.

use super::draft::Draft;
use crate::code::Code;

/// Longest name, octets (a DNS label's, RFC 1035 section 2.3.4).
const LONGEST: usize = 63;

/// Notes a fault if `name` is none.
pub(super) fn check(draft: &mut Draft, name: &str, place: impl Into<String>) {
    if !is_name(name) {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        draft.fault(Code::BadName, place, format!("`{shown}` is not a name"));
    }
}

/// Whether it is a name.
fn is_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names() {
        for good in ["a", "0", "web-1", &"a".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "Web", "a_b", "a/b", "é", "a b", "a\n", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
