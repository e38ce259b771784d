//! Stickiness: each user's different units of each period, counted.

use std::collections::BTreeMap;

use pugmark_engine::bitmap::Words;
use pugmark_engine::time::MICROS_PER_DAY;

use crate::behaviour::{Notices, Stickiness, StickinessResult, StickinessRow};

use super::activity::{Asked as Activities, ByPeriod, part_of};
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

/// How often each user of a container was counted: bit `i` of all counts is set `i`.
#[derive(Default)]
struct Counter {
    bits: Vec<Words>,
    most: u64,
}

impl Counter {
    /// Counts these users once more.
    fn add(&mut self, users: &Words) {
        self.most += 1;
        let mut carry = users.clone();
        for bit in &mut self.bits {
            let mut both = bit.clone();
            both.and(&carry);
            bit.toggle(&carry);
            carry = both;
        }
        if !carry.is_empty() {
            self.bits.push(carry);
        }
    }

    /// Calls `each` with every count and the number of users who have it.
    fn counts(&self, mut each: impl FnMut(u64, u32)) {
        let Some((first, more)) = self.bits.split_first() else {
            return;
        };
        let mut anybody = first.clone();
        more.iter().for_each(|bit| anybody.or(bit));
        for count in 1..=self.most {
            let mut users = anybody.clone();
            for (place, bit) in self.bits.iter().enumerate() {
                match count >> place & 1 {
                    0 => users.and_not(bit),
                    _ => users.and(bit),
                }
            }
            // A count that does not fit the bits is nobody's.
            if count >> self.bits.len() == 0 {
                each(count, users.len());
            }
        }
    }
}

/// Counts the users of one container by period and units; `days` has them by day.
fn add_units(
    counts: &mut BTreeMap<(i64, u64), u64>,
    days: &ByPeriod,
    Calendars { periods, units }: &mut Calendars<'_>,
) {
    let numbered = days.iter().map(|(day, users)| {
        let start = day * MICROS_PER_DAY;
        (periods.number(start), units.number(start), users)
    });
    let numbered: Vec<_> = numbered.collect();
    for period in numbered.chunk_by(|left, right| left.0 == right.0) {
        let mut counter = Counter::default();
        for unit in period.chunk_by(|left, right| left.1 == right.1) {
            let mut users = Words::new();
            unit.iter().for_each(|(_, _, day)| users.or(day));
            counter.add(&users);
        }
        counter.counts(|units, users| {
            if users > 0 {
                *counts.entry((period[0].0, units)).or_default() += u64::from(users);
            }
        });
    }
}

impl Executor {
    /// The table of a stickiness question. Answered by bitmaps of days where the condition names
    /// events only and days are those of UTC; otherwise reads the active events.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn stickiness(&self, stickiness: &Stickiness) -> Result<StickinessResult, QueryError> {
        stickiness.validate()?;
        let reads = self.stickiness_reads(stickiness);
        let active = Activities {
            conditions: reads.conditions.clone(),
            range: reads.range,
            users: reads.users,
            zone: &stickiness.zone,
            // Of which all other units are made; weeks end in the midst of months.
            unit: part_of(stickiness.unit),
        };
        let by_bitmaps = self.by_activity(
            &active,
            |counts, active| {
                add_units(counts, &active.users[0], &mut Calendars::new(stickiness));
                Ok(())
            },
            |counts| counts.len() * ENTRY_BYTES,
        )?;
        let (counts, notices) = match by_bitmaps {
            Some(counts) => (added_up(counts.into_iter()), Notices::default()),
            None => {
                let (sums, notices) = self.each_user(&reads, &Table(stickiness))?;
                let counts = sums.into_iter().map(|(_, counts)| counts);
                (added_up(counts), notices)
            }
        };
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
            only_with: None,
            users: stickiness.users.as_ref(),
            operands: Vec::new(),
        }
    }
}
