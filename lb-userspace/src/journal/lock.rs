//! Who holds a directory: one daemon for a state directory, one for a pin directory.
//!
//! The lock is an advisory `flock` on the directory itself, so it needs no file (a BPF file system takes none), ends
//! with the process however that ends, and the kernel can be asked who holds it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

/// Why a directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon holds it.
    #[error("{path} is held by another daemon{by}", path = path.display(), by = holder_text(*holder))]
    Held {
        /// The directory.
        path: PathBuf,
        /// Process id of the holder, if the kernel shows it to us.
        holder: Option<u32>,
    },
    /// It cannot be opened or locked.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// A held directory; dropping it lets go.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: Flock<File>,
}

impl DirectoryLock {
    /// Holds `path`, an existing directory.
    ///
    /// # Errors
    /// Somebody else holds it, or it is no directory that can be opened.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { _file: file }),
            Err((file, Errno::EWOULDBLOCK)) => {
                let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
                let holder = file.metadata().ok().and_then(|meta| holder(&locks, meta.dev(), meta.ino()));
                Err(LockError::Held { path: path.to_owned(), holder })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

/// The process that holds a whole-file lock on a file, out of the kernel's list of locks.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", process, name, ..] = words.as_slice() else { return None };
        if *name == file { process.parse().ok() } else { None }
    })
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |process| format!(" (process {process})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        let error = DirectoryLock::take(directory.path()).unwrap_err();
        let LockError::Held { holder, .. } = &error else { panic!("{error}") };
        assert_eq!(*holder, Some(std::process::id()));
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }

    #[test]
    fn the_list_of_locks_is_read_by_device_and_inode() {
        let locks =
            "1: POSIX  ADVISORY  WRITE 7 fe:00:42 0 EOF\n2: FLOCK  ADVISORY  WRITE 9 fe:00:42 0 EOF\n";
        let device = nix::sys::stat::makedev(0xfe, 0);
        assert_eq!(holder(locks, device, 42), Some(9));
        assert_eq!(holder(locks, device, 43), None);
    }
}
