//! Rows as text, or as a Parquet file.

use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use comfy_table::{Cell, CellAlignment, Table, presets};
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use pugmark_query::sql::SqlAnswer;

use super::super::CliError;
use super::super::progress::say;
use super::Format;

/// Rows that line up with each other; later ones begin a table of their own.
const TABLE_ROWS: usize = 10_000;

/// Writes an answer to standard output, its remarks to standard error; returns how many rows.
pub(super) async fn write(mut answer: SqlAnswer, format: Format) -> Result<u64, CliError> {
    let mut sink = Sink::new(format, answer.schema.clone()).map_err(failed)?;
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

type Out = BufWriter<std::io::Stdout>;

/// Writes batches.
enum Sink {
    Table {
        out: Out,
        schema: SchemaRef,
        waiting: Vec<RecordBatch>,
        rows: usize,
    },
    Csv(Box<arrow_csv::Writer<Out>>),
    Json(arrow_json::ArrayWriter<Out>),
    Ndjson(arrow_json::LineDelimitedWriter<Out>),
    /// None where there is no column.
    Parquet(Option<Box<ArrowWriter<Out>>>),
}

impl Sink {
    fn new(format: Format, schema: SchemaRef) -> Result<Self, ArrowError> {
        let out = BufWriter::new(std::io::stdout());
        Ok(match format {
            Format::Table => Self::Table {
                out,
                schema,
                waiting: Vec::new(),
                rows: 0,
            },
            Format::Csv => {
                let mut writer = arrow_csv::WriterBuilder::new().with_header(true).build(out);
                // The header, of an answer without rows too.
                writer.write(&flat(&RecordBatch::new_empty(schema))?)?;
                Self::Csv(Box::new(writer))
            }
            Format::Json => Self::Json(json().build(out)),
            Format::Ndjson => Self::Ndjson(json().build(out)),
            Format::Parquet if std::io::stdout().is_terminal() => {
                let what = "a Parquet file is not for a terminal; write `> answer.parquet` behind the command";
                return Err(ArrowError::IoError(
                    what.to_owned(),
                    std::io::Error::other(what),
                ));
            }
            Format::Parquet => Self::Parquet(match schema.fields().is_empty() {
                true => None,
                false => Some(Box::new(ArrowWriter::try_new(out, schema, None)?)),
            }),
        })
    }

    fn put(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Self::Table {
                out,
                schema,
                waiting,
                rows,
            } => {
                *rows += batch.num_rows();
                waiting.push(batch.clone());
                if *rows >= TABLE_ROWS {
                    writeln!(out, "{}", table_text(schema, waiting)?)?;
                    waiting.clear();
                    *rows = 0;
                }
                Ok(())
            }
            Self::Csv(writer) => writer.write(&flat(batch)?),
            Self::Json(writer) => writer.write(batch),
            Self::Ndjson(writer) => writer.write(batch),
            Self::Parquet(Some(writer)) => Ok(writer.write(batch)?),
            Self::Parquet(None) => Ok(()),
        }
    }

    fn finish(self) -> Result<(), ArrowError> {
        match self {
            Self::Table {
                mut out,
                schema,
                waiting,
                ..
            } => {
                if !schema.fields().is_empty() {
                    writeln!(out, "{}", table_text(&schema, &waiting)?)?;
                }
                Ok(out.flush()?)
            }
            Self::Csv(writer) => Ok(writer.into_inner().flush()?),
            Self::Json(mut writer) => {
                writer.finish()?;
                let mut out = writer.into_inner();
                Ok(writeln!(out).and_then(|()| out.flush())?)
            }
            Self::Ndjson(mut writer) => {
                writer.finish()?;
                Ok(writer.into_inner().flush()?)
            }
            Self::Parquet(Some(writer)) => Ok(writer.into_inner()?.flush()?),
            Self::Parquet(None) => Ok(()),
        }
    }
}

fn json() -> arrow_json::WriterBuilder {
    arrow_json::WriterBuilder::new().with_explicit_nulls(true)
}

/// Lists as their text: CSV has none.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema
        .fields()
        .iter()
        .any(|field| field.data_type().is_nested())
    {
        return Ok(batch.clone());
    }
    let options = FormatOptions::default();
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !field.data_type().is_nested() {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
            continue;
        }
        let formatter = ArrayFormatter::try_new(column, &options)?;
        let texts: arrow_array::StringArray = (0..column.len())
            .map(|row| {
                column
                    .is_valid(row)
                    .then(|| formatter.value(row).to_string())
            })
            .collect();
        fields.push(arrow_schema::Field::new(field.name(), DataType::Utf8, true));
        columns.push(std::sync::Arc::new(texts) as arrow_array::ArrayRef);
    }
    RecordBatch::try_new(
        std::sync::Arc::new(arrow_schema::Schema::new(fields)),
        columns,
    )
}

/// Columns that line up, numbers to the right.
pub(super) fn table_text(
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> Result<String, ArrowError> {
    let options = FormatOptions::default().with_null("");
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(schema.fields().iter().map(|field| field.name()));
    for (number, field) in schema.fields().iter().enumerate() {
        if let Some(column) = table.column_mut(number)
            && field.data_type().is_numeric()
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for batch in batches {
        let columns = batch.columns().iter();
        let formatters = columns.map(|column| ArrayFormatter::try_new(column, &options));
        let formatters = formatters.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            table.add_row(formatters.iter().map(|column| Cell::new(column.value(row))));
        }
    }
    Ok(table.to_string())
}
