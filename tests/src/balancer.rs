//! The balancer on a topology's node: the real `lb serve` in the node's namespace, driven by the real `lb`.
//!
//! Invariants: socket, journal and log lie in the topology's scratch directory, pins below `/sys/fs/bpf` under
//! a name of ours (see `sweep`); dropping it kills the daemon and removes the pins, and with them the data
//! plane. What the daemon answers is not judged here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::api::client::Client;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::process::Process;
use crate::sweep::PinDir;
use crate::topology::Topology;
use crate::wait::{wait_for, wait_until};

/// Longest wait for a daemon to answer, or to end.
const DAEMON_DEADLINE: Duration = Duration::from_secs(20);
/// Longest wait for what was observed to be told.
const HISTORY_DEADLINE: Duration = Duration::from_secs(10);

/// A node's daemon and the ways to talk to it.
#[derive(Debug)]
pub struct Balancer {
    // The daemon ends before its pins go.
    daemon: Option<Process>,
    pins: PinDir,
    binary: PathBuf,
    socket: PathBuf,
    state_dir: PathBuf,
    arguments: Vec<String>,
    log_dir: PathBuf,
}

/// What a command line came to.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit status; `None` when it was killed.
    pub status: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Answer {
    /// Whether the exit status is 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status == Some(0)
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Balancer {
    /// Starts `lb serve` on the node of `net`; returns when it answers. Nothing is attached yet.
    ///
    /// # Errors
    /// When `lb` was not built, or the daemon does not come up; the message holds what it said.
    pub fn start(net: &Topology) -> Result<Self> {
        Self::start_with(net, &[])
    }

    /// Like [`Balancer::start`], with further arguments for `lb serve`, which a restart gets too.
    ///
    /// # Errors
    /// As [`Balancer::start`].
    pub fn start_with(net: &Topology, arguments: &[&str]) -> Result<Self> {
        let mut balancer = Self {
            daemon: None,
            pins: PinDir::claim()?,
            binary: binary()?,
            socket: net.dir().join("lb.sock"),
            state_dir: net.dir().join("state"),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            log_dir: net.dir().to_owned(),
        };
        balancer.restart(net)?;
        Ok(balancer)
    }

    /// Starts the daemon again after [`Balancer::kill`] or [`Balancer::stop`], with the same directories.
    ///
    /// # Errors
    /// As [`Balancer::start`]; also when it runs.
    pub fn restart(&mut self, net: &Topology) -> Result<()> {
        ensure!(!self.is_running(), "the daemon runs");
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(&self.socket).arg("serve").arg("--state-dir").arg(&self.state_dir);
        command.arg("--pin-dir").arg(self.pins.path()).args(&self.arguments);
        let mut daemon = Process::spawn(&net.node().ns, "lb-serve", command, &self.log_dir)?;
        let client = self.client();
        let answers = || match daemon.exit_status() {
            Ok(None) => match block_on(client.text("/readyz")) {
                Ok(_) => Some(Ok(())),
                // The maps are as they should be: it is the pools that are empty.
                Err(problem) => problem.message.starts_with("no vip has a backend").then_some(Ok(())),
            },
            Ok(Some(status)) => Some(Err(status)),
            Err(_) => None,
        };
        let (ready, _) = wait_for("the daemon's answer", DAEMON_DEADLINE, answers)
            .with_context(|| daemon.stderr_text())?;
        if let Err(status) = ready {
            bail!("lb serve: {status}: {}", daemon.stderr_text().trim());
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Like [`Balancer::restart`], with other arguments from now on.
    ///
    /// # Errors
    /// As [`Balancer::restart`].
    pub fn restart_with(&mut self, net: &Topology, arguments: &[&str]) -> Result<()> {
        self.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        self.restart(net)
    }

    /// Ends the daemon by SIGKILL. The data plane stays.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Ends the daemon by SIGTERM. The data plane stays.
    ///
    /// # Errors
    /// When it does not run or does not end.
    pub fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("the daemon does not run")?;
        daemon.signal(Signal::SIGTERM)?;
        let status = daemon.wait(DAEMON_DEADLINE)?;
        ensure!(status.success(), "lb serve: {status}: {}", daemon.stderr_text().trim());
        Ok(())
    }

    /// Whether the daemon runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Process::is_running)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Process::pid)
    }

    /// What all daemons of this node have logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_dir.join("lb-serve.err")).unwrap_or_default()
    }

    /// The `lb` binary.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where the data plane is pinned.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        self.pins.path()
    }

    /// The directory of the journal.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// `lb` with this daemon's socket, for whoever adds words and runs it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(&self.socket).env("NO_COLOR", "1");
        command
    }

    /// Runs `lb` with these words, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn try_lb(&self, words: &[impl AsRef<OsStr>]) -> Result<Answer> {
        Ok(self.command().args(words).output().context("run lb")?.into())
    }

    /// Runs a command line given as one text (split at blanks); returns what it printed.
    ///
    /// # Errors
    /// When its exit status is not 0; the message holds what it said.
    pub fn lb(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = self.try_lb(&words)?;
        ensure!(answer.is_success(), "lb {line}: status {:?}: {}", answer.status, answer.stderr.trim());
        Ok(answer.stdout)
    }

    /// Like [`Balancer::lb`], with `--json`, and takes the answer apart.
    ///
    /// # Errors
    /// As [`Balancer::lb`], and when the answer has another form.
    pub fn lb_json<T: DeserializeOwned>(&self, line: &str) -> Result<T> {
        let text = self.lb(&format!("--json {line}"))?;
        serde_json::from_str(&text).with_context(|| format!("answer of lb {line}: {text}"))
    }

    /// The API behind the same socket.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// Reads a view over the API, without a process.
    ///
    /// # Errors
    /// When no daemon answers, or with another form.
    pub fn view<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        view(&self.client(), path)
    }

    /// What `lb history` tells of something, once all of `texts` are in it: what was observed has no revision that a
    /// question could wait for.
    ///
    /// # Errors
    /// When it is not all told within a deadline; the message holds what is.
    pub fn history(&self, of: &str, texts: &[&str]) -> Result<String> {
        let mut told = String::new();
        let whole = wait_until("all of it in the history", HISTORY_DEADLINE, || {
            told = self.lb(&format!("history {of}")).unwrap_or_else(|error| format!("{error:#}"));
            texts.iter().all(|text| told.contains(text))
        });
        whole.with_context(|| format!("{texts:?} of\n{told}"))?;
        Ok(told)
    }

    /// What Prometheus would scrape.
    ///
    /// # Errors
    /// When no daemon answers.
    pub fn metrics(&self) -> Result<String> {
        block_on(self.client().text("/metrics")).map_err(|problem| anyhow::anyhow!("/metrics: {problem}"))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a view from a thread that has no runtime.
///
/// # Errors
/// As [`Balancer::view`].
pub fn view<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T> {
    block_on(client.read(path)).map_err(|problem| anyhow::anyhow!("{path}: {problem}"))
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a process that starts daemons can have a runtime").block_on(work)
}

/// The `lb` of the same build as this program: beside it, or above cargo's `deps`.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("path of this program")?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("lb")).find(|path| path.is_file());
    found.with_context(|| format!("no `lb` beside {}: run `cargo xtask build`", own.display()))
}
