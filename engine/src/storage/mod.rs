//! The only door to the operating system.
//!
//! [`Storage`] is the durability contract; everything above it sees names relative to one root
//! directory. Three implementations: [`OsStorage`] (a real directory), [`MemoryStorage`] (stricter
//! than any file system: forgets on a crash what was not synced) and [`FaultyStorage`] (fails or
//! cuts any n-th operation of another storage).

mod aligned;
mod faulty;
mod memory;
mod mmap;
mod os;
#[cfg(test)]
mod tests;

pub use faulty::{Failure, Fault, FaultyStorage};
pub use memory::MemoryStorage;
pub use os::OsStorage;

use std::fmt::Debug;
use std::path::PathBuf;

use bytes::Bytes;

use crate::error::{ReadError, StorageError};

/// A directory tree that the store lives in.
///
/// # Durability
/// * What was [`append`](FileWriter::append)ed survives a crash only once
///   [`sync`](FileWriter::sync) has returned, and a new file's name only once
///   [`sync_directory`](Storage::sync_directory) of its directory has.
/// * [`rename`](Storage::rename) and [`make_directory`](Storage::make_directory) sync the parent
///   directory themselves: when they return, the new name survives.
/// * [`remove`](Storage::remove) may be undone by a crash.
/// * After a failed `sync` the file's content is unknown; the caller must not sync it again.
pub trait Storage: Debug + Send + Sync {
    /// Maps a sealed file (one that is never written again), 8-byte aligned.
    ///
    /// # Errors
    /// Where it does not exist, or its length is not `length` (a corruption).
    fn map(&self, name: &str, length: u64) -> Result<Bytes, ReadError>;

    /// False where mapping a file reads it whole.
    fn maps(&self) -> bool {
        true
    }

    /// Reads a whole file, which may still be growing.
    fn read(&self, name: &str) -> Result<Vec<u8>, StorageError>;

    /// Creates a file that must not exist yet and opens it for appending.
    fn create(&self, name: &str) -> Result<Box<dyn FileWriter>, StorageError>;

    /// Atomically renames a synced file, replacing `to`, durably.
    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError>;

    /// Removes a file. Mappings of it stay readable.
    fn remove(&self, name: &str) -> Result<(), StorageError>;

    /// Names of the files in a directory (`""` is the root), sorted, directories left out.
    fn list(&self, directory: &str) -> Result<Vec<String>, StorageError>;

    /// Creates a directory durably; content where it exists already.
    fn make_directory(&self, name: &str) -> Result<(), StorageError>;

    /// Makes the names of new files in a directory survive a crash.
    fn sync_directory(&self, name: &str) -> Result<(), StorageError>;

    /// Takes the writer's lock of the whole tree, or tells who holds it.
    fn lock(&self) -> Result<Box<dyn WriterLock>, LockError>;

    /// The path of a name, for error messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// A file open for appending.
pub trait FileWriter: Debug + Send {
    /// Appends bytes at the end. After an error, how much was written is unknown.
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes everything appended so far survive a crash.
    fn sync(&mut self) -> Result<(), StorageError>;
}

/// The writer's lock; released when dropped, and by the system when the process dies.
pub trait WriterLock: Debug + Send + Sync {}

/// Why the writer's lock could not be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockError {
    /// Another process or handle holds it.
    Held {
        /// Process id and command of the holder, as far as known.
        holder: String,
    },
    /// The lock file could not be opened.
    Storage(StorageError),
}

/// Writes a new sealed file durably: create, append, sync, sync its directory.
pub fn write_sealed(
    storage: &dyn Storage,
    directory: &str,
    name: &str,
    bytes: &[u8],
) -> Result<(), StorageError> {
    let mut file = storage.create(name)?;
    file.append(bytes)?;
    file.sync()?;
    storage.sync_directory(directory)
}
