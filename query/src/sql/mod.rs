//! SQL over a store: Apache DataFusion with Pugmark's tables, predicates and functions in it.
//!
//! ```text
//! Session      one statement after the other        settings   as_of, zone, memory, deadline
//! insert       INSERT INTO events SELECT …
//! parameters   values for placeholders           placeholders  what types they will have
//! additions    names of a server's own
//! guard        refuses endless texts                 bind       takes did(…), funnel(…) out
//! catalog      event names, columns and types        context    what a statement's parts share
//! users_table, events_table, groups_table, users_count, answers
//!                                                    what is read: as leaves of a plan (produce)
//! translate    DataFusion's filters as conditions    constant   literals, intervals, now()
//! expression   expressions over an event, inside conditions and breakdowns
//! late         filters that change while a statement runs
//! planning     threads that bind and plan
//! memory       one limit for all of a statement      watch      its end, noticed everywhere
//! bounded      functions that could make too much    utc        date_trunc without a look at clocks
//! fuzzing      any text, asked of a tiny store
//! ```
//!
//! ```
//! use futures::TryStreamExt;
//! use pugmark_engine::{BatchBuilder, Store};
//! use pugmark_query::sql::Session;
//! # let directory = tempfile::tempdir()?;
//! let store = Store::builder(directory.path()).open()?;
//! let mut batch = BatchBuilder::new();
//! batch.event("ann", 1_000_000, "cart");
//! batch.event("bob", 2_000_000, "cart");
//! batch.event("bob", 3_000_000, "purchase");
//! store.append(batch.finish()?)?;
//! let session = Session::new(store);
//! let abandoned = "SELECT user_id FROM users WHERE did('cart') AND NOT did('purchase')";
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let answer = session.sql(abandoned).await?;
//! let batches: Vec<_> = answer.rows.try_collect().await?;
//! assert_eq!(batches[0].num_rows(), 1);
//! # Ok::<(), pugmark_query::sql::SqlError>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod additions;
mod answers;
mod arrays;
mod audience_table;
mod bind;
mod bounded;
mod catalog;
mod constant;
mod context;
mod error;
mod events_table;
mod expression;
mod function_table;
#[doc(hidden)]
pub mod fuzzing;
mod groups_table;
mod guard;
mod ids;
mod insert;
mod late;
mod memory;
mod nearest;
mod parameters;
mod placeholders;
mod planning;
mod produce;
mod schema;
mod session;
mod session_columns;
mod settings;
mod translate;
mod users_count;
mod users_table;
mod utc;
mod watch;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;

pub use additions::Additions;
pub use datafusion::common::DataFusionError;
pub use error::{Place, SqlError};
pub use parameters::{Parameter, Parameters};
pub use placeholders::PlaceholderType;
pub use session::{Session, SqlAnswer, SqlNames, SqlRows, SqlStatement};
pub use settings::Settings;
