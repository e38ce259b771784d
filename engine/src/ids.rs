//! Identifiers: who an event belongs to, outside (ids) and inside (ordinals).

use std::borrow::Cow;
use std::fmt;

/// A user's dense number inside one store, given in order of first arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal(pub u32);

/// A user's external id, borrowed.
///
/// An integer and its canonical decimal text are the same id: text that prints back
/// identically from an `i64` is always held as [`UserKey::Int`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserKey<'a> {
    /// An id whose text is the canonical decimal form of an integer.
    Int(i64),
    /// Any other text of 1..=255 bytes.
    Text(&'a str),
}

impl<'a> UserKey<'a> {
    /// The id that `text` spells.
    pub fn from_text(text: &'a str) -> Self {
        match canonical_integer(text) {
            Some(number) => Self::Int(number),
            None => Self::Text(text),
        }
    }

    /// The id's text.
    pub fn text(&self) -> Cow<'a, str> {
        match *self {
            Self::Int(number) => Cow::Owned(number.to_string()),
            Self::Text(text) => Cow::Borrowed(text),
        }
    }
}

impl fmt::Display for UserKey<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(out, "{number}"),
            Self::Text(text) => out.write_str(text),
        }
    }
}

/// The integer that prints back as exactly `text`, if there is one.
pub fn canonical_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty()
        && digits.len() <= 19
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (!digits.starts_with('0') || text == "0");
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_decimals_are_integers() {
        for text in [
            "0",
            "7",
            "-5",
            "9223372036854775807",
            "-9223372036854775808",
        ] {
            assert_eq!(
                canonical_integer(text)
                    .map(|number| number.to_string())
                    .as_deref(),
                Some(text)
            );
        }
        for text in [
            "",
            "-",
            "-0",
            "007",
            "+1",
            "1.0",
            " 1",
            "9223372036854775808",
            "17850.0",
        ] {
            assert_eq!(canonical_integer(text), None, "{text:?}");
        }
    }
}
