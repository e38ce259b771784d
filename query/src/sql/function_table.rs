//! A call in FROM as a table.

use std::fmt;
use std::sync::Arc;

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
}

impl Producer for FunctionProducer {
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
        write!(out, "PugmarkExec: {}", self.question.ask)
    }

    fn restart(&self) -> Arc<dyn Producer> {
        Arc::new(self.clone())
    }

    fn produce(&self, _partition: usize, sink: &mut Sink) -> Result<(), ProduceError> {
        let executor = sink.executor(self.question.as_of);
        let mut skipped = Skipped::default();
        for piece in self.question.pieces(executor) {
            let answer = self.question.answer(&piece, &self.context.zone_name);
            let answer = answer.map_err(|error| match error {
                AnswerError::Query(error) => ProduceError::from(error),
                AnswerError::Arrow(error) => ProduceError::from(error),
            })?;
            skipped.merge(&answer.notices.skipped);
            self.put(answer.rows, sink)?;
        }
        self.context.remark_skipped(&skipped);
        Ok(())
    }
}

impl FunctionProducer {
    fn put(&self, rows: RecordBatch, sink: &mut Sink) -> Result<(), ProduceError> {
        let rows = match &self.projection {
            Some(projection) => rows.project(projection)?,
            None => rows,
        };
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
