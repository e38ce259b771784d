//! What a condition comes to for one event: the reference, value by value.
//!
//! Scans over columns evaluate in bulk elsewhere and must agree with this.

use std::borrow::Cow;
use std::collections::BTreeMap;

use pugmark_engine::{Scalar, Value};

use super::computed::{Computation, Computed};
use super::condition::{Condition, Operand, Truth};
use super::literal::{Literal, compare};

/// An event as a condition sees it.
pub trait EventRow {
    /// Its name.
    fn event(&self) -> &str;
    /// Its time, in microseconds since 1970-01-01 UTC.
    fn time(&self) -> i64;
    /// A property, if it has it.
    fn property(&self, name: &str) -> Option<&Value>;
    /// A trait of its user, if the user has it.
    fn user_trait(&self, name: &str) -> Option<&Value>;
    /// What an expression comes to for it, and 1 where computing that failed, where it is known
    /// already.
    fn known(&self, _computed: &Computed) -> Option<(Option<Value>, u64)> {
        None
    }
}

/// How many values comparisons could not use for their type, or could not be computed, by property,
/// `users.trait` or expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    counts: BTreeMap<String, u64>,
}

impl Skipped {
    /// Adds `count` values of `operand`.
    pub fn add(&mut self, operand: &Operand, count: u64) {
        if count == 0 {
            return;
        }
        *self.counts.entry(operand.to_string()).or_default() += count;
    }

    /// Adds what another counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
    }

    /// The names and their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
    }

    /// True where every value could be compared.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl Condition {
    /// What this comes to for `row`; values that cannot be compared are counted in `skipped`.
    pub fn evaluate(&self, row: &impl EventRow, skipped: &mut Skipped) -> Truth {
        match self {
            Self::Constant(truth) => *truth,
            Self::Compare {
                operand,
                comparison,
                literal,
            } => test(operand, row, skipped, |scalar| {
                compare(scalar, literal).map(|ordering| comparison.accepts(ordering))
            }),
            Self::In { operand, literals } => {
                let (value, failed) = operand_value(operand, row);
                skipped.add(operand, failed);
                let mut truth = Truth::False;
                for literal in literals {
                    truth = truth.or(test_value(operand, &value, skipped, |scalar| {
                        compare(scalar, literal).map(std::cmp::Ordering::is_eq)
                    }));
                }
                truth
            }
            Self::Text {
                operand,
                test: text,
            } => test(operand, row, skipped, |scalar| {
                Some(text.matches(&scalar.canonical_text()))
            }),
            Self::IsNull(operand) => {
                let (value, failed) = operand_value(operand, row);
                skipped.add(operand, failed);
                let is_empty = value.is_none_or(|value| value.scalars().next().is_none());
                Truth::from(is_empty)
            }
            Self::And(parts) => parts.iter().fold(Truth::True, |truth, part| {
                truth.and(part.evaluate(row, skipped))
            }),
            Self::Or(parts) => parts.iter().fold(Truth::False, |truth, part| {
                truth.or(part.evaluate(row, skipped))
            }),
            Self::Not(inner) => inner.evaluate(row, skipped).negate(),
        }
    }
}

