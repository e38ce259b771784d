//! Retention as algebra over the users of days.
//!
//! A user's cohort is the period of the first day with a start, and a return in a later period is a
//! member of two sets. Whether somebody who started and came back on one day did so in this order
//! is all that bitmaps do not tell; those who are not seen on a later day of the period are open:
//! the times of their first start and of their last return in it are compared. Only where these are
//! the same, in different runs, are all of the user's events read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pugmark_engine::bitmap::{CONTAINER_BITS, Words, join};
use roaring::RoaringBitmap;

use super::{Cohorts, ENTRY_BYTES, Own, RETURNS, START};
use crate::behaviour::{Notices, Retention, ReturnMode, Segment, TimeRange};
use crate::exec::Executor;
use crate::exec::activity::{Active, Asked, ByPeriod, End, part_of};
use crate::exec::control::QueryError;
use crate::exec::each_user::{Fold, Reads, UserHistory};
use crate::zone::CalendarUnit;

/// One period of a container's users.
#[derive(Debug)]
struct Period {
    number: i64,
    /// Those whose cohort it is.
    cohort: Words,
    /// Those who came back in it.
    returned: Words,
    /// Those of the cohort who came back on a later day of it than they started.
    again: Words,
    /// Those of the cohort who came back on the day of their start, or before on that day.
    open: Words,
}

impl Period {
    fn new(number: i64) -> Self {
        Self {
            number,
            cohort: Words::new(),
            returned: Words::new(),
            again: Words::new(),
            open: Words::new(),
        }
    }

    /// Takes in the starts and returns of the day that follows; who was `seen` starts no more.
    fn day(&mut self, started: &Words, returned: &Words, seen: &Words) {
        let (started, returned) = (started.as_slice(), returned.as_slice());
        let (seen, cohort) = (seen.as_slice(), self.cohort.as_mut_slice());
        let (again, open) = (self.again.as_mut_slice(), self.open.as_mut_slice());
        let all_returned = self.returned.as_mut_slice();
        // One pass over all of them.
        for word in 0..started.len() {
            again[word] |= returned[word] & cohort[word];
            all_returned[word] |= returned[word];
            let fresh = started[word] & !seen[word] & !cohort[word];
            cohort[word] |= fresh;
            open[word] |= fresh & returned[word];
        }
    }
}

/// The periods of a container's users, ascending.
fn periods(retention: &Retention, starts: &ByPeriod, returns: &ByPeriod) -> Vec<Period> {
    let nobody = Words::new();
    let on = |days: &ByPeriod, day| days.binary_search_by_key(&day, |(day, _)| *day).ok();
    let days: BTreeSet<i64> = starts.iter().chain(returns).map(|(day, _)| *day).collect();
    let mut periods: Vec<Period> = Vec::new();
    let mut seen = Words::new();
    for day in days {
        let start = retention.zone.numbered(CalendarUnit::Day, day).start;
        let number = retention.zone.number(retention.period, start);
        if periods.last().is_none_or(|last| last.number != number) {
            if let (Some(last), false) = (periods.last(), retention.recurring) {
                seen.or(&last.cohort);
            }
            periods.push(Period::new(number));
        }
        if let Some(period) = periods.last_mut() {
            let started = on(starts, day).map_or(&nobody, |place| &starts[place].1);
            let returned = on(returns, day).map_or(&nobody, |place| &returns[place].1);
            period.day(started, returned, &seen);
        }
    }
    for period in &mut periods {
        period.open.and_not(&period.again);
    }
    periods
}

/// The users of a container of whom events must tell whether they came back in their cohort's own
/// period.
#[derive(Debug, Default)]
struct Open {
    users: Words,
    /// By lower half the place of the cohort, for each user.
    places: Vec<u16>,
    /// The number of each cohort, and the times that are asked for.
    cohorts: Vec<(i64, TimeRange)>,
}

