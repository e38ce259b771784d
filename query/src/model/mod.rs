//! The judge: every answer by plain loops over one user's sorted events.
//!
//! [`ModelStore`] keeps events as they were handed in and looks at all of them for each question.
//! It enumerates every chain of a funnel, so a user of more than some dozens of matching events
//! takes for ever; what it is for is to be read, believed, and compared with. It shares the
//! plans and the reference evaluation of conditions with the rest of this crate, and no algorithm.
//!
//! ```
//! use pugmark_query::model::ModelStore;
//! use pugmark_query::{did, not};
//! let mut store = ModelStore::new();
//! store.event(1, 10, "cart").property("item", "tea");
//! store.event(2, 20, "cart").property("item", "tea");
//! store.event(2, 30, "buy").property("item", "tea");
//! let left_in_the_cart = did("cart").and(not(did("buy")));
//! assert_eq!(store.segment(&left_in_the_cart, 100)?, [1].into());
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

mod affinity;
mod attribution;
mod chains;
mod experiment;
mod funnel;
mod lifecycle;
mod paths;
mod periods;
mod retention;
mod rfm;
mod segment;
mod sessions;
mod stickiness;

#[cfg(test)]
pub(crate) use funnel::JudgedChain;

use std::collections::{BTreeMap, BTreeSet};

use pugmark_engine::{Scalar, Value};

use crate::behaviour::{Condition, EventRow, Operand, Segment, Skipped, operand_value};
use crate::error::Invalid;

/// One event of the judge's store.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEvent {
    /// The ordinal that it arrived under.
    pub user: u32,
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
    /// Its name.
    pub event: String,
    /// Its properties; none is null or an empty list.
    pub properties: BTreeMap<String, Value>,
}

/// One change of a trait.
#[derive(Clone, Debug, PartialEq)]
struct ModelTrait {
    user: u32,
    time: i64,
    name: String,
    /// Null removes the trait.
    value: Value,
}

/// Events and traits in the order of their arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelStore {
    events: Vec<ModelEvent>,
    traits: Vec<ModelTrait>,
    /// Merged ordinals and what they were merged into.
    merged: BTreeMap<u32, u32>,
}

/// The event just pushed, to be given properties.
#[derive(Debug)]
pub struct ModelEventBuilder<'a> {
    event: &'a mut ModelEvent,
}

impl ModelEventBuilder<'_> {
    /// Sets a property; null and an empty list are a missing one.
    pub fn property(self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if value != Value::Null && value != Value::List(Vec::new()) {
            self.event.properties.insert(name.to_owned(), value);
        }
        self
    }
}

/// The traits of one user at some present.
type Traits = BTreeMap<String, Value>;

/// An event together with the traits of its user.
struct Row<'a> {
    event: &'a ModelEvent,
    traits: &'a Traits,
}

impl EventRow for Row<'_> {
    fn event(&self) -> &str {
        &self.event.event
    }

    fn time(&self) -> i64 {
        self.event.time
    }

    fn property(&self, name: &str) -> Option<&Value> {
        self.event.properties.get(name)
    }

    fn user_trait(&self, name: &str) -> Option<&Value> {
        self.traits.get(name)
    }
}

