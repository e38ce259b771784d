//! Reading a whole segment and checking everything that it promises.
//!
//! Checksums tell whether bytes are those that were written; this tells too whether what was
//! written makes sense, by counting again from the rows whatever is derived from them.

use std::collections::BTreeMap;
use std::ops::Range;

use super::days::DayBuilder;
use super::layout::Footer;
use super::merge::{recount_ties, rows_are_ranked};
use super::order::RowOrder;
use super::run::NameRun;
use super::segment::Segment;
use super::starts::UserStarts;
use super::values::{self, UserRuns};
use crate::bitmap::{BitmapBuilder, BitmapView, CONTAINER_BITS, Words};
use crate::error::Corruption;
use crate::format::matches;
use crate::limits;

/// Rows of a property that are decoded at once.
const DECODE_ROWS: u32 = 1 << 16;
/// About how many rows are put in order at once.
const SLICE_ROWS: usize = if cfg!(test) { 64 } else { 1 << 20 };

/// What a full check of a segment went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Bytes of the file.
    pub bytes: u64,
    /// Rows of all runs.
    pub rows: u64,
    /// Different users.
    pub users: u64,
    /// Runs, the overflow run included.
    pub runs: u32,
    /// Properties of all runs.
    pub properties: u64,
}

impl Segment {
    /// Reads every byte and checks every invariant: checksums of blocks and of what lies between
    /// them, order of rows, counts, times, ranks, bitmaps of users, days and values against the
    /// rows, and that all properties decode.
    ///
    /// Costs about as much as merging the segment; memory for one container, and for one column
    /// of each property that has bitmaps.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verify(&self) -> Result<VerifyReport, Corruption> {
        let bytes = self.sealed.bytes();
        let body = bytes.get(..Footer::offset(bytes)).unwrap_or_default();
        if !matches(body, self.footer.body) {
            return Err(Corruption::new(
                self.file(),
                0,
                "a segment's body does not match",
            ));
        }
        let mut report = VerifyReport {
            bytes: bytes.len() as u64,
            rows: u64::from(self.meta().rows),
            ..VerifyReport::default()
        };
        let mut users: BTreeMap<u16, Words> = BTreeMap::new();
        for run in self.all_runs() {
            let check = RunCheck { run };
            check.rows(&mut users)?;
            report.properties += check.properties()?;
            report.runs += 1;
        }
        let mut all = BitmapBuilder::new();
        for (key, words) in &users {
            all.push_words(*key, words);
        }
        report.users = all.cardinality();
        self.check_users(all)?;
        self.check_names()?;
        self.check_ties()?;
        self.check_order()?;
        Ok(report)
    }

    fn damaged(&self, what: &'static str) -> Corruption {
        Corruption::new(
            self.file(),
            Footer::offset(self.sealed.bytes()) as u64,
            what,
        )
    }

    fn check_users(&self, expected: BitmapBuilder) -> Result<(), Corruption> {
        let meta = self.meta();
        let found = self.any_users()?;
        let mut keys = found.keys().map(|(key, _)| key);
        let ends = (keys.next(), found.keys().last().map(|(key, _)| key));
        if ends != (Some(meta.first_container), Some(meta.last_container)) {
            return Err(self.damaged("a segment's containers are not those of its users"));
        }
        if same_bitmap(found, expected) {
            Ok(())
        } else {
            Err(self.damaged("a segment's users are not those of its runs"))
        }
    }

    /// The names in the overflow run are names, and have no run of their own.
    fn check_names(&self) -> Result<(), Corruption> {
        let Some(run) = self.overflow() else {
            return Ok(());
        };
        for rows in ranges(run.rows()) {
            let names = run.overflow_names(rows)?;
            for name in names.values.iter() {
                if name.len() > limits::MAX_NAME_BYTES || self.run(name).is_some() {
                    return Err(self.damaged("an overflow run has a name that it must not have"));
                }
            }
        }
        Ok(())
    }

    /// The order of all rows is that of their times, and ranks where these are equal.
    fn check_order(&self) -> Result<(), Corruption> {
        let order = self.order()?;
        for (key, _) in self.any_users()?.keys() {
            let slices = order.container_rows(key)?.len() / SLICE_ROWS + 1;
            let width = CONTAINER_BITS.div_ceil(slices).next_multiple_of(64);
            for first in (0..CONTAINER_BITS as u32).step_by(width) {
                let lows = first..CONTAINER_BITS.min(first as usize + width) as u32;
                self.check_order_of(order, key, lows)?;
            }
        }
        Ok(())
    }

    /// The same, for some users of a container.
    fn check_order_of(
        &self,
        order: RowOrder<'_>,
        key: u16,
        lows: Range<u32>,
    ) -> Result<(), Corruption> {
        let mut found = UserStarts::default();
        let mut rows: Vec<(u16, i64, u32, u16)> = Vec::new();
        for (run, number) in self.all_runs().zip(0..) {
            run.user_starts(key, lows.clone(), &mut found)?;
            let of_run = found.rows();
            let (times, ties) = (run.times(of_run.clone())?, run.ties(of_run.clone())?);
            found.for_each(|low, own| {
                let time = |row: u32| times.get((row - of_run.start) as usize);
                rows.extend(own.map(|row| (low, time(row), ties.rank(row), number)));
            });
        }
        rows.sort_unstable();
        order.user_starts(key, lows, &mut found)?;
        let (all, mut runs) = (found.rows(), Vec::new());
        order.runs(all.clone(), &mut runs)?;
        let mut stored = Vec::with_capacity(runs.len());
        found.for_each(|low, own| {
            let own = &runs[(own.start - all.start) as usize..(own.end - all.start) as usize];
            stored.extend(own.iter().map(|&run| (low, run)));
        });
        match rows.iter().map(|row| (row.0, row.3)).eq(stored) {
            true => Ok(()),
            false => Err(order.damaged("the order of rows is not theirs")),
        }
    }

    fn check_ties(&self) -> Result<(), Corruption> {
        let mut any = false;
        for run in self.all_runs() {
            let ties = run.ties(0..run.rows())?;
            any |= !ties.is_empty();
            if !rows_are_ranked(ties.pairs(), run.rows()) {
                return Err(self.damaged("tie ranks are out of order"));
            }
        }
        let expected = recount_ties(self)?;
        for (run, expected) in self.all_runs().zip(expected) {
            if run.ties(0..run.rows())?.pairs() != expected {
                return Err(self.damaged(match any {
                    true => "tie ranks are not those of the rows",
                    false => "rows are tied and have no ranks",
                }));
            }
        }
        Ok(())
    }
}

