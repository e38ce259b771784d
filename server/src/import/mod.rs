//! Import: files of events, of many forms, as batches for a store.
//!
//! ```text
//! file, `-` ─ input ──► survey (types, unit of times)
//!                  └──► delimited │ ndjson │ parquet ─► batches of 64 Ki rows ─► sink
//!                                            └─ rejects (what cannot be taken, and why)
//! ```
//! A reader checks each row against every limit of the store, so that one bad row costs that row
//! and not its batch. Nothing here knows the store: it is behind [`ImportTarget`].

mod arrow_columns;
pub(crate) mod building;
mod columns;
mod delimited;
mod error;
pub(crate) mod flatten;
mod infer;
mod input;
pub(crate) mod naming;
mod ndjson;
mod options;
mod parquet;
mod rejects;
mod run;
mod sink;
mod source;
pub(crate) mod time;

pub use error::{ImportError, OptionError, Place, Problem};
pub use options::{
    ColumnType, Comparison, Delimiter, EventNaming, EventRule, Format, ImportOptions, TimeUnit,
    parse_column_type,
};
pub use run::{FileReport, Meter, Phase, import_files};
pub use sink::{Begun, Collector, DryRun, EventSink, ImportTarget};
pub use source::PropertySummary;
pub use time::TimeFormat;

#[cfg(test)]
mod tests;
