//! The users of several whole days together.
//!
//! "In the last 30 days" takes in the same whole days of a run from midnight to midnight, however
//! often it is asked. The union of their bitmaps is made container by container when first needed,
//! and kept.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::kept::Made;
use super::run::NameRun;
use crate::bitmap::{BITS_BYTES, BitmapView, Words};
use crate::error::Corruption;

/// Unions take at most this part of their segment's size.
const KEPT_PART: usize = 64;

/// The users that have rows in a span of days of one run.
#[derive(Clone, Debug)]
pub struct DaySpan<'a> {
    run: NameRun<'a>,
    /// One for each day that has rows.
    days: Vec<BitmapView<'a>>,
    /// Their union; `None` where keeping it would cost too much.
    union: Option<Arc<Made<Words>>>,
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
        let mut union = None;
        if views.len() > 1 {
            let bytes = self.users()?.container_count() * BITS_BYTES;
            union = self
                .segment
                .kept_spans
                .of_days(self, places, bytes, KEPT_PART)?;
        }
        Ok(DaySpan {
            run: *self,
            days: views,
            union,
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
        let or_days = |words: &mut Words| {
            self.days.iter().for_each(|day| day.or_into(key, words));
        };
        let Some(union) = &self.union else {
            or_days(words);
            return Ok(());
        };
        let Ok(place) = self.run.users()?.position(key) else {
            return Ok(());
        };
        let make = || {
            let mut users = Words::new();
            or_days(&mut users);
            Ok(users)
        };
        match union.get(place, make)? {
            Some(users) => words.or(users),
            None => or_days(words),
        }
        Ok(())
    }
}
