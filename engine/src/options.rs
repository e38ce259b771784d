//! Options of a store: what the caller sets, checked once at opening.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::OpenError;
use crate::time::MICROS_PER_DAY;
use crate::write::group::Durability;

/// Tells the present, in microseconds since 1970-01-01 UTC.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(|| {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        }))
    }

    /// A clock of the caller's own, such as one that stands still.
    pub fn custom(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The present, in microseconds since 1970-01-01 UTC.
    pub fn now(&self) -> i64 {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Clock")
    }
}

/// Settings of a store. Those marked *fixed* are written into a new store and kept by it: opening
/// an existing store takes its own.
#[derive(Clone, Debug)]
pub struct Options {
    /// *Fixed.* Length of a time partition in microseconds; whole days. Default 30 days.
    pub partition_micros: i64,
    /// When an append counts as done. Default [`Durability::EveryCommit`].
    pub durability: Durability,
    /// Message ids are remembered this long after their arrival, in microseconds. Default 7 days.
    pub dedup_window_micros: i64,
    /// Encoded bytes of events in the memory table that start a flush. Default 64 MiB.
    pub memtable_bytes: usize,
    /// Full memory tables that may wait for their flush before appends wait too. Default 2.
    pub max_frozen: usize,
    /// Size that a segment file is cut at, in bytes. Default 128 MiB.
    pub segment_bytes: usize,
    /// Partitions whose events are all older than this are dropped by maintenance, in
    /// microseconds; `None` (the default) keeps everything.
    pub retain_micros: Option<i64>,
    /// Compact in the background. Default true.
    pub background_compaction: bool,
    /// Segments met side by side in one partition before compaction merges them. Default 6: a
    /// stream of equal flushes is then rewritten about five times in a thousand of them.
    pub max_layers: usize,
    /// Rows that a bulk load gathers before it writes segments. Default 2 million, 2^21.
    pub bulk_rows: usize,
    /// The store's clock: arrival times, `as_of`, retention.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            partition_micros: 30 * MICROS_PER_DAY,
            durability: Durability::EveryCommit,
            dedup_window_micros: 7 * MICROS_PER_DAY,
            memtable_bytes: 64 << 20,
            max_frozen: 2,
            segment_bytes: 128 << 20,
            retain_micros: None,
            background_compaction: true,
            max_layers: 6,
            bulk_rows: 2 << 20,
            clock: Clock::system(),
        }
    }
}

impl Options {
    /// Checks every bound.
    ///
    /// # Errors
    /// Names the first option that is out of bounds and what it may be.
    pub fn check(&self) -> Result<(), OpenError> {
        let fail = |option, problem: &str| {
            Err(OpenError::Option {
                option,
                problem: problem.to_owned(),
            })
        };
        if self.partition_micros <= 0 || self.partition_micros % MICROS_PER_DAY != 0 {
            return fail(
                "partition_micros",
                "must be a positive number of whole days",
            );
        }
        if self.dedup_window_micros < 0 || self.dedup_window_micros > 45 * MICROS_PER_DAY {
            return fail("dedup_window_micros", "must lie between 0 and 45 days");
        }
        if self.memtable_bytes < 1_024 || self.segment_bytes < 1_024 {
            return fail("memtable_bytes/segment_bytes", "must be at least 1 KiB");
        }
        if self.segment_bytes > 2 << 30 {
            return fail("segment_bytes", "must be at most 2 GiB");
        }
        if self.max_frozen == 0 || self.max_layers == 0 || self.bulk_rows == 0 {
            return fail("max_frozen/max_layers/bulk_rows", "must be at least 1");
        }
        if self.retain_micros.is_some_and(|retain| retain <= 0) {
            return fail("retain_micros", "must be positive");
        }
        Ok(())
    }
}
