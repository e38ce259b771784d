//! Pugmark's engine: an embeddable, columnar, append-only event store with user bitmaps.

pub mod batch;
pub mod bitmap;
pub mod codec;
pub mod dedup;
pub mod dictionary;
pub mod error;
pub mod format;
pub mod ids;
pub mod limits;
pub mod segment;
pub mod storage;
pub mod time;
pub mod value;
pub mod write;

pub use batch::{BatchBuilder, BatchColumns, EventBatch};
pub use error::{
    BatchError, BatchProblem, Corruption, OpenError, ReadError, StorageError, WriteError,
};
pub use ids::{Ordinal, UserKey};
pub use value::{Scalar, Value};
