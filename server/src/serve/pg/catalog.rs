//! What clients ask PostgreSQL's catalog for: which tables and columns there are, and a long tail of
//! functions that tell what no store of events has.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow_pg::datatypes::into_pg_type;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableFunction;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::common::cast::as_string_array;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::create_udf;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::SessionContext;
use datafusion_pg_catalog::pg_catalog::catalog_info::CatalogInfo;
use datafusion_pg_catalog::pg_catalog::context::{PgCatalogContextProvider, Role};
use datafusion_pg_catalog::pg_catalog::generate_series_arg_coercion::CoerceIntArgsToBigInt;
use datafusion_pg_catalog::pg_catalog::oid_type_planner::PgOidTypePlanner;
use datafusion_pg_catalog::pg_catalog::{
    self, PgCatalogSchemaProvider, PgCatalogStaticTables, PgCatalogTable,
};
use datafusion_pg_catalog::pg_catalog::{
    array_bounds_udf, format_type, has_privilege_udf, pg_get_expr_udf, quote_ident_udf,
};
use futures::StreamExt;
use pugmark_query::sql::{Additions, Session};

use super::variables::{KNOWN, SERVER_VERSION, Variables};

/// The only database.
pub(super) const DATABASE: &str = "pugmark";

/// The catalog, shared by all connections: a table has one number for all of them.
pub(super) struct Catalog {
    tables: Arc<dyn SchemaProvider>,
    information: Arc<dyn SchemaProvider>,
    functions: Vec<Arc<ScalarUDF>>,
    /// `generate_series` of numbers of any width.
    series: Vec<Arc<TableFunction>>,
}

impl Catalog {
    pub(super) fn new(session: &Session) -> Result<Self> {
        let fixed = Arc::new(PgCatalogStaticTables::try_new()?);
        let store = StoreTables(Arc::new(session.another()));
        let system = PgCatalogSchemaProvider::try_new(store.clone(), Arc::clone(&fixed), OneRole)?;
        let known = KnownTables {
            store: store.clone(),
            system: Arc::new(system),
        };
        let tables = PgCatalogSchemaProvider::try_new(known, fixed, OneRole)?;
        Ok(Self {
            tables: Arc::new(Completed(tables)),
            information: Arc::new(Information(store)),
            functions: functions(),
            series: {
                let widened = SessionContext::new();
                CoerceIntArgsToBigInt::widen(&widened);
                let found = widened.table_function("generate_series")?;
                vec![found]
            },
        })
    }

    /// What a connection's statements may name besides the store's own.
    pub(super) fn additions(
        &self,
        process: i32,
        session: &Arc<Mutex<Weak<Session>>>,
        variables: &Arc<Mutex<Variables>>,
    ) -> Additions {
        let mut functions = self.functions.clone();
        functions.push(fixed("pg_backend_pid", ScalarValue::Int32(Some(process))));
        let setting = |name, sets| {
            Arc::new(ScalarUDF::new_from_impl(Setting {
                name,
                sets,
                session: Arc::clone(session),
                variables: Arc::clone(variables),
                process,
                signature: Signature::one_of(
                    vec![
                        TypeSignature::Any(1),
                        TypeSignature::Any(2),
                        TypeSignature::Any(3),
                    ],
                    Volatility::Volatile,
                ),
            }))
        };
        functions.push(setting("current_setting", false));
        functions.push(setting("set_config", true));
        Additions {
            schemas: vec![
                ("pg_catalog".to_owned(), Arc::clone(&self.tables)),
                (
                    "information_schema".to_owned(),
                    Arc::clone(&self.information),
                ),
            ],
            functions,
            tables: self.series.clone(),
            types: Some(Arc::new(PgOidTypePlanner)),
        }
    }
}

/// Whether somebody may do something: everybody may here.
const PRIVILEGES: [&str; 8] = [
    "has_table_privilege",
    "has_schema_privilege",
    "has_database_privilege",
    "has_any_column_privilege",
    "has_column_privilege",
    "has_function_privilege",
    "has_sequence_privilege",
    "has_type_privilege",
];

