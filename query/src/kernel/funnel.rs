//! A funnel's options around its matchers: held values, buckets, entries.

use std::cmp::{Ordering, Reverse};

use super::any_order::AnyOrder;
use super::optional::Optional;
use super::ordered::Ordered;
use super::{All, EVENTS_BETWEEN_CHECKS, Group, Held, Interrupted, Selection, in_window};
use crate::behaviour::{Entries, Funnel, FunnelMode};
use crate::zone::{CalendarUnit, Zone};

/// What of a funnel the matchers need to know.
#[derive(Clone, Debug)]
pub struct FunnelPlan {
    shape: Shape,
    any_order: bool,
    first_entry: bool,
    bucket: Option<(CalendarUnit, Zone)>,
    holds: bool,
    /// For each row, the chains that it counts with `entries => 'every'`.
    targets: Vec<Target>,
}

/// One user's events in the funnel's range, in total order.
///
/// Events that satisfy no step and are not excluded may be left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct UserEvents<'a> {
    /// Microseconds since 1970-01-01 UTC; ascending.
    pub times: &'a [i64],
    /// Bit `s` is set where the event satisfies step `s`, counted from 0.
    pub steps: &'a [u64],
    /// Whether each event is excluded; empty where none is.
    pub excluded: &'a [bool],
    /// For strict funnels, each event's position among all of the user's events in the range;
    /// empty where nothing was left out.
    pub positions: &'a [u32],
    /// The values that events hold; [`Held::Nothing`] where the funnel holds none.
    pub held: Held<'a>,
}

/// How far a user came, in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The start of the bucket, where the funnel has buckets.
    pub bucket: Option<i64>,
    /// How many required steps the chain has; never 0.
    pub level: usize,
    /// The number of the held value, where the funnel holds one.
    pub held: Option<u32>,
    /// The time of the last event that a chain of this bucket may start with.
    pub last_start: i64,
    chain: &'a [u32],
}

/// A chain that counts for a row with `entries => 'every'`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted<'a> {
    /// The row's step, from 0.
    pub step: usize,
    /// The start of the bucket, where the funnel has buckets.
    pub bucket: Option<i64>,
    /// The number of the held value, where the funnel holds one.
    pub held: Option<u32>,
    chain: &'a [u32],
}

/// Working memory, to be used for one user after another.
#[derive(Debug, Default)]
pub struct FunnelScratch {
    ordered: Ordered,
    optional: Optional,
    any_order: AnyOrder,
    pairs: Vec<(u32, u32)>,
    candidate: Best,
    results: Vec<Found>,
    chain: Vec<u32>,
}

/// What a matcher needs to know of a funnel.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) steps: usize,
    pub(super) optional: u64,
    pub(super) within: Option<u64>,
    pub(super) strict: bool,
    /// The steps, from 0, after and before which an excluded event voids.
    pub(super) exclusion: Option<(usize, usize)>,
}

/// The chains of one row: the required steps up to it, and that step.
#[derive(Clone, Debug)]
struct Target {
    row: usize,
    /// The steps of the chains, as bits of the funnel's.
    allowed: u64,
    shape: Shape,
}

/// An event as a matcher sees it.
pub(super) struct Event {
    pub(super) index: u32,
    pub(super) time: i64,
    pub(super) steps: u64,
    pub(super) excluded: bool,
    pub(super) position: u32,
    pub(super) may_start: bool,
}

/// The best chain so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Best {
    pub(super) level: usize,
    pub(super) optional: usize,
    /// An event plus 1 for each step (in any order, each position), 0 where there is none.
    pub(super) chain: Vec<u32>,
    held: u32,
}

/// The best chain of a bucket.
#[derive(Debug, Default)]
struct Found {
    bucket: i64,
    best: Best,
    last_start: i64,
}

pub(super) trait Matcher {
    /// Forgets everything.
    fn reset(&mut self, shape: &Shape);
    /// True where no chain waits to be extended.
    fn is_idle(&self) -> bool;
    /// Takes the next event; improves `best` where a chain ends with it.
    fn push(&mut self, shape: &Shape, event: &Event, best: &mut Best);
}

/// Where chains may start.
#[derive(Clone, Copy)]
struct Starts {
    /// Before this time.
    before: Option<i64>,
    /// With this event only.
    only: Option<usize>,
}

