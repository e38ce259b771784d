//! What can be told about a condition before any event is read.

use std::collections::BTreeSet;

use pugmark_engine::Scalar;

use super::computed::Computed;
use super::condition::{Comparison, Condition, Operand, Truth};
use super::literal::{Literal, compare};

/// Which event names a condition can hold for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Perhaps any; ask [`Condition::for_event`] for each.
    Any,
    /// None but these.
    These(BTreeSet<String>),
}

/// What a condition needs to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Properties of the event.
    pub properties: BTreeSet<String>,
    /// Traits of the user.
    pub traits: BTreeSet<String>,
    /// The event's time.
    pub time: bool,
    /// The event's name.
    pub event_name: bool,
}

impl Names {
    fn none() -> Self {
        Self::These(BTreeSet::new())
    }

    /// The one name, if there is just one.
    pub fn only(&self) -> Option<&str> {
        match self {
            Self::These(names) if names.len() == 1 => names.first().map(String::as_str),
            _ => None,
        }
    }

    /// True where events of this name need looking at.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(names) => names.contains(name),
        }
    }

    /// Names in either.
    pub fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::These(mut names), Self::These(others)) => {
                names.extend(others);
                Self::These(names)
            }
            _ => Self::Any,
        }
    }

    /// Names in both.
    pub fn intersection(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, names) | (names, Self::Any) => names,
            (Self::These(names), Self::These(others)) => {
                Self::These(names.intersection(&others).cloned().collect())
            }
        }
    }
}

impl Condition {
    /// The event names that this can hold for: never too few, perhaps too many.
    pub fn names(&self) -> Names {
        self.names_where(Truth::True)
    }

    /// The names for which this can come to `wanted`, true or false.
    fn names_where(&self, wanted: Truth) -> Names {
        match self {
            Self::Constant(truth) if *truth == wanted => Names::Any,
            Self::Constant(_) => Names::none(),
            Self::Compare {
                operand: Operand::EventName,
                comparison,
                literal: Literal::Text(name),
            } => match (comparison, wanted) {
                (Comparison::Equal, Truth::True) | (Comparison::NotEqual, Truth::False) => {
                    Names::These(BTreeSet::from([name.clone()]))
                }
                _ => Names::Any,
            },
            Self::In {
                operand: Operand::EventName,
                literals,
            } if wanted == Truth::True => Names::These(
                literals
                    .iter()
                    .filter_map(|literal| match literal {
                        Literal::Text(name) => Some(name.clone()),
                        _ => None,
                    })
                    .collect(),
            ),
            Self::Compare { .. } | Self::In { .. } | Self::Text { .. } | Self::IsNull(_) => {
                Names::Any
            }
            Self::Not(inner) => inner.names_where(wanted.negate()),
            // A conjunction is true where all parts are, false where any is; an empty one is true.
            Self::And(parts) if wanted == Truth::True => all_of(parts, wanted),
            Self::Or(parts) if wanted == Truth::False => all_of(parts, wanted),
            Self::And(parts) | Self::Or(parts) => any_of(parts, wanted),
        }
    }

