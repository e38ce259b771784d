//! Conditions over one event, as they are written inside `did(…)`, `step(…)` and the others.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr as Planned;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, Query, Spanned, UnaryOperator, Value, VisitMut, VisitorMut,
};

use super::super::catalog::{Catalog, ColumnType, EVENT_COLUMNS, Seen, column_name};
use super::super::constant::{Constants, literal};
use super::super::error::SqlError;
use super::super::expression::{self, InputColumn};
use super::super::nearest::nearest;
use super::super::translate::{BoundColumn, Translator};
use super::subqueries::Subqueries;
use crate::behaviour::{Condition, Literal, Operand, any, event};

/// The columns that a condition may name: those of events, and traits as `users.NAME`.
#[derive(Debug)]
pub(in crate::sql) struct ConditionColumns {
    schema: DFSchema,
}

impl ConditionColumns {
    pub(in crate::sql) fn new(catalog: &Catalog, zone: &Arc<str>) -> Result<Self, SqlError> {
        let events = catalog.events_schema(zone);
        let own = events.fields().iter().map(|field| field.as_ref().clone());
        let traits = catalog.traits.iter().map(|(name, seen)| {
            let name = format!("{TRAIT_PREFIX}{name}");
            Field::new(name, seen.column_type().arrow(zone), true)
        });
        // A property may be called `users.x` itself; the trait then is meant.
        let traits: Vec<Field> = traits.collect();
        let taken: BTreeSet<&String> = traits.iter().map(Field::name).collect();
        let own = own.filter(|field| !taken.contains(field.name()));
        let fields: Vec<Field> = own.chain(traits.clone()).collect();
        let schema = DFSchema::try_from(Schema::new(fields))?;
        Ok(Self { schema })
    }
}

/// How traits are named beside events.
const TRAIT_PREFIX: &str = "users.";

/// Binds conditions.
#[derive(Clone, Copy)]
pub(super) struct Conditions<'b> {
    pub(super) catalog: &'b Catalog,
    pub(super) columns: &'b ConditionColumns,
    pub(super) constants: Constants<'b>,
    pub(super) subqueries: &'b Subqueries,
    /// A name means a trait before it means a property.
    pub(super) of_users: bool,
}

