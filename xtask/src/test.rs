//! `cargo xtask test`: builds everything once, runs every test binary, adds the results up.
//!
//! Unit and property tests run in parallel; those of crate `lb-tests` make namespaces and load programs, and
//! run one at a time. A test of that crate that cannot run here (no root) appends a line to the
//! file named by `LB_TEST_SKIPS_FILE`, and is then counted as skipped; under `CI=true` it counts as failed.
//! Invariant: the last line of stdout is `N passed, N failed, N skipped`.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::{self, say};
use crate::setup::{self, Need};
use crate::{build, mutants, workspace};

/// The crate whose tests make namespaces.
const NAMESPACE_CRATE: &str = "tests";
/// How often an ended test is noticed whose output a process it left behind still holds open.
const POLL: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Instead: break the packet path on purpose, and see its tests notice each time.
    #[arg(long)]
    mutants: bool,
    /// Arguments of every test binary: a filter, or options of libtest.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.mutants {
        return mutants::run();
    }
    prepare()?;
    let skips = workspace::target_dir().join("test-skips.txt");
    std::fs::write(&skips, "").with_context(|| format!("write {}", skips.display()))?;
    let mut total = Tally::default();
    for binary in binaries()? {
        println!("== {}", binary.name);
        total.add(watch(&mut binary.command(&args.rest, &skips))?.within(&binary.name));
    }
    if args.rest.is_empty() {
        println!("== examples in the documentation");
        total.add(watch(process::cargo().args([
            "test",
            "--quiet",
            "--workspace",
            "--doc",
            "--no-fail-fast",
        ]))?);
    }
    let reported = std::fs::read_to_string(&skips).with_context(|| format!("read {}", skips.display()))?;
    for line in reported.lines() {
        println!("{line}");
    }
    total.take_skips(reported.lines().count(), std::env::var("CI").is_ok_and(|ci| ci == "true"));
    for failure in &total.failures {
        println!("failed: {failure}");
    }
    println!("{total}");
    if total.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn prepare() -> Result<()> {
    if process::is_root() {
        setup::ensure(&[Need::Build, Need::Network])?;
    } else {
        say!("not root: the namespace tests will be skipped");
        setup::ensure(&[Need::Build])?;
    }
    build::everything(false).map(drop)
}

/// One test executable.
struct Binary {
    name: String,
    package_dir: PathBuf,
    executable: PathBuf,
}

impl Binary {
    fn in_namespaces(&self) -> bool {
        self.package_dir == workspace::root().join(NAMESPACE_CRATE)
    }

    /// As `cargo test` would start it: in the directory of its package.
    fn command(&self, rest: &[String], skips: &Path) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.package_dir).env("CARGO_MANIFEST_DIR", &self.package_dir);
        command.env("LB_TEST_SKIPS_FILE", skips).env("PATH", process::search_path());
        if self.in_namespaces() {
            command.arg("--test-threads=1");
        }
        command.args(rest);
        command
    }
}

/// The part of cargo's build messages that names a test executable.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    profile: Option<Profile>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds all test executables; the ones with namespaces come last.
fn binaries() -> Result<Vec<Binary>> {
    let messages = process::output(process::cargo().args([
        "test",
        "--workspace",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]))?;
    let mut binaries: Vec<Binary> = messages.lines().filter_map(binary_of).collect();
    if binaries.is_empty() {
        bail!("cargo built no test executable");
    }
    binaries.sort_by_key(|binary| (binary.in_namespaces(), binary.name.clone()));
    Ok(binaries)
}

fn binary_of(message: &str) -> Option<Binary> {
    let message: Message = serde_json::from_str(message).ok()?;
    let package_dir = message.manifest_path?.parent()?.to_path_buf();
    let target = message.target?;
    let executable = message.executable.filter(|_| message.profile.is_some_and(|profile| profile.test))?;
    let package = package_dir.file_name()?.to_string_lossy();
    let name = format!("{package}: {} ({})", target.name, target.kind.join(", "));
    Some(Binary { name, package_dir, executable })
}

