//! Events counted by name and calendar period: rows, distinct users, first and last times, sums.
//!
//! Distinct users of whole days come from the bitmaps of days, counts of whole runs from their
//! lengths; only what these do not tell is read row by row.

use std::collections::BTreeMap;

use pugmark_engine::batch::Kind;
use pugmark_engine::bitmap::{BitmapView, CONTAINER_BITS, Words};
use pugmark_engine::segment::{NameRun, Times, UserStarts};
use pugmark_engine::time::{MICROS_PER_DAY, day_of};
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Skipped, TimeRange, Truth};
use crate::zone::{CalendarUnit, Zone};

use super::Executor;
use super::control::{Control, QueryError};
use super::effort;
use super::morsel::{self, Morsel};
use super::periods::Periods;
use super::scan::{MorselRows, RunScan, Scan, Verdicts};
use super::traits::TraitTable;

/// Most periods that a question may have: their users are bitmaps side by side.
const MOST_PERIODS: usize = 4_096;

/// What is counted, and by what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Groups {
    pub(crate) condition: Condition,
    pub(crate) range: TimeRange,
    pub(crate) by_event: bool,
    pub(crate) by_period: Option<(CalendarUnit, Zone)>,
    /// Whether distinct users are wanted.
    pub(crate) users: bool,
    /// Whether first and last times are wanted.
    pub(crate) times: bool,
    /// Properties to be summed up, which have numbers of one type only.
    pub(crate) sums: Vec<String>,
}

/// A group that has events.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupRow {
    /// The name, where it is counted by names.
    pub(crate) event: String,
    /// The first instant of the period, where it is counted by periods.
    pub(crate) period: i64,
    pub(crate) events: u64,
    /// 0 where not wanted.
    pub(crate) users: u64,
    /// Meaningless where not wanted.
    pub(crate) first: i64,
    /// Meaningless where not wanted.
    pub(crate) last: i64,
    /// `None` where no event of the group has a value.
    pub(crate) sums: Vec<Option<f64>>,
}

#[derive(Clone, Debug)]
struct Group {
    events: u64,
    users: u64,
    first: i64,
    last: i64,
    sums: Vec<Option<f64>>,
}

/// By name and number of the period.
type Counted = BTreeMap<(String, i64), Group>;

impl Group {
    fn new(sums: usize) -> Self {
        Self {
            events: 0,
            users: 0,
            first: i64::MAX,
            last: i64::MIN,
            sums: vec![None; sums],
        }
    }

    fn merge(&mut self, other: Self) {
        self.events += other.events;
        self.users += other.users;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        for (sum, other) in self.sums.iter_mut().zip(other.sums) {
            if let Some(other) = other {
                *sum = Some(sum.unwrap_or(0.0) + other);
            }
        }
    }
}

impl Groups {
    /// True where this way of counting can answer about the snapshot: names have runs of their own
    /// where they are told apart, and there are not too many periods.
    pub(crate) fn fits(&self, snapshot: &Snapshot) -> bool {
        let segments = snapshot.event_segments();
        if self.by_event && segments.iter().any(|segment| segment.overflow().is_some()) {
            return false;
        }
        let Some((unit, zone)) = &self.by_period else {
            return true;
        };
        let first = segments.iter().map(|segment| segment.meta().min_time).min();
        let last = segments.iter().map(|segment| segment.meta().max_time).max();
        let (Some(first), Some(last)) = (first, last) else {
            return true;
        };
        let (first, last) = (first.max(self.range.first), last.min(self.range.last));
        let number = |micros| zone.number(*unit, micros);
        first > last || number(last).saturating_sub(number(first)) < MOST_PERIODS as i64
    }
}

impl Executor {
    /// Counts; groups without events have no row. Ordered by name, then by period.
    pub(crate) fn groups(&self, groups: &Groups) -> Result<(Vec<GroupRow>, Skipped), QueryError> {
        let control = Control::start(self.options());
        let scan = Scan::prepare(self.snapshot(), &[&groups.condition], groups.range, false);
        let mut containers = BTreeMap::new();
        scan.count_rows(&mut containers, true)?;
        let morsels = morsel::cut(&containers, u64::MAX);
        let by_name = by_name(groups, &scan);
        let states = morsel::run(
            &morsels,
            self.threads(),
            &control,
            || (Counted::new(), Counting::default(), control.reservation()),
            |(counted, counting, memory), morsel| {
                for (name, runs) in &by_name {
                    control.check()?;
                    counting.begin();
                    for &run in runs {
                        counting.run(groups, run, morsel)?;
                        memory.at_least(counting.byte_len(groups))?;
                    }
                    counting.finish(groups, name, counted);
                }
                Ok(())
            },
        )?;
        let mut whole = Counted::new();
        let mut skipped = Skipped::default();
        for (counted, counting, _) in states {
            skipped.merge(&counting.skipped);
            for (key, group) in counted {
                let known = whole
                    .entry(key)
                    .or_insert_with(|| Group::new(groups.sums.len()));
                known.merge(group);
            }
        }
        Ok((rows(groups, whole), skipped))
    }
}

