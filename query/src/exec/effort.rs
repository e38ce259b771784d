//! What queries touched: counted by the thread that touches it, once for each morsel and run, and
//! collected where a query or one of its threads ends. Nothing is counted row by row.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what the queries that it is given to touch, together. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Effort {
    counts: Arc<Mutex<Counts>>,
}

/// What queries touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touched {
    /// Different segments that had anything to say, bitmaps included.
    pub segments: u64,
    /// Segments that were left out for their times and names.
    pub pruned: u64,
    /// Bitmaps of users that answered instead of rows: of runs, of days, of values.
    pub bitmaps: u64,
    /// Pieces of the work: spans of users.
    pub morsels: u64,
    /// Rows whose times or values were looked at. Where a funnel goes from time to time, users are
    /// counted, and not all of their rows.
    pub rows: u64,
    /// About the bytes of these times, and of the properties that conditions compared.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    touched: Touched,
    read: BTreeSet<u32>,
    /// Of the snapshot.
    segments: usize,
}

thread_local! {
    static HERE: RefCell<Counts> = RefCell::default();
}

fn count(add: impl FnOnce(&mut Counts)) {
    HERE.with_borrow_mut(add);
}

/// These of a snapshot's `segments` will be read.
pub(super) fn segments(read: impl Iterator<Item = u32>, segments: usize) {
    count(|here| {
        here.read.extend(read);
        here.segments = segments;
    });
}

/// So many bitmaps answer.
pub(super) fn bitmaps(bitmaps: usize) {
    count(|here| here.touched.bitmaps += bitmaps as u64);
}

/// The bitmaps counted so far are those of another reader of the same scan.
#[cfg(feature = "sql")]
pub(super) fn no_bitmaps() {
    count(|here| here.touched.bitmaps = 0);
}

/// A morsel was taken.
pub(super) fn morsel() {
    count(|here| here.touched.morsels += 1);
}

/// So many rows are looked at, for their times.
pub(super) fn rows(rows: usize) {
    count(|here| {
        here.touched.rows += rows as u64;
        here.touched.bytes += (rows * size_of::<i64>()) as u64;
    });
}

/// So many properties of so many rows are compared.
pub(super) fn values(rows: usize, properties: usize) {
    count(|here| here.touched.bytes += (rows * properties * size_of::<i64>()) as u64);
}

impl Effort {
    /// Counts nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the queries that have ended touched.
    pub fn touched(&self) -> Touched {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let read = counts.read.len();
        Touched {
            segments: read as u64,
            pruned: counts.segments.saturating_sub(read) as u64,
            ..counts.touched
        }
    }

    /// Adds what this thread counted since it was last asked.
    pub(super) fn collect(&self) {
        let here = HERE.take();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.read.extend(here.read);
        counts.segments = counts.segments.max(here.segments);
        let (all, own) = (&mut counts.touched, here.touched);
        all.bitmaps += own.bitmaps;
        all.morsels += own.morsels;
        all.rows += own.rows;
        all.bytes += own.bytes;
    }

    /// Collects what this thread counts until it is dropped.
    pub(super) fn collecting(&self) -> Collecting<'_> {
        Collecting(self)
    }
}

/// Collects at the end of a thread's work, failed or not.
#[derive(Debug)]
pub(super) struct Collecting<'a>(&'a Effort);

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.0.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_collected_and_segments_counted_once() {
        let effort = Effort::new();
        let work = |numbers: [u32; 2]| {
            let _collecting = effort.collecting();
            segments(numbers.into_iter(), 5);
            morsel();
            rows(10);
            values(10, 2);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| work([0, 1]));
            scope.spawn(|| work([1, 3]));
        });
        let touched = Touched {
            segments: 3,
            pruned: 2,
            bitmaps: 0,
            morsels: 2,
            rows: 20,
            bytes: 480,
        };
        assert_eq!(effort.touched(), touched);
    }
}
