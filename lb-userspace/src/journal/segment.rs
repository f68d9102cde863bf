//! The files of the log: what they are called, how a segment begins, and how one walks through several.
//!
//! A segment is a header of [`HEADER`] bytes and frames (`frame.rs`). The header, little-endian: [`MAGIC`] (8 bytes,
//! the version in the last), the revision before the first record (u64), the hash of the chain there (32 bytes), the
//! CRC-32C of these, zeros. A segment's name is that revision, so the names alone say where a revision lies. Behind the
//! last frame there may be room of zeros.

use std::io;
use std::sync::Arc;

use super::Head;
use super::disk::{Access, Disk, DiskFile, FRESH, read_from, write_all};
use super::frame::{Frame, Walk};
use super::log::LogError;

/// First bytes of a segment: what it is, and the version of its layout in the last one.
pub(super) const MAGIC: &[u8; 8] = b"LB\x00SEG\x00\x01";
/// Bytes of a segment's header.
pub(super) const HEADER: u64 = 64;
/// The folder that whole segments are moved to.
pub(super) const ARCHIVE: &str = "archive";
/// How the name of a segment ends.
const SEGMENT: &str = ".log";

/// The name of the segment that begins at a revision. Twenty digits, so that names sort as revisions do.
pub(super) fn name(base: u64) -> String {
    format!("{base:020}{SEGMENT}")
}

/// The name of a segment in the archive.
pub(super) fn archived_name(base: u64) -> String {
    format!("{ARCHIVE}/{}", name(base))
}

/// The number that a file with this ending is named by.
pub(super) fn numbered(name: &str, ending: &str) -> Option<u64> {
    name.strip_suffix(ending).filter(|digits| digits.len() == 20)?.parse().ok()
}

/// The revisions that the segments of a folder begin at, ascending; of no folder, none.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn bases(disk: &dyn Disk, folder: &str) -> io::Result<Vec<u64>> {
    let names = match disk.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    let mut bases: Vec<u64> = names.iter().filter_map(|name| numbered(name, SEGMENT)).collect();
    bases.sort_unstable();
    Ok(bases)
}

fn header(head: Head) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&head.revision.to_le_bytes());
    bytes[16..48].copy_from_slice(&head.hash);
    let sum = crc32c::crc32c(&bytes[..48]);
    bytes[48..52].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Makes an empty segment, durable with its name.
///
/// # Errors
/// The disk refused; the log is as it was.
pub(super) fn create(disk: &dyn Disk, head: Head, room: u64) -> io::Result<Arc<dyn DiskFile>> {
    let name = name(head.revision);
    let fresh = format!("{name}{FRESH}");
    let file = disk.open(&fresh, Access::Create)?;
    // A file system that makes no room ahead of time is only slower.
    let _ = file.reserve(room);
    write_all(&*file, &header(head), 0).map_err(|(_, error)| error)?;
    file.sync()?;
    disk.rename(&fresh, &name)?;
    disk.sync("")?;
    Ok(file)
}

/// A segment that is read.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Its name within the log's directory.
    pub(super) name: String,
    /// Its file.
    pub(super) file: Arc<dyn DiskFile>,
    /// Where the log is before its first record, as its header says.
    pub(super) begins: Head,
}