/// The runs to be counted together.
fn by_name<'s, 'a>(groups: &Groups, scan: &'s Scan<'a>) -> BTreeMap<&'a str, Vec<&'s RunScan<'a>>> {
    let mut by_name: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for run in &scan.runs {
        let name = if groups.by_event { run.run.name() } else { "" };
        by_name.entry(name).or_default().push(run);
    }
    by_name
}

fn rows(groups: &Groups, counted: Counted) -> Vec<GroupRow> {
    let told = |((event, number), group): ((String, i64), Group)| GroupRow {
        event,
        period: match &groups.by_period {
            Some((unit, zone)) => zone.numbered(*unit, number).start,
            None => 0,
        },
        events: group.events,
        users: group.users,
        first: group.first,
        last: group.last,
        sums: group.sums,
    };
    counted.into_iter().map(told).collect()
}

/// What is counted of one name in one morsel, by the number of the period.
#[derive(Debug, Default)]
struct Counting {
    groups: BTreeMap<i64, (Group, Option<Words>)>,
    starts: UserStarts,
    skipped: Skipped,
}

impl Counting {
    fn begin(&mut self) {
        self.groups.clear();
    }

    /// Bytes of the groups, which are mostly their users.
    fn byte_len(&self, groups: &Groups) -> usize {
        let users = usize::from(groups.users) * CONTAINER_BITS / 8;
        self.groups.len() * (size_of::<Group>() + users)
    }

    fn finish(&mut self, groups: &Groups, name: &str, counted: &mut Counted) {
        for (number, (mut group, users)) in std::mem::take(&mut self.groups) {
            if group.events == 0 {
                continue;
            }
            group.users = users.map_or(0, |users| u64::from(users.len()));
            counted
                .entry((name.to_owned(), number))
                .or_insert_with(|| Group::new(groups.sums.len()))
                .merge(group);
        }
    }

    fn group(&mut self, groups: &Groups, number: i64) -> &mut (Group, Option<Words>) {
        self.groups.entry(number).or_insert_with(|| {
            let users = groups.users.then(Words::new);
            (Group::new(groups.sums.len()), users)
        })
    }

    fn run(
        &mut self,
        groups: &Groups,
        run: &RunScan<'_>,
        morsel: &Morsel,
    ) -> Result<(), Corruption> {
        let rows = run.run.container_rows(morsel.key)?;
        if rows.is_empty() {
            return Ok(());
        }
        let all = run.whole && run.conditions[0] == Condition::Constant(Truth::True);
        let users_known = all && groups.users && self.users_of(groups, run.run, morsel)?;
        let counts_only = groups.by_period.is_none() && !groups.times && groups.sums.is_empty();
        if all && counts_only && (users_known || !groups.users) {
            self.group(groups, 0).0.events += rows.len() as u64;
            return Ok(());
        }
        self.rows(groups, run, morsel, users_known)
    }

    /// Adds the users of a run whose rows all count, where its bitmaps tell them by period.
    fn users_of(
        &mut self,
        groups: &Groups,
        run: NameRun<'_>,
        morsel: &Morsel,
    ) -> Result<bool, Corruption> {
        let Some((unit, zone)) = &groups.by_period else {
            effort::bitmaps(1);
            self.add_users(groups, 0, run.users()?, morsel.key);
            return Ok(true);
        };
        if *zone != Zone::UTC || *unit == CalendarUnit::Hour {
            return Ok(false);
        }
        for (day, _) in run.days()? {
            let number = zone.number(*unit, day.saturating_mul(MICROS_PER_DAY));
            if let Some(users) = run.day_users(day)? {
                effort::bitmaps(1);
                self.add_users(groups, number, users, morsel.key);
            }
        }
        Ok(true)
    }

    fn add_users(&mut self, groups: &Groups, number: i64, users: BitmapView<'_>, key: u16) {
        if users.position(key).is_ok()
            && let (_, Some(words)) = self.group(groups, number)
        {
            users.or_into(key, words);
        }
    }

