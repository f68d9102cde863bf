//! How a backend is probed: settings only; what follows from the answers is in [`crate::health`].
//!
//! The defaults and what they reach. A killed backend's kernel refuses at once (RST): at most [`INTERVAL_MS`] until the
//! next probe, then one more refusal after 10 ms: out within 210 ms. One that is silent (a cable pulled, SYNs dropped, a
//! process that hangs, if the probe wants an answer of it): silence may be a lost packet, so each of the two failures
//! is two attempts: 200 + 4 x 150 + 10 + 20 + 40 = 870 ms at most, about 770 on the mean. What it costs falsely: at a
//! loss of 1 % each way a SYN or its answer is lost in 2 % of all attempts, four in a row in 1 of 6 million probes.
//! What it costs in time: five probes a second and backend; who has thousands of backends, or ones
//! farther away than 100 ms, sets a longer interval and timeout.

mod part;
mod via;

pub use part::{BODY_MAX_BYTES, PAYLOAD_MAX_BYTES, StatusSet, body_pattern, payload};
pub use via::Via;

use serde::{Deserialize, Serialize};
use std::fmt;

/// Default time between two probes, milliseconds.
pub const INTERVAL_MS: u32 = 200;
/// Default time after which an attempt counts as failed, milliseconds: many times the way there and back in one place.
pub const TIMEOUT_MS: u32 = 150;
/// Default number of successes in a row that bring a backend that is down up again.
pub const RISE: u8 = 2;
/// Default number of failures in a row that take a backend out.
pub const FALL: u8 = 2;
/// Default number of times that a probe is repeated that met silence before it counts as failed.
pub const RETRIES: u8 = 1;
/// Statuses that an HTTP probe is content with.
pub const STATUS: &str = "200-399";
/// Path that an HTTP probe asks for.
pub const PATH: &str = "/";

/// What kind of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// No probe: the backend counts as usable. The default of UDP vips and of vips on all ports.
    None,
    /// A TCP connection is opened and closed. The default of TCP vips.
    Tcp,
    /// An HTTP/1.1 request by GET; status and body are looked at.
    Http,
    /// The same through TLS.
    Https,
    /// A TLS handshake, and nothing said.
    Tls,
    /// A UDP datagram, and its answer.
    Udp,
    /// An ICMP echo request.
    Icmp,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::None, Self::Tcp, Self::Http, Self::Https, Self::Tls, Self::Udp, Self::Icmp];

    /// Its word, as in files and on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
    /// Whether it asks at a port.
    pub const fn has_port(self) -> bool {
        !matches!(self, Self::None | Self::Icmp)
    }
    /// Whether it makes an HTTP request.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
    /// Whether it makes a TLS handshake.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How the backends of a vip are probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What kind of probe.
    pub kind: ProbeKind,
    /// Time between two probes, milliseconds.
    pub interval_ms: u32,
    /// Time after which an attempt counts as failed, milliseconds; shorter than the interval.
    pub timeout_ms: u32,
    /// Successes in a row that bring a backend that is down up again.
    pub rise: u8,
    /// Failures in a row that take a backend out.
    pub fall: u8,
    /// How often a probe that met silence is repeated before it counts as failed.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub retries: u8,
    /// Port to probe; none: the backend's port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// By which path it goes.
    #[serde(skip_serializing_if = "Via::is_default", default)]
    pub via: Via,
    /// HTTP: the path, with its query; none: [`PATH`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// HTTP: the Host field; none: the address and port that are asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
    /// HTTP: the statuses that are a success, such as `200-299,301`; none: [`STATUS`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<String>,
    /// HTTP: a regular expression that the first [`BODY_MAX_BYTES`] of the body must match; none: any body will do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body: Option<String>,
    /// TLS: the name asked for, and looked for in the certificate; none: that of `host`, else the address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sni: Option<String>,
    /// TLS: whether the certificate must be a valid one, by the node's trusted roots.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub verify: bool,
    /// UDP: what is sent, as text, or as hexadecimal digits after `hex:`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub send: Option<String>,
    /// UDP: what the answer must begin with, in the same form; none: any answer will do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expect: Option<String>,
}

fn is_zero(count: &u8) -> bool {
    *count == 0
}

/// Backends whose probes fail within so long of each other have failed together, milliseconds at least.
const TOGETHER_MS: u64 = 10_000;

