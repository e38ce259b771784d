//! The integration tests of the whole: one binary, a module for each promise.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests fail by panicking, and children report on standard output"
)]

mod child;
mod clients;
mod concurrency;
mod corpora;
mod corruption;
mod io_errors;
mod kills;
mod locking;
mod postgres;
mod power_loss;
mod service;
mod statements;
mod store;
