//! `SELECT property, count(DISTINCT user_id), count(*) FROM events … GROUP BY property`: answered by
//! [`Audience`], which sorts pairs of user and value and holds no set of users.

use std::fmt;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::bind::event_property;
use super::catalog::ColumnType;
use super::context::Context;
use super::groups_table::column_name;
use super::produce::{ProduceError, ProduceExec, Producer, Sink};
use crate::behaviour::{Condition, TimeRange};
use crate::exec::audience::{Audience, AudienceRow, AudienceValue};

/// What a column of an aggregate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Value,
    Users,
    Events,
}

/// The rows of an aggregate.
#[derive(Clone, Debug)]
pub(super) struct AudienceTable {
    context: Arc<Context>,
    audience: Audience,
    told: Vec<Told>,
    schema: SchemaRef,
}

impl AudienceTable {
    /// The table of an aggregate over the events that satisfy a condition in a range; `None` where it
    /// is of another kind.
    pub(super) fn new(
        context: &Arc<Context>,
        aggregate: &Aggregate,
        (condition, range): (Condition, TimeRange),
    ) -> Option<Self> {
        let [key] = &aggregate.group_expr[..] else {
            return None;
        };
        let (property, seen) = event_property(&context.catalog, column_name(key)?)?;
        let value_type = match seen.column_type() {
            ColumnType::Text => DataType::Utf8View,
            ColumnType::I64 => DataType::Int64,
            _ => return None,
        };
        let mut told = vec![Told::Value];
        for measure in &aggregate.aggr_expr {
            told.push(count_of(measure)?);
        }
        let audience = Audience {
            condition,
            range,
            property: property.to_owned(),
        };
        // What cannot be read is told by the plan that stays.
        let fits = seen.is_plain() && audience.fits(&context.snapshot).unwrap_or(false);
        if !fits || !told.contains(&Told::Users) {
            return None;
        }
        let field = |(number, told): (usize, &Told)| match told {
            Told::Value => Field::new(format!("c{number}"), value_type.clone(), true),
            Told::Users | Told::Events => Field::new(format!("c{number}"), DataType::Int64, false),
        };
        let schema = Schema::new(told.iter().enumerate().map(field).collect::<Vec<_>>());
        let wanted = aggregate.schema.fields().iter();
        let same = wanted
            .zip(schema.fields())
            .all(|(wanted, own)| wanted.data_type() == own.data_type());
        same.then(|| Self {
            context: Arc::clone(context),
            audience,
            told,
            schema: Arc::new(schema),
        })
    }

    fn array(told: Told, value_type: &DataType, rows: &[AudienceRow]) -> ArrayRef {
        let counts = |of: fn(&AudienceRow) -> u64| -> ArrayRef {
            let counts = rows.iter().map(of);
            Arc::new(Int64Array::from_iter_values(
                counts.map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
            ))
        };
        match told {
            Told::Users => counts(|row| row.users),
            Told::Events => counts(|row| row.events),
            Told::Value if *value_type == DataType::Int64 => Arc::new(Int64Array::from_iter(
                rows.iter().map(|row| match row.value {
                    Some(AudienceValue::Whole(whole)) => Some(whole),
                    _ => None,
                }),
            )),
            Told::Value => {
                let texts = rows.iter().map(|row| match &row.value {
                    Some(AudienceValue::Text(text)) => Some(text.as_str()),
                    _ => None,
                });
                Arc::new(texts.collect::<StringViewArray>())
            }
        }
    }
}

/// What an aggregate counts; `None` where it is another one.
fn count_of(measure: &Expr) -> Option<Told> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = measure else {
        return None;
    };
    let plain =
        params.filter.is_none() && params.order_by.is_empty() && params.null_treatment.is_none();
    let [argument] = &params.args[..] else {
        return None;
    };
    match (func.name(), params.distinct, argument) {
        ("count", false, Expr::Literal(value, _)) if plain && !value.is_null() => {
            Some(Told::Events)
        }
        ("count", true, argument) if plain && column_name(argument) == Some("user_id") => {
            Some(Told::Users)
        }
        _ => None,
    }
}

#[async_trait]
impl TableProvider for AudienceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut producer = self.clone();
        if let Some(projection) = projection {
            producer.told = projection.iter().map(|&column| self.told[column]).collect();
            producer.schema = Arc::new(self.schema.project(projection)?);
        }
        Ok(Arc::new(ProduceExec::new(Arc::new(producer), limit)))
    }
}

/// Rows that are handed over at a time.
const BATCH_ROWS: usize = 8_192;

impl Producer for AudienceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn partitions(&self) -> usize {
        1
    }

    fn describe(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Audience {
            condition,
            property,
            ..
        } = &self.audience;
        write!(
            out,
            "PugmarkExec: counts of users and events by {property}, condition={condition}"
        )
    }

    fn restart(&self) -> Arc<dyn Producer> {
        Arc::new(self.clone())
    }

    fn produce(&self, _partition: usize, sink: &mut Sink) -> Result<(), ProduceError> {
        let executor = sink.executor(self.context.as_of);
        let (rows, skipped) = executor.audience(&self.audience)?;
        self.context.remark_skipped(&skipped);
        for rows in rows.chunks(BATCH_ROWS) {
            let columns = self.told.iter().zip(self.schema.fields());
            let arrays = columns.map(|(&told, field)| Self::array(told, field.data_type(), rows));
            let arrays = arrays.collect();
            let count = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let schema = Arc::clone(&self.schema);
            sink.put(RecordBatch::try_new_with_options(schema, arrays, &count)?)?;
        }
        Ok(())
    }
}
