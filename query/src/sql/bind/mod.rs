//! Binding: what Pugmark adds to SQL is found in the parsed statement and taken out of it.
//!
//! ```text
//! conditions   conditions over one event      arguments   positional and named arguments
//! users        did(…) and predicates          questions   funnel(…) and the others in FROM
//! subqueries   values of IN (SELECT …)        idioms      plain SQL that means a did(…)
//! ```
//!
//! A call in FROM becomes a table of its own, named in the statement in its place. A `did(…)` becomes
//! a column of booleans of the `users` that it is asked of; this table too gets a name of its own,
//! so that no other query of the statement sees the column. What is left is SQL that DataFusion
//! plans as any other.

mod arguments;
mod conditions;
mod idioms;
mod names;
mod questions;
pub(super) mod subqueries;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{
    ExceptSelectItem, Expr, Ident, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, Spanned, Statement, TableAlias, TableFactor, VisitMut,
    VisitorMut, WildcardAdditionalOptions, With,
};
use datafusion::sql::sqlparser::tokenizer::Span as TextSpan;

use super::answers::Question;
use super::constant::Constants;
use super::context::Context;
use super::error::SqlError;
use super::guard;
use super::nearest::nearest;
use crate::behaviour::{Condition, Names, Segment};

use conditions::Conditions;
pub(super) use conditions::{ConditionColumns, event_property, property_of};
use names::{InReach, Own};
pub(super) use questions::TABLE_FUNCTIONS;
use subqueries::Subqueries;

/// What a statement is bound with.
pub(super) struct Binder<'b> {
    pub(super) context: &'b Context,
    pub(super) columns: &'b ConditionColumns,
    pub(super) subqueries: &'b Subqueries,
    /// Knows the present of the call that is being bound.
    pub(super) state: &'b SessionState,
}

/// The tables that binding took out of a statement, by the names that it left there.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// Calls in FROM.
    pub(super) questions: BTreeMap<String, Question>,
    /// Predicates of each `users` that has some, by the names of their columns.
    pub(super) users: BTreeMap<String, Vec<(String, Segment)>>,
}

impl Binder<'_> {
    fn constants(&self) -> Constants<'_> {
        Constants {
            state: self.state,
            zone: &self.context.zone_name,
        }
    }

    /// Whether plain SQL that means a `did(…)` is taken for one.
    fn idioms(&self) -> bool {
        self.context.settings.shortcuts
    }

    fn conditions(&self) -> Conditions<'_> {
        Conditions {
            catalog: &self.context.catalog,
            columns: self.columns,
            constants: self.constants(),
            subqueries: self.subqueries,
            of_users: false,
        }
    }

    fn trait_conditions(&self) -> Conditions<'_> {
        Conditions {
            of_users: true,
            ..self.conditions()
        }
    }

    fn condition(&self, expr: &Expr) -> Result<Condition, SqlError> {
        let condition = self.conditions().bind(expr)?;
        self.remark_unknown_events(&condition);
        Ok(condition)
    }

    /// An event that was never seen is no error, but mostly a slip.
    fn remark_unknown_events(&self, condition: &Condition) {
        let known = &self.context.catalog.events;
        let Names::These(names) = condition.names() else {
            return;
        };
        for name in names.iter().filter(|name| !known.contains(name.as_str())) {
            let hint = nearest(name, known.iter().map(String::as_str))
                .map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
            self.context
                .remark(format!("no event is named `{name}`{hint}"));
        }
    }

    /// Takes Pugmark's own out of a statement.
    pub(super) fn bind(&self, statement: &mut Statement) -> Result<Bound, SqlError> {
        let mut rewrite = Rewrite {
            binder: self,
            bound: Bound::default(),
            scopes: Vec::new(),
            shadowed: Vec::new(),
            reach: Vec::new(),
            withs: Vec::new(),
        };
        match statement.visit(&mut rewrite) {
            ControlFlow::Break(error) => Err(*error),
            ControlFlow::Continue(()) => Ok(rewrite.bound),
        }
    }
}

/// Walks a statement.
struct Rewrite<'r, 'b> {
    binder: &'r Binder<'b>,
    bound: Bound,
    /// One for each SELECT that is being walked, the innermost last.
    scopes: Vec<Scope>,
    /// Names that WITH has defined so far, for each query that is being walked.
    shadowed: Vec<BTreeSet<String>>,
    /// What names may mean, for each query and SELECT that is being walked: behind ORDER BY they
    /// mean what they did in the query's SELECT.
    reach: Vec<Option<InReach>>,
    /// The WITH of each query, walked before the query is.
    withs: Vec<Option<With>>,
}

