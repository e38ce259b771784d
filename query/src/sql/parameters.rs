//! Values for the placeholders of a statement: `$name` and `$1` stand wherever a literal may.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::sqlparser::ast::{
    Array, BinaryOperator, CastKind, DataType, Expr, Interval, Spanned, Statement, TimezoneInfo,
    UnaryOperator, Value, VisitMut, VisitorMut,
};

use super::error::SqlError;
use super::session::SqlStatement;

/// A value for a placeholder.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// NULL.
    Null,
    /// A truth.
    Bool(bool),
    /// A whole number.
    Whole(i64),
    /// A number.
    Float(f64),
    /// A text: also of a time, and of an interval behind `INTERVAL`.
    Text(String),
    /// A point in time, by its text.
    Time {
        /// The text.
        text: String,
        /// Whether it has a zone; else it is in the session's.
        zoned: bool,
    },
    /// A length of time, by its text.
    Interval(String),
    /// A list, for `= ANY($name)` and `<> ALL($name)`.
    List(Vec<Self>),
}

/// Values by the names of their placeholders, without `$`.
pub type Parameters = BTreeMap<String, Parameter>;

impl SqlStatement {
    /// The statement with values in the place of its placeholders.
    ///
    /// ```
    /// use pugmark_query::sql::{Parameter, Parameters, Session};
    /// let mut statements = Session::parse("SELECT count(*) FROM users WHERE did($event)")?;
    /// let values = Parameters::from([("event".to_owned(), Parameter::Text("view".to_owned()))]);
    /// let statement = statements.remove(0).bind(&values)?;
    /// assert_eq!(statement.to_string(), "SELECT count(*) FROM users WHERE did('view')");
    /// # Ok::<(), pugmark_query::sql::SqlError>(())
    /// ```
    ///
    /// # Errors
    /// Where a placeholder has no value, or a value no placeholder.
    pub fn bind(mut self, values: &Parameters) -> Result<Self, SqlError> {
        let mut binding = Binding {
            values,
            used: BTreeSet::new(),
        };
        let mut statement = &mut self.0;
        while let DFStatement::Explain(explain) = statement {
            statement = &mut explain.statement;
        }
        let bound = match statement {
            DFStatement::Statement(statement) => visit(statement, &mut binding),
            _ => ControlFlow::Continue(()),
        };
        if let ControlFlow::Break(error) = bound {
            return Err(error);
        }
        match values.keys().find(|name| !binding.used.contains(*name)) {
            Some(name) => Err(SqlError::of(format!(
                "a value is given for `{name}`, but no placeholder is `${name}`"
            ))),
            None => Ok(self),
        }
    }
}

fn visit(statement: &mut Statement, binding: &mut Binding<'_>) -> ControlFlow<SqlError> {
    statement.visit(binding)
}

struct Binding<'v> {
    values: &'v Parameters,
    used: BTreeSet<&'v String>,
}

impl VisitorMut for Binding<'_> {
    type Break = SqlError;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let span = expr.span();
        let Expr::Value(value) = &*expr else {
            return ControlFlow::Continue(());
        };
        let Value::Placeholder(placeholder) = &value.value else {
            return ControlFlow::Continue(());
        };
        let name = placeholder.strip_prefix('$').unwrap_or(placeholder);
        match self.values.get_key_value(name) {
            Some((name, value)) => {
                self.used.insert(name);
                *expr = literal(value);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(SqlError::at(
                span,
                format!("no value is given for `{placeholder}`"),
            )),
        }
    }

    /// A comparison with a list is one with its values.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let (left, right, negated) = match expr {
            Expr::AnyOp {
                left,
                compare_op: BinaryOperator::Eq,
                right,
                ..
            } => (left, right, false),
            Expr::AllOp {
                left,
                compare_op: BinaryOperator::NotEq,
                right,
            } => (left, right, true),
            _ => return ControlFlow::Continue(()),
        };
        // The type of its values is theirs.
        while let Expr::Nested(inner) | Expr::Cast { expr: inner, .. } = &mut **right {
            let inner = std::mem::replace(&mut **inner, Expr::Value(Value::Null.into()));
            **right = inner;
        }
        if let Expr::Array(array) = &mut **right {
            let list = std::mem::take(&mut array.elem);
            let left = std::mem::replace(&mut **left, Expr::Value(Value::Null.into()));
            *expr = match list.is_empty() {
                true => Expr::Value(Value::Boolean(negated).into()),
                false => Expr::InList {
                    expr: Box::new(left),
                    list,
                    negated,
                },
            };
        }
        ControlFlow::Continue(())
    }
}

