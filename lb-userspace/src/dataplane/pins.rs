//! Where things are pinned: a directory in a BPF file system, one for each data plane.
//!
//! ```text
//! <dir>/LB_…                     the maps, by name
//! <dir>/balance                  the program
//! <dir>/object-<digest>/         what it was loaded from: an empty directory, since nothing else can lie there
//! <dir>/links/<ifindex>-<mode>-<name>
//!                                its links to devices
//! ```
//!
//! The directory is locked while a process works with it, so there is one daemon to a data plane. It is of the user that the
//! process runs as, and nobody else may write to it: whoever removes a link there ends the forwarding.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use lb_control::code::Code;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;

use super::fault::{Fault, Result};
use super::{AttachedMode, sys};

/// Where BPF file systems are mounted by custom.
const BPFFS: &str = "/sys/fs/bpf";
/// How the name begins that says what the pinned program was loaded from.
const OBJECT: &str = "object-";
/// Rights (linux/capability.h), as bits.
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_BPF: u64 = 1 << 39;
/// Modes in the name of a link's pin.
const NATIVE: &str = "native";
const GENERIC: &str = "generic";

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
        ensure_right(dir)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(dir.join("links"))
            .map_err(|error| Fault::os(format!("create {}", dir.display()), &error))?;
        for path in [dir, &dir.join("links")] {
            ensure_own(path)?;
        }
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
    pub(super) fn link(&self, ifindex: u32, name: &str, mode: AttachedMode) -> PathBuf {
        let mode = if mode == AttachedMode::Native { NATIVE } else { GENERIC };
        self.dir.join("links").join(format!("{ifindex}-{mode}-{}", file_name(name)))
    }

    /// The pinned links.
    pub(super) fn links(&self) -> Result<Vec<PinnedLink>> {
        let dir = self.dir.join("links");
        let fault = |error: std::io::Error| Fault::os(format!("read {}", dir.display()), &error);
        let mut links = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(fault)? {
            links.extend(PinnedLink::of(entry.map_err(fault)?.path()));
        }
        links.sort_by(|a, b| a.ifindex.cmp(&b.ifindex).then(a.name.cmp(&b.name)));
        Ok(links)
    }

    /// Whether the pinned program is known to have been loaded from an object of this digest.
    pub(super) fn is_of(&self, digest: &str) -> bool {
        self.path(&format!("{OBJECT}{digest}")).is_dir()
    }

    /// Says what the pinned program was loaded from; `None`: it is about to be another one.
    pub(super) fn set_object(&self, digest: Option<&str>) -> Result<()> {
        let fault = |error: std::io::Error| Fault::os(format!("mark {}", self.dir.display()), &error);
        for entry in std::fs::read_dir(&self.dir).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            if entry.file_name().to_string_lossy().starts_with(OBJECT) {
                std::fs::remove_dir(entry.path()).map_err(fault)?;
            }
        }
        digest.map_or(Ok(()), |digest| {
            std::fs::create_dir(self.path(&format!("{OBJECT}{digest}"))).map_err(fault)
        })
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

/// A device's name as it stands in a pin.
pub(super) fn file_name(device: &str) -> String {
    device.replace('.', "_")
}

/// A pinned link, as its path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PinnedLink {
    pub(super) path: PathBuf,
    /// Interface index of its device when it was made.
    pub(super) ifindex: u32,
    pub(super) mode: AttachedMode,
    /// Name of its device when it was made, as [`file_name`].
    pub(super) name: String,
}

impl PinnedLink {
    fn of(path: PathBuf) -> Option<Self> {
        let file = path.file_name()?.to_str()?;
        let (ifindex, rest) = file.split_once('-')?;
        let (mode, name) = rest.split_once('-')?;
        let mode = if mode == GENERIC { AttachedMode::Generic } else { AttachedMode::Native };
        Some(Self { ifindex: ifindex.parse().ok()?, mode, name: name.to_owned(), path })
    }

    /// Opens it and reads its state.
    pub(super) fn open(&self) -> Result<(OwnedFd, sys::LinkState)> {
        let fault = |error| Fault::os(format!("open the link to `{}`", self.name), &error);
        let fd = sys::pinned(&self.path).map_err(fault)?;
        let state = sys::link_state(fd.as_fd()).map_err(fault)?;
        Ok((fd, state))
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

/// Nothing is made by who could not pin anything there.
fn ensure_right(dir: &Path) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    // Where it is not said, the kernel will say it.
    if effective.is_some_and(|bits| bits & (CAP_BPF | CAP_SYS_ADMIN) == 0) {
        return Err(Fault::new(Code::NoPrivilege, format!("this user may pin nothing in {}", dir.display())));
    }
    Ok(())
}

/// A directory of this user's, to which nobody else may write.
fn ensure_own(path: &Path) -> Result<()> {
    let found = std::fs::symlink_metadata(path)
        .map_err(|error| Fault::os(format!("look at {}", path.display()), &error))?;
    let others = found.mode() & 0o022;
    if found.is_dir() && found.uid() == geteuid().as_raw() && others == 0 {
        return Ok(());
    }
    let text = format!("{} belongs to uid {}, mode {:o}", path.display(), found.uid(), found.mode() & 0o7777);
    Err(Fault::new(Code::PinsForeign, text))
}

fn ensure_bpffs(dir: &Path) -> Result<()> {
    if in_bpffs(dir) {
        return Ok(());
    }
    let why = if dir.starts_with(BPFFS) {
        match mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")) {
            Ok(()) if in_bpffs(dir) => {
                tracing::info!("mounted a BPF file system at {BPFFS}");
                return Ok(());
            }
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
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_link_is_known_by_its_path() {
        let link = PinnedLink::of("/x/7-generic-eth0_7-a".into()).unwrap();
        assert_eq!((link.ifindex, link.mode, &*link.name), (7, AttachedMode::Generic, "eth0_7-a"));
        assert_eq!(PinnedLink::of("/x/stray".into()), None);
        assert_eq!(file_name("eth0.7"), "eth0_7");
    }

    #[test]
    fn a_directory_to_which_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mode =
            |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        ensure_own(dir.path()).unwrap();
        for open in [0o720, 0o702] {
            mode(open);
            let fault = ensure_own(dir.path()).unwrap_err();
            assert!(fault.code == Code::PinsForeign && fault.message.contains("mode 7"), "{fault}");
        }
        mode(0o700);
        if geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
            assert_eq!(ensure_own(dir.path()).unwrap_err().code, Code::PinsForeign);
        }
    }

    #[test]
    fn a_directory_elsewhere_is_refused_with_the_command() {
        let fault = Pins::open(&std::env::temp_dir().join("lb-no-such-pins")).unwrap_err();
        assert_eq!(fault.code, Code::NoBpffs);
        assert!(fault.what_to_do.contains("mount -t bpf"), "{fault}");
    }
}
