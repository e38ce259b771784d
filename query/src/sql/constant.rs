//! Constant expressions: literals, casts, intervals, `now() - INTERVAL '1 day'` and the like.

use std::sync::Arc;

use arrow_schema::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{self, ExprWithAlias, Spanned};

use super::error::SqlError;
use crate::behaviour::{Literal, Span, micros};

/// What constants need to know: the present, the zone.
#[derive(Clone, Copy)]
pub(super) struct Constants<'s> {
    pub(super) state: &'s SessionState,
    /// The zone that times without one are told in.
    pub(super) zone: &'s Arc<str>,
}

impl Constants<'_> {
    /// An expression over the columns of `schema`, not yet simplified.
    pub(super) fn expression(&self, expr: &ast::Expr, schema: &DFSchema) -> Result<Expr, SqlError> {
        let expr = ExprWithAlias {
            expr: expr.clone(),
            alias: None,
        };
        Ok(self.state.create_logical_expr_from_sql_expr(expr, schema)?)
    }

    /// The value of an expression without columns; `None` where it has some, or depends on chance.
    pub(super) fn fold(&self, expr: &Expr) -> Result<Option<ScalarValue>, SqlError> {
        if let Expr::Literal(value, _) = expr {
            return Ok(Some(value.clone()));
        }
        let has_columns = expr.exists(|expr| Ok(matches!(expr, Expr::Column(_))))?;
        if has_columns {
            return Ok(None);
        }
        Ok(match self.simplified(expr.clone(), &DFSchema::empty())? {
            Expr::Literal(value, _) => Some(value),
            _ => None,
        })
    }

    /// The expression over the columns of `schema` with its types made to fit, its constants folded.
    pub(super) fn simplified(&self, expr: Expr, schema: &DFSchema) -> Result<Expr, SqlError> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(
                self.state.execution_props().query_execution_start_time,
            )
            .build();
        let simplifier = ExprSimplifier::new(context);
        let expr = simplifier.coerce(expr, schema)?;
        Ok(simplifier.simplify(expr)?)
    }

    /// The value of an argument that must be constant.
    pub(super) fn value(&self, expr: &ast::Expr) -> Result<ScalarValue, SqlError> {
        let planned = self.expression(expr, &DFSchema::empty());
        let folded = planned.and_then(|planned| self.fold(&planned));
        match folded {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(SqlError::at(
                expr.span(),
                format!("`{expr}` must be a constant"),
            )),
            Err(error) => Err(SqlError::at(
                expr.span(),
                format!("`{expr}` must be a constant: {error}"),
            )),
        }
    }

    /// A length of time: an interval, or its text.
    pub(super) fn span(&self, expr: &ast::Expr) -> Result<Span, SqlError> {
        let wrong = |why: &str| SqlError::at(expr.span(), format!("`{expr}` {why}"));
        let not_one = "is not a length of time; write INTERVAL '30 minutes'";
        let interval = self
            .value(expr)?
            .cast_to(&DataType::Interval(IntervalUnit::MonthDayNano))
            .map_err(|_| wrong(not_one))?;
        let ScalarValue::IntervalMonthDayNano(Some(interval)) = interval else {
            return Err(wrong(not_one));
        };
        if interval.months != 0 {
            return Err(wrong(
                "has months or years, which differ in length; write it in days",
            ));
        }
        if interval.nanoseconds % 1_000 != 0 {
            return Err(wrong("is finer than a microsecond"));
        }
        let day_micros = i64::from(interval.days).checked_mul(86_400_000_000);
        let total = day_micros.and_then(|days| days.checked_add(interval.nanoseconds / 1_000));
        total
            .map(micros)
            .ok_or_else(|| wrong("is longer than can be told in microseconds"))
    }

    /// A point in time, in microseconds since 1970-01-01 UTC; text without a zone is in the
    /// session's.
    pub(super) fn time(&self, expr: &ast::Expr) -> Result<i64, SqlError> {
        let value = self.value(expr)?;
        self.as_time(&value).ok_or_else(|| {
            let what = "is not a point in time; write TIMESTAMP '2025-03-01 12:00:00'";
            SqlError::at(expr.span(), format!("`{expr}` {what}"))
        })
    }

    /// The value as a point in time, if it can be one.
    pub(super) fn as_time(&self, value: &ScalarValue) -> Option<i64> {
        let is_time = matches!(
            value.data_type(),
            DataType::Timestamp(..)
                | DataType::Date32
                | DataType::Date64
                | DataType::Utf8
                | DataType::Utf8View
                | DataType::LargeUtf8
        );
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::clone(self.zone)));
        match is_time.then(|| value.cast_to(&zoned))?.ok()? {
            ScalarValue::TimestampMicrosecond(micros, _) => micros,
            _ => None,
        }
    }
}

/// The literal of a condition that means this value; `None` where there is none of its type.
pub(super) fn literal(value: &ScalarValue) -> Option<Literal> {
    if value.is_null() {
        return Some(Literal::Null);
    }
    let cast = |to: &DataType| value.cast_to(to).ok();
    let data_type = value.data_type();
    Some(match value {
        ScalarValue::Boolean(Some(value)) => Literal::Bool(*value),
        ScalarValue::UInt64(Some(value)) => match i64::try_from(*value) {
            Ok(value) => Literal::I64(value),
            Err(_) => Literal::F64(*value as f64),
        },
        _ if data_type.is_integer() => match cast(&DataType::Int64)? {
            ScalarValue::Int64(Some(value)) => Literal::I64(value),
            _ => return None,
        },
        _ if data_type.is_numeric() => match cast(&DataType::Float64)? {
            ScalarValue::Float64(Some(value)) => Literal::F64(value),
            _ => return None,
        },
        _ if data_type.is_string() => match cast(&DataType::Utf8)? {
            ScalarValue::Utf8(Some(value)) => Literal::Text(value),
            _ => return None,
        },
        _ => match cast(&DataType::Timestamp(TimeUnit::Microsecond, None))? {
            ScalarValue::TimestampMicrosecond(Some(value), _) => Literal::Timestamp(value),
            _ => return None,
        },
    })
}
