//! Prepared statements: all of one is in its handle, so that the service keeps nothing.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_cast::cast;
use arrow_cast::display::array_value_to_string;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use pugmark_query::sql::{Parameter, Parameters, PlaceholderType, Session, SqlError, SqlStatement};
use serde::{Deserialize, Serialize};
use tonic::Status;

/// Longest handle, in bytes.
const MOST_BYTES: usize = 4 << 20;

/// A statement with values for its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Handle {
    /// The statement.
    pub(super) sql: String,
    /// The values of `$1`, `$2` …
    #[serde(default)]
    values: Vec<Value>,
}

/// A value as a handle keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Value {
    Null,
    Bool(bool),
    Whole(i64),
    Float(f64),
    Text(String),
    Time { text: String, zoned: bool },
    Interval(String),
    List(Vec<Value>),
}

impl Handle {
    pub(super) fn new(sql: String) -> Self {
        let values = Vec::new();
        Self { sql, values }
    }

    /// Reads a handle.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Status> {
        let read = serde_json::from_slice(bytes);
        read.map_err(|_| Status::invalid_argument("this is no statement that was prepared here"))
    }

    /// The handle as clients keep it.
    pub(super) fn bytes(&self) -> Result<Bytes, Status> {
        let bytes = serde_json::to_vec(self);
        let bytes = bytes.map_err(|error| Status::invalid_argument(error.to_string()))?;
        match bytes.len() <= MOST_BYTES {
            true => Ok(bytes.into()),
            false => Err(Status::resource_exhausted(
                "the values of the parameters are too long",
            )),
        }
    }

    /// The same with the values of a batch's only row.
    pub(super) fn with(self, batch: &RecordBatch) -> Result<Self, Status> {
        if batch.num_rows() != 1 {
            let message = "values for one run of a statement come as one row";
            return Err(Status::invalid_argument(message));
        }
        let values = batch.columns().iter().map(|column| value(column, 0));
        let values = values.collect::<Result<Vec<_>, _>>();
        let values = values.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Self { values, ..self })
    }

    /// The statement, its values in their places.
    pub(super) fn statement(&self) -> Result<SqlStatement, SqlError> {
        let statement = Session::parse_one(&self.sql)?;
        let values = self.values.iter().enumerate();
        let values: Parameters = values
            .map(|(place, value)| ((place + 1).to_string(), parameter(value)))
            .collect();
        statement.bind(&values)
    }

    /// The statement, with values that stand for those that will come, and the types of these.
    pub(super) fn sample(&self, session: &Session) -> Result<(SqlStatement, Schema), SqlError> {
        let statement = Session::parse_one(&self.sql)?;
        let types = statement.placeholders(&session.tables()?);
        let fields = types
            .iter()
            .map(|(name, known)| Field::new(name, arrow_type(*known), true));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let values = types
            .iter()
            .map(|(name, known)| (name.clone(), known.sample()));
        Ok((statement.bind(&values.collect())?, schema))
    }
}

/// The type that values of a placeholder come in.
fn arrow_type(placeholder: PlaceholderType) -> DataType {
    let list = |inner| DataType::List(Arc::new(Field::new_list_field(inner, true)));
    match placeholder {
        PlaceholderType::Bool => DataType::Boolean,
        PlaceholderType::Whole | PlaceholderType::Oid => DataType::Int64,
        PlaceholderType::Float => DataType::Float64,
        PlaceholderType::Text | PlaceholderType::IntervalText | PlaceholderType::Interval => {
            DataType::Utf8
        }
        PlaceholderType::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PlaceholderType::Wholes | PlaceholderType::Oids => list(DataType::Int64),
        PlaceholderType::Floats => list(DataType::Float64),
        PlaceholderType::Texts => list(DataType::Utf8),
    }
}

fn parameter(value: &Value) -> Parameter {
    match value {
        Value::Null => Parameter::Null,
        Value::Bool(truth) => Parameter::Bool(*truth),
        Value::Whole(whole) => Parameter::Whole(*whole),
        Value::Float(float) => Parameter::Float(*float),
        Value::Text(text) => Parameter::Text(text.clone()),
        Value::Time { text, zoned } => Parameter::Time {
            text: text.clone(),
            zoned: *zoned,
        },
        Value::Interval(text) => Parameter::Interval(text.clone()),
        Value::List(values) => Parameter::List(values.iter().map(parameter).collect()),
    }
}

fn value(column: &arrow_array::ArrayRef, row: usize) -> Result<Value, arrow_schema::ArrowError> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        data_type if data_type.is_integer() => {
            let wholes = cast(column, &DataType::Int64)?;
            match wholes.is_null(row) {
                true => Value::Text(array_value_to_string(column, row)?),
                false => Value::Whole(wholes.as_primitive::<Int64Type>().value(row)),
            }
        }
        data_type if data_type.is_numeric() => {
            let floats = cast(column, &DataType::Float64)?;
            let float = floats.as_primitive::<Float64Type>().value(row);
            match float.is_finite() {
                true => Value::Float(float),
                false => {
                    let problem = "no parameter can be endless".to_owned();
                    return Err(arrow_schema::ArrowError::InvalidArgumentError(problem));
                }
            }
        }
        DataType::Timestamp(_, zone) => Value::Time {
            text: array_value_to_string(column, row)?,
            zoned: zone.is_some(),
        },
        DataType::Date32 | DataType::Date64 => Value::Time {
            text: array_value_to_string(column, row)?,
            zoned: false,
        },
        DataType::Interval(_) | DataType::Duration(_) => {
            let interval = DataType::Interval(arrow_schema::IntervalUnit::MonthDayNano);
            let interval = cast(column, &interval)?;
            Value::Interval(array_value_to_string(&interval, row)?)
        }
        DataType::List(_) => {
            let values = column.as_list::<i32>().value(row);
            let values = (0..values.len()).map(|row| value(&values, row));
            Value::List(values.collect::<Result<_, _>>()?)
        }
        _ => Value::Text(array_value_to_string(column, row)?),
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::{
        ArrayRef, DurationMicrosecondArray, Int64Array, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    #[test]
    fn handles_keep_statements_and_values() {
        let sql = "SELECT $1, $2 FROM users WHERE did('view', at_least => $3, last => $4)";
        let handle = Handle::new(sql.to_owned());
        let batch = RecordBatch::try_from_iter([
            ("1", Arc::new(StringArray::from(vec!["it's"])) as ArrayRef),
            (
                "2",
                Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC")),
            ),
            ("3", Arc::new(Int64Array::from(vec![2]))),
            (
                "4",
                Arc::new(DurationMicrosecondArray::from(vec![3_600_000_000])),
            ),
        ])
        .unwrap();
        let handle = handle.with(&batch).unwrap();
        let again = Handle::read(&handle.bytes().unwrap()).unwrap();
        assert_eq!(again, handle);
        let told = handle.statement().unwrap().to_string();
        assert!(
            told.contains("'it''s'") && told.contains("at_least => 2"),
            "{told}"
        );
        assert!(
            told.contains("CAST('1970-01-01T00:00:00Z' AS TIMESTAMP WITH TIME ZONE)"),
            "{told}"
        );
        assert!(Handle::read(b"{}").is_err());
        assert!(
            Handle::new("SELECT 1; SELECT 2".to_owned())
                .statement()
                .is_err()
        );
        assert!(Handle::new(String::new()).with(&batch.slice(0, 0)).is_err());
    }
}
