//! Which columns there are: event names, properties and traits of a snapshot, with their types.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use pugmark_engine::batch::Kind;
use pugmark_engine::codec::ColumnView;
use pugmark_engine::segment::NameRun;
use pugmark_engine::{Corruption, Snapshot};

/// The SQL type that the values of a property or trait come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnType {
    Bool,
    I64,
    /// Floats, or floats and whole numbers.
    F64,
    Timestamp,
    /// Text, or values of several types by their canonical text.
    Text,
    /// Lists of this; a value of its own is a list of one.
    List(ScalarType),
}

/// The type of a list's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarType {
    Bool,
    I64,
    F64,
    Timestamp,
    Text,
}

/// What is known of a property or trait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    kinds: BTreeSet<Kind>,
    elements: BTreeSet<Kind>,
}

/// The names of a snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    /// Event names.
    pub(super) events: BTreeSet<String>,
    /// Properties of events.
    pub(super) properties: BTreeMap<String, Seen>,
    /// Traits of users.
    pub(super) traits: BTreeMap<String, Seen>,
}

impl Seen {
    fn add(&mut self, column: &ColumnView<'_>) {
        for part in column.parts() {
            self.kinds.insert(part.kind());
            if let Some(list) = part.list() {
                let elements = list.elements().parts().iter();
                self.elements.extend(elements.map(|part| part.kind()));
            }
        }
    }

    /// The type of its column.
    pub(super) fn column_type(&self) -> ColumnType {
        let mut scalars: BTreeSet<Kind> = self.kinds.clone();
        scalars.remove(&Kind::Null);
        let is_list = scalars.remove(&Kind::List);
        scalars.extend(self.elements.iter().filter(|kind| **kind != Kind::Null));
        let scalar = match scalars.iter().copied().collect::<Vec<_>>()[..] {
            [Kind::Bool] => ScalarType::Bool,
            [Kind::I64] => ScalarType::I64,
            [Kind::F64] | [Kind::I64, Kind::F64] => ScalarType::F64,
            [Kind::Timestamp] => ScalarType::Timestamp,
            _ => ScalarType::Text,
        };
        if is_list {
            ColumnType::List(scalar)
        } else {
            scalar.into()
        }
    }

    /// True where comparisons in SQL and in conditions mean the same: the values are all of one
    /// scalar type.
    pub(super) fn is_plain(&self) -> bool {
        let mut kinds = self.kinds.iter().filter(|kind| **kind != Kind::Null);
        match (kinds.next(), kinds.next(), kinds.next()) {
            (Some(kind), None, None) => *kind != Kind::List,
            (Some(Kind::I64), Some(Kind::F64), None) => true,
            _ => false,
        }
    }
}

impl From<ScalarType> for ColumnType {
    fn from(scalar: ScalarType) -> Self {
        match scalar {
            ScalarType::Bool => Self::Bool,
            ScalarType::I64 => Self::I64,
            ScalarType::F64 => Self::F64,
            ScalarType::Timestamp => Self::Timestamp,
            ScalarType::Text => Self::Text,
        }
    }
}

impl ScalarType {
    fn arrow(self, zone: &Arc<str>) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::I64 => DataType::Int64,
            Self::F64 => DataType::Float64,
            Self::Timestamp => time_type(zone),
            Self::Text => DataType::Utf8View,
        }
    }
}

impl ColumnType {
    /// The type in Arrow; times are told in `zone`.
    pub(super) fn arrow(self, zone: &Arc<str>) -> DataType {
        let scalar = match self {
            Self::Bool => ScalarType::Bool,
            Self::I64 => ScalarType::I64,
            Self::F64 => ScalarType::F64,
            Self::Timestamp => ScalarType::Timestamp,
            Self::Text => ScalarType::Text,
            Self::List(element) => {
                return DataType::List(Arc::new(Field::new_list_field(element.arrow(zone), true)));
            }
        };
        scalar.arrow(zone)
    }
}

/// The type of times, told in `zone`.
pub(super) fn time_type(zone: &Arc<str>) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::clone(zone)))
}

impl Catalog {
    /// Reads the names of a snapshot: a look at each run's directory of properties.
    pub(super) fn read(snapshot: &Snapshot) -> Result<Self, Corruption> {
        let mut catalog = Self::default();
        for segment in snapshot.event_segments() {
            for run in segment.all_runs() {
                if run.is_overflow() {
                    catalog.overflow_names(run)?;
                } else {
                    catalog.events.insert(run.name().to_owned());
                }
                see(&mut catalog.properties, run)?;
            }
        }
        for segment in snapshot.trait_segments() {
            for run in segment.all_runs() {
                see(&mut catalog.traits, run)?;
            }
        }
        Ok(catalog)
    }

    fn overflow_names(&mut self, run: NameRun<'_>) -> Result<(), Corruption> {
        let names = run.overflow_names(0..run.rows())?;
        self.events
            .extend(names.values.iter().map(ToOwned::to_owned));
        Ok(())
    }

    /// The columns of `events`: `user_id`, `time`, `event` and the properties by name. A property
    /// of one of these names is reached as `properties.NAME`.
    pub(super) fn events_schema(&self, zone: &Arc<str>) -> SchemaRef {
        let own = [
            Field::new("user_id", DataType::Utf8View, false),
            Field::new("time", time_type(zone), false),
            Field::new("event", DataType::Utf8View, false),
        ];
        let properties = self.properties.iter().map(|(name, seen)| {
            let name = column_name(name, &EVENT_COLUMNS, "properties");
            Field::new(name, seen.column_type().arrow(zone), true)
        });
        Arc::new(Schema::new(
            own.into_iter().chain(properties).collect::<Vec<_>>(),
        ))
    }

    /// The columns of `users`: `user_id`, `first_seen`, `last_seen` and the traits by name.
    pub(super) fn users_schema(&self, zone: &Arc<str>) -> Vec<Field> {
        let own = [
            Field::new("user_id", DataType::Utf8View, false),
            Field::new("first_seen", time_type(zone), true),
            Field::new("last_seen", time_type(zone), true),
        ];
        let traits = self.traits.iter().map(|(name, seen)| {
            let name = column_name(name, &USER_COLUMNS, "traits");
            Field::new(name, seen.column_type().arrow(zone), true)
        });
        own.into_iter().chain(traits).collect()
    }
}

/// Columns that every event has.
pub(super) const EVENT_COLUMNS: [&str; 3] = ["user_id", "time", "event"];
/// Columns that every user has.
pub(super) const USER_COLUMNS: [&str; 3] = ["user_id", "first_seen", "last_seen"];

/// The column of a property or trait: its own name, with `prefix` where the table has one of it.
pub(super) fn column_name(name: &str, taken: &[&str], prefix: &str) -> String {
    match taken.contains(&name) {
        true => format!("{prefix}.{name}"),
        false => name.to_owned(),
    }
}

fn see(seen: &mut BTreeMap<String, Seen>, run: NameRun<'_>) -> Result<(), Corruption> {
    let properties = run.properties()?;
    for name in properties.names() {
        if let Some(column) = properties.get(name)? {
            match seen.get_mut(name) {
                Some(known) => known.add(&column),
                None => seen.entry(name.to_owned()).or_default().add(&column),
            }
        }
    }
    Ok(())
}