/// What no store of events has, and is told as NULL.
const NOTHING: [&str; 18] = [
    "col_description",
    "obj_description",
    "shobj_description",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_functiondef",
    "pg_get_indexdef",
    "pg_get_ruledef",
    "pg_get_serial_sequence",
    "pg_get_triggerdef",
    "pg_get_viewdef",
    "pg_tablespace_location",
    "inet_client_addr",
    "inet_server_addr",
    "pg_export_snapshot",
    "json_build_object",
    "row_to_json",
];

fn functions() -> Vec<Arc<ScalarUDF>> {
    let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
    let version = format!(
        "PostgreSQL {SERVER_VERSION} (Pugmark {})",
        env!("CARGO_PKG_VERSION")
    );
    let own = [
        pg_catalog::create_current_database_udf(DATABASE),
        pg_catalog::create_current_schema_udf(),
        pg_catalog::create_current_schemas_udf(),
        pg_catalog::create_session_user_udf(),
        pg_catalog::create_pg_get_userbyid_udf(),
        pg_catalog::create_pg_table_is_visible(),
        pg_catalog::create_pg_get_partkeydef_udf(),
        pg_catalog::create_pg_relation_is_publishable_udf(),
        pg_catalog::create_pg_get_statisticsobjdef_columns_udf(),
        pg_catalog::create_pg_encoding_to_char_udf(),
        pg_catalog::create_pg_get_constraintdef(),
        pg_catalog::create_pg_get_partition_ancestors_udf(),
        format_type::create_format_type_udf(),
        pg_get_expr_udf::create_pg_get_expr_udf(),
        quote_ident_udf::create_quote_ident_udf(),
        quote_ident_udf::create_parse_ident_udf(),
        array_bounds_udf::create_array_upper_udf(),
        array_bounds_udf::create_array_lower_udf(),
    ];
    let privileges = PRIVILEGES.map(has_privilege_udf::create_has_privilege_udf);
    let none = ScalarValue::Utf8(None);
    let fixed_ones = [
        ("version", text(&version)),
        ("pg_is_in_recovery", ScalarValue::Boolean(Some(false))),
        ("pg_type_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_function_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_collation_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_operator_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_opclass_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_is_other_temp_schema", ScalarValue::Boolean(Some(false))),
        ("pg_my_temp_schema", ScalarValue::Int32(Some(0))),
        ("pg_char_to_encoding", ScalarValue::Int32(Some(6))),
        ("pg_advisory_unlock_all", ScalarValue::Boolean(Some(true))),
        ("pg_advisory_lock", ScalarValue::Boolean(Some(true))),
        ("pg_advisory_unlock", ScalarValue::Boolean(Some(true))),
        ("pg_try_advisory_lock", ScalarValue::Boolean(Some(true))),
        ("pg_cancel_backend", ScalarValue::Boolean(Some(false))),
        ("pg_terminate_backend", ScalarValue::Boolean(Some(false))),
        ("txid_current", ScalarValue::Int64(Some(1))),
        ("pg_relation_size", ScalarValue::Int64(Some(0))),
        ("pg_total_relation_size", ScalarValue::Int64(Some(0))),
        ("pg_table_size", ScalarValue::Int64(Some(0))),
        ("pg_indexes_size", ScalarValue::Int64(Some(0))),
        ("pg_database_size", ScalarValue::Int64(Some(0))),
        ("pg_stat_get_numscans", ScalarValue::Int64(Some(0))),
        ("pg_size_pretty", text("0 bytes")),
        ("inet_server_port", ScalarValue::Int32(None)),
    ];
    let literal = create_udf(
        "quote_literal",
        vec![DataType::Utf8],
        DataType::Utf8,
        Volatility::Immutable,
        Arc::new(quote_literal),
    );
    let own = own.into_iter().chain([literal]);
    let mut functions: Vec<Arc<ScalarUDF>> = own.chain(privileges).map(Arc::new).collect();
    functions.extend(NOTHING.map(|name| fixed(name, none.clone())));
    functions.extend(fixed_ones.map(|(name, value)| fixed(name, value)));
    functions
}

