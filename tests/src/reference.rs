//! A store as a list of rows in arrival order: slow, and obviously right.

use std::collections::{BTreeMap, HashMap};

use pugmark_engine::Value;

use crate::events::{Event, Traits};

/// A property value as text that two values share only where they are the same, to the bit.
pub type Cell = String;

/// What one event is, apart from its user and its place in the order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
    /// Its name; empty for traits.
    pub name: String,
    /// Its properties.
    pub properties: BTreeMap<String, Cell>,
}

/// All rows by user, each user's in total order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trails {
    /// Events.
    pub events: BTreeMap<String, Vec<Row>>,
    /// Trait updates.
    pub traits: BTreeMap<String, Vec<Row>>,
}

impl Trails {
    /// Number of events.
    pub fn event_count(&self) -> u64 {
        self.events.values().map(|rows| rows.len() as u64).sum()
    }

    /// Those of users whose id begins with `prefix`.
    pub fn of_users(&self, prefix: &str) -> Self {
        let only = |rows: &BTreeMap<String, Vec<Row>>| {
            let own = rows.iter().filter(|(user, _)| user.starts_with(prefix));
            own.map(|(user, rows)| (user.clone(), rows.clone()))
                .collect()
        };
        Self {
            events: only(&self.events),
            traits: only(&self.traits),
        }
    }

    /// Where two differ, in words for a failed test.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let kinds = [
            ("events", &self.events, &other.events),
            ("traits", &self.traits, &other.traits),
        ];
        let mut found = String::new();
        for (kind, ours, theirs) in kinds {
            let mut users: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
            users.sort_unstable();
            users.dedup();
            let none = Vec::new();
            for user in users {
                let (one, two) = (
                    ours.get(user).unwrap_or(&none),
                    theirs.get(user).unwrap_or(&none),
                );
                if one != two && found.len() < 4_000 {
                    found += &describe(kind, user, one, two);
                }
            }
        }
        (!found.is_empty()).then_some(found)
    }
}

fn describe(kind: &str, user: &str, one: &[Row], two: &[Row]) -> String {
    let same = one.iter().zip(two).take_while(|(one, two)| one == two);
    let at = same.count();
    let (rows, others) = (one.len(), two.len());
    let (row, other) = (one.get(at), two.get(at));
    format!(
        "\n{kind} of {user:?}: {rows} and {others} rows, different from row {at}:\n  {row:?}\n  {other:?}"
    )
}

/// The reference store.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    events: Vec<(String, Row)>,
    traits: Vec<(String, Row)>,
    message_ids: HashMap<String, i64>,
    dedup_window_millis: i64,
    partition_micros: i64,
    /// Batches of bulk loads that are in, by the load's key.
    loaded: HashMap<u128, usize>,
}

impl Reference {
    /// An empty store with these options.
    pub fn new(partition_micros: i64, dedup_window_micros: i64) -> Self {
        Self {
            events: Vec::new(),
            traits: Vec::new(),
            message_ids: HashMap::new(),
            dedup_window_millis: dedup_window_micros.div_euclid(1_000),
            partition_micros,
            loaded: HashMap::new(),
        }
    }

    /// Appends events that arrive at `now`; returns how many were stored.
    pub fn append(&mut self, events: &[Event], now: i64) -> u64 {
        let mut stored = 0;
        for event in events {
            if let Some(id) = event.message_id.as_deref().filter(|id| !id.is_empty()) {
                let seen = self.message_ids.get(id);
                // The window counts in whole milliseconds of arrival.
                let now = now.div_euclid(1_000);
                if seen.is_some_and(|seen| now - seen <= self.dedup_window_millis) {
                    continue;
                }
                self.message_ids.insert(id.to_owned(), now);
            }
            let properties = cells(&event.properties, false);
            let row = Row {
                time: event.time,
                name: event.name.clone(),
                properties,
            };
            self.events.push((event.user.clone(), row));
            stored += 1;
        }
        stored
    }

    /// Sets traits.
    pub fn set_traits(&mut self, traits: &Traits) {
        let properties = cells(&traits.values, true);
        let row = Row {
            time: traits.time,
            name: String::new(),
            properties,
        };
        self.traits.push((traits.user.clone(), row));
    }

    /// Loads what is missing of the first `count` batches of the bulk load `key`.
    pub fn load(&mut self, key: u128, batches: &[Vec<Event>], count: usize) {
        let loaded = self.loaded.get(&key).copied().unwrap_or_default();
        for batch in batches.iter().take(count).skip(loaded) {
            self.append(batch, 0);
        }
        self.loaded.insert(key, loaded.max(count));
    }

    /// Batches of the bulk load `key` that are in.
    pub fn loaded(&self, key: u128) -> usize {
        self.loaded.get(&key).copied().unwrap_or_default()
    }

    /// Drops the partitions that end at or before `time`.
    pub fn drop_before(&mut self, time: i64) {
        let length = self.partition_micros;
        self.events
            .retain(|(_, row)| (row.time.div_euclid(length) + 1) * length > time);
    }

    /// Everything stored.
    pub fn trails(&self) -> Trails {
        Trails {
            events: by_user(&self.events),
            traits: by_user(&self.traits),
        }
    }
}

/// Rows by user in the order of (time, arrival).
fn by_user(rows: &[(String, Row)]) -> BTreeMap<String, Vec<Row>> {
    let mut users: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for (user, row) in rows {
        users.entry(user.clone()).or_default().push(row.clone());
    }
    users
        .values_mut()
        .for_each(|rows| rows.sort_by_key(|row| row.time));
    users
}

/// Properties as cells. Nulls and empty lists are missing, except in traits, where null removes.
fn cells(properties: &[(String, Value)], nulls: bool) -> BTreeMap<String, Cell> {
    let kept = properties.iter().filter(|(_, value)| match value {
        Value::Null => nulls,
        Value::List(elements) => elements.iter().any(|element| *element != Value::Null),
        _ => true,
    });
    kept.map(|(name, value)| (name.clone(), cell(value)))
        .collect()
}

/// The value's cell.
pub fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::I64(value) => format!("{value}i"),
        Value::F64(value) => format!("{value}f {:016x}", value.to_bits()),
        Value::Text(value) => format!("{value:?}"),
        Value::Timestamp(value) => format!("@{value}"),
        Value::List(elements) => {
            let elements = elements.iter().filter(|element| **element != Value::Null);
            format!("[{}]", elements.map(cell).collect::<Vec<_>>().join(", "))
        }
    }
}