impl Probe {
    /// Within how long the probes of all backends see what befell all of them, milliseconds: each is asked once an
    /// interval, and again after a doubt.
    pub fn together_ms(&self) -> u64 {
        TOGETHER_MS.max(2 * u64::from(self.interval_ms))
    }
    /// The defaults of a kind.
    pub const fn of_kind(kind: ProbeKind) -> Self {
        Self {
            kind,
            interval_ms: INTERVAL_MS,
            timeout_ms: TIMEOUT_MS,
            rise: RISE,
            fall: FALL,
            retries: RETRIES,
            port: None,
            via: Via::Backend,
            path: None,
            host: None,
            status: None,
            body: None,
            sni: None,
            verify: false,
            send: None,
            expect: None,
        }
    }
    /// Time between two probes while one more answer may change a backend's health, milliseconds: a twentieth of the
    /// interval, and at least 10. It doubles with every failure in a row, up to the interval ([`crate::health`]).
    pub const fn doubt_interval_ms(&self) -> u32 {
        let part = self.interval_ms / 20;
        if part < 10 { 10 } else { part }
    }
    /// The same without the settings that are of other kinds than `kind`, which it becomes.
    fn turned_to(self, kind: ProbeKind) -> Self {
        let (http, tls, udp) = (kind.is_http(), kind.is_tls(), kind == ProbeKind::Udp);
        Self {
            kind,
            via: if kind == ProbeKind::None { Via::Backend } else { self.via },
            path: self.path.filter(|_| http),
            host: self.host.filter(|_| http),
            status: self.status.filter(|_| http),
            body: self.body.filter(|_| http),
            sni: self.sni.filter(|_| tls),
            verify: self.verify && tls,
            send: self.send.filter(|_| udp),
            expect: self.expect.filter(|_| udp),
            ..self
        }
    }
    /// Names of the settings that are there and belong to other kinds.
    pub fn foreign(&self) -> Vec<&'static str> {
        let own = self.clone().turned_to(self.kind);
        let there = [
            ("via", self.via == own.via),
            ("path", self.path == own.path),
            ("host", self.host == own.host),
            ("status", self.status == own.status),
            ("body", self.body == own.body),
            ("sni", self.sni == own.sni),
            ("verify", self.verify == own.verify),
            ("send", self.send == own.send),
            ("expect", self.expect == own.expect),
        ];
        there.into_iter().filter(|(_, own)| !own).map(|(name, _)| name).collect()
    }
}

/// For people: `http GET / on port 8080, status 200-299, every 200 ms, …`.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if self.kind.is_http() {
            write!(f, " GET {}", self.path.as_deref().unwrap_or(PATH))?;
        }
        if let Some(port) = self.port {
            write!(f, " on port {port}")?;
        }
        if self.via == Via::Vip {
            f.write_str(" by the vip's path")?;
        }
        if self.kind.is_http() {
            write!(f, ", status {}", self.status.as_deref().unwrap_or(STATUS))?;
        }
        let texts = [("host", &self.host), ("body", &self.body), ("SNI", &self.sni)];
        for (name, text) in texts.into_iter().chain([("send", &self.send), ("expect", &self.expect)]) {
            if let Some(text) = text {
                write!(f, ", {name} {text}")?;
            }
        }
        if self.verify {
            f.write_str(", verified")?;
        }
        write!(f, ", every {} ms, timeout {} ms", self.interval_ms, self.timeout_ms)?;
        let counted = |count: u8, one: &str, many: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {many}"),
        };
        write!(f, ", up after {}", counted(self.rise, "success", "successes"))?;
        write!(f, ", down after {}", counted(self.fall, "failure", "failures"))?;
        match self.retries {
            0 => Ok(()),
            _ => write!(f, " of {} each", counted(self.retries.saturating_add(1), "attempt", "attempts")),
        }
    }
}

/// A wish about the probe: what is absent keeps its value, or its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeWish {
    /// As [`Probe::kind`]. Settings that belong to other kinds only are forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<ProbeKind>,
    /// As [`Probe::interval_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
    /// As [`Probe::timeout_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// As [`Probe::rise`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u8>,
    /// As [`Probe::fall`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<u8>,
    /// As [`Probe::retries`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u8>,
    /// As [`Probe::port`]; 0 = the backend's port again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// As [`Probe::via`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// As [`Probe::path`]; of this and the following texts, an empty one = the default again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// As [`Probe::host`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// As [`Probe::status`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// As [`Probe::body`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// As [`Probe::sni`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// As [`Probe::verify`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// As [`Probe::send`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// As [`Probe::expect`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
}

