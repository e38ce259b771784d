//! PostgreSQL's protocol: what psql, drivers and BI tools speak.
//!
//! ```text
//! listener     connections, accepted and greeted      connection  messages in, answers out
//! frames       messages, bounded and checked          commands    what statements ask for
//! parameters   values that come with statements       rows        rows as clients read them
//! variables    SET and SHOW                           catalog     pg_catalog, information_schema
//! rewriting    questions for the catalog, put as DataFusion understands them
//! failure      what is refused, and how               cancelling  statements stopped by others
//! ```
//!
//! A connection is a session of its own. Transactions are taken as they come and mean nothing: each
//! statement sees what was stored before it, and what it stores stays.

mod cancelling;
mod catalog;
mod commands;
mod connection;
mod failure;
pub mod frames;
pub(super) mod listener;
mod parameters;
mod portals;
mod rewriting;
mod rows;
mod variables;
