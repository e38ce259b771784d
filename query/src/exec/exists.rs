//! "Has any such event in the range", from bitmaps wherever they answer.
//!
//! A run that lies inside the range answers with its user bitmap (or that of a property's value);
//! one that sticks out answers with the bitmaps of its whole days. Of the two broken days at the
//! ends, tables of hours tell the users of the whole hours, and only those of the two broken hours
//! have their times looked at. What no bitmap answers is filtered row by row.

use std::collections::BTreeSet;
use std::ops::Range;

use pugmark_engine::bitmap::{BitmapView, Words};
use pugmark_engine::segment::{DayHours, DaySpan, Hours, NameRun, Times};
use pugmark_engine::time::{MICROS_PER_DAY, day_of};
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Skipped, TimeRange, Truth};

use super::control::{Control, QueryError};
use super::effort;
use super::morsel::Morsel;
use super::scan::{RunScan, Scan};
use super::traits::TraitTable;

/// One part of the answer.
#[derive(Debug)]
enum Source<'a> {
    /// All of these users have such an event.
    Users(BitmapView<'a>),
    /// So do the users of these whole days.
    Days(DaySpan<'a>),
    /// Those of a broken day's users do who have any row of the run in the range.
    Edge(Edge<'a>),
    /// The rows must be asked.
    Rows(Box<RunScan<'a>>),
}

/// A day of a run that the range breaks.
#[derive(Debug)]
struct Edge<'a> {
    run: NameRun<'a>,
    day: i64,
    /// The day's.
    users: BitmapView<'a>,
    /// `None` where they may not be kept, or are not asked for.
    hours: Option<DayHours<'a>>,
    /// The hours inside the range, and those of which a part is.
    whole: Hours,
    broken: Hours,
}

/// What is known of users before any row is looked at: `surely` is part of the answer, which is
/// part of `possibly`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) surely: Words,
    pub(crate) possibly: Words,
}

impl Bounds {
    /// Where nothing is left open.
    pub(crate) fn certain(users: Words) -> Self {
        Self {
            surely: users.clone(),
            possibly: users,
        }
    }

    /// Those of this who are not in `other`.
    pub(crate) fn except(mut self, other: &Self) -> Self {
        self.surely.and_not(&other.possibly);
        self.possibly.and_not(&other.surely);
        self
    }
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
        let mut exists = Self::prepare_possible(snapshot, condition, range)?;
        for source in &mut exists.sources {
            if let Source::Edge(edge) = source {
                edge.hours = edge.run.day_hours(edge.day)?;
            }
        }
        Ok(exists)
    }

    /// The same for [`Exists::possible`] alone, which takes no room for tables of hours.
    pub(crate) fn prepare_possible(
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
            Source::Users(_) | Source::Days(_) => 0,
            Source::Edge(_) => 1,
            Source::Rows(_) => 2,
        });
        let answers = |source: &&Source<'_>| !matches!(source, Source::Rows(_));
        effort::bitmaps(exists.sources.iter().filter(answers).count());
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
            _ => match scan.value_users()? {
                Some(users) if scan.whole => self.sources.push(Source::Users(users)),
                _ => self.sources.push(Source::Rows(Box::new(scan.clone()))),
            },
        }
        Ok(())
    }

    fn add_days(&mut self, run: NameRun<'a>) -> Result<(), Corruption> {
        let range = self.scan.range;
        let (first, last) = (day_of(range.first), day_of(range.last));
        let starts_whole = range.first.rem_euclid(MICROS_PER_DAY) == 0;
        let ends_whole = range.last.rem_euclid(MICROS_PER_DAY) == MICROS_PER_DAY - 1;
        let (first_whole, last_whole) = (
            first + i64::from(!starts_whole),
            last - i64::from(!ends_whole),
        );
        if first_whole <= last_whole {
            let days = run.span_users(first_whole..=last_whole)?;
            self.sources.push(Source::Days(days));
        }
        for day in BTreeSet::from([first, last]) {
            if (first_whole..=last_whole).contains(&day) {
                continue;
            }
            if let Some(users) = run.day_users(day)? {
                let (whole, broken) = Hours::of_range(day, range.first, range.last);
                self.sources.push(Source::Edge(Edge {
                    run,
                    day,
                    users,
                    hours: None,
                    whole,
                    broken,
                }));
            }
        }
        Ok(())
    }

    /// About how many users will be found, at most; rows that must be asked count as very many.
    pub(crate) fn most_users(&self) -> u64 {
        let users = |source: &Source<'_>| match source {
            Source::Users(users) | Source::Edge(Edge { users, .. }) => users.cardinality(),
            Source::Days(days) => days.most_users(),
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

    /// True where bitmaps alone answer.
    pub(crate) fn is_certain(&self) -> bool {
        let certain = |source: &Source<'_>| matches!(source, Source::Users(_) | Source::Days(_));
        self.sources.iter().all(certain)
    }

    /// Adds the users of a container that surely have such an event. Where the answer is certain
    /// they are all.
    pub(crate) fn add_certain(&self, key: u16, found: &mut Words) -> Result<(), Corruption> {
        self.add_bounds(key, found, &mut Words::new())
    }

    /// Adds the users of a container that surely have such an event, and those whose rows must be
    /// looked at where nothing else tells.
    fn add_bounds(&self, key: u16, surely: &mut Words, open: &mut Words) -> Result<(), Corruption> {
        for source in &self.sources {
            match source {
                Source::Users(users) => users.or_into(key, surely),
                Source::Days(days) => days.or_into(key, surely)?,
                Source::Edge(edge) => edge.add_bounds(key, surely, open)?,
                Source::Rows(scan) => scan.possible_users()?.or_into(key, open),
            }
        }
        Ok(())
    }

    /// What is known of the morsel's users before their rows are looked at.
    pub(crate) fn bounds(&self, morsel: &Morsel) -> Result<Bounds, Corruption> {
        let mut bounds = Bounds::default();
        self.add_bounds(morsel.key, &mut bounds.surely, &mut bounds.possibly)?;
        bounds.possibly.or(&bounds.surely);
        Ok(bounds)
    }

    /// The users of a container that may have such an event: few more than have one, and cheaper to
    /// tell than [`Exists::bounds`].
    pub(crate) fn possible(&self, key: u16) -> Result<Words, Corruption> {
        let mut possible = Words::new();
        for source in &self.sources {
            match source {
                Source::Users(users) | Source::Edge(Edge { users, .. }) => {
                    users.or_into(key, &mut possible);
                }
                Source::Days(days) => days.or_into(key, &mut possible)?,
                Source::Rows(scan) => scan.possible_users()?.or_into(key, &mut possible),
            }
        }
        Ok(possible)
    }

    /// Those of `within`, which are users of the morsel, that have such an event. `bounds` are
    /// those of the morsel, `starts` is working memory.
    #[expect(
        clippy::too_many_arguments,
        reason = "few call sites, each names what it has"
    )]
    pub(crate) fn users(
        &self,
        morsel: &Morsel,
        bounds: &Bounds,
        within: &Words,
        traits: &TraitTable,
        control: &Control,
        starts: &mut [u32],
        skipped: &mut Skipped,
    ) -> Result<Words, QueryError> {
        let mut found = bounds.surely.clone();
        found.and(within);
        let mut open = bounds.possibly.clone();
        open.and(within);
        open.and_not(&found);
        if open.is_empty() {
            return Ok(found);
        }
        let mut candidates = Vec::new();
        for source in &self.sources {
            match source {
                Source::Users(_) | Source::Days(_) => continue,
                Source::Edge(edge) => {
                    candidates.clear();
                    edge.candidates(morsel.key, &open, &mut candidates)?;
                    rows_in_range(
                        edge.run,
                        morsel.key,
                        self.scan.range,
                        &candidates,
                        &mut found,
                    )?;
                }
                Source::Rows(scan) => {
                    self.collect_rows(
                        scan, morsel, &open, traits, control, starts, skipped, &mut found,
                    )?;
                }
            }
            open.and_not(&found);
        }
        Ok(found)
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
        control: &Control,
        starts: &mut [u32],
        skipped: &mut Skipped,
        found: &mut Words,
    ) -> Result<(), QueryError> {
        let Some(rows) = scan.rows_of(morsel, starts)? else {
            return Ok(());
        };
        let lows = || rows.lows(morsel);
        let verdicts = scan.evaluate(&rows.range, &lows, traits, control, skipped)?;
        let times = scan.run.times(rows.range.clone())?;
        within.for_each(|low| {
            let own = scan.inside(rows.of(low), &times, self.scan.range);
            found.insert_if(low, verdicts[0].count(own) > 0);
        });
        Ok(())
    }
}

