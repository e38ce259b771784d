//! The `pugmark` program: everything is in the library, so that tests reach it.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    allocator::keep_free_memory();
    pugmark_server::cli::run()
}
