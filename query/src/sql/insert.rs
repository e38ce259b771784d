//! `INSERT INTO events SELECT …`: rows of a query become events.
//!
//! Every row is looked at before the first is stored: a row that cannot be an event refuses the
//! whole statement. What waits to be stored counts against the statement's memory.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::sqlparser::ast::{Insert, ObjectName, Query, Spanned, Statement, TableObject};
use futures::TryStreamExt;
use pugmark_engine::{BatchBuilder, EventBatch, Store, UserKey, Value, WriteError};

use super::constant::literal;
use super::context::Context;
use super::error::SqlError;
use super::session::SqlRows;
use crate::behaviour::Literal;

/// Columns that are no properties.
const USER: &str = "user_id";
const TIME: &str = "time";
const EVENT: &str = "event";
const MESSAGE: &str = "message_id";

/// Where events come from, and how their columns are named.
pub(super) struct Source {
    pub(super) query: Query,
    /// As they stand behind the table's name; those of the query where none do.
    columns: Vec<String>,
}

/// True for a statement that writes.
pub(super) fn is_insert(statement: &DFStatement) -> bool {
    match statement {
        DFStatement::Statement(statement) => matches!(**statement, Statement::Insert(_)),
        _ => false,
    }
}

/// What an INSERT takes its events from; `None` for other statements.
pub(super) fn source(statement: &DFStatement) -> Result<Option<Source>, SqlError> {
    let DFStatement::Statement(statement) = statement else {
        return Ok(None);
    };
    let Statement::Insert(insert) = &**statement else {
        return Ok(None);
    };
    let refused = |what: &str| Err(SqlError::at(insert.table.span(), what.to_owned()));
    let is_events = matches!(&insert.table, TableObject::TableName(name)
        if plain_name(name).eq_ignore_ascii_case("events"));
    if !is_events {
        return refused("only `events` takes rows: INSERT INTO events SELECT …");
    }
    let Insert {
        on: None,
        returning: None,
        overwrite: false,
        partitioned: None,
        source: Some(query),
        columns,
        ..
    } = insert
    else {
        return refused("INSERT INTO events takes columns and a query, and nothing else");
    };
    Ok(Some(Source {
        query: (**query).clone(),
        columns: columns.iter().map(plain_name).collect(),
    }))
}

/// A name without the quotes that its parts may stand in.
fn plain_name(column: &ObjectName) -> String {
    let parts = column.0.iter().filter_map(|part| part.as_ident());
    parts
        .map(|part| part.value.as_str())
        .collect::<Vec<_>>()
        .join(".")
}

/// Which column is what.
struct Layout {
    user: usize,
    time: usize,
    event: usize,
    message: Option<usize>,
    properties: Vec<(usize, String)>,
}

impl Layout {
    fn new(source: &Source, schema: &Schema) -> Result<Self, SqlError> {
        let own = schema.fields().iter().map(|field| field.name().clone());
        let names: Vec<String> = match source.columns.is_empty() {
            true => own.collect(),
            false => source.columns.clone(),
        };
        if names.len() != schema.fields().len() {
            return Err(SqlError::of(format!(
                "INSERT names {} columns, its query has {}",
                names.len(),
                schema.fields().len()
            )));
        }
        for (place, name) in names.iter().enumerate() {
            if names[..place].contains(name) {
                return Err(SqlError::of(format!("INSERT has two columns `{name}`")));
            }
        }
        let place = |wanted: &str| names.iter().position(|name| name == wanted);
        let needed = |wanted: &str| {
            place(wanted).ok_or_else(|| {
                SqlError::of(format!(
                    "INSERT INTO events needs a column `{wanted}`; name it behind the table, or by AS"
                ))
            })
        };
        let taken = [USER, TIME, EVENT, MESSAGE];
        let properties = names.iter().cloned().enumerate();
        Ok(Self {
            user: needed(USER)?,
            time: needed(TIME)?,
            event: needed(EVENT)?,
            message: place(MESSAGE),
            properties: properties
                .filter(|(_, name)| !taken.contains(&name.as_str()))
                .collect(),
        })
    }
}

/// One row on its way to an event.
struct Row<'r> {
    context: &'r Context,
    columns: &'r [ArrayRef],
    row: usize,
    /// Of the query, from 1.
    number: usize,
}

