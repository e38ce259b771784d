//! Where imported events go: a store, or for trials nowhere.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashSet};
use pugmark_engine::{EventBatch, WriteError};

use super::error::ImportError;

/// Takes the events of one input in order.
pub trait EventSink {
    /// Takes a batch. `rows_done` is how many of the input's rows are dealt with once it is stored,
    /// refused ones included: a later run of the same import skips as many.
    ///
    /// # Errors
    /// Where the batch cannot be stored.
    fn append(&mut self, batch: EventBatch, rows_done: u64) -> Result<(), WriteError>;

    /// Notes that the whole input is stored.
    ///
    /// # Errors
    /// Where something taken earlier cannot be stored after all.
    fn finish(self: Box<Self>, rows_done: u64) -> Result<(), WriteError>;
}

/// What is known of an input before it is imported.
pub enum Begun<'a> {
    /// All of it was imported before.
    Complete,
    /// Its first `rows_done` rows were.
    From {
        /// Rows to skip.
        rows_done: u64,
        /// Takes the rest.
        sink: Box<dyn EventSink + 'a>,
    },
}

/// Knows which inputs were imported.
pub trait ImportTarget {
    /// Begins the input of ledger key `key`: a hash of its bytes and of the options that decide
    /// what becomes of them. `message_ids` tells whether its batches carry any.
    ///
    /// # Errors
    /// Where the store cannot be opened or takes no writes.
    fn begin(&mut self, key: u128, message_ids: bool) -> Result<Begun<'_>, ImportError>;
}

/// Counts what it is given and keeps nothing.
#[derive(Debug, Default)]
pub struct DryRun {
    users: HashSet<u64>,
    hasher: DefaultHashBuilder,
}

impl DryRun {
    /// Different user ids so far (up to collisions of a 64-bit hash).
    pub fn users(&self) -> u64 {
        self.users.len() as u64
    }
}

impl ImportTarget for DryRun {
    fn begin(&mut self, _: u128, _: bool) -> Result<Begun<'_>, ImportError> {
        Ok(Begun::From {
            rows_done: 0,
            sink: Box::new(self),
        })
    }
}

impl EventSink for &mut DryRun {
    fn append(&mut self, batch: EventBatch, _: u64) -> Result<(), WriteError> {
        let users = batch.users();
        for row in 0..users.len() {
            let hash = self.hasher.hash_one(users.key(row));
            self.users.insert(hash);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _: u64) -> Result<(), WriteError> {
        Ok(())
    }
}

/// Keeps every batch, and a ledger of its own, in memory: for tests.
#[derive(Debug, Default)]
pub struct Collector {
    /// The batches in order.
    pub batches: Vec<EventBatch>,
    /// Rows done and whether that is all, by key.
    pub ledger: std::collections::BTreeMap<u128, (u64, bool)>,
    /// Fails instead of taking the batch with this number (counted from 0), once.
    pub fail_at: Option<usize>,
}

/// One input of a [`Collector`].
struct Collecting<'a> {
    collector: &'a mut Collector,
    key: u128,
}

impl ImportTarget for Collector {
    fn begin(&mut self, key: u128, _: bool) -> Result<Begun<'_>, ImportError> {
        let (rows_done, complete) = self.ledger.get(&key).copied().unwrap_or_default();
        if complete {
            return Ok(Begun::Complete);
        }
        Ok(Begun::From {
            rows_done,
            sink: Box::new(Collecting {
                collector: self,
                key,
            }),
        })
    }
}

impl EventSink for Collecting<'_> {
    fn append(&mut self, batch: EventBatch, rows_done: u64) -> Result<(), WriteError> {
        if self.collector.fail_at == Some(self.collector.batches.len()) {
            self.collector.fail_at = None;
            return Err(WriteError::Closed);
        }
        self.collector.batches.push(batch);
        self.collector.ledger.insert(self.key, (rows_done, false));
        Ok(())
    }

    fn finish(self: Box<Self>, rows_done: u64) -> Result<(), WriteError> {
        self.collector.ledger.insert(self.key, (rows_done, true));
        Ok(())
    }
}
