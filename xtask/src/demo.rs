//! `cargo xtask demo`: tools and build, then becomes the `demo` binary of crate `lb-tests`.
//!
//! All arguments pass through. Writes nothing to stdout, whose last line is the demo's.

use anyhow::Result;

use crate::setup::{self, Need};
use crate::{build, process};

/// Arguments of the demo itself; `cargo xtask demo --help` lists them.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build, Need::Network])?;
    build::everything(false)?;
    let mut demo = process::cargo();
    demo.args(["run", "--package", "lb-tests", "--bin", "demo", "--"]).args(&args.rest);
    process::replace_by(&mut demo)
}
