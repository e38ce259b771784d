//! `GROUP BY event`, by calendar periods, or by both: answered from bitmaps and run lengths.
//!
//! A rule of the optimiser finds aggregates over `events` that [`Groups`] can count and puts a table
//! of their answer in their place. What it does not understand stays as it is.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::expr::{AggregateFunction, ScalarFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, TableType};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;

use super::bind::event_property;
use super::catalog::{ColumnType, time_type};
use super::context::Context;
use super::events_table::{EventsTable, split_range};
use super::produce::{ProduceError, ProduceExec, Producer, Sink};
use crate::behaviour::{Condition, TimeSpec, any};
use crate::exec::groups::{GroupRow, Groups};
use crate::zone::{CalendarUnit, Zone};

/// Finds aggregates that are answered from bitmaps and run lengths.
#[derive(Debug)]
pub(super) struct GroupsRule {
    context: Arc<Context>,
}

/// What a column of an aggregate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Event,
    Period,
    Events,
    Users,
    First,
    Last,
    /// With its number among the sums.
    Sum(usize),
}

impl GroupsRule {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
        }
    }

    /// The table that gives an aggregate's rows.
    fn table(&self, aggregate: &Aggregate) -> Option<GroupsTable> {
        let condition = self.condition(&aggregate.input)?;
        let whole = TimeSpec::default().resolve(self.context.as_of);
        let (condition, range) = split_range(condition, whole);
        let mut groups = Groups {
            condition,
            range,
            by_event: false,
            by_period: None,
            users: false,
            times: false,
            sums: Vec::new(),
        };
        let keys = aggregate
            .group_expr
            .iter()
            .map(|key| key_of(key, &mut groups, &self.context));
        let mut told = keys.collect::<Option<Vec<_>>>()?;
        for measure in &aggregate.aggr_expr {
            told.push(self.measure(measure, &mut groups)?);
        }
        if !groups.fits(&self.context.snapshot) {
            return None;
        }
        let table = GroupsTable::new(&self.context, groups, told);
        let same = aggregate
            .schema
            .fields()
            .iter()
            .zip(table.schema.fields())
            .all(|(wanted, own)| wanted.data_type() == own.data_type());
        (same && aggregate.schema.fields().len() == table.schema.fields().len()).then_some(table)
    }

    /// What filters between an aggregate and `events` come to.
    fn condition(&self, plan: &LogicalPlan) -> Option<Condition> {
        match plan {
            LogicalPlan::Filter(filter) => {
                let mut condition = self.condition(&filter.input)?;
                let events = EventsTable::new(&self.context);
                for part in split_conjunction(&filter.predicate) {
                    condition = condition.and(events.condition(part)?);
                }
                Some(condition)
            }
            LogicalPlan::SubqueryAlias(alias) => self.condition(&alias.input),
            LogicalPlan::TableScan(scan) => {
                let provider = source_as_provider(&scan.source).ok()?;
                let provider: &dyn Any = provider.as_ref();
                let whole = scan.filters.is_empty() && scan.fetch.is_none();
                (provider.is::<EventsTable>() && whole).then(any)
            }
            _ => None,
        }
    }

    fn measure(&self, expr: &Expr, groups: &mut Groups) -> Option<Told> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
            return None;
        };
        if params.filter.is_some() || !params.order_by.is_empty() || params.null_treatment.is_some()
        {
            return None;
        }
        let [argument] = &params.args[..] else {
            return None;
        };
        let column = column_name(argument);
        match (func.name(), params.distinct) {
            ("count", false) => match argument {
                Expr::Literal(value, _) if !value.is_null() => Some(Told::Events),
                _ => None,
            },
            ("count", true) if column == Some("user_id") => {
                groups.users = true;
                Some(Told::Users)
            }
            ("min" | "max", false) if column == Some("time") => {
                groups.times = true;
                Some(if func.name() == "min" {
                    Told::First
                } else {
                    Told::Last
                })
            }
            ("sum", false) => {
                let (name, seen) = event_property(&self.context.catalog, column?)?;
                if seen.column_type() != ColumnType::F64 || !seen.is_plain() {
                    return None;
                }
                groups.sums.push(name.to_owned());
                Some(Told::Sum(groups.sums.len() - 1))
            }
            _ => None,
        }
    }
}

fn column_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        Expr::Alias(alias) => column_name(&alias.expr),
        _ => None,
    }
}

/// What a key of GROUP BY is.
fn key_of(expr: &Expr, groups: &mut Groups, context: &Context) -> Option<Told> {
    if column_name(expr) == Some("event") && !groups.by_event {
        groups.by_event = true;
        return Some(Told::Event);
    }
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else {
        return None;
    };
    let [Expr::Literal(unit, _), of] = &args[..] else {
        return None;
    };
    let is_trunc = func.name() == "date_trunc" && column_name(of) == Some("time");
    if !is_trunc || groups.by_period.is_some() || context.settings.zone != Zone::UTC {
        return None;
    }
    let unit = match unit.to_string().to_ascii_lowercase().as_str() {
        "hour" => CalendarUnit::Hour,
        "day" => CalendarUnit::Day,
        "week" => CalendarUnit::Week,
        "month" => CalendarUnit::Month,
        _ => return None,
    };
    groups.by_period = Some((unit, Zone::UTC));
    Some(Told::Period)
}

