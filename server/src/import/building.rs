//! A batch under construction, kept within the limits of the store.

use hashbrown::HashSet;
use pugmark_engine::{BatchBuilder, Value, limits};

use super::error::Problem;
use super::naming::check_text;
use super::source::{BATCH_ROWS, BATCH_TEXT_BYTES};

/// A batch under construction with what it takes to keep it within the limits.
pub(crate) struct Building {
    batch: BatchBuilder,
    text_bytes: usize,
}

/// A row to be added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewRow<'a> {
    pub(crate) user: &'a str,
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) time: i64,
    pub(crate) name: &'a str,
    /// Empty where there is none.
    pub(crate) message_id: &'a str,
    pub(crate) properties: &'a [(String, Value)],
}

impl Building {
    pub(crate) fn new() -> Self {
        Self {
            batch: BatchBuilder::new(),
            text_bytes: 0,
        }
    }

    /// True where a batch should be finished before more is added.
    pub(crate) fn is_full(&self) -> bool {
        // Half the properties a batch may have, so that any one event still fits.
        self.batch.len() >= BATCH_ROWS
            || self.text_bytes >= BATCH_TEXT_BYTES
            || self.batch.property_count() >= limits::MAX_BATCH_PROPERTIES / 2
    }

    /// Adds a row, or nothing where its properties are beyond the limits. Its user, name and message
    /// id must be within them.
    pub(crate) fn add(&mut self, row: &NewRow<'_>) -> Result<(), Problem> {
        self.admit(row.properties)?;
        let mut built = self.batch.event(row.user, row.time, row.name);
        if !row.message_id.is_empty() {
            built = built.message_id(row.message_id);
        }
        for (path, value) in row.properties {
            built = built.value(path, value);
        }
        Ok(())
    }

    /// The batch.
    pub(crate) fn into_builder(self) -> BatchBuilder {
        self.batch
    }

    /// Checks an event's properties and counts their texts.
    fn admit(&mut self, properties: &[(String, Value)]) -> Result<(), Problem> {
        check_properties(properties)?;
        if let Some(at) = first_repeated(properties) {
            let property = properties[at].0.clone();
            return Err(Problem::Repeated { property });
        }
        let texts = properties.iter().map(|(_, value)| text_bytes(value));
        self.text_bytes += texts.sum::<usize>();
        Ok(())
    }
}

/// Properties of which it is quicker to compare each with each than to hash them.
const FEW: usize = 16;

/// The place of the first property whose name one before it has.
fn first_repeated(properties: &[(String, Value)]) -> Option<usize> {
    if properties.len() <= FEW {
        let is_repeated = |&at: &usize| {
            let (name, _) = &properties[at];
            properties[..at].iter().any(|(before, _)| before == name)
        };
        return (1..properties.len()).find(is_repeated);
    }
    let mut known = HashSet::with_capacity(properties.len());
    properties.iter().position(|(name, _)| !known.insert(name))
}

/// Takes away the properties whose name one before them has.
pub(crate) fn keep_first(properties: &mut Vec<(String, Value)>) {
    let Some(first) = first_repeated(properties) else {
        return;
    };
    let mut known = HashSet::with_capacity(properties.len());
    let rest = properties.split_off(first);
    known.extend(properties.iter().map(|(name, _)| name.clone()));
    for (name, value) in rest {
        if known.insert(name.clone()) {
            properties.push((name, value));
        }
    }
}

/// Checks the properties of one event, of which no two may have one name.
pub(crate) fn check_properties(properties: &[(String, Value)]) -> Result<(), Problem> {
    let count = properties.len();
    if count > limits::MAX_BATCH_PROPERTIES / 2 {
        return Err(Problem::TooManyProperties { count });
    }
    properties
        .iter()
        .try_for_each(|(path, value)| check_value(path, value))
}

fn check_value(path: &str, value: &Value) -> Result<(), Problem> {
    let bytes = path.len();
    if bytes == 0 || bytes > limits::MAX_PROPERTY_NAME_BYTES {
        return Err(Problem::PropertyName { bytes });
    }
    match value {
        Value::Text(text) => check_text(text, path),
        Value::List(values) if values.len() > limits::MAX_LIST_ELEMENTS => {
            let (property, count) = (path.to_owned(), values.len());
            Err(Problem::TooManyElements { property, count })
        }
        Value::List(values) => values.iter().try_for_each(|value| check_value(path, value)),
        _ => Ok(()),
    }
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::List(values) => values.iter().map(text_bytes).sum(),
        _ => 0,
    }
}
