//! Plain SQL that asks who did something: recognised, and answered from bitmaps as `did(…)` is.
//!
//! ```text
//! user_id [NOT] IN (SELECT user_id FROM events [WHERE c] [GROUP BY user_id HAVING count(*) >= n])
//! [NOT] EXISTS (SELECT … FROM events e WHERE e.user_id = u.user_id [AND c])
//! SELECT count(DISTINCT user_id) FROM events [WHERE c]
//! SELECT DISTINCT user_id FROM events [WHERE c]
//! these with UNION, INTERSECT, EXCEPT
//! ```
//!
//! Only where each column of `c` has values of one type: a condition and SQL mean the same then.
//! What is not recognised is planned as any other SQL.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Distinct, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    Ident, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, TableFactor,
    UnaryOperator, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::super::catalog::{ColumnType, ScalarType};
use super::super::events_table::split_range;
use super::{Binder, plain_name};
use crate::behaviour::{Condition, Literal, Operand, Segment, TimeRange, TimeSpec, any, did, not};

impl Binder<'_> {
    /// The predicate that a test of the id of a user means; `users` is what they are called.
    pub(super) fn idiom(&self, expr: &Expr, users: &str) -> Option<Segment> {
        match expr {
            Expr::InSubquery {
                expr,
                subquery,
                negated,
            } if names_user(expr, users) => {
                let found = self.doers(select_of(subquery)?)?;
                Some(if *negated { not(found) } else { found })
            }
            Expr::Exists { subquery, negated } => {
                let found = self.correlated(select_of(subquery)?, users)?;
                Some(if *negated { not(found) } else { found })
            }
            _ => None,
        }
    }

    /// The users that a SELECT of ids out of `events` gives.
    fn doers(&self, select: &Select) -> Option<Segment> {
        let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] =
            &select.projection[..]
        else {
            return None;
        };
        let alias = events_alias(select)?;
        if !names_user(item, &alias) || !is_plain(select) {
            return None;
        }
        let condition = self.same_condition(select.selection.as_ref(), &alias)?;
        let at_least = match (&select.group_by, &select.having) {
            (GroupByExpr::Expressions(keys, modifiers), having) if modifiers.is_empty() => {
                match (&keys[..], having) {
                    ([], None) => 1,
                    ([key], having) if names_user(key, &alias) => match having {
                        Some(having) => least_count(having)?,
                        None => 1,
                    },
                    _ => return None,
                }
            }
            _ => return None,
        };
        self.did_at_least(condition, at_least)
    }

    /// The users that a correlated EXISTS holds for.
    fn correlated(&self, select: &Select, users: &str) -> Option<Segment> {
        let alias = events_alias(select)?;
        let ungrouped =
            matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
        if !is_plain(select) || !ungrouped || select.having.is_some() {
            return None;
        }
        let mut parts = Vec::new();
        conjuncts(select.selection.as_ref()?, &mut parts);
        let joins = |part: &Expr| is_join(part, &alias, users);
        if parts.iter().filter(|part| joins(part)).count() != 1 {
            return None;
        }
        let rest = parts.into_iter().filter(|part| !joins(part)).cloned();
        let rest = rest.reduce(|left, right| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::And,
            right: Box::new(right),
        });
        let condition = self.same_condition(rest.as_ref(), &alias)?;
        self.did_at_least(condition, 1)
    }

    fn did_at_least(&self, condition: Condition, at_least: u64) -> Option<Segment> {
        let whole = TimeRange {
            first: i64::MIN,
            last: i64::MAX,
        };
        let (condition, range) = split_range(condition, whole);
        let mut found = did(condition);
        found.range = TimeSpec {
            since: (range.first > i64::MIN).then_some(range.first),
            until: match range.last {
                i64::MAX => None,
                last => Some(last.checked_add(1)?),
            },
            last: None,
        };
        if at_least > 1 {
            found = found.at_least(at_least);
        }
        found.validate().ok().map(|()| found.into())
    }

    /// The condition that means the same as a WHERE over events.
    fn same_condition(&self, selection: Option<&Expr>, alias: &str) -> Option<Condition> {
        let Some(selection) = selection else {
            return Some(any());
        };
        let mut own = selection.clone();
        let mut strip = StripAlias { alias };
        if own.visit(&mut strip).is_break() {
            return None;
        }
        let condition = self.condition(&own).ok()?;
        self.means_the_same(&condition).then_some(condition)
    }

    /// True where each comparison is of values of one type, which the literal has too.
    fn means_the_same(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Constant(_) => true,
            Condition::Compare {
                operand, literal, ..
            } => self.class(operand) == class_of(literal) && class_of(literal).is_some(),
            Condition::In { operand, literals } => {
                let class = self.class(operand);
                class.is_some() && literals.iter().all(|literal| class_of(literal) == class)
            }
            Condition::Text { operand, .. } => self.class(operand) == Some(ScalarType::Text),
            Condition::IsNull(operand) => self.class(operand).is_some(),
            Condition::And(parts) | Condition::Or(parts) => {
                parts.iter().all(|part| self.means_the_same(part))
            }
            Condition::Not(inner) => self.means_the_same(inner),
        }
    }

    /// The type of an operand whose values are all of one; numbers are one.
    fn class(&self, operand: &Operand) -> Option<ScalarType> {
        match operand {
            Operand::EventName => Some(ScalarType::Text),
            Operand::Time => Some(ScalarType::Timestamp),
            Operand::Trait(_) | Operand::Computed(_) => None,
            Operand::Property(name) => {
                let seen = self.context.catalog.properties.get(name)?;
                match seen.column_type() {
                    _ if !seen.is_plain() => None,
                    ColumnType::Bool => Some(ScalarType::Bool),
                    ColumnType::I64 | ColumnType::F64 => Some(ScalarType::F64),
                    ColumnType::Timestamp => Some(ScalarType::Timestamp),
                    ColumnType::Text => Some(ScalarType::Text),
                    ColumnType::List(_) => None,
                }
            }
        }
    }

    /// True where a SELECT of ids is one that bitmaps answer.
    fn is_known(&self, select: &Select) -> bool {
        self.doers(select).is_some()
    }
}

