//! A pinned state of the dictionary, and owned ids.

use std::fmt;
use std::sync::Arc;

use super::layers::Layers;
use super::spelling::KeySpelling;
use crate::error::ReadError;
use crate::ids::UserKey;

/// A user's external id, owned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserId {
    /// An id whose text is the canonical decimal form of an integer.
    Int(i64),
    /// Any other text.
    Text(Box<str>),
}

impl UserId {
    /// The id, borrowed.
    pub fn key(&self) -> UserKey<'_> {
        match self {
            Self::Int(number) => UserKey::Int(*number),
            Self::Text(text) => UserKey::Text(text),
        }
    }
}

impl From<UserKey<'_>> for UserId {
    fn from(key: UserKey<'_>) -> Self {
        match key {
            UserKey::Int(number) => Self::Int(number),
            UserKey::Text(text) => Self::Text(text.into()),
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(out)
    }
}

/// The dictionary as it was at one moment. Cheap to clone; keeps answering whatever is sealed,
/// merged or erased later (files that were removed stay mapped).
#[derive(Clone, Debug)]
pub struct DictionarySnapshot {
    layers: Arc<Layers>,
    len: u32,
    seed: u64,
}

impl DictionarySnapshot {
    pub(super) fn new(layers: Arc<Layers>, len: u32, seed: u64) -> Self {
        Self { layers, len, seed }
    }

    /// Number of ordinals, those of erased ids included.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// True where there is no id.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The ordinal of an id; the latest, where it was given another one anew.
    ///
    /// # Errors
    /// Where a run is damaged. Damage is noticed when it is first touched.
    pub fn find(&self, key: UserKey<'_>) -> Result<Option<u32>, ReadError> {
        let held = KeySpelling::new(key);
        let id = held.spelling();
        self.layers.find(id, id.hash(self.seed), self.len)
    }

    /// The id of an ordinal: `None` for an ordinal not given (here) or whose id was erased.
    ///
    /// # Errors
    /// Where a run is damaged.
    pub fn id(&self, ordinal: u32) -> Result<Option<UserId>, ReadError> {
        let mut id = None;
        self.with_ids([ordinal], |_, key| id = Some(key.into()))?;
        Ok(id)
    }

    /// Calls `then` with each ordinal and its id, without a copy of it. Ordinals not given
    /// (here), and those whose id was erased, are left out. Ascending ordinals are fastest.
    ///
    /// # Errors
    /// Where a run is damaged; ids before the damage were handed over.
    pub fn with_ids(
        &self,
        ordinals: impl IntoIterator<Item = u32>,
        mut then: impl FnMut(u32, UserKey<'_>),
    ) -> Result<(), ReadError> {
        let mut cursor = self.layers.cursor();
        for ordinal in ordinals {
            if ordinal < self.len {
                cursor.with_id(ordinal, |key| {
                    if let Some(key) = key {
                        then(ordinal, key);
                    }
                })?;
            }
        }
        Ok(())
    }
}
