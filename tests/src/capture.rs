//! A packet capture by tcpdump on one device, for looking at what went wrong.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::netns::Namespace;
use crate::process::Process;
use crate::scratch::ScratchDir;
use crate::wait::wait_until;

const START_DEADLINE: Duration = Duration::from_secs(5);
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    _dir: ScratchDir,
}

impl Capture {
    /// Starts capturing whole frames on `device`; `filter` in tcpdump's words, may be empty. Returns when
    /// tcpdump listens. What XDP redirects away from `device` is not seen by it: capture at the peer.
    ///
    /// # Errors
    /// When tcpdump is missing or does not come up.
    pub fn start(namespace: &Namespace, device: &str, filter: &str) -> Result<Self> {
        let dir = ScratchDir::create()?;
        let file = dir.path().join("frames.pcap");
        let mut command = Command::new("tcpdump");
        command.args(["--immediate-mode", "-U", "-s", "0", "-n", "-i", device, "-Z", "root", "-w"]);
        command.arg(&file).args(filter.split_whitespace());
        let process = Process::spawn(namespace, "tcpdump", command, dir.path())?;
        wait_until("tcpdump listening", START_DEADLINE, || process.stderr_text().contains("listening on"))
            .with_context(|| process.stderr_text())?;
        Ok(Self { process, file, _dir: dir })
    }

    /// Ends the capture and returns the pcap file's bytes.
    ///
    /// # Errors
    /// When tcpdump does not end or wrote nothing.
    pub fn stop(mut self) -> Result<Vec<u8>> {
        self.finish()?;
        std::fs::read(&self.file).context("read the capture")
    }

    /// Ends the capture and returns it as tcpdump's text, one line a frame.
    ///
    /// # Errors
    /// As [`Capture::stop`].
    pub fn stop_as_text(mut self) -> Result<String> {
        self.finish()?;
        let output = Command::new("tcpdump").args(["-n", "-e", "-v", "-r"]).arg(&self.file).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn finish(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(STOP_DEADLINE).map(|_| ())
    }
}
