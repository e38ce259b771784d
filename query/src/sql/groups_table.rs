//! `GROUP BY` of events by name, calendar period and text properties: answered from bitmaps, run
//! lengths and columns of codes and numbers. Users by a property's values are
//! [`super::audience_table`]'s.
//!
//! A rule of the optimiser finds aggregates over `events` that [`Totals`] and [`Uniques`] can count
//! and puts a table of their answer in their place. What it does not understand stays as it is.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, IntervalUnit, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::expr::{AggregateFunction, ScalarFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, TableType, cast};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;

use super::audience_table::AudienceTable;
use super::bind::event_property;
use super::catalog::{ColumnType, time_type};
use super::context::Context;
use super::events_table::{EventsTable, split_range};
use super::produce::{ProduceError, ProduceExec, Producer, Sink};
use crate::behaviour::{Condition, TimeRange, TimeSpec, any};
use crate::exec::totals::{Measured, NumberTotal, Sum, Total, TotalRow, Totals};
use crate::exec::uniques::Uniques;
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
    /// A property's text, with its number among those that groups are told by.
    Property(usize),
    Events,
    Users,
    First,
    Last,
    /// Of a property of numbers, with its number among them.
    Number(usize, Measure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Count,
    Sum,
    Mean,
    Least,
    Greatest,
}

/// An aggregate.
#[derive(Clone, Debug)]
struct Asked {
    totals: Totals,
    /// Where distinct users are wanted.
    uniques: Option<Uniques>,
    told: Vec<Told>,
}

impl Asked {
    /// True where only distinct users are wanted.
    fn only_users(&self) -> bool {
        let only = |told: &Told| matches!(told, Told::Event | Told::Period | Told::Users);
        self.uniques.is_some() && self.told.iter().all(only)
    }
}

