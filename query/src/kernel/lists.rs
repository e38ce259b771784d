//! The fast path of plain ordered funnels: only steps and a window.
//!
//! A chain of `k` steps goes through some event of the rarest of them. For each of those the latest
//! predecessors give the latest start, the earliest successors the earliest end; if these are within
//! the window, there is a chain. Neighbours are found by searching on from where the one before was
//! found, in ever longer strides, so that a rare step skips over the events of a frequent one.

use std::cmp::Ordering;

/// A time that can be told from another: microseconds, or offsets in any unit.
pub trait Moment: Copy + Ord {
    /// Units from `earlier`, which is not after this.
    fn since(self, earlier: Self) -> u64;
}

impl Moment for i64 {
    fn since(self, earlier: Self) -> u64 {
        self.wrapping_sub(earlier) as u64
    }
}

impl Moment for u64 {
    fn since(self, earlier: Self) -> u64 {
        self - earlier
    }
}

impl Moment for u32 {
    fn since(self, earlier: Self) -> u64 {
        u64::from(self - earlier)
    }
}

/// One user's events of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepList<'a, T> {
    /// Their times, ascending.
    pub times: &'a [T],
    /// Where each comes in the user's total order, ascending with the times; empty where no two
    /// events that a chain could have have equal times, neither of different steps nor, where an
    /// event satisfies several steps, of one.
    pub order: &'a [u32],
}

impl<'a, T> StepList<'a, T> {
    /// Events whose times are never equal to another step's.
    pub fn new(times: &'a [T]) -> Self {
        Self { times, order: &[] }
    }
}

impl<T: Moment> StepList<'_, T> {
    fn compare(&self, index: usize, other: &StepList<'_, T>, at: usize) -> Ordering {
        let by_time = self.times[index].cmp(&other.times[at]);
        by_time.then_with(|| match (self.order.get(index), other.order.get(at)) {
            (Some(own), Some(other)) => own.cmp(other),
            _ => Ordering::Equal,
        })
    }
}

/// Searches one user's lists; keeps its cursors from user to user.
#[derive(Debug, Default)]
pub struct StepLists {
    cursors: Vec<usize>,
    chain: Vec<usize>,
}

impl StepLists {
    /// The level of a user, by the user's events of each step; `within` is in the times' unit.
    pub fn level<T: Moment>(&mut self, lists: &[StepList<'_, T>], within: Option<u64>) -> usize {
        self.search(lists, within).0
    }

    /// The level, and the index into its step's list of each event of the reported chain.
    pub fn chain<T: Moment>(
        &mut self,
        lists: &[StepList<'_, T>],
        within: Option<u64>,
    ) -> (usize, &[usize]) {
        let (level, end) = self.search(lists, within);
        self.chain.clear();
        self.chain.resize(level, end);
        // Going back from the earliest end by latest predecessors gives the latest start, and each
        // event as late as it can be.
        for step in (0..level.saturating_sub(1)).rev() {
            let (next, at) = (&lists[step + 1], self.chain[step + 1]);
            let list = &lists[step];
            let before = partition(list.times.len(), |index| {
                list.compare(index, next, at).is_lt()
            });
            self.chain[step] = before.saturating_sub(1);
        }
        (level, &self.chain)
    }

    /// The level and where in its list the earliest end is.
    fn search<T: Moment>(
        &mut self,
        lists: &[StepList<'_, T>],
        within: Option<u64>,
    ) -> (usize, usize) {
        let empty = lists.iter().position(|list| list.times.is_empty());
        for level in (2..=empty.unwrap_or(lists.len())).rev() {
            if let Some(end) = self.earliest_end(&lists[..level], within) {
                return (level, end);
            }
        }
        (usize::from(empty != Some(0) && !lists.is_empty()), 0)
    }

    /// Where the first chain through all of `lists` ends.
    fn earliest_end<T: Moment>(
        &mut self,
        lists: &[StepList<'_, T>],
        within: Option<u64>,
    ) -> Option<usize> {
        let lengths = lists.iter().map(|list| list.times.len()).enumerate();
        let (rarest, _) = lengths.min_by_key(|&(_, length)| length)?;
        self.cursors.clear();
        self.cursors.resize(lists.len(), 0);
        for pivot in 0..lists[rarest].times.len() {
            let Some(start) = self.latest_start(lists, rarest, pivot) else {
                continue;
            };
            let pivot_time = lists[rarest].times[pivot];
            let fits = |end: T| within.is_none_or(|within| end.since(start) <= within);
            if !fits(pivot_time) {
                continue;
            }
            // Where this event has no successors, no later one has.
            let end = self.earliest_successor(lists, rarest, pivot)?;
            if fits(lists[lists.len() - 1].times[end]) {
                return Some(end);
            }
        }
        None
    }

    /// The start of the latest chain from the first list to the pivot.
    fn latest_start<T: Moment>(
        &mut self,
        lists: &[StepList<'_, T>],
        rarest: usize,
        pivot: usize,
    ) -> Option<T> {
        let mut at = pivot;
        for step in (0..rarest).rev() {
            let (list, next) = (&lists[step], &lists[step + 1]);
            let cursor = &mut self.cursors[step];
            // Later pivots have later predecessors: the search goes on where the last one ended.
            *cursor = gallop(*cursor, list.times.len(), |index| {
                list.compare(index, next, at).is_lt()
            });
            at = cursor.checked_sub(1)?;
        }
        Some(lists[0].times[at])
    }

    /// Where the earliest chain from the pivot to the last list ends.
    fn earliest_successor<T: Moment>(
        &mut self,
        lists: &[StepList<'_, T>],
        rarest: usize,
        pivot: usize,
    ) -> Option<usize> {
        let mut at = pivot;
        for step in rarest + 1..lists.len() {
            let (list, previous) = (&lists[step], &lists[step - 1]);
            let cursor = &mut self.cursors[step];
            *cursor = gallop(*cursor, list.times.len(), |index| {
                list.compare(index, previous, at).is_le()
            });
            at = *cursor;
            if at == list.times.len() {
                return None;
            }
        }
        Some(at)
    }
}

/// The first index from `from` on that is not `before`; all indexes below `from` are.
fn gallop(from: usize, length: usize, before: impl Fn(usize) -> bool) -> usize {
    let mut low = from;
    let mut stride = 1;
    while low < length && before((low + stride - 1).min(length - 1)) {
        low = (low + stride).min(length);
        stride *= 2;
    }
    let high = (low + stride - 1).min(length);
    low + partition(high - low, |index| before(low + index))
}

/// The first index below `length` that is not `before`.
fn partition(length: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, length);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
