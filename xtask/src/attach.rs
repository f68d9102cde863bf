//! `cargo xtask attach DEV`: a fresh build, then `lb attach DEV` against the running daemon.
//!
//! Starts no daemon: whoever attaches a device wants to see the daemon's log and to stop it.

use std::os::unix::net::UnixStream;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build;
use crate::setup::{self, Need};

/// Socket of a daemon that was started without `--socket`.
const DEFAULT_SOCKET: &str = "/run/lb/lb.sock";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Network device.
    dev: String,
    /// Further arguments of `lb attach`, after `--`.
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    client("attach", &args.dev, &args.rest)
}

/// Runs one command of the `lb` binary about one device.
///
/// # Errors
/// The build fails, no daemon answers, or the daemon refuses.
pub(crate) fn client(command: &str, dev: &str, rest: &[String]) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let lb = build::everything(false)?;
    let other_socket =
        rest.iter().any(|arg| arg.starts_with("--socket")) || std::env::var_os("LB_SOCKET").is_some();
    if !other_socket && UnixStream::connect(DEFAULT_SOCKET).is_err() {
        bail!(
            "no daemon answers on {DEFAULT_SOCKET}; start it in another terminal: sudo {} serve",
            lb.display()
        );
    }
    let status = Command::new(&lb).arg(command).arg(dev).args(rest).status().context("start lb")?;
    if !status.success() {
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}
