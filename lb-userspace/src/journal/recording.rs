//! A disk for tests that keeps every write and every sync apart, so that a power cut can be played at any moment.
//!
//! What it assumes is what `disk.rs` says, and nothing kinder. Each sector that was not synced is on the disk in any
//! of the forms it has had since the last sync; a file's length likewise; names are there up to any one of those that
//! were not synced, and of those any move from folder to folder may be missing. A sync that fails leaves the unsynced sectors on the disk or not, and takes them for written from
//! then on, as Linux does; reads go on to show them.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use nix::libc;

use super::disk::{Access, Disk, DiskFile, SECTOR};

/// One change of a file since its last sync.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, length: usize },
    Length,
}

/// A file.
#[derive(Clone, Debug, Default)]
struct Inode {
    /// What is on the disk for certain.
    durable: Vec<u8>,
    /// What is read.
    cache: Vec<u8>,
    /// Changes since the last sync, each with the cache after it.
    pending: Vec<(Change, Vec<u8>)>,
}

impl Inode {
    fn change(&mut self, change: Change) {
        self.pending.push((change, self.cache.clone()));
    }

    /// The forms of the file that the disk may mix.
    fn versions(&self) -> Vec<Vec<u8>> {
        let mut versions = vec![self.durable.clone()];
        for (change, cache) in &self.pending {
            let mut next = versions.last().cloned().unwrap_or_default();
            next.resize(cache.len(), 0);
            if let Change::Write { offset, length } = change {
                let sector = SECTOR as usize;
                let from = offset / sector * sector;
                let to = (offset + length).next_multiple_of(sector).min(cache.len());
                next[from..to].copy_from_slice(&cache[from..to]);
            }
            versions.push(next);
        }
        versions
    }

    /// The file after a power cut.
    fn torn(&self, rng: &mut Rng) -> Vec<u8> {
        if self.pending.is_empty() {
            return self.durable.clone();
        }
        let versions = self.versions();
        let last = versions.len() - 1;
        let mut bytes = versions[rng.usize(..=last)].clone();
        let (mode, border) = (rng.u8(..4), rng.usize(..=bytes.len()));
        let sector = SECTOR as usize;
        for start in (0..bytes.len()).step_by(sector) {
            let version = match mode {
                0 => last,
                1 => rng.usize(..=last),
                2 if start < border => last,
                3 if start >= border => last,
                _ => 0,
            };
            let form = versions[version].get(start..).unwrap_or_default();
            let (end, kept) = ((start + sector).min(bytes.len()), form.len().min(sector));
            let kept = kept.min(end - start);
            bytes[start..start + kept].copy_from_slice(&form[..kept]);
            bytes[start + kept..end].fill(0);
        }
        bytes
    }
}

/// A change of names since the last sync of its folders.
#[derive(Clone, Debug)]
enum Naming {
    Made(String, usize),
    Renamed(String, String),
    Removed(String),
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Naming {
    fn touches(&self, at: &str) -> bool {
        match self {
            Self::Made(name, _) | Self::Removed(name) => folder(name) == at,
            Self::Renamed(from, to) => folder(from) == at || folder(to) == at,
        }
    }

    /// Whether it is of two folders.
    fn moves(&self) -> bool {
        matches!(self, Self::Renamed(from, to) if folder(from) != folder(to))
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, inode) => drop(names.insert(name.clone(), *inode)),
            Self::Removed(name) => drop(names.remove(name)),
            Self::Renamed(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

/// What the disk refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Failing {
    #[default]
    Nothing,
    /// One call in so many: writes take a part and say that the disk is full, syncs and all else fail.
    OneIn(u32),
    /// All room but so many bytes: writes take what there is, and nothing after that.
    Full(usize),
    /// Everything from a call on, as if the process had been killed there.
    After(u32),
}

#[derive(Clone, Debug)]
struct World {
    inodes: Vec<Inode>,
    durable_names: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    pending_names: Vec<Naming>,
    failing: Failing,
    rng: Rng,
}

impl World {
    fn refuse(&mut self, number: i32) -> io::Result<()> {
        let failed = match &mut self.failing {
            Failing::Nothing | Failing::Full(_) => false,
            Failing::OneIn(n) => self.rng.u32(..*n) == 0,
            Failing::After(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
        };
        if failed { Err(io::Error::from_raw_os_error(number)) } else { Ok(()) }
    }

    fn crash(&self, rng: &mut Rng) -> Self {
        let mut names = self.durable_names.clone();
        let kept = rng.usize(..=self.pending_names.len());
        for naming in &self.pending_names[..kept] {
            if !naming.moves() || rng.bool() {
                naming.apply(&mut names);
            }
        }
        // Files that have lost their names are gone.
        let named = |number: usize| names.values().any(|inode| *inode == number);
        let inode = |(inode, number): (&Inode, usize)| {
            let bytes = if named(number) { inode.torn(rng) } else { Vec::new() };
            Inode { durable: bytes.clone(), cache: bytes, pending: Vec::new() }
        };
        Self {
            inodes: self.inodes.iter().zip(0..).map(inode).collect(),
            durable_names: names.clone(),
            names,
            pending_names: Vec::new(),
            failing: Failing::Nothing,
            rng: rng.fork(),
        }
    }
}

/// Called before every change of the disk, with what a power cut there may leave.
pub(super) type Watch = dyn Fn(&RecordingDisk) + Send + Sync;

/// The disk; clones share it.
#[derive(Clone)]
pub(super) struct RecordingDisk {
    world: Arc<Mutex<World>>,
    watch: Arc<Mutex<Option<Arc<Watch>>>>,
}

impl std::fmt::Debug for RecordingDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordingDisk")
    }
}

impl RecordingDisk {
    fn of(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), watch: Arc::default() }
    }

    /// An empty disk.
    pub(super) fn empty(seed: u64) -> Self {
        Self::of(World {
            inodes: Vec::new(),
            durable_names: BTreeMap::new(),
            names: BTreeMap::new(),
            pending_names: Vec::new(),
            failing: Failing::Nothing,
            rng: Rng::with_seed(seed),
        })
    }

    /// A disk as a power cut now may leave it.
    pub(super) fn crash(&self, rng: &mut Rng) -> Self {
        Self::of(self.world().crash(rng))
    }

    /// What it refuses from now on.
    pub(super) fn fail(&self, failing: Failing) {
        self.world().failing = failing;
    }

    /// Whom it calls before every change.
    pub(super) fn watch(&self, watch: Option<Arc<Watch>>) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = watch;
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world, for a change that may be refused.
    fn changing(&self, number: i32) -> io::Result<MutexGuard<'_, World>> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(watch) = watch {
            watch(self);
        }
        let mut world = self.world();
        world.refuse(number)?;
        Ok(world)
    }

    fn naming(world: &mut World, naming: Naming) {
        naming.apply(&mut world.names);
        world.pending_names.push(naming);
    }
}

