//! The files of the ring of observations: bounded, and what is in them is let go only for what is written.
//!
//! A file is gone on with, after a start and after a refusal too, until it is full; the oldest goes when something stands in
//! a newer one. So neither many starts nor a disk that refuses empties the ring.
//!
//! A file holds lines: the CRC-32C of the JSON behind it in eight hexadecimal digits, a space, the JSON. A line that is
//! not whole is passed over. Nothing is synced but a file that is full: a power cut costs the last moments.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lb_control::observation::Observation;
use nix::libc;

/// How the name of a file of the ring ends; before it stands the number of its first observation.
const ENDING: &str = ".jsonl";

/// The files of a ring, by the number of their first observation, ascending.
pub(super) fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(ENDING)?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

/// The newest observations of a time or later that are wanted, at most so many, oldest first. Reads no further than to
/// the first file that is older as a whole, and holds no more than it gives.
///
/// # Errors
/// The ring cannot be read.
pub(super) fn find(
    folder: &Path,
    since_ms: u64,
    limit: usize,
    wanted: impl Fn(&Observation) -> bool,
) -> io::Result<Vec<Observation>> {
    let mut newest = VecDeque::new();
    for (_, path) in files(folder)?.into_iter().rev() {
        let room = limit - newest.len();
        if room == 0 {
            break;
        }
        let (mut found, mut older) = (VecDeque::new(), true);
        let read = lines(&path, |one| {
            if one.at_ms < since_ms {
                return;
            }
            older = false;
            if wanted(&one) {
                found.push_back(one);
                if found.len() > room {
                    found.pop_front();
                }
            }
        });
        match read {
            // The ring went on meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Ok(0) => continue,
            lines => lines?,
        };
        if older {
            break;
        }
        found.append(&mut newest);
        newest = found;
    }
    Ok(newest.into())
}

/// Gives the whole lines of a file, and says how many there are.
fn lines(path: &Path, mut each: impl FnMut(Observation)) -> io::Result<usize> {
    let whole = |line: &[u8]| {
        let (sum, json) = line.split_at_checked(9)?;
        let sum = u32::from_str_radix(std::str::from_utf8(&sum[..8]).ok()?, 16).ok()?;
        (crc32c::crc32c(json) == sum).then(|| serde_json::from_slice(json).ok()).flatten()
    };
    let mut count = 0;
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        if let Some(observation) = whole(&line?) {
            each(observation);
            count += 1;
        }
    }
    Ok(count)
}

/// An observation's line.
pub(super) fn line(observation: &Observation) -> Vec<u8> {
    let json = serde_json::to_vec(observation).unwrap_or_default();
    let mut line = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    line
}

/// The number of the next observation.
pub(super) fn numbers_from(folder: &Path) -> u64 {
    let last = files(folder).ok().and_then(|mut files| files.pop());
    let Some((first, path)) = last else { return 1 };
    let mut seq = first;
    // Of a file that cannot be read, its name's number is known to be given.
    let _ = lines(&path, |one| seq = one.seq);
    seq + 1
}

/// The end of the ring that is written.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) folder: PathBuf,
    /// A file that has reached this size is not appended to, bytes.
    file_bytes: u64,
    /// Files that are kept.
    keep: usize,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Its length, bytes.
    size: u64,
    /// Something was written to it, and older ones let go for that.
    written: bool,
}

impl Ring {
    pub(super) fn new(folder: PathBuf, file_bytes: u64, keep: usize) -> Self {
        Self { folder, file_bytes, keep: keep.max(1), open: None }
    }

    /// Writes a batch that begins with an observation of this number: whole, as far as the disk lets it.
    pub(super) fn write(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let written = self.try_write(first, bytes);
        if written.is_err() {
            // What the file ends in is not known: the next batch looks.
            self.open = None;
        }
        written
    }

    fn try_write(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(full) = self.open.take_if(|open| open.size >= self.file_bytes) {
            full.file.sync_data()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(open(&self.folder, first, self.file_bytes)?),
        };
        if let Err(error) = open.file.write_all(bytes) {
            // A part of a batch says little, and would be more with each attempt.
            let _ = open.file.set_len(open.size);
            return Err(error);
        }
        open.size += bytes.len() as u64;
        if !open.written {
            let found = files(&self.folder)?;
            for (_, old) in &found[..found.len().saturating_sub(self.keep)] {
                std::fs::remove_file(old)?;
            }
            open.written = true;
        }
        Ok(())
    }
}

