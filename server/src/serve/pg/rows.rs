//! Rows as PostgreSQL's clients read them.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_cast::cast;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_pg::datatypes::{field_into_pg_type, into_pg_type};
use arrow_pg::encoder::{Encoder, encode_value};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use bytes::{BufMut, Bytes};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::error::PgWireError;
use postgres_types::Type;
use pugmark_query::sql::{DataFusionError, SqlError};

use super::commands::CopyForm;
use super::frames::Form;

/// Rows, one frame behind the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    bytes: Bytes,
    /// Where each frame ends.
    ends: Vec<usize>,
    /// Frames that were taken.
    taken: usize,
}

impl Rows {
    /// Takes the next `most` frames: their number, and they.
    pub(super) fn take(&mut self, most: usize) -> (usize, &[u8]) {
        let last = self.ends.len().min(self.taken.saturating_add(most));
        let end = |frames: usize| match frames {
            0 => 0,
            frames => self.ends[frames - 1],
        };
        let taken = last - self.taken;
        let range = end(self.taken)..end(last);
        self.taken = last;
        (taken, &self.bytes[range])
    }

    /// True where all were taken.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.ends.len()
    }
}

/// Columns as they are told, and what makes rows of them.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    /// The columns.
    pub(super) fields: Arc<Vec<FieldInfo>>,
    schema: SchemaRef,
}

impl Columns {
    /// The columns of an answer, in the forms that are wanted: none for text, one for all, or one
    /// for each.
    pub(super) fn new(schema: &Schema, forms: &[Form]) -> Self {
        let form = |place: usize| match forms {
            [one] => *one,
            forms => forms.get(place).copied().unwrap_or_default(),
        };
        let mut told = Vec::new();
        let mut fields = Vec::new();
        for (place, field) in schema.fields().iter().enumerate() {
            let field = readable(field);
            let wire = field_into_pg_type(&field).unwrap_or(Type::TEXT);
            // What has no type is text to those who ask.
            let wire = if wire == Type::UNKNOWN {
                Type::TEXT
            } else {
                wire
            };
            let format = match form(place) {
                Form::Text => FieldFormat::Text,
                Form::Binary => FieldFormat::Binary,
            };
            let size = size_of_type(&wire);
            let field = match (form(place), field.data_type()) {
                (Form::Text, DataType::Timestamp(_, Some(_))) => {
                    Arc::new(Field::new(field.name(), DataType::Utf8, true))
                }
                _ => field,
            };
            let info = FieldInfo::new(field.name().clone(), None, None, wire, format);
            told.push(info.with_type_size(size));
            fields.push(field);
        }
        Self {
            fields: Arc::new(told),
            schema: Arc::new(Schema::new(fields)),
        }
    }

    /// The rows of a batch, as frames of letter and body.
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<Rows, SqlError> {
        self.framed(batch, b'D', |row, body| {
            body.put_u16(self.fields.len() as u16);
            body.put_slice(row);
        })
    }

    /// The rows of a batch, as a COPY writes them.
    pub(super) fn copied(&self, batch: &RecordBatch, form: &CopyForm) -> Result<Rows, SqlError> {
        self.framed(batch, b'd', |row, line| match form {
            CopyForm::Binary => {
                line.put_u16(self.fields.len() as u16);
                line.put_slice(row);
            }
            CopyForm::Text { delimiter, null } => {
                put_line(row, (*delimiter, null), line, |value, line| {
                    escape(value, *delimiter, line);
                });
            }
            CopyForm::Csv {
                delimiter, null, ..
            } => put_line(row, (*delimiter, null), line, |value, line| {
                quote(value, *delimiter, null.as_bytes(), line);
            }),
        })
    }

    /// The rows of a batch, each in a frame whose body `put` makes of its values.
    fn framed(
        &self,
        batch: &RecordBatch,
        letter: u8,
        put: impl Fn(&[u8], &mut Vec<u8>),
    ) -> Result<Rows, SqlError> {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(batch.num_rows());
        self.each(batch, |row| {
            bytes.put_u8(letter);
            let start = bytes.len();
            bytes.put_u32(0);
            put(row, &mut bytes);
            let length = length(bytes.len() - start)?;
            bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
            ends.push(bytes.len());
            Ok(())
        })?;
        Ok(Rows {
            bytes: bytes.into(),
            ends,
            taken: 0,
        })
    }

