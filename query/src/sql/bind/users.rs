//! Predicates over users: `did(…)`, traits, lists of ids, and what combines them.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, Query, Spanned, UnaryOperator,
    Value,
};

use super::super::error::SqlError;
use super::Binder;
use super::arguments::Arguments;
use super::questions::plain_arguments;
use crate::behaviour::{
    Aggregate, Comparison, Did, Literal, Segment, any, did, everyone, not, traits, users,
};

impl Binder<'_> {
    /// A predicate over users: those for whom it is true.
    pub(super) fn segment(&self, expr: &Expr) -> Result<Segment, SqlError> {
        self.predicate(expr, true)
    }

    /// The users for whom a predicate is true; without `wanted`, those for whom it is false. Both
    /// leave out those for whom it is unknown.
    fn predicate(&self, expr: &Expr, wanted: bool) -> Result<Segment, SqlError> {
        let so = |segment: Segment| if wanted { segment } else { not(segment) };
        match expr {
            Expr::Nested(inner) => self.predicate(inner, wanted),
            Expr::Value(value) if value.value == Value::Boolean(true) => Ok(so(everyone())),
            Expr::Value(value) if value.value == Value::Boolean(false) => Ok(so(not(everyone()))),
            Expr::BinaryOp {
                left,
                op: op @ (BinaryOperator::And | BinaryOperator::Or),
                right,
            } => {
                let (left, right) = (
                    self.predicate(left, wanted)?,
                    self.predicate(right, wanted)?,
                );
                // AND is false where either side is.
                Ok(match (*op == BinaryOperator::And) == wanted {
                    true => left.and(right),
                    false => left.or(right),
                })
            }
            Expr::UnaryOp { op, expr } if *op == UnaryOperator::Not => {
                self.predicate(expr, !wanted)
            }
            Expr::Function(function) if is_did(function) => Ok(so(self.did(function)?.into())),
            Expr::InList {
                expr: column,
                list,
                negated,
            } if is_user_id(column) => {
                let found = self.known_users(list)?;
                Ok(if *negated == wanted {
                    not(found)
                } else {
                    found
                })
            }
            Expr::InSubquery {
                expr: column,
                subquery,
                negated,
            } if is_user_id(column) => self.users_of(subquery, *negated != wanted),
            Expr::BinaryOp { left, op, right } if *op == BinaryOperator::Eq && is_user_id(left) => {
                Ok(so(self.known_users(std::slice::from_ref(right))?))
            }
            _ => match self.seen(expr, wanted)? {
                Some(found) => Ok(found),
                None => self.trait_condition(expr, wanted),
            },
        }
    }

    /// The users whom a subquery names; without `wanted`, the others.
    fn users_of(&self, subquery: &Query, wanted: bool) -> Result<Segment, SqlError> {
        let ids = self.subqueries.values(subquery)?;
        let texts = ids.iter().filter(|id| !id.is_null()).map(|id| {
            let fits = id.data_type().is_string() || id.data_type().is_integer();
            let wrong = || SqlError::at(subquery.span(), "the ids must be text or whole numbers");
            fits.then(|| id.to_string()).ok_or_else(wrong)
        });
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        if !wanted && texts.len() < ids.len() {
            // NOT IN a list with NULL holds for nobody.
            return Ok(not(everyone()));
        }
        let found = users(self.context.users(texts)?);
        Ok(if wanted { found } else { not(found) })
    }

    /// A comparison of `first_seen` or `last_seen` with a constant, in terms of who did anything.
    fn seen(&self, expr: &Expr, wanted: bool) -> Result<Option<Segment>, SqlError> {
        Ok(Some(match expr {
            Expr::IsNull(column) if Seen::of(column).is_some() => {
                if wanted {
                    not(did(any()))
                } else {
                    did(any()).into()
                }
            }
            Expr::IsNotNull(column) if Seen::of(column).is_some() => {
                if wanted {
                    did(any()).into()
                } else {
                    not(did(any()))
                }
            }
            Expr::Between {
                expr: column,
                negated,
                low,
                high,
            } if let Some(seen) = Seen::of(column) => {
                let low =
                    self.seen_than(seen, Comparison::GreaterOrEqual, low, *negated != wanted)?;
                let high =
                    self.seen_than(seen, Comparison::LessOrEqual, high, *negated != wanted)?;
                if *negated == wanted {
                    low.or(high)
                } else {
                    low.and(high)
                }
            }
            Expr::BinaryOp { left, op, right } => {
                let Some(found) = comparison(op) else {
                    return Ok(None);
                };
                match (Seen::of(left), Seen::of(right)) {
                    (Some(seen), None) => self.seen_than(seen, found, right, wanted)?,
                    (None, Some(seen)) => self.seen_than(seen, found.mirrored(), left, wanted)?,
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        }))
    }

    fn seen_than(
        &self,
        seen: Seen,
        comparison: Comparison,
        constant: &Expr,
        wanted: bool,
    ) -> Result<Segment, SqlError> {
        if self.constants().value(constant)?.is_null() {
            return Ok(not(everyone()));
        }
        let time = self.constants().time(constant)?;
        Ok(seen.than(
            if wanted {
                comparison
            } else {
                comparison.contrary()
            },
            time,
        ))
    }

    /// A comparison of a trait; its name may stand without `users.` here.
    fn trait_condition(&self, expr: &Expr, wanted: bool) -> Result<Segment, SqlError> {
        let condition = self.trait_conditions().bind(expr)?;
        let reads = condition.reads();
        if !reads.properties.is_empty() || reads.time || reads.event_name {
            return Err(SqlError::at(
                expr.span(),
                format!("`{expr}` asks events; put it into did(…) to ask their users"),
            ));
        }
        Ok(traits(if wanted { condition } else { condition.not() }))
    }

    fn known_users(&self, ids: &[Expr]) -> Result<Segment, SqlError> {
        let texts = ids.iter().map(|id| self.user_text(id));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        Ok(users(self.context.users(texts)?))
    }

    /// The text of a user's id.
    pub(super) fn user_text(&self, expr: &Expr) -> Result<String, SqlError> {
        let value = self.constants().value(expr)?;
        let fits = value.data_type().is_string() || value.data_type().is_integer();
        if !fits || value.is_null() {
            return Err(SqlError::at(expr.span(), format!("`{expr}` is no user id")));
        }
        Ok(value.to_string())
    }

    /// `did(condition, …)`.
    pub(super) fn did(&self, function: &Function) -> Result<Did, SqlError> {
        let span = function.name.span();
        let (arguments, tests) = split_tests(plain_arguments(function)?);
        let mut call = Arguments::new(self, "did", span, &arguments)?;
        let mut found = did(call.needed_condition("condition", "event = 'view'")?);
        for test in tests {
            found = self.aggregate(found, test)?;
        }
        found.zone = self.context.settings.zone.clone();
        found.at_least = call.count("at_least")?;
        found.at_most = call.count("at_most")?;
        found.exactly = call.count("exactly")?;
        found.on_days = call.count("on_days")?;
        found.then = call.condition("then")?;
        found.not_then = call.condition("not_then")?;
        found.then_within = call.span("then_within")?;
        found.holding = call.properties("holding")?;
        found.first_time = call.flag("first_time")?;
        found.idle_for = call.span("idle_for")?;
        found.range = call.range()?;
        call.finish()?;
        found
            .validate()
            .map_err(|invalid| SqlError::invalid(span, "did", &invalid))?;
        Ok(found)
    }

    /// `sum(price) > 100` and the like.
    fn aggregate(&self, found: Did, test: &Expr) -> Result<Did, SqlError> {
        let wrong = || {
            let what = format!("did: `{test}` is no test; write as sum(price) > 100");
            SqlError::at(test.span(), what)
        };
        let Expr::BinaryOp { left, op, right } = test else {
            return Err(wrong());
        };
        let (Expr::Function(function), Some(comparison)) = (&**left, comparison(op)) else {
            return Err(wrong());
        };
        let name = function.name.to_string().to_ascii_lowercase();
        let aggregate = aggregate(&name).ok_or_else(wrong)?;
        let mut call = Arguments::new(
            self,
            &name,
            function.name.span(),
            plain_arguments(function)?,
        )?;
        let property = call.next().ok_or_else(|| {
            SqlError::at(
                call.span,
                format!("{name}: name a property, as {name}(price)"),
            )
        })?;
        let property = self.conditions().property(property)?;
        call.finish()?;
        let value = self.constants().value(right)?;
        let literal = super::super::constant::literal(&value)
            .filter(|literal| *literal != Literal::Null)
            .ok_or_else(|| SqlError::at(right.span(), format!("`{right}` is no number")))?;
        Ok(found.aggregate(aggregate, &property, comparison, literal))
    }
}

/// A column of `users` that tells of their events.
#[derive(Clone, Copy)]
enum Seen {
    First,
    Last,
}

impl Seen {
    fn of(expr: &Expr) -> Option<Self> {
        let ident = match expr {
            Expr::Nested(inner) => return Self::of(inner),
            Expr::Identifier(ident) => ident,
            Expr::CompoundIdentifier(parts) => match &parts[..] {
                [table, ident] if table.value.eq_ignore_ascii_case("users") => ident,
                _ => return None,
            },
            _ => return None,
        };
        match ident.value.to_ascii_lowercase().as_str() {
            "first_seen" => Some(Self::First),
            "last_seen" => Some(Self::Last),
            _ => None,
        }
    }

    /// Those whose first (last) event stands so to `time`, in microseconds since 1970-01-01 UTC.
    fn than(self, comparison: Comparison, time: i64) -> Segment {
        // At or behind the end of time there is no event.
        let after = |time: i64| match time.checked_add(1) {
            Some(next) => self.since(next),
            None => not(everyone()),
        };
        let up_to = |time: i64| did(any()).and(not(after(time)));
        match comparison {
            Comparison::Less => did(any()).and(not(self.since(time))),
            Comparison::LessOrEqual => up_to(time),
            Comparison::Greater => after(time),
            Comparison::GreaterOrEqual => self.since(time),
            Comparison::Equal => self.since(time).and(up_to(time)),
            Comparison::NotEqual => did(any()).and(not(self.since(time).and(up_to(time)))),
        }
    }

    /// Those whose first (last) event is at `time` or later.
    fn since(self, time: i64) -> Segment {
        match self {
            Self::First => did(any()).and(not(did(any()).until(time))),
            Self::Last => did(any()).since(time).into(),
        }
    }
}

/// The options `sum(price) > 100` and the like apart from the others.
fn split_tests(arguments: &[FunctionArg]) -> (Vec<FunctionArg>, Vec<&Expr>) {
    let mut tests = Vec::new();
    let mut others = Vec::new();
    for argument in arguments {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) if is_test(expr) => tests.push(expr),
            _ => others.push(argument.clone()),
        }
    }
    (others, tests)
}

