//! The configuration file: TOML in, a [`Document`] out, and back. Every fault is shown at its place in the text.
//!
//! The file is an input to `apply`, never a second truth: the journal is the only one. What a value may be in the
//! light of all others is decided by `lb_control` in the daemon; its rejections name fields by path, and are shown at
//! the same places as the faults found here.

pub mod report;
pub mod schema;
mod walk;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use lb_control::command::{BackendSpec, DEFAULT_TENANT, DEFAULT_WEIGHT, Document, TenantSpec, VipSpec};
use lb_control::probe::{Probe, ProbeWish};
use lb_control::state::State;
use lb_control::vip::{Vip, VipSettings};

use crate::problem::{Code, Problem};
use report::Report;

/// A file that was read.
#[derive(Debug)]
pub struct Source {
    /// Its name, for messages.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A file that is a document.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub document: Document,
    source: Source,
    spans: BTreeMap<String, Range<usize>>,
}

impl Source {
    /// Reads a file; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let name = path.display().to_string();
        let mut text = String::new();
        let read = if name == "-" {
            std::io::stdin().read_to_string(&mut text)
        } else {
            std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
        };
        match read {
            Ok(_) => Ok(Self { name, text }),
            Err(error) => Err(Problem::new(Code::ConfigFile, format!("cannot read {name}: {error}"))),
        }
    }

    /// Parses it.
    ///
    /// # Errors
    /// Every fault that can be found without the daemon, all at once.
    pub fn parse(self) -> Result<Loaded, Report> {
        let walked = walk::walk(&self.text);
        if !walked.faults.is_empty() {
            return Err(Report::of_faults(self, walked.faults));
        }
        match serde_json::from_value(walked.value) {
            Ok(document) => Ok(Loaded { document, source: self, spans: walked.spans }),
            Err(error) => {
                let message = error.to_string();
                Err(Report::of_faults(
                    self,
                    vec![walk::Fault { code: Code::ConfigValue, message, span: 0..0 }],
                ))
            }
        }
    }
}

impl Loaded {
    /// What the daemon said about the document, at the places in the file that it means.
    pub fn locate(self, problem: Problem) -> Report {
        let spans = self.spans;
        let span = |place: Option<&str>| nearest(&spans, place.unwrap_or_default());
        Report::of_problem(self.source, problem, span)
    }
}

/// Where a field stands, or the innermost table around it that is in the file.
fn nearest(spans: &BTreeMap<String, Range<usize>>, path: &str) -> Option<Range<usize>> {
    let path = path.strip_prefix("document.").unwrap_or(path);
    let ends = path.char_indices().filter(|(_, c)| *c == '.').map(|(at, _)| at);
    let mut ends: Vec<usize> = ends.chain([path.len()]).collect();
    ends.reverse();
    ends.into_iter().filter(|end| *end > 0).find_map(|end| spans.get(&path[..end]).cloned())
}

/// The document that, applied, changes nothing of `state`. Defaults are left out.
pub fn export(state: &State) -> Document {
    let tenants = state.tenants.keys().filter(|name| *name != DEFAULT_TENANT);
    Document {
        tenants: tenants.map(|name| TenantSpec { name: name.clone() }).collect(),
        vips: state.vips.iter().map(|(name, vip)| vip_spec(name, vip)).collect(),
    }
}

/// The document as text.
///
/// # Errors
/// A bug: everything in a document has a form in TOML.
pub fn text(document: &Document) -> Result<String, Problem> {
    toml::to_string(document).map_err(|error| Problem::bug(format!("cannot write TOML: {error}")))
}

fn vip_spec(name: &str, vip: &Vip) -> VipSpec {
    let defaults = VipSettings::defaults(vip.served.protocol, vip.served.port, vip.settings.mode);
    let settings = &vip.settings;
    let mut spec = VipSpec::new(name, vip.served.address, vip.served.port, vip.served.protocol);
    spec.tenant = vip.tenant.clone();
    spec.mode = Some(settings.mode);
    spec.tracking = differs(settings.tracking, defaults.tracking);
    spec.udp_stateless = differs(settings.udp_stateless, defaults.udp_stateless);
    spec.window_s = differs(settings.window_s, defaults.window_s);
    spec.idle_s = differs(u32::from(settings.idle_s), u32::from(defaults.idle_s));
    spec.table_size = differs(settings.table_size, defaults.table_size);
    spec.probe = differs(probe_wish(&settings.probe, &defaults.probe), ProbeWish::default());
    spec.backends = vip
        .backends
        .iter()
        .map(|(name, backend)| BackendSpec {
            name: name.clone(),
            address: backend.address,
            port: differs(backend.port, vip.served.port),
            weight: u32::from(backend.weight),
            intent: backend.intent,
        })
        .collect();
    spec
}

fn probe_wish(probe: &Probe, defaults: &Probe) -> ProbeWish {
    ProbeWish {
        kind: differs(probe.kind, defaults.kind),
        interval_ms: differs(probe.interval_ms, defaults.interval_ms),
        timeout_ms: differs(probe.timeout_ms, defaults.timeout_ms),
        rise: differs(probe.rise, defaults.rise),
        fall: differs(probe.fall, defaults.fall),
        port: probe.port,
    }
}

fn differs<T: PartialEq>(value: T, default: T) -> Option<T> {
    (value != default).then_some(value)
}

/// The weight of a backend that names none, for the manual.
pub const WEIGHT: u32 = DEFAULT_WEIGHT;
