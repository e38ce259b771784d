//! "Has any such event in the range", from bitmaps wherever they answer.
//!
//! A run that lies inside the range answers with its user bitmap (or that of a property's value);
//! one that sticks out answers with the bitmaps of its whole days, and only the users of the two
//! broken days at the ends have their times looked at. What no bitmap answers is filtered row by
//! row.

use pugmark_engine::bitmap::{BitmapView, Words};
use pugmark_engine::segment::{NameRun, Times};
use pugmark_engine::time::{MICROS_PER_DAY, day_of};
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Skipped, TimeRange, Truth};

use super::morsel::Morsel;
use super::scan::{RunScan, Scan};
use super::traits::TraitTable;

/// One part of the answer.
#[derive(Debug)]
enum Source<'a> {
    /// All of these users have such an event.
    Users(BitmapView<'a>),
    /// Those of these users do who have any row of the run in the range.
    Edge {
        run: NameRun<'a>,
        users: BitmapView<'a>,
    },
    /// The rows must be asked.
    Rows(Box<RunScan<'a>>),
}

/// The users who have an event that satisfies a condition in a range.
#[derive(Debug)]
pub(crate) struct Exists<'a> {
    sources: Vec<Source<'a>>,
    pub(crate) scan: Scan<'a>,
}

impl<'a> Exists<'a> {
    /// Finds the bitmaps and runs that answer.
    pub(crate) fn prepare(
        snapshot: &'a Snapshot,
        condition: &Condition,
        range: TimeRange,
    ) -> Result<Self, Corruption> {
        let scan = Scan::prepare(snapshot, &[condition], range, false);
        let mut exists = Self {
            sources: Vec::new(),
            scan,
        };
        for index in 0..exists.scan.runs.len() {
            exists.add_run(index)?;
        }
        // Cheap sources first: users found already need no look at their rows.
        exists.sources.sort_by_key(|source| match source {
            Source::Users(_) => 0,
            Source::Edge { .. } => 1,
            Source::Rows(_) => 2,
        });
        Ok(exists)
    }

    fn add_run(&mut self, index: usize) -> Result<(), Corruption> {
        let scan = &self.scan.runs[index];
        match &scan.conditions[0] {
            Condition::Constant(Truth::True) if scan.whole => {
                self.sources.push(Source::Users(scan.run.users()?));
            }
            Condition::Constant(Truth::True) => {
                let run = scan.run;
                self.add_days(run)?;
            }
            condition => match value_users(scan, condition)? {
                Some(users) => self.sources.push(Source::Users(users)),
                None => self.sources.push(Source::Rows(Box::new(scan.clone()))),
            },
        }
        Ok(())
    }

    fn add_days(&mut self, run: NameRun<'a>) -> Result<(), Corruption> {
        let range = self.scan.range;
        let (first, last) = (day_of(range.first), day_of(range.last));
        let starts_whole = range.first.rem_euclid(MICROS_PER_DAY) == 0;
        let ends_whole = range.last.rem_euclid(MICROS_PER_DAY) == MICROS_PER_DAY - 1;
        for (day, _) in run.days()? {
            if day < first || day > last {
                continue;
            }
            let Some(users) = run.day_users(day)? else {
                continue;
            };
            let broken = (day == first && !starts_whole) || (day == last && !ends_whole);
            self.sources.push(match broken {
                true => Source::Edge { run, users },
                false => Source::Users(users),
            });
        }
        Ok(())
    }

