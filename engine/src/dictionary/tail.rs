//! The part of the dictionary that is not sealed yet, on the heap.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;

use super::spelling::{Form, Spelling};

/// The ids of consecutive ordinals from `first` on. Only the youngest part of a dictionary grows.
#[derive(Debug)]
pub(super) struct Part {
    first: u32,
    ids: RwLock<PartIds>,
}

/// What a part holds; a guard of it is held over many look-ups.
#[derive(Debug)]
pub(super) struct PartIds {
    seed: u64,
    forms: Vec<Form>,
    /// The integer, or the offset in `bytes` (upper 56 bits) and the length (lower 8).
    words: Vec<u64>,
    bytes: Vec<u8>,
    positions: HashTable<u32>,
}

impl Part {
    pub(super) fn new(first: u32, seed: u64) -> Self {
        Self {
            first,
            ids: RwLock::new(PartIds {
                seed,
                forms: Vec::new(),
                words: Vec::new(),
                bytes: Vec::new(),
                positions: HashTable::new(),
            }),
        }
    }

    /// The ordinal of its first id.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    // Each change of the ids is complete when it is visible, so a lock that a panicking
    // thread left behind guards sound ids.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, PartIds> {
        self.ids.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, PartIds> {
        self.ids.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartIds {
    pub(super) fn len(&self) -> u32 {
        self.words.len() as u32
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.forms.capacity()
            + self.words.capacity() * size_of::<u64>()
            + self.bytes.capacity()
            + self.positions.allocation_size()
    }

    /// The id at `position`. Panics where there is none, as slices do.
    pub(super) fn id(&self, position: u32) -> Spelling<'_> {
        spelling(&self.forms, &self.words, &self.bytes, position)
    }

    /// The latest position of the id before `limit`.
    pub(super) fn find(&self, id: Spelling<'_>, hash: u64, limit: u32) -> Option<u32> {
        self.positions
            .iter_hash(hash)
            .copied()
            .filter(|&position| position < limit && self.id(position) == id)
            .max()
    }

    /// Makes room for more ids.
    pub(super) fn reserve(&mut self, ids: usize) {
        let Self {
            seed,
            forms,
            words,
            bytes,
            positions,
        } = self;
        positions.reserve(ids, |&position| {
            spelling(forms, words, bytes, position).hash(*seed)
        });
    }

    /// Appends an id and returns its position; an earlier position of it stays, outdone.
    pub(super) fn push(&mut self, id: Spelling<'_>, hash: u64) -> u32 {
        let position = self.len();
        let (form, word) = match id {
            Spelling::Int(number) => (Form::Int, number as u64),
            Spelling::Bytes(form, bytes) => {
                let at = self.bytes.len() as u64;
                self.bytes.extend_from_slice(bytes);
                (form, at << 8 | bytes.len() as u64)
            }
            Spelling::Erased => (Form::Erased, 0),
        };
        self.forms.push(form);
        self.words.push(word);
        let Self {
            seed,
            forms,
            words,
            bytes,
            positions,
        } = self;
        positions.insert_unique(hash, position, |&position| {
            spelling(forms, words, bytes, position).hash(*seed)
        });
        position
    }
}

fn spelling<'p>(forms: &[Form], words: &[u64], bytes: &'p [u8], position: u32) -> Spelling<'p> {
    let word = words[position as usize];
    match forms[position as usize] {
        Form::Int => Spelling::Int(word as i64),
        Form::Erased => Spelling::Erased,
        form => {
            let start = (word >> 8) as usize;
            Spelling::Bytes(form, &bytes[start..start + (word & 0xff) as usize])
        }
    }
}
