//! Spans of time and the ranges that questions are asked over.

use pugmark_engine::time::{MICROS_PER_DAY, MICROS_PER_SECOND};

use crate::error::Invalid;

/// A length of time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The length; questions refuse a negative one.
    pub micros: i64,
}

/// A span of `count` microseconds.
pub fn micros(count: i64) -> Span {
    Span { micros: count }
}

/// A span of `count` seconds.
pub fn seconds(count: i64) -> Span {
    micros(count.saturating_mul(MICROS_PER_SECOND))
}

/// A span of `count` minutes.
pub fn minutes(count: i64) -> Span {
    seconds(count.saturating_mul(60))
}

/// A span of `count` hours.
pub fn hours(count: i64) -> Span {
    seconds(count.saturating_mul(3_600))
}

/// A span of `count` times 24 hours.
pub fn days(count: i64) -> Span {
    micros(count.saturating_mul(MICROS_PER_DAY))
}

/// The range that a question is asked over, as it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeSpec {
    /// Events at this time and later, in microseconds since 1970-01-01 UTC.
    pub since: Option<i64>,
    /// Events before this time.
    pub until: Option<i64>,
    /// Events in `(as_of - last, as_of]`.
    pub last: Option<Span>,
}

/// A range of times with both ends inside; empty where `first > last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// The earliest time inside.
    pub first: i64,
    /// The latest time inside.
    pub last: i64,
}

impl TimeRange {
    /// True where `micros` lies inside.
    pub fn contains(&self, micros: i64) -> bool {
        self.first <= micros && micros <= self.last
    }

    /// True where no time lies inside.
    pub fn is_empty(&self) -> bool {
        self.first > self.last
    }
}

impl TimeSpec {
    /// Refuses ranges that are empty or given twice.
    ///
    /// # Errors
    /// Names the option.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Some(last) = self.last {
            if last.micros <= 0 {
                return Err(Invalid::new("last", "must be longer than nothing"));
            }
            if self.since.is_some() || self.until.is_some() {
                return Err(Invalid::new(
                    "last",
                    "gives both ends of the range, (as_of - last, as_of]; leave out since and until",
                ));
            }
        }
        match (self.since, self.until) {
            (Some(since), Some(until)) if since >= until => {
                Err(Invalid::new("until", "must be later than since"))
            }
            _ => Ok(()),
        }
    }

    /// The times that are asked about at `as_of`: none is later than it.
    pub fn resolve(&self, as_of: i64) -> TimeRange {
        const EMPTY: TimeRange = TimeRange { first: 1, last: 0 };
        let first = match (self.since, self.last) {
            (_, Some(last)) => as_of.saturating_sub(last.micros).saturating_add(1),
            (Some(since), None) => since,
            (None, None) => i64::MIN,
        };
        let last = match self.until {
            Some(i64::MIN) => return EMPTY,
            Some(until) => as_of.min(until - 1),
            None => as_of,
        };
        TimeRange { first, last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_is_open_at_its_start_and_until_at_its_end() {
        let spec = |since, until, last: Option<i64>| TimeSpec {
            since,
            until,
            last: last.map(micros),
        };
        let range = spec(None, None, Some(10)).resolve(100);
        assert!(!range.contains(90) && range.contains(91) && range.contains(100));
        let range = spec(Some(5), Some(8), None).resolve(100);
        assert!(range.contains(5) && range.contains(7) && !range.contains(8));
        assert_eq!(spec(Some(5), Some(800), None).resolve(100).last, 100);
        assert!(spec(None, Some(i64::MIN), None).resolve(0).is_empty());
        assert!(spec(Some(5), None, Some(1)).validate().is_err());
        assert!(spec(Some(5), Some(5), None).validate().is_err());
        assert!(spec(None, None, Some(0)).validate().is_err());
    }
}
