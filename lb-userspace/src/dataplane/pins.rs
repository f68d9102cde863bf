//! Where things are pinned: a directory in a BPF file system, one for each data plane.
//!
//! ```text
//! <dir>/LB_…                     the maps, by name
//! <dir>/balance                  the program
//! <dir>/links/<ifindex>-<name>   its links to devices
//! ```
//!
//! The directory is locked while a process works with it, so there is one daemon to a data plane.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lb_control::code::Code;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::fault::{Fault, Result};

/// Where BPF file systems are mounted by custom.
const BPFFS: &str = "/sys/fs/bpf";

/// A locked pin directory.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// Makes the directory if it is not there, mounting the file system at its usual place if need be, and locks it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        ensure_bpffs(dir)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(dir.join("links"))
            .map_err(|error| Fault::os(format!("create {}", dir.display()), &error))?;
        let file = File::open(dir).map_err(|error| Fault::os(format!("open {}", dir.display()), &error))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => held(dir),
            error => Fault::os(format!("lock {}", dir.display()), &error.into()),
        })?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where something is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where a link is pinned. A dot in a device's name (`eth0.7`) is reserved in a BPF file system.
    pub(super) fn link(&self, ifindex: u32, name: &str) -> PathBuf {
        self.dir.join("links").join(format!("{ifindex}-{}", name.replace('.', "_")))
    }

    /// The pinned links: path, interface index and name (with `_` for a dot).
    pub(super) fn links(&self) -> Result<Vec<(PathBuf, u32, String)>> {
        let dir = self.dir.join("links");
        let fault = |error: std::io::Error| Fault::os(format!("read {}", dir.display()), &error);
        let mut links = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some((ifindex, name)) = name.split_once('-')
                && let Ok(ifindex) = ifindex.parse()
            {
                links.push((path, ifindex, name.to_owned()));
            }
        }
        links.sort();
        Ok(links)
    }

    /// Removes a pin; fine if there is none.
    pub(super) fn remove(&self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Fault::os(format!("remove the pin {}", path.display()), &error))
            }
            _ => Ok(()),
        }
    }
}

fn held(dir: &Path) -> Fault {
    Fault::new(Code::PinsHeld, format!("another `lb` works with {}", dir.display()))
}

/// Whether a directory, or the nearest one above it that exists, lies in a BPF file system.
fn in_bpffs(dir: &Path) -> bool {
    let there = dir.ancestors().find(|path| path.exists());
    there.and_then(|path| statfs(path).ok()).is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn ensure_bpffs(dir: &Path) -> Result<()> {
    if in_bpffs(dir) {
        return Ok(());
    }
    let why = if dir.starts_with(BPFFS) {
        match mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>) {
            Ok(()) if in_bpffs(dir) => return Ok(()),
            Ok(()) => String::new(),
            Err(error) => format!(", and mounting one failed ({error})"),
        }
    } else {
        String::new()
    };
    Err(Fault::new(Code::NoBpffs, format!("{} is not in a BPF file system{why}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_refused_with_the_command() {
        let fault = Pins::open(&std::env::temp_dir().join("lb-no-such-pins")).unwrap_err();
        assert_eq!(fault.code, Code::NoBpffs);
        assert!(fault.what_to_do.contains("mount -t bpf"), "{fault}");
    }
}
