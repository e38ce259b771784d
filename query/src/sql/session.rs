//! A session: statements one after the other, each over a snapshot of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Poll, ready};
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::format::ExplainStatementOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{EmptyRecordBatchStream, execute_stream};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::{
    CopyToSource, DFParserBuilder, ExplainStatement, Statement as DFStatement,
};
use datafusion::sql::sqlparser::ast::{Query, Set, Statement, Value};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use hashbrown::HashMap;
use pugmark_engine::segment::Segment;
use pugmark_engine::{Snapshot, Store};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::{AbortHandle, JoinHandle};

use super::additions::Additions;
use super::bind::subqueries::Subqueries;
use super::bind::{Binder, Bound, ConditionColumns, TABLE_FUNCTIONS};
use super::bounded::bound_functions;
use super::catalog::Catalog;
use super::context::Context;
use super::error::SqlError;
use super::events_table::EventsTable;
use super::function_table::FunctionTable;
use super::groups_table::GroupsRule;
use super::guard;
use super::insert::{self, Source};
use super::memory;
use super::planning::on_large_stack;
use super::schema::{CATALOG, SCHEMA, StatementCatalog};
use super::settings::Settings;
use super::users_count::UsersCountRule;
use super::users_table::UsersTable;
use super::utc::truncate_in_utc;
use super::watch::{CancelOnDrop, Stop, StopRule, watched};
use crate::exec::{CancelToken, MemoryBudget, QueryError};

/// Most values of a subquery in a condition.
const MOST_VALUES: usize = 1_000_000;
/// Most subqueries inside conditions that stand inside each other.
const MOST_ROUNDS: usize = 32;

/// Answers SQL statements about a store.
///
/// Needs a Tokio runtime to run in. Statements see all that was acknowledged before they began.
#[derive(Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

/// What a session and its statements share.
#[derive(Debug)]
struct Inner {
    store: Store,
    settings: Mutex<Settings>,
    base: Arc<SessionState>,
    known: Arc<Mutex<Option<KnownCatalog>>>,
    additions: Arc<Additions>,
}

/// The names of a snapshot, for as long as its segments stay.
#[derive(Debug)]
struct KnownCatalog {
    segments: Vec<Weak<Segment>>,
    catalog: Arc<Catalog>,
}

/// A statement, parsed.
#[derive(Clone, Debug)]
pub struct SqlStatement(pub(super) DFStatement);

impl std::fmt::Display for SqlStatement {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}

impl SqlStatement {
    /// A statement that was parsed elsewhere, after [`Session::check`] let its text through.
    pub fn of(statement: Statement) -> Self {
        Self(match statement {
            Statement::Explain {
                analyze,
                verbose,
                statement,
                ..
            } => DFStatement::Explain(ExplainStatement {
                options: ExplainStatementOptions {
                    analyze,
                    verbose,
                    ..ExplainStatementOptions::default()
                },
                statement: Box::new(Self::of(*statement).0),
            }),
            other => DFStatement::Statement(Box::new(other)),
        })
    }

    /// True where it writes to the store, which must be open for writing then.
    pub fn writes(&self) -> bool {
        insert::is_insert(&self.0)
    }

    /// True where it changes a setting.
    pub(super) fn is_set(&self) -> bool {
        let DFStatement::Statement(statement) = &self.0 else {
            return false;
        };
        matches!(**statement, Statement::Set(_))
    }
}

/// The answer to a statement.
#[derive(Debug)]
pub struct SqlAnswer {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows, made while they are read.
    pub rows: SqlRows,
}

/// Names that statements may use.
#[derive(Clone, Debug, Default)]
pub struct SqlNames {
    /// Events.
    pub events: Vec<String>,
    /// Tables, each with the names and types of its columns.
    pub tables: Vec<(String, Vec<(String, String)>)>,
    /// Functions that stand in FROM.
    pub functions: Vec<String>,
}

/// The rows of an answer. Dropped early, the statement is cancelled.
pub struct SqlRows {
    batches: Receiver<Result<RecordBatch, DataFusionError>>,
    context: Arc<Context>,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    /// What makes the batches; `None` once it is known how it ended.
    making: Option<JoinHandle<()>>,
    _running: AbortOnDrop,
    _cancel: CancelOnDrop,
    /// Alive for as long as anything works on the statement.
    #[cfg(test)]
    working: Weak<Stop>,
}

