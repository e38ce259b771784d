//! Conditions: a boolean over one event, with SQL's three truth values.
//!
//! ```
//! use pugmark_query::{event, property, time, timestamp};
//! let condition = event("view")
//!     .and(property("price").gt(10.0).or(property("brand").is_null()))
//!     .and(time().ge(timestamp(1_569_888_000_000_000)));
//! assert_eq!(condition.names().only(), Some("view"));
//! ```

use super::computed::Computed;
use super::literal::Literal;
use super::pattern::Pattern;
use crate::error::Invalid;

/// Deepest nesting of AND, OR and NOT; chains of any length count once.
const MAX_DEPTH: usize = 128;

/// What a condition came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Truth {
    /// It does not hold, nor would its value if it were known.
    False,
    /// A value is missing, or is of a type that cannot be compared.
    Unknown,
    /// It holds; only such events count.
    True,
}

/// What a comparison looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operand {
    /// The event's name; never missing.
    EventName,
    /// The event's time; never missing.
    Time,
    /// A property of the event.
    Property(String),
    /// A trait of the event's user, as of the question's present.
    Trait(String),
    /// What a function makes of others.
    Computed(Computed),
}

/// How two values must stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A test of a value's canonical text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTest {
    pub(super) pattern: Pattern,
}

/// A boolean over one event.
///
/// Made by the functions of this module: [`any`], [`event`], [`property`] …
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Condition {
    /// The same for every event.
    Constant(Truth),
    /// A comparison with a literal: true where any element of a multi-valued operand compares so.
    Compare {
        /// What is compared.
        operand: Operand,
        /// How it must stand to the literal.
        comparison: Comparison,
        /// What it is compared with.
        literal: Literal,
    },
    /// Equal to any of the literals: exactly the OR of the equalities.
    In {
        /// What is compared.
        operand: Operand,
        /// What it is compared with.
        literals: Vec<Literal>,
    },
    /// A test of the text of a value: true where any element passes.
    Text {
        /// What is tested.
        operand: Operand,
        /// The test.
        test: TextTest,
    },
    /// True where the operand is missing, else false.
    IsNull(Operand),
    /// All of them; true where there is none.
    And(Vec<Condition>),
    /// Any of them; false where there is none.
    Or(Vec<Condition>),
    /// The contrary; unknown stays unknown.
    Not(Box<Condition>),
}

/// Every event.
pub fn any() -> Condition {
    Condition::Constant(Truth::True)
}

/// Events of this name.
pub fn event(name: &str) -> Condition {
    event_name().eq(name)
}

/// The name of the event, to be compared.
pub fn event_name() -> Operand {
    Operand::EventName
}

/// The time of the event, to be compared.
pub fn time() -> Operand {
    Operand::Time
}

/// A property of the event, to be compared.
pub fn property(name: &str) -> Operand {
    Operand::Property(name.to_owned())
}

/// A trait of the event's user, to be compared.
pub fn user_trait(name: &str) -> Operand {
    Operand::Trait(name.to_owned())
}

impl From<&str> for Condition {
    /// Events of this name.
    fn from(name: &str) -> Self {
        event(name)
    }
}

impl Operand {
    /// Equal to the literal.
    pub fn eq(self, literal: impl Into<Literal>) -> Condition {
        self.compare(Comparison::Equal, literal)
    }

    /// Not equal to the literal; unknown where missing. Of several elements, any differs.
    pub fn ne(self, literal: impl Into<Literal>) -> Condition {
        self.compare(Comparison::NotEqual, literal)
    }

    /// Less than the literal.
    pub fn lt(self, literal: impl Into<Literal>) -> Condition {
        self.compare(Comparison::Less, literal)
    }

    /// At most the literal.
    pub fn le(self, literal: impl Into<Literal>) -> Condition {
        self.compare(Comparison::LessOrEqual, literal)
    }

    /// Greater than the literal.
    pub fn gt(self, literal: impl Into<Literal>) -> Condition {
        self.compare(Comparison::Greater, literal)
    }

    /// At least the literal.
    pub fn ge(self, literal: impl Into<Literal>) -> Condition {
        self.compare(Comparison::GreaterOrEqual, literal)
    }

    /// As `comparison` says.
    pub fn compare(self, comparison: Comparison, literal: impl Into<Literal>) -> Condition {
        Condition::Compare {
            operand: self,
            comparison,
            literal: literal.into(),
        }
    }

    /// At least `low` and at most `high`.
    pub fn between(self, low: impl Into<Literal>, high: impl Into<Literal>) -> Condition {
        self.clone().ge(low).and(self.le(high))
    }

