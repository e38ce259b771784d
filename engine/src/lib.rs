//! Pugmark's engine: an embeddable, columnar, append-only event store with user bitmaps.

pub mod batch;
pub mod bitmap;
pub mod codec;
mod crash;
pub mod dedup;
pub mod dictionary;
pub mod error;
pub mod format;
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod limits;
mod maintain;
mod manifest;
pub mod options;
mod read;
mod recover;
pub mod segment;
pub mod storage;
mod store;
pub mod time;
pub mod value;
mod verify;
pub mod write;

pub use batch::{BatchBuilder, BatchColumns, EventBatch, TraitsBatch};
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub use crash::CRASH_POINTS;
pub use error::{
    BatchError, BatchProblem, Corruption, OpenError, ReadError, StorageError, WriteError,
};
pub use ids::{Ordinal, UserKey};
pub use options::{Clock, Options};
pub use read::Snapshot;
pub use store::{Stats, Store, StoreBuilder};
pub use value::{Scalar, Value};
pub use verify::{VerifyError, VerifyReport};
pub use write::append::Appended;
pub use write::bulk::BulkLoad;
pub use write::group::Durability;
pub use write::record::{BatchKind, Progress};
