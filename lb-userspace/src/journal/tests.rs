//! The log in files: what is done about tails, flipped bits, other versions, snapshots and archives.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::contract::{ids, record};
use super::disk::{Access, Directory, Disk, DiskFile};
use super::frame::HEAD;
use super::log::{self, Limits, LogError};
use super::recording::{Failing, RecordingDisk};
use super::segment::HEADER;
use super::{EventStore, FileStore, Head, StoreError, Verification, offline, read_all};

/// Small segments and rooms, so that few records fill several.
const SMALL: Limits = Limits { segment_bytes: 2_048, room_bytes: 512, retain_bytes: None };

fn open(directory: &Path) -> Result<FileStore, StoreError> {
    FileStore::open_with(directory, SMALL).map(|loaded| loaded.store)
}

/// Appends records of one event up to a revision.
fn fill(store: &mut FileStore, up_to: u64) {
    for revision in store.reader().latest().revision..up_to {
        store.append(revision, &[record(revision, 1, "x")]).unwrap();
    }
}

fn written(up_to: u64) -> (tempfile::TempDir, Head) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    fill(&mut store, up_to);
    let head = store.reader().latest();
    (directory, head)
}

fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("journal")).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    found.sort();
    found
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Length of a segment without the room behind its records.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1
}

#[test]
fn segments_follow_each_other_and_are_read_from_any_revision() {
    let (directory, head) = written(60);
    assert!(files(directory.path(), ".log").len() > 4);
    let store = open(directory.path()).unwrap();
    let reader = store.reader();
    assert_eq!((reader.latest(), store.notes().len()), (head, 0));
    for after in 0..60 {
        let read = reader.read(after, 7).unwrap();
        let expected: Vec<u64> = (after + 1..=60).take(7).collect();
        assert_eq!(read.iter().map(|record| record.revision).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn the_hash_is_of_the_records_and_not_of_how_they_were_appended() {
    let (_one_by_one, head) = written(3);
    let directory = tempfile::tempdir().unwrap();
    let records: Vec<_> = (0..3).map(|revision| record(revision, 1, "x")).collect();
    assert_eq!(open(directory.path()).unwrap().append(0, &records).unwrap(), head);
}

#[test]
fn a_tail_that_lacks_its_end_is_cut_kept_and_said() {
    let (directory, _) = written(2);
    let path = files(directory.path(), ".log").remove(0);
    let two = used(&std::fs::read(&path).unwrap());
    fill(&mut open(directory.path()).unwrap(), 3);
    let whole = std::fs::read(&path).unwrap();
    for length in (two + 1..used(&whole)).step_by(5) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let mut store = open(directory.path()).unwrap();
        assert_eq!(ids(&*store.reader()), ["x-0", "x-1"]);
        assert!(store.notes()[0].contains("unfinished"), "{:?}", store.notes());
        let torn = &whole[two..length];
        assert_eq!(std::fs::read(store.torn_path()).unwrap(), torn[..used(torn)]);
        fill(&mut store, 3);
        assert_eq!(open(directory.path()).unwrap().reader().latest().revision, 3);
    }
}

#[test]
fn a_write_that_took_only_a_part_is_cut_wherever_it_stopped() {
    let (directory, _) = written(2);
    let path = files(directory.path(), ".log").remove(0);
    let two = used(&std::fs::read(&path).unwrap());
    fill(&mut open(directory.path()).unwrap(), 3);
    let whole = std::fs::read(&path).unwrap();
    for length in (two + 1..used(&whole)).step_by(5) {
        let mut bytes = whole.clone();
        bytes[length..].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(open(directory.path()).unwrap().reader().latest().revision, 2, "{length} bytes");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_what_the_start_needs_stops_it_and_says_where() {
    let (directory, _) = written(5);
    let path = files(directory.path(), ".log").remove(0);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..used(&whole) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        if at as u64 >= 52 && (at as u64) < HEADER {
            continue;
        }
        std::fs::write(&path, &bytes).unwrap();
        let error = open(directory.path()).expect_err(&format!("byte {at}"));
        match &error {
            StoreError::Log(LogError::Damaged { offset, .. }) => assert!(*offset <= at as u64, "{error}"),
            StoreError::Log(LogError::Foreign { .. }) => assert!(at < 8, "{error}"),
            other => panic!("{other}"),
        }
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
    }
}

#[test]
fn another_version_is_refused_and_left_alone() {
    let (directory, _) = written(5);
    let path = files(directory.path(), ".log").remove(0);
    change(&path, |bytes| bytes[7] = 2);
    let before = std::fs::read(&path).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Log(LogError::Foreign { .. })), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("journal"), "LB\0LOG\0\u{1} a file").unwrap();
    assert!(matches!(open(other.path()), Err(StoreError::Log(LogError::Foreign { .. }))));
}

#[test]
fn a_snapshot_spares_the_start_the_older_segments_and_the_background_finds_their_damage() {
    let (directory, head) = written(60);
    let mut store = open(directory.path()).unwrap();
    store.save_snapshot(head, b"sixty").unwrap();
    fill(&mut store, 62);
    drop(store);
    let second = files(directory.path(), ".log").remove(1);
    change(&second, |bytes| bytes[HEADER as usize + HEAD + 20] ^= 1);
    let store = open(directory.path()).unwrap();
    let reader = store.reader();
    assert_eq!((reader.latest().revision, reader.snapshot(61)), (62, Some((60, b"sixty".to_vec()))));
    assert_eq!(read_all(&*reader, 60).unwrap().len(), 2);
    assert_eq!(reader.verification(), Verification::Pending);
    let mut reports = 0;
    let found = store.files().verify_older(|_| {
        reports += 1;
        ControlFlow::Continue(())
    });
    let Verification::Damaged { segment, offset, .. } = &found else { panic!("{found:?}") };
    assert_eq!((segment, *offset, reader.verification()), (&second, HEADER, found.clone()));
    assert!(reports > 2);
    assert!(matches!(read_all(&*reader, 0), Err(StoreError::Log(LogError::Damaged { .. }))));
}

/// A directory whose daemon appends a record whenever somebody asks for a file's length, so many times.
#[derive(Debug)]
struct Busy {
    directory: Arc<Directory>,
    daemon: Arc<Mutex<(FileStore, u32)>>,
}

#[derive(Debug)]
struct BusyFile(Arc<dyn DiskFile>, Arc<Mutex<(FileStore, u32)>>);

impl Disk for Busy {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.directory.list(folder)
    }
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.directory.make_folder(folder)
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(BusyFile(self.directory.open(name, access)?, self.daemon.clone())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        self.directory.sync(folder)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }
}

