//! The append path: check, number, log, wait for the sync, publish.
//!
//! Under the append lock a batch gets its arrival number, its users their ordinals, and its bytes
//! a place in the log; so log order is arrival order. Outside the lock its thread waits for the
//! sync, which many share. Then batches are published in order, and only then acknowledged.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::batch::{EventBatch, ResolvedBatch};
use crate::dedup::MessageIds;
use crate::error::{BatchError, BatchProblem, WriteError};
use crate::limits;
use crate::segment::Partition;
use crate::store::shared::{Shared, lock};
use crate::write::group::Ticket;
use crate::write::memtable::{AHEAD_ROWS, MemBatch, Memtable, partition_of};
use crate::write::record::{self, BatchKind, Progress};

/// What became of an appended batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Events that were stored.
    pub stored: u64,
    /// Events whose message id had arrived within the window: acknowledged, not stored again.
    pub duplicates: u64,
}

/// What the append lock guards.
#[derive(Debug)]
pub(crate) struct AppendState {
    pub(crate) message_ids: MessageIds,
    /// The next number of the arrival sequence.
    pub(crate) next_arrival: u64,
    /// Logged batches that are not published yet, in log order, each with its memory table.
    pub(crate) pending: VecDeque<(Ticket, Arc<MemBatch>, Arc<Memtable>)>,
    /// Encoded bytes and ticket of what went into the active memory table.
    pub(crate) active_bytes: usize,
    pub(crate) last_ticket: Option<Ticket>,
    /// Event partitions known to hold something, for the bound on their number.
    pub(crate) partitions: BTreeSet<Partition>,
    pub(crate) closed: bool,
}

impl AppendState {
    /// The state of a store whose memory table is empty.
    pub(crate) fn new(
        message_ids: MessageIds,
        next_arrival: u64,
        partitions: BTreeSet<Partition>,
    ) -> Self {
        Self {
            message_ids,
            next_arrival,
            pending: VecDeque::new(),
            active_bytes: 0,
            last_ticket: None,
            partitions,
            closed: false,
        }
    }

    /// Takes the next arrival number.
    pub(crate) fn take_arrival(&mut self) -> u64 {
        self.next_arrival += 1;
        self.next_arrival - 1
    }

    /// Refuses times that would spread the store over too many partitions.
    pub(crate) fn admit_partitions(
        &mut self,
        times: &[i64],
        partition_micros: i64,
    ) -> Result<(), WriteError> {
        let mut fresh = BTreeSet::new();
        let mut last = None;
        for &time in times {
            let partition = partition_of(time, partition_micros);
            if last.replace(partition) != Some(partition) && !self.partitions.contains(&partition) {
                fresh.insert(partition);
            }
        }
        let count = self.partitions.len() + fresh.len();
        if !fresh.is_empty() && count > limits::MAX_PARTITIONS {
            return Err(WriteError::TooManyPartitions {
                count,
                limit: limits::MAX_PARTITIONS,
            });
        }
        self.partitions.extend(fresh);
        Ok(())
    }
}

impl Shared {
    /// Appends a batch; returns when it is as durable as the store promises, and visible.
    pub(crate) fn append(
        &self,
        kind: BatchKind,
        mut batch: EventBatch,
        progress: Option<Progress>,
    ) -> Result<Appended, WriteError> {
        self.wait_for_room()?;
        check_size(&batch)?;
        let offered = batch.len() as u64;
        let mut state = lock(&self.append);
        self.poison.check()?;
        if state.closed {
            return Err(WriteError::Closed);
        }
        if kind == BatchKind::Events {
            state.admit_partitions(&batch.times, self.version().manifest.partition_micros)?;
        }
        // Whatever can refuse the batch comes before its message ids are noted.
        let mut users = self.dictionary.find_or_assign_many(&batch.users)?;
        let arrived_at = self.options.clock.now();
        if let Some(keep) = fresh_rows(&mut state, &batch, arrived_at)? {
            batch = batch.pick(&keep);
            users = keep.iter().map(|&row| users[row as usize]).collect();
        }
        let stored = batch.len() as u64;
        let ticket = if batch.is_empty() && progress.is_none() {
            // A duplicate is acknowledged once the first copy is durable.
            state.last_ticket
        } else {
            Some(self.submit(&mut state, kind, batch, users, progress, arrived_at)?)
        };
        drop(state);
        if let Some(ticket) = ticket {
            self.log.wait(ticket)?;
            crate::crash::crash_point!("append.synced");
            self.publish_batches(ticket);
        }
        self.freeze_if_full()?;
        Ok(Appended {
            stored,
            duplicates: offered - stored,
        })
    }

