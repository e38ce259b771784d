//! Event batches: what callers hand in, as columns.
//!
//! A batch owns its rows in arrival order. [`EventBatch`] is built row by row
//! ([`BatchBuilder`]) or column by column ([`BatchColumns`]), checked as a whole, and then
//! travels through the log and the memory table to a segment in this same columnar shape.
//! This module knows nothing of ordinals, files or segments.

mod builder;
mod column;
mod resolved;
pub mod shape;
#[cfg(test)]
pub(crate) mod testing;

pub use builder::{BatchBuilder, BatchColumns, RowBuilder};
pub use column::{Column, Kind, ListColumn, Part, Presence, StringTable, TextColumn, Values};
pub use resolved::ResolvedBatch;

/// The user ids of a batch, one a row.
#[derive(Clone, Debug, PartialEq)]
pub enum IdColumn {
    /// Every id is an integer (the common case for shops; no text is made).
    Int(Vec<i64>),
    /// Ids as text; canonical integers among them mean the integer.
    Text(TextColumn),
}

impl IdColumn {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Int(ids) => ids.len(),
            Self::Text(ids) => ids.codes.len(),
        }
    }

    /// True where there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of row `row`.
    pub fn key(&self, row: usize) -> crate::ids::UserKey<'_> {
        match self {
            Self::Int(ids) => crate::ids::UserKey::Int(ids[row]),
            Self::Text(ids) => crate::ids::UserKey::from_text(ids.get(row)),
        }
    }
}

/// A property of a batch: its name and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// The property's name, 1..=1024 bytes.
    pub name: String,
    /// Its values by row.
    pub column: Column,
}

/// A checked batch of events in arrival order. Every column has the same number of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct EventBatch {
    pub(crate) users: IdColumn,
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) times: Vec<i64>,
    pub(crate) events: TextColumn,
    /// De-duplication ids; an empty text is "none" for that row.
    pub(crate) message_ids: Option<TextColumn>,
    pub(crate) properties: Vec<Property>,
}

/// A checked batch of trait updates.
#[derive(Clone, Debug, PartialEq)]
pub struct TraitsBatch(pub(crate) EventBatch);

impl EventBatch {
    /// Number of events.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// True where there is no event.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// User ids by row.
    pub fn users(&self) -> &IdColumn {
        &self.users
    }

    /// Times by row, in microseconds since 1970-01-01 UTC.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// Event names by row.
    pub fn events(&self) -> &TextColumn {
        &self.events
    }

    /// Message ids by row, if any row has one; empty text stands for none.
    pub fn message_ids(&self) -> Option<&TextColumn> {
        self.message_ids.as_ref()
    }

    /// The properties.
    pub fn properties(&self) -> &[Property] {
        &self.properties
    }
}

impl EventBatch {
    /// The batch with only the rows `rows`, in that order.
    pub(crate) fn pick(&self, rows: &[u32]) -> Self {
        let users = match &self.users {
            IdColumn::Int(ids) => {
                IdColumn::Int(rows.iter().map(|&row| ids[row as usize]).collect())
            }
            IdColumn::Text(ids) => IdColumn::Text(ids.pick(rows)),
        };
        let properties = self.properties.iter().map(|property| Property {
            name: property.name.clone(),
            column: shape::gather(&property.column, rows),
        });
        Self {
            users,
            times: rows.iter().map(|&row| self.times[row as usize]).collect(),
            events: self.events.pick(rows),
            message_ids: self.message_ids.as_ref().map(|ids| ids.pick(rows)),
            properties: properties
                .filter(|property| !property.column.parts.is_empty())
                .collect(),
        }
    }

    /// About the bytes that the batch takes in the log.
    pub(crate) fn encoded_len(&self) -> usize {
        let users = match &self.users {
            IdColumn::Int(ids) => ids.len() * 8,
            IdColumn::Text(ids) => ids.encoded_len(),
        };
        let properties: usize = self
            .properties
            .iter()
            .map(|property| property.name.len() + 16 + property.column.encoded_len())
            .sum();
        let ids = self.message_ids.as_ref().map_or(0, TextColumn::encoded_len);
        64 + users + self.times.len() * 8 + self.events.encoded_len() + ids + properties
    }
}
