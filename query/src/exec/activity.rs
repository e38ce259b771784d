//! Who was active in which calendar period, as bitmaps of days.
//!
//! A condition that names events only, counted by whole days of UTC or longer periods, is answered
//! by the bitmaps of days; rows are looked at only on the days that the range cuts. Retention,
//! lifecycle and stickiness are then algebra over sets of users.

use std::collections::BTreeMap;
use std::ops::Range;

use pugmark_engine::bitmap::{CONTAINER_BITS, Words};
use pugmark_engine::segment::{NameRun, Times};
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{Condition, Segment, TimeRange, Truth};
use crate::zone::{CalendarUnit, Zone};

use super::Executor;
use super::control::{Control, QueryError};
use super::effort;
use super::exists::Exists;
use super::morsel::{self, Morsel};
use super::scan::Scan;
use super::traits::TraitTable;
use super::users::PreparedUsers;
use super::worker::Worker;

/// What a user's first or last event takes while it is looked for.
const EVENT_BYTES: usize =
    2 * (size_of::<Option<Place<'_>>>() + size_of::<(usize, Range<usize>)>());

/// Most periods: the sets of all of them are held at once. Beyond, reading rows is as fast.
const MOST_PERIODS: u64 = 400;

/// The users who satisfy a condition, by period.
#[derive(Debug)]
pub(super) struct Activity<'a> {
    /// By number, ascending, without periods that no event can lie in.
    periods: Vec<(i64, Exists<'a>)>,
    /// Whose events all satisfy it, with the place of the segment.
    runs: Vec<(u32, NameRun<'a>)>,
}

/// The users of one container.
pub(super) struct Active<'c, 'a> {
    /// The upper half of their ordinals.
    pub(super) key: u16,
    /// Of each condition.
    pub(super) users: Vec<ByPeriod>,
    activities: &'c [Activity<'a>],
}

/// One event of a user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    time: i64,
    segment: u32,
    name: &'a str,
    row: u32,
    /// An event of another run has the same time.
    tied: bool,
}

impl Place<'_> {
    /// True where this event is later than the other in total order; `None` where times and rows do
    /// not tell.
    pub(super) fn is_after(&self, other: &Self) -> Option<bool> {
        if self.time != other.time {
            return Some(self.time > other.time);
        }
        let one_run = (self.segment, self.name) == (other.segment, other.name);
        (one_run && !self.tied && !other.tied).then_some(self.row > other.row)
    }

    /// Takes the place of what is known where it is earlier (later).
    fn put(self, known: &mut Option<Self>, end: End) {
        match known {
            Some(known) if known.time == self.time => known.tied = true,
            Some(known) if (known.time < self.time) == (end == End::First) => {}
            _ => *known = Some(self),
        }
    }
}

/// Which of a user's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    First,
    Last,
}

impl<'a> Active<'_, 'a> {
    /// Of each of `users`, ascending lower halves, the first or the last event that satisfies the
    /// condition of this number, `within` the user's range.
    pub(super) fn events(
        &self,
        condition: usize,
        users: &[u16],
        within: impl Fn(u16) -> TimeRange,
        end: End,
    ) -> Result<Vec<Option<Place<'a>>>, Corruption> {
        let mut found = vec![None; users.len()];
        let mut lows = Vec::with_capacity(users.len());
        for &(segment, run) in &self.activities[condition].runs {
            let rows = run.container_rows(self.key)?;
            let reaches = |low: &u16| {
                let range = within(*low);
                range.first <= run.max_time() && run.min_time() <= range.last
            };
            lows.clear();
            if !rows.is_empty() {
                lows.extend(users.iter().copied().filter(reaches));
            }
            if lows.is_empty() {
                continue;
            }
            effort::rows(lows.len());
            let times = run.times(rows.clone())?;
            let mut asked: Vec<(usize, Range<usize>)> = Vec::with_capacity(lows.len());
            let mut next = 0;
            run.rows_of_users(self.key, &lows, |low, own| {
                while users[next] < low {
                    next += 1;
                }
                let own = (own.start - rows.start) as usize..(own.end - rows.start) as usize;
                // Damaged counts could leave a user without rows.
                if !own.is_empty() {
                    asked.push((next, own));
                }
            })?;
            // One of a user's times mostly decides. It is hardly ever in the cache; nothing here
            // waits for it, so that many are under way at a time.
            let outermost = asked.iter().map(|(_, own)| match end {
                End::First => times.get(own.start),
                End::Last => times.get(own.end - 1),
            });
            let outermost: Vec<i64> = outermost.collect();
            for ((user, own), outermost) in asked.into_iter().zip(outermost) {
                let range = within(users[user]);
                if let Some(index) = index_at(&times, own, outermost, range, end) {
                    let place = Place {
                        time: times.get(index),
                        segment,
                        name: run.name(),
                        row: rows.start + index as u32,
                        tied: false,
                    };
                    place.put(&mut found[user], end);
                }
            }
        }
        Ok(found)
    }
}

