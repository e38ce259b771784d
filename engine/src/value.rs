//! Property values, their types and their canonical text.

use std::borrow::Cow;

/// One property value of one event, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// True or false.
    Bool(bool),
    /// A whole number.
    I64(i64),
    /// A floating-point number; NaN compares with nothing.
    F64(f64),
    /// UTF-8 text.
    Text(&'a str),
    /// Microseconds since 1970-01-01 UTC.
    Timestamp(i64),
}

/// One property value, owned; what row-wise callers hand in and trails give back.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An explicit null. Dropped from events (a missing property); removes a trait.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    I64(i64),
    /// A floating-point number.
    F64(f64),
    /// UTF-8 text.
    Text(String),
    /// Microseconds since 1970-01-01 UTC.
    Timestamp(i64),
    /// A multi-valued property. Elements are scalars; an empty list is a missing property.
    List(Vec<Value>),
}

impl Value {
    /// The scalar inside, unless this is null or a list.
    pub fn as_scalar(&self) -> Option<Scalar<'_>> {
        Some(match self {
            Self::Null | Self::List(_) => return None,
            Self::Bool(value) => Scalar::Bool(*value),
            Self::I64(value) => Scalar::I64(*value),
            Self::F64(value) => Scalar::F64(*value),
            Self::Text(value) => Scalar::Text(value),
            Self::Timestamp(value) => Scalar::Timestamp(*value),
        })
    }

    /// The scalars that a condition on this value looks at: none for null, each element of a list.
    pub fn scalars(&self) -> impl Iterator<Item = Scalar<'_>> {
        let elements = match self {
            Self::List(elements) => elements.as_slice(),
            single => std::slice::from_ref(single),
        };
        elements.iter().filter_map(Self::as_scalar)
    }
}

impl<'a> Scalar<'a> {
    /// The value's canonical text: what a comparison against text looks at.
    ///
    /// Numbers print as Rust prints them (shortest form that reads back), timestamps as
    /// RFC 3339 in UTC with as many fraction digits as needed (none, 3 or 6).
    pub fn canonical_text(&self) -> Cow<'a, str> {
        match *self {
            Self::Bool(value) => Cow::Borrowed(if value { "true" } else { "false" }),
            Self::I64(value) => Cow::Owned(value.to_string()),
            Self::F64(value) => Cow::Owned(value.to_string()),
            Self::Text(value) => Cow::Borrowed(value),
            Self::Timestamp(micros) => Cow::Owned(crate::time::format_rfc3339(micros)),
        }
    }

    /// An owned copy.
    pub fn to_value(&self) -> Value {
        match *self {
            Self::Bool(value) => Value::Bool(value),
            Self::I64(value) => Value::I64(value),
            Self::F64(value) => Value::F64(value),
            Self::Text(value) => Value::Text(value.to_owned()),
            Self::Timestamp(value) => Value::Timestamp(value),
        }
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}
