//! What stops an import, and why single rows are refused.

use std::path::{Path, PathBuf};

use pugmark_engine::WriteError;
use thiserror::Error;

/// An option that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionError {
    /// An event rule.
    #[error(
        "`{rule}` is no rule; write COLUMN OP TEXT:NAME without blanks, where OP is = != ^= $= or *=, as in `InvoiceNo^=C:cancel`"
    )]
    Rule {
        /// The rule as given.
        rule: String,
    },
    /// A delimiter.
    #[error("`{found}` is no delimiter; give one character, `tab` or `blanks`")]
    Delimiter {
        /// As given.
        found: String,
    },
    /// A column's type.
    #[error("`{found}` is no COLUMN=TYPE; types are text, i64, f64, bool and timestamp")]
    ColumnType {
        /// As given.
        found: String,
    },
    /// A time format.
    #[error("`{format}` is no time format: {problem}")]
    TimeFormat {
        /// As given.
        format: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What stops an import.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A Parquet file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's answer.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A column that was named does not exist.
    #[error("{} has no column `{column}`; it has: {}", path.display(), columns.join(", "))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The columns there are.
        columns: Vec<String>,
    },
    /// A column whose name appears twice.
    #[error("{} has two columns `{column}`", path.display())]
    ColumnTwice {
        /// The file.
        path: PathBuf,
        /// The name.
        column: String,
    },
    /// A Parquet column of a type that events cannot have.
    #[error("column `{column}` of {} has type {kind}, which is not read; leave it out with --skip {column}", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type.
        kind: String,
    },
    /// Contents that are not what the format says.
    #[error("{}: {problem}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A row that could not be taken, where every row must be.
    #[error("{}, {place}: {problem}", path.display())]
    Strict {
        /// The file.
        path: PathBuf,
        /// Line or row.
        place: Place,
        /// What is wrong.
        problem: Problem,
    },
    /// The file changed while it was read.
    #[error("{} changed while it was imported; import it again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] pugmark_engine::OpenError),
    /// The store refused.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A batch that is not well formed in spite of every row's check.
    #[error(transparent)]
    Batch(#[from] pugmark_engine::BatchError),
}

impl ImportError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        Self::Io {
            operation,
            path,
            source,
        }
    }
}

/// Where in a file a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a text file, counted from 1.
    Line(u64),
    /// A row of a Parquet file, counted from 1.
    Row(u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => write!(out, "line {line}"),
            Self::Row(row) => write!(out, "row {row}"),
        }
    }
}

/// Why a row was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The user column is empty or missing.
    #[error("no user id")]
    NoUser,
    /// The time column is empty or missing.
    #[error("no time")]
    NoTime,
    /// The time cannot be read.
    #[error("`{found}` is no time")]
    BadTime {
        /// The text, cut to what fits a line.
        found: String,
    },
    /// No event name.
    #[error("no event name")]
    NoEvent,
    /// A user id, event name or message id over 255 bytes.
    #[error("{field} has {bytes} bytes, the most is 255")]
    NameTooLong {
        /// Which.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// More or fewer fields than columns.
    #[error("{found} fields where there are {expected} columns")]
    Fields {
        /// Fields of the row.
        found: usize,
        /// Columns of the file.
        expected: usize,
    },
    /// Bytes that are no UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// A text over the limit.
    #[error("`{property}` has {bytes} bytes of text, the most is 1 MiB")]
    TextTooLong {
        /// The property.
        property: String,
        /// Its length.
        bytes: usize,
    },
    /// A list over the limit.
    #[error("`{property}` has {count} elements, the most is 65536")]
    TooManyElements {
        /// The property.
        property: String,
        /// Its elements.
        count: usize,
    },
    /// More properties than one event may have.
    #[error("{count} properties, the most is 16384")]
    TooManyProperties {
        /// Their number.
        count: usize,
    },
    /// A property name over the limit, or empty.
    #[error("a property's name has {bytes} bytes, it may have 1 to 1024")]
    PropertyName {
        /// Its length.
        bytes: usize,
    },
    /// The same property twice.
    #[error("`{property}` is given twice")]
    Repeated {
        /// The property.
        property: String,
    },
    /// A line that is no JSON object.
    #[error("not a JSON object: {problem}")]
    Json {
        /// What the parser says.
        problem: String,
    },
    /// The array to explode is not there or no array of objects.
    #[error("no array of objects `{path}`")]
    NotExploded {
        /// The path asked for.
        path: String,
    },
    /// A line so long that it cannot be one row.
    #[error("longer than 64 MiB")]
    RowTooLong,
}

impl Problem {
    /// What problems of this kind are counted under.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoUser => "no user id",
            Self::NoTime => "no time",
            Self::BadTime { .. } => "a time that cannot be read",
            Self::NoEvent => "no event name",
            Self::NameTooLong { .. } => "a user id, event name or message id over 255 bytes",
            Self::Fields { .. } => "more or fewer fields than columns",
            Self::NotUtf8 => "not UTF-8",
            Self::TextTooLong { .. } => "a text over 1 MiB",
            Self::TooManyElements { .. } => "a list of over 65536 elements",
            Self::TooManyProperties { .. } => "too many properties",
            Self::PropertyName { .. } => "a property's name empty or too long",
            Self::Repeated { .. } => "a property given twice",
            Self::Json { .. } => "not a JSON object",
            Self::NotExploded { .. } => "nothing to explode",
            Self::RowTooLong => "a row longer than 64 MiB",
        }
    }

    /// A time that cannot be read, its text cut to what fits a line.
    pub(crate) fn bad_time(text: &str) -> Self {
        Self::BadTime {
            found: text.chars().take(60).collect(),
        }
    }
}