/// One SELECT.
#[derive(Debug, Default)]
struct Scope {
    /// What each `users` of its FROM is called there.
    users: Vec<Ident>,
    /// How many tables its FROM has.
    tables: usize,
    /// Predicates by the name of the `users` that they are asked of.
    dids: BTreeMap<String, Vec<(String, Segment)>>,
}

/// The tables that are ours.
const OWN_TABLES: [&str; 2] = ["events", "users"];

type Flow = ControlFlow<Box<SqlError>>;

fn stop(error: SqlError) -> Flow {
    ControlFlow::Break(Box::new(error))
}

impl VisitorMut for Rewrite<'_, '_> {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> Flow {
        self.reach.push(None);
        self.shadowed.push(BTreeSet::new());
        // What WITH defines is known to what follows it, and to itself only if it is recursive.
        let mut with = query.with.take();
        if let Some(with) = &mut with {
            for cte in &mut with.cte_tables {
                let name = cte.alias.name.value.to_ascii_lowercase();
                if with.recursive {
                    self.shadow(name.clone());
                }
                cte.query.visit(self)?;
                self.shadow(name);
            }
        }
        self.withs.push(with);
        if !self.is_shadowed("events") && !self.is_shadowed("users") && self.binder.idioms() {
            idioms::rewrite_query(self.binder, query);
        }
        Flow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> Flow {
        self.shadowed.pop();
        self.reach.pop();
        if let Some(with) = self.withs.pop().flatten() {
            query.with = Some(with);
        }
        Flow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> Flow {
        name_items(select);
        let mut scope = Scope::default();
        let mut reach = InReach::of(select);
        each_table(select, &mut |factor| {
            scope.tables += 1;
            let (called, own) = self.own_table(factor);
            if own == Some(Own::Users) {
                scope.users.push(called.clone());
            }
            reach.add(&called.value, own);
        });
        if scope.tables > guard::MOST_TABLES {
            let what = format!("a FROM has more than {} tables", guard::MOST_TABLES);
            return stop(SqlError::at(select.span(), what));
        }
        self.scopes.push(scope);
        self.reach.push(Some(reach));
        Flow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> Flow {
        let reach = self.reach.pop().flatten();
        if let Some(of_query) = self.reach.last_mut() {
            *of_query = reach;
        }
        let Some(scope) = self.scopes.pop() else {
            return Flow::Continue(());
        };
        let mut hidden = Vec::new();
        for (name, dids) in scope.dids {
            let table = format!("users#{}", self.bound.users.len() + 1);
            each_table(select, &mut |factor| rename(factor, &name, &table));
            hidden.extend(
                dids.iter()
                    .map(|(column, _)| (name.clone(), column.clone())),
            );
            self.bound.users.insert(table, dids);
        }
        hide(select, &hidden);
        Flow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> Flow {
        match self.call_in_from(factor) {
            Ok(()) => Flow::Continue(()),
            Err(error) => stop(error),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        let span = expr.span();
        let segment = match expr {
            Expr::Function(function) if users::is_did(function) => {
                self.binder.did(function).map(Segment::from)
            }
            Expr::Function(function) => {
                let name = function.name.to_string().to_ascii_lowercase();
                if TABLE_FUNCTIONS.contains(&name.as_str()) && name != "rfm" {
                    let what = format!("{name}(…) is a table; write SELECT … FROM {name}(…)");
                    return stop(SqlError::at(span, what));
                }
                return Flow::Continue(());
            }
            _ => match self.idiom(expr) {
                Some(segment) => Ok(segment),
                None => {
                    if let Some(Some(reach)) = self.reach.last() {
                        reach.resolve(&self.binder.context.catalog, expr);
                    }
                    return Flow::Continue(());
                }
            },
        };
        let replaced = segment.and_then(|segment| self.column_for(span, segment));
        match replaced {
            Ok(column) => {
                *expr = column;
                Flow::Continue(())
            }
            Err(error) => stop(error),
        }
    }
}

impl Rewrite<'_, '_> {
    /// The predicate that plain SQL means, where the only `users` in reach is asked.
    fn idiom(&self, expr: &Expr) -> Option<Segment> {
        let scope = self.scopes.last()?;
        let asked = scope.users.len() == 1 && scope.tables == 1;
        let known = !self.is_shadowed("events") && self.binder.idioms();
        let [users] = &scope.users[..] else {
            return None;
        };
        match asked && known {
            true => self.binder.idiom(expr, &users.value),
            false => None,
        }
    }

    fn is_shadowed(&self, name: &str) -> bool {
        self.shadowed.iter().any(|names| names.contains(name))
    }

    fn shadow(&mut self, name: String) {
        if let Some(names) = self.shadowed.last_mut() {
            names.insert(name);
        }
    }

    /// What a table of a FROM is called, and which of ours it is.
    fn own_table(&self, factor: &TableFactor) -> (Ident, Option<Own>) {
        let (name, alias) = match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => (Some(name), alias.as_ref()),
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::Function { alias, .. } => (None, alias.as_ref()),
            _ => (None, None),
        };
        let own = name.and_then(plain_name).map(str::to_ascii_lowercase);
        let qualified = name.is_some_and(|name| name.0.len() > 1);
        let own = own.filter(|own| qualified || !self.is_shadowed(own));
        let own = match own.as_deref() {
            Some("events") => Some(Own::Events),
            Some("users") => Some(Own::Users),
            _ => None,
        };
        let last = name.and_then(|name| name.0.last()?.as_ident().cloned());
        let called = alias.map(|alias| alias.name.clone()).or(last);
        (called.unwrap_or_else(|| Ident::new("")), own)
    }

    /// A column for a predicate, of the only `users` in reach.
    fn column_for(&mut self, span: TextSpan, segment: Segment) -> Result<Expr, SqlError> {
        let scope = self
            .scopes
            .iter_mut()
            .rev()
            .find(|scope| !scope.users.is_empty());
        let Some(scope) = scope else {
            let what =
                "did(…) asks users; put `users` into this FROM, and did(…) not behind ORDER BY";
            return Err(SqlError::at(span, what));
        };
        let [name] = &scope.users[..] else {
            let what =
                "did(…) may be asked of several `users` here; ask each in a query of its own";
            return Err(SqlError::at(span, what));
        };
        let dids = scope.dids.entry(name.value.clone()).or_default();
        let known = dids.iter().find(|(_, known)| *known == segment);
        let column = match known {
            Some((column, _)) => column.clone(),
            None => {
                let column = format!("did#{}", dids.len() + 1);
                dids.push((column.clone(), segment));
                column
            }
        };
        Ok(Expr::CompoundIdentifier(vec![
            name.clone(),
            Ident::with_quote('"', column),
        ]))
    }

    /// Refuses a table that is nearly called as one of ours.
    fn check_table(&self, name: &ObjectName, called: &str) -> Result<(), SqlError> {
        if OWN_TABLES.contains(&called) || self.is_shadowed(called) {
            return Ok(());
        }
        let Some(meant) = nearest(called, OWN_TABLES) else {
            return Ok(());
        };
        let what = format!("there is no table `{name}`; did you mean `{meant}`?");
        Err(SqlError::at(name.span(), what))
    }

    /// Refuses a function in FROM that is nearly called as one of ours.
    fn check_function(&self, name: &ObjectName, called: &str) -> Result<(), SqlError> {
        if self.binder.state.table_functions().contains_key(called) {
            return Ok(());
        }
        let Some(meant) = nearest(called, TABLE_FUNCTIONS) else {
            return Ok(());
        };
        let what = format!("there is no function `{name}`; did you mean `{meant}`?");
        Err(SqlError::at(name.span(), what))
    }

    /// Puts a table in the place of a call in FROM.
    fn call_in_from(&mut self, factor: &mut TableFactor) -> Result<(), SqlError> {
        let TableFactor::Table {
            name, alias, args, ..
        } = factor
        else {
            return Ok(());
        };
        let Some(call) = plain_name(name).map(str::to_ascii_lowercase) else {
            return Ok(());
        };
        if args.is_none() {
            return self.check_table(name, &call);
        }
        if !TABLE_FUNCTIONS.contains(&call.as_str()) {
            return self.check_function(name, &call);
        }
        let Some(arguments) = args.take() else {
            return Ok(());
        };
        let question = questions::bind(self.binder, &call, name.span(), &arguments)?;
        let table = format!("{call}#{}", self.bound.questions.len() + 1);
        *name = ObjectName::from(vec![Ident::with_quote('"', table.clone())]);
        alias.get_or_insert_with(|| table_alias(&call));
        self.bound.questions.insert(table, question);
        Ok(())
    }
}

fn table_alias(name: &str) -> TableAlias {
    TableAlias {
        explicit: true,
        name: Ident::new(name),
        columns: Vec::new(),
        at: None,
    }
}

/// The last part of a name that is not qualified, or qualified by our catalog and schema.
fn plain_name(name: &ObjectName) -> Option<&str> {
    let mut parts = name.0.iter().rev();
    let own = parts.next()?.as_ident()?;
    let outer: Option<Vec<&Ident>> = parts.map(|part| part.as_ident()).collect();
    let ours = ["public", "pugmark"];
    let outer = outer?;
    let qualified = outer
        .iter()
        .zip(ours)
        .all(|(part, ours)| part.value.eq_ignore_ascii_case(ours));
    (qualified && outer.len() <= ours.len()).then_some(own.value.as_str())
}

/// Calls `each` with the tables of a SELECT's FROM, those in brackets too.
fn each_table(select: &mut Select, each: &mut impl FnMut(&mut TableFactor)) {
    fn walk(
        tables: &mut datafusion::sql::sqlparser::ast::TableWithJoins,
        each: &mut impl FnMut(&mut TableFactor),
    ) {
        let joined = tables.joins.iter_mut().map(|join| &mut join.relation);
        for factor in std::iter::once(&mut tables.relation).chain(joined) {
            match factor {
                TableFactor::NestedJoin {
                    table_with_joins, ..
                } => walk(table_with_joins, each),
                factor => each(factor),
            }
        }
    }
    select.from.iter_mut().for_each(|tables| walk(tables, each));
}

/// Names another table in the place of the `users` that is called `called`.
fn rename(factor: &mut TableFactor, called: &str, table: &str) {
    let TableFactor::Table {
        name,
        alias,
        args: None,
        ..
    } = factor
    else {
        return;
    };
    let is_users = plain_name(name).is_some_and(|own| own.eq_ignore_ascii_case("users"));
    let own = alias
        .as_ref()
        .map_or("users", |alias| alias.name.value.as_str());
    if is_users && own == called {
        *name = ObjectName::from(vec![Ident::with_quote('"', table)]);
        alias.get_or_insert_with(|| table_alias("users"));
    }
}

/// Leaves the columns of predicates out of `*`.
fn hide(select: &mut Select, hidden: &[(String, String)]) {
    for item in &mut select.projection {
        let (options, of) = match item {
            SelectItem::Wildcard(options) => (options, None),
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) => {
                let last = name.0.last().and_then(|part| part.as_ident());
                (options, last.map(|part| part.value.clone()))
            }
            _ => continue,
        };
        let columns = hidden
            .iter()
            .filter(|(name, _)| of.as_ref().is_none_or(|of| of.eq_ignore_ascii_case(name)))
            .map(|(_, column)| Ident::with_quote('"', column));
        except(options, columns);
    }
}

/// Items without a name that ask who did something are called as they are written; and so are
/// those that would be called as one before them: `1, 1`, `NULL::text, NULL::bigint`.
fn name_items(select: &mut Select) {
    let mut called = BTreeSet::new();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else {
            continue;
        };
        let asks = match &*expr {
            Expr::InSubquery { .. } | Expr::Exists { .. } => true,
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => continue,
            other => other.to_string().to_ascii_lowercase().contains("did("),
        };
        let mut inner = &*expr;
        // A cast is called as what it casts.
        while let Expr::Cast { expr, .. } | Expr::Nested(expr) = inner {
            inner = expr;
        }
        let again = !called.insert(inner.to_string());
        if asks || again {
            let mut name = expr.to_string();
            let mut number = 1;
            while again && !called.insert(name.clone()) {
                number += 1;
                name = format!("{expr} {number}");
            }
            let alias = Ident::with_quote('"', name);
            let expr = expr.clone();
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
}

fn except(options: &mut WildcardAdditionalOptions, columns: impl Iterator<Item = Ident>) {
    for column in columns {
        match &mut options.opt_except {
            Some(except) => except.additional_elements.push(column),
            None => {
                options.opt_except = Some(ExceptSelectItem {
                    first_element: column,
                    additional_elements: Vec::new(),
                });
            }
        }
    }
}