/// Texts as they stand in a statement.
fn quote_literal(args: &[ColumnarValue]) -> Result<ColumnarValue> {
    let quoted = |text: &str| {
        let doubled = text.replace('\'', "''");
        match text.contains('\\') {
            true => format!(" E'{}'", doubled.replace('\\', "\\\\")),
            false => format!("'{doubled}'"),
        }
    };
    let arrays = ColumnarValue::values_to_arrays(args)?;
    let texts = arrays
        .first()
        .map(|array| as_string_array(array))
        .transpose()?;
    let quoted = texts.into_iter().flatten().map(|text| text.map(quoted));
    Ok(ColumnarValue::Array(Arc::new(
        quoted.collect::<StringArray>(),
    )))
}

/// A function of any arguments that always tells the same.
fn fixed(name: &'static str, value: ScalarValue) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Fixed {
        name,
        value,
        signature: any_arguments(),
    }))
}

fn any_arguments() -> Signature {
    Signature::one_of(
        vec![TypeSignature::Nullary, TypeSignature::VariadicAny],
        Volatility::Stable,
    )
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Fixed {
    name: &'static str,
    value: ScalarValue,
    signature: Signature,
}

impl ScalarUDFImpl for Fixed {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

/// `current_setting(name, …)` and `set_config(name, value, …)`.
struct Setting {
    name: &'static str,
    sets: bool,
    session: Arc<Mutex<Weak<Session>>>,
    variables: Arc<Mutex<Variables>>,
    /// Tells connections apart.
    process: i32,
    signature: Signature,
}

impl fmt::Debug for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct(self.name).finish_non_exhaustive()
    }
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.process) == (other.name, other.process)
    }
}

impl Eq for Setting {}

impl std::hash::Hash for Setting {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.name, self.process).hash(state);
    }
}

impl Setting {
    fn answer(&self, args: &[ScalarValue]) -> Result<Option<String>> {
        let text = |place: usize| {
            let value: Option<&ScalarValue> = args.get(place);
            value.and_then(|value| value.try_as_str().flatten())
        };
        let Some(name) = text(0) else {
            return Ok(None);
        };
        let session = self
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade();
        let Some(session) = session else {
            return Ok(None);
        };
        let mut variables = self
            .variables
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let settings = session.settings();
        if self.sets {
            // Within what the session may hold already.
            variables
                .set(name, text(1), &session, &settings)
                .map_err(|failure| DataFusionError::Plan(failure.message))?;
            return Ok(text(1).map(str::to_owned));
        }
        let missing_is_fine = matches!(args.get(1), Some(ScalarValue::Boolean(Some(true))));
        match variables.get(name, &settings) {
            None if !missing_is_fine => Err(DataFusionError::Plan(format!(
                "there is no setting `{name}`"
            ))),
            found => Ok(found),
        }
    }
}

impl ScalarUDFImpl for Setting {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut answers = Vec::new();
        let single = args
            .args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        for row in 0..if single { 1 } else { args.number_rows } {
            let values = args.args.iter().map(|arg| match arg {
                ColumnarValue::Scalar(value) => Ok(value.clone()),
                ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row),
            });
            answers.push(self.answer(&values.collect::<Result<Vec<_>>>()?)?);
        }
        Ok(match single {
            true => ColumnarValue::Scalar(ScalarValue::Utf8(answers.pop().flatten())),
            false => ColumnarValue::Array(Arc::new(StringArray::from(answers))),
        })
    }
}

/// The tables of the store, as they are when they are asked for.
#[derive(Clone, Debug)]
struct StoreTables(Arc<Session>);

impl StoreTables {
    fn all(&self) -> Result<Vec<(&'static str, SchemaRef)>> {
        self.0
            .tables()
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn one(&self, name: &str) -> Result<Option<SchemaRef>> {
        let found = self.all()?.into_iter().find(|(known, _)| *known == name);
        Ok(found.map(|(_, schema)| schema))
    }
}

#[async_trait]
impl CatalogInfo for StoreTables {
    async fn catalog_names(&self) -> Result<Vec<String>> {
        Ok(vec![DATABASE.to_owned()])
    }

