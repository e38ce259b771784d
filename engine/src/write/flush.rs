//! From a full memory table to segments: freeze, build, seal, publish, drop the log.
//!
//! 1. *Freeze* (under the append lock): the active memory table becomes the last of the frozen
//!    ones, the log moves on to a new file, and the message ids so far are sealed.
//! 2. *Build*: the table's rows become segment files, the dictionary's tail a run.
//! 3. *Publish*: one manifest names them all and moves the log's start behind them.
//! 4. *Drop*: the log files before that start are removed.

use std::sync::{Arc, PoisonError};

use crate::dedup::{SEAL_IDS, SealedMessageIds};
use crate::dictionary::SealedTail;
use crate::error::{StorageError, WriteError};
use crate::manifest::{SegmentEntry, ids_file, message_ids_file, segment_file};
use crate::segment::{SegmentImage, SegmentMeta};
use crate::storage::{Storage, write_sealed};
use crate::store::shared::{Shared, lock};
use crate::write::append::AppendState;
use crate::write::group::Ticket;
use crate::write::log::{LOG_DIRECTORY, log_name, log_number};
use crate::write::memtable::Memtable;
use crate::write::record::Progress;

/// A memory table that takes no more batches, and where the log goes on behind it.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) memtable: Arc<Memtable>,
    last_ticket: Option<Ticket>,
    rotated: Ticket,
    message_ids: Option<SealedMessageIds>,
    next_log_file: u64,
    next_arrival: u64,
}

