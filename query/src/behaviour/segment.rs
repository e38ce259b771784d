//! Segments: sets of users, by what they did and what they are.
//!
//! ```
//! use pugmark_query::{days, did, event, not};
//! let segment = did(event("view"))
//!     .at_least(2)
//!     .last(days(7))
//!     .and(not(did(event("purchase"))));
//! segment.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::condition::Condition;
use super::did::Did;
use crate::error::Invalid;

/// Deepest nesting of a segment; chains of AND and OR of any length count once.
const MAX_DEPTH: usize = 128;

/// A predicate over users. An answer holds known users only: those with an event or a trait.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Segment {
    /// Every known user.
    Everyone,
    /// Users who did something.
    Did(Box<Did>),
    /// Users whose traits satisfy a condition; unknown where it is, so that its contrary does not
    /// hold for a user without the trait either.
    Trait(Condition),
    /// The users of a saved set, by their ordinals.
    Users(Arc<RoaringBitmap>),
    /// Users in all of them; everyone where there is none.
    And(Vec<Segment>),
    /// Users in any of them; nobody where there is none.
    Or(Vec<Segment>),
    /// The complement among known users, except those for whom it is unknown.
    Not(Box<Segment>),
    /// Users in the first who are not in the second: a difference of sets.
    Except(Box<Segment>, Box<Segment>),
}

/// Every known user.
pub fn everyone() -> Segment {
    Segment::Everyone
}

/// Users whose traits satisfy `condition`, which may read nothing else.
pub fn traits(condition: Condition) -> Segment {
    Segment::Trait(condition)
}

/// The users of a saved set, by their ordinals.
pub fn users(ordinals: impl Into<Arc<RoaringBitmap>>) -> Segment {
    Segment::Users(ordinals.into())
}

/// Every known user who is not in `segment`.
pub fn not(segment: impl Into<Segment>) -> Segment {
    match segment.into() {
        Segment::Not(inner) => *inner,
        other => Segment::Not(Box::new(other)),
    }
}

impl From<&Segment> for Segment {
    /// A copy, so that one segment can be asked for again and again.
    fn from(segment: &Segment) -> Self {
        segment.clone()
    }
}

impl From<Did> for Segment {
    fn from(did: Did) -> Self {
        Self::Did(Box::new(did))
    }
}

impl Segment {
    /// Both.
    pub fn and(self, other: impl Into<Self>) -> Self {
        let mut parts = match self {
            Self::And(parts) => parts,
            single => vec![single],
        };
        match other.into() {
            Self::And(others) => parts.extend(others),
            single => parts.push(single),
        }
        Self::And(parts)
    }

    /// Either.
    pub fn or(self, other: impl Into<Self>) -> Self {
        let mut parts = match self {
            Self::Or(parts) => parts,
            single => vec![single],
        };
        match other.into() {
            Self::Or(others) => parts.extend(others),
            single => parts.push(single),
        }
        Self::Or(parts)
    }

    /// These users without those.
    pub fn except(self, other: impl Into<Self>) -> Self {
        Self::Except(Box::new(self), Box::new(other.into()))
    }

    /// Refuses what cannot be answered.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_within(MAX_DEPTH)
    }

    fn validate_within(&self, depth: usize) -> Result<(), Invalid> {
        let Some(rest) = depth.checked_sub(1) else {
            return Err(Invalid::new(
                "users",
                format!("nests AND, OR, NOT and EXCEPT deeper than {MAX_DEPTH}"),
            ));
        };
        match self {
            Self::Everyone | Self::Users(_) => Ok(()),
            Self::Did(did) => did.validate(),
            Self::Trait(condition) if !condition.only_traits() => Err(Invalid::new(
                "users",
                "a predicate over users reads traits only; put conditions on events into did(…)",
            )),
            Self::Trait(condition) => condition.validate(),
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().try_for_each(|part| part.validate_within(rest))
            }
            Self::Not(inner) => inner.validate_within(rest),
            Self::Except(left, right) => {
                left.validate_within(rest)?;
                right.validate_within(rest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{Comparison, any, did, event, property, user_trait};

    fn option(segment: impl Into<Segment>) -> &'static str {
        segment
            .into()
            .validate()
            .map_err(|error| error.option)
            .unwrap_err()
    }

    #[test]
    fn errors_name_the_option() {
        let zero = Segment::from(did("buy").exactly(0)).validate().unwrap_err();
        assert_eq!(zero.option, "exactly");
        assert!(zero.to_string().contains("NOT did"), "{zero}");
        assert_eq!(option(did("buy").at_least(0)), "at_least");
        assert_eq!(option(did("buy").at_most(0)), "at_most");
        assert_eq!(option(did("buy").on_days(0)), "on_days");
        assert_eq!(option(did("buy").at_least(3).at_most(2)), "at_most");
        assert_eq!(option(did("buy").at_least(3).exactly(2)), "exactly");
        assert_eq!(option(did("buy").holding("item")), "holding");
        assert_eq!(
            option(did("buy").then_within(crate::days(1))),
            "then_within"
        );
        assert_eq!(
            option(did("buy").sum("price", Comparison::Less, "x")),
            "sum"
        );
        assert_eq!(option(not(did(any()).since(3).until(3))), "until");
        assert_eq!(option(traits(property("price").gt(1))), "users");
        traits(user_trait("country").eq("de")).validate().unwrap();
        did(event("buy"))
            .at_least(2)
            .exactly(2)
            .and(everyone())
            .validate()
            .unwrap();
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut segment = everyone();
        for _ in 0..200 {
            segment = everyone().except(segment);
        }
        assert_eq!(option(segment), "users");
        let mut condition = any();
        for _ in 0..200 {
            condition = property("x").is_null().and(any().or(condition));
        }
        assert_eq!(option(did(condition)), "condition");
    }
}