fn quoted(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

fn literal(value: &Parameter) -> Expr {
    let number = |text: String| match text.strip_prefix('-') {
        Some(digits) => Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr: Box::new(Expr::Value(Value::Number(digits.to_owned(), false).into())),
        },
        None => Expr::Value(Value::Number(text, false).into()),
    };
    match value {
        Parameter::Null => Expr::Value(Value::Null.into()),
        Parameter::Bool(truth) => Expr::Value(Value::Boolean(*truth).into()),
        Parameter::Whole(whole) => number(whole.to_string()),
        // With a point or an exponent, so that it stays a float.
        Parameter::Float(float) => number(format!("{float:?}")),
        Parameter::Text(text) => quoted(text),
        Parameter::Time { text, zoned } => Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(quoted(text)),
            data_type: DataType::Timestamp(
                None,
                match zoned {
                    true => TimezoneInfo::WithTimeZone,
                    false => TimezoneInfo::None,
                },
            ),
            array: false,
            format: None,
        },
        Parameter::Interval(text) => Expr::Interval(Interval {
            value: Box::new(quoted(text)),
            leading_field: None,
            leading_precision: None,
            last_field: None,
            fractional_seconds_precision: None,
        }),
        Parameter::List(values) => Expr::Array(Array {
            elem: values.iter().map(literal).collect(),
            named: true,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Session;
    use super::*;

    fn bound(sql: &str, values: &[(&str, Parameter)]) -> Result<String, String> {
        let values = values.iter().cloned();
        let values: Parameters = values
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let statement = Session::parse(sql).unwrap().remove(0);
        let bound = statement
            .bind(&values)
            .map(|statement| statement.to_string());
        bound.map_err(|error| error.to_string())
    }

    #[test]
    fn placeholders_stand_wherever_literals_may() {
        let text = |text: &str| Parameter::Text(text.to_owned());
        let values = [
            ("name", text("it's")),
            ("least", Parameter::Whole(-2)),
            ("price", Parameter::Float(2.0)),
            ("days", text("7 days")),
            ("1", Parameter::Bool(true)),
            ("none", Parameter::Null),
        ];
        let sql = "SELECT $1, $none FROM funnel(step($name), step(price > $price), within => INTERVAL $days) \
                   WHERE did(event = $name, at_least => $least)";
        assert_eq!(
            bound(sql, &values).unwrap(),
            "SELECT true, NULL FROM funnel(step('it''s'), step(price > 2.0), within => INTERVAL '7 days') \
             WHERE did(event = 'it''s', at_least => -2)"
        );
    }

    #[test]
    fn lists_and_intervals_become_what_they_mean() {
        let list = Parameter::List(vec![Parameter::Whole(1), Parameter::Whole(-2)]);
        let values = [
            ("1", list),
            ("2", Parameter::List(Vec::new())),
            ("3", Parameter::Interval("3 days".to_owned())),
            (
                "4",
                Parameter::Time {
                    text: "2025-01-01".to_owned(),
                    zoned: true,
                },
            ),
        ];
        let sql =
            "SELECT x = ANY($1), x <> ALL(($1::bigint[])), x = ANY($2), x <> ALL($2), $4 - $3";
        assert_eq!(
            bound(sql, &values).unwrap(),
            "SELECT x IN (1, -2), x NOT IN (1, -2), false, true, \
             CAST('2025-01-01' AS TIMESTAMP WITH TIME ZONE) - INTERVAL '3 days'"
        );
    }

    #[test]
    fn missing_and_superfluous_values_are_told() {
        let one = [("a", Parameter::Null)];
        let error = bound("SELECT $a, $b", &one).unwrap_err();
        assert_eq!(error, "line 1, column 12: no value is given for `$b`");
        let explained = bound("EXPLAIN SELECT $a", &one).unwrap();
        assert!(explained.ends_with("SELECT NULL"), "{explained}");
        let error = bound("SELECT 1", &one).unwrap_err();
        assert_eq!(
            error,
            "a value is given for `a`, but no placeholder is `$a`"
        );
    }
}
