//! What every reader gives: batches of events, with how far they reach.

use std::collections::BTreeMap;

use pugmark_engine::EventBatch;
use pugmark_engine::batch::Values;

use super::error::ImportError;
use super::rejects::Rejects;

/// Rows of a batch: large enough to spread the cost of each, small enough for caches.
pub(crate) const BATCH_ROWS: usize = 65_536;
/// Bytes of text that close a batch early, so that memory stays bounded.
pub(crate) const BATCH_TEXT_BYTES: usize = 32 << 20;

/// A batch, and the number of the input's rows dealt with so far, refused ones included.
#[derive(Debug)]
pub(crate) struct SourceBatch {
    pub(crate) batch: EventBatch,
    pub(crate) rows_done: u64,
}

/// One input being read.
pub(crate) trait RowSource: Send {
    /// The next events, or `None` at the end. A batch may be empty.
    fn next_batch(&mut self, rejects: &mut Rejects) -> Result<Option<SourceBatch>, ImportError>;

    /// Values of columns typed by hand that were not of that type and stayed text.
    fn kept_as_text(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
}

/// How a property's values turned out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertySummary {
    /// Values, by type: `text`, `i64`, `f64`, `bool`, `timestamp`, `list`.
    pub values: BTreeMap<&'static str, u64>,
}

/// Adds up what the properties of many batches are.
pub(crate) fn summarize(batch: &EventBatch, summary: &mut BTreeMap<String, PropertySummary>) {
    for property in batch.properties() {
        for part in &property.column.parts {
            let kind = match &part.values {
                Values::Null(_) => "null",
                Values::Bool(_) => "bool",
                Values::I64(_) => "i64",
                Values::F64(_) => "f64",
                Values::Timestamp(_) => "timestamp",
                Values::Text(_) => "text",
                Values::List(_) => "list",
            };
            if !summary.contains_key(&property.name) {
                summary.insert(property.name.clone(), PropertySummary::default());
            }
            if let Some(found) = summary.get_mut(&property.name) {
                *found.values.entry(kind).or_default() += part.values.len() as u64;
            }
        }
    }
}
