//! Leaves of a plan: threads of Pugmark's own make batches, DataFusion takes them.

use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::{
    RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter,
};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use super::error::SqlError;
use crate::exec::{CancelToken, QueryError};

/// Batches that wait for each reader: enough that neither side stands still.
const WAITING_BATCHES: usize = 4;

/// Makes the batches of a leaf.
pub(super) trait Producer: fmt::Debug + Send + Sync + 'static {
    /// The columns.
    fn schema(&self) -> SchemaRef;

    /// How many parts may be made at once.
    fn partitions(&self) -> usize;

    /// What EXPLAIN tells.
    fn describe(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// The same producer, from its beginning: parts are made once.
    fn restart(&self) -> Arc<dyn Producer>;

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

/// Where a producer puts its batches.
pub(super) struct Sink {
    batches: Sender<Result<RecordBatch>>,
    metrics: BaselineMetrics,
    /// Rows still wanted.
    wanted: usize,
    /// Set once nobody listens.
    pub(super) cancel: CancelToken,
}

impl Sink {
    /// Hands over a batch, waiting where the reader is behind.
    pub(super) fn put(&mut self, batch: RecordBatch) -> Result<(), ProduceError> {
        let batch = match batch.num_rows() > self.wanted {
            true => batch.slice(0, self.wanted),
            false => batch,
        };
        self.wanted -= batch.num_rows();
        self.metrics.record_output(batch.num_rows());
        let sent = self.batches.blocking_send(Ok(batch));
        match sent.is_err() || self.wanted == 0 {
            true => Err(ProduceError::Abandoned),
            false => Ok(()),
        }
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
}

impl ProduceExec {
    pub(super) fn new(producer: Arc<dyn Producer>, limit: Option<usize>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(producer.schema()),
            Partitioning::UnknownPartitioning(producer.partitions().max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            producer,
            properties: Arc::new(properties),
            limit,
            metrics: ExecutionPlanMetricsSet::new(),
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

/// Cancels what runs when nobody reads the stream any more.
struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
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

    fn execute(
        &self,
        partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.producer.schema();
        let producer = Arc::clone(&self.producer);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let wanted = self.limit.unwrap_or(usize::MAX);
        // Begun when it is first asked for: a side of a join that waits for the other takes no thread.
        let batches = futures::stream::once(async move {
            let schema = producer.schema();
            let mut builder = RecordBatchReceiverStreamBuilder::new(schema, WAITING_BATCHES);
            let cancel = CancelToken::new();
            let mut sink = Sink {
                batches: builder.tx(),
                metrics,
                wanted,
                cancel: cancel.clone(),
            };
            builder.spawn_blocking(move || {
                let timer = sink.metrics.elapsed_compute().clone();
                let _measured = timer.timer();
                match producer.produce(partition, &mut sink) {
                    Ok(()) | Err(ProduceError::Abandoned) => Ok(()),
                    Err(ProduceError::Failed(error)) => Err(error),
                }
            });
            let guard = CancelOnDrop(cancel);
            builder.build().map(move |batch| {
                let _held = &guard;
                batch
            })
        });
        let batches = batches.flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
