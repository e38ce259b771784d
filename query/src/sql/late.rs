//! Filters that come to be while a statement runs: the least of the ten largest so far.
//!
//! They may only leave out rows that nobody wants, so a weaker filter is as right as the whole one.
//! What it asks of columns that are dear to make, the ids, is left away: those are then made for
//! the rows alone that pass.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr_common::physical_expr::{
    snapshot_generation, snapshot_physical_expr,
};

/// A filter over the columns of a leaf.
#[derive(Debug)]
pub(super) struct LateFilter {
    filter: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    /// Places of the columns that it may not ask for.
    dear: Vec<usize>,
    known: Mutex<Option<Arc<Known>>>,
}

/// The filter as it was when it was last looked at.
#[derive(Debug)]
pub(super) struct Known {
    generation: u64,
    /// Over `columns` only; `None` where it lets everything pass.
    filter: Option<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    /// Places of the columns that it asks for.
    pub(super) columns: Vec<usize>,
}

impl LateFilter {
    pub(super) fn new(filter: Arc<dyn PhysicalExpr>, schema: SchemaRef, dear: Vec<usize>) -> Self {
        Self {
            filter,
            schema,
            dear,
            known: Mutex::new(None),
        }
    }

    /// The filter as it is now; `None` where it lets everything pass, or cannot be told.
    pub(super) fn now(&self) -> Option<Arc<Known>> {
        let generation = snapshot_generation(&self.filter);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = match known.as_ref() {
            Some(known) if known.generation == generation => Arc::clone(known),
            _ => Arc::new(self.read(generation).ok()?),
        };
        *known = Some(Arc::clone(&fresh));
        fresh.filter.is_some().then_some(fresh)
    }

    fn read(&self, generation: u64) -> Result<Known> {
        let filter = self.weaker(snapshot_physical_expr(Arc::clone(&self.filter))?);
        let columns = collect_columns(&filter);
        let mut columns: Vec<usize> = columns.iter().map(|column| column.index()).collect();
        columns.sort_unstable();
        columns.dedup();
        let schema = Arc::new(self.schema.project(&columns)?);
        let filter = match columns.is_empty() {
            true => None,
            false => Some(reassign_expr_columns(filter, &schema)?),
        };
        Ok(Known {
            generation,
            filter,
            schema,
            columns,
        })
    }

    /// True wherever `filter` is, without the columns that are dear. AND and OR never turn true to
    /// false where a part of theirs becomes true.
    fn weaker(&self, filter: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        let whole: &dyn std::any::Any = filter.as_ref();
        if let Some(binary) = whole.downcast_ref::<BinaryExpr>()
            && matches!(binary.op(), Operator::And | Operator::Or)
        {
            let left = self.weaker(Arc::clone(binary.left()));
            let right = self.weaker(Arc::clone(binary.right()));
            return Arc::new(BinaryExpr::new(left, *binary.op(), right));
        }
        let asks = collect_columns(&filter);
        match asks
            .iter()
            .any(|column| self.dear.contains(&column.index()))
        {
            true => Arc::new(Literal::new(ScalarValue::Boolean(Some(true)))),
            false => filter,
        }
    }
}

impl Known {
    /// Which rows pass; `arrays` are the columns that it asks for. `None` where all do, or where the
    /// filter fails for one: another filter may leave that row out before this is asked of it.
    pub(super) fn passes(&self, arrays: Vec<ArrayRef>) -> Option<BooleanArray> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).ok()?;
        let passes = self.filter.as_ref()?.evaluate(&batch).ok()?;
        let passes = passes.into_array(batch.num_rows()).ok()?;
        Some(passes.as_boolean_opt()?.clone())
    }
}