    /// Looks at every row.
    fn rows(
        &mut self,
        groups: &Groups,
        run: &RunScan<'_>,
        morsel: &Morsel,
        users_known: bool,
    ) -> Result<(), Corruption> {
        let rows = run.run.container_rows(morsel.key)?;
        effort::rows(rows.len());
        let asked = MorselRows {
            starts: &[],
            range: rows.clone(),
        };
        let verdicts = run.evaluate(&asked, morsel, &TraitTable::default(), &mut self.skipped)?;
        if matches!(verdicts[0], Verdicts::None) {
            return Ok(());
        }
        let times = run.run.times(rows.clone())?;
        let mut numbers = Numbers::new(groups);
        let counts = |place: usize| {
            verdicts[0].at(place) && (run.whole || groups.range.contains(times.get(place)))
        };
        for place in (0..rows.len()).filter(|&place| counts(place)) {
            let time = times.get(place);
            let group = &mut self.group(groups, numbers.of(time)).0;
            group.events += 1;
            group.first = group.first.min(time);
            group.last = group.last.max(time);
        }
        if groups.users && !users_known {
            self.rows_users(groups, run, morsel, &times, counts)?;
        }
        for (place, name) in groups.sums.iter().enumerate() {
            self.rows_sum(groups, run.run, (place, name), rows.clone(), &times, counts)?;
        }
        Ok(())
    }

    fn rows_users(
        &mut self,
        groups: &Groups,
        run: &RunScan<'_>,
        morsel: &Morsel,
        times: &Times<'_>,
        counts: impl Fn(usize) -> bool,
    ) -> Result<(), Corruption> {
        let mut starts = std::mem::take(&mut self.starts);
        run.run
            .user_starts(morsel.key, 0..CONTAINER_BITS as u32, &mut starts)?;
        let first = starts.starts.first().copied().unwrap_or_default();
        let mut numbers = Numbers::new(groups);
        for (user, low) in starts.users.iter().enumerate() {
            let own = starts.starts[user] - first..starts.starts[user + 1] - first;
            for place in own.map(|row| row as usize).filter(|&place| counts(place)) {
                let number = numbers.of(times.get(place));
                if let (_, Some(words)) = self.group(groups, number) {
                    words.insert(low);
                }
            }
        }
        self.starts = starts;
        Ok(())
    }

    fn rows_sum(
        &mut self,
        groups: &Groups,
        run: NameRun<'_>,
        (which, name): (usize, &str),
        rows: std::ops::Range<u32>,
        times: &Times<'_>,
        counts: impl Fn(usize) -> bool,
    ) -> Result<(), Corruption> {
        let Some(column) = run.properties()?.get(name)? else {
            return Ok(());
        };
        let mut numbers = Numbers::new(groups);
        for part in column.parts() {
            let indices = part.indices(rows.clone());
            let mut values = Vec::with_capacity(indices.len());
            match part.kind() {
                Kind::F64 => part.floats(indices.clone(), &mut values)?,
                Kind::I64 => {
                    let mut whole = Vec::with_capacity(indices.len());
                    part.ints(indices.clone(), &mut whole)?;
                    values.extend(whole.into_iter().map(|value| value as f64));
                }
                _ => continue,
            }
            let mut present = Vec::with_capacity(indices.len());
            part.fill_rows(indices, &mut present);
            for (row, value) in present.into_iter().zip(values) {
                let place = (row - rows.start) as usize;
                if counts(place) {
                    let group = &mut self.group(groups, numbers.of(times.get(place))).0;
                    let sum = &mut group.sums[which];
                    *sum = Some(sum.unwrap_or(0.0) + value);
                }
            }
        }
        Ok(())
    }
}

/// Numbers of the periods of times that mostly follow each other.
struct Numbers<'q> {
    periods: Option<Periods<'q>>,
    /// Whole days of the same number, in UTC.
    known: Option<(i64, i64)>,
}

impl<'q> Numbers<'q> {
    fn new(groups: &'q Groups) -> Self {
        let periods = groups.by_period.as_ref();
        Self {
            periods: periods.map(|(unit, zone)| Periods::new(zone, *unit)),
            known: None,
        }
    }