    /// The line of a CSV that names the columns.
    pub(super) fn header(&self, delimiter: u8) -> Vec<u8> {
        let mut line = Vec::new();
        for (place, field) in self.fields.iter().enumerate() {
            if place > 0 {
                line.push(delimiter);
            }
            quote(field.name().as_bytes(), delimiter, b"", &mut line);
        }
        line.push(b'\n');
        line
    }

    /// Calls `each` with the values of each row, a length before each.
    fn each(
        &self,
        batch: &RecordBatch,
        mut each: impl FnMut(&[u8]) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| as_field(column, field));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(engine)?;
        let mut encoder = DataRowEncoder::new(Arc::clone(&self.fields));
        for row in 0..batch.num_rows() {
            for ((column, field), told) in columns
                .iter()
                .zip(self.schema.fields())
                .zip(self.fields.iter())
            {
                // Some encoders do not ask.
                let encoded = match column.is_null(row) {
                    true => Encoder::encode_field(&mut encoder, &None::<i8>, told),
                    false => encode_value(&mut encoder, column, row, field, told),
                };
                encoded.map_err(|error| engine_text(&error))?;
            }
            each(&encoder.take_row().data)?;
        }
        Ok(())
    }
}

/// A column in the type that it is encoded from.
fn as_field(column: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    match column.data_type() {
        DataType::Timestamp(_, Some(_)) if *field.data_type() == DataType::Utf8 => zoned(column),
        _ => cast(column, field.data_type()),
    }
}

/// Times with their zone, as PostgreSQL tells them: `2026-01-01 05:30:00+05:30`.
fn zoned(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let layout = FormatOptions::new().with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));
    let texts = ArrayFormatter::try_new(column, &layout)?;
    let told = (0..column.len()).map(|row| {
        if column.is_null(row) {
            return Ok(None);
        }
        let text = texts.value(row).try_to_string()?;
        // Minutes of the zone where there are some.
        Ok(Some(text.strip_suffix(":00").unwrap_or(&text).to_owned()))
    });
    let told = told.collect::<Result<StringArray, ArrowError>>()?;
    Ok(Arc::new(told))
}

fn engine(error: arrow_schema::ArrowError) -> SqlError {
    SqlError::Engine(DataFusionError::ArrowError(Box::new(error), None))
}

fn engine_text(error: &PgWireError) -> SqlError {
    SqlError::Engine(DataFusionError::Execution(error.to_string()))
}

/// The length of a frame.
fn length(bytes: usize) -> Result<u32, SqlError> {
    match i32::try_from(bytes) {
        Ok(bytes) => Ok(bytes.unsigned_abs()),
        Err(_) => Err(SqlError::Engine(DataFusionError::Execution(
            "a row is longer than 2 GB".to_owned(),
        ))),
    }
}

/// The field, as text where PostgreSQL has no such type.
fn readable(field: &Field) -> Arc<Field> {
    let metadata = field.metadata().clone();
    let known = match field.data_type() {
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => false,
        DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) => {
            let plain = !inner.data_type().is_nested() && !inner.data_type().is_decimal();
            plain && into_pg_type(field.data_type()).is_ok()
        }
        DataType::Duration(_) | DataType::Decimal256(..) | DataType::Float16 => false,
        other => into_pg_type(other).is_ok(),
    };
    let data_type = match known {
        true => field.data_type().clone(),
        false => DataType::Utf8,
    };
    Arc::new(Field::new(field.name(), data_type, true).with_metadata(metadata))
}

/// Bytes of a type's values; below zero where they differ.
fn size_of_type(wire: &Type) -> i16 {
    match *wire {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

/// Calls `each` with the values of a row, a length before each.
fn each_value(mut row: &[u8], mut each: impl FnMut(usize, Option<&[u8]>)) {
    let mut place = 0;
    while let Some((head, rest)) = row.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*head)) {
            Ok(length) if length <= rest.len() => {
                each(place, Some(&rest[..length]));
                row = &rest[length..];
            }
            _ => {
                each(place, None);
                row = rest;
            }
        }
        place += 1;
    }
}

/// Puts the values of a row into a line, a delimiter between each.
fn put_line(
    row: &[u8],
    (delimiter, null): (u8, &str),
    line: &mut Vec<u8>,
    put: impl Fn(&[u8], &mut Vec<u8>),
) {
    each_value(row, |place, value| {
        if place > 0 {
            line.push(delimiter);
        }
        match value {
            Some(value) => put(value, line),
            None => line.extend_from_slice(null.as_bytes()),
        }
    });
    line.push(b'\n');
}

