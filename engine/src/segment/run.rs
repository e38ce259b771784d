//! Reading one run of a segment in place.

use std::ops::Range;

use super::counts;
use super::layout::RunIndex;
use super::segment::Segment;
use super::ties::TieRanks;
use super::times::Times;
use crate::batch::TextColumn;
use crate::bitmap::{BitmapView, ContainerView, split};
use crate::error::Corruption;

/// Entries of a dense table of row starts: one for each user of a container, and the end.
const DENSE_STARTS: usize = (1 << 16) + 1;
/// Containers with fewer users fill the gaps between them instead of adding up all places.
const SPARSE_USERS: u32 = 4_096;

/// The rows of one event name (or of the overflow run) in a segment, sorted by (ordinal, time,
/// arrival). Row numbers count from 0 within the run.
///
/// Every method that touches stored bytes verifies them on first touch and can fail.
#[derive(Clone, Copy, Debug)]
pub struct NameRun<'a> {
    pub(super) segment: &'a Segment,
    pub(super) number: usize,
}

/// The users of a container with their rows: user `lows[i]` has the rows
/// `starts[i]..starts[i + 1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserStarts {
    /// Low halves of the ordinals, ascending.
    pub lows: Vec<u16>,
    /// First row of each user, and the end of the last one's rows.
    pub starts: Vec<u32>,
}

impl<'a> NameRun<'a> {
    pub(super) fn new(segment: &'a Segment, number: usize) -> Self {
        Self { segment, number }
    }