impl Best {
    fn clear(&mut self) {
        self.level = 0;
        self.optional = 0;
        self.chain.clear();
    }

    /// The last event of the chain plus 1; 0 without a chain.
    pub(super) fn ends_at(&self) -> u32 {
        let last = self.chain.iter().rev().find(|&&event| event != 0);
        last.copied().unwrap_or(0)
    }

    /// Greater is reported; equal chains of different held values are equal.
    fn compare(&self, other: &Self) -> Ordering {
        let key = |best: &Self| {
            let start = best.chain.first().copied();
            (best.level, best.optional, Reverse(best.ends_at()), start)
        };
        key(self)
            .cmp(&key(other))
            .then_with(|| backwards(&self.chain, &other.chain))
    }
}

/// Compares chains from the last step back: later beats earlier, present beats absent.
pub(super) fn backwards(left: &[u32], right: &[u32]) -> Ordering {
    left.iter().rev().cmp(right.iter().rev())
}

impl Outcome<'_> {
    /// The event of `step`, from 0 (in any order: of that position), where the chain has it.
    pub fn event(&self, step: usize) -> Option<usize> {
        event_at(self.chain, step)
    }

    /// The steps that the chain has, from 0, and their events.
    pub fn events(&self) -> impl Iterator<Item = (usize, usize)> {
        events(self.chain)
    }
}

impl Counted<'_> {
    /// The event of `step`, from 0, where the chain has it.
    pub fn event(&self, step: usize) -> Option<usize> {
        event_at(self.chain, step)
    }

    /// The steps that the chain has, from 0, and their events.
    pub fn events(&self) -> impl Iterator<Item = (usize, usize)> {
        events(self.chain)
    }
}

fn event_at(chain: &[u32], step: usize) -> Option<usize> {
    chain.get(step)?.checked_sub(1).map(|event| event as usize)
}

fn events(chain: &[u32]) -> impl Iterator<Item = (usize, usize)> {
    let steps = chain.iter().enumerate();
    steps.filter_map(|(step, event)| Some((step, event.checked_sub(1)? as usize)))
}

impl FunnelPlan {
    /// What the matchers need of a validated funnel.
    pub fn new(funnel: &Funnel) -> Self {
        let steps = funnel.steps.len();
        let optional = funnel.steps.iter().enumerate();
        let optional = optional.fold(0, |bits, (step, spec)| {
            bits | u64::from(spec.optional) << step
        });
        let bounds = funnel.exclusion_bounds();
        let shape = Shape {
            steps,
            optional,
            within: funnel.within.map(|within| within.micros.max(0) as u64),
            strict: funnel.mode == FunnelMode::Strict,
            exclusion: bounds.map(|(after, before)| (after - 1, before - 1)),
        };
        let targets = match funnel.entries {
            Entries::Every => (0..steps).map(|row| Target::new(&shape, row)).collect(),
            Entries::Best | Entries::First => Vec::new(),
        };
        Self {
            shape,
            any_order: funnel.mode == FunnelMode::AnyOrder,
            first_entry: funnel.entries == Entries::First,
            bucket: funnel.bucket.map(|unit| (unit, funnel.zone.clone())),
            holds: !funnel.holding.is_empty(),
            targets,
        }
    }

    /// True where a chain may start with an event of these steps.
    fn can_start(&self, steps: u64) -> bool {
        if self.any_order {
            steps != 0
        } else {
            steps & 1 != 0
        }
    }

    fn is_full(&self, best: &Best) -> bool {
        let optional = self.shape.optional.count_ones() as usize;
        best.optional == optional && best.level + optional == self.shape.steps
    }
}

impl Target {
    fn new(shape: &Shape, row: usize) -> Self {
        let before = (1_u64 << row) - 1;
        let allowed = before & !shape.optional | 1 << row;
        let steps = allowed.count_ones() as usize;
        let place = |step: usize| (allowed & ((1 << step) - 1)).count_ones() as usize;
        let exclusion = shape.exclusion.and_then(|(after, before)| {
            // A bound beyond the chain is its end.
            (after < row).then(|| (place(after), place(before.min(row))))
        });
        Self {
            row,
            allowed,
            shape: Shape {
                steps,
                optional: 0,
                within: shape.within,
                strict: shape.strict,
                exclusion,
            },
        }
    }

