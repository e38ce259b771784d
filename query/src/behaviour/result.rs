//! The shapes of answers, as plain rows.

use pugmark_engine::Value;

use super::evaluate::Skipped;

/// A value of a breakdown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ByKey {
    /// This value, by its canonical text; of a multi-valued property the smallest element, or the
    /// one that the chain holds.
    Value(String),
    /// All values beyond the first `top`.
    Other,
    /// No value.
    None,
}

impl ByKey {
    /// What it is called in a result: the value, `(other)` or `(none)`.
    pub fn label(&self) -> &str {
        match self {
            Self::Value(value) => value,
            Self::Other => "(other)",
            Self::None => "(none)",
        }
    }
}

/// Remarks on how an answer came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// Values that comparisons could not use for their type.
    pub skipped: Skipped,
}

/// One step of a funnel, in one bucket and for one value of the breakdown.
#[derive(Clone, Debug, PartialEq)]
pub struct FunnelRow {
    /// The first instant of the bucket, where buckets were asked for.
    pub bucket: Option<i64>,
    /// The value, where a breakdown was asked for.
    pub by: Option<ByKey>,
    /// The step, from 1.
    pub step: usize,
    /// What the step is called.
    pub name: String,
    /// Users who came so far; chains with [`Entries::Every`](super::Entries::Every).
    pub users: u64,
    /// These over those of step 1; `None` over zero.
    pub from_start: Option<f64>,
    /// These over those of the required step before; `None` at step 1 and over zero.
    pub from_previous: Option<f64>,
    /// Median of the seconds from step 1: the middle, or the mean of both middles.
    pub median_seconds: Option<f64>,
    /// Mean of the seconds from step 1.
    pub mean_seconds: Option<f64>,
    /// 90th percentile of the seconds from step 1, by nearest rank.
    pub p90_seconds: Option<f64>,
    /// True where a user of this group (bucket and value) has a possible start whose window has not
    /// elapsed; `None` without a window.
    pub incomplete: Option<bool>,
}

/// A funnel's table. Without bucket and breakdown there is a row for each step; else groups that
/// nobody entered have none. Ordered by bucket, then by value with `(other)` and `(none)` last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FunnelResult {
    /// The rows.
    pub rows: Vec<FunnelRow>,
    /// Remarks.
    pub notices: Notices,
}

/// A user of a funnel, with the reported chain.
#[derive(Clone, Debug, PartialEq)]
pub struct FunnelUser {
    /// The user's ordinal.
    pub user: u32,
    /// The bucket that the chain starts in, where buckets were asked for.
    pub bucket: Option<i64>,
    /// The value, where a breakdown was asked for.
    pub by: Option<ByKey>,
    /// How many required steps the chain has.
    pub level: usize,
    /// The steps (from 1) of the chain's events; in any order, positions.
    pub steps: Vec<usize>,
    /// The times of the chain's events.
    pub times: Vec<i64>,
    /// For each property asked for, its value at each of the chain's events.
    pub values: Vec<Vec<Option<Value>>>,
}

/// The users of a funnel, ordered by user, then bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FunnelUsersResult {
    /// The rows.
    pub rows: Vec<FunnelUser>,
    /// Remarks.
    pub notices: Notices,
}

/// A bin of the histogram of times between two steps: `[low, high)`, the last with its end.
#[derive(Clone, Debug, PartialEq)]
pub struct FunnelTimesRow {
    /// Where it begins.
    pub low_seconds: f64,
    /// Where it ends.
    pub high_seconds: f64,
    /// Users (chains with [`Entries::Every`](super::Entries::Every)) whose time lies inside.
    pub users: u64,
}
