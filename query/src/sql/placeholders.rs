//! What types the values of placeholders will have, told from where they stand: before there are
//! values, for clients that send them in a form of their type.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use arrow_schema::{DataType, SchemaRef};
use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, LimitClause,
    Query, Statement, Value, Visit, Visitor,
};

use super::parameters::Parameter;
use super::session::SqlStatement;

/// The type of a placeholder's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceholderType {
    /// A truth.
    Bool,
    /// A whole number.
    Whole,
    /// A number.
    Float,
    /// A text: also where nothing tells.
    Text,
    /// A point in time.
    Time,
    /// A length of time.
    Interval,
    /// The text of a length of time, behind `INTERVAL`.
    IntervalText,
    /// The number of something in a catalog.
    Oid,
    /// A list of such numbers.
    Oids,
    /// A list of whole numbers.
    Wholes,
    /// A list of numbers.
    Floats,
    /// A list of texts.
    Texts,
}

impl PlaceholderType {
    /// A value that stands for those that are not known yet, where a statement is only planned.
    pub fn sample(self) -> Parameter {
        let text = |text: &str| Parameter::Text(text.to_owned());
        match self {
            Self::Bool => Parameter::Bool(true),
            Self::Whole | Self::Oid => Parameter::Whole(1),
            Self::Float => Parameter::Float(1.0),
            Self::Text => text("x"),
            Self::IntervalText => text("1 day"),
            Self::Interval => Parameter::Interval("1 day".to_owned()),
            Self::Time => Parameter::Time {
                text: "2000-01-01".to_owned(),
                zoned: true,
            },
            Self::Wholes | Self::Oids => Parameter::List(vec![Parameter::Whole(1)]),
            Self::Floats => Parameter::List(vec![Parameter::Float(1.0)]),
            Self::Texts => Parameter::List(vec![text("x")]),
        }
    }
}

/// Arguments that are numbers, times and lengths of time, in all functions that have them.
const NUMBERS: [&str; 19] = [
    "after_step",
    "at_least",
    "at_most",
    "before_step",
    "bins",
    "control_size",
    "exactly",
    "from_step",
    "k",
    "level",
    "limit",
    "min_users",
    "n",
    "on_days",
    "periods",
    "scale",
    "steps",
    "to_step",
    "top",
];
const TIMES: [&str; 4] = ["as_of", "cohort", "since", "until"];
const INTERVALS: [&str; 7] = [
    "gap",
    "idle_for",
    "last",
    "lookback",
    "then_within",
    "window",
    "within",
];
const FLAGS: [&str; 6] = [
    "collapse",
    "first_time",
    "optional",
    "recurring",
    "rolling",
    "shop",
];

impl SqlStatement {
    /// The placeholders by their names without `$`, with the types that `tables` and the places
    /// where they stand give them.
    pub fn placeholders(
        &self,
        tables: &[(&'static str, SchemaRef)],
    ) -> BTreeMap<String, PlaceholderType> {
        let mut found = Found {
            tables,
            types: BTreeMap::new(),
        };
        let mut statement = &self.0;
        while let DFStatement::Explain(explain) = statement {
            statement = &explain.statement;
        }
        if let DFStatement::Statement(statement) = statement {
            let _complete = visit(statement, &mut found);
        }
        let types = found.types.into_iter();
        types
            .map(|(name, known)| (name, known.unwrap_or(PlaceholderType::Text)))
            .collect()
    }
}

fn visit(statement: &Statement, found: &mut Found<'_>) -> ControlFlow<()> {
    statement.visit(found)
}

struct Found<'t> {
    tables: &'t [(&'static str, SchemaRef)],
    types: BTreeMap<String, Option<PlaceholderType>>,
}

impl Visitor for Found<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        use PlaceholderType::Whole;
        match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                self.note(limit.as_ref(), Some(Whole));
                self.note(offset.as_ref().map(|offset| &offset.value), Some(Whole));
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
                self.note([offset, limit], Some(Whole));
            }
            None => {}
        }
        let fetch = query.fetch.as_ref();
        self.note(fetch.and_then(|fetch| fetch.quantity.as_ref()), Some(Whole));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Value(value) => {
                if let Value::Placeholder(name) = &value.value {
                    self.types.entry(bare(name).to_owned()).or_default();
                }
            }
            Expr::Cast {
                expr, data_type, ..
            } => self.note([&**expr], of_name(data_type)),
            Expr::Interval(interval) => {
                self.note([&*interval.value], Some(PlaceholderType::IntervalText));
            }
            Expr::BinaryOp { left, op, right } => {
                self.note([&**right], self.beside(left, op));
                self.note([&**left], self.beside(right, op));
            }
            Expr::Between {
                expr, low, high, ..
            } => {
                let known = self
                    .of(expr)
                    .or_else(|| self.of(low))
                    .or_else(|| self.of(high));
                self.note([&**expr, low, high], known);
            }
            Expr::InList { expr, list, .. } => {
                let known = self
                    .of(expr)
                    .or_else(|| list.iter().find_map(|one| self.of(one)));
                self.note(std::iter::once(&**expr).chain(list), known);
            }
            Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } => {
                use PlaceholderType as T;
                let list = match self.of(left) {
                    Some(T::Whole) => T::Wholes,
                    Some(T::Float) => T::Floats,
                    Some(T::Oid) => T::Oids,
                    _ => T::Texts,
                };
                self.note([inside(right)], Some(list));
            }
            Expr::Like { expr, pattern, .. } | Expr::ILike { expr, pattern, .. } => {
                self.note([&**expr, pattern], Some(PlaceholderType::Text));
            }
            Expr::Function(function) => {
                if let FunctionArguments::List(list) = &function.args {
                    self.arguments(&list.args);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &ast::TableFactor) -> ControlFlow<()> {
        if let ast::TableFactor::Table {
            args: Some(args), ..
        } = factor
        {
            self.arguments(&args.args);
        }
        ControlFlow::Continue(())
    }
}

