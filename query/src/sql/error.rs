//! What can be wrong with a statement, and where in its text.

use std::fmt;

use datafusion::common::{DataFusionError, Location};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Span as TextSpan;
use thiserror::Error;

use crate::error::{Invalid, ZoneError};
use crate::exec::QueryError;

/// A place in the text of a statement; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The character of the line.
    pub column: u64,
}

/// Why a statement has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SqlError {
    /// The text, or something named in it, is wrong.
    #[error("{}{problem}", at(.place))]
    Statement {
        /// Where, if it can be told.
        place: Option<Place>,
        /// What is wrong, and what to write instead where that is known.
        problem: String,
    },
    /// A question of Pugmark's own failed, or the statement was stopped.
    #[error("{}", of_statement(.0))]
    Query(#[from] QueryError),
    /// The store could not be read.
    #[error(transparent)]
    Open(#[from] pugmark_engine::OpenError),
    /// Planning or running it failed.
    #[error("{}", plainly(.0))]
    Engine(#[from] DataFusionError),
}

/// What stopped a question, told of a statement.
fn of_statement(error: &QueryError) -> String {
    match error {
        QueryError::OutOfMemory { limit, wanted } => {
            needs_more_memory(*limit, *wanted, "a question")
        }
        other => other.to_string(),
    }
}

/// That a statement would need more memory than it may hold.
pub(super) fn needs_more_memory(limit: usize, wanted: usize, who: &str) -> String {
    let megabytes = |bytes: usize| bytes.div_ceil(1 << 20);
    format!(
        "the statement needs more than its {} MB of memory ({who} asked for {} MB more); SET \
         memory_limit to more or threads to fewer, or ask for fewer rows or columns",
        limit >> 20,
        megabytes(wanted)
    )
}

fn at(place: &Option<Place>) -> String {
    place.map_or_else(String::new, |place| format!("{place}: "))
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}, column {}", self.line, self.column)
    }
}

impl Place {
    /// Where a span begins; nothing is known of an empty one.
    pub(super) fn of(span: TextSpan) -> Option<Self> {
        (span.start.line > 0).then_some(Self {
            line: span.start.line,
            column: span.start.column,
        })
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self {
            line: location.line,
            column: location.column,
        }
    }
}

impl SqlError {
    /// An error at a place.
    pub(super) fn at(span: TextSpan, problem: impl Into<String>) -> Self {
        Self::Statement {
            place: Place::of(span),
            problem: problem.into(),
        }
    }

    /// An error about the whole statement.
    pub(super) fn of(problem: impl Into<String>) -> Self {
        Self::Statement {
            place: None,
            problem: problem.into(),
        }
    }

    /// What a question's own check said, at the call that asks it.
    pub(super) fn invalid(span: TextSpan, call: &str, invalid: &Invalid) -> Self {
        Self::at(span, format!("{call}: {invalid}"))
    }
}

impl From<ParserError> for SqlError {
    fn from(error: ParserError) -> Self {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => {
                return Self::of("the statement nests too deep; build it up with WITH");
            }
        };
        // The parser appends the place to its text.
        let found = text.rsplit_once(" at Line: ").and_then(|(what, place)| {
            let (line, column) = place.split_once(", Column: ")?;
            let place = Place {
                line: line.trim().parse().ok()?,
                column: column.trim().parse().ok()?,
            };
            Some((what.to_owned(), place))
        });
        match found {
            Some((problem, place)) => Self::Statement {
                place: Some(place),
                problem,
            },
            None => Self::of(text),
        }
    }
}

impl From<ZoneError> for SqlError {
    fn from(error: ZoneError) -> Self {
        Self::of(error.to_string())
    }
}

/// The message without the layers that it came through, and with its place where it has one.
fn plainly(error: &DataFusionError) -> String {
    let root = error.find_root();
    if let DataFusionError::External(inner) = root {
        return inner.to_string();
    }
    let text = match root {
        DataFusionError::Plan(text)
        | DataFusionError::Execution(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Configuration(text) => text.clone(),
        DataFusionError::ResourcesExhausted(text) => text.clone(),
        other => other.strip_backtrace(),
    };
    let text = without_blame(&text);
    // What it says besides is about settings that are not ours.
    if text.contains("max_temp_directory_size") {
        return "the statement's temporary files would be more than its spill_limit; SET it or \
                memory_limit to more, or ask for fewer rows or columns"
            .to_owned();
    }
    let place = error
        .diagnostic()
        .and_then(|diagnostic| diagnostic.span)
        .map(|span| Place::from(span.start));
    format!("{}{text}", at(&place))
}

/// What follows DataFusion's notice that it may be a bug of its own, which a call of a function with
/// wrong arguments is not; without the list of all signatures.
fn without_blame(text: &str) -> &str {
    let Some(start) = text.find("No function matches the given name") else {
        return text;
    };
    let told = &text[start..];
    told.split("\n\tCandidate functions").next().unwrap_or(told)
}
