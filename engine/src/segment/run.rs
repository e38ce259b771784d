//! Reading one run of a segment in place.

use std::ops::Range;

use super::area::Area;
use super::layout::{DayEntry, NAMES_PROPERTY, RunIndex};
use super::segment::Segment;
use super::starts::{UserStarts, UserTable, wrong_users};
use super::ties::TieRanks;
use super::times::Times;
use super::values::{self, ValueEntry};
use crate::batch::{Part, TextColumn, Values};
use crate::bitmap::BitmapView;
use crate::codec::PropertiesView;
use crate::error::Corruption;

/// The rows of one event name (or of the overflow run) in a segment, sorted by (ordinal, time,
/// arrival). Row numbers count from 0 within the run.
///
/// Every method that touches stored bytes verifies them on first touch and can fail.
#[derive(Clone, Copy, Debug)]
pub struct NameRun<'a> {
    pub(super) segment: &'a Segment,
    pub(super) number: usize,
}

/// The users that have one value of a property in some row of a run.
#[derive(Clone, Copy, Debug)]
pub struct ValueUsers<'a> {
    /// The text.
    pub value: &'a str,
    /// Its users.
    pub users: BitmapView<'a>,
}

impl<'a> NameRun<'a> {
    pub(super) fn new(segment: &'a Segment, number: usize) -> Self {
        Self { segment, number }
    }