/// Opens a segment and reads its header. To be read, one that a daemon has archived meanwhile is found there.
///
/// # Errors
/// It cannot be read, is of another version, or its header is damaged.
pub(super) fn open(disk: &dyn Disk, name: String, access: Access) -> Result<Segment, LogError> {
    let io = |source| LogError::Io { path: disk.path(&name), doing: "read", source };
    let file = match disk.open(&name, access) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && access == Access::Read => {
            disk.open(&format!("{ARCHIVE}/{name}"), access).map_err(|_| io(error))?
        }
        opened => opened.map_err(io)?,
    };
    let mut bytes = [0; HEADER as usize];
    let filled = file.read_at(&mut bytes, 0).map_err(io)?;
    let path = || disk.path(&name);
    if filled < MAGIC.len() || &bytes[..8] != MAGIC {
        return Err(LogError::Foreign { path: path(), found: bytes[..filled.min(MAGIC.len())].to_vec() });
    }
    let base = u64::from_le_bytes(bytes[8..16].try_into().unwrap_or_default());
    let begins = Head { revision: base, hash: bytes[16..48].try_into().unwrap_or_default() };
    let named = name.rsplit('/').next().and_then(|name| numbered(name, SEGMENT));
    if bytes != header(begins) || named != Some(base) {
        let reason = "its header is damaged, or is another segment's".to_owned();
        return Err(LogError::Damaged { path: path(), offset: 0, whole: named.unwrap_or(base), reason });
    }
    Ok(Segment { name, file, begins })
}

/// What a walk through a segment is to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Where the walk begins, bytes: [`HEADER`] or the end of a frame.
    pub(super) offset: u64,
    /// Where the log is there.
    pub(super) head: Head,
    /// Whether the chain of hashes is gone through too, not checksums and revisions alone.
    pub(super) chain: bool,
}

/// Where a walk through a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// Bytes from the segment's start to behind the last whole frame.
    pub(super) offset: u64,
    /// Where the last whole frame started; `None`: the walk met none.
    pub(super) last_frame: Option<u64>,
    /// Where the log is there.
    pub(super) head: Head,
}

/// Goes through a segment's frames to the last whole one.
///
/// # Errors
/// It cannot be read, or a whole frame is not where it should be; or what `each` says.
pub(super) fn walk<E: From<LogError>>(
    disk: &dyn Disk,
    segment: &Segment,
    pass: Pass,
    mut each: impl FnMut(&Frame<'_>) -> Result<(), E>,
) -> Result<Reached, E> {
    let path = || disk.path(&segment.name);
    let mut reached = Reached { offset: pass.offset, last_frame: None, head: pass.head };
    let mut walk = Walk::new(segment.file.clone(), pass.offset, u64::MAX);
    loop {
        let step = walk.step().map_err(|source| LogError::Io { path: path(), doing: "read", source })?;
        let Some(frame) = step else { return Ok(reached) };
        if let Some(reason) = frame.misplaced(reached.head, pass.chain) {
            let (offset, whole) = (frame.offset, reached.head.revision);
            return Err(LogError::Damaged { path: path(), offset, whole, reason }.into());
        }
        each(&frame)?;
        reached = Reached { offset: frame.end(), last_frame: Some(frame.offset), head: frame.head.after() };
    }
}

/// Whether nothing but room lies behind an offset; else why the segment is damaged.
///
/// # Errors
/// It cannot be read, or is damaged.
pub(super) fn expect_room(disk: &dyn Disk, segment: &Segment, reached: Reached) -> Result<(), LogError> {
    let path = disk.path(&segment.name);
    let tail = read_from(&*segment.file, reached.offset).map_err(|source| LogError::Io {
        path: path.clone(),
        doing: "read",
        source,
    })?;
    if tail.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    let (offset, whole) = (reached.offset, reached.head.revision);
    let reason = "no whole record is there, and later segments follow".to_owned();
    Err(LogError::Damaged { path, offset, whole, reason })
}

/// Whether a segment begins where the one before it ended.
///
/// # Errors
/// It does not: records are missing, or one of the two was replaced.
pub(super) fn expect_follows(disk: &dyn Disk, segment: &Segment, before: Head) -> Result<(), LogError> {
    if segment.begins == before {
        return Ok(());
    }
    let reason = if segment.begins.revision == before.revision {
        "the chain of hashes breaks between the segment before it and this one".to_owned()
    } else {
        format!("the segments before it end at revision {}: records are missing", before.revision)
    };
    Err(LogError::Damaged { path: disk.path(&segment.name), offset: 0, whole: before.revision, reason })
}
