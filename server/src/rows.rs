//! Rows of answers as text, Arrow streams and Parquet files: one way for the command line and for
//! the service.

use std::io::Write;

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use comfy_table::{Cell, CellAlignment, Table, presets};
use parquet::arrow::ArrowWriter;

/// Rows that line up with each other; later ones begin a table of their own.
const TABLE_ROWS: usize = 10_000;
/// Bytes of rows that are held before they are written, where the format writes many at once.
const HELD_BYTES: usize = 16 << 20;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// Columns that line up, for people.
    Table,
    /// Comma-separated values with a header.
    Csv,
    /// One array of objects.
    Json,
    /// An object a line.
    Ndjson,
    /// A Parquet file.
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

/// Writes batches to a sink.
pub struct RowWriter<W: Write + Send>(Sink<W>);

enum Sink<W: Write + Send> {
    Table {
        out: W,
        schema: SchemaRef,
        waiting: Vec<RecordBatch>,
        rows: usize,
    },
    Csv(Box<arrow_csv::Writer<W>>),
    Json(arrow_json::ArrayWriter<W>),
    Ndjson(arrow_json::LineDelimitedWriter<W>),
    /// The bare sink where there is no column.
    Parquet(Result<Box<ArrowWriter<W>>, W>),
    Arrow(Box<StreamWriter<W>>),
}

impl<W: Write + Send> RowWriter<W> {
    /// Begins an answer of these columns.
    ///
    /// # Errors
    /// Where the sink takes nothing, or the format has no such columns.
    pub fn new(format: RowFormat, schema: SchemaRef, out: W) -> Result<Self, ArrowError> {
        Ok(Self(match format {
            RowFormat::Table => Sink::Table {
                out,
                schema,
                waiting: Vec::new(),
                rows: 0,
            },
            RowFormat::Csv => {
                let mut writer = arrow_csv::WriterBuilder::new().with_header(true).build(out);
                // The header, of an answer without rows too.
                writer.write(&flat(&RecordBatch::new_empty(schema))?)?;
                Sink::Csv(Box::new(writer))
            }
            RowFormat::Json => Sink::Json(json().build(out)),
            RowFormat::Ndjson => Sink::Ndjson(json().build(out)),
            RowFormat::Parquet => Sink::Parquet(match schema.fields().is_empty() {
                true => Err(out),
                false => Ok(Box::new(ArrowWriter::try_new(out, schema, None)?)),
            }),
            RowFormat::Arrow => Sink::Arrow(Box::new(StreamWriter::try_new(out, &schema)?)),
        }))
    }

    /// Writes rows.
    ///
    /// # Errors
    /// Where the sink takes nothing, or the format has no such values.
    pub fn put(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        match &mut self.0 {
            Sink::Table {
                out,
                schema,
                waiting,
                rows,
            } => {
                *rows += batch.num_rows();
                waiting.push(batch.clone());
                let held = waiting.iter().map(RecordBatch::get_array_memory_size);
                if *rows >= TABLE_ROWS || held.sum::<usize>() >= HELD_BYTES {
                    writeln!(out, "{}", table_text(schema, waiting)?)?;
                    waiting.clear();
                    *rows = 0;
                }
                Ok(())
            }
            Sink::Csv(writer) => writer.write(&flat(batch)?),
            Sink::Json(writer) => writer.write(batch),
            Sink::Ndjson(writer) => writer.write(batch),
            Sink::Parquet(Ok(writer)) => {
                writer.write(batch)?;
                if writer.memory_size() >= HELD_BYTES {
                    writer.flush()?;
                }
                Ok(())
            }
            Sink::Parquet(Err(_)) => Ok(()),
            Sink::Arrow(writer) => writer.write(batch),
        }
    }

    /// Ends the answer, and gives the sink back.
    ///
    /// # Errors
    /// Where the sink takes nothing.
    pub fn finish(self) -> Result<W, ArrowError> {
        let mut out = match self.0 {
            Sink::Table {
                mut out,
                schema,
                waiting,
                ..
            } => {
                if !schema.fields().is_empty() {
                    writeln!(out, "{}", table_text(&schema, &waiting)?)?;
                }
                out
            }
            Sink::Csv(writer) => writer.into_inner(),
            Sink::Json(mut writer) => {
                writer.finish()?;
                let mut out = writer.into_inner();
                writeln!(out)?;
                out
            }
            Sink::Ndjson(mut writer) => {
                writer.finish()?;
                writer.into_inner()
            }
            Sink::Parquet(Ok(writer)) => writer.into_inner()?,
            Sink::Parquet(Err(out)) => out,
            Sink::Arrow(writer) => writer.into_inner()?,
        };
        out.flush()?;
        Ok(out)
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
pub(crate) fn table_text(
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