impl GroupsRule {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
        }
    }

    /// The table that gives an aggregate's rows.
    fn table(&self, aggregate: &Aggregate) -> Option<GroupsTable> {
        let asked = self.asked(aggregate)?;
        let snapshot = &self.context.snapshot;
        if asked
            .uniques
            .as_ref()
            .is_some_and(|uniques| !uniques.fits(snapshot))
        {
            return None;
        }
        // What cannot be read is told by the plan that stays.
        if !asked.only_users() && !asked.totals.fits(snapshot).unwrap_or(false) {
            return None;
        }
        let table = GroupsTable::new(&self.context, asked);
        let own = table.schema.fields();
        let wanted = aggregate.schema.fields();
        let same = wanted
            .iter()
            .zip(own)
            .all(|(wanted, own)| fits(wanted.data_type(), own.data_type()));
        (same && wanted.len() == own.len()).then_some(table)
    }

    /// The table that gives the rows of an aggregate by the values of a property.
    fn audience(&self, aggregate: &Aggregate) -> Option<AudienceTable> {
        AudienceTable::new(&self.context, aggregate, self.events(aggregate)?)
    }

    /// The condition and the range of the events that are aggregated.
    fn events(&self, aggregate: &Aggregate) -> Option<(Condition, TimeRange)> {
        let condition = self.condition(&aggregate.input)?;
        let whole = TimeSpec::default().resolve(self.context.as_of);
        Some(split_range(condition, whole))
    }

    fn asked(&self, aggregate: &Aggregate) -> Option<Asked> {
        let (condition, range) = self.events(aggregate)?;
        let mut asked = Asked {
            totals: Totals {
                condition,
                range,
                by_event: false,
                by_period: None,
                by_properties: Vec::new(),
                times: false,
                numbers: Vec::new(),
            },
            uniques: None,
            told: Vec::new(),
        };
        for key in &aggregate.group_expr {
            let told = self.key(key, &mut asked.totals)?;
            asked.told.push(told);
        }
        for measure in &aggregate.aggr_expr {
            let told = self.measure(measure, &mut asked.totals)?;
            asked.told.push(told);
        }
        if asked.told.contains(&Told::Users) {
            if !asked.totals.by_properties.is_empty() {
                return None;
            }
            asked.uniques = Some(Uniques {
                condition: asked.totals.condition.clone(),
                range: asked.totals.range,
                by_event: asked.totals.by_event,
                by_period: asked.totals.by_period,
            });
        }
        Some(asked)
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

    /// What a key of GROUP BY is.
    fn key(&self, expr: &Expr, totals: &mut Totals) -> Option<Told> {
        match column_name(expr) {
            Some("event") if !totals.by_event => {
                totals.by_event = true;
                return Some(Told::Event);
            }
            Some(column) => return self.property_key(column, totals),
            None => {}
        }
        let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else {
            return None;
        };
        let [Expr::Literal(unit, _), of] = &args[..] else {
            return None;
        };
        // Bins are told in nanoseconds.
        let of = match of {
            Expr::Cast(cast) if fits(cast.field.data_type(), &self.time_type()) => &*cast.expr,
            other => other,
        };
        let of_time = column_name(of) == Some("time") && totals.by_period.is_none();
        if !of_time || self.context.settings.zone != Zone::UTC {
            return None;
        }
        let unit = match func.name() {
            "date_trunc" => truncated_to(unit)?,
            "date_bin" => binned_by(unit)?,
            _ => return None,
        };
        totals.by_period = Some(unit);
        Some(Told::Period)
    }

    fn time_type(&self) -> DataType {
        time_type(&self.context.zone_name)
    }

    fn property_key(&self, column: &str, totals: &mut Totals) -> Option<Told> {
        let (name, seen) = event_property(&self.context.catalog, column)?;
        if seen.column_type() != ColumnType::Text || !seen.is_plain() {
            return None;
        }
        totals.by_properties.push(name.to_owned());
        Some(Told::Property(totals.by_properties.len() - 1))
    }

    fn measure(&self, expr: &Expr, totals: &mut Totals) -> Option<Told> {
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
        match (func.name(), params.distinct, column_name(argument)) {
            ("count", false, None) => match argument {
                Expr::Literal(value, _) if !value.is_null() => Some(Told::Events),
                _ => None,
            },
            ("count", true, Some("user_id")) => Some(Told::Users),
            ("min", false, Some("time")) => {
                totals.times = true;
                Some(Told::First)
            }
            ("max", false, Some("time")) => {
                totals.times = true;
                Some(Told::Last)
            }
            ("count", false, Some(column)) => self.number(column, Measure::Count, totals),
            ("sum", false, Some(column)) => self.number(column, Measure::Sum, totals),
            ("min", false, Some(column)) => self.number(column, Measure::Least, totals),
            ("max", false, Some(column)) => self.number(column, Measure::Greatest, totals),
            ("avg", false, column) => {
                let inner = match argument {
                    // The cast that the average of whole numbers makes, and no other.
                    Expr::Cast(cast) if *cast.field.data_type() == DataType::Float64 => {
                        column_name(&cast.expr)
                    }
                    _ => column,
                };
                self.number(inner?, Measure::Mean, totals)
            }
            _ => None,
        }
    }

    fn number(&self, column: &str, measure: Measure, totals: &mut Totals) -> Option<Told> {
        let (name, seen) = event_property(&self.context.catalog, column)?;
        let whole = match seen.column_type() {
            ColumnType::I64 => true,
            ColumnType::F64 => false,
            _ => return None,
        };
        if !seen.is_plain() {
            return None;
        }
        let known = totals
            .numbers
            .iter()
            .position(|number| number.property == name);
        let place = known.unwrap_or_else(|| {
            totals.numbers.push(Measured {
                property: name.to_owned(),
                whole,
            });
            totals.numbers.len() - 1
        });
        Some(Told::Number(place, measure))
    }
}

fn truncated_to(unit: &ScalarValue) -> Option<CalendarUnit> {
    match unit.to_string().to_ascii_lowercase().as_str() {
        "hour" => Some(CalendarUnit::Hour),
        "day" => Some(CalendarUnit::Day),
        "week" => Some(CalendarUnit::Week),
        "month" => Some(CalendarUnit::Month),
        _ => None,
    }
}

/// The calendar unit that bins of this width are, counted from 1970-01-01.
fn binned_by(width: &ScalarValue) -> Option<CalendarUnit> {
    let exact = width
        .cast_to(&DataType::Interval(IntervalUnit::MonthDayNano))
        .ok()?;
    let ScalarValue::IntervalMonthDayNano(Some(width)) = exact else {
        return None;
    };
    let hours = |hours: i64| hours * 3_600_000_000_000;
    match (width.months, width.days, width.nanoseconds) {
        (0, 1, 0) => Some(CalendarUnit::Day),
        (0, 0, nanos) if nanos == hours(24) => Some(CalendarUnit::Day),
        (0, 0, nanos) if nanos == hours(1) => Some(CalendarUnit::Hour),
        _ => None,
    }
}

pub(super) fn column_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        Expr::Alias(alias) => column_name(&alias.expr),
        _ => None,
    }
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
        let table: Arc<dyn TableProvider> = if let Some(table) = self.table(aggregate) {
            Arc::new(table)
        } else if let Some(table) = self.audience(aggregate) {
            Arc::new(table)
        } else {
            return Ok(Transformed::no(plan));
        };
        Ok(Transformed::yes(in_place_of(aggregate, table)?))
    }
}

