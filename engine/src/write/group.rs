//! Group commit: many threads append to one log and share its syncs.
//!
//! A thread submits under the caller's lock, which fixes the order, and waits outside of it.
//! The first to wait leads: it takes everything submitted so far, writes it with one sync, and
//! wakes the others. Whatever fails poisons the log for good: after a failed write or sync the
//! file's state is unknown, so neither is ever tried again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::log::{Frames, LogStatistics, LogWriter, log_name};
use crate::error::{BatchError, BatchProblem, StorageError, WriteError};
use crate::limits::MAX_RECORD_BYTES;
use crate::storage::Storage;

#[cfg(test)]
mod tests;

/// When a record is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// After a sync: an acknowledged record survives a loss of power.
    #[default]
    EveryCommit,
    /// After it is handed to the operating system: it survives the process, and a loss of power
    /// once this much time has passed.
    Interval(Duration),
    /// After it is handed to the operating system, which writes it when it likes.
    None,
}

/// A submitted record's place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "a record is acknowledged by waiting for its ticket"]
pub struct Ticket {
    record: u64,
    sequence: u64,
}

impl Ticket {
    /// The record's number. For a rotation, the number of the new file's first record.
    pub fn record(&self) -> u64 {
        self.record
    }
}

/// What is to be done to the files, in order.
#[derive(Debug)]
enum Work {
    Append(Frames),
    Rotate { number: u64 },
    Seal,
}

/// How far a waiter wants its work done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Written,
    Settled,
}

/// A write-ahead log that many threads append to.
#[derive(Debug)]
pub struct GroupLog {
    storage: Arc<dyn Storage>,
    durability: Durability,
    state: Mutex<State>,
    changed: Condvar,
}

/// `submitted` counts submits and rotations; the work of those up to `written` was handed to
/// the storage, that of those up to `settled` survives a crash.
#[derive(Debug)]
struct State {
    /// Absent while a leader works with it, and after close or failure.
    writer: Option<LogWriter>,
    queue: Vec<Work>,
    next_record: u64,
    file_number: u64,
    file_bytes: u64,
    submitted: u64,
    written: u64,
    settled: u64,
    last_sync: Instant,
    poisoned: Option<StorageError>,
    closed: bool,
    statistics: LogStatistics,
}

impl State {
    fn done(&self, level: Level) -> u64 {
        match level {
            Level::Written => self.written,
            Level::Settled => self.settled,
        }
    }

    /// Takes the next place in the order, where the log still accepts work.
    fn next_sequence(&mut self) -> Result<u64, WriteError> {
        if let Some(cause) = self.poisoned.clone() {
            return Err(WriteError::Poisoned { cause });
        }
        if self.closed {
            return Err(WriteError::Closed);
        }
        self.submitted += 1;
        Ok(self.submitted)
    }
}

impl GroupLog {
    /// Starts log file `number`, whose first record will be `first_record`. The log directory
    /// exists, and older files were [recovered](super::log::recover_logs).
    pub fn create(
        storage: Arc<dyn Storage>,
        number: u64,
        first_record: u64,
        durability: Durability,
    ) -> Result<Self, StorageError> {
        let writer = LogWriter::create(storage.as_ref(), number, first_record)?;
        let statistics = writer.statistics();
        let state = State {
            writer: Some(writer),
            queue: Vec::new(),
            next_record: first_record,
            file_number: number,
            file_bytes: 0,
            submitted: 0,
            written: 0,
            settled: 0,
            last_sync: Instant::now(),
            poisoned: None,
            closed: false,
            statistics,
        };
        Ok(Self {
            storage,
            durability,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// Gives `payload` the next record number. It is written once someone [waits](Self::wait) for
    /// it or for a later one. Copies the payload; touches no file.
    ///
    /// # Errors
    /// Where the payload exceeds [`MAX_RECORD_BYTES`], or the log is poisoned or closed.
    pub fn submit(&self, payload: &[u8]) -> Result<Ticket, WriteError> {
        if payload.len() > MAX_RECORD_BYTES {
            return Err(too_long(payload.len()).into());
        }
        let mut state = self.lock();
        let sequence = state.next_sequence()?;
        let record = state.next_record;
        state.next_record += 1;
        if !matches!(state.queue.last(), Some(Work::Append(_))) {
            state.queue.push(Work::Append(Frames::default()));
        }
        if let Some(Work::Append(frames)) = state.queue.last_mut() {
            let before = frames.len();
            frames.push(payload);
            let added = frames.len() - before;
            state.file_bytes += added as u64;
        }
        Ok(Ticket { record, sequence })
    }

    /// Returns once the ticket's record is acknowledged as the log's [`Durability`] says.
    ///
    /// # Errors
    /// [`WriteError::Poisoned`] where writing or syncing failed, for this record or before; then
    /// the record may or may not be found when the store is opened again.
    pub fn wait(&self, ticket: Ticket) -> Result<(), WriteError> {
        let level = match self.durability {
            Durability::EveryCommit => Level::Settled,
            Durability::Interval(_) | Durability::None => Level::Written,
        };
        self.drive(ticket.sequence, level)
    }

    /// Returns once the ticket's record survives a crash, whatever the log's [`Durability`].
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_synced(&self, ticket: Ticket) -> Result<(), WriteError> {
        self.drive(ticket.sequence, Level::Settled)
    }

    /// Makes every record submitted so far survive a crash.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn sync(&self) -> Result<(), WriteError> {
        let submitted = self.lock().submitted;
        self.drive(submitted, Level::Settled)
    }

    /// True where the log syncs by interval, has something to sync, and the interval is over.
    pub fn sync_due(&self) -> bool {
        let state = self.lock();
        state.settled < state.submitted && self.interval_over(&state)
    }

    /// [Syncs](Self::sync) where that is due: for a thread that wakes up now and then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn sync_if_due(&self) -> Result<(), WriteError> {
        if self.sync_due() { self.sync() } else { Ok(()) }
    }

    /// Ends the current file and starts file `number`: records submitted before go to the old,
    /// later ones to the new, whose first record is the ticket's. Touches no file; the old file
    /// is sealed and the new one durable once [`wait_synced`](Self::wait_synced) returns.
    ///
    /// # Errors
    /// Where the log is poisoned or closed.
    pub fn rotate(&self, number: u64) -> Result<Ticket, WriteError> {
        let mut state = self.lock();
        let sequence = state.next_sequence()?;
        assert!(number > state.file_number, "file numbers only grow");
        state.queue.push(Work::Rotate { number });
        state.file_number = number;
        state.file_bytes = 0;
        let record = state.next_record;
        Ok(Ticket { record, sequence })
    }

    /// Writes what was submitted and seals the file; the log takes no more records. A second
    /// call does nothing.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn close(&self) -> Result<(), WriteError> {
        let mut state = self.lock();
        let sequence = match state.next_sequence() {
            Err(WriteError::Closed) => state.submitted,
            next => next?,
        };
        if !state.closed {
            state.queue.push(Work::Seal);
            state.closed = true;
        }
        drop(state);
        self.drive(sequence, Level::Settled)
    }

