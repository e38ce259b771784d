//! The table `events`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    ArrayRef, RecordBatch, RecordBatchOptions, StringViewArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter as filter_rows;
use arrow_select::take::take;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use roaring::RoaringBitmap;

use super::arrays::property_array;
use super::bind::event_property;
use super::catalog::ColumnType;
use super::context::Context;
use super::ids::id_array;
use super::late::LateFilter;
use super::produce::{ProduceError, ProduceExec, Producer, Sink, describe_effort};
use super::translate::{BoundColumn, Translator};
use super::users_table::user_ids;
use crate::behaviour::{Comparison, Condition, Literal, Operand, TimeRange, TimeSpec, any};
use crate::exec::Executor;
use crate::exec::table_scan::{EventBlock, EventScan};

/// Events of a snapshot.
#[derive(Debug)]
pub(super) struct EventsTable {
    context: Arc<Context>,
    schema: SchemaRef,
}

/// What filters come to.
enum Pushed {
    /// Of events.
    Condition(Condition),
    /// Only these users' events.
    Users(RoaringBitmap),
}

impl EventsTable {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            schema: context.catalog.events_schema(&context.zone_name),
        }
    }

    fn push(&self, filter: &Expr) -> Option<Pushed> {
        if let Some(ids) = user_ids(filter) {
            return self.context.users(ids).ok().map(Pushed::Users);
        }
        self.condition(filter).map(Pushed::Condition)
    }

    /// The condition that means the same as a filter.
    pub(super) fn condition(&self, filter: &Expr) -> Option<Condition> {
        let translator = Translator {
            constants: self.context.constants(),
            column: &|name| self.column(name),
        };
        let condition = translator.condition(filter).ok().flatten();
        condition.filter(|condition| condition.validate().is_ok())
    }

    /// What a column is to a condition, where both mean the same.
    fn column(&self, name: &str) -> Option<BoundColumn> {
        let bound = |operand, is_time, is_bool| BoundColumn {
            operand,
            is_time,
            is_bool,
        };
        match name {
            "event" => Some(bound(Operand::EventName, false, false)),
            "time" => Some(bound(Operand::Time, true, false)),
            "user_id" => None,
            _ => {
                let (name, seen) = event_property(&self.context.catalog, name)?;
                let kind = seen.column_type();
                seen.is_plain().then(|| {
                    bound(
                        Operand::Property(name.to_owned()),
                        kind == ColumnType::Timestamp,
                        kind == ColumnType::Bool,
                    )
                })
            }
        }
    }
}

#[async_trait]
impl TableProvider for EventsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match self.push(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut condition = any();
        let mut users: Option<RoaringBitmap> = None;
        for filter in filters {
            match self.push(filter) {
                Some(Pushed::Condition(part)) => condition = condition.and(part),
                Some(Pushed::Users(ids)) => {
                    users = Some(match users {
                        Some(users) => users & ids,
                        None => ids,
                    });
                }
                None => {}
            }
        }
        let whole = TimeSpec::default().resolve(self.context.as_of);
        let (condition, range) = split_range(condition, whole);
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let schema = Arc::new(self.schema.project(projection)?);
        let columns: Vec<Source> = schema
            .fields()
            .iter()
            .map(|field| self.source(field.name()))
            .collect();
        let mut scan = EventScan::new(condition, range);
        scan.users = users;
        scan.with_users = columns.iter().any(|source| matches!(source, Source::Id));
        let producer = EventsProducer {
            context: Arc::clone(&self.context),
            scan,
            columns,
            schema,
            late: Vec::new(),
        };
        Ok(Arc::new(ProduceExec::new(Arc::new(producer), limit)))
    }
}

impl EventsTable {
    fn source(&self, name: &str) -> Source {
        match name {
            "user_id" => Source::Id,
            "time" => Source::Time,
            "event" => Source::Event,
            _ => match event_property(&self.context.catalog, name) {
                Some((name, seen)) => Source::Property(name.to_owned(), seen.column_type()),
                None => Source::Property(name.to_owned(), ColumnType::Text),
            },
        }
    }
}

/// The range of times that a condition leaves of `range`, and the rest of the condition.
pub(super) fn split_range(condition: Condition, mut range: TimeRange) -> (Condition, TimeRange) {
    let parts = match condition {
        Condition::And(parts) => parts,
        single => vec![single],
    };
    let mut rest = any();
    let mut waiting = parts;
    while let Some(part) = waiting.pop() {
        match part {
            Condition::And(parts) => waiting.extend(parts),
            Condition::Compare {
                operand: Operand::Time,
                comparison,
                literal: Literal::Timestamp(micros),
            } if comparison != Comparison::NotEqual => {
                let (first, last) = match comparison {
                    Comparison::Greater => (micros.checked_add(1), None),
                    Comparison::GreaterOrEqual => (Some(micros), None),
                    Comparison::Less => (None, micros.checked_sub(1)),
                    Comparison::LessOrEqual => (None, Some(micros)),
                    _ => (Some(micros), Some(micros)),
                };
                range.first = range.first.max(first.unwrap_or(i64::MIN));
                range.last = range.last.min(last.unwrap_or(i64::MAX));
            }
            Condition::Constant(crate::behaviour::Truth::True) => {}
            part => rest = part.and(rest),
        }
    }
    (rest, range)
}

