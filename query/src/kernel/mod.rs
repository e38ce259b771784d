//! The matchers: one user's ordered events in, levels and chains out.
//!
//! Pure functions over slices. They know steps as bits and held values as numbers, nothing of
//! names, columns or storage; who gathers the slices is not their business. All working memory
//! is in [`FunnelScratch`] and [`DidScratch`], so that a user costs no allocation once they have
//! grown. Time and memory are linear in the events of a user (with buckets, in the events from
//! each bucket's first start until its last window closes).
//!
//! * [`match_funnel`] answers every option of a funnel; [`match_every`] counts chains for
//!   [`Entries::Every`](crate::behaviour::Entries::Every).
//! * [`find_chain`] is the fast path for plain ordered funnels: it searches each step's times where
//!   they lie, back from the last step; [`search`] does it for many users at once where they are plain offsets.
//! * [`match_did`] decides a `did(…)`; [`SessionCutter`] cuts sessions.

mod any_order;
mod did;
mod funnel;
mod lanes;
mod lists;
mod optional;
mod ordered;
mod sessions;
#[cfg(test)]
mod tests;

pub use did::{
    CONDITION, DidEvents, DidPlan, DidScratch, Measure, Measures, NOT_THEN, THEN, match_did,
};
pub use funnel::{
    Counted, FunnelPlan, FunnelScratch, Outcome, UserEvents, match_every, match_funnel,
};
pub use lanes::{ExcludedLane, Lane, LaneBounds, LaneChain, LaneScratch, NO_VALUE, search};
pub use lists::{Bounds, Exclusion, Link, StepEvents, Stopped, find_chain};
pub use sessions::{Session, SessionCutter};

/// The caller asked to stop while a user was being matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Events between two looks at whether to stop: far below a millisecond.
const EVENTS_BETWEEN_CHECKS: usize = 1 << 14;

/// The values that events hold, as numbers: for each combination of held properties one.
///
/// Within a user a smaller number must stand for a smaller value.
#[derive(Clone, Copy, Debug, Default)]
pub enum Held<'a> {
    /// Nothing is held: every event goes with every other.
    #[default]
    Nothing,
    /// Event `i` holds `ids[ends[i-1]..ends[i]]`, none of them twice.
    Ids {
        /// The end of each event's numbers.
        ends: &'a [u32],
        /// The numbers.
        ids: &'a [u32],
    },
}

impl Held<'_> {
    /// The numbers of event `index`.
    fn of(&self, index: usize) -> &[u32] {
        match self {
            Self::Nothing => &[],
            Self::Ids { ends, ids } => {
                let start = if index == 0 { 0 } else { ends[index - 1] };
                &ids[start as usize..ends[index] as usize]
            }
        }
    }

    /// Fills `pairs` with (number, event) in order.
    fn group(&self, events: usize, pairs: &mut Vec<(u32, u32)>) {
        pairs.clear();
        for index in 0..events {
            pairs.extend(self.of(index).iter().map(|&id| (id, index as u32)));
        }
        pairs.sort_unstable();
    }
}

/// Some of a user's events, in order.
trait Selection {
    fn len(&self) -> usize;
    fn event(&self, position: usize) -> usize;
}

/// All events.
struct All(usize);

impl Selection for All {
    fn len(&self) -> usize {
        self.0
    }

    fn event(&self, position: usize) -> usize {
        position
    }
}

/// The events of a group of equal held values.
struct Group<'a>(&'a [(u32, u32)]);

impl Selection for Group<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn event(&self, position: usize) -> usize {
        self.0[position].1 as usize
    }
}

/// True where `later`, not before `earlier`, is within the window; no difference overflows.
fn in_window(earlier: i64, later: i64, within: Option<u64>) -> bool {
    within.is_none_or(|within| elapsed(earlier, later) <= within)
}

/// Microseconds from `earlier` to `later`, which is not before it.
fn elapsed(earlier: i64, later: i64) -> u64 {
    later.wrapping_sub(earlier) as u64
}
