//! The users that a question found, and their ids as text.

use std::fmt;

use pugmark_engine::bitmap::join;
use pugmark_engine::{ReadError, Snapshot, UserKey};
use roaring::RoaringBitmap;

use super::control::{Control, QueryError, QueryOptions};
use super::{Executor, morsel};
use crate::behaviour::Notices;

/// What an id takes at least: where it ends, and some bytes of text.
const ID_BYTES: usize = 2 * size_of::<u32>();

/// A set of users, with what is worth remarking on how it was found.
#[derive(Clone, Debug)]
pub struct UserSet {
    snapshot: Snapshot,
    ordinals: RoaringBitmap,
    notices: Notices,
    /// Of the question that found it: they hold for reading ids, too.
    options: QueryOptions,
}

/// Ids as text, by ordinal: a few large texts, not an allocation for each id.
///
/// Takes as many bytes as the texts have, and 4 for each id.
#[derive(Clone, Default)]
pub struct UserIds {
    pieces: Vec<Piece>,
}

/// The ids of one container of users.
#[derive(Clone, Default)]
struct Piece {
    text: String,
    /// Where each id ends.
    ends: Vec<u32>,
}

impl Executor {
    pub(super) fn user_set(&self, ordinals: RoaringBitmap, notices: Notices) -> UserSet {
        UserSet {
            snapshot: self.snapshot().clone(),
            ordinals,
            notices,
            options: self.options().clone(),
        }
    }
}

impl UserSet {
    /// How many users.
    pub fn len(&self) -> u64 {
        self.ordinals.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.ordinals.is_empty()
    }

    /// The users' ordinals.
    pub fn ordinals(&self) -> &RoaringBitmap {
        &self.ordinals
    }

    /// Remarks on how the set was found.
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Calls `each` with every user's id, by ordinal, without holding them all.
    ///
    /// # Errors
    /// Where the dictionary's files are damaged; some ids were given by then.
    pub fn for_each_id(&self, mut each: impl FnMut(UserKey<'_>)) -> Result<(), ReadError> {
        let dictionary = self.snapshot.dictionary();
        dictionary.with_ids(self.ordinals.iter(), |_, key| each(key))
    }

    /// The ids as text, by ordinal, read by as many threads as the question had. Holds all of them, which
    /// must fit into as much memory as the question could use; [`UserSet::for_each_id`] holds none.
    ///
    /// # Errors
    /// See [`QueryError`]; the question's deadline and cancelling hold here, too.
    pub fn ids(&self) -> Result<UserIds, QueryError> {
        let control = Control::start(&self.options);
        let keys = containers(&self.ordinals);
        let begin = || (Vec::new(), control.reservation());
        let states = morsel::run(
            &keys,
            self.options.threads(),
            &control,
            begin,
            |(pieces, memory): &mut (Vec<(u16, Piece)>, _), &key| {
                let ordinals = join(key, 0)..=join(key, u16::MAX);
                let users = self.ordinals.range_cardinality(ordinals) as usize;
                memory.grow(users * ID_BYTES)?;
                let piece = self.piece(key, users)?;
                memory.grow(piece.byte_len().saturating_sub(users * ID_BYTES))?;
                pieces.push((key, piece));
                Ok(())
            },
        )?;
        let mut pieces: Vec<_> = states.into_iter().flat_map(|(pieces, _)| pieces).collect();
        pieces.sort_unstable_by_key(|(key, _)| *key);
        let pieces = pieces.into_iter().map(|(_, piece)| piece).collect();
        Ok(UserIds { pieces })
    }

    /// The ids of the `users` users of one container.
    fn piece(&self, key: u16, users: usize) -> Result<Piece, ReadError> {
        let mut piece = Piece {
            text: String::new(),
            ends: Vec::with_capacity(users),
        };
        let mut digits = itoa::Buffer::new();
        let ordinals = self.ordinals.range(join(key, 0)..=join(key, u16::MAX));
        self.snapshot.dictionary().with_ids(ordinals, |_, id| {
            piece.text.push_str(match id {
                UserKey::Int(number) => digits.format(number),
                UserKey::Text(text) => text,
            });
            // 65 536 ids of at most 65 535 bytes each.
            piece.ends.push(piece.text.len() as u32);
        })?;
        piece.text.shrink_to_fit();
        Ok(piece)
    }
}

/// The upper halves of ordinals, ascending.
fn containers(ordinals: &RoaringBitmap) -> Vec<u16> {
    let mut keys = Vec::new();
    let mut rest = ordinals.iter();
    while let Some(first) = rest.next() {
        let key = (first >> 16) as u16;
        keys.push(key);
        match key.checked_add(1) {
            Some(next) => rest.advance_to(join(next, 0)),
            None => break,
        }
    }
    keys
}

impl Piece {
    fn byte_len(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts
            .zip(&self.ends)
            .map(|(&start, &end)| &self.text[start as usize..end as usize])
    }
}

impl UserIds {
    /// How many ids; those that were erased are not among them.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.ends.len()).sum()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(|piece| piece.ends.is_empty())
    }

    /// The ids, by ordinal.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().flat_map(Piece::iter)
    }
}

impl fmt::Debug for UserIds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.iter()).finish()
    }
}

impl<T: AsRef<str>, const N: usize> PartialEq<[T; N]> for UserIds {
    fn eq(&self, other: &[T; N]) -> bool {
        self.iter().eq(other.iter().map(AsRef::as_ref))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pugmark_engine::storage::MemoryStorage;
    use pugmark_engine::{BatchBuilder, Store};

    use super::*;
    use crate::{did, everyone};

    /// Numbers and texts, over three containers of users.
    #[test]
    fn ids_are_told_by_ordinal_whoever_reads_them() {
        let mut batch = BatchBuilder::new();
        let name = |user: u32| match user % 3 {
            0 => format!("{}", i64::from(user) - 70_000),
            1 => format!("user-{user}"),
            _ => format!("{user:0>9}"),
        };
        for user in 0..140_000 {
            let event = if user % 5 == 0 { "b" } else { "a" };
            batch.event(name(user).as_str(), i64::from(user), event);
        }
        let storage = Arc::new(MemoryStorage::new());
        let store = Store::builder("").storage(storage).open().unwrap();
        store.append(batch.finish().unwrap()).unwrap();
        let snapshot = store.snapshot().unwrap();
        for threads in [1, 2, 7] {
            let options = QueryOptions {
                threads: Some(threads),
                ..QueryOptions::default()
            };
            let executor = Executor::new(snapshot.clone()).with_options(options);
            for (segment, each) in [(everyone(), 1), (did("b").into(), 5)] {
                let users = executor.users(segment).unwrap();
                let mut one_by_one = Vec::new();
                users
                    .for_each_id(|id| one_by_one.push(id.to_string()))
                    .unwrap();
                let ids = users.ids().unwrap();
                let expected: Vec<String> = (0..140_000).step_by(each).map(name).collect();
                assert!(ids.iter().eq(&expected));
                assert_eq!(one_by_one, expected);
                assert_eq!(ids.len(), expected.len());
            }
            let nobody = executor.users(did("c")).unwrap();
            assert!(nobody.ids().unwrap().is_empty());
            assert_eq!(format!("{:?}", nobody.ids().unwrap()), "[]");
        }
        let little = QueryOptions {
            threads: Some(1),
            memory_bytes: 3 << 19,
            ..QueryOptions::default()
        };
        let executor = Executor::new(snapshot).with_options(little);
        let ids = executor.users(everyone()).unwrap().ids();
        assert!(
            matches!(ids, Err(QueryError::OutOfMemory { .. })),
            "{ids:?}"
        );
    }
}