/// Stops a task when nobody waits for it any more.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for SqlRows {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SqlRows").finish_non_exhaustive()
    }
}

impl SqlRows {
    /// Reads a stream on a task of its own, so that a plan that does not pause keeps nobody from
    /// noticing that its time is over. It is asked for its first batch here already: one thread the
    /// fewer wakes another until work begins. What makes the stream stops with `stop`.
    fn begin(
        mut stream: SendableRecordBatchStream,
        context: &Arc<Context>,
        stop: &Arc<Stop>,
    ) -> Self {
        let (sender, batches) = channel(1);
        let begun = stream.next().now_or_never();
        let running = tokio::spawn(async move {
            let mut stream = match begun {
                Some(None) => return,
                Some(Some(first)) => futures::stream::iter([first]).chain(stream).left_stream(),
                None => stream.right_stream(),
            };
            while let Some(batch) = stream.next().await {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
        });
        let ends = context.stop.deadline.map(|(ends, _)| ends);
        let deadline = ends.map(tokio::time::Instant::from_std);
        Self {
            batches,
            context: Arc::clone(context),
            deadline: deadline.map(|ends| Box::pin(tokio::time::sleep_until(ends))),
            _running: AbortOnDrop(running.abort_handle()),
            making: Some(running),
            _cancel: CancelOnDrop::new(stop.cancel.clone()),
            #[cfg(test)]
            working: Arc::downgrade(stop),
        }
    }

    /// What the statement holds, and whether anything still works on it.
    #[cfg(test)]
    pub(super) fn watch(&self) -> (MemoryBudget, Weak<Stop>) {
        (self.context.memory.clone(), Weak::clone(&self.working))
    }

    /// Remarks on the answer: complete once all rows were read.
    pub fn remarks(&self) -> Vec<String> {
        self.context.remarks()
    }
}

impl Stream for SqlRows {
    type Item = Result<RecordBatch, SqlError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        waker: &mut std::task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(waker).is_ready()
        {
            return Poll::Ready(Some(Err(too_late(&self.context.settings))));
        }
        if let Some(batch) = ready!(self.batches.poll_recv(waker)) {
            return Poll::Ready(Some(batch.map_err(SqlError::from)));
        }
        let Some(making) = &mut self.making else {
            return Poll::Ready(None);
        };
        let ended = ready!(Pin::new(making).poll(waker));
        self.making = None;
        // Rows that end in a panic are not all rows.
        Poll::Ready(ended.err().map(|_| Err(QueryError::Panicked.into())))
    }
}

fn too_late(settings: &Settings) -> SqlError {
    QueryError::DeadlineExceeded(settings.deadline.unwrap_or_default()).into()
}

