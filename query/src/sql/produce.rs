//! Leaves of a plan: threads of Pugmark's own make batches, DataFusion takes them.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_expr_common::physical_expr::{is_volatile, snapshot_generation};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, Metric, MetricValue, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::stream::{
    RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter,
};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, StatisticsArgs,
};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use super::context::Context;
use super::error::SqlError;
use super::watch::CancelOnDrop;
use crate::exec::{CancelToken, Effort, Executor, MemoryBudget, QueryError, Touched};

/// Batches that wait for each reader: enough that neither side stands still.
const WAITING_BATCHES: usize = 4;

/// Makes the batches of a leaf.
pub(super) trait Producer: fmt::Debug + Send + Sync + 'static {
    /// The columns.
    fn schema(&self) -> SchemaRef;

    /// The statement that it is a part of.
    fn context(&self) -> &Arc<Context>;

    /// How many parts may be made at once.
    fn partitions(&self) -> usize;

    /// What EXPLAIN tells.
    fn describe(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// The same producer, from its beginning and without late filters: parts are made once.
    fn restart(&self) -> Arc<dyn Producer>;

    /// No more rows than these, where that is known: what the optimiser orders joins by.
    fn rows_at_most(&self) -> Option<usize> {
        None
    }

    /// The same producer with filters that change while it runs, if it heeds any.
    fn take_late(&self, _filters: &[Arc<dyn PhysicalExpr>]) -> Option<Arc<dyn Producer>> {
        None
    }

    /// Makes the batches of one part, on a thread that may wait.
    fn produce(&self, partition: usize, sink: &mut Sink) -> Result<(), ProduceError>;
}

/// Why a producer ended early.
#[derive(Debug)]
pub(super) enum ProduceError {
    /// Nobody listens any more; not an error of the query.
    Abandoned,
    /// The query failed.
    Failed(DataFusionError),
}

impl From<QueryError> for ProduceError {
    fn from(error: QueryError) -> Self {
        Self::Failed(DataFusionError::External(Box::new(SqlError::Query(error))))
    }
}

impl From<pugmark_engine::Corruption> for ProduceError {
    fn from(error: pugmark_engine::Corruption) -> Self {
        QueryError::from(error).into()
    }
}

impl From<pugmark_engine::ReadError> for ProduceError {
    fn from(error: pugmark_engine::ReadError) -> Self {
        QueryError::from(error).into()
    }
}

impl From<arrow_schema::ArrowError> for ProduceError {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self::Failed(error.into())
    }
}

/// Batches on their way to the reader, counted in the statement's memory.
#[derive(Debug)]
struct Waiting {
    memory: MemoryBudget,
    bytes: Mutex<usize>,
    taken: Condvar,
}

