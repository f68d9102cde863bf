//! `cargo xtask soak`: the tests that draw lots, with the numbers of a long run instead of a minute's.
//!
//! Holds no test of its own: names, numbers and seeds. Every step runs, whatever became of those before it. A step is
//! repeated by what it prints.

use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::process::{self, say};
use crate::setup::{self, Need};
use crate::{build, fuzz};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the steps whose name contains this.
    step: Option<String>,
    /// The seed of every step; otherwise the clock's.
    #[arg(long)]
    seed: Option<u64>,
    /// Divide every number by this, for a shorter run.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    divide: u64,
}

/// One test, or all of some packages, with a number and a seed in the environment.
struct Step {
    name: &'static str,
    /// Variable that sets how many, and how many those are.
    count: (&'static str, u64),
    seed: &'static str,
    /// Arguments of `cargo test`.
    test: &'static [&'static str],
}

const STEPS: [Step; 5] = [
    Step {
        name: "properties",
        count: ("PROPTEST_CASES", 10_000),
        seed: "PROPTEST_RNG_SEED",
        test: &["--package", "lb-common", "--package", "lb-control", "--package", "lb-userspace", "--lib"],
    },
    Step {
        name: "law",
        count: ("LB_LAW_RUNS", 6_000),
        seed: "LB_SEED",
        test: &["--package", "lb-common", "--lib", "datapath::tests::law"],
    },
    Step {
        name: "crash-images",
        count: ("LB_CRASH_IMAGES", 100_000),
        seed: "LB_SEED",
        test: &["--package", "lb-userspace", "--lib", "journal_crash_images"],
    },
    Step {
        name: "kills",
        count: ("LB_KILLS", 200),
        seed: "LB_SEED",
        test: &["--package", "lb-tests", "--test", "crash"],
    },
    Step {
        name: "frames",
        count: (fuzz::COUNT, fuzz::LONG_FRAMES),
        seed: "LB_SEED",
        test: &["--package", "lb-tests", "--test", "differential"],
    },
];

impl Step {
    fn command(&self, seed: u64, divide: u64) -> Command {
        let mut test = process::cargo();
        test.env(self.count.0, self.count(divide).to_string()).env(self.seed, seed.to_string());
        test.args(["test", "--release"]).args(self.test).args(["--", "--test-threads=1", "--nocapture"]);
        test
    }

    fn count(&self, divide: u64) -> u64 {
        (self.count.1 / divide).max(1)
    }

    /// How to have the same again.
    fn again(&self, seed: u64, divide: u64) -> String {
        let (number, count) = (self.count.0, self.count(divide));
        format!("{number}={count} {}={seed} cargo test --release {}", self.seed, self.test.join(" "))
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |step: &&Step| args.step.as_ref().is_none_or(|part| step.name.contains(part.as_str()));
    let steps: Vec<&Step> = STEPS.iter().filter(wanted).collect();
    if steps.is_empty() {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        bail!("no such step; there are {}", names.join(", "));
    }
    setup::ensure(&[Need::Build, Need::Network])?;
    build::everything(true)?;
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seed = args.seed.unwrap_or(clock);
    let mut failed = Vec::new();
    for step in steps {
        say!("{}: {}", step.name, step.again(seed, args.divide));
        let begin = Instant::now();
        let ended = process::run(&mut step.command(seed, args.divide));
        let outcome = if ended.is_ok() { "passed" } else { "FAILED" };
        println!("{outcome} in {} s: {}", begin.elapsed().as_secs(), step.again(seed, args.divide));
        if ended.is_err() {
            failed.push(step.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_how_to_have_it_again() {
        let kills = STEPS.iter().find(|step| step.name == "kills").unwrap();
        let wanted = "LB_KILLS=2 LB_SEED=7 cargo test --release --package lb-tests --test crash";
        assert_eq!(kills.again(7, 100), wanted);
        assert_eq!(kills.count(1_000), 1);
    }
}