impl Session {
    /// A session with the default settings.
    pub fn new(store: Store) -> Self {
        let config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true)
            .set_bool("datafusion.sql_parser.collect_spans", true)
            .set_str("datafusion.sql_parser.dialect", "PostgreSQL");
        let mut base = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .build();
        bound_functions(&mut base);
        truncate_in_utc(&mut base);
        let inner = Inner {
            store,
            settings: Mutex::new(Settings::default()),
            base: Arc::new(base),
            known: Arc::default(),
            additions: Arc::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A session of its own over the same store, with the default settings and without additions:
    /// cheaper than a new one.
    pub fn another(&self) -> Self {
        self.another_with(Additions::default())
    }

    /// The same, with names of a server's own.
    pub fn another_with(&self, additions: Additions) -> Self {
        let inner = Inner {
            store: self.inner.store.clone(),
            settings: Mutex::new(Settings::default()),
            base: Arc::clone(&self.inner.base),
            known: Arc::clone(&self.inner.known),
            additions: Arc::new(additions),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The same session with other settings.
    pub fn with_settings(self, settings: Settings) -> Self {
        self.change(|own| *own = settings);
        self
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Settings {
        self.inner.settings()
    }

    /// Changes the settings of the statements that follow.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.inner.change(change);
    }

    /// Answers a text of one statement.
    ///
    /// # Errors
    /// Names the place in the text where it is wrong, and the nearest known name. Errors that come up
    /// while rows are made are given by the rows.
    pub async fn sql(&self, text: &str) -> Result<SqlAnswer, SqlError> {
        self.run(Self::parse_one(text)?).await
    }

    /// The only statement of a text.
    ///
    /// # Errors
    /// Where the text cannot be parsed, or holds several statements or none.
    pub fn parse_one(text: &str) -> Result<SqlStatement, SqlError> {
        let mut statements = Self::parse(text)?;
        match (statements.pop(), statements.is_empty()) {
            (Some(statement), true) => Ok(statement),
            (Some(_), false) => Err(SqlError::of(
                "there are several statements; send one at a time",
            )),
            (None, _) => Err(SqlError::of("there is no statement")),
        }
    }

    /// Takes a text of several statements apart.
    ///
    /// # Errors
    /// Where the text cannot be parsed.
    pub fn parse(text: &str) -> Result<Vec<SqlStatement>, SqlError> {
        Ok(parse(text)?.into_iter().map(SqlStatement).collect())
    }

    /// Refuses a text that would cost more to take apart than any answer is worth, for those who
    /// parse it by themselves.
    ///
    /// # Errors
    /// Says what there is too much of, and where.
    pub fn check(text: &str) -> Result<(), SqlError> {
        guard::check(text)
    }

    /// The names that statements may use now.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn names(&self) -> Result<SqlNames, SqlError> {
        let catalog = self.inner.catalog(&self.inner.store.snapshot()?)?;
        let zone = Arc::from(self.settings().zone_name.as_str());
        let columns = |fields: &[Arc<Field>]| {
            let shown = fields.iter().map(|field| {
                let told = type_name(field.data_type());
                (field.name().clone(), told)
            });
            shown.collect()
        };
        let users = Schema::new(catalog.users_schema(&zone));
        Ok(SqlNames {
            events: catalog.events.iter().cloned().collect(),
            tables: vec![
                (
                    "events".to_owned(),
                    columns(catalog.events_schema(&zone).fields()),
                ),
                ("users".to_owned(), columns(users.fields())),
            ],
            functions: TABLE_FUNCTIONS
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
        })
    }

    /// The columns of `events` and `users` now.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn tables(&self) -> Result<Vec<(&'static str, SchemaRef)>, SqlError> {
        let catalog = self.inner.catalog(&self.inner.store.snapshot()?)?;
        let zone = Arc::from(self.settings().zone_name.as_str());
        Ok(vec![
            ("events", catalog.events_schema(&zone)),
            ("users", Arc::new(Schema::new(catalog.users_schema(&zone)))),
        ])
    }

    /// Answers a statement.
    ///
    /// # Errors
    /// See [`Session::sql`].
    pub async fn run(&self, statement: SqlStatement) -> Result<SqlAnswer, SqlError> {
        let inner = Arc::clone(&self.inner);
        self.planned(|stop| async move { inner.run(statement.0, stop).await })
            .await
    }

    /// The columns of a statement's answer, without answering it; none where it has no rows.
    ///
    /// # Errors
    /// As [`Session::run`], but for what goes wrong only while rows are made.
    pub async fn describe(&self, statement: SqlStatement) -> Result<SchemaRef, SqlError> {
        let inner = Arc::clone(&self.inner);
        self.planned(|stop| async move { inner.describe(statement, stop).await })
            .await
    }

    /// Binds and plans on a thread whose stack bears what the parser lets through.
    async fn planned<T, F>(
        &self,
        work: impl FnOnce(Stop) -> F + Send + 'static,
    ) -> Result<T, SqlError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SqlError>>,
    {
        let settings = self.settings();
        let ends = settings.deadline.map(|limit| Instant::now() + limit);
        // Cancelled where this is dropped, or its time is over, before there is an answer.
        let cancel = CancelToken::new();
        let unanswered = CancelOnDrop::new(cancel.clone());
        let stop = Stop {
            cancel,
            deadline: ends.zip(settings.deadline),
        };
        let answer = on_large_stack(move || work(stop));
        let answer = match ends {
            Some(ends) => tokio::time::timeout_at(ends.into(), answer)
                .await
                .map_err(|_| too_late(&settings))?,
            None => answer.await,
        };
        // The answer's rows cancel what is theirs.
        unanswered.release();
        answer
    }
}

impl Inner {
    fn settings(&self) -> Settings {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn run(&self, statement: DFStatement, stop: Stop) -> Result<SqlAnswer, SqlError> {
        if let Some(changed) = self.set(&statement)? {
            return Ok(changed);
        }
        let settings = self.settings();
        let snapshot = self.store.snapshot()?;
        let context = self.context(snapshot, settings, stop)?;
        match insert::source(&statement)? {
            Some(source) => self.insert(&context, source).await,
            None => self.run_in(&context, statement).await,
        }
    }

    /// Stores the rows of a query as events.
    async fn insert(&self, context: &Arc<Context>, source: Source) -> Result<SqlAnswer, SqlError> {
        let query = Statement::Query(Box::new(source.query.clone()));
        let answer = self
            .run_in(context, DFStatement::Statement(Box::new(query)))
            .await?;
        let stored =
            insert::store(&self.store, context, &source, answer.schema, answer.rows).await?;
        let schema = insert::answer_schema();
        let batches =
            RecordBatchStreamAdapter::new(Arc::clone(&schema), futures::stream::iter([Ok(stored)]));
        let stop = Arc::new(context.stop.child());
        Ok(SqlAnswer {
            schema,
            rows: SqlRows::begin(Box::pin(batches), context, &stop),
        })
    }

    fn context(
        &self,
        snapshot: Snapshot,
        settings: Settings,
        stop: Stop,
    ) -> Result<Arc<Context>, SqlError> {
        let catalog = self.catalog(&snapshot)?;
        let as_of = settings.as_of.unwrap_or(snapshot.taken_at());
        let memory = MemoryBudget::new(settings.memory_bytes);
        let runtime = memory::runtime(&settings, &memory)?;
        let state = self.state(&settings, as_of);
        Ok(Arc::new(Context::new(
            snapshot,
            catalog,
            settings,
            as_of,
            (stop, memory),
            (state, runtime),
        )))
    }

    /// DataFusion's state for a statement, as far as expressions need it.
    fn state(&self, settings: &Settings, as_of: i64) -> SessionState {
        let mut state = (*self.base).clone();
        self.additions.put_into(&mut state);
        let config = state.config_mut();
        let batch_rows = memory::batch_rows(settings.memory_bytes).min(config.batch_size());
        *config = std::mem::take(config).with_batch_size(batch_rows);
        let options = config.options_mut();
        options.execution.time_zone = Some(settings.zone_name.clone());
        if let Some(threads) = settings.threads {
            options.execution.target_partitions = threads.max(1);
        }
        options.execution.sort_spill_reservation_bytes =
            memory::merge_bytes(settings, options.execution.target_partitions);
        let options = Arc::clone(state.config_options());
        // Functions that depend on settings, as now() on the zone, are made for these.
        let functions = state.scalar_functions().values();
        let own = functions.filter_map(|function| function.inner().with_updated_config(&options));
        for function in own.map(Arc::new).collect::<Vec<_>>() {
            // What is registered in place of itself cannot be refused.
            let _replaced = state.register_udf(function);
        }
        let props = state.execution_props_mut();
        *props = ExecutionProps::new();
        props.query_execution_start_time = chrono::DateTime::from_timestamp_micros(as_of);
        state
    }

    /// The names of a snapshot, read again only where its segments differ.
    fn catalog(&self, snapshot: &Snapshot) -> Result<Arc<Catalog>, SqlError> {
        let segments: Vec<Weak<Segment>> = snapshot.segments().iter().map(Arc::downgrade).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref()
            && known.segments.len() == segments.len()
            && known
                .segments
                .iter()
                .zip(&segments)
                .all(|(one, other)| one.ptr_eq(other))
        {
            return Ok(Arc::clone(&known.catalog));
        }
        let catalog = Arc::new(Catalog::read(snapshot).map_err(QueryError::from)?);
        *known = Some(KnownCatalog {
            segments,
            catalog: Arc::clone(&catalog),
        });
        Ok(catalog)
    }

    /// What a statement's plan is before it is optimised, and the state that knows its tables.
    async fn plan(
        &self,
        context: &Arc<Context>,
        mut statement: DFStatement,
        stop: &Arc<Stop>,
    ) -> Result<(LogicalPlan, SessionState), SqlError> {
        let bound = self.bind(context, &mut statement).await?;
        let mut tables: HashMap<String, Arc<dyn TableProvider>> = HashMap::new();
        tables.insert("events".to_owned(), Arc::new(EventsTable::new(context)));
        tables.insert(
            "users".to_owned(),
            Arc::new(UsersTable::new(context, Vec::new())),
        );
        for (name, dids) in bound.users {
            tables.insert(name, Arc::new(UsersTable::new(context, dids)));
        }
        for (name, question) in bound.questions {
            tables.insert(name, Arc::new(FunctionTable::new(context, question)));
        }
        let catalog = StatementCatalog::new(tables, &self.additions);
        let mut rules = context.state.optimizers().to_vec();
        if context.settings.shortcuts {
            // Comparisons have lost their casts then, and DISTINCT is still what it was.
            let simplified = rules
                .iter()
                .position(|rule| rule.name() == "simplify_expressions");
            let place = simplified.map_or(0, |place| place + 1);
            rules.insert(place, Arc::new(GroupsRule::new(context)));
            rules.insert(place, Arc::new(UsersCountRule::new(context)));
        }
        rules.insert(0, Arc::new(StopRule(Arc::clone(stop))));
        let mut builder = SessionStateBuilder::new_from_existing(context.state.clone())
            .with_runtime_env(Arc::clone(&context.runtime))
            .with_catalog_list(Arc::new(catalog))
            .with_optimizer_rules(rules);
        if let Some(types) = &self.additions.types {
            builder = builder.with_type_planner(Arc::clone(types));
        }
        let mut state = builder.build();
        if context.settings.files {
            let session = SessionContext::new_with_state(state).enable_url_table();
            // A copy that does not take the system's clock for the present.
            state = session.state_ref().read().clone();
        }
        let plan = state.statement_to_plan(statement).await?;
        let files = context.settings.files;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(files)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|_| refused(files))?;
        Ok((plan, state))
    }