/// The index of a user's first or last time in the range; `outermost` is the first or last of all.
fn index_at(
    times: &Times<'_>,
    own: Range<usize>,
    outermost: i64,
    range: TimeRange,
    end: End,
) -> Option<usize> {
    let index = match end {
        End::First if outermost >= range.first => own.start,
        End::First => times.first_from(own.clone(), range.first),
        End::Last if outermost <= range.last => own.end - 1,
        // Later times than the range's last there are, so there is a next one.
        End::Last => times
            .first_from(own.clone(), range.last + 1)
            .checked_sub(1)?,
    };
    (own.contains(&index) && range.contains(times.get(index))).then_some(index)
}

/// What is asked of whom.
pub(super) struct Asked<'q> {
    pub(super) conditions: Vec<&'q Condition>,
    pub(super) range: TimeRange,
    pub(super) users: Option<&'q Segment>,
    pub(super) zone: &'q Zone,
    pub(super) unit: CalendarUnit,
}

/// What periods of this unit are made of: days, which weeks and months begin and end with. Hours are
/// not, and bitmaps do not tell them.
pub(super) fn part_of(unit: CalendarUnit) -> CalendarUnit {
    match unit {
        CalendarUnit::Hour => CalendarUnit::Hour,
        CalendarUnit::Day | CalendarUnit::Week | CalendarUnit::Month => CalendarUnit::Day,
    }
}

/// Sets of users by the number of a period, ascending.
pub(super) type ByPeriod = Vec<(i64, Words)>;

impl<'a> Activity<'a> {
    /// Prepares a condition; `None` where rows must tell.
    fn prepare(
        snapshot: &'a Snapshot,
        condition: &Condition,
        asked: &Asked<'_>,
    ) -> Result<Option<Self>, Corruption> {
        let scan = Scan::prepare(snapshot, &[condition], asked.range, false);
        let named = |condition: &Condition| *condition == Condition::Constant(Truth::True);
        if !scan.runs.iter().all(|run| named(&run.conditions[0])) {
            return Ok(None);
        }
        let first = scan.runs.iter().map(|run| run.run.min_time()).min();
        let last = scan.runs.iter().map(|run| run.run.max_time()).max();
        let (Some(first), Some(last)) = (first, last) else {
            return Ok(Some(Self {
                periods: Vec::new(),
                runs: Vec::new(),
            }));
        };
        let number = |micros| asked.zone.number(asked.unit, micros);
        let (first, last) = (
            number(first.max(asked.range.first)),
            number(last.min(asked.range.last)),
        );
        if last.abs_diff(first) >= MOST_PERIODS {
            return Ok(None);
        }
        let mut periods = Vec::new();
        for number in first..=last {
            let period = asked.zone.numbered(asked.unit, number);
            let range = TimeRange {
                first: period.start.max(asked.range.first),
                last: (period.end - 1).min(asked.range.last),
            };
            let exists = Exists::prepare(snapshot, condition, range)?;
            if !exists.scan.runs.is_empty() {
                periods.push((number, exists));
            }
        }
        let runs = scan
            .runs
            .iter()
            .map(|scan| (scan.segment, scan.run))
            .collect();
        Ok(Some(Self { periods, runs }))
    }