impl Shared {
    /// Waits while too many memory tables wait for their flush.
    pub(crate) fn wait_for_room(&self) -> Result<(), WriteError> {
        let mut guard = lock(&self.flush_wait);
        loop {
            self.check_flushing()?;
            if self.state().frozen.len() <= self.options.max_frozen {
                return Ok(());
            }
            guard = self
                .flushed
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until every memory table whose batches arrived before `arrival` is in segments.
    pub(crate) fn wait_flushed_before(&self, arrival: u64) -> Result<(), WriteError> {
        let mut guard = lock(&self.flush_wait);
        loop {
            self.check_flushing()?;
            if self
                .state()
                .frozen
                .iter()
                .all(|frozen| frozen.next_arrival > arrival + 1)
            {
                return Ok(());
            }
            guard = self
                .flushed
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Freezes the active memory table where it has outgrown its bound.
    pub(crate) fn freeze_if_full(&self) -> Result<(), WriteError> {
        let mut append = lock(&self.append);
        let full = append.active_bytes >= self.options.memtable_bytes;
        if full || append.message_ids.unsealed() >= SEAL_IDS {
            self.freeze(&mut append)?;
            drop(append);
            self.wake_flusher();
        }
        Ok(())
    }

    /// Freezes the active memory table unless nothing is in it. Called under the append lock.
    pub(crate) fn freeze(&self, append: &mut AppendState) -> Result<(), WriteError> {
        if append.active_bytes == 0 {
            return Ok(());
        }
        let next_log_file = self.take_file();
        let message_ids = append.message_ids.seal(self.take_file())?;
        let rotated = self.log.rotate(next_log_file)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let next = Memtable::new(state.version.manifest.partition_micros, self.build);
        let memtable = std::mem::replace(&mut state.active, Arc::new(next));
        state.frozen.push_back(Arc::new(Frozen {
            memtable,
            last_ticket: append.last_ticket,
            rotated,
            message_ids,
            next_log_file,
            next_arrival: append.next_arrival,
        }));
        append.active_bytes = 0;
        Ok(())
    }

    /// Turns the oldest frozen memory table into segments. Returns false where there is none.
    /// Only the maintenance thread and `close` call this, never at once.
    pub(crate) fn flush_oldest(&self) -> Result<bool, WriteError> {
        let Some(frozen) = self.state().frozen.front().cloned() else {
            return Ok(false);
        };
        self.log.wait_synced(frozen.rotated)?;
        crate::crash::crash_point!("flush.frozen");
        if let Some(ticket) = frozen.last_ticket {
            self.publish_batches(ticket);
        }
        let entries = self.write_segments(frozen.memtable.finish(&self.build)?)?;
        crate::crash::crash_point!("flush.segments_written");
        if let Some(SealedMessageIds { meta, image }) = &frozen.message_ids {
            write_sealed(
                &*self.storage,
                "dedup",
                &message_ids_file(meta.number),
                image,
            )?;
        }
        let progress = frozen.memtable.progress();
        self.publish_flush(entries, &progress, frozen.next_arrival, Some(&frozen))?;
        if let Some(sealed) = &frozen.message_ids {
            let installed = lock(&self.append).message_ids.install(sealed.meta);
            self.take_over(installed)?;
        }
        self.remove_logs_before(frozen.next_log_file)?;
        let _guard = lock(&self.flush_wait);
        self.flushed.notify_all();
        Ok(true)
    }

    /// Publishes segments (of a flush or of a bulk load) with the ids that their ordinals need.
    pub(crate) fn publish_flush(
        &self,
        entries: Vec<SegmentEntry>,
        progress: &[Progress],
        next_arrival: u64,
        frozen: Option<&Arc<Frozen>>,
    ) -> Result<(), WriteError> {
        let _sealing = lock(&self.sealing);
        let sealed = self.dictionary.seal(self.take_file())?;
        let ids = match sealed {
            Some(SealedTail { meta, image }) => {
                write_sealed(&*self.storage, "ids", &ids_file(meta.number), &image)?;
                Some(meta)
            }
            None => None,
        };
        crate::crash::crash_point!("flush.ids_written");
        self.publish(
            |manifest| {
                manifest.segments.extend(entries);
                manifest.ids.extend(ids);
                progress.iter().for_each(|progress| manifest.note(progress));
                if let Some(frozen) = frozen {
                    manifest.log_file = frozen.next_log_file;
                    manifest.log_record = frozen.rotated.record();
                    manifest
                        .message_ids
                        .extend(frozen.message_ids.iter().map(|sealed| sealed.meta));
                }
                manifest.next_arrival = manifest.next_arrival.max(next_arrival);
            },
            |state| {
                if frozen.is_some() {
                    state.frozen.pop_front();
                }
            },
        )?;
        crate::crash::crash_point!("flush.published");
        if let Some(run) = ids {
            self.take_over(self.dictionary.install(run))?;
        }
        Ok(())
    }

    /// Writes images as segment files, durably.
    pub(crate) fn write_segments(
        &self,
        images: Vec<SegmentImage>,
    ) -> Result<Vec<SegmentEntry>, WriteError> {
        let write = |image: SegmentImage| self.write_segment(image.meta, &image.bytes);
        images.into_iter().map(write).collect()
    }

    /// Writes one image as a segment file, durably.
    pub(crate) fn write_segment(
        &self,
        meta: SegmentMeta,
        bytes: &[u8],
    ) -> Result<SegmentEntry, WriteError> {
        let number = self.take_file();
        write_sealed(&*self.storage, "segments", &segment_file(number), bytes)?;
        Ok(SegmentEntry {
            number,
            length: bytes.len() as u64,
            meta,
        })
    }

    /// Removes log files whose records are all in segments.
    pub(crate) fn remove_logs_before(&self, first_kept: u64) -> Result<(), WriteError> {
        for number in log_numbers(&*self.storage)? {
            if number < first_kept {
                self.storage.remove(&log_name(number))?;
            }
        }
        Ok(())
    }
}

/// Numbers of the log files, ascending.
pub(crate) fn log_numbers(storage: &dyn Storage) -> Result<Vec<u64>, StorageError> {
    let mut numbers: Vec<u64> = storage
        .list(LOG_DIRECTORY)?
        .iter()
        .filter_map(|name| log_number(name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}