fn is_test(expr: &Expr) -> bool {
    let Expr::BinaryOp { left, .. } = expr else {
        return false;
    };
    let Expr::Function(function) = &**left else {
        return false;
    };
    aggregate(&function.name.to_string().to_ascii_lowercase()).is_some()
}

/// True for the call of `did`.
pub(super) fn is_did(function: &Function) -> bool {
    function.name.to_string().eq_ignore_ascii_case("did")
}

fn is_user_id(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(ident) => ident.value.eq_ignore_ascii_case("user_id"),
        Expr::CompoundIdentifier(parts) => parts
            .last()
            .is_some_and(|part| part.value.eq_ignore_ascii_case("user_id")),
        _ => false,
    }
}

fn aggregate(name: &str) -> Option<Aggregate> {
    Some(match name {
        "sum" => Aggregate::Sum,
        "avg" => Aggregate::Avg,
        "min" => Aggregate::Min,
        "max" => Aggregate::Max,
        "count_distinct" => Aggregate::CountDistinct,
        _ => return None,
    })
}

fn comparison(operator: &BinaryOperator) -> Option<Comparison> {
    Some(match operator {
        BinaryOperator::Eq => Comparison::Equal,
        BinaryOperator::NotEq => Comparison::NotEqual,
        BinaryOperator::Lt => Comparison::Less,
        BinaryOperator::LtEq => Comparison::LessOrEqual,
        BinaryOperator::Gt => Comparison::Greater,
        BinaryOperator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