    /// Number of the next record to be submitted.
    pub fn next_record(&self) -> u64 {
        self.lock().next_record
    }

    /// The file that the next submitted record goes to, and the bytes submitted to it so far.
    pub fn current_file(&self) -> (u64, u64) {
        let state = self.lock();
        (state.file_number, state.file_bytes)
    }

    /// Why the log takes no more records, where a write failed.
    pub fn poisoned(&self) -> Option<StorageError> {
        self.lock().poisoned.clone()
    }

    /// What was written so far, over all files.
    pub fn statistics(&self) -> LogStatistics {
        self.lock().statistics
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interval_over(&self, state: &State) -> bool {
        matches!(self.durability, Durability::Interval(every) if state.last_sync.elapsed() >= every)
    }

    /// Waits until everything up to `sequence` is done; leads where nobody does.
    fn drive(&self, sequence: u64, level: Level) -> Result<(), WriteError> {
        let mut state = self.lock();
        loop {
            if state.done(level) >= sequence {
                return Ok(());
            }
            if let Some(cause) = state.poisoned.clone() {
                return Err(WriteError::Poisoned { cause });
            }
            state = match state.writer.take() {
                Some(writer) => self.lead(state, writer, level),
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Does everything submitted so far, with the lock released meanwhile.
    fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        writer: LogWriter,
        level: Level,
    ) -> MutexGuard<'a, State> {
        let queue = std::mem::take(&mut state.queue);
        let sequence = state.submitted;
        let sync = level == Level::Settled || self.interval_over(&state);
        let file = log_name(state.file_number);
        drop(state);

        let mut leader = Leader {
            log: self,
            file: &file,
            finished: false,
        };
        let outcome = self.perform(writer, queue, sync);
        leader.finished = true;
        drop(leader);

        let mut state = self.lock();
        match outcome {
            Ok(performed) => {
                state.writer = performed.writer;
                state.statistics = performed.statistics;
                state.written = sequence;
                if performed.settled {
                    state.settled = sequence;
                    state.last_sync = Instant::now();
                }
            }
            Err(error) => state.poisoned = Some(error),
        }
        self.changed.notify_all();
        state
    }

    /// Applies the work in order. The writer is gone once it was sealed for good, and dropped by
    /// any failure, so that nothing is written or synced after one.
    fn perform(
        &self,
        mut writer: LogWriter,
        queue: Vec<Work>,
        sync: bool,
    ) -> Result<Performed, StorageError> {
        for work in queue {
            match work {
                Work::Append(frames) => writer.commit_frames(frames, false)?,
                Work::Rotate { number } => {
                    let first_record = writer.next_record();
                    let before = writer.seal()?;
                    writer = LogWriter::create(self.storage.as_ref(), number, first_record)?;
                    writer.carry_on(before);
                }
                // Nothing is accepted behind it.
                Work::Seal => {
                    return Ok(Performed {
                        statistics: writer.seal()?,
                        settled: true,
                        writer: None,
                    });
                }
            }
        }
        writer.commit(sync)?;
        Ok(Performed {
            statistics: writer.statistics(),
            settled: writer.is_settled(),
            writer: Some(writer),
        })
    }
}

/// What a leader has brought about.
struct Performed {
    /// None once the log is closed.
    writer: Option<LogWriter>,
    statistics: LogStatistics,
    /// True where everything written survives a crash.
    settled: bool,
}

/// Poisons the log where its leader panics, so that no one waits for it for ever.
struct Leader<'a> {
    log: &'a GroupLog,
    file: &'a str,
    finished: bool,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let error = std::io::Error::other("the thread that wrote it panicked");
        let path = self.log.storage.path(self.file);
        self.log.lock().poisoned = Some(StorageError::new("write", &path, error));
        self.log.changed.notify_all();
    }
}

fn too_long(bytes: usize) -> BatchError {
    BatchError {
        row: 0,
        field: "batch".to_owned(),
        problem: BatchProblem::TooLong {
            bytes,
            limit: MAX_RECORD_BYTES,
        },
    }
}