/// The checks of one run.
struct RunCheck<'a> {
    run: NameRun<'a>,
}

impl RunCheck<'_> {
    fn damaged(&self, what: &'static str) -> Corruption {
        let at = self.run.segment.entry(self.run.number).index.offset;
        Corruption::new(self.run.segment.file(), at, what)
    }

    /// Users, counts and times, and the days that follow from them. The users are added to
    /// `users`.
    fn rows(&self, users: &mut BTreeMap<u16, Words>) -> Result<(), Corruption> {
        let run = self.run;
        let bitmap = run.users()?;
        bitmap.check().map_err(|error| self.damaged(error.what))?;
        let mut found = UserStarts::default();
        let mut times = Vec::new();
        let mut days = DayBuilder::new();
        let (mut min, mut max) = (i64::MAX, i64::MIN);
        for (key, _) in bitmap.keys() {
            run.user_starts(key, 0..CONTAINER_BITS as u32, &mut found)?;
            users.entry(key).or_default().or(&found.users);
            let rows = run.container_rows(key)?;
            times.clear();
            run.times(rows.clone())?.append_to(&mut times);
            for (low, pair) in found.users.iter().zip(found.starts.windows(2)) {
                let place = |row: u32| (row - rows.start) as usize;
                let times = &times[place(pair[0])..place(pair[1])];
                let (Some(&first), Some(&last)) = (times.first(), times.last()) else {
                    return Err(self.damaged("a user of a run has no rows"));
                };
                if !times.is_sorted() {
                    return Err(self.damaged("a user's rows are not in order of time"));
                }
                (min, max) = (min.min(first), max.max(last));
                days.user(low, times);
            }
            days.end_container(key);
        }
        if (min, max) != (run.min_time(), run.max_time()) {
            return Err(self.damaged("a run's times are not between its first and last"));
        }
        self.days(days)
    }

    fn days(&self, days: DayBuilder) -> Result<(), Corruption> {
        let mut stored = self.run.days()?;
        if self.run.segment.has_days() {
            for (day, expected) in days.finish() {
                let users = self.run.day_users(day)?;
                let listed = stored.next().is_some_and(|(found, _)| found == day);
                if !listed || !users.is_some_and(|users| same_bitmap(users, expected)) {
                    return Err(self.damaged("the users of a day are not those of its rows"));
                }
            }
        }
        match stored.next() {
            None => Ok(()),
            Some(_) => Err(self.damaged("a day without rows has users")),
        }
    }

    /// Decodes all properties, and checks the bitmaps of those that have some; returns how many
    /// there are.
    fn properties(&self) -> Result<u64, Corruption> {
        let view = self.run.properties()?;
        let names: Vec<&str> = view.names().collect();
        if !names.is_sorted_by(|a, b| a < b) {
            return Err(self.damaged("a run's properties are out of order"));
        }
        let with_bitmaps = self.run.value_properties()?;
        if !with_bitmaps.iter().all(|name| names.contains(name)) {
            return Err(self.damaged("a property with bitmaps has no values"));
        }
        for name in names {
            let Some(column) = view.get(name)? else {
                return Err(self.damaged("a property cannot be found by its name"));
            };
            for rows in ranges(self.run.rows()) {
                column.decode(rows)?;
            }
        }
        for name in with_bitmaps {
            self.values(name)?;
        }
        Ok(view.len() as u64)
    }

    fn values(&self, name: &str) -> Result<(), Corruption> {
        let wrong = || self.damaged("the users of a value are not those of its rows");
        let view = self.run.properties()?.get(name)?.ok_or_else(wrong)?;
        let column = view.decode(0..self.run.rows())?;
        let (users, counts) = self.user_runs()?;
        let users = UserRuns {
            users: &users,
            counts: &counts,
        };
        let expected = values::bitmaps(&column, users, usize::MAX).ok_or_else(wrong)?;
        let found = self.run.value_bitmaps(name)?.unwrap_or_default();
        let same = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, (text, users))| {
                found.value == text && same_bitmap(found.users, users)
            });
        if same { Ok(()) } else { Err(wrong()) }
    }

    fn user_runs(&self) -> Result<(Vec<u32>, Vec<u32>), Corruption> {
        let bitmap = self.run.users()?;
        let mut found = UserStarts::default();
        let mut counts = Vec::new();
        for (key, _) in bitmap.keys() {
            self.run
                .user_starts(key, 0..CONTAINER_BITS as u32, &mut found)?;
            counts.extend(found.starts.windows(2).map(|pair| pair[1] - pair[0]));
        }
        Ok((bitmap.iter().collect(), counts))
    }
}

/// The rows `0..rows` in pieces.
fn ranges(rows: u32) -> impl Iterator<Item = Range<u32>> {
    let starts = (0..rows).step_by(DECODE_ROWS as usize);
    starts.map(move |start| start..rows.min(start.saturating_add(DECODE_ROWS)))
}

/// True where two bitmaps have the same users, and the first is sound.
fn same_bitmap(found: BitmapView<'_>, expected: BitmapBuilder) -> bool {
    let bytes = expected.finish();
    let same = |expected: BitmapView<'_>| {
        found.cardinality() == expected.cardinality() && found.iter().eq(expected.iter())
    };
    found.check().is_ok() && BitmapView::open(&bytes).is_ok_and(same)
}
