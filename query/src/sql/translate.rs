//! DataFusion's expressions as Pugmark's conditions.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator, expr::InList};

use super::constant::{Constants, literal};
use super::error::SqlError;
use crate::behaviour::{Comparison, Condition, Literal, Operand, TextTest};

/// What a column is to a condition, and how literals beside it are read.
#[derive(Clone, Debug)]
pub(super) struct BoundColumn {
    pub(super) operand: Operand,
    /// Text beside it is a point in time.
    pub(super) is_time: bool,
    /// Its column is of booleans.
    pub(super) is_bool: bool,
}

/// Turns expressions into conditions.
pub(super) struct Translator<'t> {
    pub(super) constants: Constants<'t>,
    /// Finds a column by its name.
    pub(super) column: &'t dyn Fn(&str) -> Option<BoundColumn>,
}

impl Translator<'_> {
    /// The condition that means the same as `expr`; `None` where there is none.
    pub(super) fn condition(&self, expr: &Expr) -> Result<Option<Condition>, SqlError> {
        Ok(match expr {
            Expr::Alias(alias) => self.condition(&alias.expr)?,
            Expr::Literal(ScalarValue::Boolean(Some(value)), _) => {
                Some(Condition::Constant((*value).into()))
            }
            Expr::Column(_) => self.bound(expr).filter(|bound| bound.is_bool).map(is_true),
            Expr::Not(inner) => self.condition(inner)?.map(Condition::not),
            Expr::IsNull(inner) => self.bound(inner).map(|bound| bound.operand.is_null()),
            Expr::IsNotNull(inner) => self.bound(inner).map(|bound| bound.operand.is_not_null()),
            Expr::BinaryExpr(binary) => self.binary(binary)?,
            Expr::Between(between) => self.between(between)?,
            Expr::InList(list) => self.in_list(list)?,
            Expr::Like(like) => self.like(like)?,
            _ => None,
        })
    }

    fn bound(&self, expr: &Expr) -> Option<BoundColumn> {
        match expr {
            Expr::Column(column) => (self.column)(&column.name),
            Expr::Alias(alias) => self.bound(&alias.expr),
            _ => None,
        }
    }

    fn binary(&self, binary: &BinaryExpr) -> Result<Option<Condition>, SqlError> {
        let BinaryExpr { left, op, right } = binary;
        if matches!(op, Operator::And | Operator::Or) {
            let (Some(one), Some(other)) = (self.condition(left)?, self.condition(right)?) else {
                return Ok(None);
            };
            return Ok(Some(match op {
                Operator::And => one.and(other),
                _ => one.or(other),
            }));
        }
        let Some(comparison) = comparison(*op) else {
            return Ok(None);
        };
        if let Some(bound) = self.bound(left) {
            let literal = self.literal(&bound, right)?;
            return Ok(literal.map(|literal| bound.operand.compare(comparison, literal)));
        }
        if let Some(bound) = self.bound(right) {
            let literal = self.literal(&bound, left)?;
            return Ok(literal.map(|literal| bound.operand.compare(comparison.mirrored(), literal)));
        }
        Ok(None)
    }

    fn between(&self, between: &Between) -> Result<Option<Condition>, SqlError> {
        let Some(bound) = self.bound(&between.expr) else {
            return Ok(None);
        };
        let low = self.literal(&bound, &between.low)?;
        let high = self.literal(&bound, &between.high)?;
        let inside = low
            .zip(high)
            .map(|(low, high)| bound.operand.between(low, high));
        Ok(inside.map(|inside| match between.negated {
            true => inside.not(),
            false => inside,
        }))
    }

    fn in_list(&self, list: &InList) -> Result<Option<Condition>, SqlError> {
        let Some(bound) = self.bound(&list.expr) else {
            return Ok(None);
        };
        let mut literals = Vec::with_capacity(list.list.len());
        for element in &list.list {
            match self.literal(&bound, element)? {
                Some(literal) => literals.push(literal),
                None => return Ok(None),
            }
        }
        let inside = bound.operand.is_in(literals);
        Ok(Some(match list.negated {
            true => inside.not(),
            false => inside,
        }))
    }

    fn like(&self, like: &Like) -> Result<Option<Condition>, SqlError> {
        let Some(bound) = self.bound(&like.expr) else {
            return Ok(None);
        };
        let pattern = self.constants.fold(&like.pattern)?;
        let Some(Literal::Text(pattern)) = pattern.as_ref().and_then(literal) else {
            return Ok(None);
        };
        let test = TextTest::like_escaped(&pattern, like.escape_char.or(Some('\\')));
        let test = match like.case_insensitive {
            true => test.ignoring_case(),
            false => test,
        };
        let passes = bound.operand.text(test);
        Ok(Some(match like.negated {
            true => passes.not(),
            false => passes,
        }))
    }

    /// The constant that a column is compared with.
    fn literal(&self, bound: &BoundColumn, expr: &Expr) -> Result<Option<Literal>, SqlError> {
        let Some(value) = self.constants.fold(expr)? else {
            return Ok(None);
        };
        if bound.is_time && !value.is_null() {
            if let Some(micros) = self.constants.as_time(&value) {
                return Ok(Some(Literal::Timestamp(micros)));
            }
            if value.data_type().is_string() {
                return Err(SqlError::of(format!(
                    "{value} is not a point in time; write '2025-03-01 12:00:00'"
                )));
            }
        }
        Ok(literal(&value))
    }
}

fn is_true(bound: BoundColumn) -> Condition {
    bound.operand.eq(true)
}

fn comparison(operator: Operator) -> Option<Comparison> {
    Some(match operator {
        Operator::Eq => Comparison::Equal,
        Operator::NotEq => Comparison::NotEqual,
        Operator::Lt => Comparison::Less,
        Operator::LtEq => Comparison::LessOrEqual,
        Operator::Gt => Comparison::Greater,
        Operator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