/// Where a column comes from.
#[derive(Clone, Debug)]
enum Source {
    Id,
    Time,
    Event,
    Property(String, ColumnType),
}

/// Reads events.
#[derive(Debug)]
struct EventsProducer {
    context: Arc<Context>,
    scan: EventScan,
    columns: Vec<Source>,
    schema: SchemaRef,
    /// What leaves out rows while the statement runs.
    late: Vec<LateFilter>,
}

impl EventsProducer {
    /// The same from its beginning, with these filters and no others.
    fn with_late(&self, late: Vec<LateFilter>) -> Self {
        Self {
            context: Arc::clone(&self.context),
            scan: self.scan.restarted(),
            columns: self.columns.clone(),
            schema: Arc::clone(&self.schema),
            late,
        }
    }

    fn block(&self, block: &EventBlock<'_>, sink: &mut Sink) -> Result<(), ProduceError> {
        if self.columns.is_empty() {
            let rows = block.selected.as_ref().map_or(block.rows.len(), Vec::len);
            let rows = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch =
                RecordBatch::try_new_with_options(Arc::clone(&self.schema), Vec::new(), &rows)?;
            return sink.put(batch);
        }
        let count = block.rows.len();
        let mut start = 0;
        let mut selected = block.selected.as_deref();
        while start < count {
            let places = start..(start + self.context.batch_rows()).min(count);
            start = places.end;
            let taken = selected.as_mut().map(|rest| {
                let end = rest.partition_point(|&place| (place as usize) < places.end);
                let (now, later) = rest.split_at(end);
                *rest = later;
                now
            });
            if taken.is_some_and(<[u32]>::is_empty) {
                continue;
            }
            if let Some(batch) = self.batch(block, places, taken)? {
                sink.put(batch)?;
            }
        }
        Ok(())
    }

    /// The rows at `places`, or those of them that are taken; `None` where late filters leave none.
    fn batch(
        &self,
        block: &EventBlock<'_>,
        places: Range<usize>,
        taken: Option<&[u32]>,
    ) -> Result<Option<RecordBatch>, ProduceError> {
        let taken = taken.filter(|taken| taken.len() < places.len());
        let chosen = taken.map(|taken| {
            let first = places.start as u32;
            UInt32Array::from_iter_values(taken.iter().map(|place| place - first))
        });
        let mut rows = ChosenRows { places, chosen };
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; self.columns.len()];
        for late in &self.late {
            if !self.narrow(late, block, &mut rows, &mut arrays)? {
                return Ok(None);
            }
        }
        let arrays = arrays.into_iter().zip(&self.columns);
        let arrays = arrays.map(|(known, source)| match known {
            Some(known) => Ok(known),
            None => self.array(source, block, &rows),
        });
        let arrays = arrays.collect::<Result<Vec<_>, ProduceError>>()?;
        Ok(Some(RecordBatch::try_new(
            Arc::clone(&self.schema),
            arrays,
        )?))
    }

    /// Leaves out the rows that do not pass, making the columns that this needs; false where none
    /// is left.
    fn narrow(
        &self,
        late: &LateFilter,
        block: &EventBlock<'_>,
        rows: &mut ChosenRows,
        arrays: &mut [Option<ArrayRef>],
    ) -> Result<bool, ProduceError> {
        let Some(filter) = late.now() else {
            return Ok(true);
        };
        let mut asked = Vec::with_capacity(filter.columns.len());
        for &column in &filter.columns {
            let known = match &arrays[column] {
                Some(known) => Arc::clone(known),
                None => self.array(&self.columns[column], block, rows)?,
            };
            arrays[column] = Some(Arc::clone(&known));
            asked.push(known);
        }
        let passes = filter.passes(asked);
        let Some(passes) = passes.filter(|passes| passes.true_count() < passes.len()) else {
            return Ok(true);
        };
        if passes.true_count() == 0 {
            return Ok(false);
        }
        for array in arrays.iter_mut().flatten() {
            *array = filter_rows(array, &passes)?;
        }
        let before = rows.chosen.take();
        let before = before.unwrap_or_else(|| (0..rows.places.len() as u32).collect());
        rows.chosen = Some(filter_rows(&before, &passes)?.as_primitive().clone());
        Ok(true)
    }

    fn array(
        &self,
        source: &Source,
        block: &EventBlock<'_>,
        rows: &ChosenRows,
    ) -> Result<ArrayRef, ProduceError> {
        let places = &rows.places;
        let whole: ArrayRef = match source {
            Source::Id => return self.ids(block, rows),
            Source::Time => {
                let times = places.clone().map(|place| block.times.get(place));
                let times = TimestampMicrosecondArray::from_iter_values(times);
                Arc::new(times.with_timezone(Arc::clone(&self.context.zone_name)))
            }
            Source::Event => Arc::new(match &block.names {
                Some(names) => {
                    let names = places.clone().map(|place| names.get(place));
                    StringViewArray::from_iter_values(names)
                }
                None => same_text(block.run.name(), places.len()),
            }),
            Source::Property(name, column_type) => {
                let column = block.run.properties()?.get(name)?;
                let first = block.rows.start;
                let rows = first + places.start as u32..first + places.end as u32;
                property_array(column.as_ref(), *column_type, &self.context.zone_name, rows)?
            }
        };
        Ok(match &rows.chosen {
            Some(chosen) => take(&whole, chosen, None)?,
            None => whole,
        })
    }

    /// Each user's id once, its rows pointing to it.
    fn ids(&self, block: &EventBlock<'_>, rows: &ChosenRows) -> Result<ArrayRef, ProduceError> {
        let starts = &block.starts.starts;
        let first = block.rows.start + rows.places.start as u32;
        let mut user = starts
            .partition_point(|&start| start <= first)
            .saturating_sub(1);
        let base = u32::from(block.key) << 16;
        let (mut ordinals, mut user_of) = (Vec::new(), Vec::with_capacity(rows.len()));
        let mut lows = block.starts.users.iter().skip(user);
        let (mut low, mut known_until) = (lows.next().unwrap_or_default(), 0);
        let mut visit = |place: u32| {
            let row = first + place;
            if ordinals.is_empty() || row >= known_until {
                while starts[user + 1] <= row {
                    user += 1;
                    low = lows.next().unwrap_or_default();
                }
                known_until = starts[user + 1];
                ordinals.push(base | u32::from(low));
            }
            user_of.push(ordinals.len() as u32 - 1);
        };
        match &rows.chosen {
            Some(chosen) => chosen.values().iter().copied().for_each(&mut visit),
            None => (0..rows.places.len() as u32).for_each(&mut visit),
        }
        let ids = id_array(self.context.snapshot.dictionary(), &ordinals)?;
        Ok(take(&ids, &UInt32Array::from(user_of), None)?)
    }
}

