//! A storage that takes its time, so that threads meet in the middle of things.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pugmark_engine::storage::{FileWriter, LockError, Storage, WriterLock};
use pugmark_engine::{ReadError, StorageError};

use crate::dice::Dice;

/// Another storage, each of whose changes takes up to a millisecond more.
#[derive(Clone, Debug)]
pub struct SlowStorage {
    inner: Arc<dyn Storage>,
    pace: Arc<Pace>,
}

#[derive(Debug, Default)]
struct Pace(AtomicU64);

impl Pace {
    fn dawdle(&self) {
        let throw = Dice::new(self.0.fetch_add(1, Ordering::Relaxed)).below(1_000);
        std::thread::sleep(Duration::from_micros(throw));
    }
}

impl SlowStorage {
    /// `inner`, slowed down.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            pace: Arc::default(),
        }
    }
}

impl Storage for SlowStorage {
    fn map(&self, name: &str, length: u64) -> Result<bytes::Bytes, ReadError> {
        self.inner.map(name, length)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        self.inner.read(name)
    }

    fn create(&self, name: &str) -> Result<Box<dyn FileWriter>, StorageError> {
        self.pace.dawdle();
        let inner = self.inner.create(name)?;
        Ok(Box::new(SlowWriter {
            inner,
            pace: Arc::clone(&self.pace),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.pace.dawdle();
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.inner.remove(name)
    }

    fn list(&self, directory: &str) -> Result<Vec<String>, StorageError> {
        self.inner.list(directory)
    }

    fn make_directory(&self, name: &str) -> Result<(), StorageError> {
        self.inner.make_directory(name)
    }

    fn sync_directory(&self, name: &str) -> Result<(), StorageError> {
        self.pace.dawdle();
        self.inner.sync_directory(name)
    }

    fn lock(&self) -> Result<Box<dyn WriterLock>, LockError> {
        self.inner.lock()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }
}

#[derive(Debug)]
struct SlowWriter {
    inner: Box<dyn FileWriter>,
    pace: Arc<Pace>,
}

impl FileWriter for SlowWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.inner.append(bytes)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.pace.dawdle();
        self.inner.sync()
    }
}