impl Edge<'_> {
    fn add_bounds(&self, key: u16, surely: &mut Words, open: &mut Words) -> Result<(), Corruption> {
        if let Some(hours) = &self.hours
            && hours.or_into(key, (self.whole, surely), (self.broken, open))?
        {
            return Ok(());
        }
        self.users.or_into(key, open);
        Ok(())
    }

    /// Appends those of `open` who may have rows in the range on this day, ascending. A table may have
    /// been made since the bounds were told without one: so it is asked for the whole hours, too.
    fn candidates(&self, key: u16, open: &Words, lows: &mut Vec<u16>) -> Result<(), Corruption> {
        if let Some(hours) = &self.hours
            && hours.common(key, self.whole.or(self.broken), open, lows)?
        {
            return Ok(());
        }
        self.users.common(key, open, lows);
        Ok(())
    }
}

/// Adds to `found` those of `candidates`, ascending, that have a row of the run in the range.
pub(crate) fn rows_in_range(
    run: NameRun<'_>,
    key: u16,
    range: TimeRange,
    candidates: &[u16],
    found: &mut Words,
) -> Result<(), Corruption> {
    let rows = run.container_rows(key)?;
    if rows.is_empty() || candidates.is_empty() {
        return Ok(());
    }
    let times = run.times(rows.clone())?;
    let mut asked = Vec::new();
    run.rows_of_users(key, candidates, |low, own| {
        asked.push((low, own.start - rows.start..own.end - rows.start));
    })?;
    effort::rows(asked.len());
    let (cut_first, cut_last) = (run.min_time() < range.first, range.last < run.max_time());
    if cut_first && cut_last {
        let inside =
            |rows: &Range<u32>| has_any(&times, rows.start as usize..rows.end as usize, range);
        let users = asked.iter().filter(|(_, rows)| inside(rows));
        found.extend(users.map(|(low, _)| *low));
        return Ok(());
    }
    // Where the range cuts one end of the run, one time of each user decides. It is hardly ever in
    // the cache; nothing in this loop waits for it, so that many are under way at a time.
    for (low, rows) in asked {
        let row = if cut_first { rows.end - 1 } else { rows.start };
        found.insert_if(low, range.contains(times.get(row as usize)));
    }
    Ok(())
}

