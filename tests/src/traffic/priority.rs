//! Whose turn a CPU is, where several machines of a test share one. What runs in a thread's name in the kernel, such as
//! the packets that it sends, has its priority too.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::unistd::gettid;

/// The calling thread runs only while nobody else wants its CPU (`SCHED_IDLE`).
///
/// # Errors
/// When `chrt` is missing or refuses.
pub fn yield_to_others() -> Result<()> {
    schedule(&["--idle", "--pid", "0"])
}

/// The calling thread runs as soon as it can (`SCHED_FIFO`): for who sleeps most of the time, and plays a machine that
/// has CPUs of its own.
///
/// # Errors
/// When `chrt` is missing or refuses.
pub fn come_first() -> Result<()> {
    schedule(&["--fifo", "--pid", "1"])
}

fn schedule(words: &[&str]) -> Result<()> {
    let thread = gettid().to_string();
    let status = Command::new("chrt").args(words).arg(thread).status().context("run chrt")?;
    ensure!(status.success(), "chrt: {status}");
    Ok(())
}