impl Found<'_> {
    /// Notes the type of those that are placeholders and have none so far.
    fn note<'e>(
        &mut self,
        exprs: impl IntoIterator<Item = &'e Expr>,
        known: Option<PlaceholderType>,
    ) {
        for expr in exprs {
            if let Expr::Value(value) = inside(expr)
                && let Value::Placeholder(name) = &value.value
            {
                let noted = self.types.entry(bare(name).to_owned()).or_default();
                *noted = noted.or(known);
            }
        }
    }

    fn arguments(&mut self, args: &[FunctionArg]) {
        use PlaceholderType as T;
        for arg in args {
            let (name, value) = match arg {
                FunctionArg::Named { name, arg, .. } => (name.value.clone(), arg),
                FunctionArg::ExprNamed { name, arg, .. } => (name.to_string(), arg),
                FunctionArg::Unnamed(_) => continue,
            };
            let name = name.to_ascii_lowercase();
            let of = |names: &[&str]| names.contains(&name.as_str());
            let known = match () {
                () if of(&NUMBERS) => Some(T::Whole),
                () if of(&TIMES) => Some(T::Time),
                () if of(&INTERVALS) => Some(T::Interval),
                () if of(&FLAGS) => Some(T::Bool),
                () => None,
            };
            if let FunctionArgExpr::Expr(value) = value {
                self.note([value], known);
            }
        }
    }

    /// The type of what stands beside `other` in an operation.
    fn beside(&self, other: &Expr, op: &BinaryOperator) -> Option<PlaceholderType> {
        use PlaceholderType as T;
        let arithmetic = matches!(op, BinaryOperator::Plus | BinaryOperator::Minus);
        match self.of(other) {
            Some(T::Time) if arithmetic => Some(T::Interval),
            known => known,
        }
    }

    /// The type of an expression, as far as it is plain.
    fn of(&self, expr: &Expr) -> Option<PlaceholderType> {
        use PlaceholderType as T;
        match inside(expr) {
            Expr::Identifier(name) => self.column(&name.value),
            Expr::CompoundIdentifier(names) => self.column(&names.last()?.value),
            Expr::Value(value) => match &value.value {
                Value::Number(digits, _) => Some(match digits.parse::<i64>() {
                    Ok(_) => T::Whole,
                    Err(_) => T::Float,
                }),
                Value::SingleQuotedString(_) => Some(T::Text),
                Value::Boolean(_) => Some(T::Bool),
                Value::Placeholder(name) => self.types.get(bare(name)).copied().flatten(),
                _ => None,
            },
            Expr::Cast { data_type, .. } => of_name(data_type),
            Expr::TypedString(typed) => of_name(&typed.data_type),
            Expr::Interval(_) => Some(T::Interval),
            Expr::BinaryOp { left, right, .. } => self.of(left).or_else(|| self.of(right)),
            Expr::Function(function) => {
                let name = function
                    .name
                    .0
                    .last()?
                    .as_ident()?
                    .value
                    .to_ascii_lowercase();
                Some(match name.as_str() {
                    "count" | "length" | "char_length" | "date_part" | "row_number" => T::Whole,
                    "avg" | "sum" | "stddev" | "median" | "ln" | "sqrt" => T::Float,
                    "now" | "date_trunc" | "date_bin" | "to_timestamp" => T::Time,
                    "lower" | "upper" | "trim" | "concat" | "substr" | "replace" => T::Text,
                    _ => return None,
                })
            }
            Expr::Substring { .. } | Expr::Trim { .. } => Some(T::Text),
            _ => None,
        }
    }

    fn column(&self, name: &str) -> Option<PlaceholderType> {
        use PlaceholderType as T;
        let fields = self.tables.iter().map(|(_, schema)| schema.fields());
        let field = fields.flatten().find(|field| field.name() == name)?;
        Some(match field.data_type() {
            DataType::Boolean => T::Bool,
            DataType::Int64 => T::Whole,
            DataType::Float64 => T::Float,
            DataType::Timestamp(..) => T::Time,
            _ => T::Text,
        })
    }
}

