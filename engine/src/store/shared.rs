//! What all handles of a store and its background threads share: the current version, the memory
//! tables beside it, and the one way to publish the next version.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use crate::dictionary::Dictionary;
use crate::error::{ReadError, StorageError, WriteError};
use crate::maintain::Wake;
use crate::manifest::{Manifest, SegmentEntry, segment_file};
use crate::options::Options;
use crate::segment::{BuildOptions, Segment};
use crate::storage::Storage;
use crate::write::append::AppendState;
use crate::write::flush::Frozen;
use crate::write::group::GroupLog;
use crate::write::memtable::Memtable;

/// One published version with its segments open.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) manifest: Manifest,
    /// Open segments, in the order of `manifest.segments`.
    pub(crate) segments: Vec<Arc<Segment>>,
}

impl Version {
    /// Opens the segments of `manifest`, taking those that `old` has open already.
    pub(crate) fn open(
        manifest: Manifest,
        storage: &dyn Storage,
        old: Option<&Self>,
    ) -> Result<Self, ReadError> {
        let mut known = hashbrown::HashMap::new();
        if let Some(old) = old {
            let numbers = old.manifest.segments.iter().map(|entry| entry.number);
            known.extend(numbers.zip(old.segments.iter().cloned()));
        }
        let mut segments = Vec::with_capacity(manifest.segments.len());
        for entry in &manifest.segments {
            let segment = match known.get(&entry.number) {
                Some(open) => Arc::clone(open),
                None => Arc::new(open_segment(storage, entry)?),
            };
            segments.push(segment);
        }
        Ok(Self { manifest, segments })
    }
}

fn open_segment(storage: &dyn Storage, entry: &SegmentEntry) -> Result<Segment, ReadError> {
    let name = segment_file(entry.number);
    let path = storage.path(&name);
    let mut segment = Segment::open(storage.map(&name, entry.length)?, &path)?;
    // Mapped anew: the pages of the footer may be as large as megabytes, and would be resident for each of
    // thousands of segments that nobody asks anything.
    if storage.maps() {
        segment = segment.mapped_as(storage.map(&name, entry.length)?);
    }
    if *segment.meta() != entry.meta {
        let what = "the segment is not the one that the manifest describes";
        return Err(crate::error::Corruption::new(&path, 0, what).into());
    }
    Ok(segment)
}

/// What a snapshot is taken of.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) version: Arc<Version>,
    /// Full memory tables on their way into segments, oldest first.
    pub(crate) frozen: VecDeque<Arc<Frozen>>,
    pub(crate) active: Arc<Memtable>,
}

/// Everything behind a writing store's handles.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) options: Options,
    pub(crate) build: BuildOptions,
    pub(crate) dictionary: Arc<Dictionary>,
    pub(crate) log: GroupLog,
    pub(crate) append: Mutex<AppendState>,
    pub(crate) state: RwLock<State>,
    /// Signalled when a frozen memory table has become segments, or the store was poisoned.
    pub(crate) flushed: Condvar,
    pub(crate) flush_wait: Mutex<()>,
    pub(crate) poison: Poison,
    /// Set when nothing will be flushed any more.
    pub(crate) closing: AtomicBool,
    /// Held from sealing the dictionary's tail to installing the run.
    pub(crate) sealing: Mutex<()>,
    /// Held while runs of the dictionary or of message ids are merged.
    pub(crate) tidying: Mutex<()>,
    /// Held by the one compaction that may run.
    pub(crate) compacting: Mutex<()>,
    /// Bulk loads under way.
    pub(crate) bulk_loads: AtomicUsize,
    pub(crate) wake: Wake,
    /// Images that may yet be made ahead of readers, until one comes.
    pub(crate) ahead: AtomicU32,
    publishing: Mutex<()>,
    next_file: AtomicU64,
}

/// Remembers the first failure after which the files' state is unknown.
#[derive(Debug, Default)]
pub(crate) struct Poison(Mutex<Option<StorageError>>);

impl Poison {
    /// Poisons the store; the first cause stays.
    pub(crate) fn set(&self, cause: &StorageError) {
        lock(&self.0).get_or_insert_with(|| cause.clone());
    }

