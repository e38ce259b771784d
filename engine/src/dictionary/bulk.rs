//! The ids of whole batches at once: each distinct id is looked up (about) once, and many
//! look-ups run side by side.
//!
//! Of many ids, those that lie near each other in the runs' tables are looked up one after another: tens of
//! millions of ids are far more than caches hold, and in any other order each look-up would wait for
//! memory several times.

use super::run::{Candidates, NOT_FOUND};
use super::spelling::{KeySpelling, Spelling};
use super::{Dictionary, Layers};
use crate::batch::{IdColumn, TextColumn};
use crate::error::{ReadError, WriteError};
use crate::ids::UserKey;

/// Most entries of the cache that folds repeated integers: 512 KiB, the size of a level-2 cache.
const CACHE_ENTRIES: usize = 1 << 15;
/// Ids whose spellings and hashes are held at one time; so many are looked up in the order of tables.
const STEP: usize = if cfg!(test) { 1 << 6 } else { 1 << 20 };
/// Fewer ids are looked up as they come: ordering them would bring none near another.
const FEW: usize = if cfg!(test) { 4 } else { 1 << 12 };

/// The ids of batches without (most) repetitions, by first appearance.
#[derive(Debug, Default)]
struct Folded<'b> {
    keys: Vec<UserKey<'b>>,
    /// For each batch and row, the index of its id in `keys`.
    rows: Vec<Vec<u32>>,
    /// Integers met lately and their indices; each has one place.
    cache: Vec<(i64, u32)>,
}

