//! Arrow Flight SQL: answers as Arrow batches, for ADBC, JDBC and whoever reads many rows.
//!
//! ```text
//! listener   connections            statements   what calls ask for, and its answers
//! handles    prepared statements, which the client keeps
//! ```

mod handles;
pub(super) mod listener;
mod statements;
