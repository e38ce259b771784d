//! Whether one user did: followers, counts, days, aggregates, firsts and lasts.

use std::cmp::Ordering;

use super::{EVENTS_BETWEEN_CHECKS, Held, Interrupted, elapsed, in_window};
use crate::behaviour::{
    Aggregate, AggregateTest, Did, Literal, TimeRange, compare, compare_exactly,
};
use crate::zone::Zone;

/// Flag of an event that satisfies the condition.
pub const CONDITION: u8 = 1;
/// Flag of an event that satisfies `then`.
pub const THEN: u8 = 2;
/// Flag of an event that satisfies `not_then`.
pub const NOT_THEN: u8 = 4;

/// What of a `did(…)` the kernel needs to know.
#[derive(Clone, Debug)]
pub struct DidPlan {
    range: TimeRange,
    as_of: i64,
    least: u64,
    most: u64,
    on_days: Option<u64>,
    zone: Zone,
    aggregates: Vec<AggregateTest>,
    then: bool,
    not_then: bool,
    within: Option<u64>,
    holds: bool,
    first_time: bool,
    idle_for: Option<u64>,
}

/// A value of an aggregated property.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// A whole number; a timestamp, where the test's literal is one; for a count of distinct
    /// values any number that stands for the value.
    I64(i64),
    /// A floating-point number.
    F64(f64),
}

/// The values of one aggregated property: event `i` has `values[ends[i-1]..ends[i]]`.
///
/// Only values of the kind that the test's literal compares with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measures<'a> {
    /// The end of each event's values.
    pub ends: &'a [u32],
    /// The values.
    pub values: &'a [Measure],
}

/// One user's events up to `as_of` in total order; those without a flag may be left out. Where the
/// plan looks at nothing outside the range, events outside it may be left out too.
#[derive(Clone, Copy, Debug, Default)]
pub struct DidEvents<'a> {
    /// Microseconds since 1970-01-01 UTC; ascending.
    pub times: &'a [i64],
    /// What each event satisfies: [`CONDITION`], [`THEN`], [`NOT_THEN`].
    pub flags: &'a [u8],
    /// The values that followers must share.
    pub held: Held<'a>,
    /// The values of each aggregate, in the order of the tests.
    pub measures: &'a [Measures<'a>],
}

/// Working memory, to be used for one user after another.
#[derive(Debug, Default)]
pub struct DidScratch {
    pairs: Vec<(u32, u32)>,
    followed: Vec<u8>,
    distinct: Vec<i64>,
}

impl DidPlan {
    /// What the kernel needs of a validated `did(…)` at `as_of`.
    pub fn new(did: &Did, as_of: i64) -> Self {
        let (least, most) = did.count_bounds();
        let span = |span: crate::behaviour::Span| span.micros.max(0) as u64;
        Self {
            range: did.range.resolve(as_of),
            as_of,
            least,
            most,
            on_days: did.on_days,
            zone: did.zone.clone(),
            aggregates: did.aggregates.clone(),
            then: did.then.is_some(),
            not_then: did.not_then.is_some(),
            within: did.then_within.map(span),
            holds: !did.holding.is_empty(),
            first_time: did.first_time,
            idle_for: did.idle_for.map(span),
        }
    }

    /// True where events outside the range can decide.
    pub fn looks_outside(&self) -> bool {
        self.first_time || self.idle_for.is_some() || self.then || self.not_then
    }

    /// The range that is asked about.
    pub fn range(&self) -> TimeRange {
        self.range
    }
}

/// Whether one user did.
///
/// # Errors
/// Where `interrupted`, asked every few thousand events, said so.
pub fn match_did(
    plan: &DidPlan,
    events: &DidEvents<'_>,
    scratch: &mut DidScratch,
    interrupted: &dyn Fn() -> bool,
) -> Result<bool, Interrupted> {
    if plan.then || plan.not_then {
        mark_followed(plan, events, scratch, interrupted)?;
    }
    let DidScratch {
        followed, distinct, ..
    } = scratch;
    let (mut count, mut days) = (0_u64, 0_u64);
    let (mut first, mut last, mut recent) = (None, None, (None, None));
    for (index, &time) in events.times.iter().enumerate() {
        if index % EVENTS_BETWEEN_CHECKS == 0 && interrupted() {
            return Err(Interrupted);
        }
        if !is_such(plan, events, followed, index) {
            continue;
        }
        first = first.or(Some(time));
        last = Some(time);
        if !plan.range.contains(time) {
            continue;
        }
        count += 1;
        if plan.on_days.is_some() {
            // A clock set back across midnight returns to the day before, hence two of them.
            let day = Some(plan.zone.day(time));
            if day != recent.0 && day != recent.1 {
                recent = (day, recent.0);
                days += 1;
            }
        }
    }
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(false);
    };
    let counts = count >= plan.least
        && count <= plan.most
        && plan.on_days.is_none_or(|least| days >= least)
        && (!plan.first_time || plan.range.contains(first))
        && plan
            .idle_for
            .is_none_or(|span| elapsed(last, plan.as_of) >= span);
    if !counts {
        return Ok(false);
    }
    let mut tests = plan.aggregates.iter().zip(events.measures);
    Ok(tests.all(|(test, measures)| {
        let such = (0..events.times.len()).filter(|&index| {
            plan.range.contains(events.times[index]) && is_such(plan, events, followed, index)
        });
        let values = such.flat_map(|index| measures.of(index).iter().copied());
        aggregate(test, values, distinct).is_some_and(|ordering| test.comparison.accepts(ordering))
    }))
}

