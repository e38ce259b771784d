//! Questions in words: as they would be written in SQL.

use std::fmt;

use super::condition::{Comparison, Condition, Operand, Truth};
use super::did::{Aggregate, Did};
use super::literal::Literal;
use super::range::{Span, TimeSpec};
use super::segment::Segment;

impl fmt::Display for Operand {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventName => out.write_str("event"),
            Self::Time => out.write_str("time"),
            Self::Property(name) => out.write_str(name),
            Self::Trait(name) => write!(out, "users.{name}"),
            Self::Computed(computed) => write!(out, "{computed}"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => out.write_str("NULL"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::I64(value) => write!(out, "{value}"),
            Self::F64(value) => write!(out, "{value:?}"),
            Self::Text(text) => write!(out, "'{}'", text.replace('\'', "''")),
            Self::Timestamp(micros) => {
                let time = pugmark_engine::Scalar::Timestamp(*micros);
                write!(out, "TIMESTAMP '{}'", time.canonical_text())
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(Truth::True) => out.write_str("true"),
            Self::Constant(Truth::False) => out.write_str("false"),
            Self::Constant(Truth::Unknown) => out.write_str("NULL"),
            // A boolean expression is a condition as it stands.
            Self::Compare {
                operand: Operand::Computed(computed),
                comparison: Comparison::Equal,
                literal: Literal::Bool(true),
            } => write!(out, "{computed}"),
            Self::Compare {
                operand,
                comparison,
                literal,
            } => write!(out, "{operand} {comparison} {literal}"),
            Self::In { operand, literals } => {
                write!(out, "{operand} IN (")?;
                joined(out, literals, ", ")?;
                out.write_str(")")
            }
            Self::Text { operand, test } => {
                let like = if test.pattern.ignores_case() {
                    "ILIKE"
                } else {
                    "LIKE"
                };
                let pattern = Literal::Text(test.pattern.text());
                write!(out, "{operand} {like} {pattern}")
            }
            Self::IsNull(operand) => write!(out, "{operand} IS NULL"),
            Self::And(parts) if parts.is_empty() => out.write_str("true"),
            Self::Or(parts) if parts.is_empty() => out.write_str("false"),
            Self::And(parts) => bracketed(out, parts, " AND "),
            Self::Or(parts) => bracketed(out, parts, " OR "),
            Self::Not(inner) => write!(out, "NOT {inner}"),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => out.write_str("everyone"),
            Self::Did(did) => write!(out, "{did}"),
            Self::Trait(condition) => write!(out, "{condition}"),
            Self::Users(users) => write!(out, "{} users", users.len()),
            Self::And(parts) => bracketed(out, parts, " AND "),
            Self::Or(parts) => bracketed(out, parts, " OR "),
            Self::Not(inner) => write!(out, "NOT {inner}"),
            Self::Except(left, right) => write!(out, "({left} EXCEPT {right})"),
        }
    }
}

impl fmt::Display for Did {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "did({}", self.condition)?;
        for test in &self.aggregates {
            let name = match test.aggregate {
                Aggregate::Sum => "sum",
                Aggregate::Avg => "avg",
                Aggregate::Min => "min",
                Aggregate::Max => "max",
                Aggregate::CountDistinct => "count_distinct",
            };
            write!(
                out,
                ", {name}({}) {} {}",
                test.property, test.comparison, test.literal
            )?;
        }
        let counts = [
            ("at_least", self.at_least),
            ("at_most", self.at_most),
            ("exactly", self.exactly),
            ("on_days", self.on_days),
        ];
        for (name, count) in counts {
            option(out, name, count.as_ref())?;
        }
        option(out, "then", self.then.as_ref())?;
        option(out, "not_then", self.not_then.as_ref())?;
        option(out, "then_within", self.then_within.as_ref())?;
        if !self.holding.is_empty() {
            write!(out, ", holding => ({})", self.holding.join(", "))?;
        }
        if self.first_time {
            out.write_str(", first_time => true")?;
        }
        option(out, "idle_for", self.idle_for.as_ref())?;
        write!(out, "{})", self.range)
    }
}

impl fmt::Display for TimeSpec {
    /// As further arguments of a call.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since.map(Literal::Timestamp);
        let until = self.until.map(Literal::Timestamp);
        option(out, "since", since.as_ref())?;
        option(out, "until", until.as_ref())?;
        option(out, "last", self.last.as_ref())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, i64); 4] = [
            ("days", 86_400_000_000),
            ("hours", 3_600_000_000),
            ("minutes", 60_000_000),
            ("seconds", 1_000_000),
        ];
        let whole = UNITS.iter().find(|(_, micros)| self.micros % micros == 0);
        let (unit, micros) = whole.unwrap_or(&("microseconds", 1));
        write!(out, "INTERVAL '{} {unit}'", self.micros / micros)
    }
}

fn option<T: fmt::Display>(
    out: &mut fmt::Formatter<'_>,
    name: &str,
    value: Option<&T>,
) -> fmt::Result {
    match value {
        Some(value) => write!(out, ", {name} => {value}"),
        None => Ok(()),
    }
}

fn bracketed<T: fmt::Display>(
    out: &mut fmt::Formatter<'_>,
    parts: &[T],
    between: &str,
) -> fmt::Result {
    if let [only] = parts {
        return write!(out, "{only}");
    }
    out.write_str("(")?;
    joined(out, parts, between)?;
    out.write_str(")")
}

fn joined<T: fmt::Display>(
    out: &mut fmt::Formatter<'_>,
    parts: &[T],
    between: &str,
) -> fmt::Result {
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            out.write_str(between)?;
        }
        write!(out, "{part}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{days, did, event, not, property};

    #[test]
    fn questions_read_as_they_are_written() {
        let carts = event("cart").and(property("price").ge(9.5).or(property("brand").is_null()));
        let segment = did(carts)
            .at_least(2)
            .last(days(30))
            .and(not(did("purchase")));
        assert_eq!(
            segment.to_string(),
            "(did((event = 'cart' AND (price >= 9.5 OR brand IS NULL)), at_least => 2, \
             last => INTERVAL '30 days') AND NOT did(event = 'purchase'))"
        );
    }
}
