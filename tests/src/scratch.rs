//! Private directories for configurations, sockets and logs of one run. Not for results to keep.
//!
//! Invariants: mode 0700, made new (never an existing path), removed on drop; short, since unix socket
//! paths end at 107 bytes.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::netns::PREFIX;
use crate::sweep::{is_alive, owner};

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A private directory that is removed with all it holds when dropped.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
}

impl ScratchDir {
    /// Makes a fresh directory below the system's temporary directory.
    ///
    /// # Errors
    /// When the directory cannot be made or exists.
    pub fn create() -> Result<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{PREFIX}{}-{serial}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // A directory that is gone already is what was wanted.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes directories of ours whose owner is dead.
pub(crate) fn sweep_stale() {
    remove_where(|pid| !is_alive(pid));
}

/// Removes directories of this process.
pub(crate) fn sweep_own() {
    remove_where(|pid| pid == std::process::id());
}

fn remove_where(doomed: impl Fn(u32) -> bool) {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    let uid = nix::unistd::geteuid().as_raw();
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().and_then(owner).is_some_and(&doomed);
        // The temporary directory is shared: only a real directory of our own user is touched.
        let private = entry.metadata().is_ok_and(|file| file.is_dir() && file.uid() == uid);
        if ours && private {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
