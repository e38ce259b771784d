//! The statements of `tests/slt/*.slt`, each over one population that lies in a store in five
//! ways. With `PUGMARK_BLESS=1` the answers are written into the files instead of compared; what
//! they then say is to be held against `docs/semantics.md` by a reader.

use std::path::PathBuf;

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use futures::TryStreamExt;
use pugmark_engine::{BatchBuilder, Clock, Store, StoreBuilder, Value};
use sqllogictest::{
    AsyncDB, ColumnType, DBOutput, Runner, default_normalizer, default_validator,
    strict_column_validator,
};

use pugmark_query::sql::{Session, Settings, SqlError};

/// 2025-03-31T00:00:00Z: the present of every statement, unless it sets another.
const PRESENT: i64 = 1_743_379_200_000_000;
/// 2025-03-01T00:00:00Z: when all traits were set.
const TRAITS_SET: i64 = 1_740_787_200_000_000;

/// How the population lies in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// In the memory table, with nothing written but the log.
    Memory,
    /// The same, and plain SQL is never answered from bitmaps or run lengths.
    PlainRows,
    /// Three segments and nothing in memory.
    Flushed,
    /// What was flushed, merged.
    Compacted,
    /// Two segments, the rest read from the log, by a reader that did not write them.
    Reopened,
}

fn folder() -> PathBuf {
    PathBuf::from("slt")
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "slt"))
        .collect();
    files.sort();
    files
}

fn micros(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// A property's value; those whose names end in `_at` are times.
fn value(name: &str, told: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match told {
        Json::Null => Value::Null,
        Json::Bool(told) => Value::Bool(*told),
        Json::Number(told) => match told.as_i64() {
            Some(whole) => Value::I64(whole),
            None => Value::F64(told.as_f64().unwrap()),
        },
        Json::String(told) if name.ends_with("_at") => Value::Timestamp(micros(told)),
        Json::String(told) => Value::from(told.as_str()),
        Json::Array(told) => Value::List(told.iter().map(|one| value(name, one)).collect()),
        Json::Object(_) => panic!("{name} is an object"),
    }
}

type Line = serde_json::Map<String, serde_json::Value>;

fn population() -> Vec<Line> {
    let text = std::fs::read_to_string(folder().join("population.ndjson")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn user(line: &Line) -> String {
    let told = &line["user"];
    told.as_str()
        .map_or_else(|| told.to_string(), str::to_owned)
}

fn append(store: &Store, lines: &[&Line]) {
    let mut batch = BatchBuilder::new();
    for line in lines {
        let time = micros(line["time"].as_str().unwrap());
        let mut row = batch.event(&user(line), time, line["event"].as_str().unwrap());
        for (name, told) in line.iter() {
            if !["user", "time", "event"].contains(&name.as_str()) {
                row = row.value(name, &value(name, told));
            }
        }
    }
    store.append(batch.finish().unwrap()).unwrap();
}

fn set_traits(store: &Store, line: &Line) {
    let traits = line["traits"].as_object().unwrap().iter();
    let traits = traits.map(|(name, told)| (name.as_str(), value(name, told)));
    store.set_traits(&user(line), TRAITS_SET, traits).unwrap();
}

/// The population in a store of its own.
fn lay(layout: Layout, builder: &StoreBuilder) -> Store {
    let lines = population();
    let events: Vec<&Line> = lines
        .iter()
        .filter(|line| line.contains_key("event"))
        .collect();
    let store = builder.clone().open().unwrap();
    let in_memory = matches!(layout, Layout::Memory | Layout::PlainRows);
    let thirds: Vec<&[&Line]> = events.chunks(events.len().div_ceil(3)).collect();
    for (number, third) in thirds.iter().enumerate() {
        append(&store, third);
        let last = number + 1 == thirds.len();
        let waits = last && layout == Layout::Reopened;
        if !(in_memory || waits) {
            store.flush().unwrap();
        }
    }
    for line in lines.iter().filter(|line| line.contains_key("traits")) {
        set_traits(&store, line);
    }
    match layout {
        Layout::Memory | Layout::PlainRows => store,
        Layout::Flushed => {
            store.flush().unwrap();
            store
        }
        Layout::Compacted => {
            store.compact().unwrap();
            store
        }
        Layout::Reopened => {
            drop(store);
            builder.clone().read_only().open().unwrap()
        }
    }
}

/// What a column of an answer is, by a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Letter {
    Text,
    Count,
    Number,
    Flag,
    Time,
    List,
    Other,
}

const LETTERS: [(char, Letter); 7] = [
    ('T', Letter::Text),
    ('I', Letter::Count),
    ('R', Letter::Number),
    ('B', Letter::Flag),
    ('D', Letter::Time),
    ('L', Letter::List),
    ('?', Letter::Other),
];

impl ColumnType for Letter {
    fn from_char(letter: char) -> Option<Self> {
        let found = LETTERS.iter().find(|(known, _)| *known == letter);
        found.map(|(_, letter)| *letter)
    }

    fn to_char(&self) -> char {
        let found = LETTERS.iter().find(|(_, letter)| letter == self);
        found.map_or('?', |(known, _)| *known)
    }
}

impl From<&DataType> for Letter {
    fn from(data_type: &DataType) -> Self {
        match data_type {
            told if told.is_integer() => Self::Count,
            told if told.is_floating() => Self::Number,
            told if told.is_string() => Self::Text,
            DataType::Boolean => Self::Flag,
            DataType::Timestamp(..) => Self::Time,
            DataType::List(_) => Self::List,
            _ => Self::Other,
        }
    }
}

/// A session that statements are put to.
struct Asked(Session);

#[async_trait]
impl AsyncDB for Asked {
    type Error = SqlError;
    type ColumnType = Letter;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Letter>, SqlError> {
        let answer = self.0.sql(sql).await?;
        let schema = answer.schema.clone();
        let batches: Vec<RecordBatch> = answer.rows.try_collect().await?;
        if schema.fields().is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        Ok(DBOutput::Rows {
            types: letters(&schema),
            rows: batches.iter().flat_map(rows).collect(),
        })
    }

    async fn shutdown(&mut self) {}
}

fn letters(schema: &SchemaRef) -> Vec<Letter> {
    let fields = schema.fields().iter();
    fields.map(|field| field.data_type().into()).collect()
}

/// Rows as text. An empty text is told apart from nothing at all.
fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns = batch.columns().iter();
    let columns: Vec<ArrayFormatter<'_>> = columns
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let cell = |column: &ArrayFormatter<'_>, row: usize| match column.value(row).to_string() {
        empty if empty.is_empty() => "(empty)".to_owned(),
        told => told,
    };
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| cell(column, row)).collect())
        .collect()
}

