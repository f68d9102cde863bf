//! What a run came to: one JSON object, a text for people, and the verdict.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lb_userspace::api::views::DropView;
use serde::Serialize;

use super::account::Death;
use super::board::{Event, Known, Wish};
use super::cast::{Mode, SERVED};
use super::load::Tally;

/// A drain that had this long must have been seen to end: remembered flows are forgotten 10 s after their end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(17);

/// What was running.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// Of `lb`.
    pub lb: String,
    /// Of the kernel.
    pub kernel: String,
}

/// One run. Times that were not seen are `null`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether nothing failed that should not have.
    pub ok: bool,
    /// Whether somebody ended it early.
    pub interrupted: bool,
    /// `l2`, `ipip` or `nat`.
    pub mode: &'static str,
    /// How long traffic ran.
    pub seconds: f64,
    /// What was running.
    pub versions: Versions,
    /// What was counted.
    #[serde(flatten)]
    pub tally: Tally,
    /// From the last hang until the balancer said the same of a backend that hangs.
    pub hang_detect_ms: Option<u64>,
    /// From the last kill until the balancer said that the backend is down and its slots have moved.
    pub detect_ms: Option<u64>,
    /// From the drain until the balancer said that nothing is left on the backend.
    pub drained_ms: Option<u64>,
    /// From adding a backend until it had its share of the slots.
    pub added_ms: Option<u64>,
    /// From the daemon's death until its successor answered.
    pub daemon_away_ms: Option<u64>,
    /// From a mistake until `lb rollback` had brought back what was.
    pub rolled_back_ms: Option<u64>,
    /// What a tenant's limit dropped of its flood, packets/s.
    pub flood_dropped_pps: Option<f64>,
    /// Packets that the balancer dropped, by its reasons.
    pub drops: BTreeMap<String, u64>,
    /// What was wrong.
    pub problems: Vec<String>,
    /// What happened.
    pub events: Vec<Event>,
}

