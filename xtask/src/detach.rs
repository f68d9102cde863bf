//! `cargo xtask detach DEV`: a fresh build, then `lb detach DEV` against the running daemon.

use anyhow::Result;

use crate::attach;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Network device.
    dev: String,
    /// Further arguments of `lb detach`, after `--`.
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    attach::client("detach", &args.dev, &args.rest)
}
