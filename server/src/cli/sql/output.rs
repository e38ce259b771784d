//! Rows as text, or as a Parquet file.

use std::io::{BufWriter, IsTerminal};
use std::path::PathBuf;

use arrow_schema::ArrowError;
use futures::StreamExt;
use pugmark_query::sql::SqlAnswer;

use super::super::CliError;
use super::super::progress::say;
use super::Format;
use crate::rows::RowWriter;

/// Writes an answer to standard output, its remarks to standard error; returns how many rows.
pub(super) async fn write(mut answer: SqlAnswer, format: Format) -> Result<u64, CliError> {
    if format == Format::Parquet && std::io::stdout().is_terminal() {
        let what =
            "a Parquet file is not for a terminal; write `> answer.parquet` behind the command";
        return Err(failed(ArrowError::IoError(
            what.to_owned(),
            std::io::Error::other(what),
        )));
    }
    let out = BufWriter::new(std::io::stdout());
    let mut sink = RowWriter::new(format.of_rows(), answer.schema.clone(), out).map_err(failed)?;
    let mut count = 0;
    while let Some(batch) = answer.rows.next().await {
        let batch = batch?;
        count += batch.num_rows() as u64;
        sink.put(&batch).map_err(failed)?;
    }
    sink.finish().map_err(failed)?;
    for remark in answer.rows.remarks() {
        say(&format!("note: {remark}"));
    }
    Ok(count)
}

fn failed(error: ArrowError) -> CliError {
    let source = match error {
        ArrowError::IoError(_, source) => source,
        other => std::io::Error::other(other),
    };
    CliError::Output {
        path: PathBuf::from("standard output"),
        source,
    }
}
