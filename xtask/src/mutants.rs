//! `cargo xtask test --mutants`: breaks the packet path on purpose, one place at a time, and asks whether its tests notice.
//!
//! Works on a copy of `lb-common` below `target/mutants`, with a target directory of its own; the checkout is never
//! touched. A mutation whose text is no longer found, or that does not compile, is an error: the list must keep up with
//! the code. The unit and property tests alone have to catch each: the kernel is not asked.

mod list;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, say};
use crate::{test, workspace};

/// The crate that is broken, and whose tests must notice.
const CRATE: &str = "lb-common";
/// Sequences of each scenario of the property test: fewer than in a test run, since one that fails is enough.
const SEQUENCES: &str = "15";
/// A mutation that makes the tests run so long has been noticed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a running test.
const POLL: Duration = Duration::from_millis(50);
/// What the copy's workspace is built like: quick to build, since it is built once for each mutation.
const PROFILE: &str = "\n[profile.dev]\ndebug = false\n[profile.dev.package.lb-common]\nopt-level = 1\n\
                       [profile.dev.package.'*']\nopt-level = 1\n";

/// A change that must not go unnoticed.
struct Mutation {
    /// File below the crate's `src`.
    file: &'static str,
    /// Text that stands there exactly once.
    from: &'static str,
    /// What stands there instead.
    to: &'static str,
    /// What is then broken.
    breaks: &'static str,
}

/// How a run of the tests ended.
enum Ending {
    Passed,
    /// Names of tests that failed; none if they did not end, or ended without a result.
    Failed(Vec<String>),
}

pub(crate) fn run() -> Result<()> {
    let copy = Copy::make()?;
    say!("{} mutations of {CRATE}; first, its tests as they are", list::MUTATIONS.len());
    if let Ending::Failed(tests) = copy.test()? {
        bail!("the tests fail without any mutation: {}", tests.join(", "));
    }
    let mut survivors = 0;
    for mutation in list::MUTATIONS {
        let place = format!("{}: {}", mutation.file, mutation.breaks);
        match copy.with(mutation)? {
            Ending::Failed(tests) => println!("caught    {place} ({})", by(&tests)),
            Ending::Passed => {
                survivors += 1;
                println!("SURVIVED  {place}");
            }
        }
    }
    println!("{} mutations, {survivors} survived", list::MUTATIONS.len());
    ensure!(survivors == 0, "{survivors} mutations went unnoticed");
    Ok(())
}

/// Who caught it, for people.
fn by(tests: &[String]) -> String {
    match tests {
        [] => "the tests came to no end".to_owned(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} and {} more", rest.len()),
    }
}

/// A workspace of the crate alone.
struct Copy {
    dir: PathBuf,
}

impl Copy {
    fn make() -> Result<Self> {
        let dir = workspace::root().join("target/mutants/workspace");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        let of = workspace::root().join(CRATE);
        for part in ["src", "benches"] {
            copy_tree(&of.join(part), &dir.join(CRATE).join(part))?;
        }
        let copy = |name: &str| {
            let (from, to) = (workspace::root().join(name), dir.join(name));
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))
        };
        copy("Cargo.lock")?;
        copy(&format!("{CRATE}/Cargo.toml"))?;
        let manifest = fs::read_to_string(workspace::root().join("Cargo.toml")).context("read Cargo.toml")?;
        fs::write(dir.join("Cargo.toml"), alone(&manifest)? + PROFILE).context("write Cargo.toml")?;
        Ok(Self { dir })
    }

    /// Runs the tests with a mutation in place.
    fn with(&self, mutation: &Mutation) -> Result<Ending> {
        let path = self.dir.join(CRATE).join("src").join(mutation.file);
        let original = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        fs::write(&path, mutation.apply(&original)?)?;
        let ending = self.test();
        fs::write(&path, original)?;
        ending.with_context(|| format!("{}: {}", mutation.file, mutation.breaks))
    }

    fn test(&self) -> Result<Ending> {
        let executable = self.build()?;
        let output = self.dir.join("output.txt");
        let file = File::create(&output).context("create the output's file")?;
        let mut tests = Command::new(executable);
        tests.current_dir(self.dir.join(CRATE)).stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        tests.env("LB_LAW_RUNS", SEQUENCES).env("LB_SEED", "1").env("RUST_BACKTRACE", "0");
        let mut child = tests.spawn().context("start the tests")?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().context("wait for the tests")? {
                break status;
            }
            if start.elapsed() > PATIENCE {
                child.kill().context("end the tests")?;
                child.wait().context("wait for the tests")?;
                return Ok(Ending::Failed(Vec::new()));
            }
            std::thread::sleep(POLL);
        };
        let text = fs::read_to_string(&output).context("read the output")?;
        Ok(if status.success() { Ending::Passed } else { Ending::Failed(failed(&text)) })
    }

    /// Builds the tests of the library; the path of their program.
    fn build(&self) -> Result<PathBuf> {
        let mut cargo = process::cargo();
        cargo.current_dir(&self.dir);
        cargo.env("CARGO_TARGET_DIR", workspace::root().join("target/mutants/target"));
        // Lints have nothing to say about mistakes that are made on purpose.
        cargo.env("RUSTFLAGS", "-Awarnings");
        cargo.args(["test", "--package", CRATE, "--lib", "--no-run", "--quiet"]);
        let messages = process::output(cargo.arg("--message-format=json-render-diagnostics"))?;
        messages.lines().find_map(test::executable_of).context("cargo built no test executable")
    }
}

