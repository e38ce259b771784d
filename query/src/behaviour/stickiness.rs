//! Stickiness: how many users are active on how many days of each month.
//!
//! ```
//! use pugmark_query::{CalendarUnit, Stickiness, event};
//! let stickiness = Stickiness::new(event("play"))
//!     .period(CalendarUnit::Week)
//!     .unit(CalendarUnit::Day);
//! stickiness.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use super::condition::Condition;
use super::range::{Span, TimeSpec};
use super::result::Notices;
use super::segment::Segment;
use crate::error::Invalid;
use crate::zone::{CalendarUnit, Zone};

/// A question about how often users are active.
#[derive(Clone, Debug, PartialEq)]
pub struct Stickiness {
    /// Events with which a user is active.
    pub active: Condition,
    /// The calendar unit of the rows.
    pub period: CalendarUnit,
    /// The shorter calendar unit that is counted in each period.
    pub unit: CalendarUnit,
    /// Where days begin.
    pub zone: Zone,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range; every event that counts lies inside.
    pub range: TimeSpec,
}

/// How many users are active in a number of units of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickinessRow {
    /// The first instant of the period, in microseconds since 1970-01-01 UTC.
    pub period: i64,
    /// Different units of it with an event, at least 1.
    pub units: u64,
    /// Users active in just so many, at least 1.
    pub users: u64,
}

/// A stickiness table, ordered by period, then units; there are no rows of nobody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StickinessResult {
    /// The rows.
    pub rows: Vec<StickinessRow>,
    /// Remarks.
    pub notices: Notices,
}

impl Stickiness {
    /// How often users are active, which they are where they have an event that satisfies
    /// `active`: in days of each month of UTC, with every option at its default.
    pub fn new(active: impl Into<Condition>) -> Self {
        Self {
            active: active.into(),
            period: CalendarUnit::Month,
            unit: CalendarUnit::Day,
            zone: Zone::UTC,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// The calendar unit of the rows.
    pub fn period(mut self, unit: CalendarUnit) -> Self {
        self.period = unit;
        self
    }

    /// The shorter calendar unit that is counted. A week that lies in two months counts in each of
    /// them in which the user was active in it.
    pub fn unit(mut self, unit: CalendarUnit) -> Self {
        self.unit = unit;
        self
    }

    /// Where days begin; UTC unless said.
    pub fn zone(mut self, zone: Zone) -> Self {
        self.zone = zone;
        self
    }

    /// Only these users.
    pub fn users(mut self, segment: impl Into<Segment>) -> Self {
        self.users = Some(segment.into());
        self
    }

    /// Events at `micros` and later.
    pub fn since(mut self, micros: i64) -> Self {
        self.range.since = Some(micros);
        self
    }

    /// Events before `micros`.
    pub fn until(mut self, micros: i64) -> Self {
        self.range.until = Some(micros);
        self
    }

    /// Events in `(as_of - span, as_of]`.
    pub fn last(mut self, span: Span) -> Self {
        self.range.last = Some(span);
        self
    }

    /// Refuses options that contradict each other or mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.active.validate_as("active")?;
        if self.unit >= self.period {
            return Err(Invalid::new("unit", "must be shorter than period"));
        }
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{days, did};

    #[test]
    fn errors_name_the_option() {
        let option = |stickiness: Stickiness| stickiness.validate().unwrap_err().option;
        let stickiness = || Stickiness::new("a");
        stickiness().validate().unwrap();
        assert_eq!(option(stickiness().unit(CalendarUnit::Month)), "unit");
        assert_eq!(option(stickiness().period(CalendarUnit::Hour)), "unit");
        assert_eq!(option(stickiness().last(days(0))), "last");
        assert_eq!(option(stickiness().users(did("a").exactly(0))), "exactly");
    }
}