/// Goes on with the newest file, or begins one if it is full.
fn open(folder: &Path, first: u64, file_bytes: u64) -> io::Result<Open> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let open = |path| OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path);
    if let Some((_, newest)) = files(folder)?.pop() {
        let mut file = open(newest)?;
        let size = file.metadata()?.len();
        if size < file_bytes {
            if size > 0 {
                // It may end in a part of a line.
                file.write_all(b"\n")?;
            }
            return Ok(Open { file, size: size + u64::from(size > 0), written: false });
        }
    }
    let file = open(folder.join(format!("{first:020}{ENDING}")))?;
    Ok(Open { file, size: 0, written: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::health::{Health, Outcome};
    use lb_control::observation::{Cause, Change, Object};

    fn observed(seq: u64) -> Observation {
        let change = Change::HealthChanged { from: Health::Up, to: Health::Down };
        let (object, cause) = (Object::Node, Cause::Probe { outcome: Outcome::Timeout });
        Observation { v: 1, at_ms: seq * 10, seq, object, change, cause, evidence: String::new() }
    }

    fn write(ring: &mut Ring, seq: u64) -> io::Result<()> {
        ring.write(seq, &line(&observed(seq)))
    }

    fn numbers(folder: &Path) -> Vec<u64> {
        find(folder, 0, 1_000, |_| true).unwrap().iter().map(|one| one.seq).collect()
    }

    #[test]
    fn many_starts_cost_nothing_that_was_seen() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..40 {
            let mut ring = Ring::new(directory.path().to_owned(), 1 << 20, 3);
            let next = numbers_from(directory.path());
            write(&mut ring, next).unwrap();
        }
        assert_eq!(numbers(directory.path()), (1..=40).collect::<Vec<_>>());
        assert_eq!(files(directory.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_disk_that_refuses_costs_nothing_that_was_seen() {
        let directory = tempfile::tempdir().unwrap();
        let mut ring = Ring::new(directory.path().to_owned(), 150, 3);
        (1..=5).for_each(|seq| write(&mut ring, seq).unwrap());
        let (kept, before) = (numbers(directory.path()), files(directory.path()).unwrap());
        assert_eq!((kept.len(), before.len()), (3, 3), "one in each file");
        let refused = |ring: &mut Ring, seq| {
            let file = OpenOptions::new().append(true).open("/dev/full").unwrap();
            ring.open = Some(Open { file, size: 0, written: false });
            write(ring, seq).unwrap_err();
        };
        (6..46).for_each(|seq| refused(&mut ring, seq));
        assert_eq!(files(directory.path()).unwrap(), before);
        // A new one that takes nothing: what it is to replace stays until it does.
        std::fs::write(directory.path().join(format!("{:020}{ENDING}", 90)), "").unwrap();
        (90..130).for_each(|seq| refused(&mut ring, seq));
        assert_eq!((numbers(directory.path()), files(directory.path()).unwrap().len()), (kept.clone(), 4));
        write(&mut ring, 130).unwrap();
        assert_eq!(numbers(directory.path()), [kept[1], kept[2], 130]);
        assert_eq!(files(directory.path()).unwrap().len(), 3);
    }

    #[test]
    fn a_file_that_ends_in_a_part_of_a_line_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let mut ring = Ring::new(directory.path().to_owned(), 1 << 20, 3);
        (1..=3).for_each(|seq| write(&mut ring, seq).unwrap());
        let path = files(directory.path()).unwrap().remove(0).1;
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
        ring.open = None;
        (4..=5).for_each(|seq| write(&mut ring, seq).unwrap());
        assert_eq!(numbers(directory.path()), [1, 2, 4, 5]);
        assert_eq!(files(directory.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_search_reads_to_the_first_file_that_is_older_and_holds_only_what_it_gives() {
        let directory = tempfile::tempdir().unwrap();
        let mut ring = Ring::new(directory.path().to_owned(), 1, 10);
        (1..=9).for_each(|seq| write(&mut ring, seq).unwrap());
        let seen = std::cell::RefCell::new(Vec::new());
        let find = |since_ms, limit, even: bool| {
            seen.borrow_mut().clear();
            let wanted = |one: &Observation| {
                seen.borrow_mut().push(one.seq);
                !even || one.seq.is_multiple_of(2)
            };
            let found = find(directory.path(), since_ms, limit, wanted).unwrap();
            (found.iter().map(|one| one.seq).collect::<Vec<_>>(), seen.borrow().clone())
        };
        assert_eq!(find(0, 2, false), (vec![8, 9], vec![9, 8]), "the newest, and no more is read");
        assert_eq!(find(0, 2, true), (vec![6, 8], vec![9, 8, 7, 6]), "the limit is of what is wanted");
        // The file of 3 cannot be read: whoever stops at 7, which is older as a whole, does not notice.
        let third = files(directory.path()).unwrap().remove(2).1;
        std::fs::remove_file(&third).unwrap();
        std::fs::create_dir(&third).unwrap();
        assert_eq!(find(80, 100, false), (vec![8, 9], vec![9, 8]));
        assert!(super::find(directory.path(), 0, 100, |_| true).is_err());
    }
}
