//! The fast path of plain ordered funnels: only steps, a window, a range, a held value, and events
//! that are excluded up to the chain's end.
//!
//! A user's events of each step are searched where they lie. A chain of `k` steps ends in an
//! event of step `k`; going back from it by latest predecessors gives the latest start, and if
//! that is within the window there is a chain. The first end that has one is the earliest. Most
//! users need a look at a handful of events: those of the steps that they did not come to are
//! never read, and of a frequent step only those beside the events of a rarer one.

use std::cmp::Ordering;
use std::ops::Range;

use super::EVENTS_BETWEEN_CHECKS;

/// One user's events of the steps of a funnel, in *stretches*: those of a stretch come before those
/// of later stretches, whatever their steps.
pub trait StepEvents {
    /// The numbers of the step's events in a stretch, in total order. Steps and stretches count
    /// from 0.
    fn events(&mut self, step: usize, stretch: usize) -> Range<usize>;

    /// When an event of a stretch was.
    fn time(&self, step: usize, stretch: usize, event: usize) -> i64;

    /// The first of `events` that was at `time` or later; their end where none was.
    fn first_from(&self, step: usize, stretch: usize, events: Range<usize>, time: i64) -> usize;

    /// The value that an event holds, which all events of a chain share; `None` for an event that is
    /// in no chain. Where nothing is held, all hold the same.
    fn held(&self, _step: usize, _stretch: usize, _event: usize) -> Option<i64> {
        Some(0)
    }

    /// Which of two events of one stretch at one time comes first: true where that is `event` of
    /// `step`, false where it is `next` of another step.
    fn precedes(&self, step: usize, event: usize, next: (usize, &Link)) -> bool;
}

/// An event of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The stretch in which it lies.
    pub stretch: usize,
    /// Its number there.
    pub event: usize,
    /// When it was.
    pub time: i64,
}

/// What every chain must keep to; times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// No event is earlier.
    pub first: i64,
    /// No event is later.
    pub last: i64,
    /// Longest time from the first event to the last.
    pub within: Option<u64>,
    /// Which events are not in between.
    pub exclude: Option<Exclusion>,
}

/// Events that must not lie strictly between one event of a chain and its last: a chain that does not
/// go beyond that one may have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// The number under which they are found, as those of a step; none of a chain's.
    pub step: usize,
    /// The step of the chain's event, from 0.
    pub after: usize,
}

/// Why a search ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The caller said so.
    #[error("interrupted")]
    Interrupted,
    /// Going back passed too many events that hold another value: who sorts them first is faster.
    #[error("too many events hold another value")]
    TooFar,
}

/// Events that hold another value which a search passes at most: a millisecond's worth, and few where
/// tests are to see what comes then.
const MOST_PASSED: usize = if cfg!(test) { 4 } else { 1 << 18 };

/// Finds the chain of one user over the first `chain.len()` steps that ends in a stretch: of these
/// the one that ends earliest, of these the one whose events are latest. `chain` is overwritten with
/// its events, where there is one. Where no earlier stretch has the end of such a chain, and no
/// stretch that of a longer one, it is the one that is reported.
///
/// `interrupted` is asked every few thousand events.
///
/// # Errors
/// Where `interrupted` said so, or too many events hold other values.
///
/// # Panics
/// Where the chain shall have no event.
pub fn find_chain(
    user: &mut impl StepEvents,
    stretch: usize,
    bounds: &Bounds,
    chain: &mut [Link],
    interrupted: &dyn Fn() -> bool,
) -> Result<bool, Stopped> {
    let step = chain.len() - 1;
    let mut passed = 0;
    let events = user.events(step, stretch);
    if events.is_empty() {
        return Ok(false);
    }
    let mut begin = events.start;
    if user.time(step, stretch, begin) < bounds.first {
        begin = user.first_from(step, stretch, events.clone(), bounds.first);
    }
    for event in begin..events.end {
        let time = user.time(step, stretch, event);
        if time > bounds.last {
            return Ok(false);
        }
        if event % EVENTS_BETWEEN_CHECKS == EVENTS_BETWEEN_CHECKS - 1 && interrupted() {
            return Err(Stopped::Interrupted);
        }
        let Some(held) = user.held(step, stretch, event) else {
            continue;
        };
        chain[step] = Link {
            stretch,
            event,
            time,
        };
        if go_back(user, bounds, held, chain, &mut passed) {
            return Ok(true);
        }
        if passed > MOST_PASSED {
            return Err(Stopped::TooFar);
        }
    }
    Ok(false)
}

/// Fills in the latest predecessors of the chain's last event; false where there are none in the
/// window and the range.
fn go_back(
    user: &mut impl StepEvents,
    bounds: &Bounds,
    held: i64,
    chain: &mut [Link],
    passed: &mut usize,
) -> bool {
    let last = chain.len() - 1;
    let end = chain[last].time;
    let earliest = match bounds.within {
        Some(within) => bounds.first.max(end.saturating_sub_unsigned(within)),
        None => bounds.first,
    };
    for step in (0..last).rev() {
        let next = (step + 1, chain[step + 1]);
        match latest_before(user, step, next, (held, earliest), passed) {
            Some(link) if link.time >= earliest => chain[step] = link,
            _ => return false,
        }
        if let Some(exclude) = bounds.exclude.filter(|exclude| exclude.after == step) {
            let end = (last, chain[last]);
            let excluded = latest_before(user, exclude.step, end, (held, earliest), passed);
            let before = (step, &chain[step]);
            if excluded.is_some_and(|link| !is_before(user, exclude.step, &link, before)) {
                return false;
            }
        }
    }
    true
}

/// True where an event is before another one, in total order.
fn is_before(
    user: &impl StepEvents,
    step: usize,
    link: &Link,
    (other_step, other): (usize, &Link),
) -> bool {
    let place = |link: &Link| (link.stretch, link.time);
    match place(link).cmp(&place(other)) {
        Ordering::Equal => user.precedes(step, link.event, (other_step, other)),
        order => order.is_lt(),
    }
}

/// The latest event before `next` that holds the same; any other that is too early ends the search.
fn latest_before(
    user: &mut impl StepEvents,
    step: usize,
    (next_step, next): (usize, Link),
    (held, earliest): (i64, i64),
    passed: &mut usize,
) -> Option<Link> {
    for stretch in (0..=next.stretch).rev() {
        let events = user.events(step, stretch);
        if events.is_empty() {
            continue;
        }
        let mut before = events.end;
        if stretch == next.stretch {
            before = user.first_from(step, stretch, events.clone(), next.time);
            while before < events.end
                && user.time(step, stretch, before) == next.time
                && user.precedes(step, before, (next_step, &next))
            {
                before += 1;
            }
        }
        while before > events.start {
            before -= 1;
            let time = user.time(step, stretch, before);
            if time < earliest || user.held(step, stretch, before) == Some(held) {
                return Some(Link {
                    stretch,
                    event: before,
                    time,
                });
            }
            *passed += 1;
            if *passed > MOST_PASSED {
                return None;
            }
        }
    }
    None
}
