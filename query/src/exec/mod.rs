//! Running questions over a snapshot: morsels of users on worker threads.
//!
//! ```text
//! mod       Executor: validates, prepares, runs, merges
//! control   deadline, cancelling                      memory   one budget of bytes
//! morsel    spans of users, cut by rows, taken from a queue
//! effort    what was touched, counted                 spread   threads on processors of their own
//! scan      which runs a question reads; conditions simplified by event name
//! filter    conditions over rows, in bulk          traits   traits of a morsel's users
//! exists    users by bitmaps and broken days       did      did(…): bitmaps, counts, or events
//! gather    a morsel's events in total order, by digits values   held values and measures of events
//! users     segments as bitmap algebra
//! each_user questions that look at one user's events after the other; user_times: at times alone
//! sessions  sessions, by their gaps                   paths    paths from their anchors
//! affinity  baskets, then their pairs                 trail    one user's events
//! intern    texts as numbers                      user_set the users found, and their ids
//! attribution, experiment, rfm
//!           folds over users
//! funnel    gathered events through the matcher
//! periods   calendar periods of one user's events: retention, lifecycle, stickiness
//! activity  the same by bitmaps of days, where those answer: cohorts (retention's)
//! ordered   plain funnels from stored times           steps    their rows, found user by user
//! ```
//!
//! Nothing here is decided by threads or layout: a morsel's answer depends on its users' events
//! alone, and answers merge by addition or union.

mod activity;
mod affinity;
#[cfg(test)]
mod affinity_tests;
mod attribution;
#[cfg(test)]
mod attribution_tests;
#[cfg(feature = "sql")]
pub(crate) mod audience;
mod columns;
mod computed;
pub(crate) mod control;
mod did;
mod digits;
mod each_user;
mod effort;
mod exists;
mod experiment;
#[cfg(test)]
mod experiment_tests;
mod filter;
mod funnel;
#[cfg(test)]
mod funnel_tests;
mod gather;
mod gather_in_order;
mod held;
mod in_order;
#[cfg(test)]
mod in_order_tests;
mod intern;
mod lanes;
mod lifecycle;
mod memory;
mod morsel;
mod ordered;
mod paths;
#[cfg(test)]
mod period_tests;
mod periods;
mod retention;
mod rfm;
#[cfg(test)]
mod rfm_tests;
mod scan;
#[cfg(test)]
mod sequence_tests;
mod sessions;
mod spread;
mod steps;
mod stickiness;
#[cfg(feature = "sql")]
pub(crate) mod table_scan;
#[cfg(test)]
mod tests;
mod times_in_order;
pub(crate) mod totals;
#[cfg(feature = "sql")]
#[cfg(test)]
mod totals_tests;
mod trail;
mod traits;
#[cfg(feature = "sql")]
pub(crate) mod uniques;
mod user_set;
mod user_times;
mod users;
mod values;
mod worker;

use std::ops::RangeInclusive;

use pugmark_engine::Snapshot;
#[cfg(feature = "sql")]
use pugmark_engine::bitmap::CONTAINER_BITS;
use pugmark_engine::bitmap::{self, BitmapBuilder};

use crate::behaviour::{Notices, Segment, Skipped};

pub use control::{CancelToken, QueryError, QueryOptions};
pub use effort::{Effort, Touched};
pub use memory::MemoryBudget;
pub use user_set::{UserIds, UserSet};

use control::Control;
use users::PreparedUsers;
use worker::Worker;

/// Answers questions about one snapshot.
///
/// ```
/// use pugmark_engine::{BatchBuilder, Store};
/// use pugmark_query::{Executor, did, not};
/// # let directory = tempfile::tempdir()?;
/// let store = Store::builder(directory.path()).open()?;
/// let mut batch = BatchBuilder::new();
/// batch.event("ann", 1_000_000, "cart");
/// batch.event("bob", 2_000_000, "cart");
/// batch.event("bob", 3_000_000, "purchase");
/// store.append(batch.finish()?)?;
/// let executor = Executor::new(store.snapshot()?);
/// let abandoned = executor.users(did("cart").and(not(did("purchase"))))?;
/// assert_eq!(abandoned.ids()?, ["ann"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Executor {
    snapshot: Snapshot,
    options: QueryOptions,
    /// The upper halves of the ordinals that a trail of every user is made of.
    containers: RangeInclusive<u16>,
}

