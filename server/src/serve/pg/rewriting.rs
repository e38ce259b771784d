//! Questions for PostgreSQL's catalog, put as DataFusion understands them.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, GroupByExpr, JoinOperator, ObjectName, Query, SelectItem, SetExpr,
    Statement, TableFactor, Value, VisitMut, VisitorMut, visit_expressions, visit_relations,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;

static COMPATIBLE: LazyLock<PostgresCompatibilityParser> =
    LazyLock::new(PostgresCompatibilityParser::new);

/// Questions beyond what DataFusion plans, each known by a name in it, and what is asked instead.
const WHOLE: [(&str, &str); 1] = [
    // asyncpg asks for types: those that there are have no types inside them but elements.
    (
        "typeinfo_tree",
        "SELECT t.oid AS oid, ns.nspname AS ns, t.typname AS name, t.typtype AS kind,
                NULL AS basetype, t.typelem AS elemtype, e.typdelim AS elemdelim,
                NULL AS range_subtype, NULL AS attrtypoids, NULL AS attrnames, 0 AS depth,
                NULL AS basetype_name, e.typname AS elemtype_name, NULL AS range_subtype_name
           FROM pg_catalog.pg_type AS t
           JOIN pg_catalog.pg_namespace AS ns ON ns.oid = t.typnamespace
           LEFT JOIN pg_catalog.pg_type AS e ON t.typlen = -1 AND t.typelem = e.oid
          WHERE t.oid = any($1::oid[])",
    ),
];

/// Parses statements about the catalog.
///
/// # Errors
/// Where they cannot be parsed.
pub(super) fn parse(sql: &str) -> Result<Vec<Statement>, ParserError> {
    let of_types = sql.contains("pg_type");
    let asked = WHOLE
        .iter()
        .find(|(mark, _)| of_types && sql.contains(mark));
    let sql = asked.map_or(sql, |(_, instead)| instead);
    let mut statements = COMPATIBLE.parse(sql)?;
    for statement in &mut statements {
        if about_the_catalog(statement) {
            let _complete = rewrite(statement);
        }
    }
    Ok(statements)
}

fn rewrite(statement: &mut Statement) -> ControlFlow<()> {
    statement.visit(&mut Rewriting)
}

/// What is left to do.
struct Rewriting;

/// Columns of functions, which are texts here: none is `-`, where others have 0.
const OF_FUNCTIONS: [&str; 8] = [
    "typanalyze",
    "typinput",
    "typmodin",
    "typmodout",
    "typoutput",
    "typreceive",
    "typsend",
    "typsubscript",
];