    /// Numbers and logs a batch, and queues it for publication. Called under the append lock.
    fn submit(
        &self,
        state: &mut AppendState,
        kind: BatchKind,
        batch: EventBatch,
        users: Vec<u32>,
        progress: Option<Progress>,
        arrived_at: i64,
    ) -> Result<Ticket, WriteError> {
        let arrival = state.take_arrival();
        let payload = record::encode(kind, arrival, arrived_at, progress.as_ref(), &batch);
        let bytes = payload.len();
        let ticket = self.log.submit(&payload)?;
        let rows = resolve(batch, users);
        let batch = Arc::new(MemBatch {
            kind,
            arrival,
            rows,
            bytes,
            progress,
        });
        let active = Arc::clone(&self.state().active);
        state.pending.push_back((ticket, batch, active));
        state.active_bytes += bytes;
        state.last_ticket = Some(ticket);
        Ok(ticket)
    }

    /// Publishes every pending batch up to `ticket`, in order; all of them are durable.
    pub(crate) fn publish_batches(&self, ticket: Ticket) {
        let mut state = lock(&self.append);
        while state
            .pending
            .front()
            .is_some_and(|(next, _, _)| *next <= ticket)
        {
            if let Some((_, batch, memtable)) = state.pending.pop_front() {
                let waiting = memtable.publish(batch);
                if waiting >= AHEAD_ROWS {
                    self.wake_imager();
                }
            }
        }
    }
}

/// A batch whose users are known by ordinal.
pub(crate) fn resolve(batch: EventBatch, users: Vec<u32>) -> ResolvedBatch {
    ResolvedBatch {
        users,
        times: batch.times,
        events: batch.events,
        properties: batch.properties,
    }
}

/// The rows whose message id is new within the window, which are noted; `None` where all are.
fn fresh_rows(
    state: &mut AppendState,
    batch: &EventBatch,
    arrived_at: i64,
) -> Result<Option<Vec<u32>>, WriteError> {
    let Some(ids) = &batch.message_ids else {
        return Ok(None);
    };
    let rows = (0..batch.len()).map(|row| (row as u32, ids.get(row)));
    let (rows, given): (Vec<u32>, Vec<&str>) = rows.filter(|(_, id)| !id.is_empty()).unzip();
    let new = state.message_ids.check_and_insert(&given, arrived_at)?;
    if new.iter().all(|&new| new) {
        return Ok(None);
    }
    let mut keep = vec![true; batch.len()];
    rows.iter()
        .zip(new)
        .for_each(|(&row, new)| keep[row as usize] = new);
    let kept = (0u32..).zip(keep).filter(|(_, keep)| *keep);
    Ok(Some(kept.map(|(row, _)| row).collect()))
}

/// One batch is one log record, so its size is bounded.
fn check_size(batch: &EventBatch) -> Result<(), WriteError> {
    let (bytes, limit) = (batch.encoded_len(), limits::MAX_RECORD_BYTES);
    if bytes > limit {
        let problem = BatchProblem::TooLong { bytes, limit };
        return Err(BatchError {
            row: 0,
            field: "batch".to_owned(),
            problem,
        }
        .into());
    }
    Ok(())
}