fn class_of(literal: &Literal) -> Option<ScalarType> {
    match literal {
        Literal::Null => None,
        Literal::Bool(_) => Some(ScalarType::Bool),
        Literal::I64(_) | Literal::F64(_) => Some(ScalarType::F64),
        Literal::Text(_) => Some(ScalarType::Text),
        Literal::Timestamp(_) => Some(ScalarType::Timestamp),
    }
}

/// Takes the name of the table away from columns; stops at what a condition reads otherwise than SQL.
struct StripAlias<'a> {
    alias: &'a str,
}

impl VisitorMut for StripAlias<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::CompoundIdentifier(parts) if parts.len() > 1 => {
                if parts[0].value.eq_ignore_ascii_case(self.alias) {
                    parts.remove(0);
                }
                if let [only] = &parts[..] {
                    *expr = Expr::Identifier(only.clone());
                }
                ControlFlow::Continue(())
            }
            // A bare text is an event's name in a condition, and an error in SQL.
            Expr::BinaryOp {
                left,
                op: BinaryOperator::And | BinaryOperator::Or,
                right,
            } if is_text(left) || is_text(right) => ControlFlow::Break(()),
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr: inner,
            } if is_text(inner) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn is_text(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) => is_text(inner),
        Expr::Value(value) => matches!(value.value, Value::SingleQuotedString(_)),
        _ => false,
    }
}

