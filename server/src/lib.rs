//! The library behind the `pugmark` program.
//!
//! [`import`] reads files, [`export`] writes generated ones, [`load`] brings events into a store,
//! `serve` is the service, and [`cli`] is what people type. Of the engine's files and formats nothing is known here.

pub mod cli;
pub mod export;
pub mod import;
pub mod load;
#[cfg(feature = "sql")]
pub mod rows;
#[cfg(feature = "serve")]
pub mod serve;
