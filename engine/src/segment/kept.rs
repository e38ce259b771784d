//! What a segment works out when it is first asked, and keeps.
//!
//! A segment never changes, so neither does anything that was made of it. Each kind of thing has
//! a part of the segment's own size for what it keeps (24 KiB in small ones); what was asked for
//! longest ago makes room.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hashbrown::HashMap;

use super::run::NameRun;
use crate::bitmap::BITS_BYTES;
use crate::error::Corruption;

/// Things of one kind may always take so many bytes: two containers of bits and some.
const KEPT_AT_LEAST: usize = 3 * BITS_BYTES;
/// About what a thing takes to be found again.
const ENTRY_BYTES: usize = 128;

/// Things made of some days of a run.
#[derive(Debug)]
pub(super) struct Kept<T>(Mutex<Shelf<T>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(Shelf {
            things: HashMap::new(),
            by_turn: BTreeMap::new(),
            turn: 0,
            bytes: 0,
        }))
    }
}

/// A run, and places among its days.
type Days = (usize, Range<usize>);

#[derive(Debug)]
struct Shelf<T> {
    /// Each with the turn in which it was asked for last.
    things: HashMap<Days, (u64, Arc<Made<T>>)>,
    by_turn: BTreeMap<u64, Days>,
    turn: u64,
    /// What all of them take.
    bytes: usize,
}

/// What is made of some days of a run, a container at a time.
#[derive(Debug)]
pub(super) struct Made<T> {
    /// Bytes that all containers take.
    bytes: usize,
    /// In the order of the containers of the run's users.
    containers: Box<[OnceLock<T>]>,
    /// It is kept no more: what was made serves those who have it, and no more is made.
    given_up: AtomicBool,
}

impl<T> Kept<T> {
    /// What is kept of days of a run, by their places, of things that take at most 1 / `part` of
    /// the segment's size; `None` where it may not take `bytes`.
    pub(super) fn of_days(
        &self,
        run: &NameRun<'_>,
        days: Range<usize>,
        bytes: usize,
        part: usize,
    ) -> Result<Option<Arc<Made<T>>>, Corruption> {
        let containers = run.users()?.container_count();
        let most_bytes = (run.segment.byte_len() / part).max(KEPT_AT_LEAST);
        Ok(self.find((run.number, days), containers, bytes, most_bytes))
    }

    /// Gives up all that is kept.
    #[cfg(test)]
    pub(super) fn give_up(&self) {
        self.0.lock().unwrap().make_room(0);
    }

    fn find(
        &self,
        days: Days,
        containers: usize,
        bytes: usize,
        most_bytes: usize,
    ) -> Option<Arc<Made<T>>> {
        let bytes = bytes + containers * size_of::<OnceLock<T>>() + ENTRY_BYTES;
        if bytes > most_bytes {
            return None;
        }
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = shelf.take(&days).unwrap_or_else(|| {
            Arc::new(Made {
                bytes,
                containers: (0..containers).map(|_| OnceLock::new()).collect(),
                given_up: AtomicBool::new(false),
            })
        });
        shelf.make_room(most_bytes - bytes);
        shelf.put(days, Arc::clone(&made));
        Some(made)
    }
}

impl<T> Shelf<T> {
    fn take(&mut self, days: &Days) -> Option<Arc<Made<T>>> {
        let (turn, made) = self.things.remove(days)?;
        self.by_turn.remove(&turn);
        self.bytes -= made.bytes;
        Some(made)
    }

    fn put(&mut self, days: Days, made: Arc<Made<T>>) {
        self.turn += 1;
        self.bytes += made.bytes;
        self.by_turn.insert(self.turn, days.clone());
        self.things.insert(days, (self.turn, made));
    }

    /// Gives up what was asked for longest ago, until no more than so many bytes are left.
    fn make_room(&mut self, most_bytes: usize) {
        while self.bytes > most_bytes
            && let Some((_, days)) = self.by_turn.pop_first()
        {
            if let Some((_, made)) = self.things.remove(&days) {
                self.bytes -= made.bytes;
                made.given_up.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl<T> Made<T> {
    /// What is kept of the run's container at `place`, made by `make` where nobody asked before;
    /// `None` where it was not made and would be kept no more.
    pub(super) fn get(
        &self,
        place: usize,
        make: impl FnOnce() -> Result<T, Corruption>,
    ) -> Result<Option<&T>, Corruption> {
        let Some(container) = self.containers.get(place) else {
            return Ok(None);
        };
        if let Some(made) = container.get() {
            return Ok(Some(made));
        }
        if self.given_up.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let made = make()?;
        Ok(Some(container.get_or_init(|| made)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_longest_ago_makes_room() {
        let kept = Kept::<u64>::default();
        let most_bytes = 3 * (100 + size_of::<OnceLock<u64>>() + ENTRY_BYTES);
        let ask = |run, days, bytes| kept.find((run, days), 1, bytes, most_bytes);
        assert!(
            ask(0, 0..9, most_bytes).is_none(),
            "larger than all that may be kept"
        );
        let first = ask(0, 0..2, 100).unwrap();
        let second = ask(1, 0..2, 100).unwrap();
        let third = ask(0, 1..3, 100).unwrap();
        assert!(Arc::ptr_eq(&first, &ask(0, 0..2, 100).unwrap()));
        // The second was asked for longest ago.
        let fourth = ask(2, 0..2, 100).unwrap();
        assert!(Arc::ptr_eq(&third, &ask(0, 1..3, 100).unwrap()));
        assert!(Arc::ptr_eq(&fourth, &ask(2, 0..2, 100).unwrap()));
        assert!(!Arc::ptr_eq(&second, &ask(1, 0..2, 100).unwrap()));
        let shelf = kept.0.lock().unwrap();
        assert_eq!((shelf.things.len(), shelf.by_turn.len()), (3, 3));
        assert_eq!(shelf.bytes, most_bytes);
        drop(shelf);
        // What was given up serves, and grows no more.
        assert_eq!(second.get(0, || Ok(1)).unwrap(), None);
        assert_eq!(
            first.get(0, || Ok(1)).unwrap(),
            None,
            "the fourth to be asked for"
        );
    }

    #[test]
    fn a_container_is_made_once_and_not_kept_where_making_fails() {
        let kept = Kept::<u64>::default();
        let made = kept.find((0, 0..2), 1, 0, 1 << 10).unwrap();
        let damaged = || Err(Corruption::new(std::path::Path::new("a"), 0, "damaged"));
        assert!(made.get(0, damaged).is_err());
        assert_eq!(made.get(0, || Ok(7)).unwrap(), Some(&7));
        assert_eq!(made.get(0, damaged).unwrap(), Some(&7));
        assert_eq!(made.get(1, || Ok(8)).unwrap(), None);
    }
}
