//! `cargo xtask fuzz`: the differential test with a number of frames of one's choice.
//!
//! Holds no fuzzing of its own: the generator and the comparison are test `differential` of crate `lb-tests`.

use anyhow::Result;

use crate::setup::{self, Need};
use crate::{build, process};

/// Frames of an ordinary run; takes seconds.
const FRAMES: u64 = 1_000_000;
/// Frames of `--long`; takes minutes to an hour.
pub(crate) const LONG_FRAMES: u64 = 100_000_000;

/// Variable that tells the test how many.
pub(crate) const COUNT: &str = "LB_FRAMES";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// 100 million frames instead of one million.
    #[arg(long)]
    long: bool,
    /// Arguments of the test binary: a filter, or options of libtest.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build, Need::Network])?;
    build::program()?;
    let frames = if args.long { LONG_FRAMES } else { FRAMES };
    let mut test = process::cargo();
    test.env(COUNT, frames.to_string());
    test.args(["test", "--release", "--package", "lb-tests", "--test", "differential", "--"]);
    process::replace_by(test.args(["--test-threads=1", "--nocapture"]).args(&args.rest))
}