/// Rewrites a query of ids out of `events` to one out of `users`.
pub(super) fn rewrite_query(binder: &Binder<'_>, query: &mut Query) {
    let ordered = query.order_by.as_ref().map(ToString::to_string);
    if ordered.is_some_and(|order| order.contains('.')) {
        return;
    }
    if let Some(counted) = count_of_users(binder, query) {
        *query = counted;
        return;
    }
    let is_set = matches!(&*query.body, SetExpr::SetOperation { .. });
    let is_distinct = match &*query.body {
        SetExpr::Select(select) => {
            matches!(select.distinct, Some(Distinct::Distinct)) && events_alias(select).is_some()
        }
        _ => false,
    };
    if !is_set && !is_distinct {
        return;
    }
    if let Some(test) = membership(binder, &query.body)
        && let Some(template) = parse_query("SELECT user_id FROM users WHERE true")
    {
        query.body = template.body;
        if let SetExpr::Select(select) = &mut *query.body {
            select.selection = Some(test);
        }
    }
}

/// The test that a user is in a set of ids.
fn membership(binder: &Binder<'_>, body: &SetExpr) -> Option<Expr> {
    match body {
        SetExpr::SetOperation {
            op,
            set_quantifier: SetQuantifier::None | SetQuantifier::Distinct,
            left,
            right,
        } => {
            let (left, right) = (membership(binder, left)?, membership(binder, right)?);
            let (op, right) = match op {
                SetOperator::Union => (BinaryOperator::Or, right),
                SetOperator::Intersect => (BinaryOperator::And, right),
                SetOperator::Except | SetOperator::Minus => (
                    BinaryOperator::And,
                    Expr::UnaryOp {
                        op: UnaryOperator::Not,
                        expr: Box::new(right),
                    },
                ),
            };
            Some(Expr::Nested(Box::new(Expr::BinaryOp {
                left: Box::new(left),
                op,
                right: Box::new(right),
            })))
        }
        SetExpr::Query(query) if is_bare(query) => membership(binder, &query.body),
        SetExpr::Select(select) => {
            let unnamed = matches!(&select.projection[..], [SelectItem::UnnamedExpr(_)]);
            if !unnamed || !binder.is_known(select) {
                return None;
            }
            let query = parse_query("SELECT 1")?;
            let mut inner = Query {
                body: Box::new(SetExpr::Select(select.clone())),
                ..query
            };
            if let SetExpr::Select(select) = &mut *inner.body {
                select.distinct = None;
            }
            Some(Expr::InSubquery {
                expr: Box::new(Expr::Identifier(Ident::new("user_id"))),
                subquery: Box::new(inner),
                negated: false,
            })
        }
        _ => None,
    }
}

/// `SELECT count(DISTINCT user_id) FROM events …` as a count of users.
fn count_of_users(binder: &Binder<'_>, query: &Query) -> Option<Query> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let (item, name) = match &select.projection[..] {
        [SelectItem::UnnamedExpr(item)] => (item, None),
        [SelectItem::ExprWithAlias { expr, alias }] => (expr, Some(alias.clone())),
        _ => return None,
    };
    let ungrouped =
        matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let alias = events_alias(select)?;
    let plain = ungrouped && select.having.is_none() && select.distinct.is_none();
    if !plain || !counts_users(item, &alias) {
        return None;
    }
    let mut ids = select.clone();
    ids.projection = vec![SelectItem::UnnamedExpr(Expr::Identifier(Ident::new(
        "user_id",
    )))];
    let test = membership(binder, &SetExpr::Select(ids))?;
    let mut counted = parse_query("SELECT count(*) FROM users WHERE true")?;
    if let SetExpr::Select(select) = &mut *counted.body {
        select.selection = Some(test);
        if let [SelectItem::UnnamedExpr(count)] = &select.projection[..] {
            let told = format!("count(DISTINCT {alias}.user_id)");
            let alias = name.unwrap_or_else(|| Ident::with_quote('"', told));
            select.projection = vec![SelectItem::ExprWithAlias {
                expr: count.clone(),
                alias,
            }];
        }
    }
    Some(Query {
        body: counted.body,
        ..query.clone()
    })
}

