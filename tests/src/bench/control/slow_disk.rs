//! A disk of which it is known how much it can do: the one that is there, held to [`WRITES_PER_S`] for one process.
//!
//! How much a shared sync saves is a matter of the disk: one that syncs in a tenth of a millisecond is never waited for. So
//! the commit is measured on one that does as much as a volume across a network does. The kernel holds a control
//! group's writes to a number a second: `blkio` where groups are of version 1, `io` where they are of version 2.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::stat::{major, minor};

/// Writes a second.
pub(super) const WRITES_PER_S: u32 = 200;

/// A process's writes to a disk are slow until this is dropped.
pub(super) struct SlowDisk {
    group: PathBuf,
    /// The group that the process came from.
    former: PathBuf,
    pid: u32,
}

impl SlowDisk {
    /// Makes the disk below `path` slow for a process, threads and all; `None`: there is no disk below it, or no control
    /// group here that could.
    ///
    /// # Errors
    /// There is one, and it does not do what it is told.
    pub(super) fn of(pid: u32, path: &Path) -> Result<Option<Self>> {
        let Some(disk) = disk_below(path)? else { return Ok(None) };
        let Some(Controller { root, name, limit, line }) = controller(&disk)? else { return Ok(None) };
        let former = root.join(group_of(pid, name)?);
        let group = root.join(format!("lb-bench-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("make {}", group.display()))?;
        let slow = Self { group, former, pid };
        write(&slow.group.join(limit), &line)?;
        write(&slow.group.join("cgroup.procs"), &pid.to_string())?;
        Ok(Some(slow))
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // A process that has ended is in no group; a group that stays behind is empty and holds nobody up.
        let _ = write(&self.former.join("cgroup.procs"), &self.pid.to_string());
        let _ = fs::remove_dir(&self.group);
    }
}

/// Number of the whole disk that has a file: `major:minor`. `None`: the file is in memory, or elsewhere.
fn disk_below(path: &Path) -> Result<Option<String>> {
    let device = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.dev();
    let number = format!("{}:{}", major(device), minor(device));
    let node = PathBuf::from(format!("/sys/dev/block/{number}"));
    if !node.exists() {
        return Ok(None);
    }
    let node = node.canonicalize().with_context(|| format!("look at {}", node.display()))?;
    let whole = if node.join("partition").exists() { node.parent().unwrap_or(&node) } else { &node };
    let number = fs::read_to_string(whole.join("dev")).context("read a disk's number")?;
    Ok(Some(number.trim().to_owned()))
}

/// What holds writes to a number.
struct Controller {
    /// Where its groups are.
    root: PathBuf,
    /// Its name in `/proc/PID/cgroup`, which is empty for groups of version 2.
    name: &'static str,
    /// The file of the limit, and what to write there.
    limit: &'static str,
    line: String,
}

fn controller(disk: &str) -> Result<Option<Controller>> {
    let mounts = fs::read_to_string("/proc/mounts").context("read the mounts")?;
    for mount in mounts.lines() {
        let words: Vec<&str> = mount.split(' ').collect();
        let [_, at, kind, options, ..] = words[..] else { continue };
        let root = PathBuf::from(at);
        if kind == "cgroup" && options.split(',').any(|option| option == "blkio") {
            let (limit, line) = ("blkio.throttle.write_iops_device", format!("{disk} {WRITES_PER_S}"));
            return Ok(Some(Controller { root, name: "blkio", limit, line }));
        }
        if kind != "cgroup2" {
            continue;
        }
        let handed_down = root.join("cgroup.subtree_control");
        let handed_down =
            fs::read_to_string(&handed_down).with_context(|| format!("read {}", handed_down.display()))?;
        if handed_down.split_whitespace().any(|name| name == "io") {
            let (limit, line) = ("io.max", format!("{disk} wiops={WRITES_PER_S}"));
            return Ok(Some(Controller { root, name: "", limit, line }));
        }
    }
    Ok(None)
}

/// The group of a process below a controller's root.
fn group_of(pid: u32, controller: &str) -> Result<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).context("read a process's groups")?;
    let path = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        names.split(',').any(|name| name == controller).then_some(path)
    });
    Ok(PathBuf::from(path.context("a process is in no such group")?.trim_start_matches('/')))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write `{text}` to {}", path.display()))
}
