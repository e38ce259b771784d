//! The `pugmark` program: everything is in the library, so that tests reach it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pugmark_server::cli::run()
}