    /// The columns that a statement's answer will have.
    async fn describe(&self, statement: SqlStatement, stop: Stop) -> Result<SchemaRef, SqlError> {
        if statement.writes() || statement.is_set() {
            return Ok(Arc::new(Schema::empty()));
        }
        let context = self.context(self.store.snapshot()?, self.settings(), stop)?;
        let stop = Arc::new(context.stop.child());
        let (plan, _) = self.plan(&context, statement.0, &stop).await?;
        Ok(Arc::clone(plan.schema().inner()))
    }

    async fn run_in(
        &self,
        context: &Arc<Context>,
        statement: DFStatement,
    ) -> Result<SqlAnswer, SqlError> {
        let stop = Arc::new(context.stop.child());
        let (plan, mut state) = self.plan(context, statement, &stop).await?;
        let plan = state.optimize(&plan)?;
        let late = leads_one_way(&plan)?;
        let optimizer = &mut state.config_mut().options_mut().optimizer;
        optimizer.enable_topk_dynamic_filter_pushdown = late;
        optimizer.enable_join_dynamic_filter_pushdown = false;
        optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        let planner = Arc::clone(state.query_planner());
        let plan = planner.create_physical_plan(&plan, &state).await?;
        let batches = execute_stream(watched(plan, &stop)?, state.task_ctx())?;
        Ok(SqlAnswer {
            schema: batches.schema(),
            rows: SqlRows::begin(batches, context, &stop),
        })
    }