impl Report {
    /// Judges a run.
    #[must_use]
    pub fn new(mode: Mode, interrupted: bool, known: &Known, tally: Tally, drops: &[DropView]) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let took = |wish: Option<&Wish>| wish.and_then(Wish::took).map(ms);
        let last = |death: Death| known.kills.iter().rfind(|kill| kill.death == death);
        let detected = |death| last(death).and_then(|kill| kill.detected_after(SERVED.len())).map(ms);
        let lb = known.status.as_ref().map_or_else(String::new, |status| status.node.version.clone());
        let mut report = Self {
            ok: true,
            interrupted,
            mode: mode.word(),
            seconds: known.start.elapsed().as_secs_f64(),
            versions: Versions { lb, kernel: kernel() },
            tally,
            hang_detect_ms: detected(Death::Hung),
            detect_ms: detected(Death::Killed),
            drained_ms: took(known.drains.values().next()),
            // Names count up: the last one is the newest.
            added_ms: took(known.arrivals.values().next_back()),
            daemon_away_ms: took(known.restarts.last()),
            rolled_back_ms: took(known.rollbacks.last()),
            flood_dropped_pps: known.floods.last().copied(),
            drops: dropped(drops),
            problems: known.problems().map(str::to_owned).collect(),
            events: known.events.clone(),
        };
        report.judge(known);
        report.ok = report.problems.is_empty();
        report
    }

    /// Of a run that was ended before its traffic began.
    #[must_use]
    pub fn unbegun(mode: Mode, known: &Known) -> Self {
        let report = Self::new(mode, true, known, Tally::default(), &[]);
        let problems = vec!["it was ended while it was being built: no request was sent".to_owned()];
        Self { ok: false, seconds: 0.0, problems, ..report }
    }

    fn judge(&mut self, known: &Known) {
        let tally = &self.tally;
        let counts = [
            (tally.requests_failed, "requests failed that no killed backend explains"),
            (tally.udp_lost, "datagrams went unanswered that no killed backend explains"),
            (tally.connections_broken, "connections broke though their backend lived"),
        ];
        let mut problems: Vec<String> = Vec::new();
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            problems.push(format!("{count} {what}"));
        }
        let of = |answers: &BTreeMap<String, u64>, name| answers.get(name).copied().unwrap_or(0);
        for name in known.alive.keys() {
            if of(&tally.per_backend, name) == 0 || of(&tally.udp_per_backend, name) == 0 {
                problems.push(format!("{name} got no requests, or no datagrams"));
            }
        }
        if [tally.requests_ok_v4, tally.requests_ok_v6, tally.udp_answered_v4, tally.udp_answered_v6]
            .contains(&0)
        {
            problems.push("one family got no answers".to_owned());
        }
        if self.interrupted {
            // What had no time to be seen is no problem.
            self.problems.extend(problems);
            return;
        }
        for kill in known.kills.iter().filter(|kill| kill.back.is_none()) {
            if kill.detected_after(SERVED.len()).is_none() {
                problems.push(format!("the death of {} was not noticed", kill.backend));
            }
        }
        for (name, wish) in known.drains.iter().filter(|(_, wish)| wish.seen.is_none()) {
            if wish.at.elapsed() > DRAIN_DEADLINE {
                problems.push(format!("{name} was not seen drained"));
            }
        }
        for (name, _) in known.arrivals.iter().filter(|(_, wish)| wish.seen.is_none()) {
            problems.push(format!("{name} never served"));
        }
        self.problems.extend(problems);
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let tally = &self.tally;
        let verdict = if self.ok { "nothing failed that should not have" } else { "NOT as it should be" };
        let _ = writeln!(
            text,
            "Switchyard demo, mode {}, {:.0} s of traffic: {verdict}\n",
            self.mode, self.seconds
        );
        let mut line = |what: &str, words: String| {
            let _ = writeln!(text, "  {what:<20} {words}");
        };
        line(
            "requests",
            format!(
                "{} answered, {} failed, {} met a killed backend",
                tally.requests_ok, tally.requests_failed, tally.failed_on_killed
            ),
        );
        line(
            "datagrams",
            format!(
                "{} of {} answered, {} lost, {} met a killed backend",
                tally.udp_answered, tally.udp_sent, tally.udp_lost, tally.udp_lost_on_killed
            ),
        );
        line(
            "connections",
            format!(
                "{} opened, {} broken, {} died with their backend",
                tally.connections_opened, tally.connections_broken, tally.broken_on_killed
            ),
        );
        let backends = tally.per_backend.iter().map(|(name, count)| format!("{name} {count}"));
        line("requests by backend", backends.collect::<Vec<_>>().join(", "));
        for (what, ms) in [
            ("death noticed", self.detect_ms),
            ("hang noticed", self.hang_detect_ms),
            ("drained", self.drained_ms),
            ("added, serving", self.added_ms),
            ("without a daemon", self.daemon_away_ms),
            ("a mistake undone", self.rolled_back_ms),
        ] {
            if let Some(ms) = ms {
                line(
                    what,
                    format!("after {ms} ms")
                        .replace("after", if what == "without a daemon" { "for" } else { "after" }),
                );
            }
        }
        if let Some(rate) = self.flood_dropped_pps {
            line("a tenant's flood", format!("{rate:.0} packets/s of it dropped"));
        }
        let drops = self.drops.iter().map(|(reason, packets)| format!("{reason} {packets}"));
        let drops = drops.collect::<Vec<_>>().join(", ");
        line("packets dropped", if drops.is_empty() { "none".to_owned() } else { drops });
        for problem in self.problems.iter().chain(&tally.unexplained) {
            let _ = writeln!(text, "  PROBLEM: {problem}");
        }
        text
    }

    /// Writes `report.json` and `report.txt` below `dir`; returns where the text is.
    ///
    /// # Errors
    /// When the directory or a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut text = self.text() + "\n";
        for event in &self.events {
            let _ = writeln!(text, "  {:>8.3} s  {}", event.at_ms as f64 / 1e3, event.text);
        }
        let file = dir.join("report.txt");
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(dir.join("report.json"), json + "\n").context("write report.json")?;
        Ok(file)
    }
}

fn dropped(drops: &[DropView]) -> BTreeMap<String, u64> {
    let drops = drops.iter().filter(|view| view.class == "drop" && view.packets > 0);
    drops.map(|view| (view.reason.clone(), view.packets)).collect()
}

fn kernel() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned())
}