    pub(super) fn index(&self) -> Result<&'a RunIndex, Corruption> {
        self.segment.index(self.number)
    }

    /// Its place among [`Segment::all_runs`].
    pub fn number(&self) -> usize {
        self.number
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
        let entry = found.ok().and_then(|place| index.days.get(place));
        entry.map(|entry| self.day_view(entry)).transpose()
    }

    pub(super) fn day_view(&self, day: &DayEntry) -> Result<BitmapView<'a>, Corruption> {
        let place = (day.offset, day.len);
        self.bitmap_in(&self.index()?.day_bitmaps, place, day.users)
    }

    /// The rows of the users of container `key`; empty where it has none.
    ///
    /// # Errors
    /// Where the run's index or its users are damaged.
    pub fn container_rows(&self, key: u16) -> Result<Range<u32>, Corruption> {
        self.table()?.container_rows(key)
    }

    /// The first row of the users of container `key` whose low halves are `low` or more; the end of
    /// the container's rows where there is none. Costs some microseconds.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn first_row_from(&self, key: u16, low: u16) -> Result<u32, Corruption> {
        self.table()?.first_row_from(key, low)
    }

    /// Number of users of container `key`.
    ///
    /// # Errors
    /// Where the run's index or its users are damaged.
    pub fn container_users(&self, key: u16) -> Result<u32, Corruption> {
        let place = self.table()?.container(key)?;
        Ok(place.map_or(0, |place| place.users.len() as u32))
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
        self.table()?.row_starts(key, starts)
    }

    /// The users of container `key` whose low halves lie in `lows`, with their rows. `found` is
    /// overwritten. Costs about a nanosecond a user, and one for every 64 places.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn user_starts(
        &self,
        key: u16,
        lows: Range<u32>,
        found: &mut UserStarts,
    ) -> Result<(), Corruption> {
        self.table()?.user_starts(key, lows, found)
    }

    /// Calls `visit` with the rows of those users of container `key` whose low halves are among
    /// `lows`, which ascend. Groups of 256 users that none of them is in are not decoded.
    ///
    /// # Errors
    /// Where stored bytes are damaged; some rows were given by then.
    pub fn rows_of_users(
        &self,
        key: u16,
        lows: &[u16],
        visit: impl FnMut(u16, Range<u32>),
    ) -> Result<(), Corruption> {
        self.table()?.rows_of_users(key, lows, visit)
    }

    /// The rows of one user; empty where it has none. Costs some microseconds.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn user_rows(&self, ordinal: u32) -> Result<Range<u32>, Corruption> {
        self.table()?.user_rows(ordinal)
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

    /// The properties of the rows.
    ///
    /// # Errors
    /// Where the run's index or the directory of properties is damaged.
    pub fn properties(&self) -> Result<PropertiesView<'a>, Corruption> {
        let directory = &self.index()?.properties;
        PropertiesView::open(&self.segment.sealed, directory, self.rows())
    }

    /// The users of each value of a property, sorted by value; `None` where the property has no
    /// bitmaps. It has them where it is nothing but text (and explicit nulls) of at most 64
    /// values and they cost little, so what they say of the text is exact.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn value_bitmaps(&self, property: &str) -> Result<Option<Vec<ValueUsers<'a>>>, Corruption> {
        let Some(entries) = self.value_entries(property)? else {
            return Ok(None);
        };
        let open = |entry: ValueEntry<'a>| {
            let users = self.value_view(&entry)?;
            let value = entry.text;
            Ok(ValueUsers { value, users })
        };
        entries
            .into_iter()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The users that have `value` as `property` in some row; `None` where the property has no
    /// bitmaps (see [`NameRun::value_bitmaps`]).
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn value_users(
        &self,
        property: &str,
        value: &str,
    ) -> Result<Option<BitmapView<'a>>, Corruption> {
        let Some(entries) = self.value_entries(property)? else {
            return Ok(None);
        };
        match entries.binary_search_by(|entry| entry.text.cmp(value)) {
            Ok(place) => self.value_view(&entries[place]).map(Some),
            Err(_) => Ok(Some(BitmapView::EMPTY)),
        }
    }

    /// The names of the properties that have bitmaps, sorted.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn value_properties(&self) -> Result<Vec<&'a str>, Corruption> {
        let Some(block) = &self.index()?.values else {
            return Ok(Vec::new());
        };
        let sealed = &self.segment.sealed;
        values::property_names(sealed.block(block)?).map_err(|error| sealed.corrupt(block, error))
    }

    fn value_entries(&self, property: &str) -> Result<Option<Vec<ValueEntry<'a>>>, Corruption> {
        let Some(block) = &self.index()?.values else {
            return Ok(None);
        };
        let sealed = &self.segment.sealed;
        values::find(sealed.block(block)?, property).map_err(|error| sealed.corrupt(block, error))
    }

    fn value_view(&self, entry: &ValueEntry<'_>) -> Result<BitmapView<'a>, Corruption> {
        let place = (entry.offset, entry.len);
        self.bitmap_in(&self.index()?.value_bitmaps, place, entry.users)
    }

    /// The bitmap of `users` users at a place (offset and length) of an area; length 0 is the
    /// bitmap of the run.
    fn bitmap_in(
        &self,
        area: &Area,
        (offset, len): (u64, u32),
        users: u32,
    ) -> Result<BitmapView<'a>, Corruption> {
        let view = if len == 0 {
            self.users()?
        } else {
            let range = offset..offset.saturating_add(u64::from(len));
            let bytes = area.slice(&self.segment.sealed, range)?;
            let at = area.offset().saturating_add(offset);
            BitmapView::open(bytes)
                .map_err(|error| Corruption::new(self.segment.file(), at, error.what))?
        };
        if view.cardinality() == u64::from(users) {
            Ok(view)
        } else {
            let what = "a bitmap has more or fewer users than its entry says";
            let at = area.offset().saturating_add(offset);
            Err(Corruption::new(self.segment.file(), at, what))
        }
    }

    /// The event names of `rows` of the overflow run, which keeps them in a hidden property.
    /// Names of other runs are their own; there this is an error.
    ///
    /// # Errors
    /// Where stored bytes are damaged, or this is not an overflow run.
    pub fn overflow_names(&self, rows: Range<u32>) -> Result<TextColumn, Corruption> {
        let what = "an overflow run does not name its rows";
        let block = self.index()?.names.as_ref();
        let wrong = || {
            let at = block.map_or(0, |block| block.offset);
            Corruption::new(self.segment.file(), at, what)
        };
        let directory = block.ok_or_else(wrong)?;
        let view = PropertiesView::open(&self.segment.sealed, directory, self.rows())?;
        let names = view.get(NAMES_PROPERTY)?.ok_or_else(wrong)?;
        let count = rows.len();
        let mut parts = names.decode(rows)?.parts;
        match parts.pop() {
            Some(Part {
                values: Values::Text(names),
                ..
            }) if parts.is_empty() && names.codes.len() == count => Ok(names),
            None if count == 0 => Ok(TextColumn::default()),
            _ => Err(wrong()),
        }
    }

    /// Whose rows lie where.
    fn table(&self) -> Result<UserTable<'a>, Corruption> {
        let index = self.index()?;
        Ok(UserTable {
            sealed: &self.segment.sealed,
            users: self.users()?,
            containers: &index.containers,
            counts: index.stored_counts(),
            index_at: self.segment.entry(self.number).index.offset,
        })
    }

    pub(super) fn wrong_users(&self) -> Corruption {
        let at = self.segment.entry(self.number).index.offset;
        wrong_users(&self.segment.sealed, at)
    }
}
