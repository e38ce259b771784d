//! Calendar days and buckets in a time zone: the only module that knows the zone database.
//!
//! Everything is in microseconds since 1970-01-01 UTC. UTC, the default, is plain arithmetic.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pugmark_engine::time::{MICROS_PER_DAY, civil_from_day, day_from_civil, day_of};

use crate::error::ZoneError;

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
        let day = self.day(micros);
        let (first, next) = match unit {
            CalendarUnit::Hour => return self.hour(micros),
            CalendarUnit::Day => (day, day + 1),
            // 1970-01-01 was a Thursday: day -3 a Monday.
            CalendarUnit::Week => {
                let monday = day - (day + 3).rem_euclid(7);
                (monday, monday + 7)
            }
            CalendarUnit::Month => {
                let (year, month, _) = civil_from_day(day);
                let next = if month == 12 {
                    day_from_civil(year + 1, 1, 1)
                } else {
                    day_from_civil(year, month + 1, 1)
                };
                (day_from_civil(year, month, 1), next)
            }
        };
        Bucket {
            start: self.midnight(first),
            end: self.midnight(next),
        }
    }

    fn hour(&self, micros: i64) -> Bucket {
        const HOUR: i64 = MICROS_PER_DAY / 24;
        let offset = self.offset(micros);
        let into_hour = micros.saturating_add(offset).rem_euclid(HOUR);
        let start = micros.saturating_sub(into_hour);
        Bucket {
            start,
            end: start.saturating_add(HOUR),
        }
    }

    /// The first instant of a local day.
    fn midnight(&self, day: i64) -> i64 {
        let utc = day.saturating_mul(MICROS_PER_DAY);
        let Some(zone) = &self.0 else { return utc };
        let (year, month, of_month) = civil_from_day(day);
        let civil = i16::try_from(year)
            .ok()
            .and_then(|year| DateTime::new(year, month as i8, of_month as i8, 0, 0, 0, 0).ok());
        // A skipped midnight is the instant after the gap, a repeated one its first occurrence.
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

    proptest! {
        /// Buckets partition the time axis: each instant is inside its own, and both ends of a
        /// bucket agree with it about where it lies.
        #[test]
        fn buckets_partition_time(
            micros in at("1990-01-01T00:00:00Z")..at("2035-01-01T00:00:00Z"),
            zone in prop::sample::select(vec!["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut"]),
            unit in prop::sample::select(vec![CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month]),
        ) {
            let zone = Zone::named(zone).unwrap();
            let bucket = zone.bucket(unit, micros);
            prop_assert!(bucket.contains(micros));
            prop_assert_eq!(zone.bucket(unit, bucket.start), bucket);
            prop_assert_eq!(zone.bucket(unit, bucket.end - 1), bucket);
            prop_assert_eq!(zone.bucket(unit, bucket.end).start, bucket.end);
        }

        #[test]
        fn no_instant_overflows(micros: i64) {
            let zone = Zone::named("America/New_York").unwrap();
            for unit in [CalendarUnit::Hour, CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month] {
                zone.bucket(unit, micros);
                Zone::UTC.bucket(unit, micros);
            }
        }
    }
}
