//! Paths: what users did after an anchor event, or before it.
//!
//! ```
//! use pugmark_query::{PathDirection, PathPer, Paths, minutes, property};
//! let paths = Paths::new("purchase", 3)
//!     .direction(PathDirection::Before)
//!     .per(PathPer::Session)
//!     .gap(minutes(20))
//!     .value(property("page"))
//!     .collapse();
//! paths.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use super::condition::{Condition, Operand};
use super::range::{Span, TimeSpec};
use super::result::Notices;
use super::segment::Segment;
use super::sessions::{gap_or_default, validate_gap};
use crate::error::Invalid;

/// Most events beside the anchor: longer paths are each walked once, and their list is of no use.
const MAX_STEPS: usize = 100;

/// Which way a path leads from its anchor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathDirection {
    /// To the events after it.
    #[default]
    After,
    /// To the events before it.
    Before,
}

/// Which anchors begin a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathPer {
    /// Each user's first.
    #[default]
    User,
    /// The first of each session; the path does not leave the session.
    Session,
    /// Each.
    Event,
}

/// Paths of users.
#[derive(Clone, Debug, PartialEq)]
pub struct Paths {
    /// The events that paths begin at.
    pub anchor: Condition,
    /// How many events a path has beside its anchor, at most; 1 to 100.
    pub steps: usize,
    /// Which way it leads.
    pub direction: PathDirection,
    /// Which anchors begin one.
    pub per: PathPer,
    /// True where neighbours of the same value count as one event.
    pub collapse: bool,
    /// What a path is made of.
    pub value: Operand,
    /// The gap that ends a session; 30 minutes where not given.
    pub gap: Option<Span>,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range: events outside it do not exist for paths.
    pub range: TimeSpec,
}

/// A path, and how often it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRow {
    /// The value of the anchor, then those of the events after it (with
    /// [`PathDirection::Before`], those before it, the nearest first), as text: 1 to `steps + 1`
    /// of them. Of a multi-valued property the smallest element; `None` where an event has no
    /// value.
    pub path: Vec<Option<String>>,
    /// Users who took it.
    pub users: u64,
    /// How often it was taken.
    pub occurrences: u64,
}

/// Paths, the most frequent first, equals by their values with missing ones first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PathsResult {
    /// The rows.
    pub rows: Vec<PathRow>,
    /// Remarks.
    pub notices: Notices,
}

impl Paths {
    /// Paths of the names of events, from each user's first `anchor` to the `steps` events after
    /// it.
    pub fn new(anchor: impl Into<Condition>, steps: usize) -> Self {
        Self {
            anchor: anchor.into(),
            steps,
            direction: PathDirection::After,
            per: PathPer::User,
            collapse: false,
            value: Operand::EventName,
            gap: None,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// Which way paths lead.
    pub fn direction(mut self, direction: PathDirection) -> Self {
        self.direction = direction;
        self
    }

    /// Which anchors begin a path.
    pub fn per(mut self, per: PathPer) -> Self {
        self.per = per;
        self
    }

    /// Neighbours of the same value count as one event, an anchor where any of them is one.
    pub fn collapse(mut self) -> Self {
        self.collapse = true;
        self
    }

    /// What paths are made of; the event's name unless said.
    pub fn value(mut self, operand: Operand) -> Self {
        self.value = operand;
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

    /// Refuses options that contradict each other or mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.anchor.validate()?;
        if self.steps == 0 || self.steps > MAX_STEPS {
            return Err(Invalid::new(
                "steps",
                format!("must be 1 to {MAX_STEPS}, not {}", self.steps),
            ));
        }
        if self.gap.is_some() && self.per != PathPer::Session {
            return Err(Invalid::new("gap", "needs per => 'session'"));
        }
        validate_gap(self.gap)?;
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{days, seconds};

    #[test]
    fn what_means_nothing_names_its_option() {
        let option = |paths: Paths| paths.validate().unwrap_err().option;
        Paths::new("a", 100).validate().unwrap();
        assert_eq!(option(Paths::new("a", 0)), "steps");
        assert_eq!(option(Paths::new("a", 101)), "steps");
        assert_eq!(option(Paths::new("a", 1).gap(seconds(1))), "gap");
        let sessions = Paths::new("a", 1).per(PathPer::Session);
        sessions.clone().gap(seconds(0)).validate().unwrap();
        assert_eq!(option(sessions.gap(seconds(-1))), "gap");
        assert_eq!(option(Paths::new("a", 1).last(days(-1))), "last");
    }
}