    async fn schema_names(&self, catalog: &str) -> Result<Option<Vec<String>>> {
        Ok((catalog == DATABASE).then(|| vec!["public".to_owned()]))
    }

    async fn table_names(&self, catalog: &str, schema: &str) -> Result<Option<Vec<String>>> {
        if (catalog, schema) != (DATABASE, "public") {
            return Ok(None);
        }
        let names = self.all()?.into_iter().map(|(name, _)| name.to_owned());
        Ok(Some(names.collect()))
    }

    async fn table_schema(
        &self,
        catalog: &str,
        schema: &str,
        table: &str,
    ) -> Result<Option<SchemaRef>> {
        match (catalog, schema) {
            (DATABASE, "public") => self.one(table),
            _ => Ok(None),
        }
    }

    async fn table_type(
        &self,
        catalog: &str,
        schema: &str,
        table: &str,
    ) -> Result<Option<TableType>> {
        let found = self.table_schema(catalog, schema, table).await?;
        Ok(found.map(|_| TableType::Base))
    }
}

/// The tables of the store and those of the catalog itself.
#[derive(Clone, Debug)]
struct KnownTables {
    store: StoreTables,
    system: Arc<PgCatalogSchemaProvider<StoreTables, OneRole>>,
}

#[async_trait]
impl CatalogInfo for KnownTables {
    async fn catalog_names(&self) -> Result<Vec<String>> {
        self.store.catalog_names().await
    }

    async fn schema_names(&self, catalog: &str) -> Result<Option<Vec<String>>> {
        let names = ["public", "pg_catalog", "information_schema"];
        Ok((catalog == DATABASE).then(|| names.map(str::to_owned).to_vec()))
    }

    async fn table_names(&self, catalog: &str, schema: &str) -> Result<Option<Vec<String>>> {
        match schema {
            "pg_catalog" => Ok(Some(self.system.table_names())),
            // Those that are listed are taken for visible without their schema's name.
            "information_schema" => Ok(Some(Vec::new())),
            other => self.store.table_names(catalog, other).await,
        }
    }

    async fn table_schema(
        &self,
        catalog: &str,
        schema: &str,
        table: &str,
    ) -> Result<Option<SchemaRef>> {
        match schema {
            "pg_catalog" => {
                let table = self.system.build_table_by_name(table)?;
                Ok(table.map(|table| table.schema()))
            }
            other => self.store.table_schema(catalog, other, table).await,
        }
    }

