//! A store in memory that forgets, on a simulated loss of power, whatever nobody synced.
//!
//! It promises what [`Storage`]'s contract promises and nothing that file systems happen to give
//! besides: syncing a file does not keep its name, syncing a directory does not keep its files'
//! bytes, a durable rename keeps no other name of its directory, and unsynced changes survive in
//! any combination. Misuse that a real file system would let pass (renaming or mapping an
//! unsynced file, writing to a mapped one) fails at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::aligned::aligned_bytes;
use super::{FileWriter, LockError, Storage, WriterLock};
use crate::error::{Corruption, ReadError, StorageError};

/// A directory tree in memory; clones are handles to the same tree.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

/// A file, whatever its name.
#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// So many of the bytes survive a loss of power.
    synced: usize,
    /// It was mapped, so it may never change.
    sealed: bool,
}

/// A change of names that no sync of its directory has made durable yet.
#[derive(Clone, Debug)]
enum NameChange {
    Link {
        name: String,
        file: usize,
    },
    Unlink {
        name: String,
    },
    Rename {
        from: String,
        to: String,
        file: usize,
    },
    Directory {
        name: String,
    },
}

impl NameChange {
    /// The name whose directory has to be synced.
    fn name(&self) -> &str {
        match self {
            Self::Link { name, .. } | Self::Unlink { name } | Self::Directory { name } => name,
            Self::Rename { to, .. } => to,
        }
    }
}

/// Names of files and directories, in one state of the tree.
#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<String, usize>,
    directories: BTreeSet<String>,
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link { name, file } => {
                self.files.insert(name.clone(), *file);
            }
            NameChange::Unlink { name } => {
                self.files.remove(name);
            }
            NameChange::Rename { from, to, file } => {
                self.files.remove(from);
                self.files.insert(to.clone(), *file);
            }
            NameChange::Directory { name } => {
                self.directories.insert(name.clone());
            }
        }
    }

    fn has_directory(&self, name: &str) -> bool {
        name.is_empty() || self.directories.contains(name)
    }
}

#[derive(Debug, Default)]
struct Disk {
    files: Vec<Content>,
    /// What the running process sees.
    names: Names,
    /// What survives for certain.
    durable: Names,
    pending: Vec<NameChange>,
    steps: u64,
    last_step: Option<u64>,
    locked: bool,
}

/// What becomes of a step that changes something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It runs.
    Whole,
    /// The process stops in the middle of it: done, perhaps, but never synced.
    Cut,
}

impl MemoryStorage {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Steps so far that changed something: creating, appending, syncing, renaming, removing.
    pub fn steps(&self) -> u64 {
        self.disk().steps
    }

    /// Stops the process in the middle of step number `last + 1`, counted from 1: that step and
    /// every later operation fail. Then [`crash`](Self::crash) shows what may be left.
    pub fn stop_after(&self, last: u64) {
        self.disk().last_step = Some(last);
    }

    /// The tree as it may be after a loss of power at this moment; the same `seed` gives the
    /// same tree. Bytes and names that were synced are all there. Unsynced bytes are lost, kept,
    /// cut anywhere, or kept in any combination of sectors (512 bytes or 4 KiB) with zeros or
    /// garbage in between; unsynced names and removals come about or not. This tree stays as
    /// it is.
    pub fn crash(&self, seed: u64) -> Self {
        let disk = self.disk();
        let mut dice = Dice(seed);
        let names = survivors(&disk, &mut dice);
        let files = disk
            .files
            .iter()
            .map(|file| torn(file, &mut dice))
            .collect();
        Self {
            disk: Arc::new(Mutex::new(Disk {
                files,
                durable: names.clone(),
                names,
                ..Disk::default()
            })),
        }
    }

