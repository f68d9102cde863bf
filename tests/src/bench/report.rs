//! What is said at the end: a table for people on stderr, JSON and a plot in `target/bench`, the keys on stdout.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::control::ControlReport;
use super::failover::Failover;
use super::hash::Hash;
use super::http::{self, Http};
use super::path::{Cell, PathReport};
use super::plot;
use super::rate::Rate;

/// What a key should reach.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// Said, not judged.
    Said,
}

/// Every key with what it should reach, in the order in which they are shown.
const REACHES: &[(&str, Reach)] = &[
    ("tracker_ratio_100k", Reach::AtLeast(2.5)),
    ("tracker_ratio_1m", Reach::AtLeast(3.0)),
    ("tracker_ratio_syn_50m", Reach::AtLeast(8.0)),
    ("million_vs_reference_one", Reach::AtMost(1.1)),
    ("moving_ratio_1m", Reach::AtLeast(1.2)),
    ("always_ratio_1m", Reach::AtLeast(1.3)),
    ("tenant_limit_ratio", Reach::AtMost(1.25)),
    ("flat_1m", Reach::Said),
    ("flat_syn_50m", Reach::Said),
    ("redirect_share", Reach::AtLeast(0.75)),
    ("redirect_share_flood", Reach::AtLeast(0.72)),
    ("http_keepalive_share", Reach::AtLeast(0.95)),
    ("http_close_share", Reach::AtLeast(1.0)),
    ("http_keepalive_share_passing", Reach::Said),
    ("http_close_share_passing", Reach::Said),
    ("maglev_build_1000_ms", Reach::AtMost(5.0)),
    ("evenness", Reach::AtMost(1.02)),
    ("maglev_disruption_10", Reach::Said),
    ("maglev_disruption_1000", Reach::Said),
    ("table_disruption_10", Reach::AtMost(1.05)),
    ("table_disruption_100", Reach::AtMost(1.2)),
    ("table_disruption_1000", Reach::AtMost(2.5)),
    ("table_evenness", Reach::AtMost(1.04)),
    ("table_emptiest", Reach::Said),
    ("table_build_ms", Reach::AtMost(200.0)),
    ("table_incremental_ms", Reach::AtMost(10.0)),
    ("flow_bytes", Reach::AtMost(24.0)),
    ("failover_kill_ms", Reach::AtMost(250.0)),
    ("failover_hang_ms", Reach::AtMost(1_000.0)),
    ("failover_error_ms", Reach::Said),
    ("failover_blackhole_ms", Reach::AtMost(1_000.0)),
    ("hash_siphash_ns", Reach::Said),
    ("hash_xxh64_ns", Reach::Said),
    ("hash_siphash_v6_ns", Reach::Said),
    ("hash_xxh64_v6_ns", Reach::Said),
];

/// The same of the control plane's.
const CONTROL_REACHES: &[(&str, Reach)] = &[
    ("append_ratio", Reach::AtMost(2.0)),
    ("group_commit_ratio", Reach::AtLeast(8.0)),
    ("group_commit_ratio_as_is", Reach::Said),
    ("replay_eps", Reach::AtLeast(1e6)),
    ("replay_chain_eps", Reach::AtLeast(5e5)),
    ("snapshot_start_ratio", Reach::AtMost(1.5)),
    ("query_interference", Reach::AtMost(1.3)),
    ("inventory_ratio", Reach::AtMost(3.0)),
    ("change_to_kernel_ms", Reach::AtMost(5.0)),
    ("state_mib", Reach::AtMost(64.0)),
    ("probe_cpu_share", Reach::AtMost(0.25)),
];

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The control plane, if that was asked for.
    pub control: Option<ControlReport>,
    /// (a)
    pub path: PathReport,
    /// What a flow's hash costs.
    pub hashes: Vec<Hash>,
    /// (b)
    pub rates: Vec<Rate>,
    /// (c)
    pub https: Vec<Http>,
    /// (d)
    pub failover: Vec<Failover>,
    /// Contenders of (c) that are not installed here.
    pub skipped: Vec<http::Contender>,
    /// The keys of the last line; `None` was not measured.
    #[serde(skip)]
    pub keys: Vec<(&'static str, Option<f64>)>,
}

