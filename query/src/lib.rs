//! Questions about behaviour over a Pugmark store: who did what, and how far users come.
//!
//! The way of a question:
//!
//! ```text
//! behaviour   Condition -> Segment, Funnel …    what is asked, typed and validated
//!    |
//! kernel      one user's ordered events -> (level, chain), did or did not
//!    |                                          pure functions over slices
//! tally       levels and chains of many users -> rows; partial sums that merge
//!    |
//! exec        prunes, filters and gathers over morsels of users, on threads
//! statistics  whether what variants differ by is more than chance
//!
//! model       the judge: the same meaning by plain loops, slow and obviously right
//! ```
//!
//! [`behaviour`] holds the plans and knows neither storage nor algorithms. [`kernel`] matches one
//! user at a time and knows neither names nor columns. [`model`] answers whole questions from
//! events held in memory; it shares no algorithm with the kernel, and every other answer is tested
//! against it. The feature `sql` adds `sql`, statements over a store inside DataFusion; without it this
//! crate knows no SQL, and never any HTTP.

pub mod behaviour;
mod error;
mod exec;
pub mod kernel;
pub mod model;
pub mod population;
#[cfg(feature = "sql")]
pub mod sql;
mod statistics;
mod sum;
pub mod tally;
#[cfg(test)]
mod testing;
mod zone;

pub use behaviour::{
    Affinity, AffinityResult, AffinityRow, Attribution, AttributionModel, Condition, Did,
    Experiment, Funnel, Lifecycle, Literal, Operand, PathDirection, PathPer, PathRow, Paths,
    PathsResult, Retention, Rfm, Segment, SessionRow, Sessions, SessionsResult, Span, Stickiness,
    Trail, TrailRow, any, computed, days, did, event, event_name, everyone, hours, minutes, not,
    property, seconds, step, time, timestamp, user_trait, users,
};
pub use error::{Invalid, ZoneError};
pub use exec::{
    CancelToken, Effort, Executor, MemoryBudget, QueryError, QueryOptions, Touched, UserIds,
    UserSet,
};
pub use zone::{Bucket, CalendarUnit, Zone};

/// The README's example, compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