impl Waiting {
    fn bytes(&self) -> MutexGuard<'_, usize> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a batch. The first may take any memory that is free; more wait for the reader as soon as
    /// half of the limit is used, so that there is room for what it does with them.
    fn put(&self, more: usize, cancel: &CancelToken) -> std::result::Result<(), ProduceError> {
        let mut bytes = self.bytes();
        loop {
            let much = self.memory.used().saturating_add(more) > self.memory.limit() / 2;
            if *bytes == 0 || !much {
                self.memory.take(more)?;
                *bytes += more;
                return Ok(());
            }
            if cancel.is_cancelled() {
                return Err(ProduceError::Abandoned);
            }
            // Others give memory back without telling.
            let some_time = Duration::from_millis(10);
            let woken = self.taken.wait_timeout(bytes, some_time);
            bytes = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn take(&self, less: usize) {
        *self.bytes() -= less;
        self.memory.give_back(less);
        self.taken.notify_one();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.memory.give_back(*self.bytes());
    }
}

/// What a batch holds of its own, without what it shares with others.
fn byte_len(batch: &RecordBatch) -> usize {
    let own = |column: &ArrayRef| {
        let sliced = column.to_data().get_slice_memory_size();
        sliced.unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(own).sum()
}

/// Where a producer puts its batches.
pub(super) struct Sink {
    batches: Sender<Result<RecordBatch>>,
    waiting: Arc<Waiting>,
    statement: Arc<Context>,
    effort: Effort,
    /// Since when it is worked, and not waited, for the next batch.
    since: Instant,
    metrics: BaselineMetrics,
    /// Rows still wanted.
    wanted: usize,
    /// Set once nobody listens.
    cancel: CancelToken,
}

impl Sink {
    /// What answers about the present `as_of`, for as long as somebody listens.
    pub(super) fn executor(&self, as_of: i64) -> Executor {
        self.statement
            .executor(as_of, &self.cancel, self.effort.clone())
    }

    /// Hands over a batch, waiting where the reader is behind.
    pub(super) fn put(&mut self, batch: RecordBatch) -> Result<(), ProduceError> {
        let batch = match batch.num_rows() > self.wanted {
            true => batch.slice(0, self.wanted),
            false => batch,
        };
        self.wanted -= batch.num_rows();
        self.count_time();
        self.waiting.put(byte_len(&batch), &self.cancel)?;
        (&batch).record_output(&self.metrics);
        let sent = self.batches.blocking_send(Ok(batch));
        self.since = Instant::now();
        match sent.is_err() || self.wanted == 0 {
            true => Err(ProduceError::Abandoned),
            false => Ok(()),
        }
    }

    fn count_time(&self) {
        self.metrics.elapsed_compute().add_elapsed(self.since);
    }
}

/// Tells what a leaf is going to touch, as far as that is known.
pub(super) fn describe_effort(
    touched: &Option<Touched>,
    out: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    match touched {
        Some(touched) => write!(
            out,
            ", segments={} of {}, bitmaps={}",
            touched.segments,
            touched.segments + touched.pruned,
            touched.bitmaps
        ),
        None => Ok(()),
    }
}

/// A leaf of a plan.
#[derive(Debug)]
pub(super) struct ProduceExec {
    producer: Arc<dyn Producer>,
    properties: Arc<PlanProperties>,
    /// Each part ends after so many rows.
    limit: Option<usize>,
    metrics: ExecutionPlanMetricsSet,
    /// Of all parts: they read the same segments.
    effort: Effort,
    /// How many rows there are at most, once somebody asked.
    rows: OnceLock<Option<usize>>,
}

impl ProduceExec {
    pub(super) fn new(producer: Arc<dyn Producer>, limit: Option<usize>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(producer.schema()),
            Partitioning::UnknownPartitioning(producer.partitions().max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        // What is handed over through a channel is.
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            producer,
            properties: Arc::new(properties),
            limit,
            metrics: ExecutionPlanMetricsSet::new(),
            effort: Effort::new(),
            rows: OnceLock::new(),
        }
    }
}

impl DisplayAs for ProduceExec {
    fn fmt_as(&self, _kind: DisplayFormatType, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.producer.describe(out)?;
        match self.limit {
            Some(limit) => write!(out, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for ProduceExec {
    fn name(&self) -> &'static str {
        "PugmarkExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.producer.restart(), self.limit)))
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.producer.schema());
        let parts = match args.partition() {
            Some(_) => self.producer.partitions().max(1),
            None => 1,
        };
        let limit = self.limit.unwrap_or(usize::MAX);
        let rows = self.rows.get_or_init(|| self.producer.rows_at_most());
        if let Some(rows) = rows {
            statistics.num_rows = Precision::Inexact((rows / parts).min(limit));
        }
        Ok(Arc::new(statistics))
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        pushed: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let late = pushed.parent_filters.iter().map(|parent| &parent.filter);
        // What depends on chance would be drawn once more here.
        let late = late.filter(|filter| snapshot_generation(filter) != 0 && !is_volatile(filter));
        let late: Vec<_> = late.cloned().collect();
        let found = FilterPushdownPropagation::if_all(pushed);
        if phase != FilterPushdownPhase::Post || late.is_empty() {
            return Ok(found);
        }
        Ok(match self.producer.take_late(&late) {
            Some(producer) => found.with_updated_node(Arc::new(Self::new(producer, self.limit))),
            None => found,
        })
    }

    fn execute(
        &self,
        partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.producer.schema();
        let producer = Arc::clone(&self.producer);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let wanted = self.limit.unwrap_or(usize::MAX);
        let statement = Arc::clone(producer.context());
        let effort = self.effort.clone();
        let cancel = statement.stop.cancel.child();
        let waiting = Arc::new(Waiting {
            memory: statement.memory.clone(),
            bytes: Mutex::default(),
            taken: Condvar::new(),
        });
        // Begun when it is first asked for: a side of a join that waits for the other takes no thread.
        let batches = futures::stream::once(async move {
            let schema = producer.schema();
            let mut builder = RecordBatchReceiverStreamBuilder::new(schema, WAITING_BATCHES);
            let mut sink = Sink {
                batches: builder.tx(),
                waiting: Arc::clone(&waiting),
                statement,
                effort,
                since: Instant::now(),
                metrics,
                wanted,
                cancel: cancel.clone(),
            };
            builder.spawn_blocking(move || {
                sink.since = Instant::now();
                let produced = producer.produce(partition, &mut sink);
                sink.count_time();
                match produced {
                    Ok(()) | Err(ProduceError::Abandoned) => Ok(()),
                    Err(ProduceError::Failed(error)) => Err(error),
                }
            });
            let guard = CancelOnDrop::new(cancel);
            builder.build().map(move |batch| {
                let _held = &guard;
                if let Ok(batch) = &batch {
                    waiting.take(byte_len(batch));
                }
                batch
            })
        });
        let batches = batches.flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = self.metrics.clone_inner();
        let touched = self.effort.touched();
        for (name, value) in [
            ("segments_read", touched.segments),
            ("segments_pruned", touched.pruned),
            ("bitmaps", touched.bitmaps),
            ("morsels", touched.morsels),
            ("rows_read", touched.rows),
            ("bytes_read", touched.bytes),
        ] {
            let count = Count::new();
            count.add(usize::try_from(value).unwrap_or(usize::MAX));
            let name = name.into();
            metrics.push(Arc::new(Metric::new(
                MetricValue::Count { name, count },
                None,
            )));
        }
        Some(metrics)
    }
}
