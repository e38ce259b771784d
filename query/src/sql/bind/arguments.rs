//! Arguments of a call: positional ones, and named ones in any order.

use std::collections::BTreeMap;

use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, Ident, Spanned};
use datafusion::sql::sqlparser::tokenizer::Span as TextSpan;

use super::super::error::SqlError;
use super::super::nearest::nearest;
use super::Binder;
use crate::behaviour::{Condition, Operand, Segment, Span, TimeSpec};

/// The arguments of one call; each is taken once, and [`Arguments::finish`] refuses what is left.
pub(super) struct Arguments<'a, 'b> {
    pub(super) binder: &'a Binder<'b>,
    pub(super) call: &'a str,
    pub(super) span: TextSpan,
    positional: std::vec::IntoIter<&'a Expr>,
    named: BTreeMap<String, (&'a Expr, TextSpan)>,
    /// Names asked for so far.
    known: Vec<&'static str>,
}

impl<'a, 'b> Arguments<'a, 'b> {
    pub(super) fn new(
        binder: &'a Binder<'b>,
        call: &'a str,
        span: TextSpan,
        arguments: &'a [FunctionArg],
    ) -> Result<Self, SqlError> {
        let mut positional = Vec::new();
        let mut named = BTreeMap::new();
        for argument in arguments {
            let (name, value) = match argument {
                FunctionArg::Named { name, arg, .. } => (Some(name), arg),
                FunctionArg::ExprNamed {
                    name: Expr::Identifier(name),
                    arg,
                    ..
                } => (Some(name), arg),
                FunctionArg::ExprNamed { name, .. } => {
                    return Err(SqlError::at(name.span(), format!("`{name}` is no name")));
                }
                FunctionArg::Unnamed(arg) => (None, arg),
            };
            let FunctionArgExpr::Expr(value) = value else {
                return Err(SqlError::at(
                    span,
                    format!("{call}: `{value}` is no argument"),
                ));
            };
            let Some(Ident {
                value: name, span, ..
            }) = name
            else {
                if !named.is_empty() {
                    return Err(SqlError::at(
                        value.span(),
                        format!("{call}: `{value}` comes behind named arguments; name it too"),
                    ));
                }
                positional.push(value);
                continue;
            };
            let before = named.insert(name.to_ascii_lowercase(), (value, *span));
            if before.is_some() {
                return Err(SqlError::at(
                    *span,
                    format!("{call}: `{name}` is given twice"),
                ));
            }
        }
        Ok(Self {
            binder,
            call,
            span,
            positional: positional.into_iter(),
            named,
            known: Vec::new(),
        })
    }

    /// The next positional argument.
    pub(super) fn next(&mut self) -> Option<&'a Expr> {
        self.positional.next()
    }

