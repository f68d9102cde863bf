//! Speed of HTTP by wrk: its command line and its report.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::curl::url;
use super::http::Reuse;
use crate::netns::Namespace;

/// Description of one run.
#[derive(Clone, Debug)]
pub struct Wrk {
    vip: SocketAddr,
    path: String,
    threads: usize,
    connections: usize,
    duration: Duration,
    reuse: Reuse,
}

impl Wrk {
    /// A run on `/` of `vip`: 1 thread, 64 connections kept alive, 2 s.
    #[must_use]
    pub fn new(vip: SocketAddr) -> Self {
        Self {
            vip,
            path: "/".to_owned(),
            threads: 1,
            connections: 64,
            duration: Duration::from_secs(2),
            reuse: Reuse::KeepAlive,
        }
    }

    /// What to ask for.
    #[must_use]
    pub fn path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Threads of wrk.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Connections at the same time, over all threads.
    #[must_use]
    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// How long, in whole seconds (rounded up).
    #[must_use]
    pub fn duration(self, duration: Duration) -> Self {
        Self { duration, ..self }
    }

    /// Whether connections are used again.
    #[must_use]
    pub fn reuse(self, reuse: Reuse) -> Self {
        Self { reuse, ..self }
    }

    /// Runs it inside `client` to the end.
    ///
    /// # Errors
    /// When wrk is missing, cannot connect at all, or prints what is not understood.
    pub fn run(&self, client: &Namespace) -> Result<WrkReport> {
        let seconds = self.duration.as_secs() + u64::from(self.duration.subsec_nanos() > 0);
        let mut command = Command::new("wrk");
        command.arg("--latency").args(["--threads", &self.threads.to_string()]);
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--duration", &format!("{}s", seconds.max(1))]);
        if self.reuse == Reuse::PerRequest {
            command.args(["--header", "Connection: close"]);
        }
        let output = client.output(command.arg(url(self.vip, &self.path)))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "wrk: {} {}", text.trim(), errors.trim());
        parse(&text).with_context(|| format!("not understood: {text}"))
    }
}

/// What one run has measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WrkReport {
    /// Answered requests per second.
    pub requests_per_s: f64,
    /// Answered requests.
    pub requests: u64,
    /// Median latency in microseconds.
    pub latency_p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub latency_p99_us: f64,
    /// Failed connects, reads, writes and timeouts together.
    pub socket_errors: u64,
    /// Answers with a status of 400 or above.
    pub status_errors: u64,
}

impl WrkReport {
    /// Everything that went wrong.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.socket_errors + self.status_errors
    }
}

fn parse(text: &str) -> Option<WrkReport> {
    let after = |prefix: &str| text.lines().find_map(|line| line.trim().strip_prefix(prefix));
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    let socket_errors: u64 = after("Socket errors:").map_or(Some(0), |counts| {
        counts.split(',').map(|count| count.split_whitespace().last()?.parse::<u64>().ok()).sum()
    })?;
    let status_errors = after("Non-2xx or 3xx responses:").map_or(Some(0), |count| count.trim().parse().ok());
    Some(WrkReport {
        requests_per_s: after("Requests/sec:")?.trim().parse().ok()?,
        requests: requests.split_whitespace().next()?.parse().ok()?,
        latency_p50_us: microseconds(after("50%")?)?,
        latency_p99_us: microseconds(after("99%")?)?,
        socket_errors,
        status_errors: status_errors?,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let split = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let number: f64 = text[..split].parse().ok()?;
    let factor = match &text[split..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 6e7,
        _ => return None,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://203.0.113.10:80/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.09ms    2.31ms  37.92ms   94.89%
    Req/Sec    80.28k     8.32k   93.67k    60.00%
  Latency Distribution
     50%  642.00us
     75%    0.95ms
     90%    1.71ms
     99%   12.10ms
  79873 requests in 1.00s, 15.69MB read
  Socket errors: connect 1, read 20, write 0, timeout 300
  Non-2xx or 3xx responses: 7
Requests/sec:  79781.32
Transfer/sec:     15.67MB
";

    #[test]
    fn reads_a_report() {
        let report = parse(REPORT).unwrap();
        assert_eq!(report.requests, 79_873);
        assert!((report.requests_per_s - 79_781.32).abs() < 0.001);
        assert!((report.latency_p50_us - 642.0).abs() < 0.001);
        assert!((report.latency_p99_us - 12_100.0).abs() < 0.001);
        assert_eq!((report.socket_errors, report.status_errors, report.errors()), (321, 7, 328));
    }

    #[test]
    fn no_error_lines_means_none_and_no_report_is_refused() {
        let clean: String = REPORT
            .lines()
            .filter(|line| !line.contains("rrors") && !line.contains("Non-2xx"))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(parse(&clean).unwrap().errors(), 0);
        assert_eq!(parse("unable to connect to 203.0.113.10:80 Connection refused"), None);
    }
}