impl Open {
    /// Adds users who are in no other cohort.
    fn add(&mut self, number: i64, within: TimeRange, users: &Words) {
        self.places.resize(CONTAINER_BITS, 0);
        for low in users.iter() {
            self.places[usize::from(low)] = self.cohorts.len() as u16;
        }
        self.users.or(users);
        self.cohorts.push((number, within));
    }

    fn cohort_of(&self, low: u16) -> (i64, TimeRange) {
        self.cohorts[usize::from(self.places[usize::from(low)])]
    }

    fn clear(&mut self) {
        self.users.clear();
        self.cohorts.clear();
    }
}

/// What a thread adds up.
#[derive(Debug, Default)]
struct Sum {
    open: Open,
    cohorts: Cohorts,
    /// The users of each cohort of whom only the order of events of one time tells whether they came
    /// back in its own period.
    tied: BTreeMap<i64, RoaringBitmap>,
}

impl Sum {
    /// Adds the users of a container.
    fn add(
        &mut self,
        retention: &Retention,
        range: TimeRange,
        active: &Active<'_, '_>,
    ) -> Result<(), QueryError> {
        let found = &active.users;
        let last_day = found.iter().flatten().map(|(day, _)| *day).max();
        let last = last_day.map(|day| retention.zone.numbered(CalendarUnit::Day, day).start);
        self.cohorts.last = self.cohorts.last.max(last);
        let periods = periods(retention, &found[START], &found[RETURNS]);
        for (place, period) in periods.iter().enumerate() {
            if period.cohort.is_empty() {
                continue;
            }
            let open = self.cohort(period, &periods[place + 1..], retention.mode);
            if open.is_empty() {
                continue;
            }
            // Somebody who starts again and again may be open in several cohorts.
            if self.open.users.common_len(&open) > 0 {
                self.decide(active)?;
            }
            let whole = retention.zone.numbered(retention.period, period.number);
            let within = TimeRange {
                first: range.first.max(whole.start),
                last: range.last.min(whole.end - 1),
            };
            self.open.add(period.number, within, &open);
        }
        self.decide(active)
    }

    /// Adds the users of a cohort; gives those of whom bitmaps do not tell whether they came back in
    /// its own period.
    fn cohort(&mut self, period: &Period, later: &[Period], mode: ReturnMode) -> Words {
        let (cohort, bytes) = self.cohorts.cohort(period.number);
        cohort.size += u64::from(period.cohort.len());
        let mut add = |k: i64, users: u32| {
            if users > 0 {
                *bytes += cohort.add(k.unsigned_abs(), u64::from(users));
            }
        };
        let mut open = period.open.clone();
        match mode {
            ReturnMode::On => {
                add(0, period.again.len());
                for then in later {
                    let back = period.cohort.common_len(&then.returned);
                    add(then.number - period.number, back);
                }
            }
            // The last period of coming back counts.
            ReturnMode::OnOrAfter => {
                let mut left = period.cohort.clone();
                for then in later.iter().rev() {
                    let back = left.common_len(&then.returned);
                    add(then.number - period.number, back);
                    left.and_not(&then.returned);
                }
                add(0, left.common_len(&period.again));
                open.and(&left);
            }
        }
        open
    }

    /// Adds those of the open users who came back in their cohort's own period; nobody is open then.
    fn decide(&mut self, active: &Active<'_, '_>) -> Result<(), QueryError> {
        let open = &mut self.open;
        if open.cohorts.is_empty() {
            return Ok(());
        }
        let lows: Vec<u16> = open.users.iter().collect();
        let within = |low: u16| open.cohort_of(low).1;
        let starts = active.events(START, &lows, within, End::First)?;
        let returns = active.events(RETURNS, &lows, within, End::Last)?;
        for ((&low, start), returned) in lows.iter().zip(starts).zip(returns) {
            let (Some(start), Some(returned)) = (start, returned) else {
                continue;
            };
            let (number, _) = open.cohort_of(low);
            match returned.is_after(&start) {
                Some(true) => {
                    let (cohort, bytes) = self.cohorts.cohort(number);
                    *bytes += cohort.add(0, 1);
                }
                Some(false) => {}
                None => {
                    let tied = self.tied.entry(number).or_default();
                    tied.insert(join(active.key, low));
                }
            }
        }
        open.clear();
        Ok(())
    }

