//! Snapshots: the caller's bytes as of a revision, with the place in the log where reading goes on.
//!
//! A snapshot only speeds up the start. One that is damaged is passed over and said; the log is the truth. Layout,
//! little-endian: [`MAGIC`] (8 bytes), revision (u64), hash of the chain there (32 bytes), revision that its segment
//! begins at (u64), offset in that segment (u64), length of the bytes (u64), CRC-32C of all of these and of the bytes
//! (u32), the bytes.

use std::io;

use super::Head;
use super::disk::{Access, Disk, read_whole, write_atomically};
use super::segment::numbered;

/// First bytes of a snapshot, the version of its layout in the last one.
const MAGIC: &[u8; 8] = b"LB\x00SNP\x00\x01";
/// How the name of a snapshot ends.
const SNAPSHOT: &str = ".snapshot";
/// Bytes before the checksum.
const SUMMED: usize = 72;
/// Bytes before the caller's.
const HEADER: usize = SUMMED + 4;
/// How many are kept: the newest, and those to fall back on.
pub(super) const KEPT: usize = 3;

/// Where in the log a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where the log was.
    pub(super) head: Head,
    /// Revision that the segment begins at which goes on there.
    pub(super) base: u64,
    /// Offset in it, bytes.
    pub(super) offset: u64,
}

/// The name of the snapshot of a revision.
pub(super) fn name(revision: u64) -> String {
    format!("{revision:020}{SNAPSHOT}")
}

/// Revisions that there are snapshots of, ascending.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn revisions(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> = disk.list("")?.iter().filter_map(|name| numbered(name, SNAPSHOT)).collect();
    found.sort_unstable();
    Ok(found)
}

/// Writes a snapshot and lets go of those that are older than the last [`KEPT`].
///
/// # Errors
/// The disk refused; the snapshots are as they were.
pub(super) fn save(disk: &dyn Disk, place: Place, state: &[u8]) -> io::Result<()> {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&place.head.revision.to_le_bytes());
    header[16..48].copy_from_slice(&place.head.hash);
    header[48..56].copy_from_slice(&place.base.to_le_bytes());
    header[56..64].copy_from_slice(&place.offset.to_le_bytes());
    header[64..72].copy_from_slice(&(state.len() as u64).to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&header[..SUMMED]), state);
    header[SUMMED..].copy_from_slice(&sum.to_le_bytes());
    write_atomically(disk, &name(place.head.revision), &[&header, state])?;
    let found = revisions(disk)?;
    for old in &found[..found.len().saturating_sub(KEPT)] {
        disk.remove(&name(*old))?;
    }
    Ok(())
}

/// A snapshot: its place, and the caller's bytes.
///
/// # Errors
/// Why it is of no use, in words.
pub(super) fn load(disk: &dyn Disk, revision: u64) -> Result<(Place, Vec<u8>), String> {
    let file = disk.open(&name(revision), Access::Read).map_err(|error| error.to_string())?;
    let mut bytes = read_whole(&*file).map_err(|error| error.to_string())?;
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err("it is no snapshot of this version".to_owned());
    }
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..SUMMED]), &bytes[HEADER..]);
    let whole = number(64) == (bytes.len() - HEADER) as u64 && bytes[SUMMED..HEADER] == sum.to_le_bytes();
    if !whole || number(8) != revision {
        return Err("it is damaged".to_owned());
    }
    let head = Head { revision, hash: bytes[16..48].try_into().unwrap_or_default() };
    let place = Place { head, base: number(48), offset: number(56) };
    bytes.drain(..HEADER);
    Ok((place, bytes))
}