/// Any element that can be tested decides; with none it is unknown.
fn test(
    operand: &Operand,
    row: &impl EventRow,
    skipped: &mut Skipped,
    test: impl Fn(Scalar<'_>) -> Option<bool>,
) -> Truth {
    let (value, failed) = operand_value(operand, row);
    skipped.add(operand, failed);
    test_value(operand, &value, skipped, test)
}

fn test_value(
    operand: &Operand,
    value: &Option<Cow<'_, Value>>,
    skipped: &mut Skipped,
    test: impl Fn(Scalar<'_>) -> Option<bool>,
) -> Truth {
    let (mut truth, mut unusable) = (None, 0);
    for scalar in value.iter().flat_map(|value| value.scalars()) {
        match test(scalar) {
            Some(passes) => truth = Some(truth.unwrap_or(false) || passes),
            None => unusable += 1,
        }
    }
    skipped.add(operand, unusable);
    truth.map_or(Truth::Unknown, Truth::from)
}

/// What an operand is for an event, `None` where it is missing; and 1 where it could not be computed.
pub(crate) fn operand_value<'a>(
    operand: &Operand,
    row: &'a impl EventRow,
) -> (Option<Cow<'a, Value>>, u64) {
    let value = match operand {
        Operand::EventName => Some(Cow::Owned(Value::Text(row.event().to_owned()))),
        Operand::Time => Some(Cow::Owned(Value::Timestamp(row.time()))),
        Operand::Property(name) => row.property(name).map(Cow::Borrowed),
        Operand::Trait(name) => row.user_trait(name).map(Cow::Borrowed),
        Operand::Computed(computed) => {
            if let Some((value, failed)) = row.known(computed) {
                return (value.map(Cow::Owned), failed);
            }
            let inputs = computed.inputs().iter();
            let inputs = inputs.map(|input| operand_value(input, row).0.map(Cow::into_owned));
            let Computation { mut values, failed } = computed.of_one(inputs.collect());
            return (values.pop().flatten().map(Cow::Owned), failed);
        }
    };
    (value, 0)
}

impl Literal {
    /// True where no value compares with this.
    pub(crate) fn compares_with_nothing(&self) -> bool {
        match self {
            Self::Null => true,
            Self::F64(value) => value.is_nan(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{any, event, property, time, timestamp, user_trait};

    struct Row(BTreeMap<&'static str, Value>);

    impl EventRow for Row {
        fn event(&self) -> &str {
            "view"
        }
        fn time(&self) -> i64 {
            1_000
        }
        fn property(&self, name: &str) -> Option<&Value> {
            self.0.get(name)
        }
        fn user_trait(&self, name: &str) -> Option<&Value> {
            self.0.get(name).filter(|_| name == "country")
        }
    }

    fn row() -> Row {
        Row(BTreeMap::from([
            ("price", Value::I64(12)),
            ("label", Value::Text("12".into())),
            ("country", Value::Text("de".into())),
            (
                "tags",
                Value::List(vec![Value::Text("a".into()), Value::I64(5)]),
            ),
        ]))
    }

    fn truth(condition: Condition) -> Truth {
        condition.evaluate(&row(), &mut Skipped::default())
    }

    #[test]
    fn three_valued_logic() {
        use Truth::{False, True, Unknown};
        assert_eq!(truth(any()), True);
        assert_eq!(truth(event("view").and(property("price").gt(10.0))), True);
        assert_eq!(truth(property("none").gt(10.0)), Unknown);
        assert_eq!(truth(property("none").gt(10.0).not()), Unknown);
        assert_eq!(truth(property("none").gt(1).or(event("view"))), True);
        assert_eq!(truth(property("none").gt(1).and(event("buy"))), False);
        assert_eq!(truth(property("none").is_null()), True);
        assert_eq!(truth(property("price").is_not_null()), True);
        assert_eq!(truth(property("label").gt(10.0)), Unknown);
        assert_eq!(truth(property("label").gt(10.0).not()), Unknown);
        assert_eq!(truth(property("price").eq("12")), True);
        assert_eq!(truth(property("price").between(11, 13)), True);
        assert_eq!(truth(property("price").is_in([1, 12])), True);
        assert_eq!(truth(property("price").is_in([1])), False);
        assert_eq!(truth(property("price").eq(Literal::Null)), Unknown);
        assert_eq!(truth(user_trait("country").starts_with("d")), True);
        assert_eq!(truth(user_trait("price").is_null()), True);
        assert_eq!(truth(time().lt(timestamp(1_000))), False);
        assert_eq!(truth(time().le(timestamp(1_000))), True);
    }

    #[test]
    fn any_element_of_several_decides() {
        assert_eq!(truth(property("tags").eq("a")), Truth::True);
        assert_eq!(truth(property("tags").ne("a")), Truth::True);
        assert_eq!(truth(property("tags").gt(6)), Truth::False);
        assert_eq!(truth(property("tags").contains("b")), Truth::False);
    }

    #[test]
    fn what_cannot_be_compared_is_counted() {
        let mut skipped = Skipped::default();
        let condition = property("tags").gt(3).and(property("label").lt(3));
        condition.evaluate(&row(), &mut skipped);
        let counts: Vec<_> = skipped.iter().collect();
        assert_eq!(counts, [("label", 1), ("tags", 1)]);
    }
}
