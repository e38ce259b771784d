//! Snapshots: the segments and memory tables of one instant, kept readable while they are held.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::dictionary::DictionarySnapshot;
use crate::error::ReadError;
use crate::ids::{Ordinal, UserKey};
use crate::segment::{Partition, Segment};
use crate::store::shared::{Shared, State};

/// Images that are made ahead of readers after the last one came: some half a million rows.
const MOST_AHEAD: u32 = 256;

/// One state of the store: all that was acknowledged before it was taken, nothing half.
///
/// Cheap to clone. Holds its files mapped, so that flushes, compaction and drops never disturb
/// a reader; hold it for a query, not for a day, or the space of old files stays taken.
#[derive(Clone, Debug)]
pub struct Snapshot {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// By (partition, arrival, users).
    segments: Vec<Arc<Segment>>,
    dictionary: DictionarySnapshot,
    partition_micros: i64,
    taken_at: i64,
}

impl Snapshot {
    /// A snapshot of a writing store.
    pub(crate) fn take(shared: &Shared) -> Result<Self, ReadError> {
        let taken_at = shared.options.clock.now();
        shared.ahead.store(MOST_AHEAD, Ordering::Relaxed);
        let State {
            version,
            frozen,
            active,
        } = shared.state();
        let mut segments = version.segments.clone();
        // The newest first: whatever is seen in it, all before it is published already.
        segments.extend(active.segments()?);
        for frozen in frozen.iter().rev() {
            segments.extend(frozen.memtable.segments()?);
        }
        if active.is_behind() {
            shared.wake_imager();
        }
        let dictionary = shared.dictionary.snapshot();
        Ok(Self::of(
            segments,
            dictionary,
            version.manifest.partition_micros,
            taken_at,
        ))
    }

    /// A snapshot of these segments.
    pub(crate) fn of(
        mut segments: Vec<Arc<Segment>>,
        dictionary: DictionarySnapshot,
        partition_micros: i64,
        taken_at: i64,
    ) -> Self {
        segments.sort_by_key(|segment| {
            let meta = segment.meta();
            (meta.partition, meta.arrival, meta.first_container)
        });
        Self {
            inner: Arc::new(Inner {
                segments,
                dictionary,
                partition_micros,
                taken_at,
            }),
        }
    }

    /// All segments, by (partition, arrival, users); trait updates come first.
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.inner.segments
    }

    /// Segments of events, by (partition, arrival, users).
    pub fn event_segments(&self) -> &[Arc<Segment>] {
        &self.inner.segments[self.first_of_events()..]
    }

    /// Segments of trait updates, by (arrival, users).
    pub fn trait_segments(&self) -> &[Arc<Segment>] {
        &self.inner.segments[..self.first_of_events()]
    }

    fn first_of_events(&self) -> usize {
        self.inner
            .segments
            .partition_point(|segment| segment.meta().partition == Partition::Traits)
    }

    /// Length of a time partition, in microseconds.
    pub fn partition_micros(&self) -> i64 {
        self.inner.partition_micros
    }

    /// The store's clock when the snapshot was taken, in microseconds since 1970-01-01 UTC: the
    /// default `as_of`.
    pub fn taken_at(&self) -> i64 {
        self.inner.taken_at
    }

    /// The dictionary of external ids, as it was.
    pub fn dictionary(&self) -> &DictionarySnapshot {
        &self.inner.dictionary
    }

    /// The ordinal of a user, if the store knows the id.
    ///
    /// # Errors
    /// Where the dictionary's files are damaged.
    pub fn find(&self, user: UserKey<'_>) -> Result<Option<Ordinal>, ReadError> {
        Ok(self.inner.dictionary.find(user)?.map(Ordinal))
    }

    /// Number of events, those later than the clock included.
    pub fn events(&self) -> u64 {
        self.event_segments()
            .iter()
            .map(|segment| u64::from(segment.meta().rows))
            .sum()
    }
}
