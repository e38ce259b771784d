//! The users of several whole days together.
//!
//! "In the last 30 days" takes in the same whole days of a run from midnight to midnight, however
//! often it is asked. The union of their bitmaps is made container by container when first needed
//! and kept with the segment, in at most 1/64 of the segment's own size (16 KiB for small ones): a
//! segment never changes, so neither does the union.

use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::run::NameRun;
use crate::bitmap::{BITS_BYTES, BitmapView, Words};
use crate::error::Corruption;

/// Spans kept in memory take at most this part of their segment's size …
const KEPT_PART: usize = 64;
/// … or so many bytes, where that is more: two containers.
const KEPT_AT_LEAST: usize = 2 * BITS_BYTES;

/// The users that have rows in a span of days of one run.
#[derive(Clone, Debug)]
pub struct DaySpan<'a> {
    run: NameRun<'a>,
    /// One for each day that has rows.
    days: Vec<BitmapView<'a>>,
    /// `None` where keeping the union would cost too much.
    union: Option<Arc<Union>>,
}

/// The unions of a span's containers, each made when first asked for.
#[derive(Debug)]
struct Union {
    run: usize,
    /// Places among the run's days.
    days: Range<usize>,
    /// In the order of the containers of the run's users.
    containers: Box<[OnceLock<Words>]>,
}

/// The unions that a segment keeps, the one asked for last at the end.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Vec<Arc<Union>>>);

impl Union {
    /// Bytes that it takes once all of its containers are made.
    fn bytes(containers: usize) -> usize {
        containers * BITS_BYTES
    }
}

impl Kept {
    /// The union of these days of a run of so many containers; the ones that were not asked for
    /// longest make room for a new one.
    fn union(
        &self,
        run: usize,
        days: Range<usize>,
        containers: usize,
        most_bytes: usize,
    ) -> Option<Arc<Union>> {
        if Union::bytes(containers) > most_bytes {
            return None;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept
            .iter()
            .position(|union| union.run == run && union.days == days);
        let union = match known {
            Some(place) => kept.remove(place),
            None => Arc::new(Union {
                run,
                days,
                containers: (0..containers).map(|_| OnceLock::new()).collect(),
            }),
        };
        kept.push(Arc::clone(&union));
        let mut bytes: usize = kept
            .iter()
            .map(|union| Union::bytes(union.containers.len()))
            .sum();
        kept.retain(|union| {
            let fits = bytes <= most_bytes;
            if !fits {
                bytes -= Union::bytes(union.containers.len());
            }
            fits
        });
        Some(union)
    }
}

impl<'a> NameRun<'a> {
    /// The users that have rows on any of the UTC days `days` (since 1970-01-01).
    ///
    /// # Errors
    /// Where a bitmap or the run's index is damaged.
    pub fn span_users(&self, days: RangeInclusive<i64>) -> Result<DaySpan<'a>, Corruption> {
        let index = self.index()?;
        let place = |day: i64| {
            index
                .days
                .partition_point(|entry| i64::from(entry.day) < day)
        };
        let places = place(*days.start())..place(days.end().saturating_add(1));
        let views = index.days.get(places.clone()).unwrap_or_default().iter();
        let views: Vec<_> = views
            .map(|entry| self.day_view(entry))
            .collect::<Result<_, _>>()?;
        // One day's bitmap is as good as its union with nothing.
        let union = (views.len() > 1).then(|| {
            let containers = self.users().map(|users| users.container_count())?;
            let most_bytes = (self.segment.byte_len() / KEPT_PART).max(KEPT_AT_LEAST);
            let kept = &self.segment.kept_spans;
            Ok(kept.union(self.number, places, containers, most_bytes))
        });
        Ok(DaySpan {
            run: *self,
            days: views,
            union: union.transpose()?.flatten(),
        })
    }
}

impl DaySpan<'_> {
    /// At most so many users; exact for one day.
    pub fn most_users(&self) -> u64 {
        self.days.iter().map(BitmapView::cardinality).sum()
    }

    /// Adds the users of container `key` to `words`.
    ///
    /// # Errors
    /// Where the bitmap of the run's users is damaged.
    pub fn or_into(&self, key: u16, words: &mut Words) -> Result<(), Corruption> {
        let Some(union) = &self.union else {
            self.days.iter().for_each(|day| day.or_into(key, words));
            return Ok(());
        };
        let Ok(place) = self.run.users()?.position(key) else {
            return Ok(());
        };
        if let Some(container) = union.containers.get(place) {
            words.or(container.get_or_init(|| {
                let mut users = Words::new();
                self.days
                    .iter()
                    .for_each(|day| day.or_into(key, &mut users));
                users
            }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_asked_for_longest_ago_make_room() {
        let kept = Kept::default();
        let most_bytes = 3 * BITS_BYTES;
        let ask = |run, days, containers| kept.union(run, days, containers, most_bytes);
        assert!(
            ask(0, 0..9, 4).is_none(),
            "larger than all that may be kept"
        );
        let first = ask(0, 0..2, 1).unwrap();
        let second = ask(1, 0..2, 1).unwrap();
        let third = ask(0, 1..3, 1).unwrap();
        assert!(Arc::ptr_eq(&first, &ask(0, 0..2, 1).unwrap()));
        // The second was asked for longest ago.
        let fourth = ask(2, 0..2, 1).unwrap();
        assert!(Arc::ptr_eq(&third, &ask(0, 1..3, 1).unwrap()));
        assert!(Arc::ptr_eq(&fourth, &ask(2, 0..2, 1).unwrap()));
        assert!(!Arc::ptr_eq(&second, &ask(1, 0..2, 1).unwrap()));
        assert_eq!(kept.0.lock().unwrap().len(), 3);
    }
}