impl Conditions<'_> {
    /// A condition; a bare text is the name of an event.
    pub(super) fn bind(&self, expr: &Expr) -> Result<Condition, SqlError> {
        match expr {
            Expr::Nested(inner) => self.bind(inner),
            Expr::Value(value) => match &value.value {
                Value::Boolean(true) => Ok(any()),
                Value::Boolean(false) => Ok(any().not()),
                Value::SingleQuotedString(name) => Ok(event(name)),
                _ => Err(SqlError::at(
                    expr.span(),
                    format!(
                        "`{expr}` is no condition; name an event in quotes, or compare a column"
                    ),
                )),
            },
            Expr::BinaryOp { left, op, right } if *op == BinaryOperator::And => {
                Ok(self.bind(left)?.and(self.bind(right)?))
            }
            Expr::BinaryOp { left, op, right } if *op == BinaryOperator::Or => {
                Ok(self.bind(left)?.or(self.bind(right)?))
            }
            Expr::UnaryOp { op, expr } if *op == UnaryOperator::Not => Ok(self.bind(expr)?.not()),
            Expr::InSubquery {
                expr: column,
                subquery,
                negated,
            } => {
                let operand = self.operand(column)?;
                let inside = operand.is_in(self.literals(subquery)?);
                Ok(if *negated { inside.not() } else { inside })
            }
            _ => self.leaf(expr),
        }
    }

    fn literals(&self, subquery: &Query) -> Result<Vec<Literal>, SqlError> {
        let values = self.subqueries.values(subquery)?;
        let of = |value| {
            literal(value).ok_or_else(|| {
                SqlError::at(
                    subquery.span(),
                    format!("values of type {} cannot be compared", value.data_type()),
                )
            })
        };
        values.iter().map(of).collect()
    }

    /// A part without AND, OR and NOT.
    fn leaf(&self, expr: &Expr) -> Result<Condition, SqlError> {
        let planned = self.planned(expr)?;
        let translator = Translator {
            constants: self.constants,
            column: &|name| self.column(name),
        };
        let found = translator.condition(&planned);
        if let Some(found) = found.map_err(|error| within(expr, error))? {
            return Ok(found);
        }
        match self.computed(expr, planned)? {
            (operand, true) => Ok(operand.eq(true)),
            (_, false) => {
                let what = "is no condition; compare it with something";
                Err(SqlError::at(expr.span(), format!("`{expr}` {what}")))
            }
        }
    }

    /// The expression over the columns, by their exact names.
    fn planned(&self, expr: &Expr) -> Result<Planned, SqlError> {
        let mut resolved = expr.clone();
        self.resolve(&mut resolved)?;
        let planned = self.constants.expression(&resolved, &self.columns.schema);
        planned.map_err(|error| within(expr, error))
    }

    /// What DataFusion computes of an event; and whether it is a boolean.
    fn computed(&self, expr: &Expr, planned: Planned) -> Result<(Operand, bool), SqlError> {
        let mut names: Vec<&str> = planned
            .column_refs()
            .iter()
            .map(|column| column.name())
            .collect();
        names.sort_unstable();
        if names.is_empty() {
            let what = "is the same for all events; name a column in it";
            return Err(SqlError::at(expr.span(), format!("`{expr}` {what}")));
        }
        let column = |name: &str| {
            let bound = self.column(name).ok_or_else(|| {
                SqlError::at(
                    expr.span(),
                    format!("`{name}` cannot be asked of an event here"),
                )
            })?;
            let column_type = self.column_type(&bound.operand);
            Ok(InputColumn {
                operand: bound.operand,
                column_type,
            })
        };
        let columns = names.iter().map(|name| column(name));
        let columns = columns.collect::<Result<Vec<_>, SqlError>>()?;
        let fields = names.iter().map(|name| {
            let field = self.columns.schema.field_with_unqualified_name(name);
            field.map(|field| field.as_ref().clone())
        });
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        let schema = DFSchema::try_from(Schema::new(fields))?;
        let found =
            expression::operand(&expr.to_string(), planned, &schema, columns, self.constants);
        found.map_err(|error| within(expr, error))
    }

    fn column_type(&self, operand: &Operand) -> ColumnType {
        let seen = match operand {
            Operand::Property(name) => self.catalog.properties.get(name),
            Operand::Trait(name) => self.catalog.traits.get(name),
            Operand::Time => return ColumnType::Timestamp,
            Operand::EventName | Operand::Computed(_) => None,
        };
        seen.map_or(ColumnType::Text, Seen::column_type)
    }

    /// Puts the exact name of a column in the place of each name.
    fn resolve(&self, expr: &mut Expr) -> Result<(), SqlError> {
        struct Resolve<'r, 'b>(&'r Conditions<'b>);
        impl VisitorMut for Resolve<'_, '_> {
            type Break = SqlError;

            fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
                let what = "a subquery may stand in a condition as `column IN (SELECT …)` only";
                ControlFlow::Break(SqlError::at(query.span(), what))
            }

            fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
                let span = expr.span();
                let parts = match expr {
                    Expr::Identifier(ident) => std::slice::from_ref(ident),
                    Expr::CompoundIdentifier(parts) => parts.as_slice(),
                    _ => return ControlFlow::Continue(()),
                };
                match self.0.name(parts) {
                    Ok(name) => {
                        let mut ident = Ident::with_quote('"', name);
                        ident.span = span;
                        *expr = Expr::Identifier(ident);
                        ControlFlow::Continue(())
                    }
                    Err(error) => ControlFlow::Break(error),
                }
            }
        }
        match expr.visit(&mut Resolve(self)) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// What a column, or an expression over columns, is of an event.
    pub(super) fn operand(&self, expr: &Expr) -> Result<Operand, SqlError> {
        let parts = match expr {
            Expr::Identifier(ident) => std::slice::from_ref(ident),
            Expr::CompoundIdentifier(parts) => parts.as_slice(),
            Expr::Nested(inner) => return self.operand(inner),
            _ => return Ok(self.computed(expr, self.planned(expr)?)?.0),
        };
        let name = self.name(parts)?;
        let bound = self.column(&name);
        bound.map(|bound| bound.operand).ok_or_else(|| {
            SqlError::at(
                expr.span(),
                format!("`{expr}` cannot be asked of an event here"),
            )
        })
    }

    /// A property named by an expression.
    pub(super) fn property(&self, expr: &Expr) -> Result<String, SqlError> {
        match self.operand(expr)? {
            Operand::Property(name) => Ok(name),
            _ => Err(SqlError::at(
                expr.span(),
                format!("`{expr}` must be a property of the event"),
            )),
        }
    }

    /// The exact name of a column: as it is written, else the only one that differs in case alone.
    fn name(&self, parts: &[Ident]) -> Result<String, SqlError> {
        let written = parts.iter().map(|part| part.value.as_str());
        let written = written.collect::<Vec<_>>().join(".");
        let known = |name: &str| self.columns.schema.has_column_with_unqualified_name(name);
        let of_trait = format!("{TRAIT_PREFIX}{written}");
        if self.of_users && known(&of_trait) {
            return Ok(of_trait);
        }
        if known(&written) {
            return Ok(written);
        }
        if let Some(own) = written.strip_prefix("events.")
            && known(own)
        {
            return Ok(own.to_owned());
        }
        let names = || {
            let fields = self.columns.schema.fields().iter();
            fields.map(|field| field.name().as_str())
        };
        let mut alike = names().filter(|name| name.eq_ignore_ascii_case(&written));
        match (alike.next(), alike.next()) {
            (Some(name), None) => return Ok(name.to_owned()),
            (Some(one), Some(other)) => {
                return Err(SqlError::at(
                    parts[0].span,
                    format!("`{written}` may be `{one}` or `{other}`; write it as it is stored"),
                ));
            }
            (None, _) => {}
        }
        let what = match self.of_users || written.starts_with(TRAIT_PREFIX) {
            true => "trait of users",
            false => "property of events",
        };
        let hint = nearest(&written, names())
            .map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        Err(SqlError::at(
            parts[0].span,
            format!("there is no {what} `{written}`{hint}"),
        ))
    }

    fn column(&self, name: &str) -> Option<BoundColumn> {
        let of = |operand: Operand, seen: Option<&Seen>| {
            let kind = seen.map(Seen::column_type);
            BoundColumn {
                operand,
                is_time: matches!(kind, Some(ColumnType::Timestamp)),
                is_bool: matches!(kind, Some(ColumnType::Bool)),
            }
        };
        match name {
            "event" => return Some(of(Operand::EventName, None)),
            "time" => {
                return Some(BoundColumn {
                    operand: Operand::Time,
                    is_time: true,
                    is_bool: false,
                });
            }
            "user_id" => return None,
            _ => {}
        }
        if let Some(name) = name.strip_prefix(TRAIT_PREFIX)
            && let Some(seen) = self.catalog.traits.get(name)
        {
            return Some(of(Operand::Trait(name.to_owned()), Some(seen)));
        }
        let (name, seen) = event_property(self.catalog, name)?;
        Some(of(Operand::Property(name.to_owned()), Some(seen)))
    }
}

/// An error with the place of what it is about.
fn within(expr: &Expr, error: SqlError) -> SqlError {
    let problem = match error {
        SqlError::Statement {
            place: None,
            problem,
        } => problem,
        SqlError::Engine(error) => SqlError::Engine(error).to_string(),
        other => return other,
    };
    SqlError::at(expr.span(), format!("`{expr}`: {problem}"))
}

/// The property behind a column of events.
pub(in crate::sql) fn event_property<'c>(
    catalog: &'c Catalog,
    column: &str,
) -> Option<(&'c str, &'c Seen)> {
    property_of(&catalog.properties, column, &EVENT_COLUMNS, "properties")
}

/// The property or trait behind a column.
pub(in crate::sql) fn property_of<'c>(
    known: &'c std::collections::BTreeMap<String, Seen>,
    column: &str,
    taken: &[&str],
    prefix: &str,
) -> Option<(&'c str, &'c Seen)> {
    let own = match column
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('.'))
    {
        Some(name) if taken.contains(&name) => name,
        _ if taken.contains(&column) => return None,
        _ => column,
    };
    debug_assert_eq!(column_name(own, taken, prefix), column);
    known
        .get_key_value(own)
        .map(|(name, seen)| (name.as_str(), seen))
}