impl Executor {
    /// Answers about `snapshot`, with the default options.
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            options: QueryOptions::default(),
            containers: 0..=u16::MAX,
        }
    }

    /// Executors that look at every user's events of some of the users each, which together are all:
    /// of about so many events at most, so that rows of all of them need not be held at once.
    #[cfg(feature = "sql")]
    pub(crate) fn pieces(&self, most_events: u64) -> Vec<Self> {
        let containers = self
            .snapshot
            .dictionary()
            .len()
            .div_ceil(CONTAINER_BITS as u32);
        let containers = u64::from(containers.max(1));
        let events = self.snapshot.events().div_ceil(containers).max(1);
        let together = (most_events / events).clamp(1, containers);
        let firsts = (0..containers).step_by(together as usize);
        let pieces = firsts.map(|first| {
            let last = (first + together - 1).min(containers - 1);
            Self {
                containers: first as u16..=last as u16,
                ..self.clone()
            }
        });
        pieces.collect()
    }

    /// Answers on the calling thread alone.
    #[cfg(feature = "sql")]
    pub(crate) fn on_this_thread(mut self) -> Self {
        self.options.threads = Some(1);
        self
    }

    /// Answers with these options.
    pub fn with_options(mut self, options: QueryOptions) -> Self {
        self.options = options;
        self
    }

    /// The snapshot that is asked.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The present of the questions, in microseconds since 1970-01-01 UTC.
    pub fn as_of(&self) -> i64 {
        self.options.as_of.unwrap_or(self.snapshot.taken_at())
    }

    pub(crate) fn options(&self) -> &QueryOptions {
        &self.options
    }

    fn threads(&self) -> usize {
        self.options.threads()
    }

    /// How many users are in a segment. Cheaper than [`Executor::users`], as no set is made.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn count(&self, segment: impl Into<Segment>) -> Result<u64, QueryError> {
        Ok(self.counted(&segment.into())?.0)
    }

    /// How many users are in a segment, and what could not be compared.
    pub(crate) fn counted(&self, segment: &Segment) -> Result<(u64, Skipped), QueryError> {
        let (counts, skipped) = self.over_users(segment, |_, found: &mut u64, users| {
            *found += u64::from(users.len());
            Ok(())
        })?;
        Ok((counts.into_iter().sum(), skipped))
    }

    /// The users of a segment.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn users(&self, segment: impl Into<Segment>) -> Result<UserSet, QueryError> {
        let collect = |morsel: &morsel::Morsel, found: &mut Vec<_>, users: bitmap::Words| {
            if !users.is_empty() {
                found.push((morsel.key, morsel.lows.start, users));
            }
            Ok(())
        };
        let (parts, skipped) = self.over_users(&segment.into(), collect)?;
        let mut parts: Vec<_> = parts.into_iter().flatten().collect();
        parts.sort_unstable_by_key(|&(key, low, _)| (key, low));
        let mut builder = BitmapBuilder::new();
        for group in parts.chunk_by_mut(|left, right| left.0 == right.0) {
            if let [(key, _, words), rest @ ..] = group {
                rest.iter().for_each(|(_, _, more)| words.or(more));
                builder.push_words(*key, words);
            }
        }
        Ok(self.user_set(builder.into_roaring(), Notices { skipped }))
    }

    /// Runs a segment over all morsels; `merge` adds each morsel's users to its thread's result.
    fn over_users<R: Default + Send>(
        &self,
        segment: &Segment,
        merge: impl Fn(&morsel::Morsel, &mut R, bitmap::Words) -> Result<(), QueryError> + Sync,
    ) -> Result<(Vec<R>, Skipped), QueryError> {
        segment.validate()?;
        let control = Control::start(&self.options);
        let prepared = PreparedUsers::new(&self.snapshot, segment, self.as_of())?;
        let morsels = morsel::cut(&prepared.containers()?, self.options.morsel_rows);
        let begin = || (Worker::new(&control), R::default());
        let states = morsel::run(
            &morsels,
            self.threads(),
            &control,
            begin,
            |state, morsel| {
                let (worker, result) = state;
                worker.reserve()?;
                let users = prepared.users(morsel, worker)?;
                merge(morsel, result, users)
            },
        )?;
        let mut skipped = Skipped::default();
        let mut results = Vec::with_capacity(states.len());
        for (worker, result) in states {
            skipped.merge(&worker.skipped);
            results.push(result);
        }
        Ok((results, skipped))
    }
}