impl<'b> Folded<'b> {
    fn new(columns: &[&'b IdColumn]) -> Self {
        let mut folded = Self::default();
        for ids in columns {
            match ids {
                IdColumn::Int(ids) => folded.add_integers(ids),
                IdColumn::Text(ids) => folded.add_texts(ids),
            }
        }
        folded
    }

    /// An id that was displaced from the cache appears again in `keys`, which costs a look-up and
    /// nothing else.
    fn add_integers(&mut self, ids: &[i64]) {
        let entries = ids.len().next_power_of_two().clamp(2, CACHE_ENTRIES);
        if self.cache.len() < entries {
            // What was remembered lies elsewhere in a larger one.
            self.cache = vec![(0, NOT_FOUND); entries];
        }
        let shift = 64 - self.cache.len().trailing_zeros();
        let (cache, keys) = (&mut self.cache, &mut self.keys);
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
        self.rows.push(ids.iter().map(row).collect());
    }

    fn add_texts(&mut self, ids: &'b TextColumn) {
        let mut index_of = vec![NOT_FOUND; ids.values.len()];
        let keys = &mut self.keys;
        let row = |&code: &u32| {
            let index = &mut index_of[code as usize];
            if *index == NOT_FOUND {
                *index = keys.len() as u32;
                keys.push(UserKey::from_text(ids.values.get(code as usize)));
            }
            *index
        };
        self.rows.push(ids.codes.iter().map(row).collect());
    }
}

/// The ordinals of `keys` as far as they have one, else [`NOT_FOUND`].
fn look_up(layers: &Layers, keys: &[UserKey<'_>], seed: u64) -> Result<Vec<u32>, ReadError> {
    let mut ordinals = vec![NOT_FOUND; keys.len()];
    let mut candidates = Candidates::default();
    for (keys, ordinals) in keys.chunks(STEP).zip(ordinals.chunks_mut(STEP)) {
        let order = match keys.len() < FEW {
            true => (0..keys.len() as u32).collect(),
            false => table_order(keys, seed),
        };
        let held: Vec<KeySpelling<'_>> = order
            .iter()
            .map(|&index| KeySpelling::new(keys[index as usize]))
            .collect();
        let ids: Vec<Spelling<'_>> = held.iter().map(KeySpelling::spelling).collect();
        let hashes: Vec<u64> = ids.iter().map(|id| id.hash(seed)).collect();
        let mut found = vec![NOT_FOUND; ids.len()];
        layers.find_many(&ids, &hashes, &mut found, &mut candidates)?;
        for (&index, found) in order.iter().zip(found) {
            ordinals[index as usize] = found;
        }
    }
    Ok(ordinals)
}

/// The indices of keys by the upper bits of their hashes, which is how the tables of all runs are ordered.
fn table_order(keys: &[UserKey<'_>], seed: u64) -> Vec<u32> {
    const INDEX_BITS: u32 = STEP.trailing_zeros();
    let entry = |(index, &key): (u64, &UserKey<'_>)| {
        let hash = KeySpelling::new(key).spelling().hash(seed);
        hash >> INDEX_BITS << INDEX_BITS | index
    };
    let mut entries: Vec<u64> = (0..).zip(keys).map(entry).collect();
    entries.sort_unstable();
    let index = |entry: u64| (entry & (STEP as u64 - 1)) as u32;
    entries.into_iter().map(index).collect()
}

/// Ids that were looked up, and may have to be given ordinals.
#[derive(Debug)]
pub struct LookedUp<'b> {
    folded: Folded<'b>,
    ordinals: Vec<u32>,
    /// How many ordinals were given before they were looked up.
    given: u32,
}

impl Dictionary {
    /// Looks up the ids of batches, and gives no ordinals. Needs no lock of the store's.
    ///
    /// # Errors
    /// Where a run is damaged or unreadable.
    ///
    /// # Cost
    /// A pass over the rows and a look-up for (about) each distinct id.
    pub fn look_up<'b>(&self, columns: &[&'b IdColumn]) -> Result<LookedUp<'b>, ReadError> {
        let given = self.len();
        let folded = Folded::new(columns);
        let ordinals = look_up(&self.layers(), &folded.keys, self.seed)?;
        Ok(LookedUp {
            folded,
            ordinals,
            given,
        })
    }

    /// The ordinal of each row's user, batch by batch; users seen for the first time are given the next
    /// ordinals, in order of their first row. Call it under the store's append lock, so that
    /// ordinals are given in the order of the log. None of the ids may have been
    /// [given another](Self::assign_anew) since they were looked up.
    ///
    /// # Errors
    /// Where a run is damaged or unreadable, no ordinal was given. Where ordinals run out
    /// ([`WriteError::TooManyUsers`]), some may have been.
    pub fn assign(&self, looked_up: LookedUp<'_>) -> Result<Vec<Vec<u32>>, WriteError> {
        let LookedUp {
            folded,
            mut ordinals,
            given,
        } = looked_up;
        let assigning = self.assigning();
        if self.len() != given {
            self.look_again(&folded.keys, &mut ordinals)?;
        }
        assigning.assign_missing(&folded.keys, &mut ordinals)?;
        let mut rows = folded.rows;
        for row in rows.iter_mut().flatten() {
            *row = ordinals[*row as usize];
        }
        Ok(rows)
    }

    /// Looks up those that were not found: they may have been given ordinals since.
    fn look_again(&self, keys: &[UserKey<'_>], ordinals: &mut [u32]) -> Result<(), ReadError> {
        let missing: Vec<usize> = (0..keys.len())
            .filter(|&index| ordinals[index] == NOT_FOUND)
            .collect();
        let keys: Vec<UserKey<'_>> = missing.iter().map(|&index| keys[index]).collect();
        let found = look_up(&self.layers(), &keys, self.seed)?;
        for (index, found) in missing.into_iter().zip(found) {
            ordinals[index] = found;
        }
        Ok(())
    }

    /// [Looks up](Self::look_up) the ids of one batch and [gives](Self::assign) ordinals to those that have none.
    ///
    /// # Errors
    /// As these two.
    pub fn find_or_assign_many(&self, ids: &IdColumn) -> Result<Vec<u32>, WriteError> {
        let mut rows = self.assign(self.look_up(&[ids])?)?;
        Ok(rows.pop().unwrap_or_default())
    }

    /// The ordinal of each row's user, `None` for users never seen. Gives no ordinals.
    pub fn find_many(&self, ids: &IdColumn) -> Result<Vec<Option<u32>>, ReadError> {
        let LookedUp {
            folded, ordinals, ..
        } = self.look_up(&[ids])?;
        let ordinal = |row: u32| match ordinals[row as usize] {
            NOT_FOUND => None,
            ordinal => Some(ordinal),
        };
        Ok(folded.rows.into_iter().flatten().map(ordinal).collect())
    }
}
