//! Message ids within a window of arrival, so that a retried event is stored once.

/// A sealed run of message ids, as the manifest names it: the file `dedup/<number>.mid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupRunMeta {
    /// The file's number.
    pub number: u64,
    /// How many ids.
    pub count: u32,
    /// Arrival of its oldest id, in whole milliseconds since 1970-01-01 UTC (rounded down).
    pub min_arrival_millis: i64,
    /// Arrival of its newest id, in the same unit.
    pub max_arrival_millis: i64,
    /// The file's length in bytes.
    pub length: u64,
}
