//! Bulk loads: large inputs straight into segments, without the log.
//!
//! Rows are gathered in memory, built into segments on a thread of their own, and published
//! together with the load's progress. A load that is cut off resumes behind the last published
//! rows; a load that was completed changes nothing when it is repeated.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::batch::{EventBatch, ResolvedBatch};
use crate::error::WriteError;
use crate::store::Store;
use crate::store::shared::{Shared, lock};
use crate::write::append::resolve;
use crate::write::memtable::{MemBatch, build_images};
use crate::write::record::{BatchKind, Progress};

/// A bulk load in progress, from [`Store::bulk_load`](crate::Store::bulk_load).
///
/// Dropping it without [`finish`](BulkLoad::finish) leaves what was published so far; the same
/// load begun again goes on from there. It keeps the store open, and with it the writer's lock.
#[derive(Debug)]
pub struct BulkLoad {
    _store: Store,
    shared: Arc<Shared>,
    progress: Progress,
    gathered: Vec<EventBatch>,
    rows: usize,
    builder: Option<Builder>,
    /// Set while a step is under way, and for good where it failed: its rows may be lost to this load.
    failed: bool,
}

/// The thread that builds and publishes what was gathered.
#[derive(Debug)]
struct Builder {
    work: Sender<Work>,
    failed: Receiver<WriteError>,
    thread: JoinHandle<()>,
}

type Work = (Vec<ResolvedBatch>, Progress);

impl BulkLoad {
    pub(crate) fn begin(store: Store, shared: Arc<Shared>, key: u128) -> Self {
        let fresh = Progress {
            key,
            rows_done: 0,
            complete: false,
        };
        let progress = shared.progress_of(key).unwrap_or(fresh);
        shared.bulk_loads.fetch_add(1, Ordering::Relaxed);
        Self {
            _store: store,
            shared,
            progress,
            gathered: Vec::new(),
            rows: 0,
            builder: None,
            failed: false,
        }
    }

    /// Rows of the input that are stored already: the caller skips as many.
    pub fn rows_done(&self) -> u64 {
        self.progress.rows_done
    }

    /// True where the whole input is stored already.
    pub fn is_complete(&self) -> bool {
        self.progress.complete
    }

    /// Adds a batch. `rows_done` is the number of input rows dealt with, this batch included
    /// (rows that the caller refused count too). Blocks while the builder is two loads behind.
    ///
    /// # Errors
    /// Any failure of this or an earlier batch's building; but for batches that are refused the load is at its end then,
    /// and must be begun again. Batches with message ids are refused:
    /// de-duplication needs the log, so those go through `append`.
    pub fn append(&mut self, batch: EventBatch, rows_done: u64) -> Result<(), WriteError> {
        if batch.message_ids.is_some() {
            return Err(WriteError::MessageIdsInBulk);
        }
        self.check_builder()?;
        self.check_steps()?;
        {
            let mut state = lock(&self.shared.append);
            self.shared.poison.check()?;
            let partition_micros = self.shared.version().manifest.partition_micros;
            state.admit_partitions(&batch.times, partition_micros)?;
        }
        self.progress.rows_done = rows_done;
        self.rows += batch.len();
        self.gathered.push(batch);
        if self.rows >= self.shared.options.bulk_rows {
            self.hand_over()?;
        }
        Ok(())
    }

    /// Publishes what is left and marks the load complete.
    ///
    /// # Errors
    /// As [`append`](BulkLoad::append).
    pub fn finish(mut self, rows_done: u64) -> Result<(), WriteError> {
        self.check_steps()?;
        self.progress.rows_done = rows_done;
        self.progress.complete = true;
        self.hand_over()?;
        match self.builder.take() {
            Some(builder) => {
                drop(builder.work);
                if builder.thread.join().is_err() {
                    return Err(WriteError::Panicked);
                }
                builder.failed.try_recv().map_or(Ok(()), Err)
            }
            None => Ok(()),
        }
    }

    fn hand_over(&mut self) -> Result<(), WriteError> {
        self.failed = true;
        let work = (self.resolve()?, self.progress);
        self.rows = 0;
        let shared = &self.shared;
        let builder = match &mut self.builder {
            Some(builder) => builder,
            none => none.insert(Builder::spawn(Arc::clone(shared))?),
        };
        if builder.work.send(work).is_err() {
            return Err(builder.failed.recv().unwrap_or(WriteError::Panicked));
        }
        self.failed = false;
        Ok(())
    }

