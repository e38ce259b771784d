//! Lifecycle: each user's active periods, one after the other, and what they make of the user.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use pugmark_engine::bitmap::Words;
use roaring::RoaringBitmap;

use crate::behaviour::{
    Lifecycle, LifecycleResult, LifecycleRow, LifecycleStatus, Notices, TimeRange,
};

use super::activity::{Asked as Activities, ByPeriod};
use super::control::QueryError;
use super::each_user::{Fold, Reads, UserHistory};
use super::periods::{ENTRY_BYTES, Periods, added_up};
use super::{Executor, UserSet};

/// What a question reads, and the periods that it has rows for.
struct Asked<'q> {
    reads: Reads<'q>,
    /// By number.
    periods: RangeInclusive<i64>,
}

/// Calls `each` with the number of each period in which the user has a status, ascending.
fn each_status(
    user: &UserHistory<'_>,
    periods: &mut Periods<'_>,
    mut each: impl FnMut(i64, LifecycleStatus),
) {
    let mut before: Option<i64> = None;
    for &time in user.times {
        let period = periods.number(time);
        match before {
            None => each(period, LifecycleStatus::New),
            Some(before) if before == period => {}
            Some(before) if before + 1 == period => each(period, LifecycleStatus::Returning),
            Some(before) => {
                each(before + 1, LifecycleStatus::Dormant);
                each(period, LifecycleStatus::Resurrecting);
            }
        }
        before = Some(period);
    }
    if let Some(last) = before {
        each(last + 1, LifecycleStatus::Dormant);
    }
}

/// Counts the users of each period by status.
struct Table<'q> {
    lifecycle: &'q Lifecycle,
    periods: RangeInclusive<i64>,
}

impl<'q> Fold for Table<'q> {
    type Sum = (Periods<'q>, BTreeMap<(i64, LifecycleStatus), u64>);

    fn begin(&self) -> Self::Sum {
        let Lifecycle { zone, period, .. } = self.lifecycle;
        (Periods::new(zone, *period), BTreeMap::new())
    }

    fn user(&self, user: &UserHistory<'_>, sum: &mut Self::Sum) -> Result<(), QueryError> {
        let (periods, counts) = sum;
        each_status(user, periods, |period, status| {
            if self.periods.contains(&period) {
                *counts.entry((period, status)).or_default() += 1;
            }
        });
        Ok(())
    }

    fn byte_len(&self, (_, counts): &Self::Sum) -> usize {
        counts.len() * ENTRY_BYTES
    }
}

/// Counts the users of one container by period and status.
fn add_statuses(
    counts: &mut BTreeMap<(i64, LifecycleStatus), u64>,
    active: &ByPeriod,
    periods: &RangeInclusive<i64>,
) {
    let mut add = |period, status, users: u32| {
        if users > 0 && periods.contains(&period) {
            *counts.entry((period, status)).or_default() += u64::from(users);
        }
    };
    let mut seen = Words::new();
    let mut before: Option<&(i64, Words)> = None;
    for period in active {
        let (number, users) = period;
        let known = users.common_len(&seen);
        let mut stayed = 0;
        if let Some((last, active)) = before {
            let is_next = last + 1 == *number;
            stayed = if is_next { users.common_len(active) } else { 0 };
            add(last + 1, LifecycleStatus::Dormant, active.len() - stayed);
        }
        add(*number, LifecycleStatus::New, users.len() - known);
        add(*number, LifecycleStatus::Returning, stayed);
        add(*number, LifecycleStatus::Resurrecting, known - stayed);
        seen.or(users);
        before = Some(period);
    }
    if let Some((last, active)) = before {
        add(last + 1, LifecycleStatus::Dormant, active.len());
    }
}

impl Executor {
    /// The table of a lifecycle question. Who is new is told by the active events before the range.
    /// Answered by bitmaps of days where the condition names events only and days are those of UTC;
    /// otherwise reads the active events from the first on.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn lifecycle(&self, lifecycle: &Lifecycle) -> Result<LifecycleResult, QueryError> {
        lifecycle.validate()?;
        let Some(Asked { reads, periods }) = self.lifecycle_asked(lifecycle) else {
            return Ok(LifecycleResult::default());
        };
        let active = Activities {
            conditions: reads.conditions.clone(),
            range: reads.range,
            users: reads.users,
            zone: &lifecycle.zone,
            unit: lifecycle.period,
        };
        let by_bitmaps = self.by_activity(
            &active,
            |counts, active| {
                add_statuses(counts, &active.users[0], &periods);
                Ok(())
            },
            |counts| counts.len() * ENTRY_BYTES,
        )?;
        let (counts, notices) = match by_bitmaps {
            Some(counts) => (added_up(counts.into_iter()), Notices::default()),
            None => {
                let (sums, notices) = self.each_user(&reads, &Table { lifecycle, periods })?;
                let counts = sums.into_iter().map(|(_, counts)| counts);
                (added_up(counts), notices)
            }
        };
        let rows = counts.into_iter().map(|((number, status), users)| {
            let period = lifecycle.zone.numbered(lifecycle.period, number);
            LifecycleRow {
                period: period.start,
                status,
                users,
            }
        });
        Ok(LifecycleResult {
            rows: rows.collect(),
            notices,
        })
    }

    /// The users who have a status in the period in which the instant `period` lies.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn lifecycle_users(
        &self,
        lifecycle: &Lifecycle,
        period: i64,
        status: LifecycleStatus,
    ) -> Result<UserSet, QueryError> {
        lifecycle.validate()?;
        let Lifecycle {
            zone, period: unit, ..
        } = lifecycle;
        let wanted = zone.number(*unit, period);
        match self.lifecycle_asked(lifecycle) {
            Some(Asked { reads, periods }) if periods.contains(&wanted) => self.users_who(
                &reads,
                || Periods::new(zone, *unit),
                |user, periods| {
                    let mut has = false;
                    each_status(user, periods, |period, found| {
                        has |= period == wanted && found == status;
                    });
                    has
                },
            ),
            _ => Ok(self.user_set(RoaringBitmap::new(), Notices::default())),
        }
    }

    /// `None` where the range is empty.
    fn lifecycle_asked<'q>(&self, lifecycle: &'q Lifecycle) -> Option<Asked<'q>> {
        let Lifecycle { zone, period, .. } = lifecycle;
        let range = lifecycle.range.resolve(self.as_of());
        if range.is_empty() {
            return None;
        }
        let number = |micros| zone.number(*period, micros);
        Some(Asked {
            reads: Reads {
                conditions: vec![&lifecycle.active],
                range: TimeRange {
                    first: i64::MIN,
                    last: range.last,
                },
                only_with: None,
                users: lifecycle.users.as_ref(),
                operands: Vec::new(),
            },
            periods: number(range.first)..=number(range.last),
        })
    }
}