    async fn table_type(
        &self,
        catalog: &str,
        schema: &str,
        table: &str,
    ) -> Result<Option<TableType>> {
        match schema {
            "public" => self.store.table_type(catalog, schema, table).await,
            _ => Ok(Some(TableType::Base)),
        }
    }
}

/// The catalog's tables with the columns that clients ask for besides.
#[derive(Debug)]
struct Completed(PgCatalogSchemaProvider<KnownTables, OneRole>);

/// Columns of texts of which there are none.
const BESIDES: [(&str, &[&str]); 4] = [
    (
        "pg_attribute",
        &["attacl", "attoptions", "attfdwoptions", "attmissingval"],
    ),
    ("pg_class", &["reloptions", "relacl"]),
    ("pg_database", &["datacl", "daticulocale", "datcollversion"]),
    ("pg_namespace", &["nspacl"]),
];

#[async_trait]
impl SchemaProvider for Completed {
    fn table_names(&self) -> Vec<String> {
        self.0.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name == "pg_settings" {
            return settings().map(Some);
        }
        let besides = BESIDES.iter().find(|(table, _)| *table == name);
        match (self.0.build_table_by_name(name)?, besides) {
            (Some(PgCatalogTable::Dynamic(inner)), Some((_, columns))) => {
                let known = inner.schema();
                let missing = columns.iter().filter(|name| known.index_of(name).is_err());
                let missing = missing.map(|name| Arc::new(Field::new(*name, DataType::Utf8, true)));
                let fields = known.fields().iter().cloned().chain(missing);
                let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                let more = WithNulls {
                    inner,
                    schema: Arc::clone(&schema),
                };
                let table = StreamingTable::try_new(schema, vec![Arc::new(more)])?;
                Ok(Some(Arc::new(table)))
            }
            (Some(table), _) => table.try_into_table_provider().map(Some),
            (None, _) => Ok(None),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.table_exist(name)
    }
}

/// The settings as they are first.
fn settings() -> Result<Arc<dyn TableProvider>> {
    let columns = [
        "name",
        "setting",
        "unit",
        "category",
        "short_desc",
        "extra_desc",
        "context",
        "vartype",
        "source",
        "min_val",
        "max_val",
        "enumvals",
        "boot_val",
        "reset_val",
        "sourcefile",
        "sourceline",
        "pending_restart",
    ];
    let rows = KNOWN.iter().map(|(name, first)| {
        let some = |text: &str| Some(text.to_owned());
        let mut row = vec![some(name), some(first), None, some("Pugmark"), None, None];
        row.extend([some("user"), some("string"), some("default")]);
        row.extend([None, None, None, some(first), some(first)]);
        row
    });
    let batch = texts(&columns, &rows.collect::<Vec<_>>())?;
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
    Ok(Arc::new(table))
}

/// Rows with nulls behind them.
#[derive(Debug)]
struct WithNulls {
    inner: Arc<dyn PartitionStream>,
    schema: SchemaRef,
}

impl PartitionStream for WithNulls {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let batches = self.inner.execute(context).map(move |batch| {
            let batch = batch?;
            let mut columns = batch.columns().to_vec();
            for field in &schema.fields()[columns.len()..] {
                columns.push(new_null_array(field.data_type(), batch.num_rows()));
            }
            Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
        });
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            batches,
        ))
    }
}

/// Everybody is the same to the catalog.
#[derive(Clone, Debug)]
struct OneRole;

#[async_trait]
impl PgCatalogContextProvider for OneRole {
    async fn roles(&self) -> Vec<String> {
        vec![DATABASE.to_owned()]
    }

    async fn role(&self, name: &str) -> Option<Role> {
        (name == DATABASE).then(|| Role {
            name: name.to_owned(),
            is_superuser: false,
            can_login: true,
            can_create_db: false,
            can_create_role: false,
            can_create_user: false,
            can_replication: false,
            grants: Vec::new(),
            inherited_roles: Vec::new(),
        })
    }
}

/// `information_schema`, whose types are called as PostgreSQL calls them.
#[derive(Debug)]
struct Information(StoreTables);

/// Its tables and their columns. Numbers are those of columns.
const INFORMATION: [(&str, &[&str]); 10] = [
    (
        "columns",
        &[
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "ordinal_position",
            "column_default",
            "is_nullable",
            "data_type",
            "character_maximum_length",
            "numeric_precision",
            "numeric_scale",
            "datetime_precision",
            "udt_catalog",
            "udt_schema",
            "udt_name",
            "is_identity",
            "is_generated",
            "is_updatable",
        ],
    ),
    (
        "tables",
        &[
            "table_catalog",
            "table_schema",
            "table_name",
            "table_type",
            "is_insertable_into",
            "is_typed",
        ],
    ),
    (
        "schemata",
        &[
            "catalog_name",
            "schema_name",
            "schema_owner",
            "default_character_set_name",
            "sql_path",
        ],
    ),
    (
        "views",
        &[
            "table_catalog",
            "table_schema",
            "table_name",
            "view_definition",
            "check_option",
            "is_updatable",
        ],
    ),
    (
        "table_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "table_catalog",
            "table_schema",
            "table_name",
            "constraint_type",
        ],
    ),
    (
        "key_column_usage",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "ordinal_position",
            "position_in_unique_constraint",
        ],
    ),
    (
        "constraint_column_usage",
        &[
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
        ],
    ),
    (
        "referential_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "unique_constraint_catalog",
            "unique_constraint_schema",
            "unique_constraint_name",
            "match_option",
            "update_rule",
            "delete_rule",
        ],
    ),
    (
        "routines",
        &[
            "specific_catalog",
            "specific_schema",
            "specific_name",
            "routine_catalog",
            "routine_schema",
            "routine_name",
            "routine_type",
            "data_type",
        ],
    ),
    (
        "table_privileges",
        &[
            "grantor",
            "grantee",
            "table_catalog",
            "table_schema",
            "table_name",
            "privilege_type",
            "is_grantable",
        ],
    ),
];

