//! The file under the journal: it holds whole records, in order, or it says where it does not.
//!
//! Layout: [`MAGIC`], then per record its length (u32, little-endian), the CRC-32C (u32, little-endian) of length and
//! payload, and the payload. What a payload means is the caller's business; chains and snapshots are not here.
//!
//! Invariants:
//! - [`Log::append`] returns only after `fdatasync`; what it refused is not in the log afterwards;
//! - an unfinished last record is cut, kept beside the log and said; a damaged record with whole ones behind it stops the start, because
//!   cutting there would lose what was acknowledged;
//! - a failed `fdatasync` is never retried: the kernel has marked the pages clean by then. The whole log is read again
//!   and what was refused is cut, at once, or, while that fails too, before the next append.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

/// First bytes of the file: what it is, and the version of its layout in the last one.
pub const MAGIC: &[u8; 8] = b"LB\x00LOG\x00\x01";
/// Largest payload, bytes: the largest request body that makes one record.
pub const PAYLOAD_MAX: usize = 64 * 1024 * 1024;
/// Length and checksum before each payload, bytes.
const HEAD: usize = 8;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{path}: {doing}: {source}", path = path.display())]
    Io {
        /// The log's file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The file is no log of ours, or of a newer version.
    #[error("{path}: not a journal that this version reads (it starts with {found:02x?})", path = path.display())]
    Foreign {
        /// The log's file.
        path: PathBuf,
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// A record is damaged and whole ones follow it.
    #[error("{path}: record {index} at byte {offset} is damaged, and whole records follow it", path = path.display())]
    Damaged {
        /// The log's file.
        path: PathBuf,
        /// Number of whole records before it.
        index: usize,
        /// Where it starts, bytes from the start of the file.
        offset: usize,
    },
    /// A payload is larger than [`PAYLOAD_MAX`].
    #[error("a record of {size} bytes is larger than the journal takes ({PAYLOAD_MAX})")]
    TooLarge {
        /// Its size, bytes.
        size: usize,
    },
}

/// An open log, positioned behind its last whole record.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    /// Where the next record goes, bytes from the start; everything before is durable.
    end: u64,
    /// A write or sync failed: what the file holds is not known.
    suspect: bool,
}

/// What [`Log::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The log, ready for appends.
    pub log: Log,
    /// The payloads of all whole records, oldest first.
    pub payloads: Vec<Vec<u8>>,
    /// Bytes of an unfinished last record that were cut off; 0 = the log ended cleanly.
    pub cut_bytes: u64,
}