impl Report {
    fn reaches(&self) -> &'static [(&'static str, Reach)] {
        if self.control.is_some() { CONTROL_REACHES } else { REACHES }
    }

    fn value(&self, name: &str) -> Option<f64> {
        self.keys.iter().find(|(key, _)| *key == name)?.1
    }

    /// The keys as one object; what was not measured is null.
    pub fn line(&self) -> Value {
        let pairs =
            self.reaches().iter().map(|(key, _)| ((*key).to_owned(), json!(self.value(key).map(rounded))));
        Value::Object(pairs.collect::<Map<_, _>>())
    }

    /// Writes `bench.json` and `bench.svg`, or `control.json`; returns their directory.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn write(&self) -> Result<PathBuf> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let all = json!({ "keys": self.line(), "notes": NOTES, "measured": self });
        let file = dir.join(if self.control.is_some() { "control.json" } else { "bench.json" });
        fs::write(&file, format!("{all:#}\n")).with_context(|| format!("write {}", file.display()))?;
        if self.control.is_none() {
            plot::draw(self, &dir.join("bench.svg"))?;
        }
        dir.canonicalize().context("find the directory of the results")
    }

    /// Prints tables for people.
    pub fn show(&self) {
        if let Some(control) = &self.control {
            eprintln!("{}", serde_json::to_string_pretty(control).unwrap_or_default());
        }
        show_cells(&self.path.cells);
        show_rates(&self.rates);
        show_https(&self.https);
        show_failover(&self.failover);
        eprintln!("\n{:<26} {:>10}  reach", "key", "measured");
        for (key, reach) in self.reaches() {
            let Some(value) = self.value(key) else {
                eprintln!("{key:<26} {:>10}", "-");
                continue;
            };
            eprintln!("{key:<26} {value:>10.2}  {}", verdict(value, *reach));
        }
    }
}

/// What the numbers are, for who reads the file alone.
const NOTES: &[&str] = &[
    "Ratios within one run; contenders take turns in short rounds, and medians count.",
    "path: nanoseconds of CPU time a packet, one CPU, BPF_PROG_TEST_RUN, 60-byte TCP frames over IPv4, 16 backends, \
     one vip of 65,537 slots; net = less the empty program. Ratios are those of IPIP.",
    "reference: the same path with only the tracking replaced by a lookup, and an insert on a miss, in the kernel's \
     LRU hash, 16-byte keys, LRU lists by CPU, room for 4 million flows on each.",
    "hashes: nanoseconds of one hash of a flow in BPF, measured as path is; eight in a row, each waiting for the one \
     before, less the same program without a hash. siphash is SipHash-1-3 as the balancer uses it, xxh64 has a seed.",
    "rates: client, node and four backends on cables (veth) of their own; generator, node and sinks in lockstep on one \
     CPU, live frames of 60 bytes in batches of 64, counted at the backends' devices; L2.",
    "https: wrk with one thread and 64 connections, nginx on each of four backends, one process each; all on all CPUs. \
     The same network for each contender; replies by the node's plain routing.",
    "https, offloads: what ethtool says of each contender's devices while it was measured. They are on everywhere for \
     everyone, with one exception: the client's checksums and large segments are off where the balancer is, since XDP \
     would send them on unfinished. So its client works more than those of the others.",
    "failover: one of four backends fails under wrk (8 connections) and 32 workers of our own, a connection for each \
     request, 250 ms to answer; L2; probe of kind http, all else default. last: from the failure to when the last request \
     that failed began. others: the longest time without an answer of the other three.",
    "https, skipped: contenders that were not installed.",
    "control: a release build of the daemon, its log on the file system of the temporary directory; 1,000 vips of 10 \
     backends, tables of 1,009 slots; records of one event. state: what the daemon's anonymous memory grows by.",
];

