//! The write path: from an appended batch to bytes that survive a crash.

pub mod group;
pub mod log;
