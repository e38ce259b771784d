//! Attribution: which touches lead to conversions.

use super::condition::{Condition, Operand};
use super::range::{Span, TimeRange, TimeSpec, days};
use super::result::Notices;
use super::segment::Segment;
use crate::error::Invalid;

/// How far back touches count unless said otherwise.
const DEFAULT_LOOKBACK_DAYS: i64 = 30;
/// The half-life of [`AttributionModel::TimeDecay`] unless said otherwise.
const DEFAULT_HALF_LIFE_DAYS: i64 = 7;

/// How the credit for a conversion is shared among its touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AttributionModel {
    /// All to the first touch.
    First,
    /// All to the last touch.
    #[default]
    Last,
    /// The same to each.
    Linear,
    /// 40 % to the first, 40 % to the last and 20 % shared by those between; of two each half.
    Position,
    /// To each in proportion to `2^(-age / half_life)`.
    TimeDecay,
    /// Full credit to each value that was touched, once: credit then sums to more than 1.
    AnyTouch,
}

/// What leads to conversions.
///
/// ```
/// use pugmark_query::{Attribution, AttributionModel, days, event, property};
/// let attribution = Attribution::new(event("purchase"), event("visit"), property("channel"))
///     .model(AttributionModel::Position)
///     .lookback(days(14))
///     .value(property("price"));
/// attribution.validate()?;
/// # Ok::<(), pugmark_query::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    /// Which events are to be credited.
    pub conversion: Condition,
    /// Which events may be given credit.
    pub touch: Condition,
    /// What credit is added up by: an operand of the touch.
    pub by: Operand,
    /// The longest time from a touch to the conversion; 30 days where not given.
    pub lookback: Option<Span>,
    /// How credit is shared.
    pub model: AttributionModel,
    /// The time in which a touch's weight halves; 7 days where not given.
    pub half_life: Option<Span>,
    /// What a conversion is worth: an operand of the conversion.
    pub value: Option<Operand>,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range conversions are looked for. Touches may precede it.
    pub range: TimeSpec,
}

/// What credit goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TouchKey {
    /// Touches of this value, by its canonical text; of a multi-valued one the smallest element.
    Value(String),
    /// Touches without a value.
    None,
    /// No touch: conversions that nothing led to.
    Direct,
}

/// A value of the touches, and what it is credited with.
#[derive(Clone, Debug, PartialEq)]
pub struct AttributionRow {
    /// The value.
    pub touch: TouchKey,
    /// Touch events in the range, whether they led to anything or not.
    pub touches: u64,
    /// Different users of the conversions that it has a share in.
    pub users: u64,
    /// Shares of conversions, added up.
    pub conversions: f64,
    /// The values of conversions times the shares in them, added up; `None` where no value was
    /// asked for.
    pub value: Option<f64>,
}

/// An attribution's table: a row for each value that was touched in the range or has a share in a
/// conversion, by value, then [`TouchKey::None`], then [`TouchKey::Direct`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttributionResult {
    /// The rows.
    pub rows: Vec<AttributionRow>,
    /// Remarks.
    pub notices: Notices,
}

/// A user behind a row of an attribution.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttributionUser {
    /// The value that has a share in a conversion of the user.
    pub touch: TouchKey,
    /// The user's ordinal.
    pub user: u32,
}

/// The users of an attribution, by value, then by user: of each row exactly its `users`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttributionUsersResult {
    /// The rows.
    pub rows: Vec<AttributionUser>,
    /// Remarks.
    pub notices: Notices,
}

impl TouchKey {
    /// What it is called in a result: the value, `(none)` or `(direct)`.
    pub fn label(&self) -> &str {
        match self {
            Self::Value(value) => value,
            Self::None => "(none)",
            Self::Direct => "(direct)",
        }
    }
}

impl Attribution {
    /// Credits `conversion` events to earlier `touch` events, by an operand of the touch.
    pub fn new(conversion: impl Into<Condition>, touch: impl Into<Condition>, by: Operand) -> Self {
        Self {
            conversion: conversion.into(),
            touch: touch.into(),
            by,
            lookback: None,
            model: AttributionModel::default(),
            half_life: None,
            value: None,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// The longest time from a touch to the conversion.
    pub fn lookback(mut self, span: Span) -> Self {
        self.lookback = Some(span);
        self
    }

    /// How credit is shared.
    pub fn model(mut self, model: AttributionModel) -> Self {
        self.model = model;
        self
    }

    /// The time in which a touch's weight halves, in [`AttributionModel::TimeDecay`].
    pub fn half_life(mut self, span: Span) -> Self {
        self.half_life = Some(span);
        self
    }

    /// What a conversion is worth: the numbers that an operand of it holds. A conversion without
    /// any is worth nothing.
    pub fn value(mut self, operand: Operand) -> Self {
        self.value = Some(operand);
        self
    }

    /// Only these users.
    pub fn users(mut self, segment: impl Into<Segment>) -> Self {
        self.users = Some(segment.into());
        self
    }

    /// Conversions at `micros` and later.
    pub fn since(mut self, micros: i64) -> Self {
        self.range.since = Some(micros);
        self
    }

    /// Conversions before `micros`.
    pub fn until(mut self, micros: i64) -> Self {
        self.range.until = Some(micros);
        self
    }

    /// Conversions in `(as_of - span, as_of]`.
    pub fn last(mut self, span: Span) -> Self {
        self.range.last = Some(span);
        self
    }

    /// Refuses options that contradict each other or mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.conversion.validate()?;
        self.touch.validate()?;
        if self.lookback.is_some_and(|span| span.micros < 0) {
            return Err(Invalid::new("lookback", "must not be negative"));
        }
        if let Some(half_life) = self.half_life {
            if self.model != AttributionModel::TimeDecay {
                return Err(Invalid::new("half_life", "needs model => 'time_decay'"));
            }
            if half_life.micros <= 0 {
                return Err(Invalid::new("half_life", "must be longer than nothing"));
            }
        }
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }

    pub(crate) fn lookback_micros(&self) -> i64 {
        let span = self.lookback.unwrap_or(days(DEFAULT_LOOKBACK_DAYS));
        span.micros
    }

    pub(crate) fn half_life_micros(&self) -> i64 {
        let span = self.half_life.unwrap_or(days(DEFAULT_HALF_LIFE_DAYS));
        span.micros
    }

    /// The range that conversions lie in and, of these and their touches, the one to be read.
    pub(crate) fn ranges(&self, as_of: i64) -> (TimeRange, TimeRange) {
        let range = self.range.resolve(as_of);
        let read = TimeRange {
            first: range.first.saturating_sub(self.lookback_micros()),
            last: range.last,
        };
        (range, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{did, property, seconds};

    fn attribution() -> Attribution {
        Attribution::new("buy", "visit", property("channel"))
    }

    fn option(attribution: Attribution) -> &'static str {
        attribution.validate().unwrap_err().option
    }

    #[test]
    fn what_is_refused_is_named() {
        attribution().lookback(seconds(0)).validate().unwrap();
        assert_eq!(option(attribution().lookback(seconds(-1))), "lookback");
        assert_eq!(option(attribution().half_life(days(1))), "half_life");
        let decaying = attribution().model(AttributionModel::TimeDecay);
        decaying.clone().half_life(days(1)).validate().unwrap();
        assert_eq!(option(decaying.half_life(days(0))), "half_life");
        assert_eq!(option(attribution().since(5).until(5)), "until");
        assert_eq!(option(attribution().last(days(0))), "last");
        assert_eq!(
            option(attribution().users(did("visit").at_least(0))),
            "at_least"
        );
    }
}
