//! Which runs a question must read, and what is left to ask of their rows.
//!
//! Prepared once for a query: segments that lie outside the range are pruned, conditions are
//! simplified by each run's event name, and runs that cannot satisfy any are left out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use pugmark_engine::bitmap::{BitmapView, CONTAINER_BITS};
use pugmark_engine::segment::{NameRun, Segment, Times};
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Names, Skipped, TimeRange, Truth};

use super::columns::Columns;
use super::control::{Control, QueryError};
use super::effort;
use super::filter::{Rows, evaluate};
use super::gather::RowRef;
use super::morsel::Morsel;
use super::traits::TraitTable;

/// Entries of a dense table of row starts: one for each user of a container, and the end.
pub(crate) const DENSE_STARTS: usize = CONTAINER_BITS + 1;

/// A run and what is left of each condition for its rows.
#[derive(Clone, Debug)]
pub(crate) struct RunScan<'a> {
    /// Place of the segment in total order: later segments of a partition arrived later.
    pub(crate) segment: u32,
    pub(crate) run: NameRun<'a>,
    /// True where every row lies in the range.
    pub(crate) whole: bool,
    /// The conditions, simplified; constants where the name alone decides.
    pub(crate) conditions: Vec<Condition>,
}

/// The runs that conditions must read over a range.
#[derive(Clone, Debug)]
pub(crate) struct Scan<'a> {
    /// Those of the snapshot, whether they are read or not.
    pub(crate) segments: &'a [Arc<Segment>],
    /// Segment by segment, in their order.
    pub(crate) runs: Vec<RunScan<'a>>,
    pub(crate) range: TimeRange,
    /// Traits that the conditions read.
    pub(crate) traits: BTreeSet<String>,
    /// Segments left out because they lie outside the range or name nothing that is asked for.
    pub(crate) pruned: usize,
}

impl<'a> Scan<'a> {
    /// Finds the runs that can satisfy any of `conditions` in `range`; with `every_row`, all
    /// runs in the range.
    pub(crate) fn prepare(
        snapshot: &'a Snapshot,
        conditions: &[&Condition],
        range: TimeRange,
        every_row: bool,
    ) -> Self {
        let names = conditions.iter().map(|condition| condition.names());
        let names = names.fold(Names::These(BTreeSet::new()), Names::union);
        let mut scan = Self {
            segments: snapshot.event_segments(),
            runs: Vec::new(),
            range,
            traits: BTreeSet::new(),
            pruned: 0,
        };
        for condition in conditions {
            scan.traits.extend(condition.reads().traits);
        }
        for (number, segment) in snapshot.event_segments().iter().enumerate() {
            let meta = segment.meta();
            let before = scan.runs.len();
            if meta.min_time <= range.last && range.first <= meta.max_time {
                for run in segment.all_runs() {
                    let wanted = every_row || run.is_overflow() || names.contains(run.name());
                    if wanted && run.min_time() <= range.last && range.first <= run.max_time() {
                        scan.add(number as u32, run, conditions, every_row);
                    }
                }
            }
            scan.pruned += usize::from(scan.runs.len() == before);
        }
        let read = scan.runs.iter().map(|run| run.segment);
        effort::segments(read, snapshot.event_segments().len());
        scan
    }

    fn add(&mut self, segment: u32, run: NameRun<'a>, conditions: &[&Condition], every_row: bool) {
        let simplify = |condition: &&Condition| match run.is_overflow() {
            true => (*condition).clone(),
            false => condition.for_event(run.name()),
        };
        let conditions: Vec<Condition> = conditions.iter().map(simplify).collect();
        let hopeless = |condition: &Condition| {
            matches!(
                condition,
                Condition::Constant(Truth::False | Truth::Unknown)
            )
        };
        if every_row || !conditions.iter().all(hopeless) {
            let whole = self.range.first <= run.min_time() && run.max_time() <= self.range.last;
            self.runs.push(RunScan {
                segment,
                run,
                whole,
                conditions,
            });
        }
    }

