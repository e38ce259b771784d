//! The ids of a whole batch at once: each distinct id is looked up (about) once, and many
//! look-ups run side by side.

use super::run::NOT_FOUND;
use super::spelling::{KeySpelling, Spelling};
use super::{Dictionary, Layers};
use crate::batch::{IdColumn, TextColumn};
use crate::error::{ReadError, WriteError};
use crate::ids::UserKey;

/// Most entries of the cache that folds repeated integers: 512 KiB, the size of a level-2 cache.
const CACHE_ENTRIES: usize = 1 << 15;
/// Ids whose spellings and hashes are held at one time.
const STEP: usize = 1_024;

/// The ids of a batch without (most) repetitions, by first appearance.
struct Folded<'b> {
    keys: Vec<UserKey<'b>>,
    /// For each row, the index of its id in `keys`.
    rows: Vec<u32>,
}

fn fold(ids: &IdColumn) -> Folded<'_> {
    match ids {
        IdColumn::Int(ids) => fold_integers(ids),
        IdColumn::Text(ids) => fold_texts(ids),
    }
}

/// A direct-mapped cache from id to index: an id that was displaced appears again in `keys`,
/// which costs a look-up and nothing else.
fn fold_integers(ids: &[i64]) -> Folded<'_> {
    let entries = ids.len().next_power_of_two().clamp(2, CACHE_ENTRIES);
    let shift = 64 - entries.trailing_zeros();
    let mut cache = vec![(0i64, NOT_FOUND); entries];
    let mut keys = Vec::new();
    let row = |&id: &i64| {
        let slot = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift;
        let entry = &mut cache[slot as usize];
        if *entry == (id, entry.1) && entry.1 != NOT_FOUND {
            return entry.1;
        }
        *entry = (id, keys.len() as u32);
        keys.push(UserKey::Int(id));
        entry.1
    };
    let rows = ids.iter().map(row).collect();
    Folded { keys, rows }
}

fn fold_texts(ids: &TextColumn) -> Folded<'_> {
    let mut index_of = vec![NOT_FOUND; ids.values.len()];
    let mut keys = Vec::new();
    let row = |&code: &u32| {
        let index = &mut index_of[code as usize];
        if *index == NOT_FOUND {
            *index = keys.len() as u32;
            keys.push(UserKey::from_text(ids.values.get(code as usize)));
        }
        *index
    };
    let rows = ids.codes.iter().map(row).collect();
    Folded { keys, rows }
}

/// The ordinals of `keys` as far as they have one, else [`NOT_FOUND`].
fn look_up(layers: &Layers, keys: &[UserKey<'_>], seed: u64) -> Result<Vec<u32>, ReadError> {
    let mut ordinals = vec![NOT_FOUND; keys.len()];
    for (keys, found) in keys.chunks(STEP).zip(ordinals.chunks_mut(STEP)) {
        let held: Vec<KeySpelling<'_>> = keys.iter().map(|&key| KeySpelling::new(key)).collect();
        let ids: Vec<Spelling<'_>> = held.iter().map(KeySpelling::spelling).collect();
        let hashes: Vec<u64> = ids.iter().map(|id| id.hash(seed)).collect();
        layers.find_many(&ids, &hashes, found)?;
    }
    Ok(ordinals)
}

impl Dictionary {
    /// The ordinal of each row's user; users seen for the first time are given the next
    /// ordinals, in order of their first row. Call it under the store's append lock, so that
    /// ordinals are given in the order of the log.
    ///
    /// # Errors
    /// Where a run is damaged or unreadable, no ordinal was given. Where ordinals run out
    /// ([`WriteError::TooManyUsers`]), some may have been.
    ///
    /// # Cost
    /// A pass over the rows and a look-up for (about) each distinct id.
    pub fn find_or_assign_many(&self, ids: &IdColumn) -> Result<Vec<u32>, WriteError> {
        let folded = fold(ids);
        let assigning = self.assigning();
        let mut ordinals = look_up(&self.layers(), &folded.keys, self.seed)?;
        assigning.assign_missing(&folded.keys, &mut ordinals)?;
        let mut rows = folded.rows;
        for row in &mut rows {
            *row = ordinals[*row as usize];
        }
        Ok(rows)
    }

    /// The ordinal of each row's user, `None` for users never seen. Gives no ordinals.
    pub fn find_many(&self, ids: &IdColumn) -> Result<Vec<Option<u32>>, ReadError> {
        let folded = fold(ids);
        let ordinals = look_up(&self.layers(), &folded.keys, self.seed)?;
        let ordinal = |&row: &u32| match ordinals[row as usize] {
            NOT_FOUND => None,
            ordinal => Some(ordinal),
        };
        Ok(folded.rows.iter().map(ordinal).collect())
    }
}