    /// The properties, traits and columns that this looks at.
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        self.collect_reads(&mut reads);
        reads
    }

    fn collect_reads(&self, reads: &mut Reads) {
        match self {
            Self::Constant(_) => {}
            Self::Compare { operand, .. }
            | Self::In { operand, .. }
            | Self::Text { operand, .. }
            | Self::IsNull(operand) => reads.add(operand),
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().for_each(|part| part.collect_reads(reads));
            }
            Self::Not(inner) => inner.collect_reads(reads),
        }
    }

    /// The expressions that this looks at.
    pub(crate) fn expressions(&self) -> Vec<&Computed> {
        match self {
            Self::Constant(_) => Vec::new(),
            Self::Compare { operand, .. }
            | Self::In { operand, .. }
            | Self::Text { operand, .. }
            | Self::IsNull(operand) => match operand {
                Operand::Computed(computed) => vec![computed],
                _ => Vec::new(),
            },
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().flat_map(Self::expressions).collect()
            }
            Self::Not(inner) => inner.expressions(),
        }
    }

    /// What remains of this for events named `name`: nothing that looks at the name, expressions
    /// over it apart.
    pub fn for_event(&self, name: &str) -> Self {
        let text = Scalar::Text(name);
        match self {
            Self::Compare {
                operand: Operand::EventName,
                comparison,
                literal,
            } => constant(compare(text, literal).map(|ordering| comparison.accepts(ordering))),
            Self::In {
                operand: Operand::EventName,
                literals,
            } => Self::Constant(literals.iter().fold(Truth::False, |truth, literal| {
                let equal = compare(text, literal).map(std::cmp::Ordering::is_eq);
                truth.or(equal.map_or(Truth::Unknown, Truth::from))
            })),
            Self::Text {
                operand: Operand::EventName,
                test,
            } => constant(Some(test.matches(name))),
            Self::IsNull(Operand::EventName | Operand::Time) => Self::Constant(Truth::False),
            Self::Compare { literal, .. } if literal.compares_with_nothing() => {
                Self::Constant(Truth::Unknown)
            }
            Self::In { literals, .. } if literals.is_empty() => Self::Constant(Truth::False),
            Self::Not(inner) => match inner.for_event(name) {
                Self::Constant(truth) => Self::Constant(truth.negate()),
                other => other.not(),
            },
            Self::And(parts) => fold(
                parts,
                name,
                Truth::False,
                Truth::True,
                Truth::and,
                Self::And,
            ),
            Self::Or(parts) => fold(parts, name, Truth::True, Truth::False, Truth::or, Self::Or),
            other => other.clone(),
        }
    }

    /// The name, where this is exactly `event = name`.
    pub fn as_event(&self) -> Option<&str> {
        match self {
            Self::Compare {
                operand: Operand::EventName,
                comparison: Comparison::Equal,
                literal: Literal::Text(name),
            } => Some(name),
            Self::And(parts) | Self::Or(parts) if parts.len() == 1 => parts[0].as_event(),
            _ => None,
        }
    }

    /// Property and text, where this is exactly `property = 'text'`: what bitmaps of values answer
    /// wherever the property has text values only.
    pub fn as_property_text(&self) -> Option<(&str, &str)> {
        match self {
            Self::Compare {
                operand: Operand::Property(property),
                comparison: Comparison::Equal,
                literal: Literal::Text(text),
            } => Some((property, text)),
            Self::And(parts) | Self::Or(parts) if parts.len() == 1 => parts[0].as_property_text(),
            _ => None,
        }
    }

    /// True where this looks at nothing but traits.
    pub fn only_traits(&self) -> bool {
        let reads = self.reads();
        reads.properties.is_empty() && !reads.time && !reads.event_name
    }
}

impl Reads {
    /// What an operand looks at.
    pub(crate) fn of(operand: &Operand) -> Self {
        let mut reads = Self::default();
        reads.add(operand);
        reads
    }

    fn add(&mut self, operand: &Operand) {
        match operand {
            Operand::EventName => self.event_name = true,
            Operand::Time => self.time = true,
            Operand::Property(name) => {
                self.properties.insert(name.clone());
            }
            Operand::Trait(name) => {
                self.traits.insert(name.clone());
            }
            Operand::Computed(computed) => {
                computed.inputs().iter().for_each(|input| self.add(input));
            }
        }
    }
}

fn all_of(parts: &[Condition], wanted: Truth) -> Names {
    let names = parts.iter().map(|part| part.names_where(wanted));
    names.fold(Names::Any, Names::intersection)
}

fn any_of(parts: &[Condition], wanted: Truth) -> Names {
    let names = parts.iter().map(|part| part.names_where(wanted));
    names.fold(Names::none(), Names::union)
}

fn constant(holds: Option<bool>) -> Condition {
    Condition::Constant(holds.map_or(Truth::Unknown, Truth::from))
}

/// Simplifies the parts of AND (OR) and joins them: `decisive` alone decides, `neutral` says
/// nothing.
fn fold(
    parts: &[Condition],
    name: &str,
    decisive: Truth,
    neutral: Truth,
    join: fn(Truth, Truth) -> Truth,
    rebuild: fn(Vec<Condition>) -> Condition,
) -> Condition {
    let mut known = neutral;
    let mut rest = Vec::new();
    for part in parts {
        match part.for_event(name) {
            Condition::Constant(truth) => known = join(known, truth),
            other => rest.push(other),
        }
    }
    if known == decisive || rest.is_empty() {
        return Condition::Constant(known);
    }
    if known != neutral {
        rest.push(Condition::Constant(known));
    }
    match rest.pop() {
        Some(last) if rest.is_empty() => last,
        Some(last) => {
            rest.push(last);
            rebuild(rest)
        }
        None => Condition::Constant(known),
    }
}
