//! Events and traits as tests write them down, random ones, and batches of them.

use proptest::prelude::*;
use pugmark_engine::{BatchBuilder, EventBatch, Value};

use crate::dice::Dice;

/// Microseconds of a day.
pub const DAY: i64 = 86_400_000_000;
/// Midnight of the first day of random events: 2026-01-01 UTC.
pub const START: i64 = 1_767_225_600_000_000;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The user's id.
    pub user: String,
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
    /// Its name.
    pub name: String,
    /// Its properties; names are distinct.
    pub properties: Vec<(String, Value)>,
    /// Its de-duplication id.
    pub message_id: Option<String>,
}

/// Traits of one user, set at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Traits {
    /// The user's id.
    pub user: String,
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
    /// Names and values; null removes.
    pub values: Vec<(String, Value)>,
}

/// The batch of `events`, in their order.
pub fn batch_of(events: &[Event]) -> EventBatch {
    let mut batch = BatchBuilder::new();
    for event in events {
        let mut row = batch.event(&event.user, event.time, &event.name);
        for (name, value) in &event.properties {
            row = row.value(name, value);
        }
        if let Some(id) = &event.message_id {
            let _row = row.message_id(id);
        }
    }
    batch.finish().expect("test events are valid")
}

/// The names that random events have. One is rare, one has no ASCII letter.
const NAMES: [&str; 6] = ["view", "cart", "purchase", "visit", "日本", "email_open"];

/// Random events of a handful of users, with ties, duplicates, late ones, and every type.
pub fn event() -> impl Strategy<Value = Event> {
    let properties = prop::collection::btree_map(property_name(), value(), 0..4);
    (user(), time(), name(), properties).prop_map(|(user, time, name, properties)| Event {
        user,
        time,
        name,
        properties: properties.into_iter().collect(),
        message_id: None,
    })
}

/// Random events some of which repeat message ids of a small pool.
pub fn event_with_id() -> impl Strategy<Value = Event> {
    let id = prop::option::weighted(0.8, (0..24u32).prop_map(|id| format!("message-{id}")));
    (event(), id).prop_map(|(event, message_id)| Event {
        message_id,
        ..event
    })
}

/// A random update of traits.
pub fn traits() -> impl Strategy<Value = Traits> {
    let value = prop_oneof![6 => value(), 1 => Just(Value::Null)];
    let values = prop::collection::btree_map(property_name(), value, 1..4);
    (user(), time(), values).prop_map(|(user, time, values)| Traits {
        user,
        time,
        values: values.into_iter().collect(),
    })
}

/// Few users with many events, many with few; texts, integers, and texts that look like some.
fn user() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0..3u32).prop_map(|n| format!("user-{n}")),
        2 => (0..40u32).prop_map(|n| format!("user-{n}")),
        2 => (0..8i64).prop_map(|n| n.to_string()),
        1 => prop::sample::select(vec!["007", "-1", "9223372036854775808", "ümlaut", "+1", "-0"])
            .prop_map(str::to_owned),
    ]
}

/// Mostly a few instants (so that ties abound) of four months, some of any other time.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => (0..12i64, 0..4i64).prop_map(|(day, second)| START + day * 10 * DAY + second * 1_000_000),
        2 => (0..120 * DAY).prop_map(|offset| START + offset),
        1 => (0..120 * 86_400i64).prop_map(|offset| START + offset * 1_000_000),
        1 => (-40 * DAY..40 * DAY).prop_map(|time| time),
        1 => prop::sample::select(vec![START, START - 1, START + 30 * DAY - 1, START + 30 * DAY, 0, -1]),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned),
        1 => (0..30u32).prop_map(|n| format!("rare-{n}")),
    ]
}

fn property_name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["price", "product", "platform", "tags"]),
        1 => prop::sample::select(vec!["a.b", "größe", "x"]),
    ]
    .prop_map(str::to_owned)
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-5..50i64).prop_map(Value::I64),
        4 => (0..400i64).prop_map(|cents| Value::F64(cents as f64 / 100.0)),
        4 => prop::sample::select(vec!["web", "ios", "android", ""]).prop_map(Value::from),
        2 => any::<bool>().prop_map(Value::Bool),
        2 => time().prop_map(Value::Timestamp),
        1 => any::<i64>().prop_map(Value::I64),
        1 => any::<f64>().prop_map(Value::F64),
        1 => ".{0,20}".prop_map(Value::Text),
    ]
}

/// Any value an event may have: scalars, lists of several types, and what counts as missing.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        12 => scalar(),
        2 => prop::collection::vec(scalar(), 0..4).prop_map(Value::List),
        1 => Just(Value::Null),
    ]
}

/// A repeatable event for crash workloads: `serial` is its own, so that no two are the same.
pub fn numbered_event(dice: &mut Dice, users: &str, serial: u64) -> Event {
    let serial_value = Value::I64(serial as i64);
    let mut properties = vec![("serial".to_owned(), serial_value)];
    if !dice.one_in(3) {
        properties.push((
            "price".to_owned(),
            Value::F64(dice.below(10_000) as f64 / 100.0),
        ));
    }
    if dice.one_in(2) {
        let platform = *dice.pick(&["web", "ios", "android"]);
        properties.push(("platform".to_owned(), platform.into()));
    }
    if dice.one_in(5) {
        let tags = (0..=dice.below(3)).map(|tag| Value::Text(format!("tag {tag}")));
        properties.push(("tags".to_owned(), Value::List(tags.collect())));
    }
    let user = if dice.one_in(6) {
        100 + serial
    } else {
        dice.below(12)
    };
    Event {
        user: format!("{users}{user}"),
        time: START + (dice.below(8) as i64) * DAY + (dice.below(5) as i64) * 1_000_000,
        name: (*dice.pick(&NAMES)).to_owned(),
        properties,
        message_id: None,
    }
}