    /// Takes Pugmark's own out of a statement, running the subqueries of conditions on the way.
    async fn bind(
        &self,
        context: &Arc<Context>,
        statement: &mut DFStatement,
    ) -> Result<Bound, SqlError> {
        let columns = ConditionColumns::new(&context.catalog, &context.zone_name)?;
        let mut subqueries = Subqueries::default();
        for _round in 0..MOST_ROUNDS {
            let mut tried = statement.clone();
            let bound = {
                let binder = Binder {
                    context,
                    columns: &columns,
                    subqueries: &subqueries,
                    state: &context.state,
                };
                bind_in(&binder, &mut tried)?
            };
            let missing = subqueries.take_missing();
            if missing.is_empty() {
                *statement = tried;
                return Ok(bound);
            }
            for (text, query) in missing {
                let values = Box::pin(self.values(context, query)).await?;
                subqueries.insert(text, values);
            }
        }
        Err(SqlError::of(format!(
            "more than {MOST_ROUNDS} subqueries stand inside each other in conditions"
        )))
    }

    /// The values of a subquery of one column.
    async fn values(
        &self,
        context: &Arc<Context>,
        query: Query,
    ) -> Result<Vec<ScalarValue>, SqlError> {
        let text = query.to_string();
        let statement = DFStatement::Statement(Box::new(Statement::Query(Box::new(query))));
        let answer = self.run_in(context, statement).await?;
        if answer.schema.fields().len() != 1 {
            return Err(SqlError::of(format!("`{text}` must have one column")));
        }
        let mut batches = answer.rows;
        let mut values = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            // As a value, in the statement's text, and as what it is compared with.
            let texts = batch.get_array_memory_size();
            context.keep(3 * (texts + batch.num_rows() * size_of::<ScalarValue>()))?;
            for row in 0..batch.num_rows() {
                values.push(ScalarValue::try_from_array(batch.column(0), row)?);
                if values.len() > MOST_VALUES {
                    return Err(SqlError::of(format!(
                        "`{text}` has more than {MOST_VALUES} values; join it instead"
                    )));
                }
            }
        }
        Ok(values)
    }