    /// Finds the users of all batches at once: the more ids are looked up together, the less each costs.
    fn resolve(&mut self) -> Result<Vec<ResolvedBatch>, WriteError> {
        let dictionary = &self.shared.dictionary;
        let columns: Vec<_> = self.gathered.iter().map(|batch| &batch.users).collect();
        let looked_up = dictionary.look_up(&columns)?;
        let users = {
            let _append = lock(&self.shared.append);
            self.shared.poison.check()?;
            dictionary.assign(looked_up)?
        };
        let batches = std::mem::take(&mut self.gathered).into_iter().zip(users);
        Ok(batches
            .map(|(batch, users)| resolve(batch, users))
            .collect())
    }

    fn check_steps(&self) -> Result<(), WriteError> {
        match self.failed {
            true => Err(WriteError::LoadFailed),
            false => Ok(()),
        }
    }

    fn check_builder(&self) -> Result<(), WriteError> {
        let failed = self
            .builder
            .as_ref()
            .and_then(|builder| builder.failed.try_recv().ok());
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for BulkLoad {
    /// Waits for what was handed over, since nothing may be written once the lock is released.
    fn drop(&mut self) {
        if let Some(Builder { work, thread, .. }) = self.builder.take() {
            drop(work);
            let _panicked = thread.join();
        }
        self.shared.bulk_loads.fetch_sub(1, Ordering::Relaxed);
        self.shared.wake_compactor();
    }
}

impl Builder {
    fn spawn(shared: Arc<Shared>) -> Result<Self, WriteError> {
        let (work, inbox) = bounded::<Work>(0);
        let (outbox, failed) = bounded(1);
        let run = move || {
            for (batches, progress) in inbox {
                if let Err(error) = shared.publish_bulk(batches, progress) {
                    // The load sees it at its next step; nobody listens once it was dropped.
                    let _ = outbox.send(error);
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("pugmark-bulk".to_owned())
            .spawn(run);
        let thread = thread.map_err(|error| {
            crate::error::StorageError::new("start a thread for", std::path::Path::new(""), error)
        })?;
        Ok(Self {
            work,
            failed,
            thread,
        })
    }
}

impl Shared {
    /// Progress of a load as far as it was published or logged.
    pub(crate) fn progress_of(&self, key: u128) -> Option<Progress> {
        let state = self.state();
        let mut found = state
            .version
            .manifest
            .ledger
            .iter()
            .find(|entry| entry.key == key)
            .copied();
        let frozen = state.frozen.iter().map(|frozen| &frozen.memtable);
        for memtable in frozen.chain([&state.active]) {
            found = memtable
                .progress()
                .into_iter()
                .rfind(|entry| entry.key == key)
                .or(found);
        }
        found
    }

    /// Builds and publishes gathered batches as one step of a load.
    ///
    /// The rows take one arrival number, after everything appended so far; so the active memory
    /// table is frozen first, or its arrival interval would span theirs, and flushed, so that
    /// segments of one partition are always published in arrival order. What is appended later
    /// may be flushed before these rows are published, so nothing may be merged in between: the
    /// merged interval would span theirs.
    fn publish_bulk(
        &self,
        batches: Vec<ResolvedBatch>,
        progress: Progress,
    ) -> Result<(), WriteError> {
        let no_compaction = lock(&self.compacting);
        let arrival = {
            let mut append = lock(&self.append);
            self.freeze(&mut append)?;
            append.take_arrival()
        };
        self.wake_flusher();
        let number = |rows| {
            let kind = BatchKind::Events;
            Arc::new(MemBatch {
                kind,
                arrival,
                rows,
                bytes: 0,
                progress: None,
            })
        };
        let batches: Vec<Arc<MemBatch>> = batches.into_iter().map(number).collect();
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let partition_micros = self.version().manifest.partition_micros;
        let images = build_images(&batches, partition_micros, &self.build, threads);
        drop(batches);
        let entries = self.write_segments(images)?;
        crate::crash::crash_point!("bulk.segments_written");
        self.wait_flushed_before(arrival)?;
        self.publish_flush(entries, &[progress], arrival + 1, None)?;
        drop(no_compaction);
        self.wake_compactor();
        Ok(())
    }
}