impl OptimizerRule for GroupsRule {
    fn name(&self) -> &'static str {
        "pugmark_groups"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Aggregate(aggregate) = &plan else {
            return Ok(Transformed::no(plan));
        };
        let Some(table) = self.table(aggregate) else {
            return Ok(Transformed::no(plan));
        };
        let names = table
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone());
        let columns: Vec<Expr> = names
            .zip(aggregate.schema.iter())
            .map(|(own, (qualifier, field))| {
                let column = Expr::Column(Column::new(Some("groups"), own));
                column.alias_qualified(qualifier.cloned(), field.name())
            })
            .collect();
        let source = provider_as_source(Arc::new(table));
        let replaced = LogicalPlanBuilder::scan("groups", source, None)?
            .project(columns)?
            .build()?;
        Ok(Transformed::yes(replaced))
    }
}

/// The rows of an aggregate.
#[derive(Debug)]
struct GroupsTable {
    context: Arc<Context>,
    groups: Groups,
    told: Vec<Told>,
    schema: SchemaRef,
}

impl GroupsTable {
    fn new(context: &Arc<Context>, groups: Groups, told: Vec<Told>) -> Self {
        let zone = &context.zone_name;
        let field = |(number, told): (usize, &Told)| {
            let (data_type, nullable) = match told {
                Told::Event => (DataType::Utf8View, false),
                Told::Period => (time_type(zone), false),
                Told::Events | Told::Users => (DataType::Int64, false),
                Told::First | Told::Last => (time_type(zone), true),
                Told::Sum(_) => (DataType::Float64, true),
            };
            Field::new(format!("c{number}"), data_type, nullable)
        };
        let schema = Schema::new(told.iter().enumerate().map(field).collect::<Vec<_>>());
        Self {
            context: Arc::clone(context),
            groups,
            told,
            schema: Arc::new(schema),
        }
    }
}

#[async_trait]
impl TableProvider for GroupsTable {
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
        let all: Vec<usize> = (0..self.told.len()).collect();
        let projection = projection.unwrap_or(&all);
        let producer = GroupsProducer {
            context: Arc::clone(&self.context),
            groups: self.groups.clone(),
            told: projection.iter().map(|&column| self.told[column]).collect(),
            schema: Arc::new(self.schema.project(projection)?),
        };
        Ok(Arc::new(ProduceExec::new(Arc::new(producer), limit)))
    }
}

/// Counts.
#[derive(Clone, Debug)]
struct GroupsProducer {
    context: Arc<Context>,
    groups: Groups,
    told: Vec<Told>,
    schema: SchemaRef,
}

impl GroupsProducer {
    fn array(&self, told: Told, rows: &[GroupRow]) -> ArrayRef {
        let count = |of: fn(&GroupRow) -> u64| -> ArrayRef {
            let counts = rows
                .iter()
                .map(|row| i64::try_from(of(row)).unwrap_or(i64::MAX));
            Arc::new(Int64Array::from_iter_values(counts))
        };
        let time = |of: fn(&GroupRow) -> Option<i64>| -> ArrayRef {
            let times: TimestampMicrosecondArray = rows.iter().map(of).collect();
            Arc::new(times.with_timezone(Arc::clone(&self.context.zone_name)))
        };
        match told {
            Told::Event => {
                let names = rows.iter().map(|row| row.event.as_str());
                Arc::new(StringViewArray::from_iter_values(names))
            }
            Told::Period => time(|row| Some(row.period)),
            Told::Events => count(|row| row.events),
            Told::Users => count(|row| row.users),
            Told::First => time(|row| (row.events > 0).then_some(row.first)),
            Told::Last => time(|row| (row.events > 0).then_some(row.last)),
            Told::Sum(number) => {
                let sums = rows
                    .iter()
                    .map(|row| row.sums.get(number).copied().flatten());
                Arc::new(sums.collect::<Float64Array>())
            }
        }
    }
}

impl Producer for GroupsProducer {
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
        write!(
            out,
            "PugmarkExec: counts of events, condition={}",
            self.groups.condition
        )?;
        if self.groups.by_event {
            out.write_str(", by event")?;
        }
        match &self.groups.by_period {
            Some((unit, _)) => write!(out, ", by {unit:?}"),
            None => Ok(()),
        }
    }

    fn restart(&self) -> Arc<dyn Producer> {
        Arc::new(self.clone())
    }

    fn produce(&self, _partition: usize, sink: &mut Sink) -> Result<(), ProduceError> {
        let executor = sink.executor(self.context.as_of);
        let (mut rows, skipped) = executor.groups(&self.groups)?;
        self.context.remark_skipped(&skipped);
        if rows.is_empty() && !self.groups.by_event && self.groups.by_period.is_none() {
            // Without GROUP BY there is a row for nothing, too.
            rows.push(GroupRow {
                event: String::new(),
                period: 0,
                events: 0,
                users: 0,
                first: 0,
                last: 0,
                sums: vec![None; self.groups.sums.len()],
            });
        }
        let arrays = self
            .told
            .iter()
            .map(|&told| self.array(told, &rows))
            .collect();
        let count = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &count)?;
        sink.put(batch)
    }
}
