//! Literals, and how a value compares with one: the literal decides.

use std::cmp::Ordering;

use pugmark_engine::Scalar;

/// A constant in a condition.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Literal {
    /// SQL NULL: every comparison with it is unknown.
    Null,
    /// Compares with boolean values only.
    Bool(bool),
    /// Compares with numbers only.
    I64(i64),
    /// Compares with numbers only; NaN compares with nothing.
    F64(f64),
    /// Compares with the canonical text of any value, byte by byte.
    Text(String),
    /// Compares with timestamps only; microseconds since 1970-01-01 UTC.
    Timestamp(i64),
}

/// The literal of an instant, in microseconds since 1970-01-01 UTC.
pub fn timestamp(micros: i64) -> Literal {
    Literal::Timestamp(micros)
}

impl From<bool> for Literal {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Literal {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<i32> for Literal {
    fn from(value: i32) -> Self {
        Self::I64(i64::from(value))
    }
}

impl From<f64> for Literal {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

impl From<&str> for Literal {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Literal {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// How `value` stands to `literal`; `None` where the two cannot be compared.
///
/// Whole and floating-point numbers compare by their exact values, also beyond 2^53.
pub fn compare(value: Scalar<'_>, literal: &Literal) -> Option<Ordering> {
    match (literal, value) {
        (Literal::Text(literal), value) => {
            Some(value.canonical_text().as_bytes().cmp(literal.as_bytes()))
        }
        (Literal::Bool(literal), Scalar::Bool(value)) => Some(value.cmp(literal)),
        (Literal::Timestamp(literal), Scalar::Timestamp(value)) => Some(value.cmp(literal)),
        (Literal::I64(literal), Scalar::I64(value)) => Some(value.cmp(literal)),
        (Literal::I64(literal), Scalar::F64(value)) => {
            compare_exactly(i128::from(*literal), value).map(Ordering::reverse)
        }
        (Literal::F64(literal), Scalar::I64(value)) => compare_exactly(i128::from(value), *literal),
        (Literal::F64(literal), Scalar::F64(value)) => value.partial_cmp(literal),
        _ => None,
    }
}

/// A whole number against a floating-point one, by their exact values; `None` for NaN.
pub(crate) fn compare_exactly(whole: i128, float: f64) -> Option<Ordering> {
    // 2^127: the first power of two beyond `i128`; floats are exact at powers of two.
    const LIMIT: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;
    if float.is_nan() {
        None
    } else if float >= LIMIT {
        Some(Ordering::Less)
    } else if float < -LIMIT {
        Some(Ordering::Greater)
    } else {
        let truncated = float.trunc();
        let by_whole = whole.cmp(&(truncated as i128));
        // The fraction decides only where the whole parts are equal.
        Some(by_whole.then_with(|| truncated.total_cmp(&float)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_exactly_beyond_2_to_the_53() {
        let big = (1_i64 << 53) + 1;
        let float = (1_i64 << 53) as f64;
        assert_eq!(
            compare(Scalar::I64(big), &Literal::F64(float)),
            Some(Ordering::Greater)
        );
        assert_eq!(
            compare(Scalar::F64(float), &Literal::I64(big)),
            Some(Ordering::Less)
        );
        assert_eq!(
            compare(Scalar::I64(i64::MAX), &Literal::F64(9.3e18)),
            Some(Ordering::Less)
        );
        assert_eq!(
            compare(Scalar::I64(i64::MAX), &Literal::F64(i64::MAX as f64)),
            Some(Ordering::Less)
        );
        assert_eq!(
            compare(Scalar::I64(-2), &Literal::F64(-2.5)),
            Some(Ordering::Greater)
        );
        assert_eq!(
            compare(Scalar::I64(0), &Literal::F64(-0.0)),
            Some(Ordering::Equal)
        );
        for infinite in [f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(
                compare(Scalar::I64(0), &Literal::F64(infinite)),
                0.0_f64.partial_cmp(&infinite)
            );
        }
        assert_eq!(compare(Scalar::I64(0), &Literal::F64(f64::NAN)), None);
        assert_eq!(compare(Scalar::F64(f64::NAN), &Literal::I64(0)), None);
    }

    #[test]
    fn the_literal_decides() {
        let seven = Literal::from("7");
        assert_eq!(compare(Scalar::I64(7), &seven), Some(Ordering::Equal));
        assert_eq!(compare(Scalar::F64(7.0), &seven), Some(Ordering::Equal));
        assert_eq!(compare(Scalar::Text("7"), &Literal::I64(7)), None);
        assert_eq!(compare(Scalar::Bool(true), &Literal::I64(1)), None);
        assert_eq!(
            compare(Scalar::Bool(true), &"true".into()),
            Some(Ordering::Equal)
        );
        assert_eq!(
            compare(Scalar::Timestamp(0), &"1970-01-01T00:00:00Z".into()),
            Some(Ordering::Equal)
        );
        assert_eq!(compare(Scalar::Timestamp(0), &Literal::I64(0)), None);
        assert_eq!(compare(Scalar::I64(0), &Literal::Null), None);
    }
}