fn settings(layout: Layout) -> Settings {
    let mut settings = Settings::default();
    settings.threads = Some(2);
    settings.shortcuts = layout != Layout::PlainRows;
    settings
}

/// Fails where the store is not laid as it should be.
fn check_layout(layout: Layout, store: &Store) {
    let stats = store.stats().unwrap();
    let (files, waiting) = (stats.segments, stats.events_in_memory);
    let fits = match layout {
        Layout::Memory | Layout::PlainRows => files == 0,
        Layout::Flushed => files > 3 && waiting == 0,
        // The population lies in two partitions of time; traits have a file of their own.
        Layout::Compacted => files == 3 && waiting == 0,
        Layout::Reopened => files > 0 && waiting > 0,
    };
    assert!(
        fits,
        "{layout:?}: {files} files, {waiting} events in memory"
    );
}

/// Runs every file over one layout.
async fn run_files(layout: Layout, bless: bool) {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::custom(|| PRESENT);
    let store = lay(layout, &Store::builder(directory.path()).clock(clock));
    check_layout(layout, &store);
    let files = files();
    assert!(!files.is_empty());
    for path in files {
        let connect = || async {
            let session = Session::new(store.clone()).with_settings(settings(layout));
            Ok(Asked(session))
        };
        let mut runner = Runner::new(connect);
        runner.with_column_validator(strict_column_validator);
        if bless {
            let written = runner.update_test_file(
                &path,
                " ",
                default_validator,
                default_normalizer,
                strict_column_validator,
            );
            written.await.unwrap();
        } else if let Err(error) = runner.run_file_async(&path).await {
            panic!("{layout:?}: {}", error.display(false));
        }
    }
}

/// Compares on one layout, or writes on the first.
fn run(layout: Layout) {
    let bless = std::env::var_os("PUGMARK_BLESS").is_some();
    if bless && layout != Layout::Memory {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run_files(layout, bless));
}

#[test]
fn statements_answer_what_they_mean_in_memory() {
    run(Layout::Memory);
}

#[test]
fn statements_answer_what_they_mean_without_shortcuts() {
    run(Layout::PlainRows);
}

#[test]
fn statements_answer_what_they_mean_in_segments() {
    run(Layout::Flushed);
}

#[test]
fn statements_answer_what_they_mean_compacted() {
    run(Layout::Compacted);
}

#[test]
fn statements_answer_what_they_mean_reopened() {
    run(Layout::Reopened);
}