/// True where values of `own` can be told as `wanted`: times in another unit.
fn fits(wanted: &DataType, own: &DataType) -> bool {
    match (wanted, own) {
        (DataType::Timestamp(_, zone), DataType::Timestamp(_, own)) => zone == own,
        _ => wanted == own,
    }
}

/// A plan with the columns of an aggregate, which are those of `table` in this order.
pub(super) fn in_place_of(
    aggregate: &Aggregate,
    table: Arc<dyn TableProvider>,
) -> Result<LogicalPlan> {
    let schema = table.schema();
    let own = schema.fields().iter().zip(aggregate.schema.iter());
    let columns = own.map(|(own, (qualifier, field))| {
        let mut column = Expr::Column(Column::new(Some("groups"), own.name()));
        if own.data_type() != field.data_type() {
            column = cast(column, field.data_type().clone());
        }
        column.alias_qualified(qualifier.cloned(), field.name())
    });
    let columns: Vec<Expr> = columns.collect();
    LogicalPlanBuilder::scan("groups", provider_as_source(table), None)?
        .project(columns)?
        .build()
}

/// The rows of an aggregate.
#[derive(Debug)]
struct GroupsTable {
    context: Arc<Context>,
    asked: Asked,
    schema: SchemaRef,
}

impl GroupsTable {
    fn new(context: &Arc<Context>, asked: Asked) -> Self {
        let zone = &context.zone_name;
        let field = |(number, told): (usize, &Told)| {
            let (data_type, nullable) = match told {
                Told::Event => (DataType::Utf8View, false),
                Told::Property(_) => (DataType::Utf8View, true),
                Told::Period => (time_type(zone), false),
                Told::Events | Told::Users | Told::Number(_, Measure::Count) => {
                    (DataType::Int64, false)
                }
                Told::First | Told::Last => (time_type(zone), true),
                Told::Number(_, Measure::Mean) => (DataType::Float64, true),
                Told::Number(number, _) => match asked.totals.numbers[*number].whole {
                    true => (DataType::Int64, true),
                    false => (DataType::Float64, true),
                },
            };
            Field::new(format!("c{number}"), data_type, nullable)
        };
        let schema = Schema::new(asked.told.iter().enumerate().map(field).collect::<Vec<_>>());
        Self {
            context: Arc::clone(context),
            asked,
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
        let all: Vec<usize> = (0..self.asked.told.len()).collect();
        let projection = projection.unwrap_or(&all);
        let told = projection.iter().map(|&column| self.asked.told[column]);
        let producer = GroupsProducer {
            context: Arc::clone(&self.context),
            told: told.collect(),
            asked: self.asked.clone(),
            schema: Arc::new(self.schema.project(projection)?),
        };
        Ok(Arc::new(ProduceExec::new(Arc::new(producer), limit)))
    }
}

/// Counts.
#[derive(Clone, Debug)]
struct GroupsProducer {
    context: Arc<Context>,
    asked: Asked,
    /// The columns that are read.
    told: Vec<Told>,
    schema: SchemaRef,
}

/// Rows that are handed over at a time.
const BATCH_ROWS: usize = 8_192;

/// A group with its users, which are 0 where not wanted.
type Row = (TotalRow, u64);

impl GroupsProducer {
    fn rows(&self, sink: &Sink) -> Result<Vec<Row>, ProduceError> {
        let executor = sink.executor(self.context.as_of);
        let Asked {
            totals, uniques, ..
        } = &self.asked;
        let mut users = BTreeMap::new();
        if let Some(uniques) = uniques {
            let (found, skipped) = executor.uniques(uniques)?;
            self.context.remark_skipped(&skipped);
            users = found;
        }
        let row = |event, period, total| TotalRow {
            event,
            period,
            properties: Vec::new(),
            total,
        };
        let mut rows: Vec<Row> = if self.asked.only_users() {
            let rows = users.into_iter();
            rows.map(|((event, period), users)| (row(event, period, totals.nothing()), users))
                .collect()
        } else {
            let (rows, skipped) = executor.totals(totals)?;
            if uniques.is_none() {
                self.context.remark_skipped(&skipped);
            }
            let users_of = |row: &TotalRow| users.get(&(row.event.clone(), row.period)).copied();
            rows.into_iter()
                .map(|row| {
                    let users = users_of(&row).unwrap_or(0);
                    (row, users)
                })
                .collect()
        };
        let has_keys = totals.by_event || totals.by_period.is_some();
        if rows.is_empty() && !has_keys && totals.by_properties.is_empty() {
            // Without GROUP BY there is a row for nothing, too.
            rows.push((row(String::new(), 0, totals.nothing()), 0));
        }
        Ok(rows)
    }

