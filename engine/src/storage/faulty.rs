//! Fails any operation of another storage, as a test orders: once, for ever, in the middle of a
//! write, or by cutting the process off.
//!
//! Operations are counted from 1, reads included, so a test can run once to learn how many there
//! are and then again for each of them. Counts and orders are shared by all clones and by the
//! files that were opened.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::io::Errno;

use super::{FileWriter, LockError, Storage, WriterLock};
use crate::error::{ReadError, StorageError};

/// What the system answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`: the device failed.
    InputOutput,
    /// `ENOSPC`: the disk is full.
    NoSpace,
    /// `EMFILE`: the process has too many files open.
    TooManyFiles,
    /// No answer: the process ends here.
    Stopped,
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Self::InputOutput => Errno::IO.into(),
            Self::NoSpace => Errno::NOSPC.into(),
            Self::TooManyFiles => Errno::MFILE.into(),
            Self::Stopped => io::Error::other("the process was stopped"),
        }
    }
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the system answers.
    pub failure: Failure,
    /// Where the operation is a write, half of its bytes are written before it fails.
    pub short_write: bool,
}

impl Fault {
    /// Fails without having done anything.
    pub fn clean(failure: Failure) -> Self {
        Self {
            failure,
            short_write: false,
        }
    }

    /// Fails; a write has written half of its bytes by then.
    pub fn short(failure: Failure) -> Self {
        Self {
            failure,
            short_write: true,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Order {
    first: u64,
    last: u64,
    fault: Fault,
}

#[derive(Debug, Default)]
struct Plan {
    operations: AtomicU64,
    failures: AtomicU64,
    repeated_syncs: AtomicU64,
    order: Mutex<Option<Order>>,
}

impl Plan {
    /// Counts an operation and says whether it shall fail.
    fn next(&self) -> Result<(), Fault> {
        let number = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        let order = *self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match order {
            Some(order) if (order.first..=order.last).contains(&number) => {
                self.failures.fetch_add(1, Ordering::SeqCst);
                Err(order.fault)
            }
            _ => Ok(()),
        }
    }

    fn check(&self, operation: &'static str, path: &Path) -> Result<(), StorageError> {
        self.next()
            .map_err(|fault| StorageError::new(operation, path, fault.failure.error()))
    }

    fn set(&self, order: Option<Order>) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = order;
    }
}

/// Another storage whose operations fail on demand.
#[derive(Clone, Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    plan: Arc<Plan>,
}

impl FaultyStorage {
    /// `inner`, without any fault yet.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            plan: Arc::default(),
        }
    }

    /// Operations so far, failed ones included.
    pub fn operations(&self) -> u64 {
        self.plan.operations.load(Ordering::SeqCst)
    }

    /// Operations that were made to fail so far.
    pub fn failures(&self) -> u64 {
        self.plan.failures.load(Ordering::SeqCst)
    }

    /// Syncs of a file whose sync had failed before: a correct caller makes none.
    pub fn repeated_syncs(&self) -> u64 {
        self.plan.repeated_syncs.load(Ordering::SeqCst)
    }

    /// Operation number `at`, counted from 1, fails; earlier orders are forgotten.
    pub fn fail_once(&self, at: u64, fault: Fault) {
        let (first, last) = (at, at);
        self.plan.set(Some(Order { first, last, fault }));
    }

    /// Operation number `at` and all later ones fail; earlier orders are forgotten.
    pub fn fail_from(&self, at: u64, fault: Fault) {
        let (first, last) = (at, u64::MAX);
        self.plan.set(Some(Order { first, last, fault }));
    }

    /// The process stops in operation number `at`, leaving a write half done.
    pub fn cut(&self, at: u64) {
        self.fail_from(at, Fault::short(Failure::Stopped));
    }

    /// Nothing fails any more, except further syncs of a file whose sync failed.
    pub fn heal(&self) {
        self.plan.set(None);
    }

    fn check(&self, operation: &'static str, name: &str) -> Result<(), StorageError> {
        self.plan.check(operation, &self.inner.path(name))
    }
}

impl Storage for FaultyStorage {
    fn map(&self, name: &str, length: u64) -> Result<Bytes, ReadError> {
        self.check("map", name)?;
        self.inner.map(name, length)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        self.check("read", name)?;
        self.inner.read(name)
    }

    fn create(&self, name: &str) -> Result<Box<dyn FileWriter>, StorageError> {
        self.check("create", name)?;
        Ok(Box::new(FaultyWriter {
            inner: self.inner.create(name)?,
            plan: self.plan.clone(),
            path: self.inner.path(name),
            sync_failed: false,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.check("rename", from)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.check("remove", name)?;
        self.inner.remove(name)
    }

    fn list(&self, directory: &str) -> Result<Vec<String>, StorageError> {
        self.check("list", directory)?;
        self.inner.list(directory)
    }

    fn make_directory(&self, name: &str) -> Result<(), StorageError> {
        self.check("create", name)?;
        self.inner.make_directory(name)
    }

    fn sync_directory(&self, name: &str) -> Result<(), StorageError> {
        self.check("sync", name)?;
        self.inner.sync_directory(name)
    }

    fn lock(&self) -> Result<Box<dyn WriterLock>, LockError> {
        self.check("lock", "LOCK").map_err(LockError::Storage)?;
        self.inner.lock()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }
}

#[derive(Debug)]
struct FaultyWriter {
    inner: Box<dyn FileWriter>,
    plan: Arc<Plan>,
    path: PathBuf,
    sync_failed: bool,
}

impl FileWriter for FaultyWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let Err(fault) = self.plan.next() else {
            return self.inner.append(bytes);
        };
        if fault.short_write {
            self.inner.append(&bytes[..bytes.len() / 2])?;
        }
        let error = fault.failure.error();
        Err(StorageError::new("write", &self.path, error))
    }

    /// A failed sync leaves the bytes unsynced in the storage below, and no later one mends it.
    fn sync(&mut self) -> Result<(), StorageError> {
        if self.sync_failed {
            self.plan.repeated_syncs.fetch_add(1, Ordering::SeqCst);
            let error = Failure::InputOutput.error();
            return Err(StorageError::new("sync", &self.path, error));
        }
        let synced = self.plan.check("sync", &self.path);
        self.sync_failed = synced.is_err();
        synced?;
        self.inner.sync()
    }
}