impl Log {
    /// Opens the log at `path`, or makes an empty one, readable by its owner only.
    ///
    /// # Errors
    /// The file cannot be read or written, is no log of this version, or is damaged before its end.
    pub fn open(path: &Path) -> Result<Opened, LogError> {
        let fail = |doing, source| LogError::Io { path: path.to_owned(), doing, source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .map_err(|error| fail("open", error))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| fail("read", error))?;
        let mut log = Self { file, path: path.to_owned(), end: MAGIC.len() as u64, suspect: false };
        if MAGIC.starts_with(&bytes) && bytes.len() < MAGIC.len() {
            log.begin().map_err(|error| fail("write", error))?;
            return Ok(Opened { log, payloads: Vec::new(), cut_bytes: bytes.len() as u64 });
        }
        let (payloads, whole) = scan(path, &bytes)?;
        let cut_bytes = bytes.len() as u64 - whole;
        log.end = whole;
        if cut_bytes > 0 {
            // A damaged last record looks the same as an unfinished one: keep it for whoever wants to look.
            let torn = log.torn_path();
            let kept = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&torn);
            kept.and_then(|mut kept| kept.write_all(&bytes[whole as usize..]))
                .map_err(|error| fail("keep the unfinished record", error))?;
            log.cut().map_err(|error| fail("cut the unfinished last record", error))?;
        }
        log.file.seek(SeekFrom::Start(whole)).map_err(|error| fail("seek", error))?;
        Ok(Opened { log, payloads, cut_bytes })
    }

    /// Where [`Log::open`] keeps what it cut off.
    pub fn torn_path(&self) -> PathBuf {
        self.path.with_added_extension("torn")
    }

    /// Appends one record and returns when it is durable.
    ///
    /// # Errors
    /// The disk refused or is full: the record is then not in the log, and the log can be tried again.
    pub fn append(&mut self, payload: &[u8]) -> Result<(), LogError> {
        if payload.len() > PAYLOAD_MAX {
            return Err(LogError::TooLarge { size: payload.len() });
        }
        if self.suspect {
            self.recover()?;
        }
        let mut record = Vec::with_capacity(HEAD + payload.len());
        record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        record.extend_from_slice(&checksum(payload).to_le_bytes());
        record.extend_from_slice(payload);
        if let Err(source) = self.file.write_all(&record).and_then(|()| self.file.sync_data()) {
            self.suspect = true;
            // At once, so that a daemon that ends now does not find it as accepted when it starts again.
            if let Err(error) = self.recover() {
                tracing::error!(%error, "what the journal refused could not be cut yet");
            }
            return Err(LogError::Io { path: self.path.clone(), doing: "append", source });
        }
        self.end += record.len() as u64;
        Ok(())
    }

    /// After a failure: opens the file anew, reads what must be there and cuts what was refused.
    fn recover(&mut self) -> Result<(), LogError> {
        let end = self.end;
        let bytes = std::fs::read(&self.path).map_err(|source| LogError::Io {
            path: self.path.clone(),
            doing: "read again",
            source,
        })?;
        let durable = bytes.get(..end as usize).unwrap_or(&bytes);
        let (payloads, whole) = scan(&self.path, durable)?;
        if whole != end {
            let offset = whole as usize;
            return Err(LogError::Damaged { path: self.path.clone(), index: payloads.len(), offset });
        }
        let reopen =
            || OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&self.path);
        let io = |source| LogError::Io { path: self.path.clone(), doing: "cut what was refused", source };
        let file = reopen().map_err(io)?;
        self.file = file;
        let done = self.cut().and_then(|()| self.file.seek(SeekFrom::Start(end)));
        done.map_err(|source| LogError::Io {
            path: self.path.clone(),
            doing: "cut what was refused",
            source,
        })?;
        self.suspect = false;
        Ok(())
    }

    /// Makes an empty log and its name in the directory durable.
    fn begin(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(MAGIC)?;
        self.file.sync_all()?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Ends the file at `end`.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.sync_all()
    }
}

/// The whole records of a log's bytes, and where they end.
fn scan(path: &Path, bytes: &[u8]) -> Result<(Vec<Vec<u8>>, u64), LogError> {
    if !bytes.starts_with(MAGIC) {
        let found = bytes.iter().copied().take(MAGIC.len()).collect();
        return Err(LogError::Foreign { path: path.to_owned(), found });
    }
    let mut payloads = Vec::new();
    let mut offset = MAGIC.len();
    while let Some(payload) = record_at(bytes, offset) {
        offset += HEAD + payload.len();
        payloads.push(payload.to_vec());
    }
    let behind = (offset + 1..bytes.len()).find(|&later| record_at(bytes, later).is_some());
    match behind {
        None => Ok((payloads, offset as u64)),
        Some(_) => Err(LogError::Damaged { path: path.to_owned(), index: payloads.len(), offset }),
    }
}

/// The payload of a whole record at `offset`. An empty payload is none: a run of zeros would be full of them.
fn record_at(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let sum = u32::from_le_bytes(rest.get(4..HEAD)?.try_into().ok()?);
    if length == 0 || length > PAYLOAD_MAX {
        return None;
    }
    let payload = rest.get(HEAD..HEAD + length)?;
    (checksum(payload) == sum).then_some(payload)
}