    /// The tree as the next process finds it when this one is killed but the machine runs on:
    /// everything is visible, and what was not synced may still be lost by a later crash.
    pub fn kill(&self) -> Self {
        let disk = self.disk();
        let unsealed = |file: &Content| Content {
            sealed: false,
            ..file.clone()
        };
        Self {
            disk: Arc::new(Mutex::new(Disk {
                files: disk.files.iter().map(unsealed).collect(),
                names: disk.names.clone(),
                durable: disk.durable.clone(),
                pending: disk.pending.clone(),
                ..Disk::default()
            })),
        }
    }

    /// Changes the bytes of a file as they are stored, as a failing disk would.
    ///
    /// # Errors
    /// Where the file does not exist.
    pub fn damage(
        &self,
        name: &str,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), StorageError> {
        let mut disk = self.disk();
        let file = disk.file("write", name, &self.path(name))?;
        let content = &mut disk.files[file];
        change(&mut content.bytes);
        content.synced = content.synced.min(content.bytes.len());
        Ok(())
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn stopped(&self) -> bool {
        self.last_step.is_some_and(|last| self.steps > last)
    }

    /// Checks that the process still runs.
    fn alive(&self, operation: &'static str, path: &Path) -> Result<(), StorageError> {
        if self.stopped() {
            return Err(stop_error(operation, path));
        }
        Ok(())
    }

    /// Begins a step that changes something.
    fn step(&mut self, operation: &'static str, path: &Path) -> Result<Step, StorageError> {
        self.alive(operation, path)?;
        self.steps += 1;
        Ok(if self.stopped() {
            Step::Cut
        } else {
            Step::Whole
        })
    }

    fn file(
        &self,
        operation: &'static str,
        name: &str,
        path: &Path,
    ) -> Result<usize, StorageError> {
        let not_found = || StorageError::new(operation, path, io::ErrorKind::NotFound.into());
        self.names.files.get(name).copied().ok_or_else(not_found)
    }

    fn change(&mut self, change: NameChange) {
        self.names.apply(&change);
        self.pending.push(change);
    }

    /// Makes the changes durable that `these` picks.
    fn settle(&mut self, these: impl Fn(&NameChange) -> bool) {
        let (settled, pending) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|change| these(change));
        self.pending = pending;
        let settled: Vec<NameChange> = settled;
        for change in &settled {
            self.durable.apply(change);
        }
    }
}

impl Storage for MemoryStorage {
    fn map(&self, name: &str, length: u64) -> Result<Bytes, ReadError> {
        let path = self.path(name);
        let mut disk = self.disk();
        disk.alive("open", &path)?;
        let file = disk.file("open", name, &path)?;
        let content = &mut disk.files[file];
        let found = content.bytes.len() as u64;
        if found != length {
            let what = "has another length than the manifest says";
            return Err(Corruption::new(&path, found.min(length), what).into());
        }
        if content.synced < content.bytes.len() {
            return Err(misuse("map", &path, "a file is synced before it is mapped").into());
        }
        content.sealed = true;
        let fill = |buffer: &mut [u8]| {
            buffer.copy_from_slice(&content.bytes);
            Ok(())
        };
        aligned_bytes(content.bytes.len(), fill)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        let path = self.path(name);
        let disk = self.disk();
        disk.alive("read", &path)?;
        let file = disk.file("read", name, &path)?;
        Ok(disk.files[file].bytes.clone())
    }

