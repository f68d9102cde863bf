//! The parts of a probe that have a form of their own: status set, pattern of the body, payload. Each is parsed here and
//! only here: by the decision that accepts it, and by who probes.

use regex::bytes::{Regex, RegexBuilder};

/// How much of an answer's body is looked at, bytes.
pub const BODY_MAX_BYTES: usize = 16 * 1024;
/// Longest payload that is sent or expected, bytes: what fits one datagram on any path.
pub const PAYLOAD_MAX_BYTES: usize = 1_024;
/// Most memory that a pattern may take, bytes; beyond it, it is refused.
const PATTERN_MAX_BYTES: usize = 256 * 1024;
/// Longest pattern, bytes.
const PATTERN_TEXT_MAX_BYTES: usize = 1_024;

/// Statuses that are a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(Vec<(u16, u16)>);

impl StatusSet {
    /// Parses `200-299,301`: numbers and ranges from 100 to 599.
    ///
    /// # Errors
    /// What is wrong, as a clause.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.trim().parse::<u16>() {
            Ok(number @ 100..=599) => Ok(number),
            _ => Err(format!("`{}` is not a status from 100 to 599", text.trim())),
        };
        let part = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (number(from)?, number(to)?);
            if from <= to { Ok((from, to)) } else { Err(format!("{from}-{to} runs backwards")) }
        };
        text.split(',').map(part).collect::<Result<_, _>>().map(Self)
    }
    /// Whether a status is in it.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }
}

/// The pattern that a body must match. Matching takes time linear in the body, and memory that is bounded here.
///
/// # Errors
/// What is wrong, as a clause.
pub fn body_pattern(text: &str) -> Result<Regex, String> {
    if text.len() > PATTERN_TEXT_MAX_BYTES {
        return Err(format!("it has {} bytes, more than {PATTERN_TEXT_MAX_BYTES}", text.len()));
    }
    let (compiled, lazy) = (PATTERN_MAX_BYTES, PATTERN_MAX_BYTES);
    let built = RegexBuilder::new(text).size_limit(compiled).dfa_size_limit(lazy).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => format!("it takes more than {limit} bytes of memory"),
        // The last line says it; those before draw a picture.
        other => {
            other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    })
}

/// The bytes of a payload: text as it stands, or hexadecimal digits after `hex:` (spaces between are fine).
///
/// # Errors
/// What is wrong, as a clause.
pub fn payload(text: &str) -> Result<Vec<u8>, String> {
    let bytes = match text.strip_prefix("hex:") {
        None => text.as_bytes().to_vec(),
        Some(digits) => {
            let digits: Vec<char> = digits.chars().filter(|c| !c.is_whitespace()).collect();
            let value = |digit: &char| {
                let value = digit.to_digit(16).map(|value| value as u8);
                value.ok_or_else(|| format!("`{digit}` is not a hexadecimal digit"))
            };
            let values = digits.iter().map(value).collect::<Result<Vec<u8>, _>>()?;
            if values.len() % 2 != 0 {
                return Err(format!("{} hexadecimal digits are no whole number of bytes", values.len()));
            }
            values.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
        }
    };
    match bytes.len() {
        0 => Err("it has no bytes".to_owned()),
        count if count > PAYLOAD_MAX_BYTES => {
            Err(format!("it has {count} bytes, more than {PAYLOAD_MAX_BYTES}"))
        }
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_sets() {
        let set = StatusSet::parse("200-299, 301").unwrap();
        assert!(set.contains(200) && set.contains(299) && set.contains(301));
        assert!(!set.contains(199) && !set.contains(300) && !set.contains(500));
        for bad in ["", "200-", "299-200", "2xx", "99", "600", "200,,300", "70000"] {
            assert!(StatusSet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn payloads() {
        assert_eq!(payload("ping").unwrap(), b"ping");
        assert_eq!(payload("hex:00 fF").unwrap(), [0, 255]);
        for bad in ["hex:0", "hex:", "hex:0g", &"x".repeat(PAYLOAD_MAX_BYTES + 1)] {
            assert!(payload(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_are_bounded() {
        assert!(body_pattern("status.*ok").unwrap().is_match(b"\xffstatus: ok"));
        for bad in ["(", r"\w{1000}{1000}", &"x".repeat(PATTERN_TEXT_MAX_BYTES + 1)] {
            let reason = body_pattern(bad).unwrap_err();
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
        }
    }
}