fn show_cells(cells: &[Cell]) {
    if cells.is_empty() {
        return;
    }
    eprintln!("{:<5} {:<7} {:>11} {:<12} {:>9} {:>9}", "mode", "flows", "number", "program", "ns", "net ns");
    for cell in cells {
        let kind = if cell.flood { "new" } else { "" };
        let flows = format!("{} {kind}", cell.flows);
        let (mode, are) = (format!("{:?}", cell.mode), format!("{:?}", cell.flows_are));
        eprintln!(
            "{mode:<5} {are:<7} {flows:>11} {:<12} {:>9.1} {:>9.1}",
            cell.program, cell.ns, cell.net_ns
        );
    }
}

fn show_rates(rates: &[Rate]) {
    if rates.is_empty() {
        return;
    }
    eprintln!("\n{:<14} {:<18} {:>12} {:>6} {:>10}", "load", "contender", "packets/s", "share", "delivered");
    for rate in rates {
        let contender = rate.contender.words();
        let (packets, share, delivered) = (rate.packets_per_s, rate.share, rate.delivered);
        eprintln!("{:<14} {contender:<18} {packets:>12.0} {share:>6.2} {delivered:>10.3}", rate.load);
    }
}

fn show_https(https: &[Http]) {
    if https.is_empty() {
        return;
    }
    eprintln!(
        "\n{:<10} {:<18} {:>10} {:>6} {:>8} {:>7}",
        "requests", "contender", "per s", "share", "p99 ms", "errors"
    );
    for http in https {
        let (kind, contender) = (if http.close { "close" } else { "keepalive" }, http.contender.words());
        let Http { requests_per_s, share, latency_p99_ms, errors, .. } = http;
        eprintln!(
            "{kind:<10} {contender:<18} {requests_per_s:>10.0} {share:>6.2} {latency_p99_ms:>8.2} {errors:>7}"
        );
    }
}

fn show_failover(all: &[Failover]) {
    if all.is_empty() {
        return;
    }
    eprintln!(
        "\n{:<10} {:>8} {:>9} {:>8} {:>9} {:>12} {:>12}",
        "one fails", "failed", "answered", "last ms", "worst ms", "others ms", "recovery ms"
    );
    for Failover { case, median, worst_ms, .. } in all {
        let (case, last, stall) = (format!("{case:?}"), median.last_failure_ms, median.others_stall_ms);
        eprintln!(
            "{case:<10} {:>8} {:>9} {last:>8.0} {worst_ms:>9.0} {stall:>12.0} {:>12.0}",
            median.failed, median.answered, median.recovery_ms
        );
    }
}

fn verdict(value: f64, reach: Reach) -> String {
    let judged = |reached: bool, sign: &str, limit: f64| {
        format!("{} {sign} {limit}", if reached { "reached" } else { "MISSED" })
    };
    match reach {
        Reach::AtLeast(limit) => judged(value >= limit, ">=", limit),
        Reach::AtMost(limit) => judged(value <= limit, "<=", limit),
        Reach::Said => String::new(),
    }
}

/// Three digits after the point are more than the machine can tell.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_last_line_measured_or_not() {
        let report = Report { keys: vec![("evenness", Some(1.234_56))], ..Report::default() };
        let line = report.line();
        assert_eq!(line["evenness"], 1.235);
        assert!(line["flow_bytes"].is_null());
        assert_eq!(line.as_object().map(|object| object.len()), Some(REACHES.len()));
    }

    #[test]
    fn a_missed_reach_is_said() {
        assert!(verdict(0.7, Reach::AtLeast(0.75)).starts_with("MISSED"));
        assert!(verdict(0.7, Reach::AtMost(0.75)).starts_with("reached"));
    }
}
