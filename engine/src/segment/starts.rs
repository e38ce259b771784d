//! Whose rows lie where: a bitmap of users, where each of its containers begins, and run lengths.

use std::ops::Range;

use super::counts::{self, GroupCursor, Stored};
use super::layout::ContainerStart;
use crate::bitmap::{BitmapView, ContainerView, Words, split};
use crate::error::Corruption;
use crate::format::Sealed;

/// Entries of a dense table of row starts: one for each user of a container, and the end.
const DENSE_STARTS: usize = (1 << 16) + 1;

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
    /// The rows of all users; empty where there is none.
    #[inline]
    pub fn rows(&self) -> Range<u32> {
        match self.starts.as_slice() {
            [first, .., end] => *first..*end,
            _ => 0..0,
        }
    }

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

/// The users of a run, or of a whole segment, and their rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct UserTable<'a> {
    pub(super) sealed: &'a Sealed,
    pub(super) users: BitmapView<'a>,
    /// One for each container of the users, and one behind the last.
    pub(super) containers: &'a [ContainerStart],
    pub(super) counts: Stored<'a>,
    /// Where the index that says so lies, for errors.
    pub(super) index_at: u64,
}

/// A container of users.
pub(super) struct Place<'a> {
    pub(super) container: ContainerView<'a>,
    pub(super) users: Range<u32>,
    pub(super) rows: Range<u32>,
}

impl<'a> UserTable<'a> {
    /// Where container `key` lies.
    pub(super) fn container(&self, key: u16) -> Result<Option<Place<'a>>, Corruption> {
        let Ok(at) = self.users.position(key) else {
            return Ok(None);
        };
        let starts = (self.containers.get(at), self.containers.get(at + 1));
        let (Some(start), Some(end)) = starts else {
            return Err(self.wrong());
        };
        let container = self.users.container_at(at, u64::from(start.user));
        Ok(container.map(|container| Place {
            container,
            users: start.user..end.user,
            rows: start.row..end.row,
        }))
    }

    /// See [`super::NameRun::container_rows`].
    pub(super) fn container_rows(&self, key: u16) -> Result<Range<u32>, Corruption> {
        let place = self.container(key)?;
        Ok(place.map_or(0..0, |place| place.rows))
    }

    /// See [`super::NameRun::first_row_from`].
    pub(super) fn first_row_from(&self, key: u16, low: u16) -> Result<u32, Corruption> {
        let Some(place) = self.container(key)? else {
            return Ok(0);
        };
        let user = place.users.start + place.container.rank(low);
        if user >= place.users.end {
            return Ok(place.rows.end);
        }
        let row = counts::read_one(self.sealed, self.counts, user)?.start;
        match (place.rows.start..=place.rows.end).contains(&row) {
            true => Ok(row),
            false => Err(self.wrong()),
        }
    }

    /// See [`super::NameRun::row_starts`].
    pub(super) fn row_starts(&self, key: u16, starts: &mut [u32]) -> Result<(), Corruption> {
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
            Err(self.wrong())
        }
    }

    /// See [`super::NameRun::user_starts`].
    pub(super) fn user_starts(
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
            return Err(self.wrong());
        }
        self.first_rows(&place, users, &mut found.starts)
    }

    /// See [`super::NameRun::rows_of_users`].
    pub(super) fn rows_of_users(
        &self,
        key: u16,
        lows: &[u16],
        mut visit: impl FnMut(u16, Range<u32>),
    ) -> Result<(), Corruption> {
        let Some(place) = self.container(key)? else {
            return Ok(());
        };
        let mut cursor = GroupCursor::open(self.sealed, self.counts, place.users.clone())?;
        let mut result = Ok(());
        place.container.for_each_of(lows, |low, rank| {
            if result.is_err() {
                return;
            }
            match cursor.rows(place.users.start + rank) {
                Ok(rows) if place.rows.start <= rows.start && rows.end <= place.rows.end => {
                    visit(low, rows);
                }
                Ok(_) => result = Err(self.wrong()),
                Err(error) => result = Err(error),
            }
        });
        result
    }

    /// See [`super::NameRun::user_rows`].
    pub(super) fn user_rows(&self, ordinal: u32) -> Result<Range<u32>, Corruption> {
        let (key, low) = split(ordinal);
        let Some(place) = self.container(key)? else {
            return Ok(0..0);
        };
        if !place.container.contains(low) {
            return Ok(0..0);
        }
        let user = place.users.start + place.container.rank(low);
        if user >= place.users.end {
            return Err(self.wrong());
        }
        counts::read_one(self.sealed, self.counts, user)
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
        let rows = counts::read(self.sealed, self.counts, users, firsts)?;
        let inside = container.start <= rows.start && rows.end <= container.end;
        if !inside || (all && rows != *container) {
            return Err(self.wrong());
        }
        let mut row = rows.start;
        for first in firsts.iter_mut() {
            row += std::mem::replace(first, row);
        }
        firsts.push(row);
        Ok(())
    }

    pub(super) fn wrong(&self) -> Corruption {
        wrong_users(self.sealed, self.index_at)
    }
}

/// An index at `at` and what it names contradict each other.
pub(super) fn wrong_users(sealed: &Sealed, at: u64) -> Corruption {
    Corruption::new(sealed.file(), at, "users and their rows differ")
}