    /// Those of `within`, or all, who are active, by period; periods without anybody are left out.
    /// The morsel is a whole container.
    fn users(
        &self,
        morsel: &Morsel,
        within: Option<&Words>,
        worker: &mut Worker<'_>,
    ) -> Result<ByPeriod, QueryError> {
        let Worker {
            control,
            starts,
            skipped,
            ..
        } = worker;
        let traits = TraitTable::default();
        let everyone = Words::of_range(morsel.lows.clone());
        let mut found = ByPeriod::new();
        for (number, exists) in &self.periods {
            control.check()?;
            let mut users = Words::new();
            if exists.is_certain() {
                exists.add_certain(morsel.key, &mut users)?;
                within.into_iter().for_each(|within| users.and(within));
            } else {
                let (bounds, within) = (exists.bounds(morsel)?, within.unwrap_or(&everyone));
                users = exists.users(morsel, &bounds, within, &traits, control, starts, skipped)?;
            }
            if !users.is_empty() {
                found.push((*number, users));
            }
        }
        Ok(found)
    }
}

impl Executor {
    /// Calls `add` for each container of users; gives the sums of the threads, which hold `byte_len`
    /// bytes. `None` where bitmaps do not answer.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(super) fn by_activity<S: Default + Send>(
        &self,
        asked: &Asked<'_>,
        add: impl Fn(&mut S, Active<'_, '_>) -> Result<(), QueryError> + Sync,
        byte_len: impl Fn(&S) -> usize + Sync,
    ) -> Result<Option<Vec<S>>, QueryError> {
        if *asked.zone != Zone::UTC || asked.unit == CalendarUnit::Hour {
            return Ok(None);
        }
        let mut activities = Vec::with_capacity(asked.conditions.len());
        for condition in &asked.conditions {
            match Activity::prepare(self.snapshot(), condition, asked)? {
                Some(activity) => activities.push(activity),
                None => return Ok(None),
            }
        }
        let control = Control::start(self.options());
        let users = asked
            .users
            .map(|users| PreparedUsers::new(self.snapshot(), users, self.as_of()));
        let users = users.transpose()?;
        let sets: usize = activities
            .iter()
            .map(|activity| activity.periods.len())
            .sum();
        // What is found, as much to compute with, and the events of a container's users.
        let set_bytes = 2 * sets * (CONTAINER_BITS / 8) + CONTAINER_BITS * EVENT_BYTES;
        if self.threads().saturating_mul(set_bytes) > control.room() / 2 {
            return Ok(None);
        }
        let begin = || (Worker::new(&control), control.reservation(), S::default());
        let states = morsel::run(
            &containers(&activities)?,
            self.threads(),
            &control,
            begin,
            |(worker, memory, sum), morsel| {
                worker.reserve()?;
                memory.at_least(set_bytes + byte_len(sum))?;
                let within = users.as_ref().map(|users| users.users(morsel, worker));
                let within = within.transpose()?;
                let found = activities.iter();
                let found = found.map(|activity| activity.users(morsel, within.as_ref(), worker));
                let active = Active {
                    key: morsel.key,
                    users: found.collect::<Result<_, _>>()?,
                    activities: &activities,
                };
                add(sum, active)
            },
        )?;
        Ok(Some(states.into_iter().map(|(_, _, sum)| sum).collect()))
    }
}

/// The containers that have users, whole: their sets are made together.
fn containers(activities: &[Activity<'_>]) -> Result<Vec<Morsel>, Corruption> {
    let mut rows: BTreeMap<u16, u64> = BTreeMap::new();
    for (_, run) in activities.iter().flat_map(|activity| &activity.runs) {
        for (key, users) in run.users()?.keys() {
            *rows.entry(key).or_default() += u64::from(users);
        }
    }
    Ok(morsel::cut(&rows, u64::MAX))
}
