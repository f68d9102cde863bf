//! Power cuts at every moment of the log's life: each disk that one may leave must start, hold every acknowledged
//! record, no part of any append, and none that was answered as refused.
//!
//! Seeded: `LB_SEED` repeats a run, `LB_CRASH_IMAGES` sets how many disks are looked at.

use std::sync::{Arc, Mutex};

use fastrand::Rng;
use lb_control::record::Record;

use super::contract::record;
use super::log::{Limits, LogError};
use super::recording::{Failing, RecordingDisk};
use super::{AppendError, EventStore, FileStore, StoreError, Verification, read_all};

/// Disks that are looked at in an ordinary run.
const IMAGES: usize = 2_500;
/// Small segments and rooms: a life of some dozens of appends passes every boundary.
const LIMITS: Limits = Limits { segment_bytes: 3_000, room_bytes: 1_024, retain_bytes: Some(4_000) };

fn setting<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().ok().expect(name))
}

/// What a log may hold: all of these, and perhaps the append under way.
#[derive(Clone, Default)]
struct Owed {
    acknowledged: Vec<Arc<Record>>,
    under_way: Vec<Arc<Record>>,
}

/// A disk after a power cut, and what is owed.
struct Image {
    disk: RecordingDisk,
    owed: Owed,
}

#[derive(Default)]
struct Gallery {
    owed: Owed,
    images: Vec<Image>,
}

/// Has a power cut played before one in `one_in` changes of a disk.
fn photograph(disk: &RecordingDisk, gallery: &Arc<Mutex<Gallery>>, mut rng: Rng, one_in: u32) {
    let (gallery, rng) = (gallery.clone(), Mutex::new(rng.fork()));
    disk.watch(Some(Arc::new(move |disk: &RecordingDisk| {
        let mut rng = rng.lock().unwrap();
        if rng.u32(..one_in) == 0 {
            let disk = disk.crash(&mut rng);
            let mut gallery = gallery.lock().unwrap();
            let owed = gallery.owed.clone();
            gallery.images.push(Image { disk, owed });
        }
    })));
}

/// The records of a log from its first that is not archived on, and the revision before that.
fn held(store: &FileStore) -> Result<(u64, Vec<Arc<Record>>), StoreError> {
    match read_all(&*store.reader(), 0) {
        Err(StoreError::Log(LogError::Archived { first, .. })) => {
            Ok((first, read_all(&*store.reader(), first)?))
        }
        records => Ok((0, records?)),
    }
}

/// Opens a disk and compares it with what is owed; says whether the append under way was there.
fn check(disk: &RecordingDisk, owed: &Owed) -> Result<(FileStore, bool), String> {
    let store = FileStore::open_on(Arc::new(disk.clone()), LIMITS).map_err(|error| error.to_string())?.store;
    let (first, records) = held(&store).map_err(|error| error.to_string())?;
    let from = |records: &[Arc<Record>]| -> Vec<Arc<Record>> {
        records.iter().filter(|record| record.revision > first).cloned().collect()
    };
    let acknowledged = from(&owed.acknowledged);
    let with_last = [acknowledged.clone(), from(&owed.under_way)].concat();
    let taken = !owed.under_way.is_empty() && records == with_last;
    if records != acknowledged && !taken {
        let ids = |records: &[Arc<Record>]| -> Vec<u64> { records.iter().map(|one| one.revision).collect() };
        return Err(format!(
            "after {first}: {:?}, owed {:?}, under way {:?}",
            ids(&records),
            ids(&acknowledged),
            ids(&owed.under_way)
        ));
    }
    if let Some((revision, state)) = store.reader().snapshot(u64::MAX)
        && state != revision.to_string().into_bytes()
    {
        return Err(format!("the snapshot of revision {revision} holds {state:?}"));
    }
    match store.files().verify_older(|_| std::ops::ControlFlow::Continue(())) {
        Verification::Whole { .. } => Ok((store, taken)),
        found => Err(format!("{found:?}")),
    }
}

fn group(revision: u64, rng: &mut Rng) -> Vec<Arc<Record>> {
    let mut at = revision;
    let mut records = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let (span, longest) = (rng.u64(1..3), if rng.u8(..8) == 0 { 1_500 } else { 120 });
        records.push(record(at, span, &"x".repeat(rng.usize(1..longest))));
        at += span;
    }
    records
}

/// A store that lives through refusals, kills and snapshots.
struct Life {
    disk: RecordingDisk,
    store: FileStore,
    gallery: Arc<Mutex<Gallery>>,
    rng: Rng,
}

impl Life {
    fn new(mut rng: Rng, one_in: u32) -> Self {
        let disk = RecordingDisk::empty(rng.u64(..));
        let gallery = Arc::default();
        photograph(&disk, &gallery, rng.fork(), one_in);
        let store = FileStore::open_on(Arc::new(disk.clone()), LIMITS).unwrap().store;
        Self { disk, store, gallery, rng }
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.u8(..20) {
            0 => {
                let head = self.store.reader().latest();
                self.disk.fail(if self.rng.bool() { Failing::Nothing } else { Failing::OneIn(4) });
                // It may fail: it only speeds up the start.
                let _ = self.store.save_snapshot(head, head.revision.to_string().as_bytes());
                self.disk.fail(Failing::Nothing);
                Ok(())
            }
            1 | 2 => {
                self.disk.fail(Failing::After(self.rng.u32(1..8)));
                self.append()?;
                self.disk.fail(Failing::Nothing);
                self.start_again()
            }
            3..6 => {
                self.disk.fail(Failing::OneIn(self.rng.u32(2..5)));
                self.append()?;
                self.disk.fail(Failing::Nothing);
                // Killed before it could read the store again: the next start meets what the failed sync left.
                if self.rng.bool() { self.start_again() } else { self.settle() }
            }
            _ => {
                self.append()?;
                self.settle()
            }
        }
    }