/// A batch of rows; columns whose names end so are numbers.
fn texts(columns: &[&str], rows: &[Vec<Option<String>>]) -> Result<RecordBatch> {
    let columns = columns.iter().enumerate().map(|(place, name)| {
        let values = rows.iter().map(|row| row.get(place).cloned().flatten());
        let numbers = ["position", "precision", "scale", "length"];
        let array: ArrayRef = match numbers.iter().any(|end| name.ends_with(end)) {
            true => {
                let numbers = values.map(|value| value.and_then(|value| value.parse::<i32>().ok()));
                Arc::new(numbers.collect::<Int32Array>())
            }
            false => Arc::new(values.collect::<StringArray>()),
        };
        (*name, array, true)
    });
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

impl Information {
    fn rows(&self, table: &str) -> Result<Vec<Vec<Option<String>>>> {
        let some = |text: &str| Some(text.to_owned());
        let here = || [some(DATABASE), some("public")];
        let mut rows = Vec::new();
        match table {
            "tables" => {
                for (name, _) in self.0.all()? {
                    let insertable = if name == "events" { "YES" } else { "NO" };
                    let rest = [some(name), some("BASE TABLE"), some(insertable), some("NO")];
                    rows.push(here().into_iter().chain(rest).collect());
                }
            }
            "schemata" => {
                for name in ["public", "pg_catalog", "information_schema"] {
                    rows.push(vec![some(DATABASE), some(name), some(DATABASE), None, None]);
                }
            }
            "columns" => {
                for (name, schema) in self.0.all()? {
                    for (place, field) in schema.fields().iter().enumerate() {
                        let (told, udt) = told_type(field.data_type());
                        let precision = match udt.as_str() {
                            "int8" => some("64"),
                            "float8" => some("53"),
                            _ => None,
                        };
                        let scale = (udt == "int8").then(|| "0".to_owned());
                        let micros = udt.starts_with("timestamp").then(|| "6".to_owned());
                        let nullable = if field.is_nullable() { "YES" } else { "NO" };
                        let rest = [
                            some(name),
                            some(field.name()),
                            Some((place + 1).to_string()),
                            None,
                            some(nullable),
                            Some(told),
                            None,
                            precision,
                            scale,
                            micros,
                            some(DATABASE),
                            some("pg_catalog"),
                            Some(udt),
                            some("NO"),
                            some("NEVER"),
                            some("NO"),
                        ];
                        rows.push(here().into_iter().chain(rest).collect());
                    }
                }
            }
            _ => {}
        }
        Ok(rows)
    }
}

/// A type as the standard calls it, and as PostgreSQL does.
fn told_type(data_type: &DataType) -> (String, String) {
    let told = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int64 => "bigint",
        DataType::Float64 => "double precision",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::List(_) => "ARRAY",
        _ => "text",
    };
    let udt = into_pg_type(data_type).map_or("text".to_owned(), |wire| wire.name().to_owned());
    (told.to_owned(), udt)
}

#[async_trait]
impl SchemaProvider for Information {
    fn table_names(&self) -> Vec<String> {
        let names = INFORMATION.iter().map(|(name, _)| (*name).to_owned());
        names.collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some((name, columns)) = INFORMATION.iter().find(|(known, _)| *known == name) else {
            return Ok(None);
        };
        let batch = texts(columns, &self.rows(name)?)?;
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
        Ok(Some(Arc::new(table)))
    }

    fn table_exist(&self, name: &str) -> bool {
        INFORMATION.iter().any(|(known, _)| *known == name)
    }
}
