//! What can go wrong, by operation. Every error says where and, where a person can act, what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// An operating-system call on a file or directory of the store failed.
#[derive(Debug, Clone, Error)]
#[error("cannot {operation} {}: {source}", path.display())]
#[non_exhaustive]
pub struct StorageError {
    /// What was tried, as a verb: `open`, `sync`, `rename` …
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: Arc<std::io::Error>,
}

impl StorageError {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self {
            operation,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    /// True where the file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }
}

/// Bytes of the store that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} is corrupt at byte {offset}: {what}", file.display())]
#[non_exhaustive]
pub struct Corruption {
    /// The file.
    pub file: PathBuf,
    /// Where in the file the damaged part begins.
    pub offset: u64,
    /// Which invariant does not hold.
    pub what: &'static str,
}

impl Corruption {
    /// Damage in `file` at `offset`.
    pub fn new(file: &Path, offset: u64, what: &'static str) -> Self {
        Self {
            file: file.to_owned(),
            offset,
            what,
        }
    }
}

/// Reading the store failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A file could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file holds damaged bytes.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
}

/// A batch was refused as a whole; nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("row {row}, {field}: {problem}")]
#[non_exhaustive]
pub struct BatchError {
    /// The first offending row, counted from 0.
    pub row: usize,
    /// The offending field: `user_id`, `time`, `event`, `message_id` or a property's name.
    pub field: String,
    /// What is wrong with it.
    pub problem: BatchProblem,
}

/// What is wrong with a field of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchProblem {
    /// A user id, event name or property name of no bytes.
    #[error("is empty")]
    Empty,
    /// Longer than the store takes.
    #[error("has {bytes} bytes, the most is {limit}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// More rows, properties or list elements than one batch takes.
    #[error("has {count} of them, the most is {limit}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// The most allowed.
        limit: usize,
    },
    /// A column whose length differs from the batch's.
    #[error("has {found} rows where the batch has {expected}")]
    LengthMismatch {
        /// Rows of this column.
        found: usize,
        /// Rows of the batch.
        expected: usize,
    },
    /// The same property twice in one batch or one event.
    #[error("is given twice")]
    Repeated,
    /// A list inside a list.
    #[error("is a list inside a list; flatten it first")]
    NestedList,
    /// The parts of a column contradict each other (two values for one row, rows out of order).
    #[error("has inconsistent parts: {0}")]
    Inconsistent(&'static str),
}

/// Opening a store failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file holds damaged bytes.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// Another process writes to this store.
    #[error(
        "{} is being written by {holder}; open it read-only, or stop that process",
        path.display()
    )]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// Who holds the lock: a process id and command, as far as known.
        holder: String,
    },
    /// There is no store here, and creating one was not asked for.
    #[error("{} holds no store; create it by opening it for writing", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// The store was written by a newer release.
    #[error(
        "{} has format version {found}; this release reads up to {supported}: upgrade Pugmark",
        path.display()
    )]
    TooNew {
        /// The file that says so.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version that this release reads.
        supported: u32,
    },
    /// An option contradicts another or is out of bounds.
    #[error("option {option}: {problem}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Writing to the store failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The batch was refused.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file holds damaged bytes.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// An earlier write failed in a way that leaves the files' state unknown.
    #[error("the store takes no more writes since {cause}; reopen it")]
    Poisoned {
        /// The failure that poisoned the store.
        cause: StorageError,
    },
    /// The store is open for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The events would spread over more time partitions than a store may hold.
    #[error(
        "events would spread over {count} time partitions, the most is {limit}; check the times, or open the store with longer partitions"
    )]
    TooManyPartitions {
        /// Partitions the store would have.
        count: usize,
        /// The most allowed.
        limit: usize,
    },
    /// A bulk load cannot check message ids.
    #[error("a bulk load takes no message ids; append batches that have some")]
    MessageIdsInBulk,
    /// An earlier step of a bulk load failed, and its rows with it.
    #[error(
        "an earlier step of this load failed; drop it and begin the same load again, which goes on behind what was stored"
    )]
    LoadFailed,
    /// A thread of the store panicked, which is a bug.
    #[error("a thread of the store panicked; reopen the store, and report this")]
    Panicked,
    /// Every one of the 2^32 user ordinals is taken.
    #[error("the store holds as many users as it can (2^32); shard by hash of the user")]
    TooManyUsers,
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Storage(error) => Self::Storage(error),
            ReadError::Corrupt(error) => Self::Corrupt(error),
        }
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Storage(error) => Self::Storage(error),
            ReadError::Corrupt(error) => Self::Corrupt(error),
        }
    }
}