    fn append(&mut self) -> Result<(), String> {
        let latest = self.store.reader().latest().revision;
        let group = group(latest, &mut self.rng);
        self.gallery.lock().unwrap().owed.under_way = group.clone();
        let answer = self.store.append(latest, &group);
        let mut gallery = self.gallery.lock().unwrap();
        match answer {
            Ok(_) => {
                gallery.owed.acknowledged.extend(group);
                gallery.owed.under_way.clear();
            }
            Err(AppendError::Refused(_)) => gallery.owed.under_way.clear(),
            Err(AppendError::Unknown(_)) => {}
            Err(error @ AppendError::Conflict { .. }) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// After an append in doubt: reads the store again, at the second try at the latest.
    fn settle(&mut self) -> Result<(), String> {
        self.disk.fail(Failing::OneIn(3));
        let first = self.store.reload();
        self.disk.fail(Failing::Nothing);
        first.or_else(|_| self.store.reload()).map_err(|error| error.to_string())?;
        self.judge()
    }

    /// The daemon is killed and starts again, without a power cut.
    fn start_again(&mut self) -> Result<(), String> {
        self.disk.watch(None);
        let owed = self.gallery.lock().unwrap().owed.clone();
        photograph(&self.disk, &self.gallery, self.rng.fork(), 4);
        self.store = check(&self.disk, &owed)?.0;
        self.judge()
    }

    /// Whether what was in doubt is there: from now on it is owed, or must not be.
    fn judge(&mut self) -> Result<(), String> {
        let records = held(&self.store).map_err(|error| error.to_string())?.1;
        let mut gallery = self.gallery.lock().unwrap();
        let under_way = std::mem::take(&mut gallery.owed.under_way);
        if !under_way.is_empty() && records.ends_with(&under_way) {
            gallery.owed.acknowledged.extend(under_way);
        }
        Ok(())
    }
}

/// Looks at a disk; while it starts, at disks of power cuts in that start, down to a depth. Returns how many.
fn look_at(image: &Image, rng: &mut Rng, depth: u32) -> Result<usize, String> {
    let gallery = Arc::new(Mutex::new(Gallery { owed: image.owed.clone(), images: Vec::new() }));
    if depth > 0 {
        photograph(&image.disk, &gallery, rng.fork(), 8);
    }
    let (mut store, taken) = check(&image.disk, &image.owed)?;
    if taken {
        let mut gallery = gallery.lock().unwrap();
        let under_way = std::mem::take(&mut gallery.owed.under_way);
        gallery.owed.acknowledged.extend(under_way);
    } else {
        gallery.lock().unwrap().owed.under_way.clear();
    }
    // It goes on from there, and what it acknowledges then is owed as well.
    let latest = store.reader().latest().revision;
    let next = group(latest, rng);
    gallery.lock().unwrap().owed.under_way = next.clone();
    store.append(latest, &next).map_err(|error| error.to_string())?;
    image.disk.watch(None);
    let mut owed = gallery.lock().unwrap().owed.clone();
    owed.acknowledged.append(&mut owed.under_way);
    drop(store);
    let after = Image { disk: image.disk.crash(rng), owed };
    check(&after.disk, &after.owed)?;
    let images = std::mem::take(&mut gallery.lock().unwrap().images);
    let mut looked = 2;
    for image in images {
        looked += look_at(&image, rng, depth - 1)?;
    }
    Ok(looked)
}

#[test]
fn journal_crash_images() {
    let (seed, wanted) = (setting("LB_SEED", fastrand::u64(..)), setting("LB_CRASH_IMAGES", IMAGES));
    println!("LB_SEED={seed} LB_CRASH_IMAGES={wanted}");
    let (mut looked, mut round, began) = (0, 0, std::time::Instant::now());
    while looked < wanted {
        let life_seed = seed.wrapping_add(round);
        let mut rng = Rng::with_seed(life_seed);
        let mut life = Life::new(rng.fork(), 12);
        for _ in 0..rng.usize(5..60) {
            life.step().unwrap_or_else(|error| panic!("LB_SEED={life_seed}: {error}"));
        }
        life.disk.watch(None);
        let images = std::mem::take(&mut life.gallery.lock().unwrap().images);
        for (image, number) in images.iter().zip(1..) {
            let found = look_at(image, &mut rng, 2);
            looked += found.unwrap_or_else(|error| panic!("LB_SEED={life_seed}, image {number}: {error}"));
        }
        round += 1;
    }
    let each_second = looked as f64 / began.elapsed().as_secs_f64();
    println!("{looked} disks of {round} lives, {each_second:.0} a second");
}
