//! What a segment works out when it is first asked, and keeps.
//!
//! A segment never changes, so neither does anything that was made of it. Each kind of thing has
//! a part of the segment's own size for what it keeps (24 KiB in small ones); what was asked for
//! longest ago makes room.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::run::NameRun;
use crate::bitmap::BITS_BYTES;
use crate::error::Corruption;

/// Things of one kind may always take so many bytes: two containers of bits and some.
const KEPT_AT_LEAST: usize = 3 * BITS_BYTES;

/// Things made of some days of a run, the one asked for last at the end.
#[derive(Debug)]
pub(super) struct Kept<T>(Mutex<Vec<Arc<Made<T>>>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// What is made of some days of a run, a container at a time.
#[derive(Debug)]
pub(super) struct Made<T> {
    run: usize,
    /// Places among the run's days.
    days: Range<usize>,
    /// Bytes that all containers take.
    bytes: usize,
    /// In the order of the containers of the run's users.
    containers: Box<[OnceLock<T>]>,
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
        Ok(self.find(run.number, days, containers, bytes, most_bytes))
    }

    fn find(
        &self,
        run: usize,
        days: Range<usize>,
        containers: usize,
        bytes: usize,
        most_bytes: usize,
    ) -> Option<Arc<Made<T>>> {
        let bytes = bytes + containers * size_of::<OnceLock<T>>();
        if bytes > most_bytes {
            return None;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept
            .iter()
            .position(|made| made.run == run && made.days == days);
        let made = match known {
            Some(place) => kept.remove(place),
            None => Arc::new(Made {
                run,
                days,
                bytes,
                containers: (0..containers).map(|_| OnceLock::new()).collect(),
            }),
        };
        kept.push(Arc::clone(&made));
        let mut bytes: usize = kept.iter().map(|made| made.bytes).sum();
        kept.retain(|made| {
            let fits = bytes <= most_bytes;
            if !fits {
                bytes -= made.bytes;
            }
            fits
        });
        Some(made)
    }
}

impl<T> Made<T> {
    /// What is kept of the run's container at `place`, made by `make` where nobody asked before.
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
        let most_bytes = 3 * (100 + size_of::<OnceLock<u64>>());
        let ask = |run, days, bytes| kept.find(run, days, 1, bytes, most_bytes);
        assert!(
            ask(0, 0..9, 400).is_none(),
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
        assert_eq!(kept.0.lock().unwrap().len(), 3);
    }

    #[test]
    fn a_container_is_made_once_and_not_kept_where_making_fails() {
        let kept = Kept::<u64>::default();
        let made = kept.find(0, 0..2, 1, 0, 1 << 10).unwrap();
        let damaged = || Err(Corruption::new(std::path::Path::new("a"), 0, "damaged"));
        assert!(made.get(0, damaged).is_err());
        assert_eq!(made.get(0, || Ok(7)).unwrap(), Some(&7));
        assert_eq!(made.get(0, damaged).unwrap(), Some(&7));
        assert_eq!(made.get(1, || Ok(8)).unwrap(), None);
    }
}
