//! What a probe may be: ranges, settings that contradict each other, and the forms of its parts.

use super::draft::{Draft, path};
use crate::code::Code;
use crate::probe::{Probe, ProbeKind, StatusSet, Via, body_pattern, payload};
use crate::vip::{Mode, Served};
use std::ops::RangeInclusive;

const INTERVAL_MS: RangeInclusive<u32> = 50..=3_600_000;
const TIMEOUT_MS: RangeInclusive<u32> = 10..=60_000;
const IN_A_ROW: RangeInclusive<u8> = 1..=100;
const RETRIES: RangeInclusive<u8> = 0..=10;
/// Longest path, bytes.
const PATH_MAX_BYTES: usize = 2_048;
/// Longest name, bytes, as DNS has it.
const NAME_MAX_BYTES: usize = 253;

/// Notes what is wrong with a probe; `place` is where it stands.
pub(super) fn check(draft: &mut Draft, probe: &Probe, served: &Served, place: &str) {
    ranges(draft, probe, place);
    if probe.kind.has_port() && served.port == 0 && probe.port.is_none() {
        let message =
            format!("the probe of a vip on all ports is of kind `{}`, but names no port", probe.kind);
        draft.fault(Code::ProbePort, place, message);
    }
    for field in probe.foreign() {
        let message = format!("a probe of kind `{}` has no `{field}`", probe.kind);
        draft.fault(Code::ProbeForeign, path(place, field), message);
    }
    if probe.kind == ProbeKind::Udp && probe.send.is_none() {
        draft.fault(
            Code::ProbeUnsaid,
            path(place, "send"),
            "a probe of kind `udp` does not say what it sends",
        );
    }
    parts(draft, probe, place);
}

/// Notes a probe by the vip's path where the vip has none of its own. Looked at with every change: the mode may be what
/// changes.
pub(super) fn path_of_mode(draft: &mut Draft, probe: &Probe, mode: Mode, place: &str) {
    if probe.via == Via::Vip && mode == Mode::Nat {
        let message = "via = `vip`, but by mode nat packets go to the backend's own address, as probes do";
        draft.fault(Code::ProbeViaNat, path(place, "via"), message);
    }
}

fn ranges(draft: &mut Draft, probe: &Probe, place: &str) {
    let ranges = [
        ("interval_ms", probe.interval_ms, INTERVAL_MS.contains(&probe.interval_ms)),
        ("timeout_ms", probe.timeout_ms, TIMEOUT_MS.contains(&probe.timeout_ms)),
        ("rise", probe.rise.into(), IN_A_ROW.contains(&probe.rise)),
        ("fall", probe.fall.into(), IN_A_ROW.contains(&probe.fall)),
        ("retries", probe.retries.into(), RETRIES.contains(&probe.retries)),
    ];
    for (field, value, _) in ranges.iter().filter(|(.., within)| !within) {
        draft.fault(Code::ProbeRange, path(place, field), format!("{field} = {value}"));
    }
    let (interval, timeout) = (ranges[0].2, ranges[1].2);
    if interval && timeout && probe.timeout_ms >= probe.interval_ms {
        let message = format!("timeout_ms = {}, but interval_ms = {}", probe.timeout_ms, probe.interval_ms);
        draft.fault(Code::ProbeTimeout, path(place, "timeout_ms"), message);
    }
}

/// The forms of its parts, each where it stands.
fn parts(draft: &mut Draft, probe: &Probe, place: &str) {
    type Form = fn(&str) -> Result<(), String>;
    let parts: [(&str, &Option<String>, Code, Form); 7] = [
        ("path", &probe.path, Code::ProbePath, request_path),
        ("host", &probe.host, Code::ProbeHost, host),
        ("sni", &probe.sni, Code::ProbeHost, name),
        ("status", &probe.status, Code::ProbeStatus, |text| StatusSet::parse(text).map(drop)),
        ("body", &probe.body, Code::ProbeBody, |text| body_pattern(text).map(drop)),
        ("send", &probe.send, Code::ProbePayload, |text| payload(text).map(drop)),
        ("expect", &probe.expect, Code::ProbePayload, |text| payload(text).map(drop)),
    ];
    for (field, text, code, form) in parts {
        let Some(text) = text else { continue };
        if let Err(reason) = form(text) {
            let shown: String = text.chars().take(60).collect();
            draft.fault(code, path(place, field), format!("{field} = `{}`: {reason}", shown.escape_debug()));
        }
    }
}

fn request_path(text: &str) -> Result<(), String> {
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        _ if !text.starts_with('/') => Err("it does not begin with `/`".to_owned()),
        _ if text.len() > PATH_MAX_BYTES => Err(format!("it is longer than {PATH_MAX_BYTES} bytes")),
        Some(c) => Err(format!("{c:?} cannot stand in it; write it as %XX")),
        None => Ok(()),
    }
}

/// The Host field: a name or address, and perhaps a port.
fn host(text: &str) -> Result<(), String> {
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !"-._:[]".contains(*c)) {
        Some(c) => Err(format!("{c:?} cannot stand in it")),
        None if text.len() > NAME_MAX_BYTES + ":65535".len() => Err("it is too long".to_owned()),
        None => Ok(()),
    }
}

/// A name as TLS asks for it: of DNS, no address.
fn name(text: &str) -> Result<(), String> {
    let label = |label: &str| {
        let fits = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        fits && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    match text {
        _ if text.parse::<std::net::IpAddr>().is_ok() => Err("it is an address, not a name".to_owned()),
        _ if text.len() > NAME_MAX_BYTES || !text.split('.').all(label) => {
            Err("it is no DNS name".to_owned())
        }
        _ => Ok(()),
    }
}
