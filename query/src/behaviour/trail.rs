//! Trails: all that one user did.
//!
//! ```
//! use pugmark_query::{Trail, days};
//! let trail = Trail::of("ann").last(days(7));
//! trail.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use std::collections::BTreeMap;

use pugmark_engine::Value;

use super::range::{Span, TimeSpec};
use crate::error::Invalid;

/// One user's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trail {
    /// The user's id.
    pub user: String,
    /// Over which range.
    pub range: TimeSpec,
}

/// One event of a trail.
#[derive(Clone, Debug, PartialEq)]
pub struct TrailRow {
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
    /// Its name.
    pub event: String,
    /// Its properties; those that it lacks are left out.
    pub properties: BTreeMap<String, Value>,
}

impl Trail {
    /// All events of the user with this id.
    pub fn of(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            range: TimeSpec::default(),
        }
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

    /// Refuses a range that means nothing. Any id may be asked about.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.range.validate()
    }
}
