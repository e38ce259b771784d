//! The table `users`, with a column of booleans for each predicate asked of it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType, expr::InList,
};
use datafusion::physical_plan::ExecutionPlan;

use super::arrays::ValueColumn;
use super::bind::property_of;
use super::catalog::{ColumnType, USER_COLUMNS};
use super::context::Context;
use super::ids::id_array;
use super::produce::{ProduceError, ProduceExec, Producer, Sink, describe_effort};
use super::translate::{BoundColumn, Translator};
use crate::behaviour::{Operand, Segment, everyone, not, traits, users};
use crate::exec::table_scan::{UserBlock, UserScan};

/// Users of a snapshot.
#[derive(Debug)]
pub(super) struct UsersTable {
    context: Arc<Context>,
    /// Columns of predicates, which come behind all others.
    dids: Vec<(String, Segment)>,
    schema: SchemaRef,
}

impl UsersTable {
    pub(super) fn new(context: &Arc<Context>, dids: Vec<(String, Segment)>) -> Self {
        let mut fields = context.catalog.users_schema(&context.zone_name);
        let flags = dids
            .iter()
            .map(|(name, _)| Field::new(name, DataType::Boolean, false));
        fields.extend(flags);
        Self {
            context: Arc::clone(context),
            dids,
            schema: Arc::new(Schema::new(fields)),
        }
    }

    /// The users for whom a filter holds; `None` where it cannot be told in bitmaps.
    pub(super) fn segment(&self, expr: &Expr) -> Option<Segment> {
        match expr {
            Expr::Alias(alias) => self.segment(&alias.expr),
            Expr::Column(column) => {
                let did = self.dids.iter().find(|(name, _)| *name == column.name);
                did.map(|(_, segment)| segment.clone())
                    .or_else(|| self.traits(expr))
            }
            Expr::Literal(ScalarValue::Boolean(Some(true)), _) => Some(everyone()),
            Expr::Literal(ScalarValue::Boolean(Some(false)), _) => Some(not(everyone())),
            Expr::Not(inner) => Some(not(self.segment(inner)?)),
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::And,
                right,
            }) => Some(self.segment(left)?.and(self.segment(right)?)),
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Or,
                right,
            }) => Some(self.segment(left)?.or(self.segment(right)?)),
            _ => match user_ids(expr) {
                Some(ids) => self.known(&ids),
                None => self.traits(expr),
            },
        }
    }

    fn traits(&self, expr: &Expr) -> Option<Segment> {
        let translator = Translator {
            constants: self.context.constants(),
            column: &|name| {
                let known = &self.context.catalog.traits;
                let (name, seen) = property_of(known, name, &USER_COLUMNS, "traits")?;
                seen.is_plain().then(|| BoundColumn {
                    operand: Operand::Trait(name.to_owned()),
                    is_time: seen.column_type() == ColumnType::Timestamp,
                    is_bool: seen.column_type() == ColumnType::Bool,
                })
            },
        };
        translator.condition(expr).ok().flatten().map(traits)
    }

    fn known(&self, ids: &[String]) -> Option<Segment> {
        // Among those that the question's present knows.
        let known = self.context.users(ids).ok()?;
        Some(everyone().and(users(known)))
    }
}

/// The ids that a filter asks for, if that is all it does.
pub(super) fn user_ids(expr: &Expr) -> Option<Vec<String>> {
    let is_id = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == "user_id");
    let text = |expr: &Expr| match expr {
        Expr::Literal(value, _) if value.data_type().is_string() && !value.is_null() => {
            Some(value.to_string())
        }
        _ => None,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) if is_id(left) => Some(vec![text(right)?]),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) if is_id(right) => Some(vec![text(left)?]),
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) if is_id(expr) => list.iter().map(text).collect(),
        _ => None,
    }
}

#[async_trait]
impl TableProvider for UsersTable {
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
        let support = |filter: &&Expr| match self.segment(filter) {
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
        let parts = filters.iter().filter_map(|filter| self.segment(filter));
        let segment = parts.reduce(Segment::and).unwrap_or_else(everyone);
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let schema = Arc::new(self.schema.project(projection)?);
        let mut scan = UserScan::new(segment);
        let mut columns = Vec::with_capacity(projection.len());
        for field in schema.fields() {
            columns.push(self.column(field.name(), &mut scan));
        }
        let producer = UsersProducer {
            context: Arc::clone(&self.context),
            scan,
            columns,
            schema,
        };
        Ok(Arc::new(ProduceExec::new(Arc::new(producer), limit)))
    }
}