/// The path of a test program, from the build message that names it.
pub(crate) fn executable_of(message: &str) -> Option<PathBuf> {
    Some(binary_of(message)?.executable)
}

/// Runs a test program, shows its output as it comes, and counts its result lines.
fn watch(command: &mut Command) -> Result<Tally> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start a test")?;
    let lines = lines_of(&mut child)?;
    let mut tally = Tally::default();
    let status = loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => {
                println!("{line}");
                tally.add(Tally::of_line(&line).unwrap_or_default());
            }
            Err(RecvTimeoutError::Disconnected) => break child.wait().context("wait for a test")?,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(status) = child.try_wait().context("ask for a test's end")? {
                    break status;
                }
            }
        }
    };
    if !status.success() && tally.failed == 0 {
        tally.failures.push(format!("ended without a result ({status})"));
        tally.failed = 1;
    }
    Ok(tally)
}

/// Its output by lines, read aside so that the end of the program is seen even if the pipe stays open.
fn lines_of(child: &mut Child) -> Result<Receiver<String>> {
    let stdout = child.stdout.take().context("stdout of a test")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Numbers of tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Names of those that failed, as far as they were told.
    failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
    }

    /// The same with the names of failures under the name of their binary.
    fn within(mut self, binary: &str) -> Tally {
        self.failures.iter_mut().for_each(|failure| *failure = format!("{binary}: {failure}"));
        self
    }

    /// Reads libtest's `test NAME ... FAILED` and `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn of_line(line: &str) -> Option<Tally> {
        let line = line.strip_prefix("test ")?;
        if let Some(name) = line.strip_suffix(" ... FAILED") {
            return Some(Tally { failures: vec![name.to_owned()], ..Tally::default() });
        }
        let (_, counts) = line.strip_prefix("result: ")?.split_once(". ")?;
        let count = |word: &str| {
            let part = counts.split("; ").find_map(|part| part.strip_suffix(word));
            part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Some(Tally {
            passed: count("passed"),
            failed: count("failed"),
            skipped: count("ignored"),
            failures: vec![],
        })
    }

    /// libtest knows no skipping at run time: it counted these as passed.
    fn take_skips(&mut self, skips: usize, skips_fail: bool) {
        self.passed = self.passed.saturating_sub(skips);
        *(if skips_fail { &mut self.failed } else { &mut self.skipped }) += skips;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tally {
        watch(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn results_are_counted_and_failures_named() {
        let tally = shell(
            "echo 'test a ... ok'; echo 'test b ... FAILED'; echo 'test c ... ignored'
             echo 'test result: FAILED. 12 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1s'
             exit 101",
        );
        assert_eq!(tally.to_string(), "12 passed, 1 failed, 1 skipped");
        assert_eq!(tally.within("lb").failures, ["lb: b"]);
    }

    #[test]
    fn skips_are_not_passes_and_fail_in_ci() {
        let mut here = Tally { passed: 5, skipped: 1, ..Tally::default() };
        let mut ci = here.clone();
        here.take_skips(2, false);
        ci.take_skips(2, true);
        assert_eq!(here.to_string(), "3 passed, 0 failed, 3 skipped");
        assert_eq!(ci.to_string(), "3 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_program_that_dies_counts_as_failed() {
        let died = shell("echo 'test result: ok. 1 passed; 0 failed'; kill -9 $$");
        assert_eq!((died.passed, died.failed, died.failures.len()), (1, 1, 1));
    }

    #[test]
    fn a_process_left_behind_does_not_hold_us() {
        let start = std::time::Instant::now();
        assert_eq!(shell("sleep 20 & echo 'test result: ok. 1 passed; 0 failed'").passed, 1);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn only_test_executables_are_taken() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/x/lb-common/Cargo.toml",
            "target":{"name":"lb_common","kind":["lib"]},"profile":{"test":true},"executable":"/x/t"}"#;
        assert_eq!(binary_of(message).unwrap().name, "lb-common: lb_common (lib)");
        assert!(binary_of(&message.replace("true", "false")).is_none());
        assert!(binary_of(r#"{"reason":"build-finished","success":true}"#).is_none());
    }
}
