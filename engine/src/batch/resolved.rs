//! Batches after their users became ordinals: what the memory table and segments are built from.

use super::{Property, TextColumn};

/// Rows in arrival order whose users are ordinals of this store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResolvedBatch {
    /// The user's ordinal of each row.
    pub users: Vec<u32>,
    /// Microseconds since 1970-01-01 UTC of each row.
    pub times: Vec<i64>,
    /// The event name of each row.
    pub events: TextColumn,
    /// Properties; each column spans all rows.
    pub properties: Vec<Property>,
}
