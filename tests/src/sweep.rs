//! Removing what runs have left: on drop, on the second Ctrl-C, and after a crash by the next run.
//!
//! Invariant: only namespaces, scratch directories and pins with our prefix are ever removed, only processes
//! inside such namespaces are ever ended.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::{NETNS_DIR, PREFIX};

/// Where BPF objects are pinned.
const BPF_FS: &str = "/sys/fs/bpf";

static PINS: AtomicU32 = AtomicU32::new(0);

/// A directory for pins below `/sys/fs/bpf`, named like our namespaces; whoever pins makes it. Dropping this
/// removes it with all pins in it, which detaches what only they hold.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
}

impl PinDir {
    /// Takes a fresh name.
    ///
    /// # Errors
    /// When there is no BPF file system, or a directory of this name.
    pub fn claim() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mounted = mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPF_FS));
        ensure!(mounted, "no BPF file system: `mount -t bpf bpf {BPF_FS}`");
        let serial = PINS.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(BPF_FS).join(format!("{PREFIX}{}-{serial}", std::process::id()));
        ensure!(!path.exists(), "{} exists", path.display());
        Ok(Self { path })
    }

    /// Where it is, or will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        // Nobody may have pinned anything.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Directories of pins that process `pid` claimed and that are there now.
#[must_use]
pub fn pins_of_process(pid: u32) -> Vec<PathBuf> {
    pins_where(|owner| owner == pid)
}

fn pins_where(wanted: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(BPF_FS) else { return Vec::new() };
    let named = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(owner).is_some_and(&wanted);
    entries.flatten().filter(named).map(|entry| entry.path()).collect()
}

/// Namespaces of ours whose owner is dead: ends what runs inside and removes them. Returns their names.
/// Scratch directories and pins of dead owners go too. A name whose process id was given to another process
/// stays until that one ends.
#[must_use]
pub fn sweep_stale() -> Vec<String> {
    let mut swept = Vec::new();
    for name in names().into_iter().filter(|name| owner(name).is_some_and(|pid| !is_alive(pid))) {
        remove(&name);
        swept.push(name);
    }
    crate::scratch::sweep_stale();
    remove_pins(&pins_where(|pid| !is_alive(pid)));
    swept
}

/// Removes every namespace, scratch directory and pin of this very process, for the way out when no `Drop`
/// will run any more.
pub fn sweep_own() {
    for name in names_of_process(std::process::id()) {
        remove(&name);
    }
    crate::scratch::sweep_own();
    remove_pins(&pins_of_process(std::process::id()));
}

/// A directory that another sweep removed meanwhile is as good as removed by us.
fn remove_pins(paths: &[PathBuf]) {
    for path in paths {
        let _ = fs::remove_dir_all(path);
    }
}

/// Names of namespaces that process `pid` made and that are there now.
#[must_use]
pub fn names_of_process(pid: u32) -> Vec<String> {
    names().into_iter().filter(|name| owner(name) == Some(pid)).collect()
}

/// The process id in a name of ours.
pub(crate) fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| owner(name).is_some())
        .collect()
}

/// Ends what runs inside the namespace `name` and removes it.
pub(crate) fn remove(name: &str) {
    let path = Path::new(NETNS_DIR).join(name);
    if let Ok(file) = fs::metadata(&path) {
        pids_inside(file.ino()).into_iter().for_each(end_process);
    }
    // A name that another sweep removed meanwhile is as good as removed by us.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&path);
}

/// Processes (but this one) whose main thread is in the network namespace with this inode.
pub(crate) fn pids_inside(inode: u64) -> Vec<i32> {
    let wanted = PathBuf::from(format!("net:[{inode}]"));
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net == wanted))
        .filter_map(|pid| i32::try_from(pid).ok())
        .collect()
}

fn end_process(pid: i32) {
    // It may have ended by itself since it was seen.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}
