//! The store in a real directory.
//!
//! Every new name goes through [`durable_rename`], [`durable_mkdir`] or `sync_directory`; nothing
//! else in the project may rename or create a directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::aligned::aligned_bytes;
use super::mmap::map_sealed;
use super::{FileWriter, LockError, Storage, WriterLock};
use crate::error::{Corruption, ReadError, StorageError};

/// The file whose `flock` the writing process holds.
const LOCK_FILE: &str = "LOCK";
/// Most bytes read of the lock file's text.
const MAX_HOLDER_BYTES: u64 = 256;

/// A directory tree of the operating system.
#[derive(Debug, Clone)]
pub struct OsStorage {
    root: PathBuf,
    maps: bool,
}

impl OsStorage {
    /// The tree under `root`. Touches nothing: `make_directory("")` creates the root.
    pub fn open(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            maps: true,
        }
    }

    /// The same without memory maps: sealed files are read whole into memory. For file systems
    /// where a map may lose its bytes (network mounts, files that others truncate), at the price
    /// of heap for every open file.
    pub fn without_maps(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            maps: false,
        }
    }

    /// The path of `name`, which may not leave the root.
    fn resolve(&self, operation: &'static str, name: &str) -> Result<PathBuf, StorageError> {
        let path = self.path(name);
        let stays_inside = Path::new(name)
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        if stays_inside {
            Ok(path)
        } else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the name leaves the store");
            Err(StorageError::new(operation, &path, error))
        }
    }
}

impl Storage for OsStorage {
    fn maps(&self) -> bool {
        self.maps
    }

    fn map(&self, name: &str, length: u64) -> Result<Bytes, ReadError> {
        let path = self.resolve("open", name)?;
        let failed = |operation| move |error| StorageError::new(operation, &path, error);
        let file = File::open(self.path(name)).map_err(failed.clone()("open"))?;
        let found = file.metadata().map_err(failed.clone()("open"))?.len();
        if found != length {
            let shorter = found.min(length);
            let what = "has another length than the manifest says";
            return Err(Corruption::new(&self.path(name), shorter, what).into());
        }
        let length = usize::try_from(length)
            .map_err(|_| failed.clone()("map")(io::ErrorKind::OutOfMemory.into()))?;
        if self.maps {
            Ok(map_sealed(&file, length).map_err(failed("map"))?)
        } else {
            let fill = |buffer: &mut [u8]| file.read_exact_at(buffer, 0);
            Ok(aligned_bytes(length, fill).map_err(failed("read"))?)
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        let path = self.resolve("read", name)?;
        fs::read(&path).map_err(|error| StorageError::new("read", &path, error))
    }

    fn create(&self, name: &str) -> Result<Box<dyn FileWriter>, StorageError> {
        let path = self.resolve("create", name)?;
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(|error| StorageError::new("create", &path, error))?;
        Ok(Box::new(OsWriter { file, path }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        durable_rename(&self.resolve("rename", from)?, &self.resolve("rename", to)?)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        let path = self.resolve("remove", name)?;
        fs::remove_file(&path).map_err(|error| StorageError::new("remove", &path, error))
    }

    fn list(&self, directory: &str) -> Result<Vec<String>, StorageError> {
        let path = self.resolve("list", directory)?;
        list_files(&path).map_err(|error| StorageError::new("list", &path, error))
    }

    fn make_directory(&self, name: &str) -> Result<(), StorageError> {
        durable_mkdir(&self.resolve("create", name)?)
    }

    fn sync_directory(&self, name: &str) -> Result<(), StorageError> {
        sync_directory(&self.resolve("sync", name)?)
    }

    fn lock(&self) -> Result<Box<dyn WriterLock>, LockError> {
        let path = self.path(LOCK_FILE);
        let failed = |operation| {
            let path = path.clone();
            move |error| LockError::Storage(StorageError::new(operation, &path, error))
        };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = read_holder(&mut file);
                return Err(LockError::Held { holder });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        file.set_len(0)
            .and_then(|()| file.write_all(this_process().as_bytes()))
            .map_err(failed("write"))?;
        Ok(Box::new(OsLock { file }))
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.root.clone()
        } else {
            self.root.join(name)
        }
    }
}

/// A file open for appending.
#[derive(Debug)]
struct OsWriter {
    file: File,
    path: PathBuf,
}

impl FileWriter for OsWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_all(bytes)
            .map_err(|error| StorageError::new("write", &self.path, error))
    }

    /// `fdatasync`: the bytes and the length, not the time stamps.
    fn sync(&mut self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|error| StorageError::new("sync", &self.path, error))
    }
}

/// Holds the lock of the open file.
#[derive(Debug)]
struct OsLock {
    file: File,
}

impl WriterLock for OsLock {}

impl Drop for OsLock {
    /// Closing the file is not enough: a child that another thread is just starting has a copy
    /// of it until it runs its own program, and with it the lock.
    fn drop(&mut self) {
        let _closing_unlocks_too = self.file.unlock();
    }
}

/// Process id and command of this process, as the lock file says it.
fn this_process() -> String {
    let command = std::env::args_os()
        .next()
        .and_then(|path| Some(Path::new(&path).file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "an unnamed command".to_owned());
    format!("process {} ({command})\n", std::process::id())
}

/// What the holder of the lock wrote, or words that say that it is unknown: the holder may
/// not have come to write it yet.
fn read_holder(file: &mut File) -> String {
    let mut text = Vec::new();
    let read = file.take(MAX_HOLDER_BYTES).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().trim();
    let printable = !line.is_empty() && !line.chars().any(char::is_control);
    if read.is_ok() && printable {
        line.to_owned()
    } else {
        "another process".to_owned()
    }
}

fn list_files(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            continue;
        }
        // The store makes no name that is not text; one that is not was put there by others.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Renames a file and makes the change survive a crash.
fn durable_rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    fs::rename(from, to).map_err(|error| StorageError::new("rename", from, error))?;
    sync_directory(parent(to))?;
    if parent(from) != parent(to) {
        sync_directory(parent(from))?;
    }
    Ok(())
}

/// Creates a directory and those above it, each made to survive a crash by syncing its parent.
fn durable_mkdir(path: &Path) -> Result<(), StorageError> {
    match fs::create_dir(path) {
        Ok(()) => sync_directory(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && parent(path) != path => {
            durable_mkdir(parent(path))?;
            fs::create_dir(path).map_err(|error| StorageError::new("create", path, error))?;
            sync_directory(parent(path))
        }
        Err(_) if path.is_dir() => sync_parent_of_existing(path),
        Err(error) => Err(StorageError::new("create", path, error)),
    }
}

/// A process that died between creating a directory and syncing its parent leaves a name that a
/// crash would still lose, so the parent of an existing directory is synced too. A store's root
/// may lie under a directory that this user may not open; then whoever made it answers for it.
fn sync_parent_of_existing(path: &Path) -> Result<(), StorageError> {
    match sync_directory(parent(path)) {
        Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Makes the names in a directory survive a crash.
fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StorageError::new("sync", path, error))
}

/// The directory that holds `path`; a bare relative name lies in the current one.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}