/// The name of a placeholder without its sign.
fn bare(name: &str) -> &str {
    name.strip_prefix('$').unwrap_or(name)
}

/// What stands in brackets.
fn inside(mut expr: &Expr) -> &Expr {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

/// The type that SQL calls so.
fn of_name(data_type: &ast::DataType) -> Option<PlaceholderType> {
    use PlaceholderType as T;
    Some(match data_type {
        ast::DataType::Boolean | ast::DataType::Bool => T::Bool,
        ast::DataType::SmallInt(_)
        | ast::DataType::Int(_)
        | ast::DataType::Integer(_)
        | ast::DataType::BigInt(_)
        | ast::DataType::Int2(_)
        | ast::DataType::Int4(_)
        | ast::DataType::Int8(_) => T::Whole,
        ast::DataType::Float(_)
        | ast::DataType::Float4
        | ast::DataType::Float8
        | ast::DataType::Real
        | ast::DataType::Double(_)
        | ast::DataType::DoublePrecision
        | ast::DataType::Numeric(_)
        | ast::DataType::Decimal(_) => T::Float,
        ast::DataType::Timestamp(..) | ast::DataType::Date => T::Time,
        ast::DataType::Interval { .. } => T::Interval,
        ast::DataType::Text
        | ast::DataType::Varchar(_)
        | ast::DataType::Char(_)
        | ast::DataType::CharacterVarying(_) => T::Text,
        ast::DataType::Regclass => T::Oid,
        // As PostgreSQL calls them, with its schema before the name or not.
        ast::DataType::Custom(name, _) => {
            let last = name.0.last()?.as_ident()?.value.to_ascii_lowercase();
            match last.as_str() {
                "bool" => T::Bool,
                "int2" | "int4" | "int8" => T::Whole,
                "float4" | "float8" | "numeric" => T::Float,
                "timestamptz" | "timestamp" | "date" => T::Time,
                "interval" => T::Interval,
                "oid" => T::Oid,
                "_int2" | "_int4" | "_int8" => T::Wholes,
                "_float4" | "_float8" | "_numeric" => T::Floats,
                "_text" | "_varchar" => T::Texts,
                "_oid" => T::Oids,
                _ => return None,
            }
        }
        ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(element, _)) => {
            match of_name(element) {
                Some(T::Oid) => T::Oids,
                Some(T::Whole) => T::Wholes,
                Some(T::Float) => T::Floats,
                _ => T::Texts,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::{Field, Schema};

    use super::super::Session;
    use super::*;

    #[test]
    fn types_are_told_from_where_placeholders_stand() {
        let time = super::super::catalog::time_type(&Arc::from("UTC"));
        let events = Schema::new(vec![
            Field::new("time", time, false),
            Field::new("price", DataType::Float64, true),
            Field::new("size", DataType::Int64, true),
        ]);
        let tables = [("events", Arc::new(events))];
        let told = |sql: &str| {
            let statement = Session::parse(sql).unwrap().remove(0);
            let types = statement.placeholders(&tables).into_iter();
            types
                .map(|(name, known)| format!("{name} {known:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        for (sql, types) in [
            ("SELECT 1", ""),
            ("SELECT $1", "1 Text"),
            ("SELECT $1::bigint, $2 + 1.5", "1 Whole, 2 Float"),
            (
                "SELECT 1 FROM events WHERE price > $1 AND size IN ($2, $3)",
                "1 Float, 2 Whole, 3 Whole",
            ),
            (
                "SELECT 1 FROM events e WHERE e.time BETWEEN $1 AND ($2)",
                "1 Time, 2 Time",
            ),
            (
                "SELECT 1 FROM events WHERE time > now() - $1 LIMIT $2 OFFSET $3",
                "1 Interval, 2 Whole, 3 Whole",
            ),
            (
                "SELECT 1 FROM events WHERE size = ANY($1) AND event LIKE $2",
                "1 Wholes, 2 Text",
            ),
            (
                "SELECT 1 FROM funnel(step($1), step(price > $2, optional => $3), within => $4, as_of => $5) \
                 WHERE did(event = $1, at_least => $6, last => INTERVAL $7)",
                "1 Text, 2 Float, 3 Bool, 4 Interval, 5 Time, 6 Whole, 7 IntervalText",
            ),
            (
                "EXPLAIN SELECT count(*) FROM events HAVING count(*) > $1",
                "1 Whole",
            ),
        ] {
            assert_eq!(told(sql), types, "{sql}");
        }
    }
}