impl UsersTable {
    /// Where a column comes from; sees to it that the scan tells it.
    fn column(&self, name: &str, scan: &mut UserScan) -> Source {
        match name {
            "user_id" => return Source::Id,
            "first_seen" | "last_seen" => {
                scan.seen = true;
                return if name == "first_seen" {
                    Source::First
                } else {
                    Source::Last
                };
            }
            _ => {}
        }
        let did = self.dids.iter().find(|(did, _)| did == name);
        if let Some((_, segment)) = did {
            scan.flags.push(segment.clone());
            return Source::Flag(scan.flags.len() - 1);
        }
        let known = &self.context.catalog.traits;
        match property_of(known, name, &USER_COLUMNS, "traits") {
            Some((name, seen)) => {
                scan.traits.insert(name.to_owned());
                Source::Trait(name.to_owned(), seen.column_type())
            }
            None => Source::Trait(name.to_owned(), ColumnType::Text),
        }
    }
}

/// Where a column comes from.
#[derive(Clone, Debug)]
enum Source {
    Id,
    First,
    Last,
    /// With its number among the scan's.
    Flag(usize),
    Trait(String, ColumnType),
}

/// Reads users.
#[derive(Debug)]
struct UsersProducer {
    context: Arc<Context>,
    scan: UserScan,
    columns: Vec<Source>,
    schema: SchemaRef,
}

impl UsersProducer {
    fn block(&self, block: &UserBlock<'_>, sink: &mut Sink) -> Result<(), ProduceError> {
        if self.columns.is_empty() {
            return sink.put(self.batch(block, &[], block.users.len() as usize)?);
        }
        let lows: Vec<u16> = block.users.iter().collect();
        for lows in lows.chunks(self.context.batch_rows()) {
            sink.put(self.batch(block, lows, lows.len())?)?;
        }
        Ok(())
    }

    fn batch(
        &self,
        block: &UserBlock<'_>,
        lows: &[u16],
        rows: usize,
    ) -> Result<RecordBatch, ProduceError> {
        let arrays = self
            .columns
            .iter()
            .map(|source| self.array(source, block, lows));
        let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            arrays,
            &rows,
        )?)
    }

    fn array(
        &self,
        source: &Source,
        block: &UserBlock<'_>,
        lows: &[u16],
    ) -> Result<ArrayRef, ProduceError> {
        let seen = |of: fn((i64, i64)) -> i64| {
            let time = |low: &u16| {
                let seen = block.seen[usize::from(*low)];
                (seen.0 <= seen.1).then(|| of(seen))
            };
            let times: TimestampMicrosecondArray = lows.iter().map(time).collect();
            Arc::new(times.with_timezone(Arc::clone(&self.context.zone_name)))
        };
        Ok(match source {
            Source::Id => {
                let base = u32::from(block.key) << 16;
                let ordinals: Vec<u32> = lows.iter().map(|&low| base | u32::from(low)).collect();
                id_array(self.context.snapshot.dictionary(), &ordinals)?
            }
            Source::First => seen(|(first, _)| first),
            Source::Last => seen(|(_, last)| last),
            Source::Flag(number) => {
                let flags = lows.iter().map(|&low| block.flags[*number].contains(low));
                Arc::new(BooleanArray::from(flags.collect::<Vec<_>>()))
            }
            Source::Trait(name, column_type) => {
                let mut values =
                    ValueColumn::new(*column_type, &self.context.zone_name, lows.len());
                for &low in lows {
                    values.append(block.traits.get(name, low));
                }
                values.finish()
            }
        })
    }
}

impl Producer for UsersProducer {
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
        let columns: BTreeSet<&String> = self
            .schema
            .fields()
            .iter()
            .map(|field| field.name())
            .collect();
        write!(
            out,
            "PugmarkExec: users, columns={columns:?}, segment={}",
            self.scan.segment
        )?;
        describe_effort(
            &self
                .context
                .foreseen(|executor| executor.foresee_users(&self.scan)),
            out,
        )
    }

    fn restart(&self) -> Arc<dyn Producer> {
        Arc::new(Self {
            context: Arc::clone(&self.context),
            scan: self.scan.restarted(),
            columns: self.columns.clone(),
            schema: Arc::clone(&self.schema),
        })
    }

    fn rows_at_most(&self) -> Option<usize> {
        usize::try_from(self.context.snapshot.dictionary().len()).ok()
    }

    fn produce(&self, _partition: usize, sink: &mut Sink) -> Result<(), ProduceError> {
        let executor = sink.executor(self.context.as_of);
        let skipped = executor.scan_users(&self.scan, |block| self.block(&block, sink))?;
        self.context.remark_skipped(&skipped);
        Ok(())
    }
}
