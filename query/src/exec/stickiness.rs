//! Stickiness: each user's different units of each period, counted.

use std::collections::BTreeMap;

use crate::behaviour::{Stickiness, StickinessResult, StickinessRow};

use super::control::QueryError;
use super::each_user::{Fold, Reads, UserHistory};
use super::periods::{ENTRY_BYTES, Periods, added_up};
use super::{Executor, UserSet};

/// The two calendars of a question.
struct Calendars<'q> {
    periods: Periods<'q>,
    units: Periods<'q>,
}

impl<'q> Calendars<'q> {
    fn new(stickiness: &'q Stickiness) -> Self {
        Self {
            periods: Periods::new(&stickiness.zone, stickiness.period),
            units: Periods::new(&stickiness.zone, stickiness.unit),
        }
    }

    /// Calls `each` with the number of each period in which the user is active, and in how many
    /// different units of it.
    fn each_period(&mut self, user: &UserHistory<'_>, mut each: impl FnMut(i64, u64)) {
        // Period, unit, and how many different units of the period up to it.
        let mut open: Option<(i64, i64, u64)> = None;
        for &time in user.times {
            let (period, unit) = (self.periods.number(time), self.units.number(time));
            match &mut open {
                Some((same, last, count)) if *same == period => {
                    *count += u64::from(*last != unit);
                    *last = unit;
                }
                _ => {
                    if let Some((period, _, count)) = open {
                        each(period, count);
                    }
                    open = Some((period, unit, 1));
                }
            }
        }
        if let Some((period, _, count)) = open {
            each(period, count);
        }
    }
}

/// Counts users by period and units.
struct Table<'q>(&'q Stickiness);

impl<'q> Fold for Table<'q> {
    type Sum = (Calendars<'q>, BTreeMap<(i64, u64), u64>);

    fn begin(&self) -> Self::Sum {
        (Calendars::new(self.0), BTreeMap::new())
    }

    fn user(&self, user: &UserHistory<'_>, sum: &mut Self::Sum) -> Result<(), QueryError> {
        let (calendars, counts) = sum;
        calendars.each_period(user, |period, units| {
            *counts.entry((period, units)).or_default() += 1;
        });
        Ok(())
    }

    fn byte_len(&self, (_, counts): &Self::Sum) -> usize {
        counts.len() * ENTRY_BYTES
    }
}

impl Executor {
    /// The table of a stickiness question.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn stickiness(&self, stickiness: &Stickiness) -> Result<StickinessResult, QueryError> {
        stickiness.validate()?;
        let reads = self.stickiness_reads(stickiness);
        let (sums, notices) = self.each_user(&reads, &Table(stickiness))?;
        let counts = added_up(sums.into_iter().map(|(_, counts)| counts));
        let rows = counts.into_iter().map(|((number, units), users)| {
            let period = stickiness.zone.numbered(stickiness.period, number);
            StickinessRow {
                period: period.start,
                units,
                users,
            }
        });
        Ok(StickinessResult {
            rows: rows.collect(),
            notices,
        })
    }

    /// The users who are active in just `units` units of the period in which the instant `period`
    /// lies.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn stickiness_users(
        &self,
        stickiness: &Stickiness,
        period: i64,
        units: u64,
    ) -> Result<UserSet, QueryError> {
        stickiness.validate()?;
        let wanted = stickiness.zone.number(stickiness.period, period);
        self.users_who(
            &self.stickiness_reads(stickiness),
            || Calendars::new(stickiness),
            |user, calendars| {
                let mut has = false;
                calendars.each_period(user, |period, found| {
                    has |= period == wanted && found == units;
                });
                has
            },
        )
    }

    fn stickiness_reads<'q>(&self, stickiness: &'q Stickiness) -> Reads<'q> {
        Reads {
            conditions: vec![&stickiness.active],
            range: stickiness.range.resolve(self.as_of()),
            users: stickiness.users.as_ref(),
            operands: Vec::new(),
        }
    }
}
