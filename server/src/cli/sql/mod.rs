//! `pugmark sql`: one statement, statements from standard input, or a prompt.

#[cfg(test)]
mod docs;
mod output;
mod prompt;

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use pugmark_engine::Store;
use pugmark_query::sql::{Session, Settings, SqlError, SqlStatement};
use tokio::runtime::Runtime;

use super::CliError;
use super::progress::say;
use crate::rows::RowFormat;

/// Ask in SQL.
#[derive(Debug, Args)]
#[command(after_help = "\
Who put something into the cart and did not buy within the last week:
  pugmark sql --store shop.pug \"
    SELECT user_id FROM users
     WHERE did('cart', last => INTERVAL '7 days') AND NOT did('purchase', last => INTERVAL '7 days')\"
How far people come:
  pugmark sql --store shop.pug \"
    SELECT step, name, users, from_previous, median_seconds
      FROM funnel(step('view'), step('cart'), step('purchase'), within => INTERVAL '1 day')\"
Without a statement a prompt opens (\\? tells what it knows), or statements are read from standard
input where it is no terminal. Files are tables too: FROM 'orders.parquet'. The query language is
described in docs/query-language.md.")]
pub(super) struct SqlArgs {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// How rows are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The present of the questions, as 2025-03-01T12:00:00Z [the clock]
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// The zone of calendar days [UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Memory of a statement, as 512MB
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<String>,
    /// Temporary files of a statement, as 16GB
    #[arg(long, value_name = "SIZE")]
    spill_limit: Option<String>,
    /// Longest time of a statement, as 30s
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// Threads of a statement
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Tell what each statement took
    #[arg(long)]
    timing: bool,
    /// The statement
    #[arg(value_name = "SQL")]
    statement: Option<String>,
}

/// Expressions are evaluated as deep as they nest.
const THREAD_STACK: usize = 16 << 20;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns that line up, for people
    Table,
    /// Comma-separated values with a header
    Csv,
    /// One array of objects
    Json,
    /// An object a line
    Ndjson,
    /// A Parquet file; of one statement
    Parquet,
}

impl Format {
    fn of_rows(self) -> RowFormat {
        match self {
            Self::Table => RowFormat::Table,
            Self::Csv => RowFormat::Csv,
            Self::Json => RowFormat::Json,
            Self::Ndjson => RowFormat::Ndjson,
            Self::Parquet => RowFormat::Parquet,
        }
    }
}

impl SqlArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let store = Store::builder(&self.store).read_only().open()?;
        let session = Session::new(store).with_settings(self.settings()?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_stack_size(THREAD_STACK)
            .enable_all()
            .build()
            .map_err(|source| CliError::Output {
                path: PathBuf::from("threads"),
                source,
            })?;
        let mut asker = Asker {
            store: self.store.clone(),
            session,
            runtime,
            format: self.format,
            timing: self.timing,
        };
        let done = match &self.statement {
            Some(statement) => asker.ask_all(statement),
            None if std::io::stdin().is_terminal() => prompt::run(&mut asker),
            None => {
                let mut statements = String::new();
                let read = std::io::stdin().read_to_string(&mut statements);
                read.map_err(|source| CliError::Output {
                    path: PathBuf::from("standard input"),
                    source,
                })?;
                asker.ask_all(&statements)
            }
        };
        // A statement that was stopped may still compute; nobody waits for it.
        asker.runtime.shutdown_background();
        done
    }

    fn settings(&self) -> Result<Settings, SqlError> {
        let mut settings = Settings::default();
        settings.files = true;
        let given = [
            ("as_of", &self.as_of),
            ("time_zone", &self.time_zone),
            ("memory_limit", &self.memory_limit),
            ("spill_limit", &self.spill_limit),
            ("deadline", &self.deadline),
            ("threads", &self.threads),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                settings.assign(name, value)?;
            }
        }
        Ok(settings)
    }
}

/// Asks statements and writes their answers.
struct Asker {
    store: PathBuf,
    session: Session,
    runtime: Runtime,
    format: Format,
    timing: bool,
}

impl Asker {
    /// Asks the statements of a text, one after the other, until one fails.
    fn ask_all(&self, text: &str) -> Result<(), CliError> {
        let statements = Session::parse(text)?;
        if self.format == Format::Parquet && statements.len() > 1 {
            return Err(CliError::Stopped(
                "a Parquet file holds the answer to one statement",
            ));
        }
        for statement in statements {
            self.ask(statement)?;
        }
        Ok(())
    }

    /// A session that may write. The store is locked as long as its statement and rows live, so that
    /// others may write between statements.
    fn writer(&self) -> Result<Session, CliError> {
        let store = Store::builder(&self.store).existing().open()?;
        Ok(Session::new(store).with_settings(self.session.settings()))
    }

    /// Asks one statement. Interrupting the program stops it.
    fn ask(&self, statement: SqlStatement) -> Result<(), CliError> {
        let begun = Instant::now();
        let rows = self.runtime.block_on(async {
            let asked = async {
                let answer = match statement.writes() {
                    true => self.writer()?.run(statement).await?,
                    false => self.session.run(statement).await?,
                };
                output::write(answer, self.format).await
            };
            tokio::select! {
                rows = asked => rows,
                _ = tokio::signal::ctrl_c() => Err(CliError::Stopped("stopped")),
            }
        })?;
        if self.timing {
            let took = begun.elapsed().as_secs_f64();
            let noun = if rows == 1 { "row" } else { "rows" };
            say(&format!("{} {noun} in {took:.3} s", super::grouped(rows)));
        }
        Ok(())
    }
}
