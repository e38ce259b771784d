//! Lifecycle: in each period, who is new, returning, resurrecting or dormant.
//!
//! ```
//! use pugmark_query::{CalendarUnit, Lifecycle, any, days};
//! let lifecycle = Lifecycle::new(any())
//!     .period(CalendarUnit::Month)
//!     .last(days(365));
//! lifecycle.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use super::condition::Condition;
use super::range::{Span, TimeSpec};
use super::result::Notices;
use super::segment::Segment;
use crate::error::Invalid;
use crate::zone::{CalendarUnit, Zone};

/// What a period is in the life of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LifecycleStatus {
    /// Active for the first time ever.
    New,
    /// Active, and in the period before.
    Returning,
    /// Active, not in the period before, but earlier.
    Resurrecting,
    /// Not active, but in the period before.
    Dormant,
}

impl LifecycleStatus {
    /// All of them, in the order of the rows.
    pub const ALL: [Self; 4] = [
        Self::New,
        Self::Returning,
        Self::Resurrecting,
        Self::Dormant,
    ];

    /// What it is called in a result.
    pub fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Returning => "returning",
            Self::Resurrecting => "resurrecting",
            Self::Dormant => "dormant",
        }
    }
}

/// A question about how users come, stay and go.
#[derive(Clone, Debug, PartialEq)]
pub struct Lifecycle {
    /// Events with which a user is active.
    pub active: Condition,
    /// The calendar unit.
    pub period: CalendarUnit,
    /// Where days begin.
    pub zone: Zone,
    /// Which users.
    pub users: Option<Segment>,
    /// Which periods; what users did before it counts towards what they are in it.
    pub range: TimeSpec,
}

/// How many users have a status in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifecycleRow {
    /// The first instant of the period, in microseconds since 1970-01-01 UTC.
    pub period: i64,
    /// What they are in it.
    pub status: LifecycleStatus,
    /// How many, at least 1.
    pub users: u64,
}

/// A lifecycle table, ordered by period, then status; there are no rows of nobody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LifecycleResult {
    /// The rows.
    pub rows: Vec<LifecycleRow>,
    /// Remarks.
    pub notices: Notices,
}

impl Lifecycle {
    /// The lives of users who are active where they have an event that satisfies `active`: by
    /// weeks of UTC, with every option at its default.
    pub fn new(active: impl Into<Condition>) -> Self {
        Self {
            active: active.into(),
            period: CalendarUnit::Week,
            zone: Zone::UTC,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// The calendar unit.
    pub fn period(mut self, unit: CalendarUnit) -> Self {
        self.period = unit;
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

    /// Only the period of `micros` and later ones.
    pub fn since(mut self, micros: i64) -> Self {
        self.range.since = Some(micros);
        self
    }

    /// Only events before `micros`.
    pub fn until(mut self, micros: i64) -> Self {
        self.range.until = Some(micros);
        self
    }

    /// Only the period in which `(as_of - span, as_of]` begins and later ones.
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
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{any, days, did, property};

    #[test]
    fn errors_name_the_option() {
        let option = |lifecycle: Lifecycle| lifecycle.validate().unwrap_err().option;
        let lifecycle = || Lifecycle::new("a");
        lifecycle().last(days(7)).validate().unwrap();
        assert_eq!(option(lifecycle().since(3).until(2)), "until");
        assert_eq!(option(lifecycle().users(did("a").at_most(0))), "at_most");
        let mut deep = any();
        for _ in 0..200 {
            deep = property("x").is_null().and(any().or(deep));
        }
        assert_eq!(option(Lifecycle::new(deep)), "active");
    }
}
