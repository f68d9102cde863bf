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

use lb_control::balancing::BalancingWish;
use lb_control::breaker::BreakerWish;
use lb_control::command::{BackendSpec, DEFAULT_TENANT, Document, TenantSpec, VipSpec};
use lb_control::degradation::LadderWish;
use lb_control::probe::ProbeWish;
use lb_control::projection::inventory::Inventory;
use lb_control::tenant::TenantLimits;
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

/// The document that, applied, changes nothing of what there is. Defaults are left out.
pub fn export(inventory: &Inventory) -> Document {
    // The one that always exists is named only if it has limits.
    let named = |name: &str, limits: &TenantLimits| name != DEFAULT_TENANT || !limits.is_empty();
    let tenants = inventory.tenants.iter().filter(|(name, tenant)| named(name, &tenant.limits));
    Document {
        tenants: tenants
            .map(|(name, tenant)| TenantSpec { name: name.to_string(), limits: tenant.limits })
            .collect(),
        vips: inventory.vips.iter().map(|(name, vip)| vip_spec(name, vip)).collect(),
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
    spec.probe = differs(ProbeWish::between(&settings.probe, &defaults.probe), ProbeWish::default());
    let breaker = BreakerWish::between(&settings.breaker, &defaults.breaker);
    spec.breaker = differs(breaker, BreakerWish::default());
    let balancing = BalancingWish::between(&defaults.balancing, &settings.balancing);
    spec.balancing = differs(balancing, BalancingWish::default());
    spec.ladder = differs(LadderWish::between(&settings.ladder, &defaults.ladder), LadderWish::default());
    spec.backends = vip
        .backends
        .iter()
        .map(|(name, backend)| BackendSpec {
            name: name.clone(),
            address: backend.address,
            port: differs(backend.port, vip.served.port),
            weight: u32::from(backend.weight),
            intent: backend.intent,
            backup: backend.backup,
        })
        .collect();
    spec
}

fn differs<T: PartialEq>(value: T, default: T) -> Option<T> {
    (value != default).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Document, String> {
        let source = Source { name: "lb.toml".to_owned(), text: text.to_owned() };
        source.parse().map(|loaded| loaded.document).map_err(|report| report.text(false))
    }

    fn faults(text: &str) -> Vec<String> {
        let source = Source { name: "lb.toml".to_owned(), text: text.to_owned() };
        let problem = source.parse().unwrap_err().problem();
        let line = |p: &Problem| format!("{} {} {}", p.code, p.place.as_deref().unwrap_or("?"), p.message);
        std::iter::once(&problem).chain(&problem.also).map(line).collect()
    }

    #[test]
    fn every_fault_is_told_at_once_each_at_its_place() {
        let text = r#"
[[vip]]
name = "web"
adress = "203.0.113.10"
port = "80"
mode = "dsr"
tracking = "alway"

[[vip.backend]]
name = "b1"
address = "10.0.0.300"
weight = -1
colour = "red"

[[vips]]
"#;
        assert_eq!(
            faults(text),
            [
                "LB3004 lb.toml:2:1 a vip needs `address`",
                "LB3003 lb.toml:4:1 a vip has no key `adress`; did you mean `address`?",
                "LB3004 lb.toml:5:8 `port` must be a whole number, not string",
                "LB3004 lb.toml:6:8 `mode` must be one of l2, ipip, nat, not `dsr`",
                "LB3004 lb.toml:7:12 `tracking` must be one of auto, always, never, not `alway`; did you mean `always`?",
                "LB3004 lb.toml:11:11 `address` must be an IPv4 or IPv6 address, not `10.0.0.300`",
                "LB3004 lb.toml:12:10 `weight` must be from 0 to 65535, not -1",
                "LB3003 lb.toml:13:1 a backend has no key `colour`; its keys are name, address, port, weight, intent, backup",
                "LB3003 lb.toml:15:3 the file has no key `vips`; did you mean `vip`?",
            ]
        );
    }

    #[test]
    fn a_fault_has_a_caret_a_code_and_what_to_do() {
        let text = parse("[[vip]]\nname = \"web\"\naddress = \"203.0.113.10:80\"\nport = 80\n").unwrap_err();
        assert_eq!(
            text.trim_end(),
            r#"LB3004

  × `address` must be an IPv4 or IPv6 address, not `203.0.113.10:80`; port and protocol have keys
   ╭─[lb.toml:3:11]
 2 │ name = "web"
 3 │ address = "203.0.113.10:80"
   ·           ────────┬────────
   ·                   ╰── here
 4 │ port = 80
   ╰────
  help: The message says what can stand there."#
        );
    }

    #[test]
    fn what_is_not_toml_is_shown_where_it_ends_to_be() {
        let found = faults("[[vip]]\nname = \n\n[[tenant\n");
        assert!(found.len() >= 2 && found[0].starts_with("LB3002 lb.toml:2:"), "{found:?}");
    }

    #[test]
    fn a_place_that_the_file_does_not_have_is_the_table_around_it() {
        let source = Source { name: "lb.toml".to_owned(), text: "[[tenant]]\nname = \"a\"\n".to_owned() };
        let loaded = source.parse().unwrap();
        assert_eq!(nearest(&loaded.spans, "document.tenant[0].name"), Some(18..21));
        assert_eq!(nearest(&loaded.spans, "tenant[0].colour.shade"), nearest(&loaded.spans, "tenant[0]"));
        assert_eq!(nearest(&loaded.spans, ""), None);
    }

    #[test]
    fn the_file_knows_every_algorithm_and_guesses_at_a_misspelt_one() {
        let file = |algorithm: &str| {
            let vip = "[[vip]]\nname = \"web\"\naddress = \"203.0.113.10\"\nport = 80\n";
            parse(&format!("{vip}balancing = {{ algorithm = \"{algorithm}\" }}\n"))
        };
        for algorithm in lb_control::balancing::Algorithm::ALL {
            let wish = file(algorithm.name()).unwrap().vips[0].balancing.unwrap();
            assert_eq!(wish.algorithm, Some(algorithm));
        }
        let problem = file("least_conections").unwrap_err();
        assert!(format!("{problem:?}").contains("did you mean `least_connections`?"), "{problem:?}");
    }

    const EVERY_KEY: &str = r#"
[[tenant]]
name = "acme"
[[vip]]
name = "web"
address = "203.0.113.10"
port = 80
protocol = "udp"
tenant = "acme"
mode = "l2"
tracking = "never"
udp_stateless = true
window_s = 1
idle_s = 2
table_size = 251
[vip.balancing]
algorithm = "source_affinity"
affinity_s = 8
syn_s = 9
closing_s = 10
[vip.probe]
kind = "tcp"
interval_ms = 3
timeout_ms = 4
rise = 5
fall = 6
retries = 7
port = 8
via = "vip"
path = "/"
host = "a"
status = "200"
body = "b"
sni = "c"
verify = true
send = "d"
expect = "hex:ee"
[vip.breaker]
consecutive = 1
ratio_percent = 2
volume = 3
window_s = 4
backoff_ms = 500
backoff_max_ms = 600
calm_s = 7
trial_cps = 8
trial_successes = 9
slow_start_s = 10
floor_percent = 11
ejection_max_percent = 12
[vip.ladder]
fail_fast = false
last_known_good = false
fallback = "spare"
[[vip.backend]]
name = "b1"
address = "10.0.0.1"
port = 81
weight = 8
intent = "disabled"
backup = true
"#;

    /// The schema and the document must name the same keys: a file with every key is a document.
    #[test]
    fn a_file_with_every_key_is_a_document() {
        let document = parse(EVERY_KEY).unwrap();
        let keys = |table: &schema::Table| table.keys.len();
        let vip = serde_json::to_value(&document.vips[0]).unwrap();
        let schema::Kind::List(vip_table) = &schema::FILE.keys[1].kind else { panic!("vips are a list") };
        assert_eq!(vip.as_object().unwrap().len(), keys(vip_table));
        for key in vip_table.keys {
            match &key.kind {
                schema::Kind::Table(inner) => {
                    assert_eq!(vip[key.name].as_object().unwrap().len(), keys(inner), "{}", key.name);
                }
                schema::Kind::List(inner) => {
                    assert_eq!(vip[key.name][0].as_object().unwrap().len(), keys(inner), "{}", key.name);
                }
                _ => assert!(!vip[key.name].is_null(), "{}", key.name),
            }
        }
    }
}
