//! The read path: a snapshot is one state of the store, whole and unchanging.

mod foreign;
mod snapshot;

pub(crate) use foreign::ForeignReader;
pub use snapshot::Snapshot;
