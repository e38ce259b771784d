//! Reading one run of a segment in place.

use std::ops::Range;

use super::area::Area;
use super::counts;
use super::layout::{DayEntry, NAMES_PROPERTY, RunIndex};
use super::segment::Segment;
use super::ties::TieRanks;
use super::times::Times;
use super::values::{self, ValueEntry};
use crate::batch::{Part, TextColumn, Values};
use crate::bitmap::{BitmapView, ContainerView, Words, split};
use crate::codec::PropertiesView;
use crate::error::Corruption;

/// Entries of a dense table of row starts: one for each user of a container, and the end.
const DENSE_STARTS: usize = (1 << 16) + 1;

/// The rows of one event name (or of the overflow run) in a segment, sorted by (ordinal, time,
/// arrival). Row numbers count from 0 within the run.
///
/// Every method that touches stored bytes verifies them on first touch and can fail.
#[derive(Clone, Copy, Debug)]
pub struct NameRun<'a> {
    pub(super) segment: &'a Segment,
    pub(super) number: usize,
}

/// Users of a container with their rows: the `i`-th of `users`, counted from 0, has the rows
/// `starts[i]..starts[i + 1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserStarts {
    /// Low halves of the ordinals.
    pub users: Words,
    /// First row of each user, and the end of the last one's rows.
    pub starts: Vec<u32>,
}

impl UserStarts {
    /// Calls `visit` with the low half of each user's ordinal and its rows, in order.
    #[inline]
    pub fn for_each(&self, mut visit: impl FnMut(u16, Range<u32>)) {
        let mut rows = self.starts.windows(2);
        self.users.for_each(|low| {
            if let Some(own) = rows.next() {
                visit(low, own[0]..own[1]);
            }
        });
    }
}

impl UserStarts {
    /// The same for those of `wanted` alone; costs little for the others.
    #[inline]
    pub fn for_each_of(&self, wanted: &Words, mut visit: impl FnMut(u16, Range<u32>)) {
        let mut before = 0;
        let words = self.users.as_slice().iter().zip(wanted.as_slice());
        for (word, (&users, &wanted)) in words.enumerate() {
            let mut left = users & wanted;
            while left != 0 {
                let bit = left.trailing_zeros();
                let smaller = users & ((1 << bit) - 1);
                let place = before + smaller.count_ones() as usize;
                if let Some(&[start, end]) = self.starts.get(place..place + 2) {
                    visit((word * 64) as u16 | bit as u16, start..end);
                }
                left &= left - 1;
            }
            before += users.count_ones() as usize;
        }
    }
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
        let place = self.container(key)?;
        Ok(place.map_or(0..0, |place| place.rows))
    }

    /// Number of users of container `key`.
    ///
    /// # Errors
    /// Where the run's index or its users are damaged.
    pub fn container_users(&self, key: u16) -> Result<u32, Corruption> {
        let place = self.container(key)?;
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
        assert_eq!(starts.len(), DENSE_STARTS, "a dense table of row starts");
        let Some(place) = self.container(key)? else {
            starts.fill(0);
            return Ok(());
        };
        let mut firsts = Vec::with_capacity(place.users.len() + 2 * counts::GROUP_USERS);
        self.first_rows(&place, place.users.clone(), &mut firsts)?;
        if place.container.spread(&firsts, starts) {
            Ok(())
        } else {
            Err(self.wrong_users())
        }
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
        found.users.clear();
        found.starts.clear();
        let Some(place) = self.container(key)? else {
            found.starts.push(0);
            return Ok(());
        };
        place.container.or_into(&mut found.users);
        let before = found.users.len_in(0..lows.start);
        found.users.restrict(lows);
        let first = place.users.start + before;
        let users = first..first + found.users.len();
        if users.end > place.users.end {
            return Err(self.wrong_users());
        }
        self.first_rows(&place, users, &mut found.starts)
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
        mut visit: impl FnMut(u16, Range<u32>),
    ) -> Result<(), Corruption> {
        let Some(place) = self.container(key)? else {
            return Ok(());
        };
        let (sealed, index) = (&self.segment.sealed, self.index()?);
        let mut cursor = counts::GroupCursor::open(sealed, index, place.users.clone())?;
        let mut result = Ok(());
        place.container.for_each_of(lows, |low, rank| {
            if result.is_err() {
                return;
            }
            match cursor.rows(place.users.start + rank) {
                Ok(rows) if place.rows.start <= rows.start && rows.end <= place.rows.end => {
                    visit(low, rows);
                }
                Ok(_) => result = Err(self.wrong_users()),
                Err(error) => result = Err(error),
            }
        });
        result
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

    /// The first row of each of a container's users numbered `users`, and the end of the last
    /// one's.
    fn first_rows(
        &self,
        place: &Place<'_>,
        users: Range<u32>,
        firsts: &mut Vec<u32>,
    ) -> Result<(), Corruption> {
        let (all, container) = (users == place.users, &place.rows);
        if users.is_empty() {
            firsts.push(container.start);
            return Ok(());
        }
        let rows = counts::read(&self.segment.sealed, self.index()?, users, firsts)?;
        let inside = container.start <= rows.start && rows.end <= container.end;
        if !inside || (all && rows != *container) {
            return Err(self.wrong_users());
        }
        let mut row = rows.start;
        for first in firsts.iter_mut() {
            row += std::mem::replace(first, row);
        }
        firsts.push(row);
        Ok(())
    }

    pub(super) fn wrong_users(&self) -> Corruption {
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