fn counts_users(expr: &Expr, events: &str) -> bool {
    let Expr::Function(function) = expr else {
        return false;
    };
    let FunctionArguments::List(list) = &function.args else {
        return false;
    };
    let distinct = list.duplicate_treatment
        == Some(datafusion::sql::sqlparser::ast::DuplicateTreatment::Distinct);
    let plain = function.filter.is_none() && function.over.is_none() && list.clauses.is_empty();
    let is_count = function.name.to_string().eq_ignore_ascii_case("count");
    let of_user = matches!(
        &list.args[..],
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(id))] if names_user(id, events)
    );
    distinct && plain && is_count && of_user
}

fn parse_query(text: &str) -> Option<Query> {
    let dialect = datafusion::sql::sqlparser::dialect::PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(text).ok()?;
    parser.parse_query().ok().map(|query| *query)
}

/// True where a query has nothing around its body.
fn is_bare(query: &Query) -> bool {
    query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
}

fn select_of(query: &Query) -> Option<&Select> {
    match &*query.body {
        SetExpr::Select(select) if is_bare(query) => Some(select),
        _ => None,
    }
}

/// True where a SELECT has nothing but columns, FROM, WHERE, GROUP BY and HAVING.
fn is_plain(select: &Select) -> bool {
    let distinct = matches!(select.distinct, None | Some(Distinct::Distinct));
    distinct
        && select.top.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.qualify.is_none()
        && select.named_window.is_empty()
}

/// What `events` is called, where a SELECT reads nothing else.
fn events_alias(select: &Select) -> Option<String> {
    let [table] = &select.from[..] else {
        return None;
    };
    let TableFactor::Table {
        name,
        alias,
        args: None,
        sample: None,
        ..
    } = &table.relation
    else {
        return None;
    };
    let is_events = plain_name(name)?.eq_ignore_ascii_case("events");
    (is_events && table.joins.is_empty()).then(|| match alias {
        Some(alias) => alias.name.value.clone(),
        None => "events".to_owned(),
    })
}

/// True for `user_id` of the table that is called `table`.
fn names_user(expr: &Expr, table: &str) -> bool {
    match expr {
        Expr::Identifier(ident) => ident.value.eq_ignore_ascii_case("user_id"),
        Expr::CompoundIdentifier(parts) => match &parts[..] {
            [of, name] => {
                of.value.eq_ignore_ascii_case(table) && name.value.eq_ignore_ascii_case("user_id")
            }
            _ => false,
        },
        _ => false,
    }
}

/// True for `e.user_id = u.user_id`, where `e` is the events and `u` the users.
fn is_join(expr: &Expr, events: &str, users: &str) -> bool {
    let Expr::BinaryOp {
        left,
        op: BinaryOperator::Eq,
        right,
    } = expr
    else {
        return false;
    };
    let of = |expr: &Expr, table: &str| {
        matches!(expr, Expr::CompoundIdentifier(_)) && names_user(expr, table)
    };
    let differ = !events.eq_ignore_ascii_case(users);
    let joins = |one: &Expr, other: &Expr| of(one, events) && of(other, users);
    differ && (joins(left, right) || joins(right, left))
}

fn conjuncts<'e>(expr: &'e Expr, parts: &mut Vec<&'e Expr>) {
    match expr {
        Expr::Nested(inner) => conjuncts(inner, parts),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => {
            conjuncts(left, parts);
            conjuncts(right, parts);
        }
        single => parts.push(single),
    }
}

/// The least count that `HAVING count(*) >= n` lets through.
fn least_count(having: &Expr) -> Option<u64> {
    let Expr::BinaryOp { left, op, right } = having else {
        return None;
    };
    let is_count = left.to_string().eq_ignore_ascii_case("count(*)");
    let Expr::Value(value) = &**right else {
        return None;
    };
    let Value::Number(number, _) = &value.value else {
        return None;
    };
    let number: u64 = number.parse().ok()?;
    let least = match op {
        BinaryOperator::GtEq => number,
        BinaryOperator::Gt => number.checked_add(1)?,
        _ => return None,
    };
    is_count.then_some(least.max(1))
}
