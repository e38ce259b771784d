//! The write path: from an appended batch to bytes that survive a crash.

pub(crate) mod append;
pub(crate) mod bulk;
pub(crate) mod flush;
pub mod group;
pub mod log;
pub(crate) mod memtable;
pub(crate) mod record;
