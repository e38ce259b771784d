//! What ends a statement everywhere: its deadline, and the loss of whoever reads its answer.
//!
//! DataFusion's operators stop where their streams are dropped, which nobody can do to one that
//! computes without a pause. So every operator of a plan is wrapped in one that looks at the stop
//! before each batch, and the filters of joins, which are asked about very many pairs between two
//! batches, look at it themselves. The wraps are invisible: they show, count and cast as what they
//! wrap.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{ColumnarValue, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::{Stream, StreamExt};

use super::error::SqlError;
use crate::exec::{CancelToken, QueryError};

/// When a statement, or a part of it that runs alone, must stop.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    pub(super) cancel: CancelToken,
    /// With the time that was allowed.
    pub(super) deadline: Option<(Instant, Duration)>,
}

/// Cancels what runs when it is dropped.
#[derive(Debug)]
pub(super) struct CancelOnDrop(Option<CancelToken>);

impl CancelOnDrop {
    pub(super) fn new(cancel: CancelToken) -> Self {
        Self(Some(cancel))
    }

    /// Cancels nothing any more.
    pub(super) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.cancel();
        }
    }
}

impl Stop {
    /// A stop that comes with this one, and can come alone.
    pub(super) fn child(&self) -> Self {
        Self {
            cancel: self.cancel.child(),
            deadline: self.deadline,
        }
    }

    /// Fails once the time is over or nobody waits any more.
    pub(super) fn check(&self) -> Result<(), QueryError> {
        match self.deadline {
            _ if self.cancel.is_cancelled() => Err(QueryError::Cancelled),
            Some((ends, limit)) if Instant::now() >= ends => {
                Err(QueryError::DeadlineExceeded(limit))
            }
            _ => Ok(()),
        }
    }

    fn check_inside(&self) -> Result<()> {
        self.check()
            .map_err(|error| DataFusionError::External(Box::new(SqlError::Query(error))))
    }
}

/// The same plan, every part of which stops at `stop`.
pub(super) fn watched(
    plan: Arc<dyn ExecutionPlan>,
    stop: &Arc<Stop>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|plan| {
        let plan = with_watched_filter(plan, stop)?;
        Ok(Transformed::yes(Arc::new(Watched {
            plan,
            stop: Arc::clone(stop),
        }) as Arc<dyn ExecutionPlan>))
    })
    .data()
}

fn with_watched_filter(
    plan: Arc<dyn ExecutionPlan>,
    stop: &Arc<Stop>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let watched = |filter: &JoinFilter| {
        let expression = Arc::new(WatchedExpr {
            expression: Arc::clone(filter.expression()),
            stop: Arc::clone(stop),
        });
        let columns = filter.column_indices().to_vec();
        Some(JoinFilter::new(
            expression,
            columns,
            Arc::clone(filter.schema()),
        ))
    };
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>()
        && let Some(filter) = join.filter()
    {
        let join = NestedLoopJoinExecBuilder::from(join).with_filter(watched(filter));
        return Ok(Arc::new(join.build()?));
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && let Some(filter) = join.filter()
    {
        return join.builder().with_filter(watched(filter)).build_exec();
    }
    Ok(plan)
}

/// An operator that looks at the stop before each batch.
#[derive(Debug)]
struct Watched {
    plan: Arc<dyn ExecutionPlan>,
    stop: Arc<Stop>,
}

impl Watched {
    fn around(&self, plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let stop = Arc::clone(&self.stop);
        Arc::new(Self { plan, stop })
    }
}

impl DisplayAs for Watched {
    fn fmt_as(&self, kind: DisplayFormatType, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan.fmt_as(kind, out)
    }
}

impl ExecutionPlan for Watched {
    fn name(&self) -> &str {
        self.plan.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.plan.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.plan.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.plan.maintains_input_order()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.plan.children()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.plan.apply_expressions(visit)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = Arc::clone(&self.plan).replace_children(children, options)?;
        Ok(self.around(plan))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = Arc::clone(&self.plan).reset_state()?;
        Ok(self.around(plan))
    }

    fn with_new_state(
        &self,
        state: Arc<dyn std::any::Any + Send + Sync>,
    ) -> Option<Arc<dyn ExecutionPlan>> {
        let plan = self.plan.with_new_state(state)?;
        Some(self.around(plan))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.stop.check_inside()?;
        Ok(Box::pin(WatchedStream {
            batches: self.plan.execute(partition, context)?,
            stop: Arc::clone(&self.stop),
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.plan.metrics()
    }

    fn fetch(&self) -> Option<usize> {
        self.plan.fetch()
    }
}

/// Batches, as long as the statement may go on. Leaves the thread to others now and then.
struct WatchedStream {
    batches: SendableRecordBatchStream,
    stop: Arc<Stop>,
}

impl Stream for WatchedStream {
    type Item = Result<RecordBatch>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        waker: &mut std::task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        if let Err(error) = self.stop.check_inside() {
            return Poll::Ready(Some(Err(error)));
        }
        let turn = ready!(tokio::task::coop::poll_proceed(waker));
        let batch = self.batches.poll_next_unpin(waker);
        if batch.is_ready() {
            turn.made_progress();
        }
        batch
    }
}

impl RecordBatchStream for WatchedStream {
    fn schema(&self) -> SchemaRef {
        self.batches.schema()
    }
}

/// A filter that looks at the stop before it is asked about pairs.
#[derive(Debug)]
struct WatchedExpr {
    expression: Arc<dyn PhysicalExpr>,
    stop: Arc<Stop>,
}

impl PartialEq for WatchedExpr {
    fn eq(&self, other: &Self) -> bool {
        self.expression.eq(&other.expression)
    }
}

impl Eq for WatchedExpr {}

impl Hash for WatchedExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expression.hash(state);
    }
}

impl fmt::Display for WatchedExpr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(out)
    }
}

impl PhysicalExpr for WatchedExpr {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.expression.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.expression.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.expression.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.stop.check_inside()?;
        self.expression.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expression]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let expression = children.into_iter().next();
        Ok(Arc::new(Self {
            expression: expression.unwrap_or_else(|| Arc::clone(&self.expression)),
            stop: Arc::clone(&self.stop),
        }))
    }

    fn fmt_sql(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt_sql(out)
    }
}

/// Looks at the stop before each round of the optimiser.
#[derive(Debug)]
pub(super) struct StopRule(pub(super) Arc<Stop>);

impl OptimizerRule for StopRule {
    fn name(&self) -> &'static str {
        "pugmark_stop"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        None
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        self.0.check_inside()?;
        Ok(Transformed::no(plan))
    }
}
