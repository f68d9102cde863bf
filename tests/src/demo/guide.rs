//! How a person gets into the demo while it runs: a small script that is `lb` on the demo's node, and what to
//! try with it.
//!
//! Invariant: the script goes with the demo; one that a killed demo left is replaced by the next.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cast::WEB4;
use super::stage::Stage;

/// The script and the names that its words need.
#[derive(Debug)]
pub struct Guide {
    script: PathBuf,
    enter: String,
    client: String,
}

impl Guide {
    /// Writes the script `lb` into `dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(stage: &Stage, dir: &Path) -> Result<Self> {
        let script = dir.join("lb");
        let (node, lb) = (stage.net().node().ns.name(), stage.balancer());
        let enter =
            format!("ip netns exec {node} {} --socket {}", lb.binary().display(), lb.socket().display());
        let text =
            format!("#!/bin/sh\n# `lb` on the demo's node, while the demo runs.\nexec {enter} \"$@\"\n");
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("make lb a program")?;
        Ok(Self { script, enter, client: stage.net().client().name().to_owned() })
    }

    /// How to enter the node and a client.
    #[must_use]
    pub fn ways_in(&self) -> [String; 2] {
        let url = crate::traffic::url(WEB4.socket(), "/");
        [format!("{} status", self.enter), format!("ip netns exec {} curl {url}", self.client)]
    }

    /// Three commands to try in another terminal.
    #[must_use]
    pub fn commands(&self) -> [String; 3] {
        let lb = near(&self.script);
        let vip = WEB4.socket();
        [
            format!("{lb} vip list"),
            format!("{lb} explain 198.51.100.7:40001 {vip}"),
            format!("{lb} drops --all"),
        ]
    }
}

impl Drop for Guide {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = fs::remove_file(&self.script);
    }
}

/// A path as one types it from here.
fn near(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
