//! The test kit: random events, a reference store that is obviously right, and the means to read
//! everything back out of a real one and compare.
//!
//! ```text
//! events      what is stored: events and traits, random ones, and batches of them
//! reference   a store as a list of rows in arrival order
//! trail       every row of a snapshot, by user, in total order
//! layouts     the same rows in memory, flushed, compacted, reopened …
//! history     steps that a client took, and which states a crash may leave of them
//! ```
//!
//! Nothing here knows how the engine works; it knows what the engine promises.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test kit fails by panicking"
)]

pub mod dice;
pub mod events;
pub mod fuzzing;
pub mod history;
pub mod layouts;
pub mod reference;
pub mod slow;
pub mod trail;

use proptest::test_runner::Config as ProptestConfig;

/// How many random cases a test runs: the environment's `PUGMARK_CASES`, else `ordinary`.
/// Long runs set it to 20 000 and more.
pub fn cases(ordinary: u32) -> u32 {
    from_environment("PUGMARK_CASES", ordinary)
}

/// The configuration of property tests with so many [`cases`]. Failures are not kept in files:
/// what fails because of threads would not fail again, the rest is better a test of its own.
pub fn config(ordinary: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases(ordinary))
    }
}

/// How many times the crash tests kill a process: `PUGMARK_KILLS`, else `ordinary`.
pub fn kills(ordinary: u32) -> u32 {
    from_environment("PUGMARK_KILLS", ordinary)
}

/// True in long runs (`PUGMARK_LONG` is set), which try everything where ordinary ones sample.
pub fn is_long() -> bool {
    std::env::var_os("PUGMARK_LONG").is_some()
}

/// An empty directory for a test of real files. In memory where the system has such a place:
/// there syncs cost nothing, and no test of real files is about the loss of power.
pub fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a directory can be made")
}

fn from_environment(name: &str, ordinary: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => ordinary,
    }
}