/// CRC-32C (RFC 3720, appendix B.4) of the length, then the payload, so that a wrong length is seen too.
fn checksum(payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&(payload.len() as u32).to_le_bytes()), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payloads: &[&[u8]]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut log = Log::open(&path).unwrap().log;
        for payload in payloads {
            log.append(payload).unwrap();
        }
        (directory, path)
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let (_directory, path) = written(&[b"one", b"two"]);
        let mut opened = Log::open(&path).unwrap();
        assert_eq!((opened.payloads.len(), opened.cut_bytes), (2, 0));
        opened.log.append(b"three").unwrap();
        assert_eq!(Log::open(&path).unwrap().payloads, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_at_the_last_whole_record() {
        let (_directory, path) = written(&[b"first record", b"second record"]);
        let bytes = std::fs::read(&path).unwrap();
        let first = MAGIC.len() + HEAD + b"first record".len();
        for length in first + 1..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let mut opened = Log::open(&path).unwrap();
            assert_eq!(opened.payloads, [b"first record".to_vec()]);
            assert_eq!(opened.cut_bytes, (length - first) as u64);
            assert_eq!(std::fs::read(opened.log.torn_path()).unwrap(), bytes[first..length]);
            opened.log.append(b"third").unwrap();
            assert_eq!(Log::open(&path).unwrap().payloads.len(), 2);
        }
    }

    #[test]
    fn a_tail_of_zeros_or_of_a_flipped_bit_is_cut() {
        let (_directory, path) = written(&[b"first", b"second"]);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Log::open(&path).unwrap().payloads.len(), 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([0; 512]);
        std::fs::write(&path, &bytes).unwrap();
        let opened = Log::open(&path).unwrap();
        assert_eq!((opened.payloads.len(), opened.cut_bytes), (1, 512));
    }

    #[test]
    fn damage_before_whole_records_stops_the_start() {
        let (_directory, path) = written(&[b"first", b"second"]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[MAGIC.len() + HEAD] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = Log::open(&path).unwrap_err();
        assert!(matches!(error, LogError::Damaged { index: 0, offset: 8, .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
    }

    #[test]
    fn another_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        std::fs::write(&path, b"LB\x00LOG\x00\x02 from the future").unwrap();
        assert!(matches!(Log::open(&path).unwrap_err(), LogError::Foreign { .. }));
        assert!(std::fs::read(&path).unwrap().ends_with(b"future"));
    }

    #[test]
    fn a_log_that_failed_is_verified_and_cut_before_the_next_append() {
        let (_directory, path) = written(&[b"kept"]);
        let mut log = Log::open(&path).unwrap().log;
        log.file = File::open(&path).unwrap();
        let away = path.with_extension("away");
        std::fs::rename(&path, &away).unwrap();
        assert!(
            log.append(b"refused").is_err(),
            "a read-only file takes no record, and is not found to be cut"
        );
        std::fs::rename(&away, &path).unwrap();
        let mut other = OpenOptions::new().append(true).open(&path).unwrap();
        other.write_all(b"\x07\x00\x00\x00 what a failed write left").unwrap();
        log.append(b"after").unwrap();
        let opened = Log::open(&path).unwrap();
        assert_eq!(opened.payloads, [b"kept".to_vec(), b"after".to_vec()]);
        assert_eq!(opened.cut_bytes, 0);
    }

    #[test]
    fn what_was_refused_is_not_there_when_the_daemon_starts_again() {
        let (_directory, path) = written(&[b"kept"]);
        let mut log = Log::open(&path).unwrap().log;
        // A record whose bytes reached the file, but whose sync failed.
        log.file = File::open(&path).unwrap();
        let mut other = OpenOptions::new().append(true).open(&path).unwrap();
        let length = 7_u32.to_le_bytes();
        let sum = checksum(b"refused").to_le_bytes();
        other.write_all(&[&length[..], &sum[..], b"refused"].concat()).unwrap();
        assert_eq!(Log::open(&path).unwrap().payloads.len(), 2);
        assert!(log.append(b"refused").is_err());
        assert_eq!(Log::open(&path).unwrap().payloads, [b"kept".to_vec()]);
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }
}
