//! The demo as its user meets it: the program, its last line, its exit code, and what is left on the machine after
//! it ended, was interrupted, or was killed. What is on its screen is tested beside the code that draws it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lb_tests::require_root;
use lb_tests::scratch::ScratchDir;
use lb_tests::sweep::{names_of_process, pins_of_process};
use lb_tests::wait::{wait_for, wait_until};
use serde_json::Value;

/// Longest wait for anything but the end of a run that was told how long to be.
const DEADLINE: Duration = Duration::from_secs(120);
/// Length of a whole run: each act of the timeline has its time, and a death is noticed.
const SECONDS: u64 = 8;
/// What the demo says when its first request is under way.
const TRAFFIC: &str = "requests run";

/// A running demo, and what it says.
struct Demo {
    child: Child,
    said: Receiver<String>,
    stdout: PathBuf,
    _dir: ScratchDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let dir = ScratchDir::create().unwrap();
        let stdout = dir.path().join("stdout");
        let mut child = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, said) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| sender.send(line).unwrap_or_default());
        });
        Self { child, said, stdout, _dir: dir }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has said this.
    fn hear(&self, words: &str) {
        let mut heard = String::new();
        while !heard.contains(words) {
            match self.said.recv_timeout(DEADLINE) {
                Ok(line) => heard.push_str(&(line + "\n")),
                Err(error) => panic!("{error}: no {words:?} in\n{heard}"),
            }
        }
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap().success());
    }

    fn end(&mut self, deadline: Duration) -> ExitStatus {
        wait_for("the demo's end", deadline, || self.child.try_wait().unwrap()).unwrap().0
    }

    /// The last line of stdout.
    fn report(&self) -> Value {
        let text = std::fs::read_to_string(&self.stdout).unwrap();
        let line = text.lines().last().unwrap_or_else(|| panic!("nothing on stdout"));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Programs inside its namespaces.
    fn programs(&self) -> Vec<String> {
        let listing =
            |name: &String| Command::new("ip").args(["netns", "pids", name]).output().unwrap().stdout;
        let names = names_of_process(self.pid());
        let pids = names.iter().flat_map(|name| {
            String::from_utf8(listing(name)).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        });
        let own = self.pid().to_string();
        pids.filter(|pid| *pid != own).collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Of a test that failed; one that has ended is reaped by the same calls.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process runs; one that nobody has reaped yet does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// What there still is of a demo, in words.
fn left_of(pid: u32, programs: &[String]) -> Vec<String> {
    let mut left = names_of_process(pid);
    left.extend(pins_of_process(pid).iter().map(|path| path.display().to_string()));
    left.extend(programs.iter().filter(|pid| runs(pid)).map(|pid| format!("process {pid}")));
    let scratch = std::env::temp_dir().join(format!("lb-{pid}-0"));
    left.extend(scratch.exists().then(|| scratch.display().to_string()));
    left
}

#[test]
fn a_run_ends_with_one_object_and_nothing_left() {
    require_root!("demo::a_run_ends_with_one_object_and_nothing_left", "nginx");
    let mut demo = Demo::start(&["--headless", "--json", "--seconds", &SECONDS.to_string()]);
    demo.hear(TRAFFIC);
    let programs = demo.programs();
    assert!(programs.len() >= 4, "a daemon and three backends: {programs:?}");
    let status = demo.end(Duration::from_secs(SECONDS) + DEADLINE);
    let report = demo.report();
    assert_eq!(status.code(), Some(0), "{}: {report:#}", report["problems"]);
    for key in ["requests_failed", "connections_broken", "udp_lost"] {
        assert_eq!(report[key], 0, "{key}: {report:#}");
    }
    for key in ["requests_ok", "detect_ms", "udp_sent", "udp_answered", "rolled_back_ms", "hang_detect_ms"] {
        assert!(report[key].as_u64().is_some_and(|count| count > 0), "{key}: {report:#}");
    }
    assert!(report["failed_on_killed"].is_u64(), "{report:#}");
    assert!(report["flood_dropped_pps"].as_f64().is_some_and(|rate| rate > 0.0), "{report:#}");
    let told = |text: &str| report["events"].to_string().contains(text);
    assert!(told("half-open") && told("backoff is over"), "a trial was shown: {report:#}");
    let used = report["per_backend"].as_object().unwrap();
    assert_eq!(used.keys().collect::<Vec<_>>(), ["b0", "b1", "b2", "b3"], "{report:#}");
    assert!(used.values().all(|count| count.as_u64() > Some(0)), "{report:#}");
    assert_eq!(left_of(demo.pid(), &programs), Vec::<String>::new());
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    require_root!("demo::a_signal_ends_it_and_nothing_is_left", "nginx");
    for signal in ["-INT", "-TERM"] {
        let mut demo = Demo::start(&["--headless", "--json", "--seconds", "600"]);
        demo.hear(TRAFFIC);
        let programs = demo.programs();
        assert!(!programs.is_empty() && !pins_of_process(demo.pid()).is_empty());
        demo.signal(signal);
        assert_eq!(demo.end(DEADLINE).code(), Some(130), "{signal}");
        assert_eq!(demo.report()["interrupted"], true, "{signal}");
        assert_eq!(left_of(demo.pid(), &programs), Vec::<String>::new(), "{signal}");
    }
}

#[test]
fn a_signal_while_it_builds_is_heard() {
    require_root!("demo::a_signal_while_it_builds_is_heard", "nginx");
    let mut demo = Demo::start(&["--headless", "--json", "--seconds", "600"]);
    let begun = || !names_of_process(demo.pid()).is_empty();
    wait_until("its first namespace", DEADLINE, begun).unwrap();
    demo.signal("-INT");
    assert_eq!(demo.end(DEADLINE).code(), Some(130));
    let report = demo.report();
    assert_eq!((&report["ok"], &report["interrupted"]), (&false.into(), &true.into()), "{report:#}");
    assert_eq!((&report["requests_ok"], &report["udp_sent"]), (&0.into(), &0.into()), "{report:#}");
    assert_eq!(left_of(demo.pid(), &[]), Vec::<String>::new());
}

#[test]
fn without_root_one_sentence_says_what_to_do() {
    require_root!("demo::without_root_one_sentence_says_what_to_do", "nginx", "unshare");
    let mut command = Command::new("unshare");
    command.args(["--user", env!("CARGO_BIN_EXE_demo"), "--headless", "--json"]).env("RUST_BACKTRACE", "1");
    let output = command.output().unwrap();
    let (said, data) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert_eq!(output.status.code(), Some(1), "{said}");
    let sentence = "demo: error: the demo cannot run: namespaces need root: try it with `sudo -E`\n";
    assert_eq!(said, sentence);
    let object: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(object["ok"], false, "{object}");
}

#[test]
fn the_next_run_removes_what_a_killed_one_left() {
    require_root!("demo::the_next_run_removes_what_a_killed_one_left", "nginx");
    let mut killed = Demo::start(&["--headless", "--seconds", "600", "--mode", "ipip"]);
    killed.hear(TRAFFIC);
    let programs = killed.programs();
    killed.signal("-KILL");
    killed.end(DEADLINE);
    let mut next = Demo::start(&["--headless", "--json", "--seconds", "600"]);
    next.hear(TRAFFIC);
    let gone = || left_of(killed.pid(), &programs).is_empty();
    wait_until("nothing left of the killed run", DEADLINE, gone)
        .unwrap_or_else(|error| panic!("{error}: {:?}", left_of(killed.pid(), &programs)));
    next.signal("-INT");
    assert_eq!(next.end(DEADLINE).code(), Some(130));
    assert_eq!(next.report()["requests_failed"], 0);
}
