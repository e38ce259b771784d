//! `pugmark-bench`: asks a store the questions of the comparison and says what each took.
//!
//! ```text
//! pugmark-bench open   --store DIR                     seconds to open it, figures of the store
//! pugmark-bench serve  --store DIR --as-of MICROS      question names in, one JSON line out each
//! pugmark-bench sql    --store DIR --as-of MICROS      statements in, as JSON text, one line out each
//! pugmark-bench sql-memory --store DIR --as-of MICROS --statement SQL
//!                                                      the heap of one statement
//! pugmark-bench memory --store DIR --as-of MICROS --question NAME
//!                                                      the heap of one question
//! pugmark-bench pages  --store DIR --as-of MICROS --question NAME
//!                                                      the pages that one question touches
//! pugmark-bench stream --threads N                     what this machine streams from memory
//! pugmark-bench append --store DIR --batches N --rows N --writers N --seed N
//!                      --durability commit|interval|none --interval-millis N
//!                      --late SHARE --message-ids true|false
//!                                                      what streaming into a new store takes
//! pugmark-bench pieces --store DIR --events N --days N --seed N --pieces N
//!                                                      a new store that nobody has compacted
//! ```
//!
//! Questions also take `--threads N`. All answers are JSON on standard output.
//! `benches/run.py` drives it; it knows nothing of any peer.

// That of the `pugmark` program, so that memory is measured as it is used there.
#[path = "../../server/src/allocator.rs"]
mod allocator;
mod append;
mod measure;
mod pieces;
mod questions;
mod shoppers;
mod statements;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use pugmark_engine::{BatchError, OpenError, ReadError, Snapshot, Store, WriteError};
use pugmark_query::sql::SqlError;
use pugmark_query::{QueryError, QueryOptions};
use serde_json::{Value, json};
use thiserror::Error;

use questions::Question;

/// What ends the program early.
#[derive(Debug, Error)]
enum BenchError {
    #[error("{0}; see the head of benches/src/main.rs")]
    Usage(String),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Rows(#[from] arrow_schema::ArrowError),
    #[error("statements are JSON text, one a line: {0}")]
    Statement(#[from] serde_json::Error),
    #[error(transparent)]
    Input(#[from] std::io::Error),
}

/// The arguments behind the command: `--name value` pairs.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, BenchError> {
        let mut options = BTreeMap::new();
        while let Some(name) = arguments.next() {
            let value = arguments.next();
            match (name.strip_prefix("--"), value) {
                (Some(name), Some(value)) => options.insert(name.to_owned(), value),
                _ => return Err(BenchError::Usage(format!("`{name}` needs a value"))),
            };
        }
        Ok(Self(options))
    }

    fn text(&self, name: &str) -> Result<&str, BenchError> {
        let value = self.0.get(name).map(String::as_str);
        value.ok_or_else(|| BenchError::Usage(format!("--{name} is missing")))
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<N, BenchError> {
        let number = self.text(name)?.parse();
        number.map_err(|_| BenchError::Usage(format!("--{name} must be a number")))
    }

    fn flag(&self, name: &str) -> Result<bool, BenchError> {
        let flag = self.text(name)?.parse();
        flag.map_err(|_| BenchError::Usage(format!("--{name} must be true or false")))
    }

    fn store(&self) -> Result<PathBuf, BenchError> {
        Ok(PathBuf::from(self.text("store")?))
    }

    fn query(&self) -> Result<QueryOptions, BenchError> {
        Ok(QueryOptions {
            as_of: Some(self.number("as-of")?),
            threads: Some(self.number("threads")?),
            ..QueryOptions::default()
        })
    }
}

fn main() -> ExitCode {
    allocator::keep_free_memory();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _unseen = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), BenchError> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let options = Options::parse(arguments)?;
    match command.as_str() {
        "open" => say(&open(&options)?),
        "serve" => serve(&options),
        "sql" => statements::serve(&options),
        "sql-memory" => say(&statements::memory(&options)?),
        "memory" => say(&memory(&options)?),
        "pages" => say(&pages(&options)?),
        "append" => say(&append::run(&options)?),
        "pieces" => say(&pieces::write(&options)?),
        "stream" => say(&measure::stream(options.number("threads")?)),
        _ => Err(BenchError::Usage(format!("no command `{command}`"))),
    }
}

fn say(answer: &Value) -> Result<(), BenchError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

fn snapshot(path: &Path) -> Result<(Store, Snapshot), BenchError> {
    let store = Store::builder(path).read_only().open()?;
    let snapshot = store.snapshot()?;
    Ok((store, snapshot))
}

fn open(options: &Options) -> Result<Value, BenchError> {
    let path = options.store()?;
    let begun = Instant::now();
    let (store, snapshot) = snapshot(&path)?;
    let seconds = begun.elapsed().as_secs_f64();
    let stats = store.stats()?;
    Ok(json!({
        "seconds": seconds,
        "events": snapshot.events(),
        "users": stats.users,
        "segments": stats.segments,
        "segment_bytes": stats.segment_bytes,
        "id_bytes": stats.id_bytes,
        "events_by_name": stats.events_by_name,
    }))
}

fn serve(options: &Options) -> Result<(), BenchError> {
    let (_store, snapshot) = snapshot(&options.store()?)?;
    let query = options.query()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let question = Question::named(line.trim()).map_err(BenchError::Usage)?;
        let (begun, cpu) = (Instant::now(), measure::cpu_seconds());
        let answer = question.ask(&snapshot, &query)?;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu_seconds = measure::cpu_seconds() - cpu;
        let rows = answer.rows();
        say(&json!({ "rows": rows, "seconds": seconds, "cpu_seconds": cpu_seconds }))?;
    }
    Ok(())
}

/// The heap of one question in a process that did nothing else.
fn memory(options: &Options) -> Result<Value, BenchError> {
    let question = Question::named(options.text("question")?).map_err(BenchError::Usage)?;
    let (_store, snapshot) = snapshot(&options.store()?)?;
    let query = options.query()?;
    let opened = measure::anonymous_bytes()?;
    let (answer, peak) = measure::peak_anonymous_bytes(|| question.ask(&snapshot, &query))?;
    let rows = answer?.rows();
    Ok(json!({ "rows": rows, "opened_bytes": opened, "peak_bytes": peak }))
}

/// The pages of the store that one question touches. Asks twice: the first asking verifies
/// checksums and maps neighbours of what it touches, the second touches what it needs.
fn pages(options: &Options) -> Result<Value, BenchError> {
    measure::map_small_pages()?;
    let path = options.store()?;
    let question = Question::named(options.text("question")?).map_err(BenchError::Usage)?;
    let (_store, snapshot) = snapshot(&path)?;
    let query = options.query()?;
    question.ask(&snapshot, &query)?;
    let mapped = measure::referenced_bytes(&path)?;
    measure::forget_references()?;
    question.ask(&snapshot, &query)?;
    let touched = measure::referenced_bytes(&path)?;
    Ok(json!({ "first_mapped_bytes": mapped, "touched_bytes": touched }))
}
