//! The hours of a day at which users have rows.
//!
//! "In the last 30 days" begins and ends at the time of the question, so that it breaks two days.
//! The bitmap of a day does not know whether a user came before or after. A table of the hours
//! does, but for the one that is broken itself; it is made of the rows of the day's users container
//! by container when first needed, and kept: by the next question the range has moved on by
//! minutes, but the day is the same.

use std::ops::Range;
use std::sync::Arc;

use super::kept::Made;
use super::run::NameRun;
use crate::bitmap::Words;
use crate::error::Corruption;
use crate::time::MICROS_PER_DAY;

/// Microseconds in an hour.
const MICROS_PER_HOUR: i64 = MICROS_PER_DAY / 24;
/// Tables take at most this part of their segment's size.
const KEPT_PART: usize = 32;

/// A set of hours of a UTC day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hours(u32);

/// When the users of one day of a run have rows.
#[derive(Clone, Debug)]
pub struct DayHours<'a> {
    run: NameRun<'a>,
    day: i64,
    made: Arc<Made<HourTable>>,
}

/// A container's users of a day.
#[derive(Debug)]
pub(super) struct HourTable(Box<[UserHours]>);

/// A user's low half, and the hours at which it has rows.
#[derive(Clone, Copy, Debug)]
struct UserHours {
    low: u16,
    hours: Hours,
}

impl Hours {
    /// The hours of the UTC day `day` (since 1970-01-01) that lie wholly between `first` and
    /// `last`, both included, in microseconds; and those of which only a part does.
    pub fn of_range(day: i64, first: i64, last: i64) -> (Self, Self) {
        let (mut whole, mut broken) = (Self::default(), Self::default());
        let midnight = day.saturating_mul(MICROS_PER_DAY);
        for hour in 0..24 {
            let start = midnight.saturating_add(hour * MICROS_PER_HOUR);
            let end = start.saturating_add(MICROS_PER_HOUR - 1);
            if first <= start && end <= last {
                whole.0 |= 1 << hour;
            } else if first <= end && start <= last {
                broken.0 |= 1 << hour;
            }
        }
        (whole, broken)
    }

    /// The hours of either.
    pub fn or(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    fn has_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

impl<'a> NameRun<'a> {
    /// The hours at which users have rows on the UTC day `day` (since 1970-01-01); `None` where
    /// there are no rows on that day, or keeping them would cost too much.
    ///
    /// # Errors
    /// Where the run's index or its users are damaged.
    pub fn day_hours(&self, day: i64) -> Result<Option<DayHours<'a>>, Corruption> {
        let days = &self.index()?.days;
        let Ok(place) = days.binary_search_by_key(&day, |entry| entry.day.into()) else {
            return Ok(None);
        };
        let bytes = days[place].users as usize * size_of::<UserHours>();
        let kept = &self.segment.kept_hours;
        let made = kept.of_days(self, place..place + 1, bytes, KEPT_PART)?;
        let run = *self;
        Ok(made.map(|made| DayHours { run, day, made }))
    }
}

impl DayHours<'_> {
    /// Adds the users of container `key` that have rows in any hour of `one` to `ones`, and of
    /// `two` to `twos`. The first question about a container reads the rows of all of its users of
    /// the day, the others none. False where nothing is known: then nothing is added.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn or_into(
        &self,
        key: u16,
        (one, ones): (Hours, &mut Words),
        (two, twos): (Hours, &mut Words),
    ) -> Result<bool, Corruption> {
        let add = |table: &HourTable| {
            table.for_each(|user| {
                ones.insert_if(user.low, user.hours.has_any(one));
                twos.insert_if(user.low, user.hours.has_any(two));
            });
        };
        self.with_table(key, add)
    }

    /// Appends those of `wanted` that are users of container `key` and have rows in any of `hours`
    /// to `lows`, ascending. False where nothing is known: then none is appended.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn common(
        &self,
        key: u16,
        hours: Hours,
        wanted: &Words,
        lows: &mut Vec<u16>,
    ) -> Result<bool, Corruption> {
        self.with_table(key, |table| {
            // Who is common is hard to foresee, so each is written and mostly overwritten.
            let mut end = lows.len();
            lows.resize(end + table.0.len(), 0);
            for user in &table.0 {
                lows[end] = user.low;
                end += usize::from(wanted.contains(user.low) & user.hours.has_any(hours));
            }
            lows.truncate(end);
        })
    }

    fn with_table(&self, key: u16, with: impl FnOnce(&HourTable)) -> Result<bool, Corruption> {
        let Ok(place) = self.run.users()?.position(key) else {
            return Ok(true);
        };
        let table = self.made.get(place, || self.table(key))?;
        Ok(table.map(with).is_some())
    }

    fn table(&self, key: u16) -> Result<HourTable, Corruption> {
        let mut lows = Vec::new();
        if let Some(users) = self.run.day_users(self.day)? {
            users
                .container(key)
                .inspect(|users| users.append_to(&mut lows));
        }
        let rows = self.run.container_rows(key)?;
        let times = self.run.times(rows.clone())?;
        let mut asked: Vec<Range<usize>> = Vec::with_capacity(lows.len());
        self.run.rows_of_users(key, &lows, |_, own| {
            asked.push((own.start - rows.start) as usize..(own.end - rows.start) as usize);
        })?;
        if asked.len() != lows.len() {
            return Err(self.run.wrong_users());
        }
        let midnight = self.day.saturating_mul(MICROS_PER_DAY);
        let hours_of = |own: Range<usize>| {
            let mut hours = Hours::default();
            for row in times.first_from(own.clone(), midnight)..own.end {
                let in_day = times.get(row).wrapping_sub(midnight);
                if !(0..MICROS_PER_DAY).contains(&in_day) {
                    break;
                }
                hours.0 |= 1 << (in_day / MICROS_PER_HOUR);
            }
            hours
        };
        let of_user = |(low, own)| UserHours {
            low,
            hours: hours_of(own),
        };
        let users = lows.into_iter().zip(asked);
        Ok(HourTable(users.map(of_user).collect()))
    }
}

impl HourTable {
    /// Calls `visit` with each user, in no order.
    fn for_each(&self, mut visit: impl FnMut(&UserHours)) {
        // Neighbours fall into the same word and wait for each other; quarters do not.
        let quarter = self.0.len() / 4;
        let (first, rest) = self.0.split_at(quarter);
        let (second, rest) = rest.split_at(quarter);
        let (third, rest) = rest.split_at(quarter);
        let (fourth, last) = rest.split_at(quarter);
        for (((a, b), c), d) in first.iter().zip(second).zip(third).zip(fourth) {
            [a, b, c, d].into_iter().for_each(&mut visit);
        }
        last.iter().for_each(visit);
    }
}
