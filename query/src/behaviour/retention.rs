//! Retention: of those who began in a period, how many came back in each period after it.
//!
//! ```
//! use pugmark_query::behaviour::{Retention, ReturnMode};
//! use pugmark_query::{CalendarUnit, days, event};
//! let retention = Retention::new(event("sign up"), event("purchase"))
//!     .period(CalendarUnit::Week)
//!     .periods(8)
//!     .mode(ReturnMode::OnOrAfter)
//!     .last(days(180));
//! retention.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use super::condition::Condition;
use super::range::{Span, TimeSpec};
use super::result::Notices;
use super::segment::Segment;
use crate::error::Invalid;
use crate::zone::{CalendarUnit, Zone};

/// Most periods after a cohort's own: eleven years of hours.
pub(crate) const MAX_PERIODS: u64 = 100_000;

/// When a user who comes back counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReturnMode {
    /// In the periods in which the user comes back.
    #[default]
    On,
    /// In all periods up to the last in which the user comes back.
    OnOrAfter,
}

/// A question about who comes back.
#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    /// Events with which a user begins.
    pub start: Condition,
    /// Events with which a user comes back.
    pub returns: Condition,
    /// The calendar unit of cohorts and of coming back.
    pub period: CalendarUnit,
    /// Rows reach from `k` = 0 to this; to the period of the last event where not given.
    pub periods: Option<u64>,
    /// When a user who comes back counts.
    pub mode: ReturnMode,
    /// True where `k` counts from each user's own start, not from the cohort's period.
    pub rolling: bool,
    /// True where a user belongs to every cohort in whose period it starts, not only to the first.
    pub recurring: bool,
    /// Where days begin.
    pub zone: Zone,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range; every event that counts lies inside.
    pub range: TimeSpec,
}

/// One cell of a retention table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetentionRow {
    /// The first instant of the cohort's period, in microseconds since 1970-01-01 UTC.
    pub cohort: i64,
    /// Users in the cohort, at least 1.
    pub size: u64,
    /// Periods after the cohort's own, from 0.
    pub k: u64,
    /// Users of the cohort who came back.
    pub users: u64,
    /// These over the size of the cohort.
    pub rate: f64,
    /// True where period `k` of some user of the cohort may not have ended at the present.
    pub incomplete: bool,
}

/// A retention table, ordered by cohort, then `k`: a row for every cohort that has users and every
/// `k`, also where nobody came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetentionResult {
    /// The rows.
    pub rows: Vec<RetentionRow>,
    /// Remarks.
    pub notices: Notices,
}

impl Retention {
    /// Who comes back with an event that satisfies `returns` after one that satisfies `start`: by
    /// days of UTC, with every option at its default.
    pub fn new(start: impl Into<Condition>, returns: impl Into<Condition>) -> Self {
        Self {
            start: start.into(),
            returns: returns.into(),
            period: CalendarUnit::Day,
            periods: None,
            mode: ReturnMode::On,
            rolling: false,
            recurring: false,
            zone: Zone::UTC,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// The calendar unit of cohorts and of coming back.
    pub fn period(mut self, unit: CalendarUnit) -> Self {
        self.period = unit;
        self
    }

    /// Rows for every `k` from 0 to `count`, whenever the last event was.
    pub fn periods(mut self, count: u64) -> Self {
        self.periods = Some(count);
        self
    }

    /// When a user who comes back counts.
    pub fn mode(mut self, mode: ReturnMode) -> Self {
        self.mode = mode;
        self
    }

    /// `k` counts calendar units from each user's own start: day 1 begins at the same time of the
    /// next day, not at its midnight.
    pub fn rolling(mut self) -> Self {
        self.rolling = true;
        self
    }

    /// A user belongs to every cohort in whose period it starts.
    pub fn recurring(mut self) -> Self {
        self.recurring = true;
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
        self.start.validate_as("start")?;
        self.returns.validate_as("returns")?;
        if self.periods.is_some_and(|periods| periods > MAX_PERIODS) {
            return Err(Invalid::new(
                "periods",
                format!("must be at most {MAX_PERIODS}"),
            ));
        }
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }

    /// Refuses cells that the table does not have.
    ///
    /// # Errors
    /// As [`Retention::validate`], or names the option.
    pub fn validate_cell(&self, k: u64) -> Result<(), Invalid> {
        self.validate()?;
        match self.periods {
            Some(periods) if k > periods => Err(Invalid::new(
                "k",
                format!("is more than periods, which is {periods}"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{days, did};

    fn option(retention: Retention) -> &'static str {
        retention.validate().unwrap_err().option
    }

    #[test]
    fn errors_name_the_option() {
        let retention = || Retention::new("a", "b");
        retention().periods(0).validate().unwrap();
        assert_eq!(option(retention().periods(MAX_PERIODS + 1)), "periods");
        assert_eq!(option(retention().users(did("a").exactly(0))), "exactly");
        assert_eq!(option(retention().last(days(1)).until(9)), "last");
        let cell = retention().periods(3).validate_cell(4).unwrap_err();
        assert_eq!(cell.option, "k");
        retention().validate_cell(u64::MAX).unwrap();
    }
}
