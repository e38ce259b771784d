//! The `pugmark` program.

fn main() {}
