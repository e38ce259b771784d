//! The library behind the `pugmark` program: import, generated data, maintenance.

pub mod import;
