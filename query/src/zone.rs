//! Calendar days and buckets in a time zone: the only module that knows the zone database.
//!
//! Everything is in microseconds since 1970-01-01 UTC. UTC, the default, is plain arithmetic.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pugmark_engine::time::{MICROS_PER_DAY, civil_from_day, day_from_civil, day_of};

use crate::error::ZoneError;

const HOUR: i64 = MICROS_PER_DAY / 24;

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CalendarUnit {
    /// Hours of the clock.
    Hour,
    /// Days from midnight.
    Day,
    /// Weeks from Monday.
    Week,
    /// Months from the first.
    Month,
}

/// A calendar bucket: the half-open range of instants `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    /// Its first instant, in microseconds since 1970-01-01 UTC.
    pub start: i64,
    /// The first instant after it.
    pub end: i64,
}

impl Bucket {
    /// True where `micros` lies inside.
    pub fn contains(&self, micros: i64) -> bool {
        self.start <= micros && micros < self.end
    }
}

/// A time zone; [`Zone::UTC`] by default.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Zone(Option<TimeZone>);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(None);

    /// The zone of an IANA name such as `Europe/Berlin`; `UTC` is [`Zone::UTC`].
    ///
    /// # Errors
    /// Where the compiled-in database has no such zone.
    pub fn named(name: &str) -> Result<Self, ZoneError> {
        if name.eq_ignore_ascii_case("utc") || name.eq_ignore_ascii_case("etc/utc") {
            return Ok(Self::UTC);
        }
        match jiff::tz::db().get(name) {
            Ok(zone) => Ok(Self(Some(zone))),
            Err(_) => Err(ZoneError {
                name: name.to_owned(),
            }),
        }
    }

    /// The local calendar day that `micros` lies in, in days since 1970-01-01.
    pub fn day(&self, micros: i64) -> i64 {
        day_of(micros.saturating_add(self.offset(micros)))
    }

    /// The bucket that `micros` lies in.
    ///
    /// Hours are cut on the local clock at the offset in force, so the hour that a clock repeats
    /// in autumn is two buckets. At the ends of the time axis bounds saturate.
    pub fn bucket(&self, unit: CalendarUnit, micros: i64) -> Bucket {
        match unit {
            CalendarUnit::Hour => self.hour(micros),
            _ => self.numbered(unit, self.number(unit, micros)),
        }
    }

    /// The number of the bucket that `micros` lies in. Buckets that follow each other have numbers
    /// that do; they mean nothing else.
    ///
    /// Where a clock is set by a part of an hour, hours that overlap there may share a number.
    pub(crate) fn number(&self, unit: CalendarUnit, micros: i64) -> i64 {
        let number = match unit {
            CalendarUnit::Hour => return self.hour(micros).start.div_euclid(HOUR),
            CalendarUnit::Day => self.day(micros),
            // 1970-01-01 was a Thursday: day -3 a Monday.
            CalendarUnit::Week => (self.day(micros) + 3).div_euclid(7),
            CalendarUnit::Month => {
                let (year, month, _) = civil_from_day(self.day(micros));
                year * 12 + i64::from(month) - 1
            }
        };
        // A clock that is set back soon after midnight shows the day before once more; a bucket is
        // one range of instants nevertheless, so that this belongs to the day that has begun.
        if self.0.is_some() && self.numbered(unit, number).end <= micros {
            return number.saturating_add(1);
        }
        number
    }

    /// The bucket of a [number](Self::number).
    pub(crate) fn numbered(&self, unit: CalendarUnit, number: i64) -> Bucket {
        let first_day = |number: i64| match unit {
            CalendarUnit::Week => number.saturating_mul(7).saturating_sub(3),
            CalendarUnit::Month => first_of_month(number),
            CalendarUnit::Day | CalendarUnit::Hour => number,
        };
        if unit == CalendarUnit::Hour {
            return self.hour(number.saturating_mul(HOUR).saturating_add(HOUR - 1));
        }
        Bucket {
            start: self.local(first_day(number), 0),
            end: self.local(first_day(number.saturating_add(1)), 0),
        }
    }

    /// The instant `count` calendar units after `micros`: the same time of day on a later day, of a
    /// month the same day or its last; an hour is an hour.
    pub(crate) fn later(&self, unit: CalendarUnit, micros: i64, count: i64) -> i64 {
        let local = micros.saturating_add(self.offset(micros));
        let day = day_of(local);
        let day = match unit {
            CalendarUnit::Hour => return micros.saturating_add(count.saturating_mul(HOUR)),
            CalendarUnit::Day => day.saturating_add(count),
            CalendarUnit::Week => day.saturating_add(count.saturating_mul(7)),
            CalendarUnit::Month => {
                let (year, month, of_month) = civil_from_day(day);
                let month = (year * 12 + i64::from(month) - 1).saturating_add(count);
                let day = first_of_month(month) + i64::from(of_month) - 1;
                day.min(first_of_month(month + 1) - 1)
            }
        };
        self.local(day, local.rem_euclid(MICROS_PER_DAY))
    }

    fn hour(&self, micros: i64) -> Bucket {
        let offset = self.offset(micros);
        let into_hour = micros.saturating_add(offset).rem_euclid(HOUR);
        let start = micros.saturating_sub(into_hour);
        Bucket {
            start,
            end: start.saturating_add(HOUR),
        }
    }

    /// The instant of a time of a local day.
    fn local(&self, day: i64, micros_of_day: i64) -> i64 {
        let utc = day
            .saturating_mul(MICROS_PER_DAY)
            .saturating_add(micros_of_day);
        let Some(zone) = &self.0 else { return utc };
        let (year, month, of_month) = civil_from_day(day);
        let midnight = i16::try_from(year)
            .ok()
            .and_then(|year| DateTime::new(year, month as i8, of_month as i8, 0, 0, 0, 0).ok());
        let into_day = SignedDuration::from_micros(micros_of_day);
        let civil = midnight.and_then(|midnight| midnight.checked_add(into_day).ok());
        // A skipped time is as long after the gap as it would lie in it, a repeated one its first
        // occurrence; so a day whose midnight is skipped begins right after the gap.
        match civil.map(|civil| zone.to_ambiguous_timestamp(civil).compatible()) {
            Some(Ok(instant)) => instant.as_microsecond(),
            _ => utc.saturating_sub(self.offset(utc)),
        }
    }

    /// Local time less UTC at `micros`, in microseconds.
    fn offset(&self, micros: i64) -> i64 {
        let Some(zone) = &self.0 else { return 0 };
        // The database covers the years -9999 to 9999; beyond, its outermost offsets hold.
        let instant = Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        });
        let offset = SignedDuration::from(zone.to_offset(instant));
        offset.as_secs() * 1_000_000
    }
}