    fn create(&self, name: &str) -> Result<Box<dyn FileWriter>, StorageError> {
        let path = self.path(name);
        let mut disk = self.disk();
        disk.alive("create", &path)?;
        let failed = |kind: io::ErrorKind| StorageError::new("create", &path, kind.into());
        if !disk.names.has_directory(directory_of(name)) {
            return Err(failed(io::ErrorKind::NotFound));
        }
        if disk.names.files.contains_key(name) || disk.names.has_directory(name) {
            return Err(failed(io::ErrorKind::AlreadyExists));
        }
        let step = disk.step("create", &path)?;
        let file = disk.files.len();
        disk.files.push(Content::default());
        let name = name.to_owned();
        disk.change(NameChange::Link { name, file });
        if step == Step::Cut {
            return Err(stop_error("create", &path));
        }
        let disk = self.disk.clone();
        Ok(Box::new(MemoryWriter { disk, file, path }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let path = self.path(from);
        let mut disk = self.disk();
        disk.alive("rename", &path)?;
        let file = disk.file("rename", from, &path)?;
        if !disk.names.has_directory(directory_of(to)) {
            let error = io::ErrorKind::NotFound.into();
            return Err(StorageError::new("rename", &path, error));
        }
        let content = &disk.files[file];
        if content.synced < content.bytes.len() {
            let rule = "a file is synced before it is renamed";
            return Err(misuse("rename", &path, rule));
        }
        let step = disk.step("rename", &path)?;
        let (from, to) = (from.to_owned(), to.to_owned());
        disk.change(NameChange::Rename { from, to, file });
        if step == Step::Cut {
            return Err(stop_error("rename", &path));
        }
        // Only this change, which overrides earlier ones of the same two names.
        if let Some(renamed) = disk.pending.pop() {
            disk.durable.apply(&renamed);
            if let NameChange::Rename { from, to, .. } = &renamed {
                disk.pending
                    .retain(|change| change.name() != from && change.name() != to);
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name);
        let mut disk = self.disk();
        disk.alive("remove", &path)?;
        disk.file("remove", name, &path)?;
        let step = disk.step("remove", &path)?;
        let name = name.to_owned();
        disk.change(NameChange::Unlink { name });
        match step {
            Step::Whole => Ok(()),
            Step::Cut => Err(stop_error("remove", &path)),
        }
    }

    fn list(&self, directory: &str) -> Result<Vec<String>, StorageError> {
        let path = self.path(directory);
        let disk = self.disk();
        disk.alive("list", &path)?;
        if !disk.names.has_directory(directory) {
            let error = io::ErrorKind::NotFound.into();
            return Err(StorageError::new("list", &path, error));
        }
        let inside = disk.names.files.keys().filter_map(|name| {
            let (parent, file) = split(name);
            (parent == directory).then(|| file.to_owned())
        });
        Ok(inside.collect())
    }

    fn make_directory(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name);
        let mut disk = self.disk();
        disk.alive("create", &path)?;
        let ends = name.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([name.len()]) {
            let level = &name[..end];
            if disk.names.files.contains_key(level) {
                let error = io::ErrorKind::AlreadyExists.into();
                return Err(StorageError::new("create", &path, error));
            }
            if disk.durable.has_directory(level) {
                continue;
            }
            let step = disk.step("create", &path)?;
            let name = level.to_owned();
            disk.change(NameChange::Directory { name });
            if step == Step::Cut {
                return Err(stop_error("create", &path));
            }
            disk.settle(|change| matches!(change, NameChange::Directory { name } if name == level));
        }
        Ok(())
    }

    fn sync_directory(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name);
        let mut disk = self.disk();
        disk.alive("sync", &path)?;
        if !disk.names.has_directory(name) {
            let error = io::ErrorKind::NotFound.into();
            return Err(StorageError::new("sync", &path, error));
        }
        if disk.step("sync", &path)? == Step::Cut {
            return Err(stop_error("sync", &path));
        }
        disk.settle(|change| directory_of(change.name()) == name);
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn WriterLock>, LockError> {
        let mut disk = self.disk();
        disk.alive("lock", &self.path("LOCK"))
            .map_err(LockError::Storage)?;
        if std::mem::replace(&mut disk.locked, true) {
            let holder = "this process, in memory".to_owned();
            return Err(LockError::Held { holder });
        }
        let disk = self.disk.clone();
        Ok(Box::new(MemoryLock { disk }))
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("memory").join(name)
    }
}

#[derive(Debug)]
struct MemoryWriter {
    disk: Arc<Mutex<Disk>>,
    file: usize,
    path: PathBuf,
}

impl FileWriter for MemoryWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let step = disk.step("write", &self.path)?;
        let content = &mut disk.files[self.file];
        if content.sealed {
            let rule = "a mapped file is never written again";
            return Err(misuse("write", &self.path, rule));
        }
        content.bytes.extend_from_slice(bytes);
        match step {
            Step::Whole => Ok(()),
            Step::Cut => Err(stop_error("write", &self.path)),
        }
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.step("sync", &self.path)? == Step::Cut {
            return Err(stop_error("sync", &self.path));
        }
        let content = &mut disk.files[self.file];
        content.synced = content.bytes.len();
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryLock {
    disk: Arc<Mutex<Disk>>,
}

impl WriterLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.locked = false;
    }
}