impl ModelStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next event to arrive.
    pub fn event(&mut self, user: u32, time: i64, event: &str) -> ModelEventBuilder<'_> {
        self.push(ModelEvent {
            user,
            time,
            event: event.to_owned(),
            properties: BTreeMap::new(),
        })
    }

    /// The next event to arrive, whole.
    pub fn push(&mut self, event: ModelEvent) -> ModelEventBuilder<'_> {
        let index = self.events.len();
        self.events.push(event);
        ModelEventBuilder {
            event: &mut self.events[index],
        }
    }

    /// Sets a trait of `user` from `time` on; null removes it.
    pub fn set_trait(&mut self, user: u32, time: i64, name: &str, value: impl Into<Value>) {
        self.traits.push(ModelTrait {
            user,
            time,
            name: name.to_owned(),
            value: value.into(),
        });
    }

    /// All past and future events and traits of `from` belong to `into`.
    pub fn merge(&mut self, from: u32, into: u32) {
        let (from, into) = (self.canonical(from), self.canonical(into));
        if from != into {
            self.merged.insert(from, into);
        }
    }

    /// Drops every event and trait of `user`.
    pub fn forget(&mut self, user: u32) {
        let gone = self.canonical(user);
        let merged = self.merged.clone();
        self.events
            .retain(|event| canonical(&merged, event.user) != gone);
        self.traits
            .retain(|entry| canonical(&merged, entry.user) != gone);
    }

    /// All changes of traits in the order of their arrival: user, time, name, value.
    #[cfg(test)]
    pub(crate) fn trait_changes(&self) -> impl Iterator<Item = (u32, i64, &str, &Value)> {
        let changes = self.traits.iter();
        changes.map(|change| {
            (
                change.user,
                change.time,
                change.name.as_str(),
                &change.value,
            )
        })
    }

    /// All events in the order of their arrival.
    pub fn events(&self) -> &[ModelEvent] {
        &self.events
    }

    /// Users with an event, or with a trait that was ever set, up to `as_of`.
    pub fn known_users(&self, as_of: i64) -> BTreeSet<u32> {
        let mut users = BTreeSet::new();
        for event in &self.events {
            if event.time <= as_of {
                users.insert(self.canonical(event.user));
            }
        }
        for entry in &self.traits {
            if entry.time <= as_of {
                users.insert(self.canonical(entry.user));
            }
        }
        users
    }

    /// One user's events up to `as_of`, in total order: time, then the ordinal that they arrived
    /// under (it differs only where users were merged), then arrival.
    pub fn history(&self, user: u32, as_of: i64) -> Vec<&ModelEvent> {
        let mut events: Vec<_> = self
            .events
            .iter()
            .filter(|event| self.canonical(event.user) == user && event.time <= as_of)
            .collect();
        // The sort is stable: events that are equal here stay in the order of their arrival.
        events.sort_by_key(|event| (event.time, event.user));
        events
    }

    /// One user's traits at `as_of`: the last value of each that was set by then.
    pub fn traits(&self, user: u32, as_of: i64) -> BTreeMap<String, Value> {
        let mut changes: Vec<_> = self
            .traits
            .iter()
            .filter(|entry| self.canonical(entry.user) == user && entry.time <= as_of)
            .collect();
        changes.sort_by_key(|entry| (entry.time, entry.user));
        let mut traits = BTreeMap::new();
        for change in changes {
            if change.value == Value::Null {
                traits.remove(&change.name);
            } else {
                traits.insert(change.name.clone(), change.value.clone());
            }
        }
        traits
    }

    /// The users of a segment; all there are, where none is given.
    fn population(&self, users: Option<&Segment>, as_of: i64) -> Result<BTreeSet<u32>, Invalid> {
        match users {
            Some(segment) => self.segment(segment, as_of),
            None => Ok(self.known_users(as_of)),
        }
    }

    fn canonical(&self, user: u32) -> u32 {
        canonical(&self.merged, user)
    }
}

fn canonical(merged: &BTreeMap<u32, u32>, mut user: u32) -> u32 {
    while let Some(&into) = merged.get(&user) {
        user = into;
    }
    user
}

/// The different values of a property of an event, as text.
fn texts(event: &ModelEvent, property: &str) -> BTreeSet<String> {
    let value = event.properties.get(property);
    let scalars = value.into_iter().flat_map(Value::scalars);
    scalars
        .map(|scalar| scalar.canonical_text().into_owned())
        .collect()
}

/// True where a condition holds for an event.
fn holds(condition: &Condition, event: &ModelEvent, traits: &Traits) -> bool {
    let row = Row { event, traits };
    condition.evaluate(&row, &mut Skipped::default()).holds()
}

/// The smallest element of an operand's value, as text.
fn text(operand: &Operand, event: &ModelEvent, traits: &Traits) -> Option<String> {
    let row = Row { event, traits };
    let (value, _) = operand_value(operand, &row);
    let scalars = value.iter().flat_map(|value| value.scalars());
    let texts = scalars.map(|scalar| scalar.canonical_text().into_owned());
    texts.min()
}

/// The numbers among the elements of an operand's value, added up.
fn number(operand: &Operand, event: &ModelEvent, traits: &Traits) -> Option<f64> {
    let row = Row { event, traits };
    let (value, _) = operand_value(operand, &row);
    let mut sum = None;
    for scalar in value.iter().flat_map(|value| value.scalars()) {
        let number = match scalar {
            Scalar::I64(number) => number as f64,
            Scalar::F64(number) if !number.is_nan() => number,
            _ => continue,
        };
        sum = Some(sum.unwrap_or(0.0) + number);
    }
    sum
}
