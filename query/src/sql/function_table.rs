//! A call in FROM as a table.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::answers::{AnswerError, Question};
use super::context::Context;
use super::produce::{ProduceError, ProduceExec, Producer, Sink};
use crate::behaviour::Skipped;
use crate::exec::Executor;

/// The answer of a question.
#[derive(Debug)]
pub(super) struct FunctionTable {
    context: Arc<Context>,
    question: Question,
    schema: SchemaRef,
}

impl FunctionTable {
    pub(super) fn new(context: &Arc<Context>, question: Question) -> Self {
        Self {
            schema: question.ask.schema(&context.zone_name),
            context: Arc::clone(context),
            question,
        }
    }
}

#[async_trait]
impl TableProvider for FunctionTable {
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
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => Arc::clone(&self.schema),
        };
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let producer = FunctionProducer {
            context: Arc::clone(&self.context),
            question: self.question.clone().only(names),
            projection: projection.cloned(),
            schema,
            progress: Arc::default(),
        };
        Ok(Arc::new(ProduceExec::new(Arc::new(producer), limit)))
    }
}

/// Asks the question.
#[derive(Clone, Debug)]
struct FunctionProducer {
    context: Arc<Context>,
    question: Question,
    projection: Option<Vec<usize>>,
    schema: SchemaRef,
    progress: Arc<Progress>,
}

/// What the parts of a producer share.
#[derive(Debug, Default)]
struct Progress {
    /// The next piece that nobody has taken.
    next: AtomicUsize,
    /// What could not be compared, and how many parts have told theirs.
    skipped: Mutex<(Skipped, usize)>,
}

impl Producer for FunctionProducer {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn partitions(&self) -> usize {
        match self.question.is_long() {
            true => self.context.threads(),
            // It runs on threads of its own.
            false => 1,
        }
    }

    fn describe(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PugmarkExec: {}", self.question.ask)
    }

    fn restart(&self) -> Arc<dyn Producer> {
        Arc::new(Self {
            progress: Arc::default(),
            ..self.clone()
        })
    }

    fn produce(&self, _partition: usize, sink: &mut Sink) -> Result<(), ProduceError> {
        let executor = sink.executor(self.question.as_of);
        let mut pieces = self.question.pieces(executor);
        // Few pieces are each made by all threads.
        if pieces.len() >= self.partitions() && self.partitions() > 1 {
            pieces = pieces.into_iter().map(Executor::on_this_thread).collect();
        }
        let mut skipped = Skipped::default();
        while let Some(piece) = pieces.get(self.progress.next.fetch_add(1, Ordering::Relaxed)) {
            let wanted = self.projection.as_deref();
            let answer = self.question.answer(piece, &self.context.zone_name, wanted);
            let answer = answer.map_err(|error| match error {
                AnswerError::Query(error) => ProduceError::from(error),
                AnswerError::Arrow(error) => ProduceError::from(error),
            })?;
            skipped.merge(&answer.notices.skipped);
            self.put(answer.rows, sink)?;
        }
        self.remark(&skipped);
        Ok(())
    }
}

impl FunctionProducer {
    /// Remarks on what was passed over, once all parts have told.
    fn remark(&self, skipped: &Skipped) {
        let shared = self.progress.skipped.lock();
        let mut shared = shared.unwrap_or_else(PoisonError::into_inner);
        let (all, told) = &mut *shared;
        all.merge(skipped);
        *told += 1;
        if *told == self.partitions() {
            self.context.remark_skipped(all);
        }
    }

    fn put(&self, rows: RecordBatch, sink: &mut Sink) -> Result<(), ProduceError> {
        // Beside the parts of it that wait for the reader.
        let mut held = self.context.memory.reservation();
        held.grow(rows.get_array_memory_size())?;
        let mut start = 0;
        while start < rows.num_rows() {
            let length = self.context.batch_rows().min(rows.num_rows() - start);
            sink.put(rows.slice(start, length))?;
            start += length;
        }
        Ok(())
    }
}
