//! Distinct users by event name and calendar period: unions of the bitmaps of days.
//!
//! Rows are looked at where a condition asks for more than names, for hours, and for the users of
//! days that the range cuts.

use std::collections::BTreeMap;

use pugmark_engine::bitmap::{BitmapView, CONTAINER_BITS, Words};
use pugmark_engine::segment::{NameRun, UserStarts};
use pugmark_engine::time::MICROS_PER_DAY;
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Skipped, TimeRange, Truth};
use crate::zone::{CalendarUnit, Zone};

use super::Executor;
use super::control::{Control, QueryError};
use super::effort;
use super::exists::rows_in_range;
use super::memory::Reservation;
use super::morsel::{self, Morsel};
use super::scan::{RunScan, Scan, Verdicts};
use super::traits::TraitTable;

/// Most periods that a question may have: their users are bitmaps side by side.
const MOST_PERIODS: i64 = 4_096;

/// Whose users are counted, and by what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Uniques {
    pub(crate) condition: Condition,
    pub(crate) range: TimeRange,
    pub(crate) by_event: bool,
    /// Calendar periods of UTC.
    pub(crate) by_period: Option<CalendarUnit>,
}

/// Users by name, where names are told apart, and first instant of the period, where they are.
pub(crate) type UsersBy = BTreeMap<(String, i64), u64>;

impl Uniques {
    /// True where this way of counting can answer about the snapshot: names have runs of their own
    /// where they are told apart, and there are not too many periods.
    pub(crate) fn fits(&self, snapshot: &Snapshot) -> bool {
        let segments = snapshot.event_segments();
        if self.by_event && segments.iter().any(|segment| segment.overflow().is_some()) {
            return false;
        }
        let Some(unit) = self.by_period else {
            return true;
        };
        let first = segments.iter().map(|segment| segment.meta().min_time).min();
        let last = segments.iter().map(|segment| segment.meta().max_time).max();
        let (Some(first), Some(last)) = (first, last) else {
            return true;
        };
        let (first, last) = (first.max(self.range.first), last.min(self.range.last));
        let number = |micros| Zone::UTC.number(unit, micros);
        first > last || number(last).saturating_sub(number(first)) < MOST_PERIODS
    }

    fn number(&self, micros: i64) -> i64 {
        self.by_period
            .map_or(0, |unit| Zone::UTC.number(unit, micros))
    }
}

impl Executor {
    /// Counts; groups without users are left out.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(crate) fn uniques(&self, uniques: &Uniques) -> Result<(UsersBy, Skipped), QueryError> {
        let control = Control::start(self.options());
        let scan = Scan::prepare(self.snapshot(), &[&uniques.condition], uniques.range, false);
        let mut containers = BTreeMap::new();
        scan.count_rows(&mut containers, true)?;
        let morsels = morsel::cut(&containers, u64::MAX);
        let mut days_memory = control.reservation();
        let by_name = by_name(uniques, &scan, &control, &mut days_memory)?;
        let begin = || (BTreeMap::new(), Counting::default(), control.reservation());
        let states = morsel::run(
            &morsels,
            self.threads(),
            &control,
            begin,
            |(counted, counting, memory), morsel| {
                for (name, runs) in &by_name {
                    control.check()?;
                    for run in runs {
                        counting.run(uniques, run, morsel, &control)?;
                        memory.at_least(counting.sets.len() * (CONTAINER_BITS / 8))?;
                    }
                    for (number, users) in std::mem::take(&mut counting.sets) {
                        *counted.entry((*name, number)).or_insert(0) += u64::from(users.len());
                    }
                }
                Ok(())
            },
        )?;
        let mut whole = UsersBy::new();
        let mut skipped = Skipped::default();
        for (counted, counting, _) in states {
            skipped.merge(&counting.skipped);
            for ((name, number), users) in counted {
                let period = match uniques.by_period {
                    Some(unit) => Zone::UTC.numbered(unit, number).start,
                    None => 0,
                };
                if users > 0 {
                    *whole.entry((name.to_owned(), period)).or_default() += users;
                }
            }
        }
        Ok((whole, skipped))
    }
}

/// The runs whose users are counted together.
fn by_name<'s, 'a>(
    uniques: &Uniques,
    scan: &'s Scan<'a>,
    control: &Control,
    memory: &mut Reservation<'_>,
) -> Result<BTreeMap<&'a str, Vec<Run<'s, 'a>>>, QueryError> {
    let mut by_name: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for run in &scan.runs {
        let name = if uniques.by_event { run.run.name() } else { "" };
        control.check()?;
        let run = Run::new(uniques, run)?;
        if let Way::Days(days) = &run.way {
            memory.grow(days.len() * size_of::<DayUsers<'_>>())?;
        }
        by_name.entry(name).or_default().push(run);
    }
    Ok(by_name)
}

/// A run, and how its users are counted.
struct Run<'s, 'a> {
    scan: &'s RunScan<'a>,
    way: Way<'a>,
}