    /// The bits of the allowed steps, side by side.
    fn compress(&self, steps: u64) -> u64 {
        let last = 63 - self.allowed.leading_zeros();
        if self.allowed == u64::MAX >> (63 - last) {
            return steps & self.allowed;
        }
        let (mut bits, mut place, mut left) = (0, 0, self.allowed);
        while left != 0 {
            bits |= (steps >> left.trailing_zeros() & 1) << place;
            place += 1;
            left &= left - 1;
        }
        bits
    }
}

impl UserEvents<'_> {
    fn event(&self, index: usize, steps: u64, may_start: bool) -> Event {
        Event {
            index: index as u32,
            time: self.times[index],
            steps,
            excluded: self.excluded.get(index).copied().unwrap_or(false),
            position: self.positions.get(index).copied().unwrap_or(index as u32),
            may_start,
        }
    }
}

/// Matches one user; calls `emit` for each bucket that a chain starts in, ascending, or once.
///
/// `interrupted` is asked every few thousand events.
///
/// # Errors
/// Where `interrupted` said so; nothing was emitted then.
pub fn match_funnel(
    plan: &FunnelPlan,
    events: &UserEvents<'_>,
    scratch: &mut FunnelScratch,
    interrupted: &dyn Fn() -> bool,
    mut emit: impl FnMut(Outcome<'_>),
) -> Result<(), Interrupted> {
    let mut results = Results {
        found: std::mem::take(&mut scratch.results),
        used: 0,
    };
    let matched = if plan.any_order {
        match_with(
            plan,
            events,
            scratch,
            |s| &mut s.any_order,
            &mut results,
            interrupted,
        )
    } else if plan.shape.optional != 0 {
        match_with(
            plan,
            events,
            scratch,
            |s| &mut s.optional,
            &mut results,
            interrupted,
        )
    } else {
        match_with(
            plan,
            events,
            scratch,
            |s| &mut s.ordered,
            &mut results,
            interrupted,
        )
    };
    if matched.is_ok() {
        for found in &results.found[..results.used] {
            emit(Outcome {
                bucket: plan.bucket.is_some().then_some(found.bucket),
                level: found.best.level,
                held: plan.holds.then_some(found.best.held),
                last_start: found.last_start,
                chain: &found.best.chain,
            });
        }
    }
    scratch.results = results.found;
    matched
}

/// Best chains by bucket, ascending; memory of earlier users is used again.
struct Results {
    found: Vec<Found>,
    used: usize,
}

impl Results {
    fn bucket(&mut self, bucket: i64) -> &mut Found {
        let used = &self.found[..self.used];
        let at = match used.binary_search_by_key(&bucket, |found| found.bucket) {
            Ok(at) => at,
            Err(at) => {
                if self.found.len() == self.used {
                    self.found.push(Found::default());
                }
                self.used += 1;
                self.found[at..self.used].rotate_right(1);
                let found = &mut self.found[at];
                found.bucket = bucket;
                found.best.clear();
                found.last_start = i64::MIN;
                at
            }
        };
        &mut self.found[at]
    }
}

fn match_with<M: Matcher>(
    plan: &FunnelPlan,
    events: &UserEvents<'_>,
    scratch: &mut FunnelScratch,
    matcher: fn(&mut FunnelScratch) -> &mut M,
    results: &mut Results,
    interrupted: &dyn Fn() -> bool,
) -> Result<(), Interrupted> {
    let only = if plan.first_entry {
        let count = events.times.len();
        let mut starts = (0..count).filter(|&index| plan.can_start(events.steps[index]));
        match starts.find(|&index| !plan.holds || !events.held.of(index).is_empty()) {
            None => return Ok(()),
            start => start,
        }
    } else {
        None
    };
    let mut candidate = std::mem::take(&mut scratch.candidate);
    let mut pairs = std::mem::take(&mut scratch.pairs);
    let mut run = Run {
        plan,
        events,
        only,
        candidate: &mut candidate,
        results,
        interrupted,
    };
    let matched = if plan.holds {
        events.held.group(events.times.len(), &mut pairs);
        let mut groups = pairs.chunk_by(|left, right| left.0 == right.0);
        groups.try_for_each(|group| {
            run.candidate.held = group[0].0;
            run.group(matcher(scratch), &Group(group))
        })
    } else {
        run.group(matcher(scratch), &All(events.times.len()))
    };
    scratch.candidate = candidate;
    scratch.pairs = pairs;
    matched
}

/// One user's matching.
struct Run<'a> {
    plan: &'a FunnelPlan,
    events: &'a UserEvents<'a>,
    only: Option<usize>,
    candidate: &'a mut Best,
    results: &'a mut Results,
    interrupted: &'a dyn Fn() -> bool,
}

