//! SQL expressions over an event's columns as operands of questions: `lower(brand)`, `price * 2`,
//! `date_part('hour', time) < 6`.
//!
//! DataFusion computes them, over the columns that the table `events` has. For an event that an
//! expression fails for (a division by zero, a text that is no number) it is missing, and counted.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use datafusion::arrow::compute::cast;
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use pugmark_engine::{Corruption, Value};

use super::arrays::{ValueColumn, property_array};
use super::catalog::{ColumnType, time_type};
use super::constant::Constants;
use super::error::SqlError;
use crate::behaviour::{Computation, Compute, Computed, Input, Keep, Operand, held_bytes};
use crate::exec::QueryError;

/// A column that an expression looks at.
pub(super) struct InputColumn {
    pub(super) operand: Operand,
    pub(super) column_type: ColumnType,
}

/// An expression, planned.
struct Expression {
    planned: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    columns: Vec<ColumnType>,
    zone: Arc<str>,
    /// What the results are turned into.
    result: DataType,
}

/// The operand that an expression over `columns`, which `schema` has in this order, comes to; and
/// whether it is a boolean.
pub(super) fn operand(
    text: &str,
    expr: Expr,
    schema: &DFSchema,
    columns: Vec<InputColumn>,
    constants: Constants<'_>,
) -> Result<(Operand, bool), SqlError> {
    if expr.is_volatile() {
        return Err(SqlError::of(
            "it depends on chance; ask what can be asked again",
        ));
    }
    let expr = constants.simplified(expr, schema)?;
    let planned = constants.state.create_physical_expr(expr, schema)?;
    let zone = constants.zone;
    let schema = Arc::clone(schema.inner());
    let own = planned.data_type(&schema)?;
    // What cannot be computed at all fails here; what fails later fails for some events only.
    planned.evaluate(&RecordBatch::new_empty(Arc::clone(&schema)))?;
    let result = result_type(&own, zone)
        .ok_or_else(|| SqlError::of(format!("its type is {own}; take a text or a number of it")))?;
    let is_bool = matches!(result, DataType::Boolean | DataType::Null);
    let types = columns.iter().map(|column| column.column_type);
    let expression = Expression {
        planned,
        schema,
        columns: types.collect(),
        zone: Arc::clone(zone),
        result,
    };
    let inputs = columns.into_iter().map(|column| column.operand);
    let computed = Computed::new(text, inputs, expression);
    Ok((Operand::Computed(computed), is_bool))
}

/// The type whose values hold those of `own`; `None` for what no property can be.
fn result_type(own: &DataType, zone: &Arc<str>) -> Option<DataType> {
    Some(match own {
        DataType::Null | DataType::Boolean => own.clone(),
        // A day is told as SELECT tells it, whatever the zone.
        DataType::Date32 | DataType::Date64 => DataType::Utf8View,
        // Beyond what a whole number of ours holds.
        DataType::UInt64 => DataType::Float64,
        _ if own.is_integer() => DataType::Int64,
        _ if own.is_numeric() => DataType::Float64,
        _ if own.is_string() => DataType::Utf8View,
        DataType::Dictionary(_, values) => return result_type(values, zone),
        DataType::Timestamp(..) => time_type(zone),
        _ => return None,
    })
}

/// Events that are computed at a time: as many as DataFusion has in a batch at most.
const EVENTS_AT_A_TIME: usize = 4_096;

impl Compute for Expression {
    fn compute(
        &self,
        inputs: &[Input<'_>],
        events: usize,
        keep: Keep<'_>,
    ) -> Result<Computation, QueryError> {
        let mut found = Computation::default();
        for start in (0..events).step_by(EVENTS_AT_A_TIME) {
            let part = start..events.min(start + EVENTS_AT_A_TIME);
            self.fill(&self.batch(inputs, &part)?, &mut found, keep)?;
        }
        Ok(found)
    }
}

impl Expression {
    /// The inputs of some of the events.
    fn batch(&self, inputs: &[Input<'_>], part: &Range<usize>) -> Result<RecordBatch, Corruption> {
        let columns = inputs.iter().zip(&self.columns);
        let columns = columns.map(|(input, column)| self.column(input, *column, part));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(part.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &rows);
        batch.map_err(|_| {
            let problem = "a column is of another type than the catalog found";
            Corruption::new(Path::new("events"), 0, problem)
        })
    }

    fn column(
        &self,
        input: &Input<'_>,
        column_type: ColumnType,
        part: &Range<usize>,
    ) -> Result<ArrayRef, Corruption> {
        if let Input::Rows(column, rows) = input {
            let rows = rows.start + part.start as u32..rows.start + part.end as u32;
            return property_array(column.as_deref(), column_type, &self.zone, rows);
        }
        let mut values = ValueColumn::new(column_type, &self.zone, part.len());
        for event in part.clone() {
            values.append(input.value(event)?.as_ref());
        }
        Ok(values.finish())
    }

    /// Adds the results of a batch; where it fails as a whole, those of its halves.
    fn fill(
        &self,
        batch: &RecordBatch,
        found: &mut Computation,
        keep: Keep<'_>,
    ) -> Result<(), QueryError> {
        let rows = batch.num_rows();
        let known = found.values.len();
        match self.results(batch) {
            Some(results) => append_values(&results, &mut found.values),
            None if rows > 1 => {
                self.fill(&batch.slice(0, rows / 2), found, keep)?;
                return self.fill(&batch.slice(rows / 2, rows - rows / 2), found, keep);
            }
            None => {
                found.values.push(None);
                found.failed += 1;
            }
        }
        keep(found.values[known..].iter().map(held_bytes).sum())
    }

    fn results(&self, batch: &RecordBatch) -> Option<ArrayRef> {
        let results = self.planned.evaluate(batch).ok()?;
        let results = results.into_array(batch.num_rows()).ok()?;
        cast(&results, &self.result).ok()
    }
}

fn append_values(results: &ArrayRef, values: &mut Vec<Option<Value>>) {
    let rows = 0..results.len();
    match results.data_type() {
        DataType::Boolean => {
            values.extend(results.as_boolean().iter().map(|one| one.map(Value::Bool)));
        }
        DataType::Int64 => {
            let numbers = results.as_primitive::<Int64Type>().iter();
            values.extend(numbers.map(|one| one.map(Value::I64)));
        }
        DataType::Float64 => {
            let numbers = results.as_primitive::<Float64Type>().iter();
            values.extend(numbers.map(|one| one.map(Value::F64)));
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let times = results.as_primitive::<TimestampMicrosecondType>().iter();
            values.extend(times.map(|one| one.map(Value::Timestamp)));
        }
        DataType::Utf8View => {
            let texts = results.as_string_view().iter();
            values.extend(texts.map(|one| one.map(|text| Value::Text(text.to_owned()))));
        }
        _ => values.extend(rows.map(|_| None)),
    }
}
