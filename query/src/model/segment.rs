//! Segments, by looking at every user.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use pugmark_engine::{Scalar, Value};

use super::{ModelEvent, ModelStore, Row, Traits, texts};
use crate::behaviour::{
    Aggregate, AggregateTest, Condition, Did, Literal, Segment, Skipped, Truth, compare,
};
use crate::error::Invalid;

/// One user, as a segment looks at it.
struct User<'a> {
    ordinal: u32,
    /// All events up to `as_of`, in total order.
    events: Vec<&'a ModelEvent>,
    traits: Traits,
    as_of: i64,
}

impl ModelStore {
    /// The users of `segment`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Segment::validate`].
    pub fn segment(&self, segment: &Segment, as_of: i64) -> Result<BTreeSet<u32>, Invalid> {
        segment.validate()?;
        let mut users = self.known_users(as_of);
        users.retain(|&ordinal| {
            let user = User {
                ordinal,
                events: self.history(ordinal, as_of),
                traits: self.traits(ordinal, as_of),
                as_of,
            };
            user.is_in(segment).holds()
        });
        Ok(users)
    }
}

impl User<'_> {
    fn is_in(&self, segment: &Segment) -> Truth {
        match segment {
            Segment::Everyone => Truth::True,
            Segment::Did(did) => Truth::from(self.did(did)),
            Segment::Trait(condition) => self.traits_satisfy(condition),
            Segment::Users(ordinals) => Truth::from(ordinals.contains(self.ordinal)),
            Segment::And(parts) => parts
                .iter()
                .fold(Truth::True, |truth, part| truth.and(self.is_in(part))),
            Segment::Or(parts) => parts
                .iter()
                .fold(Truth::False, |truth, part| truth.or(self.is_in(part))),
            Segment::Not(inner) => self.is_in(inner).negate(),
            Segment::Except(left, right) => {
                Truth::from(self.is_in(left).holds() && !self.is_in(right).holds())
            }
        }
    }

    fn traits_satisfy(&self, condition: &Condition) -> Truth {
        // The condition reads nothing of the event, so that any event does.
        let event = ModelEvent {
            user: self.ordinal,
            time: 0,
            event: String::new(),
            properties: Default::default(),
        };
        self.truth(condition, &event)
    }

    fn truth(&self, condition: &Condition, event: &ModelEvent) -> Truth {
        let row = Row {
            event,
            traits: &self.traits,
        };
        condition.evaluate(&row, &mut Skipped::default())
    }

    fn did(&self, did: &Did) -> bool {
        // "Such events": they satisfy the condition and pass `then` and `not_then`.
        let such: Vec<&ModelEvent> = (0..self.events.len())
            .filter(|&index| self.is_such(did, index))
            .map(|index| self.events[index])
            .collect();
        let range = did.range.resolve(self.as_of);
        let inside: Vec<&ModelEvent> = such
            .iter()
            .copied()
            .filter(|event| range.contains(event.time))
            .collect();
        let (Some(first), Some(last)) = (such.first(), such.last()) else {
            return false;
        };
        let count = inside.len() as u64;
        let days: BTreeSet<i64> = inside
            .iter()
            .map(|event| did.zone.day(event.time))
            .collect();
        count >= 1
            && did.at_least.is_none_or(|least| count >= least)
            && did.at_most.is_none_or(|most| count <= most)
            && did.exactly.is_none_or(|exactly| count == exactly)
            && did.on_days.is_none_or(|least| days.len() as u64 >= least)
            && did.aggregates.iter().all(|test| aggregate(test, &inside))
            && (!did.first_time || range.contains(first.time))
            && did
                .idle_for
                .is_none_or(|span| self.since(last.time) >= i128::from(span.micros))
    }

    /// Microseconds from `time` to the present.
    fn since(&self, time: i64) -> i128 {
        i128::from(self.as_of) - i128::from(time)
    }

    fn is_such(&self, did: &Did, index: usize) -> bool {
        let event = self.events[index];
        let within = did.then_within.map(|span| i128::from(span.micros));
        let followed_by = |condition: &Condition| {
            self.events[index + 1..].iter().any(|later| {
                self.truth(condition, later).holds()
                    && within.is_none_or(|within| {
                        i128::from(later.time) - i128::from(event.time) <= within
                    })
                    && did.holding.iter().all(|property| {
                        !texts(event, property).is_disjoint(&texts(later, property))
                    })
            })
        };
        let elapsed = within.is_none_or(|within| self.since(event.time) >= within);
        self.truth(&did.condition, event).holds()
            && did.then.as_ref().is_none_or(followed_by)
            && did
                .not_then
                .as_ref()
                .is_none_or(|condition| elapsed && !followed_by(condition))
    }
}

/// True where the aggregate of the events' values stands as wanted.
fn aggregate(test: &AggregateTest, events: &[&ModelEvent]) -> bool {
    let values = || {
        let values = events
            .iter()
            .filter_map(|event| event.properties.get(&test.property));
        values.flat_map(Value::scalars)
    };
    let holds = |ordering: Option<Ordering>| {
        ordering.is_some_and(|ordering| test.comparison.accepts(ordering))
    };
    match test.aggregate {
        Aggregate::CountDistinct => {
            let distinct: BTreeSet<_> = values().map(|value| value.canonical_text()).collect();
            holds(compare(Scalar::I64(distinct.len() as i64), &test.literal))
        }
        Aggregate::Min => {
            let least = values()
                .filter(|value| compare(*value, &test.literal).is_some())
                .reduce(|least, value| if less(value, least) { value } else { least });
            holds(least.and_then(|least| compare(least, &test.literal)))
        }
        Aggregate::Max => {
            let greatest = values()
                .filter(|value| compare(*value, &test.literal).is_some())
                .reduce(|most, value| if less(most, value) { value } else { most });
            holds(greatest.and_then(|greatest| compare(greatest, &test.literal)))
        }
        Aggregate::Sum | Aggregate::Avg => holds(sum_or_avg(test, values())),
    }
}

/// Both are comparable with the same literal, so that they are of one kind.
fn less(left: Scalar<'_>, right: Scalar<'_>) -> bool {
    let literal = match right {
        Scalar::I64(value) => Literal::I64(value),
        Scalar::F64(value) => Literal::F64(value),
        Scalar::Timestamp(value) => Literal::Timestamp(value),
        Scalar::Bool(_) | Scalar::Text(_) => Literal::Null,
    };
    compare(left, &literal) == Some(Ordering::Less)
}

fn sum_or_avg<'a>(
    test: &AggregateTest,
    values: impl Iterator<Item = Scalar<'a>>,
) -> Option<Ordering> {
    let (mut whole, mut floats) = (0_i128, None);
    let mut count = 0_u64;
    for value in values {
        match value {
            Scalar::I64(value) => whole += i128::from(value),
            Scalar::F64(value) if !value.is_nan() => {
                floats = Some(floats.unwrap_or(0.0) + value);
            }
            _ => continue,
        }
        count += 1;
    }
    if count == 0 {
        return None;
    }
    if test.aggregate == Aggregate::Sum && floats.is_none() {
        return match test.literal {
            Literal::I64(literal) => Some(whole.cmp(&i128::from(literal))),
            Literal::F64(literal) => crate::behaviour::compare_exactly(whole, literal),
            _ => None,
        };
    }
    let sum = whole as f64 + floats.unwrap_or(0.0);
    let result = match test.aggregate {
        Aggregate::Avg => sum / count as f64,
        _ => sum,
    };
    compare(Scalar::F64(result), &test.literal)
}