    /// About how many users will be found, at most; rows that must be asked count as very many.
    pub(crate) fn most_users(&self) -> u64 {
        let users = |source: &Source<'_>| match source {
            Source::Users(users) | Source::Edge { users, .. } => users.cardinality(),
            Source::Rows(_) => 1 << 40,
        };
        self.sources.iter().map(users).sum()
    }

    /// True where rows must be filtered.
    pub(crate) fn reads_rows(&self) -> bool {
        self.sources
            .iter()
            .any(|source| matches!(source, Source::Rows(_)))
    }

    /// Adds the users among `within`, which are of the morsel, to `found`. `starts` is working
    /// memory.
    pub(crate) fn collect(
        &self,
        morsel: &Morsel,
        within: &Words,
        traits: &TraitTable,
        starts: &mut [u32],
        skipped: &mut Skipped,
        found: &mut Words,
    ) -> Result<(), Corruption> {
        for source in &self.sources {
            match source {
                Source::Users(users) => users.or_into(morsel.key, found),
                Source::Edge { run, users } => {
                    let mut candidates = Words::new();
                    users.or_into(morsel.key, &mut candidates);
                    candidates.and(within);
                    candidates.and_not(found);
                    if !candidates.is_empty() {
                        rows_in_range(*run, morsel.key, self.scan.range, &candidates, found)?;
                    }
                }
                Source::Rows(scan) => {
                    let mut rest = within.clone();
                    rest.and_not(found);
                    self.collect_rows(scan, morsel, &rest, traits, starts, skipped, found)?;
                }
            }
        }
        found.and(within);
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call site, each names what it has"
    )]
    fn collect_rows(
        &self,
        scan: &RunScan<'a>,
        morsel: &Morsel,
        within: &Words,
        traits: &TraitTable,
        starts: &mut [u32],
        skipped: &mut Skipped,
        found: &mut Words,
    ) -> Result<(), Corruption> {
        let Some(rows) = scan.rows_of(morsel, starts)? else {
            return Ok(());
        };
        let verdicts = scan.evaluate(&rows, morsel, traits, skipped)?;
        let times = scan.run.times(rows.range.clone())?;
        for low in within.iter().map(u32::from) {
            let first = rows.range.start;
            let mut own = rows.starts[low as usize]..rows.starts[low as usize + 1];
            let satisfied = own.any(|row| {
                let index = (row - first) as usize;
                verdicts[0].at(index) && (scan.whole || self.scan.range.contains(times.get(index)))
            });
            if satisfied {
                found.insert(low as u16);
            }
        }
        Ok(())
    }
}

/// The bitmap of a property's value, where that is all that is asked and the run has one.
fn value_users<'a>(
    scan: &RunScan<'a>,
    condition: &Condition,
) -> Result<Option<BitmapView<'a>>, Corruption> {
    match condition.as_property_text() {
        Some((property, text)) if scan.whole && !scan.run.is_overflow() => {
            scan.run.value_users(property, text)
        }
        _ => Ok(None),
    }
}

/// Adds to `found` those of `candidates` that have a row of the run in the range.
pub(crate) fn rows_in_range(
    run: NameRun<'_>,
    key: u16,
    range: TimeRange,
    candidates: &Words,
    found: &mut Words,
) -> Result<(), Corruption> {
    let rows = run.container_rows(key)?;
    if rows.is_empty() || candidates.is_empty() {
        return Ok(());
    }
    let times = run.times(rows.clone())?;
    run.rows_of_users(key, candidates, |low, own| {
        let own = (own.start - rows.start) as usize..(own.end - rows.start) as usize;
        if has_any(&times.slice(own), range) {
            found.insert(low);
        }
    })
}

/// True where any of one user's times, ascending, lies in the range.
fn has_any(times: &Times<'_>, range: TimeRange) -> bool {
    let first = partition(times.len(), |index| times.get(index) < range.first);
    first < times.len() && times.get(first) <= range.last
}

/// How many of one user's times, ascending, lie in the range.
pub(crate) fn count_in_range(times: &Times<'_>, range: TimeRange) -> usize {
    let first = partition(times.len(), |index| times.get(index) < range.first);
    let last = partition(times.len(), |index| times.get(index) <= range.last);
    last.saturating_sub(first)
}

/// The first index below `length` that is not `before`.
pub(crate) fn partition(length: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, length);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) {
            low = middle + 1
        } else {
            high = middle
        }
    }
    low
}