fn escape(value: &[u8], delimiter: u8, line: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            byte if byte == b'\\' || byte == delimiter => line.extend_from_slice(&[b'\\', byte]),
            byte => line.push(byte),
        }
    }
}

fn quote(value: &[u8], delimiter: u8, null: &[u8], line: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(*byte, b'"' | b'\n' | b'\r') || *byte == delimiter;
    if value != null && !value.iter().any(special) {
        line.extend_from_slice(value);
        return;
    }
    line.push(b'"');
    for &byte in value {
        if byte == b'"' {
            line.push(b'"');
        }
        line.push(byte);
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, IntervalMonthDayNanoArray, TimestampMicrosecondArray};

    use super::*;

    fn batch() -> RecordBatch {
        let texts = StringArray::from(vec![Some("a,\"b\"\t"), Some(""), None]);
        let numbers = Int64Array::from(vec![Some(1), None, Some(-3)]);
        RecordBatch::try_from_iter([("t", Arc::new(texts) as _), ("n", Arc::new(numbers) as _)])
            .unwrap()
    }

    #[test]
    fn rows_are_taken_in_parts() {
        let batch = batch();
        let columns = Columns::new(batch.schema_ref(), &[]);
        let mut rows = columns.rows(&batch).unwrap();
        let (taken, first) = rows.take(2);
        assert_eq!((taken, first[0]), (2, b'D'));
        assert!(!rows.is_empty());
        let (taken, last) = rows.take(5);
        assert_eq!(last, b"D\0\0\0\x10\0\x02\xff\xff\xff\xff\0\0\0\x02-3");
        assert_eq!((taken, rows.take(5).0), (1, 0));
        assert!(rows.is_empty());
        let binary = Columns::new(batch.schema_ref(), &[Form::Binary]);
        let mut rows = binary.rows(&batch).unwrap();
        rows.take(2);
        let wanted = b"D\0\0\0\x16\0\x02\xff\xff\xff\xff\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xfd";
        assert_eq!(rows.take(1).1, wanted);
    }

    #[test]
    fn zones_are_told_to_the_minute_and_nulls_of_all_types_as_such() {
        let times = TimestampMicrosecondArray::from(vec![Some(0), Some(1_500_000), None]);
        let intervals = IntervalMonthDayNanoArray::from(vec![None, None, None]);
        let column = |zone: &str| Arc::new(times.clone().with_timezone(zone)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([
            ("kolkata", column("Asia/Kolkata")),
            ("utc", column("UTC")),
            ("i", Arc::new(intervals) as _),
        ])
        .unwrap();
        let columns = Columns::new(batch.schema_ref(), &[]);
        let form = CopyForm::Csv {
            delimiter: b',',
            null: "-".to_owned(),
            header: false,
        };
        let mut rows = columns.copied(&batch, &form).unwrap();
        let mut text = Vec::new();
        while !rows.is_empty() {
            text.extend_from_slice(&rows.take(1).1[5..]);
        }
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "1970-01-01 05:30:00+05:30,1970-01-01 00:00:00+00,-\n\
             1970-01-01 05:30:01.500+05:30,1970-01-01 00:00:01.500+00,-\n-,-,-\n"
        );
    }

    #[test]
    fn copies_tell_nulls_from_empty_texts() {
        let batch = batch();
        let columns = Columns::new(batch.schema_ref(), &[]);
        let copied = |form: CopyForm| {
            let mut rows = columns.copied(&batch, &form).unwrap();
            let mut text = Vec::new();
            while !rows.is_empty() {
                text.extend_from_slice(&rows.take(1).1[5..]);
            }
            String::from_utf8(text).unwrap()
        };
        let text = CopyForm::Text {
            delimiter: b'\t',
            null: "\\N".to_owned(),
        };
        assert_eq!(copied(text), "a,\"b\"\\t\t1\n\t\\N\n\\N\t-3\n");
        let csv = CopyForm::Csv {
            delimiter: b',',
            null: String::new(),
            header: true,
        };
        assert_eq!(copied(csv), "\"a,\"\"b\"\"\t\",1\n\"\",\n,-3\n");
        assert_eq!(columns.header(b','), b"t,n\n");
    }
}
