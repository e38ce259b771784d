//! Sessions: a user's events, cut wherever nothing happened for a while.
//!
//! ```
//! use pugmark_query::{Sessions, event, minutes};
//! let sessions = Sessions::new()
//!     .events(event("email_opened").not())
//!     .gap(minutes(20));
//! sessions.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use super::condition::{Condition, any};
use super::range::{Span, TimeSpec, minutes};
use super::result::Notices;
use super::segment::Segment;
use crate::error::Invalid;

/// Sessions of users.
#[derive(Clone, Debug, PartialEq)]
pub struct Sessions {
    /// Which events make sessions; the others open, prolong and count for none.
    pub events: Condition,
    /// A session ends where the next of its user's events is more than this later; 30 minutes
    /// where not given.
    pub gap: Option<Span>,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range: events outside it do not exist for the cutting.
    pub range: TimeSpec,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The user's ordinal.
    pub user: u32,
    /// Its number among the user's sessions in the range, from 1.
    pub session: u64,
    /// The time of its first event, in microseconds since 1970-01-01 UTC.
    pub started: i64,
    /// The time of its last event; the same where it has only one.
    pub ended: i64,
    /// How many events it has, at least 1.
    pub events: u64,
}

/// Sessions, ordered by user and number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionsResult {
    /// The rows.
    pub rows: Vec<SessionRow>,
    /// Remarks.
    pub notices: Notices,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new()
    }
}

impl Sessions {
    /// Sessions of all events, half an hour apart.
    pub fn new() -> Self {
        Self {
            events: any(),
            gap: None,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// Only these events make sessions.
    pub fn events(mut self, condition: impl Into<Condition>) -> Self {
        self.events = condition.into();
        self
    }

    /// A session ends where the next event is more than this later.
    pub fn gap(mut self, span: Span) -> Self {
        self.gap = Some(span);
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

    /// The longest time between two neighbours of a session.
    pub fn longest_gap(&self) -> Span {
        gap_or_default(self.gap)
    }

    /// Refuses options that mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.events.validate()?;
        validate_gap(self.gap)?;
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }
}

/// The gap, half an hour where not given.
pub(super) fn gap_or_default(gap: Option<Span>) -> Span {
    gap.unwrap_or(minutes(30))
}

/// Refuses a negative gap; one of nothing keeps events of one instant together.
pub(super) fn validate_gap(gap: Option<Span>) -> Result<(), Invalid> {
    match gap {
        Some(span) if span.micros < 0 => Err(Invalid::new("gap", "must not be negative")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{days, seconds};

    #[test]
    fn what_means_nothing_names_its_option() {
        Sessions::new().gap(seconds(0)).validate().unwrap();
        let option = |sessions: Sessions| sessions.validate().unwrap_err().option;
        assert_eq!(option(Sessions::new().gap(seconds(-1))), "gap");
        assert_eq!(option(Sessions::new().last(days(0))), "last");
        assert_eq!(option(Sessions::new().since(5).until(5)), "until");
        let mut deep = any();
        for _ in 0..200 {
            deep = Condition::Not(Box::new(deep));
        }
        assert_eq!(option(Sessions::new().events(deep)), "condition");
    }
}