impl Mutation {
    fn apply(&self, text: &str) -> Result<String> {
        let found = text.matches(self.from).count();
        ensure!(found == 1, "{}: found {found} times, not once: {}", self.file, self.from);
        Ok(text.replacen(self.from, self.to, 1))
    }
}

/// Names of the tests that failed, from libtest's output.
fn failed(output: &str) -> Vec<String> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    lines.map(|name| name.rsplit("::").next().unwrap_or(name).to_owned()).collect()
}

/// The root's manifest with one member and no profiles.
fn alone(manifest: &str) -> Result<String> {
    let mut kept = String::new();
    let mut keeping = true;
    for line in manifest.lines() {
        if line.starts_with('[') {
            keeping = !line.starts_with("[profile");
        }
        let line = match line.split_once(" = ") {
            Some(("members", _)) => format!("members = [\"{CRATE}\"]"),
            Some(("default-members" | "exclude", _)) => continue,
            _ => line.to_owned(),
        };
        if keeping {
            kept += &line;
            kept.push('\n');
        }
    }
    ensure!(kept.contains(&format!("members = [\"{CRATE}\"]")), "Cargo.toml has no line of members");
    Ok(kept)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_is_found_where_it_says() {
        let amiss = list::MUTATIONS.iter().filter_map(|mutation| {
            let path = workspace::root().join(CRATE).join("src").join(mutation.file);
            let text = fs::read_to_string(path).unwrap();
            match mutation.apply(&text) {
                Ok(mutated) => (mutated == text).then(|| mutation.breaks.to_string()),
                Err(why) => Some(format!("{}: {why}", mutation.breaks)),
            }
        });
        assert_eq!(amiss.collect::<Vec<_>>(), Vec::<String>::new());
    }

    #[test]
    fn a_text_that_is_not_there_or_there_twice_is_an_error() {
        let mutation = Mutation { file: "x.rs", from: "a", to: "b", breaks: "x" };
        assert_eq!(mutation.apply("xax").unwrap(), "xbx");
        assert!(mutation.apply("xx").is_err() && mutation.apply("aa").is_err());
    }

    #[test]
    fn failures_are_read_from_the_output() {
        let output = "test a::b::one ... ok\ntest a::b::two ... FAILED\n\nfailures:\n    a::b::two\n";
        assert_eq!(failed(output), ["two"]);
    }

    #[test]
    fn the_copy_has_one_member_and_no_profile_of_the_root() {
        let manifest = "[workspace]\nmembers = [\"a\", \"b\"]\nexclude = [\"c\"]\n[profile.dev]\nx = 1\n[profile.dev.package.y]\nz = 1\n";
        assert_eq!(alone(manifest).unwrap(), "[workspace]\nmembers = [\"lb-common\"]\n");
        assert!(alone("[package]\n").is_err());
    }
}