    /// Changes a setting, where that is what the statement says.
    fn set(&self, statement: &DFStatement) -> Result<Option<SqlAnswer>, SqlError> {
        let DFStatement::Statement(statement) = statement else {
            return Ok(None);
        };
        let Statement::Set(set) = &**statement else {
            return Ok(None);
        };
        let (name, value) = match set {
            Set::SingleAssignment {
                variable, values, ..
            } => {
                let value = values.first().map(plain_text).unwrap_or_default();
                (variable.to_string().to_ascii_lowercase(), value)
            }
            Set::SetTimeZone { value, .. } => ("time_zone".to_owned(), plain_text(value)),
            other => return Err(SqlError::of(format!("`{other}` is not supported"))),
        };
        let mut settings = self.settings();
        settings.assign(&name, &value)?;
        self.change(|own| *own = settings.clone());
        let snapshot = self.store.snapshot()?;
        let stop = Stop {
            cancel: CancelToken::new(),
            deadline: None,
        };
        let context = self.context(snapshot, settings, stop)?;
        let stop = Arc::new(context.stop.child());
        let schema: SchemaRef = Arc::new(Schema::empty());
        let batches = EmptyRecordBatchStream::new(Arc::clone(&schema));
        Ok(Some(SqlAnswer {
            schema,
            rows: SqlRows::begin(Box::pin(batches), &context, &stop),
        }))
    }
}

/// True where a plan has one leaf, and each of its steps keeps or computes rows one by one: there
/// columns of one name are one column. DataFusion hands filters that change down by names, past
/// joins too, where two sides may have a column of one name.
fn leads_one_way(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let mut one_way = true;
    plan.apply(|node| {
        one_way &= matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::Sort(_)
                | LogicalPlan::Limit(_)
                | LogicalPlan::TableScan(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Explain(_)
                | LogicalPlan::Analyze(_)
                | LogicalPlan::Copy(_)
        );
        Ok(match one_way {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(one_way)
}

/// What SQL calls a type.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float64 => "double precision".to_owned(),
        DataType::Timestamp(..) => "timestamp with time zone".to_owned(),
        DataType::List(element) => format!("{}[]", type_name(element.data_type())),
        _ => "text".to_owned(),
    }
}

fn plain_text(expr: &datafusion::sql::sqlparser::ast::Expr) -> String {
    use datafusion::sql::sqlparser::ast::Expr;
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.clone(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

fn refused(files: bool) -> SqlError {
    SqlError::of(match files {
        true => "only queries, EXPLAIN, COPY, SET and INSERT INTO events can be run here",
        false => "only queries, EXPLAIN, SET and INSERT INTO events can be run here",
    })
}

/// Parses statements, after a look at what they would cost.
fn parse(text: &str) -> Result<Vec<DFStatement>, SqlError> {
    guard::check(text)?;
    let statements = DFParserBuilder::new(text)
        .with_dialect(&PostgreSqlDialect {})
        .build()
        .and_then(|mut parser| parser.parse_statements());
    match statements {
        Ok(statements) => Ok(statements.into()),
        Err(error) => match error.find_root() {
            DataFusionError::SQL(error, _) => Err(SqlError::from((**error).clone())),
            _ => Err(SqlError::Engine(error)),
        },
    }
}

fn bind_in(binder: &Binder<'_>, statement: &mut DFStatement) -> Result<Bound, SqlError> {
    match statement {
        DFStatement::Statement(statement) => binder.bind(statement),
        DFStatement::Explain(explain) => bind_in(binder, &mut explain.statement),
        DFStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => {
                let mut inner = Statement::Query(query.clone());
                let bound = binder.bind(&mut inner)?;
                if let Statement::Query(inner) = inner {
                    *query = inner;
                }
                Ok(bound)
            }
            CopyToSource::Relation(_) => Ok(Bound::default()),
        },
        _ => Ok(Bound::default()),
    }
}
