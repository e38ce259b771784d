//! What stops a query: its deadline, its canceller, its memory budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::effort::Effort;
use super::memory::{MemoryBudget, Reservation};
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
    /// Cancels this one, too.
    parent: Option<Arc<CancelToken>>,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled with this one, and can be cancelled alone.
    pub fn child(&self) -> Self {
        Self {
            cancelled: Arc::default(),
            parent: Some(Arc::new(self.clone())),
        }
    }

    /// Stops the queries, within a morsel's time.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// True once it, or one that it is a child of, was cancelled.
    pub fn is_cancelled(&self) -> bool {
        let mut own_and_parents =
            std::iter::successors(Some(self), |token| token.parent.as_deref());
        own_and_parents.any(|token| token.cancelled.load(Ordering::Relaxed))
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
    /// What these bytes are taken from together with other queries, instead of `memory_bytes` for
    /// each alone.
    pub memory: Option<MemoryBudget>,
    /// Where it is counted what the query touched.
    pub effort: Effort,
    /// Longest time that it may take.
    pub deadline: Option<Duration>,
    /// Stops it from outside.
    pub cancel: CancelToken,
    /// Rows that a morsel is cut at. Default a quarter million.
    pub morsel_rows: u64,
}

impl QueryOptions {
    /// How many threads a query may use.
    pub(crate) fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(all)
    }
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            as_of: None,
            threads: None,
            memory_bytes: 256 << 20,
            memory: None,
            effort: Effort::new(),
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
    memory: MemoryBudget,
    effort: Effort,
    failed: AtomicBool,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.effort.collect();
    }
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
            memory: match &options.memory {
                Some(shared) => shared.clone(),
                None => MemoryBudget::new(options.memory_bytes),
            },
            effort: options.effort.clone(),
            failed: AtomicBool::new(false),
        }
    }

    /// Bytes that are free.
    pub(crate) fn room(&self) -> usize {
        self.memory.limit().saturating_sub(self.memory.used())
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

    /// Where it is counted what the query touches.
    pub(super) fn effort(&self) -> &Effort {
        &self.effort
    }

    /// An empty reservation, to be grown.
    pub(crate) fn reservation(&self) -> Reservation<'_> {
        self.memory.reservation()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn children_are_cancelled_with_their_parents_and_alone() {
        let parent = CancelToken::new();
        let (one, other) = (parent.child(), parent.child().child());
        one.cancel();
        assert!(one.is_cancelled() && !parent.is_cancelled() && !other.is_cancelled());
        parent.cancel();
        assert!(other.is_cancelled());
    }
}
