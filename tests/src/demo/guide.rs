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

/// The script, and the name of a client.
#[derive(Debug)]
pub struct Guide {
    script: PathBuf,
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
        Ok(Self { script, client: stage.net().client().name().to_owned() })
    }

    /// What to try in another terminal.
    #[must_use]
    pub fn commands(&self) -> [String; 4] {
        let lb = near(&self.script);
        let url = crate::traffic::url(WEB4.socket(), "/");
        [
            format!("{lb} status"),
            format!("{lb} drops --all"),
            format!("{lb} explain 198.51.100.7:40001 {}", WEB4.name),
            format!("ip netns exec {} curl {url}", self.client),
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