impl VisitorMut for Rewriting {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => {
                if let Some(replaced) = replaced(function) {
                    *expr = replaced;
                }
            }
            // A part of such a list.
            Expr::CompoundFieldAccess { root, access_chain }
                if matches!(access_chain[..], [AccessExpr::Dot(_)])
                    || is_list(root)
                    || matches!(&access_chain[..], [AccessExpr::Dot(list), ..] if is_list(list)) =>
            {
                *expr = no_number();
            }
            Expr::Subquery(query) if is_of_nothing(query) => {
                *expr = Expr::Value(Value::Null.into());
            }
            Expr::Subquery(query) if is_of_catalog(query) => aggregate(query),
            Expr::Like {
                pattern,
                escape_char,
                ..
            }
            | Expr::ILike {
                pattern,
                escape_char,
                ..
            } => {
                if let Some(escape) = escape_char.take() {
                    **pattern = with_backslashes(pattern, &escape.to_string());
                }
            }
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq | BinaryOperator::NotEq,
                right,
            } if of_functions(left) => {
                if is_zero(right) {
                    **right = text("-");
                } else if let Some(name) = function_of(right) {
                    **right = text(&name);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Tables without rows for a store of events, or without rows for its columns.
const EMPTY: [&str; 10] = [
    "pg_attrdef",
    "pg_collation",
    "pg_constraint",
    "pg_depend",
    "pg_description",
    "pg_index",
    "pg_inherits",
    "pg_policy",
    "pg_sequence",
    "pg_trigger",
];

/// True where a subquery asks the catalog alone.
fn is_of_catalog(query: &Query) -> bool {
    let mut all = true;
    let _complete = visit_relations(query, |name| {
        all &= of_catalog(name);
        ControlFlow::<()>::Continue(())
    });
    all
}

/// True where a subquery gives no value, whatever is asked of it.
fn is_of_nothing(query: &Query) -> bool {
    let SetExpr::Select(select) = &*query.body else {
        return false;
    };
    let counts = select
        .projection
        .iter()
        .any(|item| item.to_string().contains("count("));
    let [from] = &select.from[..] else {
        return false;
    };
    let TableFactor::Table { name, .. } = &from.relation else {
        return false;
    };
    let inner = from.joins.iter().all(|join| {
        matches!(
            join.join_operator,
            JoinOperator::Join(_) | JoinOperator::Inner(_)
        )
    });
    let last = name.0.last().and_then(|part| part.as_ident());
    inner && !counts && last.is_some_and(|last| EMPTY.contains(&last.value.as_str()))
}

/// A subquery of one value gives the least of one: DataFusion wants to be sure that there is one.
fn aggregate(query: &mut Query) {
    let SetExpr::Select(select) = &mut *query.body else {
        return;
    };
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
    };
    let [item] = &mut select.projection[..] else {
        return;
    };
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
        return;
    };
    let aggregates = [
        "count(",
        "min(",
        "max(",
        "sum(",
        "array_agg(",
        "string_agg(",
        "bool_",
    ];
    let told = expr.to_string().to_ascii_lowercase();
    let is_one = aggregates.iter().any(|aggregate| told.contains(aggregate));
    if grouped || is_one || select.from.is_empty() {
        return;
    }
    let parser = Parser::new(&PostgreSqlDialect {}).try_with_sql("min(x)");
    let Ok(Expr::Function(mut function)) = parser.and_then(|mut parser| parser.parse_expr()) else {
        return;
    };
    if let FunctionArguments::List(list) = &mut function.args {
        let inner = std::mem::replace(expr, Expr::Value(Value::Null.into()));
        list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(inner))];
        *expr = Expr::Function(function);
        query.limit_clause = None;
        query.order_by = None;
    }
}

/// What stands for a function that there is not.
fn replaced(function: &Function) -> Option<Expr> {
    let name = function.name.to_string().to_ascii_lowercase();
    let (table, column) = match name.as_str() {
        // A list of what no store of events has.
        "array" if function.to_string().contains("pg_") => {
            return Some(Expr::Value(Value::Null.into()));
        }
        // Lists of the columns of keys and indexes, of which there are none.
        "unnest" | "generate_subscripts" | "_pg_expandarray" if of_columns(function) => {
            return Some(no_number());
        }
        "to_regclass" => ("pg_class", "relname"),
        "to_regtype" => ("pg_type", "typname"),
        "to_regnamespace" => ("pg_namespace", "nspname"),
        _ => return None,
    };
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(asked))] = &list.args[..] else {
        return None;
    };
    let asked = match asked {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(name) => {
                let bare = name.rsplit('.').next()?.trim_matches('"');
                text(bare).to_string()
            }
            other => other.to_string(),
        },
        other => other.to_string(),
    };
    let sql = format!("(SELECT min(oid) FROM pg_catalog.{table} WHERE {column} = {asked})");
    let parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(&sql);
    parser.and_then(|mut parser| parser.parse_expr()).ok()
}

/// A pattern whose letters are escaped by a backslash, and not by another sign.
fn with_backslashes(pattern: &Expr, escape: &str) -> Expr {
    let sql = format!("replace({pattern}, {escape}, '\\')");
    let parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(&sql);
    let replaced = parser.and_then(|mut parser| parser.parse_expr());
    replaced.unwrap_or_else(|_| pattern.clone())
}