    /// A named argument.
    pub(super) fn take(&mut self, name: &'static str) -> Option<&'a Expr> {
        self.known.push(name);
        self.named.remove(name).map(|(value, _)| value)
    }

    /// Where a named argument stands, or else the call.
    pub(super) fn place(&self, name: &str) -> TextSpan {
        self.named.get(name).map_or(self.span, |(_, span)| *span)
    }

    /// A named argument, or else the next positional one.
    pub(super) fn either(&mut self, name: &'static str) -> Option<&'a Expr> {
        self.take(name).or_else(|| self.next())
    }

    fn missing(&self, name: &str, example: &str) -> SqlError {
        SqlError::at(
            self.span,
            format!(
                "{}: `{name}` is missing; write {name} => {example}",
                self.call
            ),
        )
    }

    pub(super) fn condition(&mut self, name: &'static str) -> Result<Option<Condition>, SqlError> {
        let value = self.take(name);
        value.map(|value| self.binder.condition(value)).transpose()
    }

    /// As [`Arguments::condition`], also where it comes first without its name.
    pub(super) fn first_condition(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Condition>, SqlError> {
        let value = self.either(name);
        value.map(|value| self.binder.condition(value)).transpose()
    }

    pub(super) fn needed_condition(
        &mut self,
        name: &'static str,
        example: &str,
    ) -> Result<Condition, SqlError> {
        let value = self.either(name);
        let value = value.ok_or_else(|| self.missing(name, example))?;
        self.binder.condition(value)
    }

    pub(super) fn operand(&mut self, name: &'static str) -> Result<Option<Operand>, SqlError> {
        let value = self.take(name);
        value
            .map(|value| self.binder.conditions().operand(value))
            .transpose()
    }

    pub(super) fn needed_operand(
        &mut self,
        name: &'static str,
        example: &str,
    ) -> Result<Operand, SqlError> {
        let value = self.operand(name)?;
        value.ok_or_else(|| self.missing(name, example))
    }

    /// A property, or several in brackets.
    pub(super) fn properties(&mut self, name: &'static str) -> Result<Vec<String>, SqlError> {
        let conditions = self.binder.conditions();
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Expr::Tuple(list)) => list.iter().map(|one| conditions.property(one)).collect(),
            Some(one) => Ok(vec![conditions.property(one)?]),
        }
    }

    pub(super) fn span(&mut self, name: &'static str) -> Result<Option<Span>, SqlError> {
        let value = self.take(name);
        value
            .map(|value| self.binder.constants().span(value))
            .transpose()
    }

    pub(super) fn time(&mut self, name: &'static str) -> Result<Option<i64>, SqlError> {
        let value = self.take(name);
        value
            .map(|value| self.binder.constants().time(value))
            .transpose()
    }

    pub(super) fn needed_time(&mut self, name: &'static str) -> Result<i64, SqlError> {
        let value = self.time(name)?;
        value.ok_or_else(|| self.missing(name, "TIMESTAMP '2025-03-01'"))
    }

    /// A whole number, 0 or more.
    pub(super) fn count(&mut self, name: &'static str) -> Result<Option<u64>, SqlError> {
        let Some(expr) = self.take(name) else {
            return Ok(None);
        };
        let value = self.binder.constants().value(expr)?;
        let is_number = value.data_type().is_integer();
        match is_number.then(|| value.cast_to(&DataType::UInt64)) {
            Some(Ok(ScalarValue::UInt64(Some(count)))) => Ok(Some(count)),
            _ => Err(self.wrong(name, expr, "a whole number")),
        }
    }

    pub(super) fn size(&mut self, name: &'static str) -> Result<Option<usize>, SqlError> {
        let count = self.count(name)?;
        Ok(count.map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
    }

    pub(super) fn needed_count(
        &mut self,
        name: &'static str,
        example: &str,
    ) -> Result<u64, SqlError> {
        let value = self.count(name)?;
        value.ok_or_else(|| self.missing(name, example))
    }

    /// `true` or `false`; false where it is not given.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, SqlError> {
        let Some(expr) = self.take(name) else {
            return Ok(false);
        };
        match self.binder.constants().value(expr)? {
            ScalarValue::Boolean(Some(value)) => Ok(value),
            _ => Err(self.wrong(name, expr, "true or false")),
        }
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, SqlError> {
        let Some(expr) = self.take(name) else {
            return Ok(None);
        };
        let value = self.binder.constants().value(expr)?;
        let is_text = value.data_type().is_string();
        match is_text.then(|| value.cast_to(&DataType::Utf8)) {
            Some(Ok(ScalarValue::Utf8(Some(text)))) => Ok(Some(text)),
            _ => Err(self.wrong(name, expr, "text in quotes")),
        }
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, SqlError> {
        let place = self.place(name);
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let found = choices
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(&text));
        if let Some((_, choice)) = found {
            return Ok(Some(*choice));
        }
        let words: Vec<_> = choices
            .iter()
            .map(|(word, _)| format!("'{word}'"))
            .collect();
        Err(SqlError::at(
            place,
            format!(
                "{}: `{name}` is one of {}, not '{text}'",
                self.call,
                words.join(", ")
            ),
        ))
    }

    pub(super) fn segment(&mut self, name: &'static str) -> Result<Option<Segment>, SqlError> {
        let value = self.take(name);
        value.map(|value| self.binder.segment(value)).transpose()
    }

    /// `since`, `until`, `last`.
    pub(super) fn range(&mut self) -> Result<TimeSpec, SqlError> {
        Ok(TimeSpec {
            since: self.time("since")?,
            until: self.time("until")?,
            last: self.span("last")?,
        })
    }

    fn wrong(&self, name: &str, expr: &Expr, what: &str) -> SqlError {
        SqlError::at(
            expr.span(),
            format!("{}: `{name}` must be {what}, not `{expr}`", self.call),
        )
    }

    /// Refuses arguments that nobody took.
    pub(super) fn finish(mut self) -> Result<(), SqlError> {
        let call = self.call;
        if let Some(extra) = self.positional.next() {
            return Err(SqlError::at(
                extra.span(),
                format!("{call}: `{extra}` is one argument too many"),
            ));
        }
        let Some((name, (_, span))) = self.named.pop_first() else {
            return Ok(());
        };
        let hint = match nearest(&name, self.known.iter().copied()) {
            Some(known) => format!("; did you mean `{known}`?"),
            None => format!("; there are {}", self.known.join(", ")),
        };
        Err(SqlError::at(
            span,
            format!("{call}: there is no option `{name}`{hint}"),
        ))
    }
}
