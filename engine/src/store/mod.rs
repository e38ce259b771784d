//! The store's handle: open, append, read, maintain.

pub(crate) mod shared;
mod stats;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::{BatchBuilder, EventBatch, TraitsBatch};
use crate::error::{OpenError, WriteError};
use crate::ids::UserKey;
use crate::maintain::Maintenance;
use crate::options::{Clock, Options};
use crate::read::{ForeignReader, Snapshot};
use crate::recover;
use crate::storage::{OsStorage, Storage, WriterLock};
use crate::store::shared::{Shared, lock};
use crate::value::Value;
use crate::verify::{self, VerifyError, VerifyReport};
use crate::write::append::Appended;
use crate::write::bulk::BulkLoad;
use crate::write::group::Durability;
use crate::write::record::{BatchKind, Progress};

pub use stats::Stats;

/// A store of events: a cheap handle, to be cloned into every thread that needs one.
///
/// One process writes a store at a time; any number of others may read it
/// ([`StoreBuilder::read_only`]). Dropping the last handle stops background work and seals the
/// log; nothing acknowledged depends on that.
///
/// ```
/// # use pugmark_engine::{BatchBuilder, Store};
/// # let directory = tempfile::tempdir()?;
/// let store = Store::builder(directory.path()).open()?;
/// let mut batch = BatchBuilder::new();
/// batch.event("ann", 1_569_888_000_000_000, "view").property("product_id", 7i64);
/// store.append(batch.finish()?)?;
/// assert_eq!(store.snapshot()?.events(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    role: Role,
}

#[derive(Clone, Debug)]
enum Role {
    Writer(Arc<Writer>),
    Reader(Arc<ForeignReader>),
}

/// What lives as long as the last writing handle. Fields drop in order: threads, then the lock.
#[derive(Debug)]
struct Writer {
    maintenance: std::sync::Mutex<Maintenance>,
    shared: Arc<Shared>,
    _lock: Box<dyn WriterLock>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.maintenance).stop();
        // A log that cannot be sealed is recovered like one of a killed process.
        let _sealed = recover::close(&self.shared);
    }
}

/// Opens a store. Options not set have the defaults of [`Options`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct StoreBuilder {
    path: PathBuf,
    storage: Option<Arc<dyn Storage>>,
    options: Options,
    read_only: bool,
    existing: bool,
}

impl StoreBuilder {
    /// All options at once.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// When an append counts as done.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.options.durability = durability;
        self
    }

    /// The store's clock, such as one that stands still.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.options.clock = clock;
        self
    }

    /// Drop partitions whose events are all older than this many microseconds.
    pub fn retain_micros(mut self, micros: i64) -> Self {
        self.options.retain_micros = Some(micros);
        self
    }

    /// Open for reading only: no lock is taken, another process may be writing.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Refuse to create a store where there is none.
    pub fn existing(mut self) -> Self {
        self.existing = true;
        self
    }

    /// Another storage than the directory: the in-memory one, or a faulty one for tests.
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Opens the store: maps its files and replays the log, reading nothing else.
    ///
    /// # Errors
    /// Where another process writes to it, an option is out of bounds, a file is damaged or too
    /// new, or there is no store and none may be created.
    pub fn open(self) -> Result<Store, OpenError> {
        self.options.check()?;
        let storage: Arc<dyn Storage> = match self.storage {
            Some(storage) => storage,
            None => Arc::new(OsStorage::open(&self.path)),
        };
        if self.read_only {
            let reader = ForeignReader::open(storage, self.options)?;
            return Ok(Store {
                role: Role::Reader(Arc::new(reader)),
            });
        }
        if self.existing && crate::manifest::Manifest::load(&*storage)?.is_none() {
            return Err(OpenError::NotAStore {
                path: storage.path(""),
            });
        }
        let (shared, lock) = recover::open(storage, self.options)?;
        let maintenance = std::sync::Mutex::new(Maintenance::start(&shared)?);
        let writer = Writer {
            maintenance,
            shared,
            _lock: lock,
        };
        Ok(Store {
            role: Role::Writer(Arc::new(writer)),
        })
    }
}

impl Store {
    /// Begins to open the store in the directory `path`, which is created where it is missing.
    pub fn builder(path: impl AsRef<Path>) -> StoreBuilder {
        StoreBuilder {
            path: path.as_ref().to_owned(),
            storage: None,
            options: Options::default(),
            read_only: false,
            existing: false,
        }
    }

    fn writer(&self) -> Result<&Shared, WriteError> {
        match &self.role {
            Role::Writer(writer) => Ok(&writer.shared),
            Role::Reader(_) => Err(WriteError::ReadOnly),
        }
    }

    /// Appends a batch, whole or not at all. When it returns, the events are as durable as the
    /// store promises and visible to every snapshot taken from now on. Waits while the memory
    /// tables are full.
    ///
    /// # Errors
    /// Where the store is poisoned, closed or read-only, or the batch would spread over too many
    /// partitions. After [`WriteError::Poisoned`] or [`WriteError::Storage`] the batch may or may
    /// not be found when the store is opened again; after any other error it is not stored.
    pub fn append(&self, batch: EventBatch) -> Result<Appended, WriteError> {
        self.writer()?.append(BatchKind::Events, batch, None)
    }

