//! Statements of SQL, asked one after the other in one session, as a client with a connection does.

use std::io::BufRead;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::ArrowError;
use futures::TryStreamExt;
use pugmark_engine::Store;
use pugmark_query::sql::{Session, Settings, SqlError};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{BenchError, Options, measure, say};

/// Answers each line of standard input, a statement as JSON text, by a line of JSON: its rows, and
/// the seconds from the text to the last row.
pub(crate) fn serve(options: &Options) -> Result<(), BenchError> {
    let session = session(options)?;
    let runtime = Runtime::new()?;
    for line in std::io::stdin().lock().lines() {
        let statement: String = serde_json::from_str(&line?)?;
        let (begun, cpu) = (Instant::now(), measure::cpu_seconds());
        let batches = runtime.block_on(ask(&session, &statement))?;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu_seconds = measure::cpu_seconds() - cpu;
        let rows = rows(&batches)?;
        say(&json!({ "rows": rows, "seconds": seconds, "cpu_seconds": cpu_seconds }))?;
    }
    Ok(())
}

/// The heap of one statement in a process that did nothing else.
pub(crate) fn memory(options: &Options) -> Result<Value, BenchError> {
    let session = session(options)?;
    let runtime = Runtime::new()?;
    let statement = options.text("statement")?;
    let opened = measure::anonymous_bytes()?;
    let asked = || runtime.block_on(ask(&session, statement));
    let (batches, peak) = measure::peak_anonymous_bytes(asked)?;
    Ok(json!({ "rows": rows(&batches?)?, "opened_bytes": opened, "peak_bytes": peak }))
}

fn session(options: &Options) -> Result<Session, BenchError> {
    let store = Store::builder(options.store()?).read_only().open()?;
    let mut settings = Settings::default();
    settings.as_of = Some(options.number("as-of")?);
    settings.threads = Some(options.number("threads")?);
    Ok(Session::new(store).with_settings(settings))
}

async fn ask(session: &Session, statement: &str) -> Result<Vec<RecordBatch>, SqlError> {
    session.sql(statement).await?.rows.try_collect().await
}

/// Every value as text, which is what the peers give.
fn rows(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>, ArrowError> {
    let options = FormatOptions::default();
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter();
        let columns = columns.map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(
                columns
                    .iter()
                    .map(|column| column.value(row).to_string())
                    .collect(),
            );
        }
    }
    Ok(rows)
}