    /// The containers that have rows; with how many, where `count` says that they will be read.
    pub(crate) fn count_rows(
        &self,
        rows: &mut BTreeMap<u16, u64>,
        count: bool,
    ) -> Result<(), Corruption> {
        for scan in &self.runs {
            for (key, _) in scan.run.users()?.keys() {
                let container = rows.entry(key).or_default();
                if count {
                    *container += scan.run.container_rows(key)?.len() as u64;
                }
            }
        }
        Ok(())
    }
}

impl RunScan<'_> {
    /// True where the name of the run decides every condition.
    pub(crate) fn is_decided(&self) -> bool {
        let constant = |condition: &Condition| matches!(condition, Condition::Constant(_));
        self.conditions.iter().all(constant)
    }

    /// Bytes of the verdicts over so many rows.
    pub(crate) fn verdict_bytes(&self, rows: usize) -> usize {
        match self.is_decided() {
            true => 0,
            false => self.conditions.len() * rows.div_ceil(8),
        }
    }
}

impl Scan<'_> {
    /// The name of an event of its runs.
    pub(crate) fn event_name(&self, at: RowRef) -> Result<Cow<'_, str>, Corruption> {
        let run = self.runs[at.run as usize].run;
        if run.is_overflow() {
            let names = run.overflow_names(at.row..at.row + 1)?;
            return Ok(Cow::Owned(names.get(0).to_owned()));
        }
        Ok(Cow::Borrowed(run.name()))
    }
}

/// The rows of one run that belong to a morsel's users.
pub(crate) struct MorselRows<'s> {
    /// Row starts by the lower half of the ordinal.
    pub(crate) starts: &'s [u32],
    /// First and last row.
    pub(crate) range: Range<u32>,
}

impl<'a> RunScan<'a> {
    /// Finds the rows of the morsel's users; `None` where there are none. `starts` is working
    /// memory of [`DENSE_STARTS`] entries.
    pub(crate) fn rows_of<'s>(
        &self,
        morsel: &Morsel,
        starts: &'s mut [u32],
    ) -> Result<Option<MorselRows<'s>>, Corruption> {
        if self.run.container_rows(morsel.key)?.is_empty() {
            return Ok(None);
        }
        self.run.row_starts(morsel.key, starts)?;
        let range = starts[morsel.lows.start as usize]..starts[morsel.lows.end as usize];
        effort::rows(range.len());
        Ok((!range.is_empty()).then_some(MorselRows { starts, range }))
    }

    /// Evaluates the conditions over neighbouring rows. `lows` tells the lower half of each row's user.
    /// Rows outside the range are not left out here.
    pub(crate) fn evaluate(
        &self,
        rows: &Range<u32>,
        lows: &dyn Fn() -> Vec<u16>,
        traits: &TraitTable,
        control: &Control,
        skipped: &mut Skipped,
    ) -> Result<Vec<Verdicts>, QueryError> {
        let columns = Columns::of(self.run);
        self.evaluate_from(&columns, rows, lows, traits, control, skipped)
    }

    /// As [`RunScan::evaluate`], from columns of the run that stay open.
    pub(crate) fn evaluate_from(
        &self,
        columns: &Columns<'a>,
        rows: &Range<u32>,
        lows: &dyn Fn() -> Vec<u16>,
        traits: &TraitTable,
        control: &Control,
        skipped: &mut Skipped,
    ) -> Result<Vec<Verdicts>, QueryError> {
        let constant = |condition: &Condition| match condition {
            Condition::Constant(Truth::True) => Some(Verdicts::All),
            Condition::Constant(_) => Some(Verdicts::None),
            _ => None,
        };
        if let Some(verdicts) = self.conditions.iter().map(constant).collect() {
            return Ok(verdicts);
        }
        let reads = self.conditions.iter().map(Condition::reads);
        let reads: Vec<_> = reads.collect();
        let reads_traits = reads.iter().any(|one| !one.traits.is_empty());
        let properties = reads.iter().map(|one| one.properties.len()).sum();
        effort::values(rows.len(), properties);
        let lows = if reads_traits { lows() } else { Vec::new() };
        let names = match self.run.is_overflow() {
            true => Some(self.run.overflow_names(rows.clone())?),
            false => None,
        };
        let seen = Rows {
            run: self.run,
            columns,
            range: rows.clone(),
            times: self.run.times(rows.clone())?,
            names,
            lows: &lows,
            traits,
            control,
        };
        let verdict = |condition| match constant(condition) {
            Some(verdicts) => Ok(verdicts),
            None => Ok(Verdicts::Some(evaluate(condition, &seen, skipped)?.holds)),
        };
        self.conditions.iter().map(verdict).collect()
    }
}