    /// As [`Store::append`], noting in the same instant how far a load has come.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn append_with_progress(
        &self,
        batch: EventBatch,
        progress: Progress,
    ) -> Result<Appended, WriteError> {
        self.writer()?
            .append(BatchKind::Events, batch, Some(progress))
    }

    /// Sets traits of a user as of `time` (microseconds since 1970-01-01 UTC). For each trait the
    /// value with the latest time holds; [`Value::Null`] removes it. As durable as an append.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn set_traits<'a>(
        &self,
        user: &str,
        time: i64,
        traits: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<(), WriteError> {
        let mut batch = BatchBuilder::new();
        let mut row = batch.event(user, time, "");
        for (name, value) in traits {
            row = row.property(name, value);
        }
        let _done = row;
        self.append_traits(batch.finish_traits()?)
    }

    /// Sets traits of many users, as [`Store::set_traits`] does of one.
    ///
    /// ```
    /// # use pugmark_engine::{BatchBuilder, Store};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::builder(directory.path()).open()?;
    /// let mut traits = BatchBuilder::new();
    /// traits.event("ann", 1_569_888_000_000_000, "").property("plan", "gold");
    /// traits.event("bob", 1_569_888_000_000_000, "").property("plan", "free");
    /// store.append_traits(traits.finish_traits()?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn append_traits(&self, batch: TraitsBatch) -> Result<(), WriteError> {
        self.writer()?
            .append(BatchKind::Traits, batch.0, None)
            .map(|_| ())
    }

    /// Begins or resumes a bulk load: the way for large inputs, straight into segments.
    /// `key` stands for the input and the options that matter, such as a hash of both.
    ///
    /// # Errors
    /// Where the store is open for reading only.
    pub fn bulk_load(&self, key: u128) -> Result<BulkLoad, WriteError> {
        match &self.role {
            Role::Writer(writer) => Ok(BulkLoad::begin(
                self.clone(),
                Arc::clone(&writer.shared),
                key,
            )),
            Role::Reader(_) => Err(WriteError::ReadOnly),
        }
    }

    /// How far the load `key` has come, if it was ever begun.
    ///
    /// # Errors
    /// Where the store is open for reading only.
    pub fn progress(&self, key: u128) -> Result<Option<Progress>, WriteError> {
        Ok(self.writer()?.progress_of(key))
    }

    /// One state of the store, for reading.
    ///
    /// # Errors
    /// Where files of the store cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, OpenError> {
        match &self.role {
            Role::Writer(writer) => Ok(Snapshot::take(&writer.shared)?),
            Role::Reader(reader) => reader.snapshot(),
        }
    }

    /// The ordinal of a user, if the store knows the id.
    ///
    /// # Errors
    /// Where the dictionary's files are damaged.
    pub fn find(&self, user: UserKey<'_>) -> Result<Option<u32>, OpenError> {
        match &self.role {
            Role::Writer(writer) => Ok(writer.shared.dictionary.find(user)?),
            Role::Reader(reader) => Ok(reader.snapshot()?.find(user)?.map(|found| found.0)),
        }
    }

    /// Turns everything appended so far into segments.
    ///
    /// # Errors
    /// Where writing fails; the store is poisoned then.
    pub fn flush(&self) -> Result<(), WriteError> {
        let shared = self.writer()?;
        let arrival = {
            let mut append = lock(&shared.append);
            shared.poison.check()?;
            if append.closed {
                return Err(WriteError::Closed);
            }
            shared.freeze(&mut append)?;
            append.next_arrival
        };
        shared.wake_flusher();
        shared.wait_flushed_before(arrival)
    }

    /// Flushes, then merges until every partition is one layer of segments.
    ///
    /// # Errors
    /// Where reading or writing fails.
    pub fn compact(&self) -> Result<(), WriteError> {
        self.flush()?;
        let shared = self.writer()?;
        shared.drop_expired()?;
        shared.tidy_runs()?;
        shared.compact_fully()
    }

    /// Drops every partition that ends at or before `time` (microseconds since 1970-01-01 UTC).
    /// Returns the number of segments dropped. Snapshots keep what they hold.
    ///
    /// # Errors
    /// Where writing the manifest fails.
    pub fn drop_before(&self, time: i64) -> Result<usize, WriteError> {
        self.flush()?;
        self.writer()?.drop_before(time)
    }

    /// Figures of the store: events, users, segments, bytes.
    ///
    /// # Errors
    /// Where files of the store cannot be read.
    pub fn stats(&self) -> Result<Stats, OpenError> {
        let manifest = match &self.role {
            Role::Writer(writer) => writer.shared.version().manifest.clone(),
            Role::Reader(reader) => reader.manifest()?,
        };
        Ok(stats::collect(&self.snapshot()?, &manifest)?)
    }

    /// Reads everything and checks every checksum and invariant, flushing first. Compaction
    /// waits meanwhile; appends and readers do not.
    ///
    /// # Errors
    /// The first damage found, with file and offset.
    pub fn verify(&self) -> Result<VerifyReport, VerifyError> {
        match &self.role {
            Role::Writer(writer) => {
                self.flush()?;
                // So that files stay while they are read; flushes only add some.
                let _no_compaction = lock(&writer.shared.compacting);
                let _no_tidying = lock(&writer.shared.tidying);
                verify::verify(&writer.shared.storage)
            }
            Role::Reader(reader) => verify::verify(reader.storage()),
        }
    }

    /// Waits for background work, seals the log and releases the writer's lock once the other
    /// handles are gone too. Dropping does the same without telling of errors.
    ///
    /// # Errors
    /// Where the log cannot be sealed; what was acknowledged is safe all the same.
    pub fn close(self) -> Result<(), WriteError> {
        match self.role {
            Role::Writer(writer) => {
                lock(&writer.maintenance).stop();
                recover::close(&writer.shared)
            }
            Role::Reader(_) => Ok(()),
        }
    }
}