impl<'a> Measures<'a> {
    fn of(&self, index: usize) -> &'a [Measure] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.values[start as usize..self.ends[index] as usize]
    }
}

/// True where an event satisfies the condition and was (not) followed as asked.
fn is_such(plan: &DidPlan, events: &DidEvents<'_>, followed: &[u8], index: usize) -> bool {
    if events.flags[index] & CONDITION == 0 {
        return false;
    }
    if plan.then && followed[index] & THEN == 0 {
        return false;
    }
    // A wait that is not over says nothing yet.
    let waited = |within| elapsed(events.times[index], plan.as_of) >= within;
    !plan.not_then || followed[index] & NOT_THEN == 0 && plan.within.is_none_or(waited)
}

/// For each event, which of `then` and `not_then` a later event satisfies in time.
fn mark_followed(
    plan: &DidPlan,
    events: &DidEvents<'_>,
    scratch: &mut DidScratch,
    interrupted: &dyn Fn() -> bool,
) -> Result<(), Interrupted> {
    let count = events.times.len();
    scratch.followed.clear();
    scratch.followed.resize(count, 0);
    if !plan.holds {
        let all = (0..count).rev();
        return mark_group(plan, events, &mut scratch.followed, all, interrupted);
    }
    events.held.group(count, &mut scratch.pairs);
    for group in scratch.pairs.chunk_by(|left, right| left.0 == right.0) {
        let indexes = group.iter().rev().map(|&(_, index)| index as usize);
        mark_group(plan, events, &mut scratch.followed, indexes, interrupted)?;
    }
    Ok(())
}

/// Goes back through events that may follow each other: the nearest later one decides.
fn mark_group(
    plan: &DidPlan,
    events: &DidEvents<'_>,
    followed: &mut [u8],
    indexes: impl Iterator<Item = usize>,
    interrupted: &dyn Fn() -> bool,
) -> Result<(), Interrupted> {
    let (mut then, mut not_then) = (None, None);
    for index in indexes {
        if index % EVENTS_BETWEEN_CHECKS == 0 && interrupted() {
            return Err(Interrupted);
        }
        let time = events.times[index];
        let soon =
            |later: Option<i64>| later.is_some_and(|later| in_window(time, later, plan.within));
        if soon(then) {
            followed[index] |= THEN;
        }
        if soon(not_then) {
            followed[index] |= NOT_THEN;
        }
        if events.flags[index] & THEN != 0 {
            then = Some(time);
        }
        if events.flags[index] & NOT_THEN != 0 {
            not_then = Some(time);
        }
    }
    Ok(())
}

/// How the aggregate stands to the test's literal; `None` where there is nothing to compare.
fn aggregate(
    test: &AggregateTest,
    values: impl Iterator<Item = Measure>,
    distinct: &mut Vec<i64>,
) -> Option<Ordering> {
    match test.aggregate {
        Aggregate::Sum | Aggregate::Avg => sum(test, values),
        Aggregate::Min | Aggregate::Max => {
            let wanted = match test.aggregate {
                Aggregate::Min => Ordering::Less,
                _ => Ordering::Greater,
            };
            let extreme = values
                .filter(|value| !value.is_nan())
                .reduce(|best, value| {
                    if value.compare(best) == Some(wanted) {
                        value
                    } else {
                        best
                    }
                });
            extreme?.compare(Measure::from_literal(&test.literal)?)
        }
        Aggregate::CountDistinct => {
            distinct.clear();
            distinct.extend(values.filter_map(|value| match value {
                Measure::I64(id) => Some(id),
                Measure::F64(_) => None,
            }));
            distinct.sort_unstable();
            distinct.dedup();
            Measure::I64(distinct.len() as i64).compare(Measure::from_literal(&test.literal)?)
        }
    }
}

fn sum(test: &AggregateTest, values: impl Iterator<Item = Measure>) -> Option<Ordering> {
    let (mut whole, mut float, mut floats, mut count) = (0_i128, 0.0, false, 0_u64);
    for value in values.filter(|value| !value.is_nan()) {
        match value {
            Measure::I64(value) => whole += i128::from(value),
            Measure::F64(value) => {
                float += value;
                floats = true;
            }
        }
        count += 1;
    }
    if count == 0 {
        return None;
    }
    if test.aggregate == Aggregate::Avg {
        return Measure::F64((whole as f64 + float) / count as f64)
            .compare(Measure::from_literal(&test.literal)?);
    }
    match Measure::from_literal(&test.literal)? {
        literal if floats => Measure::F64(whole as f64 + float).compare(literal),
        Measure::I64(literal) => Some(whole.cmp(&i128::from(literal))),
        Measure::F64(literal) => compare_exactly(whole, literal),
    }
}

impl Measure {
    fn from_literal(literal: &Literal) -> Option<Self> {
        match literal {
            Literal::I64(value) | Literal::Timestamp(value) => Some(Self::I64(*value)),
            Literal::F64(value) => Some(Self::F64(*value)),
            Literal::Null | Literal::Bool(_) | Literal::Text(_) => None,
        }
    }

    fn is_nan(self) -> bool {
        matches!(self, Self::F64(value) if value.is_nan())
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        let scalar = |measure| match measure {
            Self::I64(value) => pugmark_engine::Scalar::I64(value),
            Self::F64(value) => pugmark_engine::Scalar::F64(value),
        };
        match other {
            Self::I64(other) => compare(scalar(self), &Literal::I64(other)),
            Self::F64(other) => compare(scalar(self), &Literal::F64(other)),
        }
    }
}
