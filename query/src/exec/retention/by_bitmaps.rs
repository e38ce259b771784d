//! Retention as algebra over the users of days.
//!
//! A user's cohort is the period of the first day with a start, and a return in a later period is a
//! member of two sets. Whether somebody who started and came back on one day did so in this order
//! is all that bitmaps do not tell; those who are not seen on a later day of the period are open,
//! and their events are read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pugmark_engine::bitmap::Words;
use roaring::RoaringBitmap;

use super::{Cohorts, ENTRY_BYTES, Own, RETURNS, START};
use crate::behaviour::{Notices, Retention, ReturnMode, Segment};
use crate::exec::Executor;
use crate::exec::activity::{Asked, ByPeriod, part_of};
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
    fn day(&mut self, started: Option<&Words>, returned: Option<&Words>, seen: &Words) {
        if let Some(returned) = returned {
            let mut again = returned.clone();
            again.and(&self.cohort);
            self.again.or(&again);
            self.returned.or(returned);
        }
        if let Some(started) = started {
            let mut fresh = started.clone();
            fresh.and_not(seen);
            fresh.and_not(&self.cohort);
            self.cohort.or(&fresh);
            if let Some(returned) = returned {
                fresh.and(returned);
                self.open.or(&fresh);
            }
        }
    }
}

/// The periods of a container's users, ascending.
fn periods(retention: &Retention, starts: &ByPeriod, returns: &ByPeriod) -> Vec<Period> {
    let on = |days: &'_ ByPeriod, day| days.binary_search_by_key(&day, |(day, _)| *day).ok();
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
            let started = on(starts, day).map(|place| &starts[place].1);
            let returned = on(returns, day).map(|place| &returns[place].1);
            period.day(started, returned, &seen);
        }
    }
    for period in &mut periods {
        period.open.and_not(&period.again);
    }
    periods
}

/// What a thread adds up.
#[derive(Debug, Default)]
struct Sum {
    cohorts: Cohorts,
    /// The users of each cohort of whom events must tell whether they came back in its own period.
    open: BTreeMap<i64, RoaringBitmap>,
}

impl Sum {
    /// Adds the users of container `key`.
    fn add(&mut self, retention: &Retention, key: u16, found: &[ByPeriod]) {
        let last_day = found.iter().flatten().map(|(day, _)| *day).max();
        let last = last_day.map(|day| retention.zone.numbered(CalendarUnit::Day, day).start);
        self.cohorts.last = self.cohorts.last.max(last);
        let periods = periods(retention, &found[START], &found[RETURNS]);
        for (place, period) in periods.iter().enumerate() {
            if !period.cohort.is_empty() {
                let later = &periods[place + 1..];
                self.cohort(period, later, retention.mode, key);
            }
        }
    }

    fn cohort(&mut self, period: &Period, later: &[Period], mode: ReturnMode, key: u16) {
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
        if !open.is_empty() {
            let high = u32::from(key) << 16;
            let users = open.iter().map(|low| high | u32::from(low));
            let known = self.open.entry(period.number).or_default();
            *known |= users.collect::<RoaringBitmap>();
        }
    }

    fn byte_len(&self) -> usize {
        let open = self.open.values();
        let open = open.map(|users| users.serialized_size() + ENTRY_BYTES);
        self.cohorts.bytes + open.sum::<usize>()
    }
}

/// Counts who came back in the period of the start, among users of whom nothing else is asked.
struct SamePeriod<'q> {
    retention: &'q Retention,
    open: &'q BTreeMap<i64, RoaringBitmap>,
}

impl<'q> Fold for SamePeriod<'q> {
    type Sum = (Own<'q>, BTreeMap<i64, u64>);

    fn begin(&self) -> Self::Sum {
        (Own::new(self.retention), BTreeMap::new())
    }

    fn user(&self, user: &UserHistory<'_>, (own, back): &mut Self::Sum) -> Result<(), QueryError> {
        own.each_cohort(user, |cohort, periods| {
            let is_open = || {
                self.open
                    .get(&cohort)
                    .is_some_and(|open| open.contains(user.ordinal))
            };
            if periods.first() == Some(&0) && is_open() {
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
        let add = |sum: &mut Sum, key, found: &[ByPeriod]| sum.add(retention, key, found);
        let Some(sums) = self.by_activity(&asked, add, Sum::byte_len)? else {
            return Ok(None);
        };
        let mut cohorts = Cohorts::default();
        let mut open: BTreeMap<i64, RoaringBitmap> = BTreeMap::new();
        for sum in sums {
            cohorts.merge(sum.cohorts);
            for (number, users) in sum.open {
                *open.entry(number).or_default() |= users;
            }
        }
        let notices = self.add_same_period(retention, &reads, &open, &mut cohorts)?;
        Ok(Some((cohorts, notices)))
    }

    /// Reads the events of open users.
    fn add_same_period(
        &self,
        retention: &Retention,
        reads: &Reads<'_>,
        open: &BTreeMap<i64, RoaringBitmap>,
        cohorts: &mut Cohorts,
    ) -> Result<Notices, QueryError> {
        let everybody = open
            .values()
            .fold(RoaringBitmap::new(), |all, users| all | users);
        if everybody.is_empty() {
            return Ok(Notices::default());
        }
        let users = Segment::Users(Arc::new(everybody));
        let reads = Reads {
            users: Some(&users),
            ..reads.clone()
        };
        let (sums, notices) = self.each_user(&reads, &SamePeriod { retention, open })?;
        for (number, users) in sums.into_iter().flat_map(|(_, back)| back) {
            let (cohort, _) = cohorts.cohort(number);
            cohort.add(0, users);
        }
        Ok(notices)
    }
}
