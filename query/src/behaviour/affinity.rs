//! Affinity: which items come together.
//!
//! ```
//! use pugmark_query::{Affinity, property};
//! let bought_with_tea = Affinity::new(property("product"))
//!     .condition("purchase")
//!     .per(property("invoice"))
//!     .for_item("tea")
//!     .min_users(5)
//!     .top(20);
//! bought_with_tea.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use super::condition::{Condition, Operand, any};
use super::range::{Span, TimeSpec};
use super::result::Notices;
use super::segment::Segment;
use crate::error::Invalid;

/// Pairs of items that lie in the same baskets.
#[derive(Clone, Debug, PartialEq)]
pub struct Affinity {
    /// What the items are, by their canonical text; each element of a multi-valued property is an
    /// item.
    pub item: Operand,
    /// Which events put items into baskets.
    pub condition: Condition,
    /// What tells baskets apart; the user where not given.
    pub per: Option<Operand>,
    /// Only pairs with this item first.
    pub for_item: Option<String>,
    /// Only pairs that lie together in so many baskets; 1 where not given.
    pub min_users: Option<u64>,
    /// How many pairs to give; all where not given.
    pub top: Option<usize>,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range.
    pub range: TimeSpec,
}

/// Two different items, in one order; the other order is a row of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct AffinityRow {
    /// The one item.
    pub x: String,
    /// The other.
    pub y: String,
    /// Baskets with both, at least 1: users, unless baskets are told apart by something else.
    pub users: u64,
    /// Baskets with both, over all baskets.
    pub support: f64,
    /// Baskets with both, over those with `x`.
    pub confidence: f64,
    /// `confidence` over the share of baskets that have `y`: above 1 where `x` attracts it.
    pub lift: f64,
    /// Baskets with both, over those with either.
    pub jaccard: f64,
}

/// Pairs, those in most baskets first, equals by `x` and then `y`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AffinityResult {
    /// The rows.
    pub rows: Vec<AffinityRow>,
    /// Baskets with any item at all.
    pub baskets: u64,
    /// Remarks.
    pub notices: Notices,
}

impl Affinity {
    /// Affinity of all items, with the users as baskets.
    pub fn new(item: Operand) -> Self {
        Self {
            item,
            condition: any(),
            per: None,
            for_item: None,
            min_users: None,
            top: None,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// Only these events put items into baskets.
    pub fn condition(mut self, condition: impl Into<Condition>) -> Self {
        self.condition = condition.into();
        self
    }

    /// A basket for each value: an invoice, wherever its events lie. An event without a value lies
    /// in no basket, one with several in each of them.
    pub fn per(mut self, operand: Operand) -> Self {
        self.per = Some(operand);
        self
    }

    /// Only pairs with this item first.
    pub fn for_item(mut self, item: &str) -> Self {
        self.for_item = Some(item.to_owned());
        self
    }

    /// Only pairs that lie together in so many baskets.
    pub fn min_users(mut self, baskets: u64) -> Self {
        self.min_users = Some(baskets);
        self
    }

    /// Only the first so many pairs.
    pub fn top(mut self, pairs: usize) -> Self {
        self.top = Some(pairs);
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

    /// Refuses options that mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.condition.validate()?;
        if self.min_users == Some(0) {
            return Err(Invalid::new("min_users", "must be at least 1"));
        }
        if self.top == Some(0) {
            return Err(Invalid::new("top", "must be at least 1"));
        }
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::property;

    #[test]
    fn what_means_nothing_names_its_option() {
        let affinity = || Affinity::new(property("item"));
        let option = |affinity: Affinity| affinity.validate().unwrap_err().option;
        affinity().min_users(1).top(1).validate().unwrap();
        assert_eq!(option(affinity().min_users(0)), "min_users");
        assert_eq!(option(affinity().top(0)), "top");
        assert_eq!(option(affinity().since(1).until(1)), "until");
    }
}
