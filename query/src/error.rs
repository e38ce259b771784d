//! What can be wrong with a question before it runs.

use std::borrow::Cow;

use thiserror::Error;

/// An option of a question contradicts another, or has no meaning with this value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{option}: {problem}")]
#[non_exhaustive]
pub struct Invalid {
    /// The option, as it is written in a query: `within`, `after_step` …
    pub option: &'static str,
    /// Why it cannot be answered, and what to write instead where that is known.
    pub problem: Cow<'static, str>,
}

impl Invalid {
    /// An error about `option`.
    pub(crate) fn new(option: &'static str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self {
            option,
            problem: problem.into(),
        }
    }
}

/// A time zone that is not in the database.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no time zone is named {name:?}; give an IANA name such as Europe/Berlin, or UTC")]
pub struct ZoneError {
    /// The name that was given.
    pub name: String,
}