fn absent() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for RecordingDisk {
    fn list(&self, at: &str) -> io::Result<Vec<String>> {
        let world = self.world();
        let within = world.names.keys().filter(|name| folder(name) == at);
        Ok(within.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn make_folder(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        if access != Access::Create {
            let inode = *self.world().names.get(name).ok_or_else(absent)?;
            return Ok(Arc::new(RecordedFile { disk: self.clone(), inode }));
        }
        let mut world = self.changing(libc::ENOSPC)?;
        let inode = match world.names.get(name) {
            Some(&inode) => {
                world.inodes[inode].cache.clear();
                world.inodes[inode].change(Change::Length);
                inode
            }
            None => {
                let inode = world.inodes.len();
                world.inodes.push(Inode::default());
                Self::naming(&mut world, Naming::Made(name.to_owned(), inode));
                inode
            }
        };
        Ok(Arc::new(RecordedFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.changing(libc::EIO)?;
        world.names.get(from).ok_or_else(absent)?;
        Self::naming(&mut world, Naming::Renamed(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.changing(libc::EIO)?;
        world.names.get(name).ok_or_else(absent)?;
        Self::naming(&mut world, Naming::Removed(name.to_owned()));
        Ok(())
    }

    fn sync(&self, at: &str) -> io::Result<()> {
        let mut world = self.changing(libc::EIO)?;
        let Some(last) = world.pending_names.iter().rposition(|naming| naming.touches(at)) else {
            return Ok(());
        };
        let World { pending_names, durable_names, .. } = &mut *world;
        pending_names.drain(..=last).for_each(|naming| naming.apply(durable_names));
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/recorded").join(name)
    }
}

#[derive(Debug)]
struct RecordedFile {
    disk: RecordingDisk,
    inode: usize,
}

impl DiskFile for RecordedFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.world().inodes[self.inode].cache.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.disk.world();
        let rest = world.inodes[self.inode].cache.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.changing(libc::ENOSPC)?;
        let part = matches!(world.failing, Failing::OneIn(_)) && world.rng.bool();
        let mut length = if part { world.rng.usize(1..=bytes.len()) } else { bytes.len() };
        if let Failing::Full(left) = &mut world.failing {
            length = length.min(*left);
            *left -= length;
            if length == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
        }
        let inode = &mut world.inodes[self.inode];
        let offset = offset as usize;
        if inode.cache.len() < offset + length {
            inode.cache.resize(offset + length, 0);
        }
        inode.cache[offset..offset + length].copy_from_slice(&bytes[..length]);
        inode.change(Change::Write { offset, length });
        Ok(length)
    }

    fn reserve(&self, end: u64) -> io::Result<()> {
        let mut world = self.disk.changing(libc::ENOSPC)?;
        let inode = &mut world.inodes[self.inode];
        if inode.cache.len() < end as usize {
            inode.cache.resize(end as usize, 0);
            inode.change(Change::Length);
        }
        Ok(())
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        let mut world = self.disk.changing(libc::EIO)?;
        let inode = &mut world.inodes[self.inode];
        inode.cache.resize(length as usize, 0);
        inode.change(Change::Length);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let failed = self.disk.changing(libc::EIO).err();
        let mut world = self.disk.world();
        let killed = matches!(world.failing, Failing::After(_));
        let World { inodes, rng, .. } = &mut *world;
        let inode = &mut inodes[self.inode];
        match failed {
            // The call never came to the disk.
            Some(error) if killed => return Err(error),
            Some(error) => {
                inode.durable = inode.torn(rng);
                inode.pending.clear();
                return Err(error);
            }
            None => inode.durable = inode.versions().pop().unwrap_or_default(),
        }
        inode.pending.clear();
        Ok(())
    }
}