impl DiskFile for BusyFile {
    fn length(&self) -> io::Result<u64> {
        let mut daemon = self.1.lock().unwrap();
        if let Some(left) = daemon.1.checked_sub(1) {
            daemon.1 = left;
            let next = daemon.0.reader().latest().revision + 1;
            fill(&mut daemon.0, next);
        }
        self.0.length()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }
    fn reserve(&self, end: u64) -> io::Result<()> {
        self.0.reserve(end)
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        self.0.cut(length)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn a_log_that_is_appended_to_while_it_is_looked_at_is_not_damaged() {
    for appends in 0..6 {
        let (directory, _) = written(3);
        let daemon = Arc::new(Mutex::new((open(directory.path()).unwrap(), appends)));
        let inner = Arc::new(Directory::at(&directory.path().join("journal")));
        let disk = Busy { directory: inner, daemon: daemon.clone() };
        let found =
            log::look(&disk, Access::Read).unwrap_or_else(|error| panic!("{appends}: {error}")).unwrap();
        let revision = found.reached.head.revision;
        let latest = daemon.lock().unwrap().0.reader().latest();
        assert!((3..=latest.revision).contains(&revision) && found.torn.is_empty(), "{revision}");
        // What is damaged stays so, however busy the daemon is.
        daemon.lock().unwrap().1 = appends;
        change(&files(directory.path(), ".log")[0], |bytes| bytes[HEADER as usize + HEAD + 20] ^= 1);
        assert!(matches!(log::look(&disk, Access::Read), Err(LogError::Damaged { offset: HEADER, .. })));
    }
}

#[test]
fn the_log_of_a_daemon_under_load_is_whole_whenever_it_is_verified() {
    let (directory, _) = written(3);
    let mut store = open(directory.path()).unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let (path, told) = (directory.path().to_owned(), ends.clone());
    let looks = std::thread::spawn(move || {
        let mut looks = 0;
        while !told.load(Ordering::Relaxed) {
            offline::head(&path).unwrap();
            offline::verify(&path, None).unwrap();
            looks += 1;
        }
        looks
    });
    for revision in (10..800).step_by(10) {
        fill(&mut store, revision);
        store.save_snapshot(store.reader().latest(), b"").unwrap();
        store.archive(20_000).unwrap();
    }
    ends.store(true, Ordering::Relaxed);
    assert!(looks.join().unwrap() > 3);
}

#[test]
fn a_snapshot_that_finds_no_room_takes_none() {
    let disk = RecordingDisk::empty(1);
    let mut store = FileStore::open_on(Arc::new(disk.clone()), SMALL).unwrap().store;
    fill(&mut store, 3);
    let mut before = disk.list("").unwrap();
    disk.fail(Failing::Full(1_000));
    assert!(store.save_snapshot(store.reader().latest(), &[7; 5_000]).is_err());
    let mut after = disk.list("").unwrap();
    before.sort();
    after.sort();
    assert_eq!(after, before, "what was written of it is gone");
}

#[test]
fn a_damaged_snapshot_is_passed_over_and_said() {
    let (directory, head) = written(10);
    let mut store = open(directory.path()).unwrap();
    store.save_snapshot(head, b"ten").unwrap();
    fill(&mut store, 20);
    store.save_snapshot(store.reader().latest(), b"twenty").unwrap();
    change(&files(directory.path(), ".snapshot")[1], |bytes| *bytes.last_mut().unwrap() ^= 1);
    let store = open(directory.path()).unwrap();
    assert!(store.notes()[0].contains("passed over"), "{:?}", store.notes());
    assert_eq!((store.reader().latest().revision, store.reader().snapshot(99).unwrap().0), (20, 10));
}

#[test]
fn a_log_that_was_cut_before_its_snapshot_is_not_taken_for_a_short_one() {
    let (directory, head) = written(60);
    open(directory.path()).unwrap().save_snapshot(head, b"").unwrap();
    let last = files(directory.path(), ".log").pop().unwrap();
    change(&last, |bytes| bytes.truncate(HEADER as usize));
    assert!(open(directory.path()).unwrap_err().to_string().contains("cut"));
    std::fs::remove_file(&last).unwrap();
    assert!(open(directory.path()).unwrap_err().to_string().contains("cut"));
}

#[test]
fn only_the_last_snapshots_are_kept() {
    let (directory, _) = written(1);
    let mut store = open(directory.path()).unwrap();
    for revision in 2..8 {
        fill(&mut store, revision);
        store.save_snapshot(store.reader().latest(), b"s").unwrap();
    }
    assert_eq!(files(directory.path(), ".snapshot").len(), 3);
    let never = Head { revision: 7, hash: [1; 32] };
    assert!(matches!(store.save_snapshot(never, b""), Err(StoreError::NoSuchHead(_))));
}

#[test]
fn archived_segments_are_moved_whole_and_still_read_while_they_are_there() {
    let (directory, head) = written(60);
    let mut store = open(directory.path()).unwrap();
    assert_eq!(store.archive(0).unwrap(), 0, "nothing without a snapshot to start from");
    store.save_snapshot(head, b"sixty").unwrap();
    let before = std::fs::read(&files(directory.path(), ".log")[0]).unwrap();
    let all = read_all(&*store.reader(), 0).unwrap();
    let moved = store.archive(0).unwrap();
    assert!(moved > 3);
    let archived = directory.path().join("journal/archive/00000000000000000000.log");
    assert_eq!(std::fs::read(&archived).unwrap(), before);
    let stores = [store, open(directory.path()).unwrap()];
    for store in &stores {
        assert_eq!(read_all(&*store.reader(), 0).unwrap(), all);
        assert_eq!(store.reader().read(17, 1).unwrap(), all[17..18]);
    }
    let checked = offline::verify(directory.path(), Some((60, head.hash))).unwrap();
    assert_eq!((checked.first, checked.records, checked.expected_found), (0, 60, true));
    std::fs::remove_file(&archived).unwrap();
    for store in stores.iter().chain([&open(directory.path()).unwrap()]) {
        let error = store.reader().read(3, 1).unwrap_err();
        assert!(matches!(error, StoreError::Log(LogError::Archived { .. })), "{error}");
        assert!(store.reader().read(59, 1).is_ok());
    }
    std::fs::remove_file(&files(directory.path(), ".snapshot")[0]).unwrap();
    assert!(matches!(open(directory.path()), Err(StoreError::Log(LogError::Archived { .. }))));
}

#[test]
fn a_power_cut_between_moves_to_the_archive_leaves_no_gap() {
    let disk = RecordingDisk::empty(1);
    let mut store = FileStore::open_on(Arc::new(disk.clone()), SMALL).unwrap().store;
    fill(&mut store, 60);
    store.save_snapshot(store.reader().latest(), b"sixty").unwrap();
    let images = Arc::new(Mutex::new((fastrand::Rng::with_seed(1), Vec::new())));
    let kept = images.clone();
    disk.watch(Some(Arc::new(move |disk: &RecordingDisk| {
        let (rng, images) = &mut *kept.lock().unwrap();
        images.extend((0..8).map(|_| disk.crash(rng)));
    })));
    // The first sync of a move fails: the next call goes on where that one stopped.
    disk.fail(Failing::After(3));
    store.archive(0).unwrap_err();
    disk.fail(Failing::Nothing);
    assert!(store.archive(0).unwrap() > 3);
    disk.watch(None);
    let images = std::mem::take(&mut images.lock().unwrap().1);
    assert!(images.len() > 50);
    for image in images {
        let store = FileStore::open_on(Arc::new(image), SMALL).unwrap().store;
        let records = read_all(&*store.reader(), 0).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(records.len(), 60);
    }
}

#[test]
fn what_was_exported_is_what_was_appended() {
    let (directory, head) = written(60);
    assert_eq!(offline::head(directory.path()).unwrap(), head);
    let mut lines = Vec::new();
    assert_eq!(offline::export(directory.path(), 57, &mut lines).unwrap(), 3);
    let text = String::from_utf8(lines).unwrap();
    let first = text.lines().next().unwrap();
    assert_eq!(lb_control::record::Record::parse(first.as_bytes()).unwrap(), *record(57, 1, "x"));
    let stats = offline::stats(directory.path()).unwrap();
    assert_eq!((stats.head, stats.records, stats.archived), (head, 60, 0));
    assert_eq!(stats.span_ms, Some((1_700_000_000_000, 1_700_000_000_059)));
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(offline::head(empty.path()).unwrap(), Head::default());
    assert_eq!(offline::stats(empty.path()).unwrap().records, 0);
    assert!(std::fs::read_dir(empty.path()).unwrap().next().is_none(), "a look makes nothing");
}

#[test]
fn a_log_that_was_cut_or_rewritten_is_shown_by_a_head_that_was_kept() {
    let (directory, head) = written(60);
    let kept = Some((head.revision, head.hash));
    assert!(offline::verify(directory.path(), kept).unwrap().expected_found);
    let cut = offline::repair(directory.path(), 50).unwrap();
    assert_eq!((cut.head.revision, open(directory.path()).unwrap().reader().latest()), (50, cut.head));
    assert!(offline::verify(directory.path(), None).is_ok(), "a cut log is whole in itself");
    assert!(offline::verify(directory.path(), kept).unwrap_err().to_string().contains("was cut"));
    let mut store = open(directory.path()).unwrap();
    for revision in 50..60 {
        store.append(revision, &[record(revision, 1, "y")]).unwrap();
    }
    drop(store);
    assert!(offline::verify(directory.path(), None).is_ok());
    assert!(offline::verify(directory.path(), kept).unwrap_err().to_string().contains("rewritten"));
}

#[test]
fn a_repair_ends_the_log_before_its_damage_and_keeps_what_it_takes() {
    let (directory, head) = written(60);
    open(directory.path()).unwrap().save_snapshot(head, b"sixty").unwrap();
    let third = files(directory.path(), ".log").remove(2);
    let before = std::fs::read(&third).unwrap();
    change(&third, |bytes| bytes[HEADER as usize + 600] ^= 1);
    let damaged = std::fs::read(&third).unwrap();
    let error = offline::verify(directory.path(), None).unwrap_err();
    let offline::OfflineError::Store(StoreError::Log(LogError::Damaged { path, whole, .. })) = &error else {
        panic!("{error}")
    };
    assert_eq!(*path, third);
    assert!(offline::repair(directory.path(), whole + 1).is_err(), "not behind the damage");
    let cut = offline::repair(directory.path(), *whole).unwrap();
    assert_eq!(cut.head.revision, *whole);
    assert_eq!(std::fs::read(cut.kept.join(third.file_name().unwrap())).unwrap(), damaged);
    assert!(cut.kept.join("00000000000000000060.snapshot").exists());
    assert_eq!(std::fs::read(&third).unwrap(), before[..std::fs::read(&third).unwrap().len()]);
    let mut store = open(directory.path()).unwrap();
    assert_eq!(store.reader().latest(), cut.head);
    fill(&mut store, 60);
    assert_eq!(store.reader().latest(), head, "the same records give the same head");
}

#[test]
fn a_repair_is_refused_while_a_daemon_runs_and_within_an_append() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    store.append(0, &[record(0, 2, "a"), record(2, 2, "b")]).unwrap();
    drop(store);
    let held = super::lock::DirectoryLock::take(directory.path()).unwrap();
    assert!(matches!(offline::repair(directory.path(), 4), Err(offline::OfflineError::Held(_))));
    drop(held);
    let error = offline::repair(directory.path(), 2).unwrap_err();
    assert!(matches!(error, offline::OfflineError::NoRecordEnd { at: 2, before: 0 }), "{error}");
    let error = offline::repair(directory.path(), 9).unwrap_err();
    assert!(matches!(error, offline::OfflineError::NoRecordEnd { at: 9, before: 4 }), "{error}");
    assert_eq!(offline::repair(directory.path(), 0).unwrap().head, Head::default());
}

#[test]
fn a_head_is_written_as_it_is_read() {
    let head = Head { revision: 7, hash: [0xab; 32] };
    assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
    for bad in
        ["", "7", "7:", "7:abc", "x:00", &format!("7:{}", "g".repeat(64)), &format!("7:{}é", "a".repeat(62))]
    {
        assert!(bad.parse::<Head>().is_err(), "{bad}");
    }
}