    /// Equal to any of the literals.
    pub fn is_in<L: Into<Literal>>(self, literals: impl IntoIterator<Item = L>) -> Condition {
        Condition::In {
            operand: self,
            literals: literals.into_iter().map(Into::into).collect(),
        }
    }

    /// Missing.
    pub fn is_null(self) -> Condition {
        Condition::IsNull(self)
    }

    /// Present.
    pub fn is_not_null(self) -> Condition {
        Condition::IsNull(self).not()
    }

    /// Text that begins with `prefix`.
    pub fn starts_with(self, prefix: &str) -> Condition {
        self.text(TextTest::starts_with(prefix))
    }

    /// Text that contains `part`.
    pub fn contains(self, part: &str) -> Condition {
        self.text(TextTest::contains(part))
    }

    /// Text that matches SQL's `LIKE pattern`.
    pub fn like(self, pattern: &str) -> Condition {
        self.text(TextTest::like(pattern))
    }

    /// Text that matches SQL's `ILIKE pattern`.
    pub fn ilike(self, pattern: &str) -> Condition {
        self.text(TextTest::like(pattern).ignoring_case())
    }

    /// Text that passes `test`.
    pub fn text(self, test: TextTest) -> Condition {
        Condition::Text {
            operand: self,
            test,
        }
    }
}

impl TextTest {
    /// Text that begins with `prefix`.
    pub fn starts_with(prefix: &str) -> Self {
        Self {
            pattern: Pattern::literal(false, prefix, true),
        }
    }

    /// Text that ends with `suffix`.
    pub fn ends_with(suffix: &str) -> Self {
        Self {
            pattern: Pattern::literal(true, suffix, false),
        }
    }

    /// Text that contains `part`.
    pub fn contains(part: &str) -> Self {
        Self {
            pattern: Pattern::literal(true, part, true),
        }
    }

    /// SQL's LIKE: `%` is any text, `_` any character, and a backslash takes the next
    /// character as it is.
    pub fn like(pattern: &str) -> Self {
        Self::like_escaped(pattern, Some('\\'))
    }

    /// SQL's LIKE with another ESCAPE character, or none.
    pub fn like_escaped(pattern: &str, escape: Option<char>) -> Self {
        Self {
            pattern: Pattern::like(pattern, escape),
        }
    }

    /// The same, with upper and lower case alike (by Unicode's lower case).
    pub fn ignoring_case(self) -> Self {
        Self {
            pattern: self.pattern.ignoring_case(),
        }
    }

    /// True where `text` passes.
    pub fn matches(&self, text: &str) -> bool {
        self.pattern.matches(text)
    }
}

impl Condition {
    /// Both hold.
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

    /// At least one holds.
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

    /// The contrary holds; what is unknown stays so.
    #[expect(
        clippy::should_implement_trait,
        reason = "conditions are built by methods that read like SQL"
    )]
    pub fn not(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// Refuses conditions that nest so deep that walking them could exhaust the stack.
    ///
    /// # Errors
    /// Names `condition`.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_as("condition")
    }

    /// As [`Condition::validate`], of the condition that is the option `option`.
    pub(crate) fn validate_as(&self, option: &'static str) -> Result<(), Invalid> {
        if self.deeper_than(MAX_DEPTH) {
            return Err(Invalid::new(
                option,
                format!("nests AND, OR and NOT deeper than {MAX_DEPTH}"),
            ));
        }
        Ok(())
    }

    fn deeper_than(&self, depth: usize) -> bool {
        let Some(rest) = depth.checked_sub(1) else {
            return true;
        };
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.deeper_than(rest)),
            Self::Not(inner) => inner.deeper_than(rest),
            _ => false,
        }
    }
}

impl Comparison {
    /// The same with its sides exchanged.
    pub fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }

    /// The one that holds where this does not, of values that compare.
    pub fn contrary(self) -> Self {
        match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Less => Self::GreaterOrEqual,
            Self::LessOrEqual => Self::Greater,
            Self::Greater => Self::LessOrEqual,
            Self::GreaterOrEqual => Self::Less,
        }
    }

    /// True where a value that stands so to the literal satisfies the comparison.
    pub fn accepts(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Truth {
    /// SQL's AND.
    pub fn and(self, other: Self) -> Self {
        self.min(other)
    }

    /// SQL's OR.
    pub fn or(self, other: Self) -> Self {
        self.max(other)
    }

    /// SQL's NOT.
    pub fn negate(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
            Self::True => Self::False,
        }
    }

    /// True only where it is known to hold.
    pub fn holds(self) -> bool {
        self == Self::True
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}