/// The rows that a condition holds for.
#[derive(Clone, Debug)]
pub(crate) enum Verdicts {
    All,
    None,
    /// Bit `i`: it holds for the `i`-th row.
    Some(Vec<u64>),
}

impl Verdicts {
    /// True where the condition holds for the `index`-th row.
    pub(crate) fn at(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Some(bits) => bits[index / 64] >> (index % 64) & 1 == 1,
        }
    }

    /// The first row from `index` on for which the condition holds; beyond all rows where there is none.
    #[inline]
    pub(crate) fn next_from(&self, index: usize) -> usize {
        let bits = match self {
            Self::All => return index,
            Self::None => return usize::MAX,
            Self::Some(bits) => bits,
        };
        let mut word = index / 64;
        let Some(&first) = bits.get(word) else {
            return usize::MAX;
        };
        let mut rest = first & u64::MAX << (index % 64);
        while rest == 0 {
            word += 1;
            match bits.get(word) {
                Some(&next) => rest = next,
                None => return usize::MAX,
            }
        }
        word * 64 + rest.trailing_zeros() as usize
    }

    /// For how many of neighbouring rows the condition holds.
    pub(crate) fn count(&self, rows: Range<usize>) -> usize {
        match self {
            Self::All => rows.len(),
            Self::None => 0,
            Self::Some(_) if rows.is_empty() => 0,
            Self::Some(bits) => {
                let (first, last) = (rows.start / 64, (rows.end - 1) / 64);
                let head = u64::MAX << (rows.start % 64);
                let tail = u64::MAX >> (63 - (rows.end - 1) % 64);
                let ones = |word: u64| word.count_ones() as usize;
                if first == last {
                    return ones(bits[first] & head & tail);
                }
                let middle: usize = bits[first + 1..last].iter().copied().map(ones).sum();
                ones(bits[first] & head) + middle + ones(bits[last] & tail)
            }
        }
    }
}

impl MorselRows<'_> {
    /// The lower half of each row's user.
    pub(crate) fn lows(&self, morsel: &Morsel) -> Vec<u16> {
        let mut lows = Vec::with_capacity(self.range.len());
        for low in morsel.lows.clone() {
            let count = self.starts[low as usize + 1] - self.starts[low as usize];
            lows.extend(std::iter::repeat_n(low as u16, count as usize));
        }
        lows
    }

    /// A user's rows, counted from the morsel's first.
    #[inline]
    pub(crate) fn of(&self, low: u16) -> Range<usize> {
        let own = &self.starts[usize::from(low)..][..2];
        (own[0] - self.range.start) as usize..(own[1] - self.range.start) as usize
    }
}

impl<'a> RunScan<'a> {
    /// The users who may have a row that satisfies the first condition, in the range or not.
    pub(crate) fn possible_users(&self) -> Result<BitmapView<'a>, Corruption> {
        match self.value_users()? {
            Some(users) => Ok(users),
            None => self.run.users(),
        }
    }

    /// The bitmap of a property's value, where that is all that the first condition asks and the run
    /// has one.
    pub(crate) fn value_users(&self) -> Result<Option<BitmapView<'a>>, Corruption> {
        match self.conditions[0].as_property_text() {
            Some((property, text)) if !self.run.is_overflow() => {
                self.run.value_users(property, text)
            }
            _ => Ok(None),
        }
    }

    /// Those of one user's rows that lie in a range; `times` are those of the morsel's rows.
    #[inline]
    pub(crate) fn inside(
        &self,
        own: Range<usize>,
        times: &Times<'_>,
        range: TimeRange,
    ) -> Range<usize> {
        if self.whole || own.is_empty() {
            return own;
        }
        let first = match self.run.min_time() < range.first {
            true => times.first_from(own.clone(), range.first),
            false => own.start,
        };
        let end = match range.last.checked_add(1) {
            Some(after) if first < own.end => times.first_from(first..own.end, after),
            _ => own.end,
        };
        first..end
    }
}