/// True where any time of one user's rows lies in the range.
fn has_any(times: &Times<'_>, rows: Range<usize>, range: TimeRange) -> bool {
    let first = times.first_from(rows.clone(), range.first);
    first < rows.end && times.get(first) <= range.last
}

#[cfg(test)]
mod tests {
    use pugmark_engine::{BatchBuilder, Store};

    use crate::{Executor, QueryOptions, did, hours};

    const HOUR: i64 = MICROS_PER_DAY / 24;

    use super::*;

    /// Who has which event when: every user one of each name, somewhere in two days.
    fn time_of(user: i64, name: i64) -> i64 {
        (user * 7 + name * 13 + user * name) % 48 * HOUR + user % 3_600 * 1_000_000
    }

    /// So many users that a small segment keeps the tables of few names: the others are given up
    /// while the question runs.
    #[test]
    fn tables_of_hours_that_are_given_up_leave_rows_to_be_asked() {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
        let directory = tempfile::tempdir().unwrap();
        let store = Store::builder(directory.path()).open().unwrap();
        let users = 0..2_000;
        let mut batch = BatchBuilder::new();
        for user in users.clone() {
            for (number, name) in (0..).zip(NAMES) {
                batch.event(&format!("u{user}"), time_of(user, number), name);
            }
        }
        store.append(batch.finish().unwrap()).unwrap();
        // Breaks both days, within an hour.
        let as_of = 40 * HOUR + 20 * 60 * 1_000_000;
        let options = QueryOptions {
            as_of: Some(as_of),
            ..QueryOptions::default()
        };
        let executor = Executor::new(store.snapshot().unwrap()).with_options(options);
        let recently = |name| did(name).last(hours(30));
        let inside = |user, name| {
            let time = time_of(user, name);
            as_of - 30 * HOUR < time && time <= as_of
        };
        let segment = recently("a").and(recently("b")).and(recently("c"));
        let segment = segment.and(recently("d")).or(recently("e"));
        let expected =
            users.filter(|&user| (0..4).all(|name| inside(user, name)) || inside(user, 4));
        let expected = expected.count() as u64;
        assert!(expected > 100);
        for _again in 0..3 {
            assert_eq!(executor.count(segment.clone()).unwrap(), expected);
        }
    }
}