    fn array(&self, told: Told, rows: &[Row]) -> ArrayRef {
        let counts = |of: &dyn Fn(&Row) -> u64| -> ArrayRef {
            let counts = rows
                .iter()
                .map(|row| i64::try_from(of(row)).unwrap_or(i64::MAX));
            Arc::new(Int64Array::from_iter_values(counts))
        };
        let times = |of: &dyn Fn(&Row) -> Option<i64>| -> ArrayRef {
            let times: TimestampMicrosecondArray = rows.iter().map(of).collect();
            Arc::new(times.with_timezone(Arc::clone(&self.context.zone_name)))
        };
        let if_any = |total: &Total, time| (total.events > 0).then_some(time);
        match told {
            Told::Event => {
                let names = rows.iter().map(|(row, _)| row.event.as_str());
                Arc::new(StringViewArray::from_iter_values(names))
            }
            Told::Property(number) => {
                let texts = rows
                    .iter()
                    .map(|(row, _)| row.properties[number].as_deref());
                Arc::new(texts.collect::<StringViewArray>())
            }
            Told::Period => times(&|(row, _)| Some(row.period)),
            Told::Events => counts(&|(row, _)| row.total.events),
            Told::Users => counts(&|(_, users)| *users),
            Told::First => times(&|(row, _)| if_any(&row.total, row.total.first)),
            Told::Last => times(&|(row, _)| if_any(&row.total, row.total.last)),
            Told::Number(number, measure) => {
                let numbers = rows.iter().map(|(row, _)| row.total.numbers[number]);
                let whole = self.asked.totals.numbers[number].whole;
                number_array(measure, whole, numbers)
            }
        }
    }
}

/// A measure of each group's numbers, whole ones or floats; null where there are none, but for
/// their count.
fn number_array(
    measure: Measure,
    whole: bool,
    numbers: impl Iterator<Item = NumberTotal>,
) -> ArrayRef {
    match measure {
        Measure::Count => Arc::new(Int64Array::from_iter_values(numbers.map(|number| {
            let count = match number {
                NumberTotal::Whole(sum) => sum.count,
                NumberTotal::Float(sum) => sum.count,
            };
            i64::try_from(count).unwrap_or(i64::MAX)
        }))),
        Measure::Mean => Arc::new(Float64Array::from_iter(numbers.map(|number| {
            let (sum, count) = match number {
                NumberTotal::Whole(sum) => (sum.float_sum, sum.count),
                NumberTotal::Float(sum) => (sum.float_sum, sum.count),
            };
            (count > 0).then_some(sum / count as f64)
        }))),
        _ if whole => Arc::new(Int64Array::from_iter(numbers.map(|number| match number {
            NumberTotal::Whole(sum) => part_of(measure, &sum),
            NumberTotal::Float(_) => None,
        }))),
        _ => Arc::new(Float64Array::from_iter(numbers.map(
            |number| match number {
                NumberTotal::Float(sum) => part_of(measure, &sum),
                NumberTotal::Whole(_) => None,
            },
        ))),
    }
}

fn part_of<T: Copy>(measure: Measure, sum: &Sum<T>) -> Option<T> {
    let part = match measure {
        Measure::Sum => sum.sum,
        Measure::Least => sum.least,
        Measure::Greatest => sum.greatest,
        Measure::Count | Measure::Mean => return None,
    };
    (sum.count > 0).then_some(part)
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
        let totals = &self.asked.totals;
        write!(
            out,
            "PugmarkExec: counts of events, condition={}",
            totals.condition
        )?;
        if totals.by_event {
            out.write_str(", by event")?;
        }
        if let Some(unit) = &totals.by_period {
            write!(out, ", by {unit:?}")?;
        }
        for property in &totals.by_properties {
            write!(out, ", by {property}")?;
        }
        Ok(())
    }

    fn restart(&self) -> Arc<dyn Producer> {
        Arc::new(self.clone())
    }

    fn produce(&self, _partition: usize, sink: &mut Sink) -> Result<(), ProduceError> {
        let rows = self.rows(sink)?;
        let told = self.told.iter();
        let arrays = told.map(|&told| self.array(told, &rows)).collect();
        let count = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &count)?;
        for start in (0..rows.len()).step_by(BATCH_ROWS) {
            sink.put(batch.slice(start, BATCH_ROWS.min(rows.len() - start)))?;
        }
        Ok(())
    }
}