impl Run<'_> {
    /// Matches events that hold one value, in each bucket.
    fn group<M: Matcher, S: Selection>(
        &mut self,
        matcher: &mut M,
        selection: &S,
    ) -> Result<(), Interrupted> {
        let mut from = 0;
        while let Some(first) = self.next_start(selection, from) {
            let time = self.events.times[selection.event(first)];
            let bucket = self.plan.bucket.as_ref();
            let bucket = bucket.map(|(unit, zone)| zone.bucket(*unit, time));
            let starts = Starts {
                before: bucket.map(|bucket| bucket.end),
                only: self.only,
            };
            self.pass(matcher, selection, first, starts)?;
            let end = bucket.map_or(selection.len(), |bucket| {
                self.position_of(selection, first, bucket.end)
            });
            let last_start = self.last_start(selection, first, end);
            let found = self.results.bucket(bucket.map_or(0, |bucket| bucket.start));
            found.last_start = found.last_start.max(last_start);
            // Values come in ascending order, so that of equal chains the smallest value stays.
            if self.candidate.compare(&found.best) == Ordering::Greater {
                std::mem::swap(self.candidate, &mut found.best);
                self.candidate.held = found.best.held;
            }
            from = end;
            if self.only.is_some() {
                break;
            }
        }
        Ok(())
    }

    fn may_start(&self, index: usize) -> bool {
        self.plan.can_start(self.events.steps[index]) && self.only.is_none_or(|only| only == index)
    }

    fn next_start<S: Selection>(&self, selection: &S, from: usize) -> Option<usize> {
        (from..selection.len()).find(|&position| self.may_start(selection.event(position)))
    }

    /// The time of the last possible start between two positions.
    fn last_start<S: Selection>(&self, selection: &S, from: usize, to: usize) -> i64 {
        let mut events = (from..to).rev().map(|position| selection.event(position));
        let last = events.find(|&index| self.may_start(index));
        last.map_or(i64::MIN, |index| self.events.times[index])
    }

    /// The position of the first event at `time` or later.
    fn position_of<S: Selection>(&self, selection: &S, from: usize, time: i64) -> usize {
        let (mut low, mut high) = (from, selection.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.events.times[selection.event(middle)] < time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The best chain that starts where `starts` says, into the candidate.
    fn pass<M: Matcher, S: Selection>(
        &mut self,
        matcher: &mut M,
        selection: &S,
        from: usize,
        starts: Starts,
    ) -> Result<(), Interrupted> {
        let shape = &self.plan.shape;
        matcher.reset(shape);
        self.candidate.clear();
        for position in from..selection.len() {
            if position % EVENTS_BETWEEN_CHECKS == 0 && (self.interrupted)() {
                return Err(Interrupted);
            }
            let index = selection.event(position);
            let Some(may_start) = starts.allow(shape, self.events.times[index], index) else {
                break;
            };
            if !may_start && matcher.is_idle() && starts.are_over(index, self.events.times[index]) {
                break;
            }
            let event = self
                .events
                .event(index, self.events.steps[index], may_start);
            matcher.push(shape, &event, self.candidate);
            // Nothing beats the first whole chain: it ends earliest.
            if self.plan.is_full(self.candidate) {
                break;
            }
        }
        Ok(())
    }
}

impl Starts {
    /// Whether an event may start a chain; `None` where no chain can reach it any more.
    fn allow(&self, shape: &Shape, time: i64, index: usize) -> Option<bool> {
        match self.before {
            Some(end) if time >= end => in_window(end - 1, time, shape.within).then_some(false),
            _ => Some(self.only.is_none_or(|only| only == index)),
        }
    }

    /// True where no later event starts a chain.
    fn are_over(&self, index: usize, time: i64) -> bool {
        self.before.is_some_and(|end| time >= end) || self.only.is_some_and(|only| index > only)
    }
}

/// Counts one user's chains for each row; calls `emit` for each, row by row.
///
/// # Errors
/// Where `interrupted` said so; some may have been emitted then.
pub fn match_every(
    plan: &FunnelPlan,
    events: &UserEvents<'_>,
    scratch: &mut FunnelScratch,
    interrupted: &dyn Fn() -> bool,
    mut emit: impl FnMut(Counted<'_>),
) -> Result<(), Interrupted> {
    let FunnelScratch {
        ordered,
        pairs,
        chain,
        ..
    } = scratch;
    if plan.holds {
        events.held.group(events.times.len(), pairs);
    }
    for target in &plan.targets {
        let mut every = Every {
            plan,
            target,
            events,
            matcher: ordered,
            chain,
            interrupted,
            emit: &mut emit,
        };
        if plan.holds {
            for group in pairs.chunk_by(|left, right| left.0 == right.0) {
                every.group(&Group(group), Some(group[0].0))?;
            }
        } else {
            every.group(&All(events.times.len()), None)?;
        }
    }
    Ok(())
}

/// One user's counting of one row.
struct Every<'a, F> {
    plan: &'a FunnelPlan,
    target: &'a Target,
    events: &'a UserEvents<'a>,
    matcher: &'a mut Ordered,
    chain: &'a mut Vec<u32>,
    interrupted: &'a dyn Fn() -> bool,
    emit: &'a mut F,
}

impl<F: FnMut(Counted<'_>)> Every<'_, F> {
    fn group<S: Selection>(&mut self, selection: &S, held: Option<u32>) -> Result<(), Interrupted> {
        let mut from = 0;
        loop {
            let is_start =
                |&position: &usize| self.events.steps[selection.event(position)] & 1 != 0;
            let Some(first) = (from..selection.len()).find(is_start) else {
                return Ok(());
            };
            let time = self.events.times[selection.event(first)];
            let bucket = self.plan.bucket.as_ref();
            let bucket = bucket.map(|(unit, zone)| zone.bucket(*unit, time));
            let starts = Starts {
                before: bucket.map(|bucket| bucket.end),
                only: None,
            };
            self.pass(
                selection,
                first,
                starts,
                bucket.map(|bucket| bucket.start),
                held,
            )?;
            let Some(bucket) = bucket else {
                return Ok(());
            };
            from = (first..selection.len())
                .find(|&position| self.events.times[selection.event(position)] >= bucket.end)
                .unwrap_or(selection.len());
        }
    }

    /// Takes the chain that ends first, and begins again after it.
    fn pass<S: Selection>(
        &mut self,
        selection: &S,
        from: usize,
        starts: Starts,
        bucket: Option<i64>,
        held: Option<u32>,
    ) -> Result<(), Interrupted> {
        let shape = &self.target.shape;
        let last = shape.steps - 1;
        self.matcher.reset(shape);
        for position in from..selection.len() {
            if position % EVENTS_BETWEEN_CHECKS == 0 && (self.interrupted)() {
                return Err(Interrupted);
            }
            let index = selection.event(position);
            let time = self.events.times[index];
            let Some(may_start) = starts.allow(shape, time, index) else {
                break;
            };
            if !may_start && self.matcher.is_idle() && starts.are_over(index, time) {
                break;
            }
            let steps = self.target.compress(self.events.steps[index]);
            let event = self.events.event(index, steps, may_start);
            let reached = self.matcher.advance(shape, &event);
            if reached & (1 << last) != 0 {
                self.spread(shape, last);
                (self.emit)(Counted {
                    step: self.target.row,
                    bucket,
                    held,
                    chain: self.chain,
                });
                self.matcher.reset(shape);
            }
        }
        Ok(())
    }

    /// Puts the events of the chain at their steps in the whole funnel.
    fn spread(&mut self, shape: &Shape, last: usize) {
        self.chain.clear();
        self.chain.resize(self.plan.shape.steps, 0);
        let mut left = self.target.allowed;
        for &event in self.matcher.chain(shape, last) {
            self.chain[left.trailing_zeros() as usize] = event;
            left &= left - 1;
        }
    }
}
