//! A child process inside a namespace: logs to files, signals, and an end that always comes.
//!
//! Invariants: each child leads its own process group (Ctrl-C on the terminal does not reach it, its own
//! children end with it); it is killed and reaped when dropped.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::netns::Namespace;
use crate::wait::wait_for;

/// A running (or ended, not yet dropped) child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` inside `namespace`; its output goes to `<name>.out` and `<name>.err` in `log_dir`
    /// (appended to, if a process of that name ran before).
    ///
    /// # Errors
    /// When the program is missing or the logs cannot be opened.
    pub fn spawn(namespace: &Namespace, name: &str, mut command: Command, log_dir: &Path) -> Result<Self> {
        let stdout = log_dir.join(format!("{name}.out"));
        let stderr = log_dir.join(format!("{name}.err"));
        command.stdin(Stdio::null()).stdout(open_log(&stdout)?).stderr(open_log(&stderr)?).process_group(0);
        let child = namespace.spawn(&mut command)?;
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    /// The name it was given at the start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout so far.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        read_log(&self.stdout)
    }

    /// What it wrote to stderr so far.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        read_log(&self.stderr)
    }

    /// Its exit status, when it has ended.
    ///
    /// # Errors
    /// When the kernel refuses to say.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Whether it still runs (a stopped process counts as running).
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends `signal` to it (not to its children).
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Reaped children are refused, their id may be another process's by now.
        anyhow::ensure!(self.is_running(), "{} has ended", self.name);
        kill(self.raw_pid()?, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Kills it with SIGKILL, its children too, and reaps it. Nothing happens when it has ended.
    pub fn kill(&mut self) {
        if self.is_running()
            && let Ok(pid) = self.raw_pid()
        {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        // A killed child ends; one that has ended already is reaped by the same call.
        let _ = self.child.wait();
    }

    /// Asks it to end by SIGTERM and waits.
    ///
    /// # Errors
    /// When it has not ended by `deadline`; it goes on then.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended by `deadline`; the message holds its stderr.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        wait_for(&what, deadline, || self.child.try_wait().ok().flatten())
            .map(|(status, _)| status)
            .with_context(|| format!("stderr: {}", self.stderr_text()))
    }

    /// Stops it as if it hung (SIGSTOP); the kernel goes on accepting connections for it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Process::pause`].
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn raw_pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open_log(path: &Path) -> Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}

fn read_log(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