/// The name of a column, without its table's; `None` where it is something else.
fn column_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Identifier(name) => Some(&name.value),
        Expr::CompoundIdentifier(names) => names.last().map(|name| name.value.as_str()),
        _ => None,
    }
}

/// Columns of the catalog that are lists there, and texts here.
fn is_list(expr: &Expr) -> bool {
    let lists = [
        "conkey",
        "confkey",
        "indclass",
        "indcollation",
        "indkey",
        "indoption",
        "keys",
    ];
    // By other names, too, whose ends they are.
    column_name(expr).is_some_and(|name| {
        let name = name.to_ascii_lowercase();
        lists.iter().any(|list| name.ends_with(list))
    })
}

/// True where a function is called with a column.
fn of_columns(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else {
        return false;
    };
    match list.args.first() {
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(first))) => column_name(first).is_some(),
        _ => false,
    }
}

fn no_number() -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::Value(Value::Null.into())),
        data_type: DataType::Int(None),
        array: false,
        format: None,
    }
}

fn of_functions(expr: &Expr) -> bool {
    column_name(expr).is_some_and(|name| OF_FUNCTIONS.contains(&name))
}

/// The name in a subquery for a function's number.
fn function_of(expr: &Expr) -> Option<String> {
    let told = expr.to_string();
    let (_, rest) = told.split_once("proname = '")?;
    let name = rest.split('\'').next()?.rsplit('.').next()?;
    (matches!(expr, Expr::Subquery(_)) && told.contains("pg_proc")).then(|| name.to_owned())
}

fn is_zero(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(&value.value, Value::Number(digits, _) if digits == "0"))
}

fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

/// Functions that are of PostgreSQL's catalog, besides those whose names begin as such do.
const OF_THE_CATALOG: [&str; 24] = [
    "col_description",
    "current_catalog",
    "current_database",
    "current_role",
    "current_schema",
    "current_schemas",
    "current_setting",
    "current_user",
    "format_type",
    "inet_client_addr",
    "inet_server_addr",
    "inet_server_port",
    "obj_description",
    "parse_ident",
    "quote_ident",
    "session_user",
    "set_config",
    "shobj_description",
    "_pg_expandarray",
    "to_regclass",
    "to_regnamespace",
    "to_regtype",
    "user",
    "version",
];

/// True for names of the catalog.
fn of_catalog(name: &ObjectName) -> bool {
    let first = name.0.first().and_then(|part| part.as_ident());
    first.is_some_and(|first| {
        let first = first.value.to_ascii_lowercase();
        first.starts_with("pg_") || first == "information_schema"
    })
}

/// True where a statement asks for PostgreSQL's catalog.
pub(super) fn about_the_catalog(statement: &Statement) -> bool {
    let relation = visit_relations(statement, |name| match of_catalog(name) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    let expr = visit_expressions(statement, |expr| {
        let found = match expr {
            Expr::Function(function) => {
                let name = function.name.to_string().to_ascii_lowercase();
                of_catalog(&function.name)
                    || name.starts_with("has_")
                    || OF_THE_CATALOG.contains(&name.as_str())
            }
            Expr::Identifier(name) => {
                name.quote_style.is_none()
                    && matches!(
                        name.value.to_ascii_lowercase().as_str(),
                        "current_schema" | "current_user" | "session_user"
                    )
            }
            Expr::Cast { data_type, .. } => match data_type {
                DataType::Regclass => true,
                DataType::Custom(name, _) => {
                    let name = name.to_string().to_ascii_lowercase();
                    name.starts_with("reg") || name.starts_with("pg_catalog.") || name == "oid"
                }
                _ => false,
            },
            Expr::BinaryOp { op, .. } => {
                matches!(op, BinaryOperator::PGCustomBinaryOperator(_))
            }
            _ => false,
        };
        match found {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    relation.is_break() || expr.is_break()
}