    fn byte_len(&self) -> usize {
        let tied = self.tied.values();
        let tied = tied.map(|users| users.serialized_size() + ENTRY_BYTES);
        let places = self.open.places.capacity() * size_of::<u16>();
        self.cohorts.bytes + tied.sum::<usize>() + places
    }
}

/// Counts who came back in the period of the start, among users of whom nothing else is asked.
struct SamePeriod<'q> {
    retention: &'q Retention,
    tied: &'q BTreeMap<i64, RoaringBitmap>,
}

impl<'q> Fold for SamePeriod<'q> {
    type Sum = (Own<'q>, BTreeMap<i64, u64>);

    fn begin(&self) -> Self::Sum {
        (Own::new(self.retention), BTreeMap::new())
    }

    fn user(&self, user: &UserHistory<'_>, (own, back): &mut Self::Sum) -> Result<(), QueryError> {
        own.each_cohort(user, |cohort, periods| {
            let is_tied = || {
                let tied = self.tied.get(&cohort);
                tied.is_some_and(|tied| tied.contains(user.ordinal))
            };
            if periods.first() == Some(&0) && is_tied() {
                *back.entry(cohort).or_default() += 1;
            }
        });
        Ok(())
    }

    fn byte_len(&self, (_, back): &Self::Sum) -> usize {
        back.len() * ENTRY_BYTES
    }
}

impl Executor {
    /// The cohorts of a question that does not roll; `None` where bitmaps do not answer.
    pub(super) fn cohorts_by_bitmaps(
        &self,
        retention: &Retention,
    ) -> Result<Option<(Cohorts, Notices)>, QueryError> {
        let reads = self.retention_reads(retention);
        let asked = Asked {
            conditions: reads.conditions.clone(),
            range: reads.range,
            users: reads.users,
            zone: &retention.zone,
            unit: part_of(retention.period),
        };
        let add = |sum: &mut Sum, active: Active<'_, '_>| sum.add(retention, reads.range, &active);
        let Some(sums) = self.by_activity(&asked, add, Sum::byte_len)? else {
            return Ok(None);
        };
        let mut cohorts = Cohorts::default();
        let mut tied: BTreeMap<i64, RoaringBitmap> = BTreeMap::new();
        for sum in sums {
            cohorts.merge(sum.cohorts);
            for (number, users) in sum.tied {
                *tied.entry(number).or_default() |= users;
            }
        }
        let notices = self.add_tied(retention, &reads, &tied, &mut cohorts)?;
        Ok(Some((cohorts, notices)))
    }

    /// Reads the events of those whom times do not tell.
    fn add_tied(
        &self,
        retention: &Retention,
        reads: &Reads<'_>,
        tied: &BTreeMap<i64, RoaringBitmap>,
        cohorts: &mut Cohorts,
    ) -> Result<Notices, QueryError> {
        let everybody = tied
            .values()
            .fold(RoaringBitmap::new(), |all, users| all | users);
        if everybody.is_empty() {
            return Ok(Notices::default());
        }
        let users = Segment::Users(Arc::new(everybody));
        let reads = Reads {
            only_with: None,
            users: Some(&users),
            ..reads.clone()
        };
        let (sums, notices) = self.each_user(&reads, &SamePeriod { retention, tied })?;
        for (number, users) in sums.into_iter().flat_map(|(_, back)| back) {
            let (cohort, _) = cohorts.cohort(number);
            cohort.add(0, users);
        }
        Ok(notices)
    }
}