/// The first day of a month, which is numbered from that of the year 0.
fn first_of_month(number: i64) -> i64 {
    day_from_civil(number.div_euclid(12), number.rem_euclid(12) as u32 + 1, 1)
}

impl fmt::Debug for Zone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Zone({self})")
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.as_ref().map(|zone| zone.iana_name());
        out.write_str(name.flatten().unwrap_or("UTC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNITS: [CalendarUnit; 4] = [
        CalendarUnit::Hour,
        CalendarUnit::Day,
        CalendarUnit::Week,
        CalendarUnit::Month,
    ];

    fn at(text: &str) -> i64 {
        let instant: Timestamp = text.parse().unwrap();
        instant.as_microsecond()
    }

    #[test]
    fn buckets_follow_the_zone() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        // The clocks went forward on 2024-03-31: a day of 23 hours.
        let bucket = berlin.bucket(CalendarUnit::Day, at("2024-03-31T12:00:00Z"));
        assert_eq!(bucket.start, at("2024-03-30T23:00:00Z"));
        assert_eq!(bucket.end, at("2024-03-31T22:00:00Z"));
        let week = berlin.bucket(CalendarUnit::Week, at("2024-03-31T12:00:00Z"));
        assert_eq!(week.start, at("2024-03-24T23:00:00Z"));
        let month = Zone::UTC.bucket(CalendarUnit::Month, at("2024-12-31T23:59:59Z"));
        assert_eq!(month.start, at("2024-12-01T00:00:00Z"));
        assert_eq!(month.end, at("2025-01-01T00:00:00Z"));
        let kolkata = Zone::named("Asia/Kolkata").unwrap();
        let hour = kolkata.bucket(CalendarUnit::Hour, at("2024-01-01T00:10:00Z"));
        assert_eq!(hour.start, at("2023-12-31T23:30:00Z"));
        assert!(Zone::named("Mars/Olympus").is_err());
    }

    #[test]
    fn calendar_units_keep_the_time_of_day() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        let noon = at("2024-03-30T11:00:00Z");
        let later = |unit, count| berlin.later(unit, noon, count);
        assert_eq!(later(CalendarUnit::Day, 1), at("2024-03-31T10:00:00Z"));
        assert_eq!(later(CalendarUnit::Hour, 24), at("2024-03-31T11:00:00Z"));
        assert_eq!(later(CalendarUnit::Week, 1), at("2024-04-06T10:00:00Z"));
        assert_eq!(later(CalendarUnit::Month, -1), at("2024-02-29T11:00:00Z"));
        assert_eq!(later(CalendarUnit::Month, 11), at("2025-02-28T11:00:00Z"));
        // Half past two does not exist on the day on which the clocks go forward.
        let night = at("2024-03-30T01:30:00Z");
        let skipped = berlin.later(CalendarUnit::Day, night, 1);
        assert_eq!(skipped, at("2024-03-31T01:30:00Z"));
    }

    proptest! {
        /// Buckets partition the time axis: each instant is inside its own, and both ends of a
        /// bucket agree with it about where it lies.
        #[test]
        fn buckets_partition_time(
            micros in at("1990-01-01T00:00:00Z")..at("2035-01-01T00:00:00Z"),
            zone in prop::sample::select(vec!["UTC", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Asia/Beirut"]),
            unit in prop::sample::select(vec![CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month]),
        ) {
            let zone = Zone::named(zone).unwrap();
            let bucket = zone.bucket(unit, micros);
            prop_assert!(bucket.contains(micros));
            prop_assert_eq!(zone.bucket(unit, bucket.start), bucket);
            prop_assert_eq!(zone.bucket(unit, bucket.end - 1), bucket);
            prop_assert_eq!(zone.bucket(unit, bucket.end).start, bucket.end);
        }

        /// Numbers name buckets, in order and without gaps.
        #[test]
        fn numbers_follow_each_other(
            micros in at("1990-01-01T00:00:00Z")..at("2035-01-01T00:00:00Z"),
            zone in prop::sample::select(vec!["UTC", "America/New_York", "America/St_Johns", "Asia/Kolkata", "Asia/Beirut"]),
            unit in prop::sample::select(UNITS.to_vec()),
        ) {
            let zone = Zone::named(zone).unwrap();
            let bucket = zone.bucket(unit, micros);
            let number = zone.number(unit, micros);
            prop_assert_eq!(zone.numbered(unit, number), bucket);
            prop_assert_eq!(zone.number(unit, bucket.start), number);
            prop_assert_eq!(zone.number(unit, bucket.end), number + 1);
            prop_assert_eq!(zone.number(unit, bucket.start - 1), number - 1);
            let later = zone.later(unit, micros, 1);
            prop_assert!(zone.bucket(unit, bucket.end).contains(later));
        }

        #[test]
        fn no_instant_overflows(micros: i64) {
            let zone = Zone::named("America/New_York").unwrap();
            for unit in UNITS {
                for zone in [&zone, &Zone::UTC] {
                    zone.bucket(unit, micros);
                    zone.later(unit, micros, 1);
                    zone.later(unit, micros, -1);
                }
            }
        }
    }
}
