//! Running other programs: each is named when it fails, and none writes to our stdout unless it is meant to.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Says something to the person at the terminal (stderr).
macro_rules! say {
    ($($arg:tt)*) => { eprintln!("xtask: {}", format_args!($($arg)*)) };
}
pub(crate) use say;

/// Runs a program to its end with its stdout joined to our stderr.
///
/// # Errors
/// It cannot be started, or ends with a failure.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().context("duplicate stderr")?;
    let status =
        command.stdout(Stdio::from(stderr)).status().with_context(|| format!("start {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", name(command));
    }
    Ok(())
}

/// Runs a program and returns its stdout as text; its stderr is ours.
///
/// # Errors
/// It cannot be started, ends with a failure, or its output is not UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("start {}", name(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", name(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {}", name(command)))
}

/// Becomes the program: signals, exit code and stdout are then its own.
///
/// # Errors
/// It cannot be started; it never returns otherwise.
pub(crate) fn replace_by(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("start {}", name(command)))
}

/// Cargo of the toolchain that runs us, at the root of the checkout.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(crate::workspace::root()).env("PATH", search_path());
    command
}

/// `PATH`, and after it the directories of root's programs, which not everybody's `PATH` has.
pub(crate) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    // It cannot fail: what is joined was split at the separator.
    std::env::join_paths(std::env::split_paths(&path).chain(system)).unwrap_or(path)
}

/// Finds a program in the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

/// Whether we act as root. The owner of `/proc/self` is the effective user of this process.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|itself| itself.uid() == 0)
}

/// Cargo's home: where `cargo install` puts programs.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let args = command.get_args().take(4).map(|arg| arg.to_string_lossy());
    [program.to_string_lossy()].into_iter().chain(args).collect::<Vec<_>>().join(" ")
}