    fn of(&mut self, time: i64) -> i64 {
        let Some(periods) = &mut self.periods else {
            return 0;
        };
        let day = day_of(time);
        match self.known {
            Some((known, number)) if known == day && !periods.may_change_within_days() => number,
            _ => {
                let number = periods.number(time);
                self.known = Some((day, number));
                number
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{any, event, property};
    use crate::exec::QueryOptions;
    use pugmark_engine::{BatchBuilder, Clock, Options, Store};
    use std::collections::BTreeSet;

    const HOUR: i64 = MICROS_PER_DAY / 24;

    /// Users, times, names and values that ties, days and weeks fall into in every way.
    fn events() -> Vec<(u32, i64, &'static str, Option<i64>)> {
        let mut seed = 7u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        (0..600)
            .map(|_| {
                let name = ["view", "cart", "buy"][next(3) as usize];
                let value = (next(3) > 0).then(|| next(100) as i64);
                (next(40) as u32, next(24 * 50) as i64 * HOUR, name, value)
            })
            .collect()
    }

    #[test]
    fn groups_equal_a_plain_count() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            clock: Clock::custom(|| 100 * MICROS_PER_DAY),
            ..Options::default()
        };
        let store = Store::builder(directory.path())
            .options(options)
            .open()
            .unwrap();
        let events = events();
        for (part, chunk) in events.chunks(200).enumerate() {
            let mut batch = BatchBuilder::new();
            for (user, time, name, value) in chunk {
                let row = batch.event(&format!("u{user}"), *time, name);
                if let Some(value) = value {
                    row.property("price", *value);
                }
            }
            store.append(batch.finish().unwrap()).unwrap();
            if part < 2 {
                store.flush().unwrap();
            }
        }
        for compacted in [false, true] {
            if compacted {
                store.flush().unwrap();
                store.compact().unwrap();
            }
            for threads in [1, 3] {
                check_all(&store, &events, threads);
            }
        }
    }

    fn check_all(store: &Store, events: &[(u32, i64, &'static str, Option<i64>)], threads: usize) {
        let executor = Executor::new(store.snapshot().unwrap()).with_options(QueryOptions {
            threads: Some(threads),
            ..QueryOptions::default()
        });
        let berlin = Zone::named("Europe/Berlin").unwrap();
        let periods = [
            None,
            Some((CalendarUnit::Hour, Zone::UTC)),
            Some((CalendarUnit::Day, Zone::UTC)),
            Some((CalendarUnit::Week, Zone::UTC)),
            Some((CalendarUnit::Month, Zone::UTC)),
            Some((CalendarUnit::Day, berlin.clone())),
            Some((CalendarUnit::Month, berlin)),
        ];
        let ranges = [
            (i64::MIN, i64::MAX),
            (3 * MICROS_PER_DAY + 5 * HOUR, 40 * MICROS_PER_DAY),
        ];
        let conditions = [any(), event("view"), property("price").gt(50)];
        for by_period in periods {
            for (first, last) in ranges {
                for condition in &conditions {
                    for bits in 0..8u8 {
                        let groups = Groups {
                            condition: condition.clone(),
                            range: TimeRange { first, last },
                            by_event: bits & 1 > 0,
                            by_period: by_period.clone(),
                            users: bits & 2 > 0,
                            times: bits & 4 > 0,
                            sums: match bits & 4 > 0 {
                                true => vec!["price".to_owned()],
                                false => Vec::new(),
                            },
                        };
                        let (found, _) = executor.groups(&groups).unwrap();
                        assert_eq!(told(&groups, found), judged(&groups, events), "{groups:?}");
                    }
                }
            }
        }
    }

    type Told = (String, i64, u64, u64, Option<(i64, i64)>, Vec<Option<f64>>);

    fn told(groups: &Groups, rows: Vec<GroupRow>) -> Vec<Told> {
        rows.into_iter()
            .map(|row| {
                let times = groups.times.then_some((row.first, row.last));
                (
                    row.event, row.period, row.events, row.users, times, row.sums,
                )
            })
            .collect()
    }

    fn judged(groups: &Groups, events: &[(u32, i64, &'static str, Option<i64>)]) -> Vec<Told> {
        let mut by: BTreeMap<(String, i64), Vec<_>> = BTreeMap::new();
        for &(user, time, name, value) in events {
            let holds = match &groups.condition {
                condition if *condition == any() => true,
                condition if *condition == event("view") => name == "view",
                _ => value.is_some_and(|value| value > 50),
            };
            if holds && groups.range.contains(time) {
                let name = if groups.by_event { name } else { "" };
                let period = match &groups.by_period {
                    Some((unit, zone)) => zone.bucket(*unit, time).start,
                    None => 0,
                };
                by.entry((name.to_owned(), period))
                    .or_default()
                    .push((user, time, value));
            }
        }
        by.into_iter()
            .map(|((name, period), rows)| {
                let users: BTreeSet<u32> = rows.iter().map(|row| row.0).collect();
                let users = if groups.users { users.len() as u64 } else { 0 };
                let first = rows.iter().map(|row| row.1).min().unwrap();
                let last = rows.iter().map(|row| row.1).max().unwrap();
                let values: Vec<i64> = rows.iter().filter_map(|row| row.2).collect();
                let sum = (!values.is_empty()).then(|| values.iter().sum::<i64>() as f64);
                let sums = groups.sums.iter().map(|_| sum).collect();
                let times = groups.times.then_some((first, last));
                (name, period, rows.len() as u64, users, times, sums)
            })
            .collect()
    }
}