impl Row<'_> {
    fn scalar(&self, column: usize) -> Result<ScalarValue, SqlError> {
        Ok(ScalarValue::try_from_array(
            &self.columns[column],
            self.row,
        )?)
    }

    fn wrong(&self, what: impl std::fmt::Display) -> SqlError {
        SqlError::of(format!("row {}: {what}; nothing was stored", self.number))
    }

    /// The value of a column; `None` for null.
    fn value(&self, column: usize, name: &str) -> Result<Option<Value>, SqlError> {
        let scalar = self.scalar(column)?;
        let not_one = || {
            let what = scalar.data_type();
            self.wrong(format!(
                "`{name}` is of type {what}, which no property can have"
            ))
        };
        if let ScalarValue::List(list) = &scalar {
            let elements = list.value(0);
            let mut values = Vec::with_capacity(elements.len());
            for element in 0..elements.len() {
                let element = ScalarValue::try_from_array(&elements, element)?;
                values.extend(value_of(&element).ok_or_else(not_one)?);
            }
            return Ok((!list.is_null(0) && !values.is_empty()).then_some(Value::List(values)));
        }
        value_of(&scalar).ok_or_else(not_one)
    }

    fn text(&self, column: usize, name: &str) -> Result<String, SqlError> {
        match self.value(column, name)? {
            Some(Value::Text(text)) => Ok(text),
            Some(Value::I64(number)) => Ok(number.to_string()),
            Some(_) => Err(self.wrong(format!("`{name}` must be text or a whole number"))),
            None => Err(self.wrong(format!("`{name}` is null"))),
        }
    }

    fn time(&self) -> impl FnOnce(usize) -> Result<i64, SqlError> + '_ {
        |column| {
            let scalar = self.scalar(column)?;
            let time = self.context.constants().as_time(&scalar);
            time.ok_or_else(|| {
                self.wrong(format!("`{TIME}` is `{scalar}`, which is no point in time"))
            })
        }
    }

    fn add(&self, layout: &Layout, batch: &mut BatchBuilder) -> Result<(), SqlError> {
        let user = self.text(layout.user, USER)?;
        let event = self.text(layout.event, EVENT)?;
        let time = self.time()(layout.time)?;
        let mut values = Vec::with_capacity(layout.properties.len());
        for (column, name) in &layout.properties {
            if let Some(value) = self.value(*column, name)? {
                values.push((name, value));
            }
        }
        let message = match layout.message {
            Some(column) if !self.scalar(column)?.is_null() => Some(self.text(column, MESSAGE)?),
            _ => None,
        };
        let mut built = batch.event_of(UserKey::from_text(&user), time, &event);
        for (name, value) in values {
            built = built.value(name, &value);
        }
        if let Some(message) = message {
            built.message_id(&message);
        }
        Ok(())
    }
}

/// A scalar as a property's value, within `None` for null; `None` for types that none can have.
fn value_of(scalar: &ScalarValue) -> Option<Option<Value>> {
    Some(match literal(scalar)? {
        Literal::Null => None,
        Literal::Bool(value) => Some(Value::Bool(value)),
        Literal::I64(value) => Some(Value::I64(value)),
        Literal::F64(value) => Some(Value::F64(value)),
        Literal::Text(value) => Some(Value::Text(value)),
        Literal::Timestamp(value) => Some(Value::Timestamp(value)),
    })
}

/// Reads all rows, then stores them; gives how many were stored, and how many had arrived before.
pub(super) async fn store(
    store: &Store,
    context: &Arc<Context>,
    source: &Source,
    schema: SchemaRef,
    mut rows: SqlRows,
) -> Result<RecordBatch, SqlError> {
    let layout = Layout::new(source, &schema)?;
    let mut batches: Vec<EventBatch> = Vec::new();
    let mut number = 0;
    while let Some(batch) = rows.try_next().await? {
        context.keep(batch.get_array_memory_size())?;
        let mut built = BatchBuilder::new();
        for row in 0..batch.num_rows() {
            number += 1;
            let row = Row {
                context,
                columns: batch.columns(),
                row,
                number,
            };
            row.add(&layout, &mut built)?;
        }
        if !built.is_empty() {
            let before = number - batch.num_rows();
            let refused = |error| {
                SqlError::of(format!(
                    "of the rows after {before}: {error}; nothing was stored"
                ))
            };
            batches.push(built.finish().map_err(refused)?);
        }
    }
    let (mut stored, mut duplicates) = (0, 0);
    for batch in batches {
        let events = batch.len() as u64;
        let appended = store
            .append(batch)
            .map_err(|error| failed(&error, stored))?;
        duplicates += appended.duplicates;
        stored += events - appended.duplicates;
    }
    let counted = |count: u64| -> ArrayRef {
        Arc::new(Int64Array::from(vec![
            i64::try_from(count).unwrap_or(i64::MAX),
        ]))
    };
    let columns = vec![counted(stored), counted(duplicates)];
    let told = RecordBatch::try_new(answer_schema(), columns);
    told.map_err(|error| SqlError::Engine(error.into()))
}

fn failed(error: &WriteError, stored: u64) -> SqlError {
    let told = match error {
        WriteError::ReadOnly => "the store is open for reading only".to_owned(),
        other => format!("after {stored} events were stored: {other}"),
    };
    SqlError::of(told)
}

/// What an INSERT answers.
pub(super) fn answer_schema() -> SchemaRef {
    let count = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![count("events"), count("duplicates")]))
}
