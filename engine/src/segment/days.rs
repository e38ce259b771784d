//! One user bitmap for each UTC day on which a run has rows.

use hashbrown::HashMap;

use super::area::{Area, AreaWriter};
use super::layout::DayEntry;
use super::writer::containers_of;
use crate::bitmap::BitmapBuilder;
use crate::format::ImageWriter;
use crate::time::{MICROS_PER_DAY, day_of};

/// Collects the days of a run while its rows come by, sorted by user and time.
#[derive(Debug)]
pub(super) struct DayBuilder {
    index: HashMap<i64, usize>,
    days: Vec<Day>,
    /// The day that the last row lay in, and its place in `days`.
    current: (i64, usize),
}

#[derive(Debug)]
struct Day {
    day: i64,
    users: BitmapBuilder,
    /// Users of the container that is going on.
    lows: Vec<u16>,
}

impl DayBuilder {
    pub(super) fn new() -> Self {
        Self {
            index: HashMap::new(),
            days: Vec::new(),
            current: (i64::MIN, 0),
        }
    }

    /// The days of all rows of a run.
    pub(super) fn of(users: &[u32], counts: &[u32], times: &[i64]) -> Self {
        let mut days = Self::new();
        let mut row = 0;
        for (key, range) in containers_of(users) {
            for index in range {
                let end = row + counts[index] as usize;
                days.user(users[index] as u16, &times[row..end]);
                row = end;
            }
            days.end_container(key);
        }
        days
    }

    /// Adds the rows of one user of the current container, in order of time.
    pub(super) fn user(&mut self, low: u16, times: &[i64]) {
        let mut rest = times;
        while let Some(&time) = rest.first() {
            let day = day_of(time);
            let place = self.place(day);
            self.days[place].lows.push(low);
            // The last microsecond of the day, which the last day of all has none of.
            let end = day.saturating_add(1).saturating_mul(MICROS_PER_DAY);
            let more = rest[1..].iter().take_while(|&&next| next < end).count();
            rest = &rest[1 + more..];
        }
    }

    fn place(&mut self, day: i64) -> usize {
        if self.current.0 != day {
            let next = self.days.len();
            let place = *self.index.entry(day).or_insert(next);
            if place == next {
                self.days.push(Day {
                    day,
                    users: BitmapBuilder::new(),
                    lows: Vec::new(),
                });
            }
            self.current = (day, place);
        }
        self.current.1
    }

    /// Ends the container `key`.
    pub(super) fn end_container(&mut self, key: u16) {
        for day in &mut self.days {
            day.users.push(key, &day.lows);
            day.lows.clear();
        }
    }

    /// The days, ascending, with their users.
    pub(super) fn finish(mut self) -> impl Iterator<Item = (i64, BitmapBuilder)> {
        self.days.sort_unstable_by_key(|day| day.day);
        self.days.into_iter().map(|day| (day.day, day.users))
    }

    /// Appends the bitmaps, less those that equal the bitmap of the run's `users` users.
    pub(super) fn write(self, image: &mut ImageWriter, users: u32) -> (Vec<DayEntry>, Area) {
        let mut area = AreaWriter::new(image);
        let mut entries = Vec::with_capacity(self.days.len());
        for (day, bitmap) in self.finish() {
            let day_users = bitmap.cardinality() as u32;
            let offset = area.len();
            if day_users < users {
                area.extend(&bitmap.finish());
            }
            entries.push(DayEntry {
                day: day as i32,
                users: day_users,
                offset,
                len: (area.len() - offset) as u32,
            });
        }
        (entries, area.finish())
    }
}