    /// Refuses where the store is poisoned.
    pub(crate) fn check(&self) -> Result<(), WriteError> {
        match &*lock(&self.0) {
            Some(cause) => Err(WriteError::Poisoned {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Locks a mutex; a thread that panicked while holding it left whole values behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    #[expect(
        clippy::too_many_arguments,
        reason = "called once, by recovery, with what it found"
    )]
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        options: Options,
        build: BuildOptions,
        dictionary: Arc<Dictionary>,
        log: GroupLog,
        append: AppendState,
        version: Version,
        next_file: u64,
    ) -> Self {
        let active = Memtable::new(version.manifest.partition_micros, build);
        let state = State {
            version: Arc::new(version),
            frozen: VecDeque::new(),
            active: Arc::new(active),
        };
        Self {
            storage,
            options,
            build,
            dictionary,
            log,
            append: Mutex::new(append),
            state: RwLock::new(state),
            flushed: Condvar::new(),
            flush_wait: Mutex::new(()),
            poison: Poison::default(),
            closing: AtomicBool::new(false),
            sealing: Mutex::new(()),
            tidying: Mutex::new(()),
            compacting: Mutex::new(()),
            bulk_loads: AtomicUsize::new(0),
            wake: Wake::default(),
            ahead: AtomicU32::new(0),
            publishing: Mutex::new(()),
            next_file: AtomicU64::new(next_file),
        }
    }

    /// Poisons the store and wakes everybody who waits for progress that will not come.
    pub(crate) fn poison(&self, cause: &StorageError) {
        self.poison.set(cause);
        let _guard = lock(&self.flush_wait);
        self.flushed.notify_all();
    }

    /// Refuses to wait for a flush that will not come.
    pub(crate) fn check_flushing(&self) -> Result<(), WriteError> {
        self.poison.check()?;
        if self.closing.load(Ordering::SeqCst) {
            return Err(WriteError::Closed);
        }
        Ok(())
    }

    /// Takes what a publish has made true over into memory. Where that fails, memory no longer
    /// agrees with the manifest, and the next publish would contradict it; so it poisons.
    pub(crate) fn take_over(&self, installed: Result<(), ReadError>) -> Result<(), WriteError> {
        let error = match installed {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match &error {
            ReadError::Storage(cause) => self.poison(cause),
            other => {
                let source = std::io::Error::other(other.to_string());
                let place = std::path::Path::new("a file just published");
                self.poison(&StorageError::new("open", place, source));
            }
        }
        Err(error.into())
    }

    /// The current state, for a snapshot.
    pub(crate) fn state(&self) -> State {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The current version.
    pub(crate) fn version(&self) -> Arc<Version> {
        Arc::clone(
            &self
                .state
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .version,
        )
    }

    /// A file number that was never used.
    pub(crate) fn take_file(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// Publishes the next version: edits the manifest, writes it durably, and swaps it in.
    /// `swap` changes the rest of the state (drops a flushed memory table) in the same instant.
    ///
    /// # Errors
    /// A failed write leaves unknown which version a reopened store will see, so it poisons.
    pub(crate) fn publish(
        &self,
        edit: impl FnOnce(&mut Manifest),
        swap: impl FnOnce(&mut State),
    ) -> Result<(), WriteError> {
        let _one_at_a_time = lock(&self.publishing);
        self.poison.check()?;
        let old = self.version();
        let mut manifest = old.manifest.clone();
        edit(&mut manifest);
        manifest.version += 1;
        manifest.next_file = self.next_file.load(Ordering::Relaxed);
        manifest.segments.sort_by_key(|entry| {
            (
                entry.meta.partition,
                entry.meta.arrival,
                entry.meta.first_container,
            )
        });
        let version = Version::open(manifest, &*self.storage, Some(&old))?;
        if let Err(error) = version.manifest.publish(&*self.storage) {
            self.poison(&error);
            return Err(error.into());
        }
        crate::crash::crash_point!("publish.renamed");
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.version = Arc::new(version);
        swap(&mut state);
        Ok(())
    }
}
