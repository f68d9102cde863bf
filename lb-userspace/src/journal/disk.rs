//! The little that the log needs of a file system, behind a trait, so that tests can stand in its place and keep every
//! write and every sync.
//!
//! A [`Disk`] is one directory and the folders in it; names are relative to it (`archive/…`). What the log assumes: a
//! file's bytes are durable after [`DiskFile::sync`], a name after [`Disk::sync`] of its folder, a rename is atomic, a
//! sector of [`SECTOR`] bytes is written whole or not at all, and room that was never written reads as zeros.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

/// Bytes that a disk writes whole or not at all.
pub const SECTOR: u64 = 512;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To read and write it.
    Write,
    /// To write it anew; what had the name is emptied.
    Create,
}

/// A directory.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Names of the files in a folder (`""`: the directory itself), in no order.
    ///
    /// # Errors
    /// It cannot be read; a folder that is not there is `NotFound`.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Makes a folder if it is not there, and its name durable.
    ///
    /// # Errors
    /// It cannot be made.
    fn make_folder(&self, folder: &str) -> io::Result<()>;

    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in place of what had it.
    ///
    /// # Errors
    /// It cannot be renamed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// The disk refused.
    fn sync(&self, folder: &str) -> io::Result<()>;

    /// A file as a person finds it.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Its length, bytes.
    ///
    /// # Errors
    /// It cannot be asked.
    fn length(&self) -> io::Result<u64>;

    /// Reads at an offset, as many bytes as there are, up to the buffer's length.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at an offset, and says how many bytes it took.
    ///
    /// # Errors
    /// It took none.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes room up to an offset, which the file's length then reaches; the room reads as zeros.
    ///
    /// # Errors
    /// There is no room, or the file system makes none ahead of a write.
    fn reserve(&self, end: u64) -> io::Result<()>;

    /// Ends the file at a length.
    ///
    /// # Errors
    /// It cannot be cut.
    fn cut(&self, length: u64) -> io::Result<()>;

    /// Makes bytes and length durable.
    ///
    /// # Errors
    /// They may be durable or not.
    fn sync(&self) -> io::Result<()>;
}

/// Reads a whole file.
///
/// # Errors
/// It cannot be read.
pub fn read_whole(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    read_from(file, 0)
}

/// Reads a file from an offset to its end.
///
/// # Errors
/// It cannot be read.
pub fn read_from(file: &dyn DiskFile, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.length()?.saturating_sub(offset) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Writes all of `bytes`.
///
/// # Errors
/// How many bytes were taken before the disk refused, and why it did.
pub fn write_all(file: &dyn DiskFile, bytes: &[u8], offset: u64) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// Writes a file so that its name leads to all of it or to what it led to before.
///
/// # Errors
/// The disk refused; the name leads to what it did, and what was written takes no room.
pub fn write_atomically(disk: &dyn Disk, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let fresh = format!("{name}{FRESH}");
    let written = write_as(disk, &fresh, name, parts);
    if written.is_err() {
        // On a full disk a half file would take the room that the appends need. If it stays, the next start removes it.
        let _ = disk.remove(&fresh);
    }
    written
}

fn write_as(disk: &dyn Disk, fresh: &str, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let file = disk.open(fresh, Access::Create)?;
    let mut offset = 0;
    for part in parts {
        write_all(&*file, part, offset).map_err(|(_, error)| error)?;
        offset += part.len() as u64;
    }
    file.sync()?;
    disk.rename(fresh, name)?;
    disk.sync("")
}

/// End of the name of a file that is being written; what has it was never finished.
pub const FRESH: &str = ".new";

/// A directory of the machine.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory at `path`, whether it is there or not.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Disk for Directory {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.0.join(folder))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        let path = self.0.join(folder);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => path.parent().map_or(Ok(()), |above| File::open(above)?.sync_all()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let create = access == Access::Create;
        let file = OpenOptions::new()
            .read(true)
            .write(access != Access::Read)
            .create(create)
            .truncate(create)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(self.0.join(name))?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    fn sync(&self, folder: &str) -> io::Result<()> {
        File::open(self.0.join(folder))?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn reserve(&self, end: u64) -> io::Result<()> {
        Ok(fallocate(self, FallocateFlags::empty(), 0, end as libc::off_t)?)
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