    pub(super) fn index(&self) -> Result<&'a RunIndex, Corruption> {
        self.segment.index(self.number)
    }

    /// The event name; empty for the overflow run, and in the partition of traits.
    pub fn name(&self) -> &'a str {
        &self.segment.entry(self.number).name
    }

    /// True for the run that the rarest names share.
    pub fn is_overflow(&self) -> bool {
        self.segment.footer.has_overflow && self.number + 1 == self.segment.footer.runs.len()
    }

    /// Number of rows.
    pub fn rows(&self) -> u32 {
        self.segment.entry(self.number).rows
    }

    /// Number of users.
    pub fn user_count(&self) -> u32 {
        self.segment.entry(self.number).users
    }

    /// Earliest time, in microseconds since 1970-01-01 UTC.
    pub fn min_time(&self) -> i64 {
        self.segment.entry(self.number).min_time
    }

    /// Latest time, in microseconds since 1970-01-01 UTC.
    pub fn max_time(&self) -> i64 {
        self.segment.entry(self.number).max_time
    }

    /// The users that have rows here.
    ///
    /// # Errors
    /// Where the bitmap or the run's index is damaged.
    pub fn users(&self) -> Result<BitmapView<'a>, Corruption> {
        let index = self.index()?;
        let bytes = self.segment.sealed.block(&index.users_block)?;
        Ok(BitmapView::from_shape(bytes, index.users_shape))
    }

    /// The UTC days (since 1970-01-01) that have rows, ascending, each with its number of users.
    /// Runs of the partition of traits have none.
    ///
    /// # Errors
    /// Where the run's index is damaged.
    pub fn days(&self) -> Result<impl ExactSizeIterator<Item = (i64, u32)> + use<'a>, Corruption> {
        let days = &self.index()?.days;
        Ok(days.iter().map(|day| (i64::from(day.day), day.users)))
    }

    /// The users that have rows on the UTC day `day` (since 1970-01-01), if there are any.
    ///
    /// # Errors
    /// Where the bitmap or the run's index is damaged.
    pub fn day_users(&self, day: i64) -> Result<Option<BitmapView<'a>>, Corruption> {
        let index = self.index()?;
        let found = index
            .days
            .binary_search_by_key(&day, |entry| entry.day.into());
        let Ok(entry) = found.map(|place| index.days[place]) else {
            return Ok(None);
        };
        if entry.len == 0 {
            return self.users().map(Some);
        }
        let area = &index.day_bitmaps;
        let end = entry.offset + u64::from(entry.len);
        let bytes = area.slice(&self.segment.sealed, entry.offset..end)?;
        let view = BitmapView::open(bytes).ok();
        let view = view.filter(|view| view.cardinality() == u64::from(entry.users));
        let what = "the bitmap of a day is not what its entry says";
        let at = area.offset() + entry.offset;
        view.map(Some)
            .ok_or_else(|| Corruption::new(self.segment.file(), at, what))
    }

    /// The rows of the users of container `key`; empty where it has none.
    ///
    /// # Errors
    /// Where the run's index or its users are damaged.
    pub fn container_rows(&self, key: u16) -> Result<Range<u32>, Corruption> {
        let place = self.container(key)?;
        Ok(place.map_or(0..0, |place| place.rows))
    }

    /// The rows of each user of container `key`, densely: the user with the low half `u` has the
    /// rows `starts[u]..starts[u + 1]`, which may be none. Costs some ten microseconds.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    ///
    /// # Panics
    /// Where `starts` has not exactly 65 537 entries.
    pub fn row_starts(&self, key: u16, starts: &mut [u32]) -> Result<(), Corruption> {
        assert_eq!(starts.len(), DENSE_STARTS, "a dense table of row starts");
        let Some(place) = self.container(key)? else {
            starts.fill(0);
            return Ok(());
        };
        let mut counts = Vec::with_capacity(place.users.len() + 2 * counts::GROUP_USERS);
        self.counts(&place, &mut counts)?;
        let mut counts = counts.into_iter();
        let mut row = place.rows.start;
        if place.container.cardinality < SPARSE_USERS {
            let mut done = 0;
            place.container.for_each(|low| {
                // Values out of order come from forged bytes only; the last check finds them.
                let low = usize::from(low).max(done);
                starts[done..=low].fill(row);
                done = low + 1;
                row += counts.next().unwrap_or_default();
            });
            starts[done..].fill(row);
        } else {
            starts.fill(0);
            place.container.for_each(|low| {
                starts[usize::from(low) + 1] = counts.next().unwrap_or_default();
            });
            for start in starts.iter_mut() {
                row += *start;
                *start = row;
            }
        }
        if row == place.rows.end && counts.next().is_none() {
            Ok(())
        } else {
            Err(self.wrong_users())
        }
    }

    /// The users of container `key` with their rows: the sparse form of
    /// [`NameRun::row_starts`], for containers with few users. `found` is overwritten.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn user_starts(&self, key: u16, found: &mut UserStarts) -> Result<(), Corruption> {
        found.lows.clear();
        found.starts.clear();
        let Some(place) = self.container(key)? else {
            found.starts.push(0);
            return Ok(());
        };
        place.container.append_to(&mut found.lows);
        self.counts(&place, &mut found.starts)?;
        if found.lows.len() != place.users.len() {
            return Err(self.wrong_users());
        }
        let mut row = place.rows.start;
        for start in &mut found.starts {
            row += std::mem::replace(start, row);
        }
        found.starts.push(row);
        Ok(())
    }

    /// The rows of one user; empty where it has none. Costs some microseconds.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn user_rows(&self, ordinal: u32) -> Result<Range<u32>, Corruption> {
        let (key, low) = split(ordinal);
        let Some(place) = self.container(key)? else {
            return Ok(0..0);
        };
        if !place.container.contains(low) {
            return Ok(0..0);
        }
        let user = place.users.start + place.container.rank(low);
        if user >= place.users.end {
            return Err(self.wrong_users());
        }
        counts::read_one(&self.segment.sealed, self.index()?, user)
    }

    /// The times of `rows`, in place.
    ///
    /// # Errors
    /// Where stored bytes are damaged, or the rows lie beyond the run.
    pub fn times(&self, rows: Range<u32>) -> Result<Times<'a>, Corruption> {
        let index = self.index()?;
        let form = &index.times_form;
        let width = u64::from(form.width);
        let range = u64::from(rows.start) * width..u64::from(rows.end) * width;
        let bytes = index.times.slice(&self.segment.sealed, range)?;
        let times = Times::view(form.min, form.unit_micros, form.width, bytes);
        let what = "times are not aligned";
        times.ok_or_else(|| Corruption::new(self.segment.file(), index.times.offset(), what))
    }

    /// The tie ranks of `rows`; none, at no cost, in the common case.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn ties(&self, rows: Range<u32>) -> Result<TieRanks<'a>, Corruption> {
        let ties = &self.index()?.ties;
        if ties.len() == 0 {
            return Ok(TieRanks::default());
        }
        let pairs = bytemuck::try_cast_slice(ties.all(&self.segment.sealed)?);
        let what = "tie ranks are not aligned";
        let pairs = pairs.map_err(|_| Corruption::new(self.segment.file(), ties.offset(), what))?;
        Ok(TieRanks::new(pairs).within(rows))
    }

    /// The event names of `rows` of an overflow run, which hides them in a text property.
    ///
    /// # Errors
    /// Where stored bytes are damaged, or this is not an overflow run.
    pub fn overflow_names(&self, rows: Range<u32>) -> Result<TextColumn, Corruption> {
        let _ = rows;
        Err(self.wrong_users())
    }

    /// Where container `key` lies in this run.
    fn container(&self, key: u16) -> Result<Option<Place<'a>>, Corruption> {
        let index = self.index()?;
        let users = self.users()?;
        let Ok(at) = users.position(key) else {
            return Ok(None);
        };
        let starts = (index.containers.get(at), index.containers.get(at + 1));
        let (Some(start), Some(end)) = starts else {
            return Err(self.wrong_users());
        };
        let container = users.container_at(at, u64::from(start.user));
        Ok(container.map(|container| Place {
            container,
            users: start.user..end.user,
            rows: start.row..end.row,
        }))
    }

    fn counts(&self, place: &Place<'_>, counts: &mut Vec<u32>) -> Result<(), Corruption> {
        let (users, rows) = (place.users.clone(), place.rows.clone());
        counts::read(&self.segment.sealed, self.index()?, users, rows, counts)
    }

    fn wrong_users(&self) -> Corruption {
        let what = "a run's users and its rows differ";
        let at = self.segment.entry(self.number).index.offset;
        Corruption::new(self.segment.file(), at, what)
    }
}

/// A container of a run.
struct Place<'a> {
    container: ContainerView<'a>,
    users: Range<u32>,
    rows: Range<u32>,
}
