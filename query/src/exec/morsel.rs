//! Morsels: spans of users that threads take from a queue.
//!
//! A morsel lies inside one container of 65 536 ordinals, so every set of its users is at most
//! 1 024 words. Containers with many rows (the first users to arrive are the heaviest) are cut
//! further, by rows and not by users alone, and the heaviest morsels go first.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};

use pugmark_engine::bitmap::CONTAINER_BITS;

use super::control::{Control, QueryError};
use super::effort;
use super::spread::Spread;

/// A span of users inside one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Morsel {
    /// The container: the upper half of the ordinals.
    pub(crate) key: u16,
    /// The lower halves; multiples of 64.
    pub(crate) lows: Range<u32>,
    /// About how many rows will be read for it.
    pub(crate) rows: u64,
}

/// Cuts containers into morsels of about `most_rows`.
pub(crate) fn cut(containers: &BTreeMap<u16, u64>, most_rows: u64) -> Vec<Morsel> {
    let mut morsels = Vec::with_capacity(containers.len());
    for (&key, &rows) in containers {
        let pieces = rows
            .div_ceil(most_rows.max(1))
            .clamp(1, 64)
            .next_power_of_two();
        let width = CONTAINER_BITS as u64 / pieces;
        for piece in 0..pieces {
            let start = (piece * width) as u32;
            morsels.push(Morsel {
                key,
                lows: start..start + width as u32,
                rows: rows / pieces,
            });
        }
    }
    morsels.sort_by_key(|morsel| std::cmp::Reverse(morsel.rows));
    morsels
}

/// Runs `work` over all morsels (or other pieces of work) on up to `threads` threads, each with a
/// state of its own, and returns the states. The first error stops all.
pub(crate) fn run<M: Sync, S: Send>(
    morsels: &[M],
    threads: usize,
    control: &Control,
    begin: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &M) -> Result<(), QueryError> + Sync,
) -> Result<Vec<S>, QueryError> {
    let next = AtomicUsize::new(0);
    let worker = |between: &dyn Fn()| {
        let _collecting = control.effort().collecting();
        let mut state = begin();
        while let Some(morsel) = morsels.get(next.fetch_add(1, Ordering::Relaxed)) {
            effort::morsel();
            control
                .check()
                .and_then(|()| work(&mut state, morsel))
                .inspect_err(|_| control.fail())?;
            between();
        }
        Ok(state)
    };
    let threads = threads.clamp(1, morsels.len().max(1));
    if threads == 1 {
        return Ok(vec![worker(&|| ())?]);
    }
    let spread = Spread::new(threads - 1);
    let results: Vec<Result<S, QueryError>> = crossbeam::thread::scope(|scope| {
        // The calling thread is one of them.
        let helper = |_: &_| {
            spread.begin();
            worker(&|| ())
        };
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(helper)).collect();
        let settled = Cell::new(false);
        let make_room = || spread.make_room(&settled);
        let own = std::panic::catch_unwind(AssertUnwindSafe(|| worker(&make_room)));
        let own = own.unwrap_or(Err(QueryError::Panicked));
        let joined = others
            .into_iter()
            .map(|worker| worker.join().unwrap_or(Err(QueryError::Panicked)));
        std::iter::once(own).chain(joined).collect()
    })
    .map_err(|_| QueryError::Panicked)?;
    first_cause(results)
}

/// All states, or the error that stopped the others: threads that merely noticed say "cancelled".
fn first_cause<S>(results: Vec<Result<S, QueryError>>) -> Result<Vec<S>, QueryError> {
    let mut states = Vec::with_capacity(results.len());
    let mut cause = None;
    for result in results {
        match result {
            Ok(state) => states.push(state),
            Err(error) if cause.is_none() || matches!(cause, Some(QueryError::Cancelled)) => {
                cause = Some(error);
            }
            Err(_) => {}
        }
    }
    cause.map_or(Ok(states), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::control::QueryOptions;

    #[test]
    fn morsels_cover_their_containers_once() {
        let containers = BTreeMap::from([(0, 1_000), (3, 10), (9, 0)]);
        let morsels = cut(&containers, 100);
        assert_eq!(morsels[0].rows, 1_000 / 16);
        for key in [0, 3, 9] {
            let mut lows: Vec<_> = morsels
                .iter()
                .filter(|morsel| morsel.key == key)
                .map(|m| m.lows.clone())
                .collect();
            lows.sort_by_key(|lows| lows.start);
            assert_eq!(lows.first().unwrap().start, 0);
            assert_eq!(lows.last().unwrap().end, 65_536);
            assert!(lows.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    #[test]
    fn the_cause_is_told_and_not_what_it_caused() {
        let morsels = cut(&(0..100u16).map(|key| (key, 1)).collect(), 1);
        let control = Control::start(&QueryOptions::default());
        let result = run(
            &morsels,
            4,
            &control,
            || (),
            |(), morsel| match morsel.key {
                50 => Err(QueryError::OutOfMemory {
                    limit: 1,
                    wanted: 2,
                }),
                _ => Ok(()),
            },
        );
        assert!(matches!(result, Err(QueryError::OutOfMemory { .. })));
    }
}