/// The rows of a block that become a batch.
struct ChosenRows {
    /// Neighbours.
    places: Range<usize>,
    /// Which of them, counted from the first; `None` for all.
    chosen: Option<UInt32Array>,
}

impl ChosenRows {
    fn len(&self) -> usize {
        self.chosen
            .as_ref()
            .map_or(self.places.len(), UInt32Array::len)
    }
}

/// A text again and again, stored once.
fn same_text(text: &str, count: usize) -> StringViewArray {
    let one = StringViewArray::from_iter_values([text]);
    let views = vec![one.views().first().copied().unwrap_or_default(); count];
    StringViewArray::new(views.into(), one.data_buffers().to_vec(), None)
}

impl Producer for EventsProducer {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn partitions(&self) -> usize {
        self.context.threads()
    }

    fn describe(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&String> = self
            .schema
            .fields()
            .iter()
            .map(|field| field.name())
            .collect();
        write!(
            out,
            "PugmarkExec: events, columns={columns:?}, condition={}",
            self.scan.condition
        )?;
        if !self.late.is_empty() {
            write!(out, ", late filters={}", self.late.len())?;
        }
        describe_effort(
            &self
                .context
                .foreseen(|executor| executor.foresee_events(&self.scan)),
            out,
        )
    }

    fn restart(&self) -> Arc<dyn Producer> {
        Arc::new(self.with_late(Vec::new()))
    }

    fn rows_at_most(&self) -> Option<usize> {
        let rows = |executor: &Executor| Ok(executor.rows_of_events(&self.scan));
        self.context.foreseen(rows)
    }

    fn take_late(&self, filters: &[Arc<dyn PhysicalExpr>]) -> Option<Arc<dyn Producer>> {
        let columns = self.columns.iter().enumerate();
        let dear = columns.filter(|(_, source)| matches!(source, Source::Id));
        let dear: Vec<usize> = dear.map(|(place, _)| place).collect();
        let late = |filter| LateFilter::new(filter, Arc::clone(&self.schema), dear.clone());
        let late = filters.iter().map(Arc::clone).map(late);
        Some(Arc::new(self.with_late(late.collect())))
    }

    fn produce(&self, _partition: usize, sink: &mut Sink) -> Result<(), ProduceError> {
        let executor = sink.executor(self.context.as_of);
        let skipped = executor.scan_events(&self.scan, |block| self.block(&block, sink))?;
        self.context.remark_skipped(&skipped);
        Ok(())
    }
}
