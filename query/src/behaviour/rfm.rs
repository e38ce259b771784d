//! RFM: how recently, how often and for how much users bought.

use super::condition::{Condition, Operand};
use super::range::{Span, TimeSpec};
use super::result::Notices;
use super::segment::Segment;
use crate::error::Invalid;

/// Recency, frequency and monetary value of users.
///
/// ```
/// use pugmark_query::{Rfm, days, event, property};
/// let rfm = Rfm::new(event("purchase"), property("price")).last(days(365));
/// rfm.validate()?;
/// # Ok::<(), pugmark_query::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rfm {
    /// Which events are purchases.
    pub purchase: Condition,
    /// What a purchase is worth: an operand of the purchase.
    pub value: Operand,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range.
    pub range: TimeSpec,
}

/// A user with a purchase in the range.
///
/// A quintile is `1 + floor(5 * worse / users)`, where `worse` counts the users who do worse: 5 is
/// best, and users who do equally well share the lower quintile.
#[derive(Clone, Debug, PartialEq)]
pub struct RfmRow {
    /// The user's ordinal.
    pub user: u32,
    /// Whole days of 24 hours from the last purchase to the question's present.
    pub recency_days: i64,
    /// Purchases.
    pub frequency: u64,
    /// Their values, added up; a purchase without a number is worth nothing.
    pub monetary: f64,
    /// The quintile by `recency_days`, 1 to 5; the fewer the better.
    pub r: u8,
    /// The quintile by `frequency`, 1 to 5.
    pub f: u8,
    /// The quintile by `monetary`, 1 to 5.
    pub m: u8,
}

/// The users of an RFM, by user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RfmResult {
    /// The rows.
    pub rows: Vec<RfmRow>,
    /// Remarks.
    pub notices: Notices,
}

impl Rfm {
    /// Ranks users by their purchases, and by what an operand of these says they are worth.
    pub fn new(purchase: impl Into<Condition>, value: Operand) -> Self {
        Self {
            purchase: purchase.into(),
            value,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// Only these users: they are ranked among themselves.
    pub fn users(mut self, segment: impl Into<Segment>) -> Self {
        self.users = Some(segment.into());
        self
    }

    /// Purchases at `micros` and later.
    pub fn since(mut self, micros: i64) -> Self {
        self.range.since = Some(micros);
        self
    }

    /// Purchases before `micros`.
    pub fn until(mut self, micros: i64) -> Self {
        self.range.until = Some(micros);
        self
    }

    /// Purchases in `(as_of - span, as_of]`.
    pub fn last(mut self, span: Span) -> Self {
        self.range.last = Some(span);
        self
    }

    /// Refuses options that contradict each other or mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.purchase.validate()?;
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{days, did, property};

    fn option(rfm: Rfm) -> &'static str {
        rfm.validate().unwrap_err().option
    }

    #[test]
    fn what_is_refused_is_named() {
        let rfm = || Rfm::new("buy", property("price"));
        rfm().since(4).until(5).validate().unwrap();
        assert_eq!(option(rfm().since(5).until(5)), "until");
        assert_eq!(option(rfm().last(days(0))), "last");
        assert_eq!(option(rfm().users(did("buy").at_least(0))), "at_least");
    }
}
