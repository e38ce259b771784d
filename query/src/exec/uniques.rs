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

/// Most periods that a question may have: where rows tell, their users are bitmaps side by side.
const MOST_PERIODS: i64 = 4_096;

/// What a count takes with its group, twice: lists in trees are half empty.
const COUNT_BYTES: usize = 2 * size_of::<((usize, i64), u64)>();

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
        let named = by_name(uniques, &scan, &control, &mut days_memory)?;
        let begin = || (BTreeMap::new(), Counting::default(), control.reservation());
        let states = morsel::run(
            &morsels,
            self.threads(),
            &control,
            begin,
            |(counted, counting, memory), morsel| {
                for (place, named) in named.values().enumerate() {
                    control.check()?;
                    let count = |number, users: u32| {
                        *counted.entry((place, number)).or_insert(0) += u64::from(users);
                    };
                    let sets = counting.users(uniques, named, morsel, &control, count)?;
                    memory.at_least(sets + counted.len() * COUNT_BYTES)?;
                }
                Ok(())
            },
        )?;
        let names: Vec<_> = named.keys().copied().collect();
        let mut whole = UsersBy::new();
        let mut skipped = Skipped::default();
        for (counted, counting, _) in states {
            skipped.merge(&counting.skipped);
            for ((place, number), users) in counted {
                let period = match uniques.by_period {
                    Some(unit) => Zone::UTC.numbered(unit, number).start,
                    None => 0,
                };
                if users > 0 {
                    let name = names[place].to_owned();
                    *whole.entry((name, period)).or_default() += users;
                }
            }
        }
        Ok((whole, skipped))
    }
}

/// The runs whose users are counted together, and how.
#[derive(Default)]
struct Named<'s, 'a> {
    /// The bitmaps, each with its run, by the number of the period.
    days: Vec<(NameRun<'a>, DayUsers<'a>)>,
    /// The runs whose rows are looked at.
    rows: Vec<&'s RunScan<'a>>,
}

fn by_name<'s, 'a>(
    uniques: &Uniques,
    scan: &'s Scan<'a>,
    control: &Control,
    memory: &mut Reservation<'_>,
) -> Result<BTreeMap<&'a str, Named<'s, 'a>>, QueryError> {
    let mut by_name: BTreeMap<&str, Named<'_, '_>> = BTreeMap::new();
    for run in &scan.runs {
        control.check()?;
        let name = if uniques.by_event { run.run.name() } else { "" };
        let named = by_name.entry(name).or_default();
        let Some(days) = bitmaps(uniques, run)? else {
            named.rows.push(run);
            continue;
        };
        // A list that grows may be as long again.
        memory.grow(2 * days.len() * size_of::<(NameRun<'_>, DayUsers<'_>)>())?;
        named
            .days
            .extend(days.into_iter().map(|day| (run.run, day)));
    }
    for named in by_name.values_mut() {
        named.days.sort_unstable_by_key(|(_, day)| day.number);
    }
    Ok(by_name)
}

/// The users of one day of a run, or of all of its days.
struct DayUsers<'a> {
    users: BitmapView<'a>,
    /// The number of its period.
    number: i64,
    /// What of the day is asked, where that is not all of it.
    cut: Option<TimeRange>,
}

/// The bitmaps that tell the run's users by period; `None` where rows must be looked at.
fn bitmaps<'a>(
    uniques: &Uniques,
    run: &RunScan<'a>,
) -> Result<Option<Vec<DayUsers<'a>>>, Corruption> {
    if run.conditions[0] != Condition::Constant(Truth::True) {
        return Ok(None);
    }
    Ok(match uniques.by_period {
        None if run.whole => Some(vec![DayUsers {
            users: run.run.users()?,
            number: 0,
            cut: None,
        }]),
        Some(CalendarUnit::Hour) => None,
        _ => Some(days(uniques, run.run)?),
    })
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

/// The users of one name in one morsel.
#[derive(Debug, Default)]
struct Counting {
    /// Those of one period.
    users: Words,
    /// Those that rows told, by the number of the period.
    sets: BTreeMap<i64, Words>,
    starts: UserStarts,
    skipped: Skipped,
}

impl Counting {
    /// Calls `count` with the number and the users of each period; gives the bytes that this took.
    fn users(
        &mut self,
        uniques: &Uniques,
        named: &Named<'_, '_>,
        morsel: &Morsel,
        control: &Control,
        mut count: impl FnMut(i64, u32),
    ) -> Result<usize, QueryError> {
        for run in &named.rows {
            self.rows(uniques, run, morsel, control)?;
        }
        let sets = self.sets.len() * (CONTAINER_BITS / 8);
        // One period after the other: its users stay in the nearest cache.
        for period in named
            .days
            .chunk_by(|(_, one), (_, next)| one.number == next.number)
        {
            let number = period[0].1.number;
            let mut found = false;
            for (run, day) in period {
                found |= self.day(day, *run, morsel)?;
            }
            if let Some(others) = self.sets.remove(&number) {
                self.users.or(&others);
                found = true;
            }
            if found {
                count(number, self.users.len());
                self.users.clear();
            }
        }
        for (number, users) in std::mem::take(&mut self.sets) {
            count(number, users.len());
        }
        Ok(sets)
    }

    /// Adds the users of a day; false where the container has none.
    fn day(
        &mut self,
        day: &DayUsers<'_>,
        run: NameRun<'_>,
        morsel: &Morsel,
    ) -> Result<bool, Corruption> {
        let place = day.users.position(morsel.key).ok();
        let Some(container) = place.and_then(|place| day.users.container_at(place, 0)) else {
            return Ok(false);
        };
        effort::bitmaps(1);
        let Some(cut) = day.cut else {
            container.or_into(&mut self.users);
            return Ok(true);
        };
        let mut candidates = Vec::new();
        container.append_to(&mut candidates);
        rows_in_range(run, morsel.key, cut, &candidates, &mut self.users)?;
        Ok(true)
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
        if rows.is_empty() {
            return Ok(());
        }
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