enum Way<'a> {
    /// All of them, in one period.
    Users(BitmapView<'a>),
    /// Those of each day.
    Days(Vec<DayUsers<'a>>),
    /// Those of rows.
    Rows,
}

/// The users of one day of a run.
struct DayUsers<'a> {
    users: BitmapView<'a>,
    /// The number of its period.
    number: i64,
    /// What of the day is asked, where that is not all of it.
    cut: Option<TimeRange>,
}

impl<'s, 'a> Run<'s, 'a> {
    fn new(uniques: &Uniques, scan: &'s RunScan<'a>) -> Result<Self, Corruption> {
        let named = scan.conditions[0] == Condition::Constant(Truth::True);
        let way = match uniques.by_period {
            None if named && scan.whole => Way::Users(scan.run.users()?),
            Some(CalendarUnit::Hour) => Way::Rows,
            _ if named => Way::Days(days(uniques, scan.run)?),
            _ => Way::Rows,
        };
        Ok(Self { scan, way })
    }
}

/// The days of a run that reach into the range.
fn days<'a>(uniques: &Uniques, run: NameRun<'a>) -> Result<Vec<DayUsers<'a>>, Corruption> {
    let mut days = Vec::new();
    for (day, _) in run.days()? {
        let start = day.saturating_mul(MICROS_PER_DAY);
        // The first day of all time begins before what a time can be.
        let next = i128::from(day + 1) * i128::from(MICROS_PER_DAY);
        let end = i64::try_from(next - 1).unwrap_or(i64::MAX);
        let inside = TimeRange {
            first: start.max(uniques.range.first),
            last: end.min(uniques.range.last),
        };
        if let Some(users) = run.day_users(day)?
            && !inside.is_empty()
        {
            let whole = inside.first == start && inside.last == end;
            days.push(DayUsers {
                users,
                number: uniques.number(start),
                cut: (!whole).then_some(inside),
            });
        }
    }
    Ok(days)
}

/// The users of one name in one morsel, by the number of the period.
#[derive(Debug, Default)]
struct Counting {
    sets: BTreeMap<i64, Words>,
    starts: UserStarts,
    skipped: Skipped,
}

impl Counting {
    fn run(
        &mut self,
        uniques: &Uniques,
        run: &Run<'_, '_>,
        morsel: &Morsel,
        control: &Control,
    ) -> Result<(), QueryError> {
        if run.scan.run.container_rows(morsel.key)?.is_empty() {
            return Ok(());
        }
        match &run.way {
            Way::Users(users) => self.add(0, *users, morsel.key),
            Way::Days(days) => {
                for day in days {
                    self.day(day, run.scan.run, morsel)?;
                }
            }
            Way::Rows => self.rows(uniques, run.scan, morsel, control)?,
        }
        Ok(())
    }

    fn add(&mut self, number: i64, users: BitmapView<'_>, key: u16) {
        if users.position(key).is_ok() {
            effort::bitmaps(1);
            users.or_into(key, self.sets.entry(number).or_default());
        }
    }

    /// Adds the users of a day.
    fn day(
        &mut self,
        day: &DayUsers<'_>,
        run: NameRun<'_>,
        morsel: &Morsel,
    ) -> Result<(), Corruption> {
        let Some(cut) = day.cut else {
            self.add(day.number, day.users, morsel.key);
            return Ok(());
        };
        if day.users.position(morsel.key).is_ok() {
            let found = self.sets.entry(day.number).or_default();
            let mut candidates = Vec::new();
            let everybody = Words::of_range(0..CONTAINER_BITS as u32);
            day.users.common(morsel.key, &everybody, &mut candidates);
            rows_in_range(run, morsel.key, cut, &candidates, found)?;
        }
        Ok(())
    }

    /// Looks at every row.
    fn rows(
        &mut self,
        uniques: &Uniques,
        run: &RunScan<'_>,
        morsel: &Morsel,
        control: &Control,
    ) -> Result<(), QueryError> {
        let rows = run.run.container_rows(morsel.key)?;
        effort::rows(rows.len());
        let (traits, skipped) = (TraitTable::default(), &mut self.skipped);
        let verdicts = run.evaluate(&rows, &Vec::new, &traits, control, skipped)?;
        if matches!(verdicts[0], Verdicts::None) {
            return Ok(());
        }
        let times = run.run.times(rows.clone())?;
        let counts = |place: usize| {
            verdicts[0].at(place) && (run.whole || uniques.range.contains(times.get(place)))
        };
        let all = 0..CONTAINER_BITS as u32;
        run.run.user_starts(morsel.key, all, &mut self.starts)?;
        for (user, low) in self.starts.users.iter().enumerate() {
            let own =
                self.starts.starts[user] - rows.start..self.starts.starts[user + 1] - rows.start;
            for place in own.map(|row| row as usize).filter(|&place| counts(place)) {
                let number = uniques.number(times.get(place));
                self.sets.entry(number).or_default().insert(low);
            }
        }
        Ok(())
    }
}