/// The directory and the last part of a name.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

fn directory_of(name: &str) -> &str {
    split(name).0
}

fn stop_error(operation: &'static str, path: &Path) -> StorageError {
    StorageError::new(operation, path, io::Error::other("the process was stopped"))
}

fn misuse(operation: &'static str, path: &Path, rule: &'static str) -> StorageError {
    let error = io::Error::new(io::ErrorKind::InvalidInput, rule);
    StorageError::new(operation, path, error)
}

/// A small deterministic generator (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..=most`.
    fn up_to(&mut self, most: usize) -> usize {
        (self.next() % (most as u64 + 1)) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// The names after a crash: what is durable, with none, all, the first few or any of the pending
/// changes.
fn survivors(disk: &Disk, dice: &mut Dice) -> Names {
    let mut names = disk.durable.clone();
    let (mode, first) = (dice.up_to(3), dice.up_to(disk.pending.len()));
    for (index, change) in disk.pending.iter().enumerate() {
        let survives = match mode {
            0 => false,
            1 => true,
            2 => index < first,
            _ => dice.coin(),
        };
        if survives {
            names.apply(change);
        }
    }
    // A directory that was lost takes its files with it.
    let whole = |directory: &str, directories: &BTreeSet<String>| {
        let ends = directory.match_indices('/').map(|(at, _)| at);
        ends.chain([directory.len()])
            .map(|end| &directory[..end])
            .all(|level| level.is_empty() || directories.contains(level))
    };
    let directories = names.directories.clone();
    names.directories.retain(|name| whole(name, &directories));
    names
        .files
        .retain(|name, _| whole(directory_of(name), &directories));
    names
}

/// A file's bytes after a crash.
fn torn(file: &Content, dice: &mut Dice) -> Content {
    let (synced, len) = (file.synced, file.bytes.len());
    let mut bytes = file.bytes.clone();
    match dice.up_to(4) {
        0 => bytes.truncate(synced),
        1 => {}
        2 => bytes.truncate(synced + dice.up_to(len - synced)),
        mode => {
            let sector = if dice.coin() { 512 } else { 4_096 };
            let sectors = (len - synced).div_ceil(sector);
            let end = synced / sector * sector + dice.up_to(sectors + 1) * sector;
            bytes.truncate(end.clamp(synced, len));
            lose_sectors(&mut bytes, synced, sector, mode == 4, dice);
        }
    }
    Content {
        synced: bytes.len(),
        bytes,
        sealed: false,
    }
}

/// Loses any of the sectors from `synced` on; what shares a sector with synced bytes may be lost
/// without them.
fn lose_sectors(bytes: &mut [u8], synced: usize, sector: usize, garbage: bool, dice: &mut Dice) {
    let mut at = synced;
    while at < bytes.len() {
        let end = ((at / sector + 1) * sector).min(bytes.len());
        if dice.coin() {
            for byte in &mut bytes[at..end] {
                *byte = if garbage { dice.next() as u8 } else { 0 };
            }
        }
        at = end;
    }
}
