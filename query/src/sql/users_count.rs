//! `count(*)` of users, answered by counting in bitmaps.
//!
//! A rule of the optimiser finds aggregates over `users` that count and do nothing else, and puts a
//! table of one row in their place.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, TableType};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;

use super::context::Context;
use super::groups_table::in_place_of;
use super::produce::{ProduceError, ProduceExec, Producer, Sink, describe_effort};
use super::users_table::UsersTable;
use crate::behaviour::{Segment, everyone};
use crate::exec::table_scan::UserScan;

/// Finds counts of users.
#[derive(Debug)]
pub(super) struct UsersCountRule {
    context: Arc<Context>,
}

impl UsersCountRule {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
        }
    }

    fn table(&self, aggregate: &Aggregate) -> Option<UsersCount> {
        let counts = aggregate.aggr_expr.iter().all(is_count);
        if !aggregate.group_expr.is_empty() || aggregate.aggr_expr.is_empty() || !counts {
            return None;
        }
        let segment = counted(&aggregate.input)?;
        segment.validate().ok()?;
        let fields = (0..aggregate.aggr_expr.len())
            .map(|number| Field::new(format!("c{number}"), DataType::Int64, false));
        Some(UsersCount {
            context: Arc::clone(&self.context),
            segment,
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        })
    }
}

/// True for what comes to the number of rows: ids are different, and never NULL.
fn is_count(expr: &Expr) -> bool {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
        return false;
    };
    let plain =
        params.filter.is_none() && params.order_by.is_empty() && params.null_treatment.is_none();
    let [argument] = &params.args[..] else {
        return false;
    };
    let of_rows = match argument {
        Expr::Literal(value, _) => !value.is_null() && !params.distinct,
        Expr::Column(column) => column.name == "user_id",
        _ => false,
    };
    func.name() == "count" && plain && of_rows
}

/// The users that a plan has a row for, where bitmaps tell.
fn counted(plan: &LogicalPlan) -> Option<Segment> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => counted(&alias.input),
        LogicalPlan::TableScan(_) => with_users(plan, |_| Some(everyone())),
        LogicalPlan::Filter(filter) => {
            let inner = counted(&filter.input)?;
            with_users(&filter.input, |users| {
                let parts = split_conjunction(&filter.predicate);
                let parts = parts.into_iter().map(|part| users.segment(part));
                let parts = parts.collect::<Option<Vec<_>>>()?;
                Some(parts.into_iter().fold(inner, Segment::and))
            })
        }
        _ => None,
    }
}

/// What `ask` makes of the table under filters and aliases, where it is `users` as a whole.
fn with_users<T>(plan: &LogicalPlan, ask: impl FnOnce(&UsersTable) -> Option<T>) -> Option<T> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => with_users(&alias.input, ask),
        LogicalPlan::Filter(filter) => with_users(&filter.input, ask),
        LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
            let provider = source_as_provider(&scan.source).ok()?;
            let provider: &dyn Any = provider.as_ref();
            ask(provider.downcast_ref::<UsersTable>()?)
        }
        _ => None,
    }
}

impl OptimizerRule for UsersCountRule {
    fn name(&self) -> &'static str {
        "pugmark_users_count"
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
        match self.table(aggregate) {
            Some(table) => Ok(Transformed::yes(in_place_of(aggregate, Arc::new(table))?)),
            None => Ok(Transformed::no(plan)),
        }
    }
}

/// A row of counts, all the same.
#[derive(Clone, Debug)]
struct UsersCount {
    context: Arc<Context>,
    segment: Segment,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for UsersCount {
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
        let mut counts = self.clone();
        if let Some(projection) = projection {
            counts.schema = Arc::new(self.schema.project(projection)?);
        }
        Ok(Arc::new(ProduceExec::new(Arc::new(counts), limit)))
    }
}

impl Producer for UsersCount {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn partitions(&self) -> usize {
        // It runs on threads of its own.
        1
    }

    fn describe(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PugmarkExec: count of users, segment={}", self.segment)?;
        let scan = UserScan::new(self.segment.clone());
        let foreseen = self
            .context
            .foreseen(|executor| executor.foresee_users(&scan));
        describe_effort(&foreseen, out)
    }

    fn restart(&self) -> Arc<dyn Producer> {
        Arc::new(self.clone())
    }

    fn produce(&self, _partition: usize, sink: &mut Sink) -> Result<(), ProduceError> {
        let executor = sink.executor(self.context.as_of);
        let (users, skipped) = executor.counted(&self.segment)?;
        self.context.remark_skipped(&skipped);
        let users = i64::try_from(users).unwrap_or(i64::MAX);
        let column: ArrayRef = Arc::new(Int64Array::from_value(users, 1));
        let columns = vec![column; self.schema.fields().len()];
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        sink.put(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &one,
        )?)
    }
}
