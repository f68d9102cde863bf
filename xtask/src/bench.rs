//! `cargo xtask bench`: tools and a release build, then becomes the `bench` binary of crate `lb-tests`.
//!
//! All arguments pass through. Writes nothing to stdout, whose last line is the benchmark's.

use anyhow::Result;

use crate::setup::{self, Need};
use crate::{build, process};

/// Arguments of the benchmark itself; `cargo xtask bench --help` lists them.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build, Need::Network, Need::Rivals])?;
    build::everything(true)?;
    let mut bench = process::cargo();
    bench.args(["run", "--release", "--package", "lb-tests", "--bin", "bench", "--"]);
    process::replace_by(bench.args(&args.rest))
}