impl ProbeWish {
    /// The probe that results from this wish over `base`.
    pub fn over(&self, base: Probe) -> Probe {
        let base = match self.kind {
            Some(kind) => base.turned_to(kind),
            None => base,
        };
        let text = |wished: &Option<String>, base: Option<String>| match wished {
            Some(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            None => base,
        };
        Probe {
            kind: base.kind,
            interval_ms: self.interval_ms.unwrap_or(base.interval_ms),
            timeout_ms: self.timeout_ms.unwrap_or(base.timeout_ms),
            rise: self.rise.unwrap_or(base.rise),
            fall: self.fall.unwrap_or(base.fall),
            retries: self.retries.unwrap_or(base.retries),
            port: self.port.map_or(base.port, |port| (port != 0).then_some(port)),
            via: self.via.unwrap_or(base.via),
            path: text(&self.path, base.path),
            host: text(&self.host, base.host),
            status: text(&self.status, base.status),
            body: text(&self.body, base.body),
            sni: text(&self.sni, base.sni),
            verify: self.verify.unwrap_or(base.verify),
            send: text(&self.send, base.send),
            expect: text(&self.expect, base.expect),
        }
    }
    /// The wish that, over `base`, gives `probe`.
    pub fn between(probe: &Probe, base: &Probe) -> Self {
        fn differs<T: PartialEq + Clone>(value: &T, base: &T) -> Option<T> {
            (value != base).then(|| value.clone())
        }
        let text = |value: &Option<String>, base: &Option<String>| {
            (value != base).then(|| value.clone().unwrap_or_default())
        };
        let kind = differs(&probe.kind, &base.kind);
        let base = &base.clone().turned_to(probe.kind);
        Self {
            kind,
            interval_ms: differs(&probe.interval_ms, &base.interval_ms),
            timeout_ms: differs(&probe.timeout_ms, &base.timeout_ms),
            rise: differs(&probe.rise, &base.rise),
            fall: differs(&probe.fall, &base.fall),
            retries: differs(&probe.retries, &base.retries),
            port: (probe.port != base.port).then(|| probe.port.unwrap_or_default()),
            via: differs(&probe.via, &base.via),
            path: text(&probe.path, &base.path),
            host: text(&probe.host, &base.host),
            status: text(&probe.status, &base.status),
            body: text(&probe.body, &base.body),
            sni: text(&probe.sni, &base.sni),
            verify: differs(&probe.verify, &base.verify),
            send: text(&probe.send, &base.send),
            expect: text(&probe.expect, &base.expect),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_old_logs_say_is_read() {
        let old =
            r#"{"kind": "tcp", "interval_ms": 500, "timeout_ms": 500, "rise": 2, "fall": 3, "port": 8053}"#;
        let read: Probe = serde_json::from_str(old).unwrap();
        let meant = Probe {
            interval_ms: 500,
            timeout_ms: 500,
            fall: 3,
            retries: 0,
            ..Probe::of_kind(ProbeKind::Tcp)
        };
        assert_eq!(read, Probe { port: Some(8053), ..meant });
    }

    #[test]
    fn another_kind_forgets_what_was_of_the_former_and_a_wish_between_two_probes_leads_from_one_to_the_other()
    {
        let wish = ProbeWish {
            kind: Some(ProbeKind::Https),
            path: Some("/healthz".to_owned()),
            sni: Some("example.org".to_owned()),
            verify: Some(true),
            retries: Some(3),
            port: Some(8443),
            ..ProbeWish::default()
        };
        let tcp = Probe::of_kind(ProbeKind::Tcp);
        let https = wish.over(tcp.clone());
        assert_eq!((https.path.as_deref(), https.verify), (Some("/healthz"), true));
        assert_eq!(ProbeWish::between(&https, &tcp), wish);
        let back = ProbeWish::between(&tcp, &https);
        assert_eq!((back.kind, back.path.as_deref(), back.port), (Some(ProbeKind::Tcp), None, Some(0)));
        assert_eq!(back.over(https.clone()), tcp);
        let tls = ProbeWish { kind: Some(ProbeKind::Tls), ..ProbeWish::default() }.over(https);
        assert_eq!((tls.path.clone(), tls.sni.as_deref(), tls.verify), (None, Some("example.org"), true));
        assert!(tls.foreign().is_empty());
        let by_vip = ProbeWish { via: Some(Via::Vip), ..ProbeWish::default() }.over(tls.clone());
        assert_eq!(ProbeWish::between(&tls, &by_vip).over(by_vip.clone()), tls);
        assert_eq!(Probe { kind: ProbeKind::None, sni: None, verify: false, ..by_vip }.foreign(), ["via"]);
        assert_eq!(Probe { path: Some("/".to_owned()), ..tls }.foreign(), ["path"]);
    }

    #[test]
    fn a_probe_is_shown_in_one_line() {
        let mut probe = Probe::of_kind(ProbeKind::Http);
        probe.status = Some("200".to_owned());
        let by_vip = Probe { via: Via::Vip, ..probe.clone() };
        assert!(by_vip.to_string().starts_with("http GET / by the vip's path, status 200, "), "{by_vip}");
        assert_eq!(
            probe.to_string(),
            "http GET /, status 200, every 200 ms, timeout 150 ms, up after 2 successes, down after 2 failures of 2 \
             attempts each"
        );
    }
}
