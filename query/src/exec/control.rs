//! What stops a query: its deadline, its canceller, its memory budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::error::Invalid;

/// Why a query has no answer.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The question contradicts itself.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] pugmark_engine::ReadError),
    /// It took longer than it may.
    #[error("the query took longer than its {} ms; allow more time, or ask about a shorter range", .0.as_millis())]
    DeadlineExceeded(Duration),
    /// Somebody cancelled it.
    #[error("the query was cancelled")]
    Cancelled,
    /// It would need more memory than it may take.
    #[error(
        "the query needs more than its {limit} bytes of memory ({wanted} more asked for); allow \
         more, use fewer threads, or ask for fewer users or values"
    )]
    OutOfMemory {
        /// The budget in bytes.
        limit: usize,
        /// Bytes that were asked for when it ran out.
        wanted: usize,
    },
    /// A thread of the query panicked, which is a bug.
    #[error("a thread of the query panicked; please report this")]
    Panicked,
}

impl From<pugmark_engine::Corruption> for QueryError {
    fn from(error: pugmark_engine::Corruption) -> Self {
        Self::Read(error.into())
    }
}

/// Cancels the queries that it was given to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    cancelled: Arc<AtomicBool>,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the queries, within a morsel's time.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// True once it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// How a query runs.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// The question's present, in microseconds since 1970-01-01 UTC; the snapshot's by default.
    pub as_of: Option<i64>,
    /// Worker threads; by default as many as the machine runs at once.
    pub threads: Option<usize>,
    /// Bytes that the query may hold at once beside the page cache. Default 256 MiB.
    pub memory_bytes: usize,
    /// Longest time that it may take.
    pub deadline: Option<Duration>,
    /// Stops it from outside.
    pub cancel: CancelToken,
    /// Rows that a morsel is cut at. Default a quarter million.
    pub morsel_rows: u64,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            as_of: None,
            threads: None,
            memory_bytes: 256 << 20,
            deadline: None,
            cancel: CancelToken::new(),
            morsel_rows: 1 << 18,
        }
    }
}

/// The running state of one query, shared by its threads.
#[derive(Debug)]
pub(crate) struct Control {
    cancel: CancelToken,
    deadline: Option<(Instant, Duration)>,
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
    failed: AtomicBool,
}

/// Memory that a part of a query holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    control: &'a Control,
    bytes: usize,
}

impl Control {
    /// Starts the clock of a query.
    pub(crate) fn start(options: &QueryOptions) -> Self {
        let deadline = options
            .deadline
            .and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        Self {
            cancel: options.cancel.clone(),
            deadline,
            limit: options.memory_bytes,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// Fails where the query must stop. Cheap enough for every few thousand users.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.cancel.is_cancelled() || self.failed.load(Ordering::Relaxed) {
            return Err(QueryError::Cancelled);
        }
        match self.deadline {
            Some((until, limit)) if Instant::now() >= until => {
                Err(QueryError::DeadlineExceeded(limit))
            }
            _ => Ok(()),
        }
    }

    /// Tells the other threads that this one has failed.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// An empty reservation, to be grown.
    pub(crate) fn reservation(&self) -> Reservation<'_> {
        Reservation {
            control: self,
            bytes: 0,
        }
    }

    /// Most bytes that were held at once.
    #[cfg(test)]
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Reservation<'_> {
    /// Reserves `bytes` more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), QueryError> {
        let used = self
            .control
            .used
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        self.bytes += bytes;
        self.control.peak.fetch_max(used, Ordering::Relaxed);
        if used > self.control.limit {
            return Err(QueryError::OutOfMemory {
                limit: self.control.limit,
                wanted: bytes,
            });
        }
        Ok(())
    }

    /// Reserves what is missing to hold `bytes` in all; never gives any back.
    pub(crate) fn at_least(&mut self, bytes: usize) -> Result<(), QueryError> {
        match bytes.checked_sub(self.bytes) {
            Some(more) if more > 0 => self.grow(more),
            _ => Ok(()),
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.control.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_one_for_all_parts() {
        let options = QueryOptions {
            memory_bytes: 100,
            ..QueryOptions::default()
        };
        let control = Control::start(&options);
        let mut one = control.reservation();
        one.grow(60).unwrap();
        let mut other = control.reservation();
        assert!(matches!(
            other.grow(60),
            Err(QueryError::OutOfMemory {
                limit: 100,
                wanted: 60
            })
        ));
        drop(other);
        control.reservation().grow(40).unwrap();
        assert_eq!(control.peak(), 120);
    }

    #[test]
    fn deadlines_and_cancels_are_told_apart() {
        let options = QueryOptions {
            deadline: Some(Duration::ZERO),
            ..QueryOptions::default()
        };
        let control = Control::start(&options);
        assert!(matches!(
            control.check(),
            Err(QueryError::DeadlineExceeded(_))
        ));
        options.cancel.cancel();
        assert!(matches!(control.check(), Err(QueryError::Cancelled)));
    }
}
