//! The command line: arguments in, one exit code out. Standard output carries answers only;
//! progress, summaries and errors go to standard error.

pub(crate) mod generate;
mod import;
#[cfg(feature = "serve")]
mod keys;
mod maintain;
mod progress;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "sql")]
mod sql;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pugmark_engine::{OpenError, Store, VerifyError, WriteError};
use thiserror::Error;

use crate::import::ImportError;

/// An event store that answers behavioural questions: who did what, in which order, how often.
#[derive(Debug, Parser)]
#[command(name = "pugmark", version, about, long_about = None, after_help = "\
Start with a store of generated shoppers:
  pugmark generate --events 1000000 --store demo.pug
  pugmark sql --store demo.pug \"SELECT count(*) FROM users WHERE did('cart') AND NOT did('purchase')\"
or with files of your own (see `pugmark import --help`):
  pugmark import --store shop.pug --user user_id --time event_time --event event_type *.csv.gz")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Import(Box<import::ImportArgs>),
    Generate(generate::GenerateArgs),
    #[cfg(feature = "sql")]
    Sql(sql::SqlArgs),
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArgs>),
    #[cfg(feature = "serve")]
    Keys(keys::KeysArgs),
    Stats(maintain::StatsArgs),
    Verify(maintain::VerifyArgs),
    Compact(maintain::CompactArgs),
}

/// What ends a command early.
#[derive(Debug, Error)]
enum CliError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[cfg(feature = "sql")]
    #[error(transparent)]
    Sql(#[from] pugmark_query::sql::SqlError),
    #[cfg(feature = "sql")]
    #[error("{0}")]
    Stopped(&'static str),
    #[cfg(feature = "serve")]
    #[error(transparent)]
    Serve(#[from] crate::serve::ServeError),
    #[error("cannot write {}: {source}", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Parquet {
        path: PathBuf,
        source: parquet::errors::ParquetError,
    },
}

/// Runs the program with the arguments of this process.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Import(args) => args.run(),
        Command::Generate(args) => args.run(),
        #[cfg(feature = "sql")]
        Command::Sql(args) => args.run(),
        #[cfg(feature = "serve")]
        Command::Serve(args) => args.run(),
        #[cfg(feature = "serve")]
        Command::Keys(args) => args.run(),
        Command::Stats(args) => args.run(),
        Command::Verify(args) => args.run(),
        Command::Compact(args) => args.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Opens a store for writing, creating it where there is none.
fn open_or_create(path: &std::path::Path) -> Result<Store, OpenError> {
    Store::builder(path).open()
}

/// A number with blanks between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn thousands() {
        let shown: Vec<String> = [0, 999, 1_000, 1_234_567].map(grouped).to_vec();
        assert_eq!(shown, ["0", "999", "1 000", "1 234 567"]);
    }
}
